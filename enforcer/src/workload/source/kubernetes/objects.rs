//! The objects of the API, and what they say together.
//!
//! Input: complete sets of pods, namespaces, nodes and Services. Output: the state of the source. What has not changed is shared with the
//! last state.

#![forbid(unsafe_code)]

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;

use k8s_openapi::api::core::v1;

use super::pod::Pod;
use super::silent;
use crate::kubernetes::Key;
use crate::workload::model::Labels;
use crate::workload::source::shape::{Listed, SourceState};
use crate::workload::statement::Statement;

/// Addresses of one object.
pub(super) type Addresses = BTreeSet<IpAddr>;
/// A complete set of one kind.
type Set<T> = BTreeMap<Key, Arc<T>>;

/// What the API says.
#[derive(Debug, Default)]
pub(super) struct Objects {
    /// Pods of this node, then those of others; each part in the order of their names.
    pub(super) pods: Vec<Arc<Pod>>,
    pub(super) namespaces: Arc<BTreeMap<String, Labels>>,
    /// By address, the node that says so in the API.
    pub(super) nodes: BTreeMap<IpAddr, Arc<str>>,
    /// Of all Services.
    pub(super) services: Arc<Addresses>,
    state: Option<SourceState>,
}

impl Objects {
    pub(super) fn new(
        pods: Vec<Arc<Pod>>,
        namespaces: BTreeMap<String, Labels>,
        nodes: BTreeMap<IpAddr, Arc<str>>,
        services: Addresses,
    ) -> Self {
        Self { pods, namespaces: Arc::new(namespaces), nodes, services: Arc::new(services), state: None }
    }

    /// Takes what the API says now.
    pub(super) fn take(&mut self, own: &Set<Pod>, peers: &Set<Pod>, namespaces: &Set<Labels>, nodes: &Set<Addresses>) {
        let pods = || own.values().chain(peers.values());
        let is_same = pods().map(Arc::as_ptr).eq(self.pods.iter().map(Arc::as_ptr));
        let same_namespace = |((key, labels), (name, before)): ((&Key, &Arc<Labels>), (&String, &Labels))| {
            *key.name == **name && **labels == *before
        };
        let are_same = namespaces.len() == self.namespaces.len()
            && namespaces.iter().zip(self.namespaces.iter()).all(same_namespace);
        let nodes: BTreeMap<IpAddr, Arc<str>> = nodes
            .iter()
            .flat_map(|(key, addresses)| addresses.iter().map(|address| (*address, Arc::clone(&key.name))))
            .collect();
        if self.state.is_some() && is_same && are_same && nodes == self.nodes {
            return;
        }
        if !is_same {
            self.pods = pods().cloned().collect();
        }
        if !are_same {
            let labels = namespaces.iter().map(|(key, labels)| (key.name.to_string(), Labels::clone(labels)));
            self.namespaces = Arc::new(labels.collect());
        }
        self.nodes = nodes;
        self.state = None;
    }

    /// Takes the addresses of Services that the API knows now.
    pub(super) fn take_services(&mut self, services: &Set<Addresses>) {
        let services: Addresses = services.values().flat_map(|addresses| addresses.iter().copied()).collect();
        if services != *self.services {
            self.services = Arc::new(services);
            self.state = None;
        }
    }

    /// What all of it comes to. `text` is what a later daemon reads all of it from.
    pub(super) fn state(&mut self, text: impl FnOnce(&Self) -> String) -> SourceState {
        if let Some(state) = &self.state {
            return state.clone();
        }
        let state = SourceState {
            listed: Listed::Complete,
            statements: Arc::new(self.statements()),
            namespaces: Arc::clone(&self.namespaces),
            nodes: Arc::new(self.addresses_of_nodes()),
            services: Arc::clone(&self.services),
            kept: Some(text(self).into()),
            ..silent()
        };
        self.state = Some(state.clone());
        state
    }

    fn statements(&self) -> Vec<Arc<Statement>> {
        let said = || {
            self.pods.iter().filter_map(|pod| match &**pod {
                Pod::Own { statement, leaving } => Some((statement, *leaving)),
                Pod::Host { .. } => None,
            })
        };
        // A node gives an address to the next pod when the last one's containers have stopped, so who is not leaving has it.
        let old: BTreeSet<IpAddr> =
            said().filter(|(_, leaving)| *leaving).flat_map(|(pod, _)| pod.addresses.iter().copied()).collect();
        let staying = said().filter(|(_, leaving)| !leaving && !old.is_empty());
        let again: BTreeSet<IpAddr> =
            staying.flat_map(|(pod, _)| pod.addresses.iter().copied()).filter(|own| old.contains(own)).collect();
        // Selectors would see a pod without the labels of its namespace, and some of them match where a label is missing.
        let is_known =
            |pod: &Statement| pod.declared().is_some_and(|name| self.namespaces.contains_key(&name.namespace));
        let known = said().filter(|(pod, _)| is_known(pod));
        known
            .map(|(pod, leaving)| {
                if !leaving || pod.addresses.is_disjoint(&again) {
                    return Arc::clone(pod);
                }
                let mut pod = Statement::clone(pod);
                pod.addresses.retain(|address| !again.contains(address));
                Arc::new(pod)
            })
            .collect()
    }

    /// Those that nodes say of themselves, and those of pods in a node's network.
    fn addresses_of_nodes(&self) -> BTreeMap<IpAddr, Arc<str>> {
        let of_pods = self.pods.iter().filter_map(|pod| match &**pod {
            Pod::Host { node, addresses } => Some(addresses.iter().map(|address| (*address, Arc::clone(node)))),
            Pod::Own { .. } => None,
        });
        let own = self.nodes.iter().map(|(address, node)| (*address, Arc::clone(node)));
        of_pods.flatten().chain(own).collect()
    }
}

/// The addresses that a node has by its own word. No rule uses its `podCIDRs`: many networks give pods others.
pub(super) fn addresses_of(node: v1::Node) -> Addresses {
    let addresses = node.status.and_then(|status| status.addresses).unwrap_or_default();
    let wanted = addresses.iter().filter(|address| matches!(address.type_.as_str(), "InternalIP" | "ExternalIP"));
    wanted.filter_map(|address| address.address.parse().ok()).collect()
}
