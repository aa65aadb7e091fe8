//! What the agent talks to: starts the sources, merges what they give, hands out snapshots.
//!
//! Input: `Config`. Output: a `Snapshot` for every change. A new veth is in a snapshot within milliseconds, without a
//! name if its name is still on the way, so that the agent can attach first and name later. Before every source has
//! given its first list there is no snapshot, but the veths that are workloads' whatever the sources say.

#![forbid(unsafe_code)]

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use tokio::sync::{Notify, mpsc, oneshot, watch};
use tokio::time::{Instant, timeout_at};

use super::finding::Finding;
use super::inventory::Inventory;
use super::merger::{Merger, Published};
use super::model::Snapshot;
use super::netlink::{Mode, NetlinkError, Watcher};
use super::runtime::{self, RuntimeKind, RuntimeState};

/// A source that has given nothing after this time has failed.
pub const FIRST_LIST: Duration = Duration::from_secs(10);

/// Where to look.
#[derive(Clone, Debug, Default)]
pub struct Config {
    /// The inventory; empty if there is none.
    pub inventory: Inventory,
    /// There is an inventory and nobody knows what it says: no snapshot before [`Discovery::use_inventory`].
    pub awaits_inventory: bool,
    /// Container runtime.
    pub runtime: Option<RuntimeKind>,
    /// Devices that are uplinks whatever else is known of them.
    pub uplinks: Vec<String>,
    /// Who had which address in an earlier run, by the ifindex of one of its veths.
    pub owners: BTreeMap<IpAddr, u32>,
    /// Veths (by ifindex) that were workloads' in an earlier run.
    pub endpoints: BTreeSet<u32>,
    /// Devices (by ifindex) that were uplinks in an earlier run. A veth among them stays one unless a source names it.
    pub uplink_ifindexes: BTreeSet<u32>,
}

/// Why discovery could not start or go on.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum WorkloadError {
    /// The kernel cannot be asked.
    #[error("discovery by netlink failed")]
    Netlink(#[from] NetlinkError),
    /// A source gave no complete list in time.
    #[error("{name} gave no complete list within {seconds} s{last}", name = .source_name, seconds = .within.as_secs(),
        last = .last_error.as_ref().map(|error| format!(": {error}")).unwrap_or_default())]
    SourceSilent {
        /// Which source.
        source_name: String,
        /// How long it had.
        within: Duration,
        /// Its last error, if it had one.
        last_error: Option<String>,
    },
    /// The discovery task is gone.
    #[error("discovery has stopped")]
    Stopped,
    /// The kernel has no time or the process no room.
    #[error("cannot start discovery")]
    Start {
        /// Cause.
        #[source]
        source: io::Error,
    },
}

/// A command to the running task.
#[derive(Debug)]
pub(super) enum Command {
    /// Use this inventory from now on; answered when it is in a snapshot.
    Inventory(Arc<Inventory>, oneshot::Sender<()>),
}

/// Running discovery. Dropping it stops its tasks.
#[derive(Debug)]
pub struct Discovery {
    published: watch::Receiver<Option<Arc<Published>>>,
    veths: watch::Receiver<BTreeSet<u32>>,
    commands: mpsc::Sender<Command>,
    containers: Option<watch::Receiver<RuntimeState>>,
    /// When the first snapshot must be there; `None` once it is, and while it waits for the inventory.
    deadline: Option<Instant>,
    mode: Mode,
    overruns: Arc<AtomicU64>,
    heard: Arc<Notify>,
    failure: Arc<std::sync::OnceLock<NetlinkError>>,
}

/// Starts all sources, in a tokio runtime. Acts on the network namespace that the calling thread is in; all threads of the
/// runtime must be in the same one.
pub fn start(config: Config) -> Result<Discovery, WorkloadError> {
    let watcher = Watcher::open()?;
    let mode = watcher.mode();
    let requests = watcher.requests();
    let (overruns, heard) = (watcher.overruns(), watcher.heard());
    let failure = Arc::new(std::sync::OnceLock::new());
    let (changes, views) = mpsc::channel(16);
    let report = Arc::clone(&failure);
    tokio::spawn(async move {
        if let Err(error) = watcher.run(changes).await {
            tracing::error!(error = &error as &dyn std::error::Error, "discovery by netlink failed");
            _ = report.set(error);
        }
    });
    let list_again = Arc::new(Notify::new());
    let containers = config.runtime.clone().map(|kind| runtime::watch(kind, Arc::clone(&list_again)));
    let (publish, published) = watch::channel(None);
    let (show, veths) = watch::channel(BTreeSet::new());
    let (commands, orders) = mpsc::channel(4);
    let deadline = (!config.awaits_inventory).then(|| Instant::now() + FIRST_LIST);
    let merger = Merger::new(config, requests, views, containers.clone(), list_again);
    tokio::spawn(merger.run(publish, show, orders));
    Ok(Discovery { published, veths, commands, containers, deadline, mode, overruns, heard, failure })
}

/// The veths (by ifindex) that are workloads' whoever they turn out to be.
#[derive(Debug)]
pub struct UnnamedVeths(watch::Receiver<BTreeSet<u32>>);

impl UnnamedVeths {
    /// All of them, whenever there are others. Once there is a snapshot this never returns. Cancel safe.
    pub async fn changed(&mut self) -> BTreeSet<u32> {
        if self.0.changed().await.is_err() {
            std::future::pending::<()>().await;
        }
        self.0.borrow_and_update().clone()
    }
}

impl Discovery {
    /// The next snapshot that differs from the last one returned; at once for the first. Cancel safe.
    pub async fn changed(&mut self) -> Result<Arc<Snapshot>, WorkloadError> {
        let change = self.published.changed();
        let changed = match self.deadline {
            Some(deadline) => timeout_at(deadline, change).await.map_err(|_| self.silent())?,
            None => change.await,
        };
        if changed.is_err() {
            return Err(WorkloadError::Stopped);
        }
        self.deadline = None;
        self.latest().map(|published| Arc::clone(&published.snapshot)).ok_or(WorkloadError::Stopped)
    }

    /// What is known before the first snapshot.
    pub fn unnamed_veths(&self) -> UnnamedVeths {
        UnnamedVeths(self.veths.clone())
    }

    /// Which source keeps everybody waiting.
    fn silent(&self) -> WorkloadError {
        let state = self.containers.as_ref().map(|containers| containers.borrow().clone());
        let silent = state.as_ref().filter(|state| state.list.is_none());
        WorkloadError::SourceSilent {
            source_name: silent.map_or_else(|| "netlink".to_owned(), |state| state.name.clone()),
            within: FIRST_LIST,
            last_error: state.and_then(|state| state.error),
        }
    }

    /// The present snapshot.
    pub fn snapshot(&self) -> Arc<Snapshot> {
        self.latest().map(|published| Arc::clone(&published.snapshot)).unwrap_or_default()
    }

    /// What a person should know about the present snapshot.
    pub fn findings(&self) -> BTreeSet<Finding> {
        self.latest().map(|published| published.findings.clone()).unwrap_or_default()
    }

    /// How many address claims have been refused so far.
    pub fn refused(&self) -> u64 {
        self.latest().map_or(0, |published| published.refused)
    }

    /// How changes inside containers come to be known.
    pub fn mode(&self) -> Mode {
        self.mode
    }

    /// Notified of every netlink event, be it news for a snapshot or not. For one waiter; what it misses is kept as one.
    pub fn heard(&self) -> Arc<Notify> {
        Arc::clone(&self.heard)
    }

    /// How often the kernel dropped events and everything was read again.
    pub fn overruns(&self) -> u64 {
        self.overruns.load(Ordering::Relaxed)
    }

    /// Why discovery by netlink stopped, if it did. `changed` then gives the last state no more updates.
    pub fn failure(&self) -> Option<&NetlinkError> {
        self.failure.get()
    }

    /// Goes on with this inventory, and returns when a snapshot has it, if there is any snapshot yet.
    pub async fn use_inventory(&mut self, inventory: Inventory) -> Result<(), WorkloadError> {
        let (done, wait) = oneshot::channel();
        let inventory = Arc::new(inventory);
        self.commands.send(Command::Inventory(inventory, done)).await.map_err(|_| WorkloadError::Stopped)?;
        wait.await.map_err(|_| WorkloadError::Stopped)?;
        if self.latest().is_none() {
            self.deadline.get_or_insert_with(|| Instant::now() + FIRST_LIST);
        }
        Ok(())
    }

    fn latest(&self) -> Option<Arc<Published>> {
        self.published.borrow().clone()
    }
}
