//! `enforcer run`: the daemon.

use std::fs::File;
use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::Context;
use nix::sched::{CloneFlags, setns};

use super::in_force::Place;
use crate::agent::{self, Options};
use crate::flow::sink::Target;
use crate::plan::Unknown;
use crate::workload::runtime::RuntimeKind;

/// Enforce policies on this node until told to stop.
///
/// Finds every container by its veth, attaches to the host side and lets through what the policies declare. Names come
/// from the inventory, a container runtime, or both. SIGTERM and SIGINT end the daemon and leave enforcement on; a new
/// one takes over without a gap. A veth that appears while no daemon runs is unprotected until one is back.
///
/// Exit codes: 0 told to stop, 1 failed while running, 2 policies or inventory refused (nothing was attached) or wrong
/// usage, 3 a source of workloads gave no list within 10 s, 4 the kernel side cannot be opened, 5 another daemon has the
/// pin directory.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Directory of policies; it is watched.
    #[arg(long, value_name = "DIR")]
    pub policies: PathBuf,
    /// File that says who the workloads are; it is watched.
    #[arg(long, value_name = "FILE")]
    pub inventory: Option<PathBuf>,
    /// Container runtime to ask who the workloads are.
    #[arg(long, value_name = "RUNTIME", default_value = "none")]
    pub runtime: Runtime,
    /// Socket of the runtime's API, where it is not the usual one.
    #[arg(long, value_name = "PATH")]
    pub runtime_socket: Option<PathBuf>,
    /// What happens to workloads that nobody names: strict closes them, open lets them through.
    /// Must be given where there is neither an inventory nor a runtime. [default: strict]
    #[arg(long, value_name = "MODE", hide_default_value = true)]
    pub unknown: Option<Unknown>,
    /// Append denied flows to this file instead of stdout.
    #[arg(long, value_name = "FILE")]
    pub flow_log: Option<PathBuf>,
    /// A device towards the outside, besides those of the default routes. May be given several times.
    #[arg(long = "uplink", value_name = "NAME")]
    pub uplinks: Vec<String>,
    /// Act on this network namespace instead of one's own.
    #[arg(long, value_name = "PATH")]
    pub netns: Option<PathBuf>,
    /// Where everything is pinned.
    #[command(flatten)]
    pub place: Place,
}

/// The runtimes.
#[derive(Clone, Copy, Debug, Eq, PartialEq, clap::ValueEnum)]
pub enum Runtime {
    /// The API socket of podman.
    Podman,
    /// The API socket of Docker.
    Docker,
    /// No runtime.
    None,
}

/// Runs the command.
pub fn run(args: Args) -> ExitCode {
    match start(args) {
        Ok(code) => code,
        Err(error) => {
            super::complain(&error);
            ExitCode::from(error.downcast_ref::<agent::AgentError>().map_or(super::USAGE, agent::AgentError::exit_code))
        }
    }
}

fn start(args: Args) -> anyhow::Result<ExitCode> {
    let Args { policies, inventory, runtime, runtime_socket, unknown, flow_log, uplinks, netns, place } = args;
    let runtime = match runtime {
        Runtime::Podman => Some(RuntimeKind::Podman(runtime_socket)),
        Runtime::Docker => Some(RuntimeKind::Docker(runtime_socket)),
        Runtime::None => None,
    };
    if inventory.is_none() && runtime.is_none() && unknown.is_none() {
        anyhow::bail!(
            "neither --inventory nor --runtime: every workload is unknown; say by --unknown strict or --unknown open what \
             happens to them"
        );
    }
    let settings = place.settings()?;
    if let Some(path) = &netns {
        // Before any thread exists: a thread keeps the namespace that it was started in.
        let file = File::open(path).with_context(|| format!("cannot open the namespace {}", path.display()))?;
        setns(file, CloneFlags::CLONE_NEWNET)
            .with_context(|| format!("cannot enter {}; this needs root (CAP_SYS_ADMIN)", path.display()))?;
    }
    let options = Options {
        policies,
        inventory,
        runtime,
        unknown: unknown.unwrap_or(Unknown::Strict),
        flow_log: flow_log.map_or(Target::Stdout, Target::File),
        uplinks,
        pin_dir: place.pin_dir,
        settings,
    };
    let kernel = agent::open_kernel(&options)?;
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
    runtime.block_on(agent::run(options, kernel))?;
    Ok(ExitCode::SUCCESS)
}
