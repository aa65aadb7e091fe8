//! The Kubernetes API as a source: it names the pods of this node, and all others as peers.
//!
//! Input: pods, namespaces, nodes and Services, each kind as a complete set. Output: a statement for each pod. Nothing is said before all
//! kinds are listed. While one of them is out of date, what was said last stays in force. A daemon that starts while the API
//! does not answer goes on from what an earlier one kept.

#![forbid(unsafe_code)]

mod kept;
mod objects;
mod pod;
mod pool;
mod ports;
mod services;
#[cfg(test)]
mod tests;

use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::api::core::v1;
use kube::core::PartialObjectMeta;
use tokio::sync::watch::{self, Receiver, Sender};
use tokio::time::{Instant, sleep_until};

use self::objects::{Addresses, Objects};
use self::pod::{Pod, Trimmer};
use super::shape::{Earlier, Listed, Source, SourceError, SourceState, Started};
use crate::kubernetes::{Cluster, Stale, View, Which};
use crate::workload::config::Config;
use crate::workload::model::Labels;

/// Name of the API among the sources of workloads.
const NAME: &str = "kubernetes";
/// For how long a start waits for the API before it goes on from what an earlier daemon kept.
const PATIENCE: Duration = Duration::from_secs(3);

/// Follows the API for as long as somebody listens.
#[expect(clippy::unnecessary_wraps, reason = "all sources start in the same way, and others can fail")]
pub(super) fn start(config: &Config) -> Started {
    let Some(cluster) = config.kubernetes.clone() else { return Ok(None) };
    let kept = match &config.earlier {
        Earlier::Known(kept) => kept.get(NAME).cloned(),
        Earlier::Nothing | Earlier::Unknown => None,
    };
    let (to, state) = watch::channel(silent());
    let mut follower = Follower::new(&cluster, kept);
    tokio::spawn(async move { follower.run(&to).await });
    Ok(Some(Source { name: NAME, state }))
}

/// A source that has said nothing yet.
fn silent() -> SourceState {
    SourceState { name: "the Kubernetes API".to_owned(), is_awaited: true, ..SourceState::default() }
}

/// The views of all kinds, and what they came to last.
#[derive(Debug)]
struct Follower {
    /// Pods of this node.
    own: Receiver<View<Pod>>,
    /// Pods of other nodes.
    peers: Receiver<View<Pod>>,
    namespaces: Receiver<View<Labels>>,
    nodes: Receiver<View<Addresses>>,
    services: Receiver<View<Addresses>>,
    /// What an earlier daemon kept, until the API has answered.
    kept: Option<Arc<str>>,
    objects: Objects,
}

impl Follower {
    fn new(cluster: &Cluster, kept: Option<Arc<str>>) -> Self {
        let trimmer = Arc::new(Trimmer::new(cluster.node()));
        let here = Arc::clone(&trimmer);
        let own = Which::fields(format!("spec.nodeName={}", cluster.node()));
        Self {
            own: cluster.follow::<v1::Pod, Pod>(&(), &own, move |pod| here.own(pod)),
            peers: cluster.follow::<v1::Pod, Pod>(&(), &Which::all(), move |pod| trimmer.peer(pod)),
            namespaces: cluster.follow::<PartialObjectMeta<v1::Namespace>, Labels>(&(), &Which::all(), |namespace| {
                Some(namespace.metadata.labels.unwrap_or_default())
            }),
            nodes: cluster.follow::<v1::Node, Addresses>(&(), &Which::all(), |node| Some(objects::addresses_of(node))),
            services: cluster
                .follow::<v1::Service, Addresses>(&(), &Which::all(), |service| Some(services::addresses_of(service))),
            kept,
            objects: Objects::default(),
        }
    }

    async fn run(&mut self, to: &Sender<SourceState>) {
        let patience = Instant::now() + PATIENCE;
        loop {
            let is_late = Instant::now() >= patience;
            to.send_if_modified(|state| self.say(state, is_late));
            tokio::select! {
                () = changed(&mut self.own) => {}
                () = changed(&mut self.peers) => {}
                () = changed(&mut self.namespaces) => {}
                () = changed(&mut self.nodes) => {}
                () = changed(&mut self.services) => {}
                () = sleep_until(patience), if !is_late => {}
                () = to.closed() => return,
            }
        }
    }

    /// Says what the views say now; tells whether that is news. `is_late`: the API has had its time.
    fn say(&mut self, state: &mut SourceState, is_late: bool) -> bool {
        let (is_listed, error) = {
            let (own, peers) = (self.own.borrow_and_update(), self.peers.borrow_and_update());
            let (namespaces, nodes) = (self.namespaces.borrow_and_update(), self.nodes.borrow_and_update());
            let services = self.services.borrow_and_update();
            let is_listed = own.listed && peers.listed && namespaces.listed && nodes.listed && services.listed;
            if is_listed {
                self.objects.take(&own.objects, &peers.objects, &namespaces.objects, &nodes.objects);
                self.objects.take_services(&services.objects);
            }
            let stale = [&own.stale, &peers.stale, &namespaces.stale, &nodes.stale, &services.stale];
            (is_listed, stale.into_iter().flatten().map(down).next())
        };
        let next = if is_listed {
            self.kept = None;
            SourceState { error, ..self.objects.state(kept::text) }
        } else if state.listed == Listed::Never && (is_late || error.is_some()) {
            let waiting = || SourceError::Down("the API has not listed all objects yet".to_owned());
            let error = Some(error.unwrap_or_else(waiting));
            match self.kept.take().and_then(|text| from_kept(&text)) {
                Some(kept) => SourceState { error, ..kept },
                None => SourceState { error, ..state.clone() },
            }
        } else {
            SourceState { error, ..state.clone() }
        };
        let is_news = next.listed != state.listed
            || next.error != state.error
            || !Arc::ptr_eq(&next.statements, &state.statements)
            || next.namespaces != state.namespaces
            || next.nodes != state.nodes
            || next.services != state.services
            || next.kept != state.kept;
        *state = next;
        is_news
    }
}

/// What an earlier daemon kept; `None`: nobody can read it.
fn from_kept(text: &Arc<str>) -> Option<SourceState> {
    match kept::read(text) {
        Ok(mut objects) => Some(objects.state(kept::text)),
        Err(error) => {
            tracing::warn!(%error, "cannot read the pods that an earlier daemon kept; waiting for the Kubernetes API");
            None
        }
    }
}

fn down(stale: &Stale) -> SourceError {
    SourceError::Down(stale.error.to_string())
}

/// Waits for news of one kind.
async fn changed<T>(view: &mut Receiver<View<T>>) {
    // One that has ended says nothing else any more.
    if view.changed().await.is_err() {
        std::future::pending::<()>().await;
    }
}
