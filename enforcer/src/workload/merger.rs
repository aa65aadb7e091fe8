//! The task between the sources and the agent.
//!
//! Input: network views and the states of the sources. The task asks the kernel which network namespace (nsid) a path stands
//! for, and gives everything to the store. Output: snapshots and findings.

#![forbid(unsafe_code)]

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use enforcer_common::id::Ifindex;

use futures_util::future::select_all;
use tokio::sync::{mpsc, watch};
use tokio::time::{Instant, sleep_until};

use super::builds::Builds;
use super::chains::{Chains, Looks};
use super::config::Settling;
use super::finding::Finding;
use super::model::Snapshot;
use super::netlink::{Change, Requests};
use super::paths::Paths;
use super::source::{Kept, Listed, Source, SourceError, SourceState};
use super::store::{Inputs, Store};
use super::view::NetworkView;

/// A path can come to stand for a namespace without any event of the network: `ip netns` mounts it when it likes.
const LOOK_AGAIN: Duration = Duration::from_secs(1);

/// What discovery publishes to the agent.
#[derive(Clone, Debug, Default)]
pub struct Published {
    /// The workloads.
    pub snapshot: Arc<Snapshot>,
    /// The texts of the sources from which the snapshot was made.
    pub kept: Kept,
    findings: BTreeSet<Finding>,
    refused: u64,
}

impl Published {
    /// What a person should know about the snapshot.
    pub fn findings(&self) -> &BTreeSet<Finding> {
        &self.findings
    }

    /// How many address claims have been refused so far.
    pub fn refused(&self) -> u64 {
        self.refused
    }
}

/// State of the merging task.
#[derive(Debug)]
pub(super) struct Merger {
    store: Store,
    sources: Vec<Source>,
    /// What each source said when its paths were looked up last.
    states: Vec<SourceState>,
    uplinks: Vec<String>,
    settling: Settling,
    /// If addresses of Services may be known: what else is at the ingress of devices.
    looks: Option<Looks>,
    /// When the next settling time ends.
    settles: Option<std::time::Instant>,
    requests: Requests,
    views: mpsc::Receiver<Change>,
    view: Option<Arc<NetworkView>>,
    gone: BTreeSet<i32>,
    netns: BTreeMap<PathBuf, i32>,
    paths: Paths,
    /// Builds that the runtime does not list.
    builds: Option<Builds>,
    /// Veths of the workloads of which the log says that they are partly enforced.
    told: BTreeSet<Ifindex>,
}

impl Merger {
    pub(super) fn new(
        store: Store,
        sources: Vec<Source>,
        uplinks: Vec<String>,
        settling: Settling,
        builds: Option<Builds>,
        requests: Requests,
        views: mpsc::Receiver<Change>,
    ) -> Self {
        let (gone, netns, states, told) = (BTreeSet::new(), BTreeMap::new(), Vec::new(), BTreeSet::new());
        Self {
            store,
            sources,
            states,
            uplinks,
            settling,
            looks: None,
            settles: None,
            requests,
            views,
            view: None,
            gone,
            netns,
            paths: Paths::default(),
            builds,
            told,
        }
    }

    /// The same, where the kernel judges by its backend what is sent to a Service, if there is somebody to ask for the chains.
    pub(super) fn judging_backends(self, chains: Option<Arc<dyn Chains>>) -> Self {
        Self { looks: chains.map(|chains| Looks::by(chains, Instant::now().into_std())), ..self }
    }

    /// Runs until nobody listens or netlink has stopped.
    pub(super) async fn run(
        mut self,
        publish: watch::Sender<Option<Arc<Published>>>,
        veths: watch::Sender<BTreeSet<Ifindex>>,
    ) {
        // Until the first snapshot.
        let mut veths = Some(veths);
        let mut again = Instant::now() + LOOK_AGAIN;
        loop {
            tokio::select! {
                change = self.views.recv() => {
                    let Some(change) = change else { return };
                    let moved = self.take(change);
                    // Asking for the names takes longer than a new veth may wait. The first snapshot has to have them.
                    let is_shown = publish.borrow().is_some();
                    if is_shown {
                        self.publish(&publish);
                    } else if let Some(veths) = &veths {
                        self.show(veths);
                    }
                    if is_shown && !moved {
                        continue;
                    }
                }
                () = changed(&mut self.sources) => {}
                () = sleep_until(again) => {
                    again = Instant::now() + LOOK_AGAIN;
                    let settled = self.settles.is_some_and(|end| end < Instant::now().into_std());
                    let chains = self.looks.as_mut().is_some_and(|looks| looks.again(Instant::now().into_std()));
                    if !self.resolve().await && !settled && !chains {
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

    /// Takes what the sources say now, and asks the kernel what each path of it stands for; tells whether one stands for
    /// something else than before. The statements count only together with what their paths stand for.
    async fn resolve(&mut self) -> bool {
        let mut states: Vec<SourceState> = self.sources.iter().map(|source| source.state.borrow().clone()).collect();
        let mut netns = self.paths.look(&states, &self.netns, &self.requests).await;
        if let (Some(builds), Some(view)) = (&mut self.builds, &self.view) {
            let named: BTreeSet<i32> = netns.values().copied().collect();
            let unnamed: BTreeSet<i32> = leads(view).into_keys().filter(|nsid| !named.contains(nsid)).collect();
            netns.extend(builds.look(&unnamed, &self.requests).await);
            states.push(builds.state());
        }
        let news = self.netns != netns;
        self.netns = netns;
        self.states = states;
        news
    }

    /// Shows the veths that no source can make an uplink.
    fn show(&self, to: &watch::Sender<BTreeSet<Ifindex>>) {
        let Some(view) = &self.view else { return };
        let veths = self.store.workload_veths(view, &self.uplinks);
        to.send_if_modified(|shown| std::mem::replace(shown, veths) != *shown);
    }

    fn publish(&mut self, to: &watch::Sender<Option<Arc<Published>>>) {
        let Some(view) = self.view.clone() else { return };
        let states = &self.states;
        // Before every source has spoken nobody can tell an unknown workload from one whose name is still to come.
        if states.iter().any(|state| state.listed == Listed::Never) {
            return;
        }
        let chained = self.looks.as_mut().map(|looks| {
            looks.at_new(&view);
            looks.others()
        });
        let outcome = self.store.update(&Inputs {
            view: &view,
            gone: &std::mem::take(&mut self.gone),
            sources: states,
            netns: &self.netns,
            uplinks: &self.uplinks,
            settling: self.settling.0,
            judges_backends: chained.is_some(),
            chained: &chained.unwrap_or_default(),
            now: Instant::now().into_std(),
        });
        self.settles = outcome.settles;
        // A daemon that has just started takes no workload for unknown that it will know in a moment.
        if outcome.is_waiting && to.borrow().is_none() {
            return;
        }
        let mut findings = outcome.findings;
        for SourceState { name, error, .. } in states {
            if let Some(SourceError::Down(error)) = error {
                findings.insert(Finding::SourceDown { source: name.clone(), error: error.clone() });
            }
        }
        let texts = self.sources.iter().zip(states);
        let kept: Kept =
            texts.filter_map(|(source, state)| Some((source.name.to_owned(), state.kept.clone()?))).collect();
        let refused = self.store.refused();
        self.told.retain(|veth| view.links.contains_key(veth));
        let told = &mut self.told;
        to.send_if_modified(|published| {
            let before = published.as_deref();
            warn_of_news(&findings, before.map(|old| &old.findings), told);
            let same = before.filter(|old| *old.snapshot == outcome.snapshot).map(|old| Arc::clone(&old.snapshot));
            let news = same.is_none() || before.is_some_and(|old| old.kept != kept);
            let snapshot = same.unwrap_or_else(|| Arc::new(outcome.snapshot));
            *published = Some(Arc::new(Published { snapshot, kept, findings, refused }));
            news
        });
    }
}

/// Logs one line for each new finding, but a single line for all claims to addresses, because containers choose their
/// number.
///
/// A container also chooses how often its devices come and go, so the log says only once of each workload, by its first veth,
/// that it is partly enforced.
fn warn_of_news(findings: &BTreeSet<Finding>, before: Option<&BTreeSet<Finding>>, told: &mut BTreeSet<Ifindex>) {
    let news = findings
        .iter()
        .filter(|finding| before.is_none_or(|old| !old.contains(finding)))
        .filter(|finding| finding.partly_enforced().is_none_or(|workload| told.insert(workload.ifindex)));
    let (claims, others): (Vec<&Finding>, Vec<&Finding>) = news.partition(|finding| finding.claims() > 0);
    for finding in others {
        tracing::warn!(%finding, "discovery found a problem with a workload, a source or an uplink");
    }
    if let Some((finding, more)) = claims.split_first() {
        tracing::warn!(%finding, more = more.len(), "workloads show addresses that are not accepted as their own");
    }
}

/// Which veths lead to which namespace.
fn leads(view: &NetworkView) -> BTreeMap<i32, BTreeSet<Ifindex>> {
    let mut leads: BTreeMap<i32, BTreeSet<Ifindex>> = BTreeMap::new();
    for (index, _, peer) in view.veths() {
        if let Some(nsid) = peer.nsid {
            leads.entry(nsid).or_default().insert(index);
        }
    }
    leads
}

/// Waits for news of any source.
async fn changed(sources: &mut [Source]) {
    if sources.is_empty() {
        return std::future::pending().await;
    }
    let news = sources.iter_mut().map(|source| {
        Box::pin(async {
            // A source that has ended says nothing else any more.
            if source.state.changed().await.is_err() {
                std::future::pending::<()>().await;
            }
        })
    });
    select_all(news).await;
}
