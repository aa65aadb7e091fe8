//! `enforcer run`: starts the daemon.
//!
//! Input: the command line and the settings file. Output: the daemon's exit code.

use std::fs::File;
use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::Context;
use nix::sched::{CloneFlags, setns};

use super::in_force::Place;
use crate::agent::{self, Options};
use crate::config::Listen;
use crate::flow::sink::Target;
use crate::kubernetes;
use crate::plan::Unknown;
use crate::workload::runtime::RuntimeKind;

/// Run the daemon, which enforces the policies on this node.
///
/// The daemon finds every container by its veth and attaches two eBPF programs to the veth's host side. The programs let
/// through what the policies declare. The containers' names and labels come from an inventory file, from a container
/// runtime, or from both.
///
/// SIGTERM and SIGINT end the daemon, but enforcement stays on. The next daemon takes over without a gap. While no daemon
/// runs, a new container gets no programs and is unprotected.
#[derive(Debug, clap::Args)]
#[command(after_long_help = "\
Exit codes: 0 The daemon was stopped by SIGTERM or SIGINT.
            1 The daemon failed: for example, it could not open the flow log or watch a directory.
            2 The command line or the settings are wrong, or policies or inventory were refused.
              Nothing was attached.
            3 The inventory or the runtime gave no list of workloads within 10 seconds.
            4 The kernel or the pin directory cannot be used. The message says what is missing.
            5 Another daemon uses the same pin directory.")]
pub struct Args {
    /// Directory with the policy files. The daemon watches it and applies each change. With --kubernetes it may be left
    /// out; the policies of both add up.
    #[arg(long, value_name = "DIR", required_unless_present = "kubernetes")]
    pub policies: Option<PathBuf>,
    /// Follow the pods and policies of the Kubernetes API: objects of the kinds Pod, NetworkPolicy and FlowPolicy, and what they
    /// refer to.
    #[arg(long)]
    pub kubernetes: bool,
    /// The kubeconfig file. Without it, the daemon uses the files of the variable KUBECONFIG, and without that variable
    /// the service account of its pod.
    #[arg(long, value_name = "FILE", requires = "kubernetes")]
    pub kubeconfig: Option<PathBuf>,
    /// Name of this node in the cluster. [default: the variable `NODE_NAME`, or else the host name]
    #[arg(long, value_name = "NAME", requires = "kubernetes")]
    pub node: Option<String>,
    /// Inventory file that names workloads. The daemon watches it and applies each change.
    #[arg(long, value_name = "FILE")]
    pub inventory: Option<PathBuf>,
    /// Container runtime from which the daemon learns the containers' names and labels.
    #[arg(long, value_name = "RUNTIME", default_value = "none")]
    pub runtime: Runtime,
    /// Path of the runtime's API socket.
    /// [default: /run/podman/podman.sock for podman, /var/run/docker.sock for docker]
    #[arg(long, value_name = "PATH")]
    pub runtime_socket: Option<PathBuf>,
    /// What happens to a workload that neither the Kubernetes API nor the inventory nor the runtime names.
    /// This option is required if none of --kubernetes, --inventory and --runtime is given. [default: strict]
    #[arg(long, value_name = "MODE", hide_default_value = true)]
    pub unknown: Option<Unknown>,
    /// File to which the daemon appends denied flows, one JSON object per line. Without it they go to stdout.
    #[arg(long, value_name = "FILE")]
    pub flow_log: Option<PathBuf>,
    /// Network device that leads out of the node. The devices of the default routes are uplinks without this option.
    /// It may be given several times.
    #[arg(long = "uplink", value_name = "NAME")]
    pub uplinks: Vec<String>,
    /// Port, or address and port, where the daemon answers HTTP requests for /livez, /readyz and /metrics. A port alone is
    /// one of 127.0.0.1. Without this option the setting `http_listen` counts. [default: off]
    #[arg(long, value_name = "PLACE")]
    pub http_listen: Option<Listen>,
    /// Network namespace to enforce in, as a path such as /run/netns/NAME. Without it, the daemon enforces in the namespace
    /// in which it was started. Needs `CAP_SYS_ADMIN`.
    #[arg(long, value_name = "PATH")]
    pub netns: Option<PathBuf>,
    /// The daemon's pin directory and settings.
    #[command(flatten)]
    pub place: Place,
}

/// The runtimes.
#[derive(Clone, Copy, Debug, Eq, PartialEq, clap::ValueEnum)]
pub enum Runtime {
    /// Ask podman through its API socket.
    Podman,
    /// Ask Docker through its API socket.
    Docker,
    /// Ask no runtime.
    None,
}

/// Runs the command.
pub fn run(args: Args) -> ExitCode {
    match start(args) {
        Ok(code) => code,
        Err(error) => {
            super::out::complain(&error);
            ExitCode::from(error.downcast_ref::<agent::AgentError>().map_or(super::USAGE, agent::AgentError::exit_code))
        }
    }
}

fn start(args: Args) -> anyhow::Result<ExitCode> {
    let Args {
        policies,
        kubernetes,
        kubeconfig,
        node,
        inventory,
        runtime,
        runtime_socket,
        unknown,
        flow_log,
        uplinks,
        http_listen,
        netns,
        place,
    } = args;
    let kubernetes = kubernetes.then(|| kubernetes::Config { kubeconfig, node: node.unwrap_or_else(node_name) });
    let runtime = match runtime {
        Runtime::Podman => Some(RuntimeKind::Podman(runtime_socket)),
        Runtime::Docker => Some(RuntimeKind::Docker(runtime_socket)),
        Runtime::None => None,
    };
    if inventory.is_none() && runtime.is_none() && kubernetes.is_none() && unknown.is_none() {
        anyhow::bail!(
            "none of --kubernetes, --inventory and --runtime is given, so every workload is unknown; give --unknown strict \
             to close them or --unknown open to let them through"
        );
    }
    let settings = place.settings()?;
    if let Some(path) = &netns {
        // Before any thread exists: a thread keeps the namespace that it was started in.
        let file = File::open(path).with_context(|| format!("cannot open the network namespace {}", path.display()))?;
        setns(file, CloneFlags::CLONE_NEWNET).with_context(|| {
            format!("cannot enter the network namespace {}; this needs root (CAP_SYS_ADMIN)", path.display())
        })?;
    }
    let options = Options {
        policies,
        kubernetes,
        inventory,
        runtime,
        unknown: unknown.unwrap_or(Unknown::Strict),
        flow_log: flow_log.map_or(Target::Stdout, Target::File),
        uplinks,
        http_listen: http_listen.unwrap_or(settings.http_listen).0,
        pin_dir: place.pin_dir,
        settings,
    };
    let kernel = agent::open_kernel(&options)?;
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
    runtime.block_on(agent::run(options, kernel))?;
    Ok(ExitCode::SUCCESS)
}

/// The name that a manifest gives the daemon by the downward API, or that of the host, as the kubelet takes it.
fn node_name() -> String {
    let given = std::env::var("NODE_NAME").ok().filter(|name| !name.is_empty());
    given.unwrap_or_else(|| agent::host_name().to_lowercase())
}
