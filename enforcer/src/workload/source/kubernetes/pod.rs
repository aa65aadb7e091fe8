//! What is kept of a pod.
//!
//! Input: a pod as the API has it. Output: the statement about it, made once, and how far it is in its life. A pod that has
//! ended, or has no address yet on another node, is as if it were not there.

#![forbid(unsafe_code)]

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::sync::Arc;

use k8s_openapi::api::core::v1;

use super::pool::{Pool, Shared};
use super::ports::ports;
use crate::workload::model::{LabelSets, WorkloadName};
use crate::workload::names::is_unicast;
use crate::workload::statement::{About, FoundBy, POD, Statement};

/// A static pod has this annotation on the object that stands for it in the API. The object may be made again, with another
/// uid, while the pod runs; the value stays.
const STATIC_POD: &str = "kubernetes.io/config.mirror";

/// A pod with an address, or one of this node.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(super) enum Pod {
    /// It has a network of its own.
    Own {
        /// What is said of it.
        statement: Arc<Statement>,
        /// It is about to end: another pod may have its address by now.
        leaving: bool,
    },
    /// It is in the network of its node, so its addresses are the node's (D6).
    Host {
        /// The node.
        node: Arc<str>,
        /// Its addresses.
        addresses: BTreeSet<IpAddr>,
    },
}

/// Trims pods for one node.
#[derive(Debug)]
pub(super) struct Trimmer {
    node: Arc<str>,
    labels: Pool<LabelSets>,
}

impl Shared for LabelSets {
    fn clones(&self) -> usize {
        self.holders()
    }
}

impl Trimmer {
    pub(super) fn new(node: &str) -> Self {
        Self { node: node.into(), labels: Pool::new() }
    }

    /// A pod of this node.
    pub(super) fn own(&self, pod: v1::Pod) -> Option<Pod> {
        let node = pod.spec.as_ref()?.node_name.as_deref()?;
        (node == &*self.node).then_some(())?;
        self.trim(pod, true)
    }

    /// A pod of another node that has an address.
    pub(super) fn peer(&self, pod: v1::Pod) -> Option<Pod> {
        let node = pod.spec.as_ref()?.node_name.as_deref()?;
        (node != &*self.node).then_some(())?;
        self.trim(pod, false)
    }

    fn trim(&self, pod: v1::Pod, is_own: bool) -> Option<Pod> {
        let v1::Pod { metadata, spec, status } = pod;
        let (spec, status) = (spec?, status.unwrap_or_default());
        let leaving = metadata.deletion_timestamp.is_some();
        if has_ended(&status, leaving) {
            return None;
        }
        let addresses = addresses(&status);
        if addresses.is_empty() && !is_own {
            return None;
        }
        if spec.host_network == Some(true) {
            let node = spec.node_name.as_deref().unwrap_or_default().into();
            return (!addresses.is_empty()).then_some(Pod::Host { node, addresses });
        }
        let name = WorkloadName { namespace: metadata.namespace?, name: metadata.name? };
        let annotations = metadata.annotations.unwrap_or_default();
        let object = match annotations.get(STATIC_POD) {
            Some(of) => format!("{POD}{name} static {of}"),
            None => format!("{POD}{}", metadata.uid?),
        };
        let statement = Statement {
            by: format!("pod {name}"),
            about: About::Workload(name),
            object,
            labels: self.labels.share(metadata.labels.unwrap_or_default().into()),
            ports: ports(&spec),
            routes: false,
            found_by: if is_own { FoundBy::Pod { leaving } } else { FoundBy::Elsewhere },
            addresses,
            floating: BTreeSet::new(),
            remarks: Vec::new(),
        };
        Some(Pod::Own { statement: Arc::new(statement), leaving })
    }
}

/// Whether nothing of a pod runs any more, so that its address may be another's (N25).
fn has_ended(status: &v1::PodStatus, leaving: bool) -> bool {
    if matches!(status.phase.as_deref(), Some("Succeeded" | "Failed")) {
        return true;
    }
    let all = [&status.init_container_statuses, &status.container_statuses, &status.ephemeral_container_statuses];
    let mut all = all.into_iter().flatten().flatten().peekable();
    // A node that has said nothing of a container may be running it. One that is told to end is not started again.
    leaving && all.peek().is_some() && all.all(|container| has_stopped(container.state.as_ref()))
}

fn has_stopped(state: Option<&v1::ContainerState>) -> bool {
    state.is_some_and(|state| state.running.is_none() && (state.terminated.is_some() || state.waiting.is_some()))
}

/// The addresses that a pod's node says of it.
fn addresses(status: &v1::PodStatus) -> BTreeSet<IpAddr> {
    let several = status.pod_ips.iter().flatten().map(|of| of.ip.as_str());
    let texts = several.chain(status.pod_ip.as_deref());
    texts.filter_map(|text| text.parse().ok()).filter(|address| is_unicast(*address)).collect()
}
