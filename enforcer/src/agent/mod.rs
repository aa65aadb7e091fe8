//! The daemon: the only module that knows all others.
//!
//! Input: [`Options`]. Until it is told to stop, the daemon joins policies and workloads, puts the result in force in the
//! kernel, and writes the flow log. Enforcement stays on after it stops.

mod denials;
mod devices;
mod error;
mod memory;
mod meter;
mod no_ops;
mod opening;
mod pace;
mod policies;
mod publisher;
mod reconcile;
pub mod report;
mod reporter;
mod same;
pub mod state;

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use enforcer_common::id::{Ifindex, IncarnationId, Revision};
use tokio::signal::unix::{SignalKind, signal};
use tokio::time::{Instant, MissedTickBehavior, interval_at, sleep_until};

pub use self::error::AgentError;
use self::policies::Policies;
use self::reconcile::Reconciler;
use crate::config::Settings;
use crate::flow::sink::{FlowLog, Rotation, Target};
use crate::kernel::{self, Kernel, KernelConfig};
use crate::kubernetes::{self, Cluster};
use crate::plan::Unknown;
use crate::policy;
use crate::serve::{self, Board, Server};
use crate::workload::model::{Past, Snapshot};
use crate::workload::runtime::RuntimeKind;
use crate::workload::{self, source::Earlier};

/// How often the daemon looks whether the report has changed, and whether a sweep is due.
const TICK: Duration = pace::TICK;
/// Between two runs of the sweep while there is more to free.
const BREATH: Duration = Duration::from_millis(100);
/// How often programs, links and endpoints are compared with what they should be when nothing happens.
const VERIFY: Duration = Duration::from_secs(5);
/// How long after the first of several netlink events the kernel is compared with the plan. By then discovery knows
/// what has changed. A container that changes its addresses all the time causes no more than one comparison in this
/// time.
const SETTLE: Duration = Duration::from_secs(1);

/// The options of `enforcer run`.
#[derive(Clone, Debug)]
pub struct Options {
    /// Directory of policies.
    pub policies: Option<PathBuf>,
    /// The Kubernetes API, as a further source.
    pub kubernetes: Option<kubernetes::Config>,
    /// Inventory file.
    pub inventory: Option<PathBuf>,
    /// Container runtime.
    pub runtime: Option<RuntimeKind>,
    /// What happens to workloads that no source names.
    pub unknown: Unknown,
    /// Where the flow log goes.
    pub flow_log: Target,
    /// Devices that the operator names as uplinks.
    pub uplinks: Vec<String>,
    /// Where HTTP requests are answered; `None`: nowhere.
    pub http_listen: Option<SocketAddr>,
    /// Where everything is pinned.
    pub pin_dir: PathBuf,
    /// Settings.
    pub settings: Settings,
}

/// Opens the kernel side, and then gives up the right to load programs. Call it while the process has only one
/// thread.
pub fn open_kernel(options: &Options) -> Result<Kernel, AgentError> {
    memory::share_heaps();
    let kernel = Kernel::open(&KernelConfig {
        pin_dir: options.pin_dir.clone(),
        flows: options.settings.flows,
        flow_quota: options.settings.flow_quota,
        icmp_error_bytes: options.settings.icmp_error_bytes,
        judge_services: options.settings.judge_services,
        object: None,
    })?;
    kernel::give_up_loading()?;
    Ok(kernel)
}

/// Runs until SIGTERM or SIGINT.
pub async fn run(options: Options, kernel: Kernel) -> Result<(), AgentError> {
    let node = options.kubernetes.as_ref().map_or_else(host_name, |kubernetes| kubernetes.node.clone());
    let mut terminate = signal(SignalKind::terminate()).map_err(AgentError::Signals)?;
    let mut interrupt = signal(SignalKind::interrupt()).map_err(AgentError::Signals)?;

    let board = Arc::new(Board::default());
    let _server = answer(&options, &kernel, &board);
    let states = state::StateDir::create(options.settings.state_of(&options.pin_dir)).map_err(AgentError::State)?;
    let earlier = states.load(kernel.revision().revision).unwrap_or_else(|error| {
        tracing::warn!(%error, "cannot read the policies and names that an earlier daemon kept; starting without them");
        None
    });
    let enforced = kernel.revision().revision != Revision::NONE;
    let cluster = match &options.kubernetes {
        Some(config) => Some(Cluster::open(config).await?),
        None => None,
    };
    let config = workload::Config {
        kubernetes: cluster.clone(),
        runtime: options.runtime.clone(),
        inventory: options.inventory.clone(),
        earlier: match &earlier {
            _ if !enforced => Earlier::Nothing,
            None => Earlier::Unknown,
            Some(earlier) => Earlier::Known(earlier.workloads.clone()),
        },
        uplinks: options.uplinks.clone(),
        owners: adopted_owners(&kernel),
        endpoints: kernel.adopted().iter().map(|endpoint| endpoint.ifindex).collect(),
        pasts: adopted_pasts(&kernel, earlier.as_ref().map(|earlier| &*earlier.snapshot)),
        settling: workload::Settling(Duration::from_secs(options.settings.settling_seconds)),
        judges_backends: kernel.can_judge_backends().then(|| Arc::new(kernel.own_links()) as _),
        uplink_ifindexes: kernel.pinned_uplinks(),
    };
    // Beside the policies: each of the two has many files or entries to read where the node is large.
    let discovery = tokio::task::spawn_blocking(move || workload::start(config));
    let config = policy::source::Config { directory: options.policies.clone(), cluster: cluster.clone() };
    let mut policies = Policies::load(&config, enforced, earlier.as_ref()).await?;
    let log = FlowLog::open(options.flow_log.clone(), rotation(&options.settings), &node)?;
    let mut reconciler = Reconciler::new(&options, &node, kernel, states, earlier, log, Arc::clone(&board))?;
    if let Some(cluster) = &cluster {
        reconciler.publish(cluster);
    }
    let discovery = discovery.await.unwrap_or_else(|error| std::panic::resume_unwind(error.into_panic()));
    let mut discovery = discovery?;
    let mut unnamed = discovery.unnamed_veths();

    // Not at once: until then the report of an earlier run says more.
    let mut sweep = interval_at(Instant::now() + TICK, TICK);
    sweep.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let heard = discovery.heard();
    let mut verify = Instant::now();
    let mut spare = memory::Spare::new(std::time::Instant::now());
    loop {
        board.beat();
        let opening = reconciler.opening_due(&policies);
        tokio::select! {
            // In this order, and the workloads last: they may change all the time, what is before them cannot.
            biased;
            _ = terminate.recv() => break,
            _ = interrupt.recv() => break,
            source = policies.changed() => {
                if policies.reload(source) {
                    reconciler.reconcile(&mut policies)?;
                }
            }
            () = until(opening) => reconciler.reconcile(&mut policies)?,
            () = sleep_until(verify) => {
                reconciler.verify(&mut policies)?;
                verify = Instant::now() + VERIFY;
            }
            () = heard.notified() => verify = verify.min(Instant::now() + SETTLE),
            _ = sweep.tick() => {
                if !reconciler.sweep() {
                    // A run walks the whole table: what else there is to do comes in between.
                    sweep.reset_after(BREATH);
                }
                reconciler.report(&policies, &discovery);
                spare.give_back(reconciler.revision(), std::time::Instant::now());
            }
            veths = unnamed.changed() => reconciler.close_new(&veths, discovery.newcomers()),
            published = discovery.changed() => {
                let first = reconciler.awaits_sources();
                let published = published?;
                reconciler.workloads(&published, &mut policies, discovery.newcomers())?;
                if first {
                    reconciler.report(&policies, &discovery);
                }
            }
        }
    }
    reconciler.finish();
    tracing::info!("the daemon has stopped; enforcement stays on until `enforcer purge` removes it");
    Ok(())
}

impl workload::Chains for kernel::OwnLinks {
    fn has_others(&self, device: Ifindex) -> bool {
        Self::has_others(self, device)
    }
}

/// Starts the HTTP server, if it is asked for. Enforcement does without it, so a server that cannot start stops nothing.
fn answer(options: &Options, kernel: &Kernel, board: &Arc<Board>) -> Option<Server> {
    let listen = options.http_listen?;
    let start = || -> anyhow::Result<Server> {
        let numbers = meter::Reader(kernel.counters()?);
        Ok(serve::start(listen, Arc::clone(board), Arc::new(numbers))?)
    };
    start()
        .inspect_err(|error| tracing::error!(%error, "cannot start the HTTP server; enforcement goes on without"))
        .ok()
}

/// The name of this host.
pub fn host_name() -> String {
    nix::unistd::gethostname().map_or_else(|_| "node".to_owned(), |name| name.to_string_lossy().into_owned())
}

/// Waits for a moment that may never come.
async fn until(moment: Option<std::time::Instant>) {
    match moment {
        Some(moment) => sleep_until(moment.into()).await,
        None => std::future::pending().await,
    }
}

/// When the file of the flow log is put aside; `None`: never.
fn rotation(settings: &Settings) -> Option<Rotation> {
    let (bytes, kept) = (settings.flow_log_mib << 20, settings.flow_log_kept_files);
    (bytes > 0).then_some(Rotation { bytes, kept })
}

/// What an earlier daemon remembered of the veths that still have its programs: only those are certain to be the same ones.
fn adopted_pasts(kernel: &Kernel, earlier: Option<&Snapshot>) -> BTreeMap<Ifindex, Past> {
    let local = earlier.into_iter().flat_map(|snapshot| snapshot.local.values());
    let mut pasts: BTreeMap<Ifindex, Past> =
        local.flat_map(|workload| workload.endpoints.keys().map(|veth| (*veth, workload.past.clone()))).collect();
    let adopted: BTreeSet<Ifindex> = kernel.adopted().iter().map(|endpoint| endpoint.ifindex).collect();
    pasts.retain(|veth, _| adopted.contains(veth));
    pasts
}

/// The workload that owned each address, named by one of its veths. An address of two workloads was disputed, and
/// stays so.
fn adopted_owners(kernel: &Kernel) -> BTreeMap<IpAddr, Ifindex> {
    let mut holders = BTreeMap::<IpAddr, BTreeMap<IncarnationId, Ifindex>>::new();
    for endpoint in kernel.adopted() {
        for address in &endpoint.addresses {
            holders.entry((*address).into()).or_default().insert(endpoint.id, endpoint.ifindex);
        }
    }
    let sole = |holders: BTreeMap<IncarnationId, Ifindex>| {
        (holders.len() == 1).then(|| holders.into_values().next()).flatten()
    };
    holders.into_iter().filter_map(|(address, holders)| Some((address, sole(holders)?))).collect()
}
