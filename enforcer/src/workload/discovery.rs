//! The front door of discovery: it starts the sources, merges their statements and publishes snapshots.
//!
//! Input: `Config`. Output: a `Snapshot` for every change. A new veth is in a snapshot within milliseconds, even if its name
//! is not known yet, so that the agent can attach programs first. There is no snapshot before every source has given its
//! first list. Until then discovery publishes only the veths that belong to workloads whatever the sources will say.

#![forbid(unsafe_code)]

use std::collections::BTreeSet;
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use enforcer_common::id::Ifindex;

use tokio::sync::{Notify, mpsc, watch};
use tokio::time::{Instant, timeout_at};

use super::builds::Builds;
use super::config::Config;
use super::merger::Merger;
pub use super::merger::Published;
use super::netlink::{Mode, NetlinkError, Newcomers, Watcher};
use super::source::{self, Listed, SourceError, SourceState, StartError};
use super::store::Store;

/// A source that has given no list within this time has failed.
pub const FIRST_LIST: Duration = Duration::from_secs(10);

/// Why discovery could not start or go on.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum WorkloadError {
    /// The kernel cannot be asked.
    #[error("the daemon can no longer read devices, addresses and routes by netlink")]
    Netlink(#[from] NetlinkError),
    /// A source gave no complete list in time.
    #[error("{name} gave no complete list of workloads within {seconds} s{last}",
        name = .source_name, seconds = .within.as_secs(),
        last = .last_error.as_ref().map(|error| format!(": {error}")).unwrap_or_default())]
    SourceSilent {
        /// Which source.
        source_name: String,
        /// How long it had.
        within: Duration,
        /// Its last error, if it had one.
        last_error: Option<String>,
    },
    /// A source cannot start.
    #[error(transparent)]
    Source(#[from] StartError),
    /// The discovery task is gone.
    #[error("the task that finds workloads has stopped; start the daemon again")]
    Stopped,
    /// The kernel has no time or the process no room.
    #[error("the daemon cannot start the discovery of workloads")]
    Start {
        /// Cause.
        #[source]
        source: io::Error,
    },
}

/// Running discovery. Dropping it stops its tasks.
#[derive(Debug)]
pub struct Discovery {
    published: watch::Receiver<Option<Arc<Published>>>,
    veths: watch::Receiver<BTreeSet<Ifindex>>,
    /// By the name of the source.
    sources: Vec<(&'static str, watch::Receiver<SourceState>)>,
    /// When the first snapshot must be there; `None` once it is.
    deadline: Option<Instant>,
    mode: Mode,
    overruns: Arc<AtomicU64>,
    heard: Arc<Notify>,
    newcomers: Newcomers,
    failure: Arc<std::sync::OnceLock<NetlinkError>>,
}

/// Starts all sources, in a tokio runtime. Discovery watches the network namespace of the calling thread, and all
/// threads of the runtime must be in that namespace.
pub fn start(config: Config) -> Result<Discovery, WorkloadError> {
    let watcher = Watcher::open(config.judges_backends.is_some())?;
    let mode = watcher.mode();
    let requests = watcher.requests();
    let (overruns, heard, newcomers) = (watcher.overruns(), watcher.heard(), watcher.newcomers());
    let failure = Arc::new(std::sync::OnceLock::new());
    let (changes, views) = mpsc::channel(16);
    let report = Arc::clone(&failure);
    tokio::spawn(async move {
        if let Err(error) = watcher.run(changes).await {
            tracing::error!(
                error = &error as &dyn std::error::Error,
                "cannot read devices, addresses and routes by netlink any more; the daemon stops"
            );
            _ = report.set(error);
        }
    });
    let builds = Builds::beside(config.runtime.as_ref());
    let all = source::start(&config)?;
    let sources = all.iter().map(|source| (source.name, source.state.clone())).collect();
    let (publish, published) = watch::channel(None);
    let (show, veths) = watch::channel(BTreeSet::new());
    let deadline = Some(Instant::now() + FIRST_LIST);
    let mut store = Store::new();
    store.restore(config.owners, &config.endpoints, &config.uplink_ifindexes);
    store.remember(config.pasts);
    let merger = Merger::new(store, all, config.uplinks, config.settling, builds, requests, views);
    tokio::spawn(merger.judging_backends(config.judges_backends).run(publish, show));
    Ok(Discovery { published, veths, sources, deadline, mode, overruns, heard, newcomers, failure })
}

/// The veths (by ifindex) that belong to workloads, whatever names the sources will give them.
#[derive(Debug)]
pub struct UnnamedVeths(watch::Receiver<BTreeSet<Ifindex>>);

impl UnnamedVeths {
    /// Returns all such veths, each time the set has changed. Once there is a snapshot, this never returns. Cancel
    /// safe.
    pub async fn changed(&mut self) -> BTreeSet<Ifindex> {
        if self.0.changed().await.is_err() {
            std::future::pending::<()>().await;
        }
        self.0.borrow_and_update().clone()
    }
}

impl Discovery {
    /// Waits for a snapshot, or texts of the sources, that differ from those returned last. The first snapshot is
    /// returned at once. Cancel safe.
    pub async fn changed(&mut self) -> Result<Arc<Published>, WorkloadError> {
        while let Some(deadline) = self.deadline {
            let Ok(changed) = timeout_at(deadline, self.published.changed()).await else {
                // A source that has errors waits for a person, who may need longer.
                if !self.sources.iter().any(|(_, source)| is_awaited(&source.borrow())) {
                    return Err(self.silent());
                }
                self.deadline = Some(Instant::now() + FIRST_LIST);
                continue;
            };
            self.deadline = None;
            return self.published(changed);
        }
        let changed = self.published.changed().await;
        self.published(changed)
    }

    fn published(&self, changed: Result<(), watch::error::RecvError>) -> Result<Arc<Published>, WorkloadError> {
        changed.ok().and_then(|()| self.latest()).ok_or(WorkloadError::Stopped)
    }

    /// The veths that are known before the first snapshot.
    pub fn unnamed_veths(&self) -> UnnamedVeths {
        UnnamedVeths(self.veths.clone())
    }

    /// Which source keeps everybody waiting.
    fn silent(&self) -> WorkloadError {
        let states = self.sources.iter().map(|(_, source)| source.borrow().clone());
        let silent = states.into_iter().find(|state| state.listed == Listed::Never);
        let silent = silent.unwrap_or_else(|| SourceState { name: "netlink".to_owned(), ..SourceState::default() });
        WorkloadError::SourceSilent {
            source_name: silent.name,
            within: FIRST_LIST,
            last_error: silent.error.map(|error| error.to_string()),
        }
    }

    /// Errors of sources whose newest version does not count until a person has corrected it.
    pub fn refused_sources(&self) -> Vec<String> {
        let states = self.sources.iter().map(|(_, source)| source.borrow());
        let refusal = |state: &SourceState| match &state.error {
            Some(SourceError::Refused(error)) => Some(error.clone()),
            Some(SourceError::Down(_)) | None => None,
        };
        states.filter_map(|state| refusal(&state)).collect()
    }

    /// Sources whose newest state is not in use: they do not answer, or say something with errors.
    pub fn stale_sources(&self) -> BTreeSet<&'static str> {
        let stale = self.sources.iter().filter(|(_, source)| source.borrow().error.is_some());
        stale.map(|(name, _)| *name).collect()
    }

    /// Sources that have given no list yet.
    pub fn silent_sources(&self) -> Vec<&'static str> {
        let silent = self.sources.iter().filter(|(_, source)| source.borrow().listed == Listed::Never);
        silent.map(|(name, _)| *name).collect()
    }

    /// How discovery learns about changes inside containers.
    pub fn mode(&self) -> Mode {
        self.mode
    }

    /// Is notified of every netlink event, even if the event changes no snapshot. One task can wait for it, and
    /// events that come meanwhile count as one.
    pub fn heard(&self) -> Arc<Notify> {
        Arc::clone(&self.heard)
    }

    /// When each new veth was heard of.
    pub fn newcomers(&self) -> &Newcomers {
        &self.newcomers
    }

    /// How often the kernel dropped events and everything was read again.
    pub fn overruns(&self) -> u64 {
        self.overruns.load(Ordering::Relaxed)
    }

    /// The error with which discovery by netlink stopped, if it did. `changed` then returns no newer snapshot.
    pub fn failure(&self) -> Option<&NetlinkError> {
        self.failure.get()
    }

    /// The present snapshot, with what a person should know about it; `None`: there is none yet.
    pub fn latest(&self) -> Option<Arc<Published>> {
        self.published.borrow().clone()
    }
}

/// Whether a source has said nothing yet and may take its time: what it says has errors, or it is a server that may be away.
fn is_awaited(state: &SourceState) -> bool {
    state.listed == Listed::Never && (state.is_awaited || matches!(state.error, Some(SourceError::Refused(_))))
}
