//! Discovery by netlink: one task that keeps a `NetworkView` up to date.
//!
//! An event only marks a list as stale. A few milliseconds later the task reads that list again and sends a new view. All
//! data come from complete lists, so a lost or reordered event costs time but never makes the view wrong.
//! Input: the namespace of the thread that opens the sockets. Output: `Change`s on a channel.

mod devices;
mod dump;
mod heard;
mod listen;
mod newcomers;
mod routes;

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use enforcer_common::id::Ifindex;

use tokio::sync::{Notify, mpsc};
use tokio::time::{Instant, sleep_until};

use self::dump::Inside;
pub(in crate::workload) use self::dump::Requests;
use self::heard::Stale;
use self::listen::{Heard, Listener};
pub use self::newcomers::Newcomers;
use self::routes::Routes;
use super::model::ForeignDevice;
use super::view::{Link, NetworkView};

/// Events of one cause (a veth that comes up makes about ten) end up in one view.
const COALESCE: Duration = Duration::from_millis(2);
/// A storm of events may not cost more than a third of a core: the pause after a dump is this many times its length.
const PAUSE_FACTOR: u32 = 2;
/// Longest such pause, so that a new veth is never late by more.
const LONGEST_PAUSE: Duration = Duration::from_millis(100);
/// Without events from inside the containers: reads after a link event.
const ECHOES: [Duration; 4] =
    [Duration::from_millis(10), Duration::from_millis(50), Duration::from_millis(200), Duration::from_secs(1)];
/// Without events from inside the containers: a read at least so often.
const POLL: Duration = Duration::from_secs(1);
/// With events: a complete read so often, against what no event told.
const RESYNC: Duration = Duration::from_secs(30);
/// A namespace with more addresses than are read is read at most so often: what a container shows without end must not
/// keep us from the others.
const FLOOD_PAUSE: Duration = Duration::from_secs(1);
/// After a read that failed.
const RETRY: Duration = Duration::from_millis(50);

/// Why the kernel could not be asked.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum NetlinkError {
    /// A socket could not be opened.
    #[error("the daemon cannot open a netlink socket, so it cannot find workloads")]
    Open {
        /// Cause.
        #[source]
        source: io::Error,
    },
    /// The kernel refused a request.
    #[error("the kernel refused a netlink request for devices, addresses or routes")]
    Refused {
        /// Cause.
        #[source]
        source: io::Error,
    },
    /// Events can no longer be read.
    #[error("the daemon cannot read netlink events, so it would miss new veths and addresses")]
    Receive {
        /// Cause.
        #[source]
        source: io::Error,
    },
    /// The request socket is gone.
    #[error("the netlink socket for requests was closed; start the daemon again")]
    Closed,
}

/// How changes inside containers come to be known.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Mode {
    /// By events, at once.
    Events,
    /// By reading again after link events and every second: `CAP_NET_BROADCAST` is missing.
    Polling,
}

/// One step of discovery.
#[derive(Clone, Debug)]
pub(in crate::workload) struct Change {
    pub(in crate::workload) view: Arc<NetworkView>,
    /// Ids whose namespace went away since the last step; the kernel reuses them at once.
    pub(in crate::workload) gone: BTreeSet<i32>,
}

/// Keeps the view; runs until its receiver is dropped.
#[derive(Debug)]
pub(in crate::workload) struct Watcher {
    requests: Requests,
    listener: Listener,
    links: BTreeMap<Ifindex, Link>,
    inside: BTreeMap<i32, Inside>,
    routes: Routes,
    node: BTreeSet<IpAddr>,
    /// Devices with filters at their ingress; `None`: nobody needs to know.
    filtered: Option<BTreeSet<Ifindex>>,
    stale: Stale,
    /// Namespaces with more addresses than are read, and when they may be read again.
    flooded: BTreeMap<i32, Instant>,
    last: Option<Arc<NetworkView>>,
    overruns: Arc<AtomicU64>,
    heard: Arc<Notify>,
    /// When the oldest event was heard that was not followed by a read yet.
    oldest: Option<Instant>,
    newcomers: Newcomers,
}

impl Watcher {
    /// Subscribes in the namespace of the calling thread. Subscribing comes before the first read: no gap. `filters`: qdiscs
    /// are watched, too.
    pub(in crate::workload) fn open(filters: bool) -> Result<Self, NetlinkError> {
        let listener = Listener::open(filters).map_err(|source| NetlinkError::Open { source })?;
        Ok(Self {
            requests: Requests::open()?,
            listener,
            links: BTreeMap::new(),
            inside: BTreeMap::new(),
            routes: Routes::default(),
            node: BTreeSet::new(),
            filtered: filters.then(BTreeSet::new),
            stale: Stale::everything(),
            flooded: BTreeMap::new(),
            last: None,
            overruns: Arc::default(),
            heard: Arc::default(),
            oldest: None,
            newcomers: Newcomers::default(),
        })
    }

    pub(in crate::workload) fn mode(&self) -> Mode {
        if self.listener.hears_all { Mode::Events } else { Mode::Polling }
    }

    /// Counts how often the kernel dropped events.
    pub(in crate::workload) fn overruns(&self) -> Arc<AtomicU64> {
        Arc::clone(&self.overruns)
    }

    /// Notified of every event.
    pub(in crate::workload) fn heard(&self) -> Arc<Notify> {
        Arc::clone(&self.heard)
    }

    /// When each new veth was heard of.
    pub(in crate::workload) fn newcomers(&self) -> Newcomers {
        self.newcomers.clone()
    }

    pub(in crate::workload) fn requests(&self) -> Requests {
        self.requests.clone()
    }

    /// Sends the first view and then one for every change.
    pub(in crate::workload) async fn run(mut self, to: mpsc::Sender<Change>) -> Result<(), NetlinkError> {
        let polling = self.mode() == Mode::Polling;
        let period = if polling { POLL } else { RESYNC };
        let mut periodic = Instant::now();
        let mut reads = BTreeSet::new();
        let mut earliest = Instant::now();
        loop {
            let next = reads.first().copied().unwrap_or(periodic).min(periodic).max(earliest);
            tokio::select! {
                heard = self.listener.next() => {
                    let links_before = self.stale.any_link();
                    self.mark(heard.map_err(|source| NetlinkError::Receive { source })?);
                    let now = Instant::now();
                    if self.stale.any() && reads.first().is_none_or(|first| *first > now + COALESCE) {
                        reads.insert(now + COALESCE);
                    }
                    if polling && self.stale.any_link() && !links_before {
                        // The echoes of the latest event cover those of the one before.
                        reads.retain(|at| *at <= now + COALESCE);
                        reads.extend(ECHOES.map(|echo| now + echo));
                    }
                }
                () = sleep_until(next) => {
                    let now = Instant::now();
                    reads = reads.split_off(&(now + COALESCE / 2));
                    if polling || now >= periodic {
                        self.stale.add_everything();
                        periodic = now + period;
                    }
                    match self.read(&to).await {
                        Ok(()) if self.stale.any() => {
                            reads.extend(self.flooded.values().copied().filter(|until| *until > now).min());
                        }
                        Ok(()) => {}
                        Err(error @ NetlinkError::Refused { .. }) => {
                            tracing::warn!(
                                error = &error as &dyn std::error::Error,
                                "cannot read devices, addresses or routes by netlink; trying again"
                            );
                            self.stale.add_everything();
                            reads.insert(Instant::now() + RETRY);
                        }
                        Err(error) => return Err(error),
                    }
                    earliest = Instant::now() + (now.elapsed() * PAUSE_FACTOR).min(LONGEST_PAUSE);
                }
                () = to.closed() => return Ok(()),
            }
        }
    }

    fn mark(&mut self, heard: Heard) {
        if matches!(heard, Heard::Overrun) {
            self.overruns.fetch_add(1, Ordering::Relaxed);
            tracing::warn!("the kernel dropped netlink events; reading all devices, addresses and routes again");
        }
        self.stale.mark(heard);
        self.oldest.get_or_insert_with(Instant::now);
        self.heard.notify_one();
    }

    /// Reads what is stale and sends what comes of it.
    async fn read(&mut self, to: &mpsc::Sender<Change>) -> Result<(), NetlinkError> {
        // Events that are already queued are older than what is read now, so they need no read of their own.
        while let Some(heard) = self.listener.pending().map_err(|source| NetlinkError::Receive { source })? {
            self.mark(heard);
        }
        let heard = self.oldest.take().unwrap_or_else(Instant::now);
        if self.stale.any_link() {
            let before = self.veths();
            self.read_links().await?;
            let now = self.veths();
            // A number that stands for another namespace now must not show the old one's addresses for a moment.
            let stays = |nsid: i32| before.iter().any(|(veth, was)| *was == Some(nsid) && now.get(veth) == Some(was));
            let gone = &self.stale.gone;
            self.inside.retain(|nsid, _| !gone.contains(nsid) && stays(*nsid));
            // A new veth must not wait for its addresses, nor for those of all others.
            if self.last.is_some() && now != before {
                self.newcomers.note(&before, &now, heard);
                self.send(to).await;
            }
        }
        if let Some(filtered) = self.filtered.as_mut().filter(|_| self.stale.qdiscs) {
            *filtered = self.requests.filtered().await?;
            self.stale.qdiscs = false;
        }
        if self.stale.routes {
            self.routes = self.requests.routes().await?;
            self.stale.routes = false;
        }
        if self.stale.node {
            self.node = self.requests.node_addresses().await?;
            self.stale.node = false;
        }
        let mut wanted: BTreeMap<i32, BTreeSet<u32>> = BTreeMap::new();
        for peer in self.links.values().filter_map(|link| link.peer.as_ref()) {
            if let Some(nsid) = peer.nsid {
                wanted.entry(nsid).or_default().insert(peer.index);
            }
        }
        self.inside.retain(|nsid, _| wanted.contains_key(nsid));
        self.flooded.retain(|nsid, _| self.inside.contains_key(nsid));
        let mut fresh = BTreeMap::new();
        let mut put_off = BTreeSet::new();
        for (nsid, devices) in &wanted {
            if self.inside.contains_key(nsid) && !self.stale.inside_of(*nsid) {
                continue;
            }
            if self.flooded.get(nsid).is_some_and(|until| *until > Instant::now()) {
                put_off.insert(*nsid);
                continue;
            }
            let inside = self.requests.inside(*nsid, devices).await?;
            if inside.unread > 0 || inside.crowded {
                self.flooded.insert(*nsid, Instant::now() + FLOOD_PAUSE);
            } else {
                self.flooded.remove(nsid);
            }
            fresh.insert(*nsid, inside);
        }
        self.inside.extend(fresh);
        self.stale.all_read_but(put_off);
        self.send(to).await;
        Ok(())
    }

    async fn read_links(&mut self) -> Result<(), NetlinkError> {
        if self.stale.links {
            self.links = self.requests.links().await?;
        } else {
            for index in &self.stale.single_links {
                match self.requests.link(*index).await? {
                    Some(link) => _ = self.links.insert(*index, link),
                    None => _ = self.links.remove(index),
                }
            }
        }
        self.stale.links = false;
        self.stale.single_links.clear();
        Ok(())
    }

    /// Sends the view if it is news. That nobody takes it any more is noticed by `run`.
    async fn send(&mut self, to: &mpsc::Sender<Change>) {
        let view = Arc::new(self.view());
        let gone = std::mem::take(&mut self.stale.gone);
        if self.last.as_ref() == Some(&view) && gone.is_empty() {
            return;
        }
        self.last = Some(Arc::clone(&view));
        _ = to.send(Change { view, gone }).await;
    }

    /// Veths whose far end is elsewhere, and where.
    fn veths(&self) -> BTreeMap<Ifindex, Option<i32>> {
        self.links.iter().filter_map(|(index, link)| Some((*index, link.peer.as_ref()?.nsid))).collect()
    }

    /// The devices of each namespace that end at none of our hooks, veths straight into the namespace of another workload
    /// included. A veth to any other namespace belongs to something nested: what that sends to others passes the workload's own
    /// veth.
    fn foreign(&self) -> BTreeMap<i32, BTreeMap<String, ForeignDevice>> {
        let mut foreign: BTreeMap<i32, BTreeMap<String, ForeignDevice>> = BTreeMap::new();
        for (nsid, inside) in &self.inside {
            let linked = inside.far.iter().filter(|veth| self.inside.contains_key(&veth.there));
            let linked = linked.map(|veth| (veth.name.clone(), veth.device.clone()));
            let devices: BTreeMap<_, _> = inside.foreign.clone().into_iter().chain(linked).collect();
            if !devices.is_empty() {
                foreign.insert(*nsid, devices);
            }
        }
        foreign
    }

    fn view(&self) -> NetworkView {
        let mut links = self.links.clone();
        for peer in links.values_mut().filter_map(|link| link.peer.as_mut()) {
            peer.mac = peer.nsid.and_then(|nsid| self.inside.get(&nsid)?.macs.get(&peer.index).copied());
        }
        NetworkView {
            links,
            inside: self.inside.iter().map(|(nsid, inside)| (*nsid, inside.addresses.clone())).collect(),
            unread: self
                .inside
                .iter()
                .filter(|(_, inside)| inside.unread > 0)
                .map(|(nsid, inside)| (*nsid, inside.unread))
                .collect(),
            foreign: self.foreign(),
            unreadable: self.inside.iter().filter(|(_, inside)| inside.refused).map(|(nsid, _)| *nsid).collect(),
            routes: self.routes.routes.clone(),
            gateways: self.routes.gateways.clone(),
            node: self.node.clone(),
            filtered: self.filtered.clone().unwrap_or_default(),
        }
    }
}
