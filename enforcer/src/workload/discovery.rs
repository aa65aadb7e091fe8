//! What the agent talks to: starts the sources, merges what they give, hands out snapshots.
//!
//! Input: `Config`. Output: a `Snapshot` for every change. A new veth is in a snapshot within milliseconds, without a
//! name if its name is still on the way, so that the agent can attach first and name later.

#![forbid(unsafe_code)]

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use tokio::sync::{Notify, mpsc, oneshot, watch};

use super::finding::Finding;
use super::inventory::{InvalidInventory, Inventory};
use super::merger::{Merger, Published};
use super::model::Snapshot;
use super::netlink::{Mode, NetlinkError, Watcher};
use super::runtime::{self, RuntimeKind};

/// A source that has given nothing after this time has failed.
pub const FIRST_LIST: Duration = Duration::from_secs(10);

/// Where to look.
#[derive(Clone, Debug, Default)]
pub struct Config {
    /// Inventory file.
    pub inventory: Option<PathBuf>,
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
    /// The inventory file is refused.
    #[error(transparent)]
    Inventory(#[from] InvalidInventory),
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
    /// Another file than the one that discovery was started with.
    #[error("discovery was started without an inventory file")]
    NoInventory,
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
    commands: mpsc::Sender<Command>,
    mode: Mode,
    has_inventory: bool,
    overruns: Arc<AtomicU64>,
    failure: Arc<std::sync::OnceLock<NetlinkError>>,
}

/// Starts all sources. Acts on the network namespace that the calling thread is in; all threads of the runtime must be
/// in the same one.
pub async fn start(config: Config) -> Result<Discovery, WorkloadError> {
    let inventory = match &config.inventory {
        Some(path) => Inventory::load(path)?,
        None => Inventory::default(),
    };
    let watcher = Watcher::open()?;
    let mode = watcher.mode();
    let requests = watcher.requests();
    let overruns = watcher.overruns();
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
    let (publish, mut published) = watch::channel(None);
    let (commands, orders) = mpsc::channel(4);
    let merger = Merger::new(&config, inventory, requests, views, containers.clone(), list_again);
    tokio::spawn(merger.run(publish, orders));
    let first = published.wait_for(Option::is_some);
    match tokio::time::timeout(FIRST_LIST, first).await {
        Ok(Ok(_)) => {}
        Ok(Err(_)) => return Err(WorkloadError::Stopped),
        Err(_) => {
            let state = containers.as_ref().map(|containers| containers.borrow().clone());
            let silent = config.runtime.as_ref().filter(|_| state.as_ref().is_some_and(|state| state.list.is_none()));
            return Err(WorkloadError::SourceSilent {
                source_name: silent.map_or_else(|| "netlink".to_owned(), ToString::to_string),
                within: FIRST_LIST,
                last_error: state.and_then(|state| state.error),
            });
        }
    }
    published.mark_changed();
    Ok(Discovery { published, commands, mode, has_inventory: config.inventory.is_some(), overruns, failure })
}

impl Discovery {
    /// The next snapshot that differs from the last one returned; at once for the first. Cancel safe.
    pub async fn changed(&mut self) -> Result<Arc<Snapshot>, WorkloadError> {
        if self.published.changed().await.is_err() {
            return Err(WorkloadError::Stopped);
        }
        self.latest().map(|published| Arc::clone(&published.snapshot)).ok_or(WorkloadError::Stopped)
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

    /// How often the kernel dropped events and everything was read again.
    pub fn overruns(&self) -> u64 {
        self.overruns.load(Ordering::Relaxed)
    }

    /// Why discovery by netlink stopped, if it did. `changed` then gives the last state no more updates.
    pub fn failure(&self) -> Option<&NetlinkError> {
        self.failure.get()
    }

    /// Reads the inventory again and returns when a snapshot has it. A bad file changes nothing.
    pub async fn reload_inventory(&self, path: &Path) -> Result<(), WorkloadError> {
        if !self.has_inventory {
            return Err(WorkloadError::NoInventory);
        }
        let inventory = Arc::new(Inventory::load(path)?);
        let (done, wait) = oneshot::channel();
        self.commands.send(Command::Inventory(inventory, done)).await.map_err(|_| WorkloadError::Stopped)?;
        wait.await.map_err(|_| WorkloadError::Stopped)
    }

    fn latest(&self) -> Option<Arc<Published>> {
        self.published.borrow().clone()
    }
}
