//! The daemon: the only module that knows all others.
//!
//! Input: [`Options`]. It joins policies and workloads, keeps the kernel at what they say, and writes the flow log, until
//! it is told to stop. Stopping leaves enforcement on.

mod error;
pub mod plan;
mod policies;
mod reconcile;
pub mod report;
pub mod state;

use std::path::PathBuf;
use std::time::Duration;

use jiff::Timestamp;
use tokio::signal::unix::{SignalKind, signal};
use tokio::time::{MissedTickBehavior, interval};

pub use self::error::AgentError;
use self::plan::Unknown;
use self::policies::Policies;
use self::reconcile::Reconciler;
use crate::config::Settings;
use crate::flow::sink::{FlowLog, Target};
use crate::kernel::{Kernel, KernelConfig};
use crate::policy::watch;
use crate::workload::runtime::RuntimeKind;
use crate::workload::{self, Discovery};

/// How often denials are read. The kernel's ring and slices hold what comes in between.
const DENIALS: Duration = Duration::from_millis(100);
/// How often idle flows are freed.
const SWEEP: Duration = Duration::from_secs(1);
/// How often programs, links and endpoints are compared with what they should be.
const VERIFY: Duration = Duration::from_secs(5);

/// What `enforcer run` is told.
#[derive(Clone, Debug)]
pub struct Options {
    /// Directory of policies.
    pub policies: PathBuf,
    /// Inventory file.
    pub inventory: Option<PathBuf>,
    /// Container runtime.
    pub runtime: Option<RuntimeKind>,
    /// What happens to workloads that no source names.
    pub unknown: Unknown,
    /// Where the flow log goes.
    pub flow_log: Target,
    /// Devices that are uplinks by the operator's word.
    pub uplinks: Vec<String>,
    /// Where everything is pinned.
    pub pin_dir: PathBuf,
    /// Settings.
    pub settings: Settings,
}

/// Runs until SIGTERM or SIGINT.
pub async fn run(options: Options) -> Result<(), AgentError> {
    let node =
        nix::unistd::gethostname().map_or_else(|_| "node".to_owned(), |name| name.to_string_lossy().into_owned());
    let mut terminate = signal(SignalKind::terminate()).map_err(AgentError::Signals)?;
    let mut interrupt = signal(SignalKind::interrupt()).map_err(AgentError::Signals)?;

    let kernel = Kernel::open(&KernelConfig {
        pin_dir: options.pin_dir.clone(),
        flows: options.settings.flows,
        flow_quota: options.settings.flow_quota,
        object: None,
    })?;
    let states = state::StateDir::create(options.settings.state_of(&options.pin_dir)).map_err(AgentError::State)?;
    let earlier = states.load(kernel.revision().revision);
    let mut policies = Policies::load(&options.policies, earlier.as_ref())?;
    let log = FlowLog::open(options.flow_log.clone(), &node)?;
    let config = workload::Config {
        inventory: options.inventory.clone(),
        runtime: options.runtime.clone(),
        uplinks: options.uplinks.clone(),
        owners: adopted_owners(&kernel),
        endpoints: kernel.adopted().iter().map(|endpoint| endpoint.ifindex).collect(),
        ..workload::Config::default()
    };
    let mut reconciler = Reconciler::new(&options, &node, kernel, states, earlier, log)?;
    let mut policy_files = watch::watch(vec![options.policies.clone()])?;
    let mut inventory_file = watch::watch(options.inventory.iter().cloned().collect())?;
    let mut discovery = workload::start(config).await?;

    let mut denials = interval(DENIALS);
    let mut sweep = interval(SWEEP);
    let mut verify = interval(VERIFY);
    for ticks in [&mut denials, &mut sweep, &mut verify] {
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    }
    loop {
        tokio::select! {
            snapshot = discovery.changed() => reconciler.workloads(snapshot?, &policies),
            () = policy_files.changed() => {
                if policies.reload() {
                    reconciler.policies(&policies);
                }
            }
            () = inventory_file.changed() => reload_inventory(&options, &discovery, &mut reconciler).await,
            _ = denials.tick() => reconciler.denials(Timestamp::now()),
            _ = sweep.tick() => {
                reconciler.sweep();
                reconciler.report(&policies, &discovery);
            }
            _ = verify.tick() => reconciler.verify(),
            _ = terminate.recv() => break,
            _ = interrupt.recv() => break,
        }
    }
    reconciler.finish(Timestamp::now());
    tracing::info!("stopped; enforcement stays on, `enforcer purge` removes it");
    Ok(())
}

fn adopted_owners(kernel: &Kernel) -> std::collections::BTreeMap<std::net::IpAddr, u32> {
    let endpoints = kernel.adopted().iter();
    endpoints
        .flat_map(|endpoint| endpoint.addresses.iter().map(|address| ((*address).into(), endpoint.ifindex)))
        .collect()
}

async fn reload_inventory(options: &Options, discovery: &Discovery, reconciler: &mut Reconciler) {
    let Some(path) = &options.inventory else { return };
    let error = discovery.reload_inventory(path).await.err();
    if let Some(error) = &error {
        tracing::error!(%error, "the inventory is refused; the last good one stays");
    }
    reconciler.inventory_error(error.map(|error| error.to_string()));
}
