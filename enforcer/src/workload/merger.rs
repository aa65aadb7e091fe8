//! The task between the sources and the agent: asks for what only the kernel knows (which nsid a path stands for),
//! feeds the store, publishes what comes out.

#![forbid(unsafe_code)]

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{Notify, mpsc, watch};
use tokio::time::{Instant, sleep_until};

use super::discovery::{Command, Config};
use super::finding::Finding;
use super::inventory::{Inventory, Match};
use super::model::Snapshot;
use super::netlink::{Change, Requests};
use super::runtime::RuntimeState;
use super::store::{Inputs, Store};
use super::view::NetworkView;

/// A path can come to stand for a namespace without any event of the network: `ip netns` mounts it when it likes.
const LOOK_AGAIN: Duration = Duration::from_secs(1);

/// What the agent gets to see.
#[derive(Clone, Debug, Default)]
pub(super) struct Published {
    pub(super) snapshot: Arc<Snapshot>,
    pub(super) findings: BTreeSet<Finding>,
    pub(super) refused: u64,
}

/// State of the merging task.
#[derive(Debug)]
pub(super) struct Merger {
    store: Store,
    inventory: Arc<Inventory>,
    awaits_inventory: bool,
    uplinks: Vec<String>,
    requests: Requests,
    views: mpsc::Receiver<Change>,
    containers: Option<watch::Receiver<RuntimeState>>,
    /// Asks the runtime for a newer list.
    list_again: Arc<Notify>,
    view: Option<Arc<NetworkView>>,
    gone: BTreeSet<i32>,
    netns: BTreeMap<PathBuf, i32>,
}

impl Merger {
    pub(super) fn new(
        config: Config,
        requests: Requests,
        views: mpsc::Receiver<Change>,
        containers: Option<watch::Receiver<RuntimeState>>,
        list_again: Arc<Notify>,
    ) -> Self {
        let mut store = Store::new();
        store.restore(config.owners, &config.endpoints, &config.uplink_ifindexes);
        Self {
            store,
            inventory: Arc::new(config.inventory),
            awaits_inventory: config.awaits_inventory,
            uplinks: config.uplinks,
            requests,
            views,
            containers,
            list_again,
            view: None,
            gone: BTreeSet::new(),
            netns: BTreeMap::new(),
        }
    }

    /// Runs until nobody listens or netlink is gone.
    pub(super) async fn run(
        mut self,
        publish: watch::Sender<Option<Arc<Published>>>,
        veths: watch::Sender<BTreeSet<u32>>,
        mut commands: mpsc::Receiver<Command>,
    ) {
        // Until the first snapshot.
        let mut veths = Some(veths);
        let mut again = Instant::now() + LOOK_AGAIN;
        loop {
            let mut done = None;
            tokio::select! {
                change = self.views.recv() => {
                    let Some(change) = change else { return };
                    let moved = self.take(change);
                    // Asking for the names takes longer than a new veth may wait. The first snapshot has to have them.
                    let shown = publish.borrow().is_some();
                    if shown {
                        self.publish(&publish);
                    } else if let Some(veths) = &veths {
                        self.show(veths);
                    }
                    if shown && !moved {
                        continue;
                    }
                }
                () = changed(self.containers.as_mut()) => {}
                command = commands.recv() => {
                    let Some(Command::Inventory(inventory, sender)) = command else { return };
                    self.inventory = inventory;
                    self.awaits_inventory = false;
                    done = Some(sender);
                }
                () = sleep_until(again) => {
                    again = Instant::now() + LOOK_AGAIN;
                    if !self.resolve().await {
                        continue;
                    }
                }
                () = publish.closed() => return,
            }
            self.resolve().await;
            self.publish(&publish);
            if publish.borrow().is_some() {
                veths = None;
            }
            if let Some(done) = done {
                _ = done.send(());
            }
        }
    }

    /// Takes a change and all that wait behind it; tells whether veths lead elsewhere than before.
    fn take(&mut self, change: Change) -> bool {
        let before = self.view.take().map(|view| leads(&view)).unwrap_or_default();
        let mut next = Some(change);
        while let Some(Change { view, gone }) = next {
            self.gone.extend(gone);
            self.view = Some(view);
            next = self.views.try_recv().ok();
        }
        let now = self.view.as_deref().map(leads).unwrap_or_default();
        // A number that stands for another namespace now must not pass on the old one's name for a moment.
        let same = |nsid: &i32| match (before.get(nsid), now.get(nsid)) {
            (Some(before), Some(now)) => !before.is_disjoint(now) && !self.gone.contains(nsid),
            _ => false,
        };
        self.netns.retain(|_, nsid| same(nsid));
        !self.gone.is_empty() || before != now
    }

    /// Asks the kernel what each path stands for; tells whether that is news.
    async fn resolve(&mut self) -> bool {
        let mut paths: BTreeSet<PathBuf> = BTreeSet::new();
        for entry in &self.inventory.entries {
            if let Match::Netns(path) = &entry.matches {
                paths.insert(path.clone());
            }
        }
        if let Some(containers) = &self.containers {
            let state = containers.borrow();
            paths.extend(state.list.iter().flat_map(|list| list.iter()).filter_map(|one| one.sandbox.clone()));
        }
        let mut netns = BTreeMap::new();
        for path in paths {
            match self.requests.nsid_of(&path).await {
                Ok(Some(nsid)) => _ = netns.insert(path, nsid),
                Ok(None) => {}
                Err(error) => {
                    tracing::warn!(path = %path.display(), error = &error as &dyn std::error::Error, "nsid not known");
                }
            }
        }
        let news = self.netns != netns;
        self.netns = netns;
        news
    }

    /// Shows the veths that no source can make an uplink.
    fn show(&self, to: &watch::Sender<BTreeSet<u32>>) {
        let Some(view) = &self.view else { return };
        let veths = self.store.workload_veths(view, &self.uplinks);
        to.send_if_modified(|shown| std::mem::replace(shown, veths) != *shown);
    }

    fn publish(&mut self, to: &watch::Sender<Option<Arc<Published>>>) {
        let Some(view) = self.view.clone() else { return };
        let state = self.containers.as_ref().map(|containers| containers.borrow().clone()).unwrap_or_default();
        // Before every source has spoken nobody can tell an unknown workload from one whose name is still to come.
        if self.awaits_inventory || self.containers.is_some() && state.list.is_none() {
            return;
        }
        let containers = state.list.unwrap_or_default();
        let outcome = self.store.update(&Inputs {
            view: &view,
            gone: &std::mem::take(&mut self.gone),
            inventory: &self.inventory,
            containers: &containers,
            netns: &self.netns,
            uplinks: &self.uplinks,
            now: Instant::now().into_std(),
            listed: state.listed.map(Instant::into_std),
        });
        if outcome.awaits_list {
            self.list_again.notify_one();
        }
        let mut findings = outcome.findings;
        if let Some(error) = state.error {
            findings.insert(Finding::SourceDown { source: state.name, error });
        }
        let refused = self.store.refused();
        to.send_if_modified(|published| {
            let before = published.as_deref();
            warn_of_news(&findings, before.map(|old| &old.findings));
            let same = before.is_some_and(|old| *old.snapshot == outcome.snapshot);
            let snapshot = match published {
                Some(old) if same => Arc::clone(&old.snapshot),
                _ => Arc::new(outcome.snapshot),
            };
            *published = Some(Arc::new(Published { snapshot, findings, refused }));
            !same
        });
    }
}

/// One line for each finding, but one for all claims to addresses: their number is the containers' choice.
fn warn_of_news(findings: &BTreeSet<Finding>, before: Option<&BTreeSet<Finding>>) {
    let news = findings.iter().filter(|finding| before.is_none_or(|old| !old.contains(finding)));
    let (claims, others): (Vec<&Finding>, Vec<&Finding>) = news.partition(|finding| finding.claims() > 0);
    for finding in others {
        tracing::warn!(%finding, "workload discovery");
    }
    if let Some((finding, more)) = claims.split_first() {
        tracing::warn!(%finding, more = more.len(), "workload discovery");
    }
}

/// Which veths lead to which namespace.
fn leads(view: &NetworkView) -> BTreeMap<i32, BTreeSet<u32>> {
    let mut leads: BTreeMap<i32, BTreeSet<u32>> = BTreeMap::new();
    for (index, _, peer) in view.veths() {
        if let Some(nsid) = peer.nsid {
            leads.entry(nsid).or_default().insert(index);
        }
    }
    leads
}

/// Waits for news of the runtime; for ever if there is none.
async fn changed(containers: Option<&mut watch::Receiver<RuntimeState>>) {
    if let Some(containers) = containers
        && containers.changed().await.is_ok()
    {
        return;
    }
    std::future::pending::<()>().await;
}
