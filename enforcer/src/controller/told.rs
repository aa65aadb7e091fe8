//! What the controller keeps of the objects that it follows.
//!
//! Input: objects of the API. Output: what the status of a FlowPolicy needs of them. Anybody who has taken over a node may
//! write anything into its `EnforcerNode`, so what is kept of it is bounded by its kind and counts for this node alone.

use std::collections::BTreeMap;

use kube::core::DynamicObject;
use serde::Deserialize;

use crate::kubernetes::Key;
use crate::policy::schema::{self, status::Status};
use crate::publish::{Applied, MOST_POLICIES, NodeStatus, RefusedPolicy, Unmanaged};

pub(super) const NETWORK_POLICY: &str = "NetworkPolicy";

/// A FlowPolicy.
#[derive(Debug, PartialEq)]
pub(super) struct Policy {
    pub(super) uid: String,
    pub(super) generation: i64,
    /// What its status says now; `None`: nothing, or nothing that the controller has written.
    pub(super) status: Option<Status>,
}

impl Policy {
    pub(super) fn of(object: DynamicObject) -> Option<Self> {
        let status = object.data.get("status").and_then(|status| Status::deserialize(status).ok());
        Some(Self { uid: object.metadata.uid?, generation: object.metadata.generation?, status })
    }
}

/// What the agent of a node says about `FlowPolicies`, by the uid of each.
#[derive(Debug, Default, PartialEq)]
pub(super) struct Node {
    /// The first full set is in the kernel.
    ready: bool,
    /// It has more policies than it may list, and some FlowPolicy may be among the others.
    is_cut: bool,
    in_force: BTreeMap<String, InForce>,
    refused: BTreeMap<String, Refused>,
    refused_networks: Vec<RefusedNetwork>,
    unmanaged: Vec<(String, Key)>,
}

/// A NetworkPolicy that the node refuses.
#[derive(Debug, PartialEq)]
struct RefusedNetwork {
    key: Key,
    uid: String,
    generation: i64,
    error: String,
}

#[derive(Debug, PartialEq)]
struct InForce {
    generation: i64,
    stands_in: bool,
}

/// Why a node refuses a generation.
#[derive(Debug, PartialEq)]
pub(super) struct Refused {
    generation: i64,
    pub(super) instead: String,
    pub(super) error: String,
}

/// What a node says about one generation.
#[derive(Debug, PartialEq)]
pub(super) enum Says<'a> {
    InForce,
    /// `None`: it refuses more objects than it may tell the errors of.
    Refuses(Option<&'a Refused>),
    Behind,
    NotListed,
}

impl Node {
    /// A node that has said nothing, or nothing that can be read, is behind with everything.
    pub(super) fn of(object: &DynamicObject) -> Self {
        let status = object.data.get("status").and_then(|status| NodeStatus::deserialize(status).ok());
        status.map(Self::from).unwrap_or_default()
    }

    pub(super) fn says_of(&self, uid: &str, generation: i64) -> Says<'_> {
        if let Some(refused) = self.refused.get(uid).filter(|refused| refused.generation == generation) {
            return Says::Refuses(Some(refused));
        }
        match self.in_force.get(uid) {
            Some(found) if found.generation == generation && found.stands_in => Says::Refuses(None),
            Some(found) if found.generation == generation && self.ready => Says::InForce,
            None if self.is_cut => Says::NotListed,
            Some(_) | None => Says::Behind,
        }
    }

    /// `NetworkPolicies` that it refuses: name, uid, generation and error.
    pub(super) fn refused_networks(&self) -> impl Iterator<Item = (&Key, &str, i64, &str)> {
        self.refused_networks.iter().map(|one| (&one.key, &*one.uid, one.generation, &*one.error))
    }

    /// Pods that it says are not enforced, each with the reason.
    pub(super) fn unmanaged(&self) -> impl Iterator<Item = (&str, &Key)> {
        self.unmanaged.iter().map(|(reason, pod)| (&**reason, pod))
    }
}

impl From<NodeStatus> for Node {
    fn from(status: NodeStatus) -> Self {
        let is_flow = |kind: &str| kind == schema::KIND.name;
        // The list begins with FlowPolicies.
        let is_cut = status.policies.len() >= MOST_POLICIES && status.policies.iter().all(|one| is_flow(&one.kind));
        let in_force = |Applied { uid, generation, stands_in, .. }: Applied| {
            Some((uid?, InForce { generation: generation?, stands_in }))
        };
        let refused = |RefusedPolicy { uid, generation, instead, error, .. }: RefusedPolicy| {
            Some((uid?, Refused { generation: generation?, instead, error }))
        };
        let is_network = |one: &&RefusedPolicy| one.kind == NETWORK_POLICY;
        let refused_network = |one: &RefusedPolicy| {
            let RefusedPolicy { namespace, name, error, .. } = one;
            let (uid, generation) = (one.uid.clone()?, one.generation?);
            Some(RefusedNetwork { key: key(namespace, name), uid, generation, error: error.clone() })
        };
        let refused_networks = status.refused.iter().filter(is_network).filter_map(refused_network).collect();
        let pods = |of: &Unmanaged| {
            let named = of.pods.iter().filter_map(|pod| pod.split_once('/'));
            named.map(|(namespace, name)| (of.reason.clone(), key(namespace, name))).collect::<Vec<_>>()
        };
        Self {
            refused_networks,
            unmanaged: status.unmanaged_pods.iter().flat_map(pods).collect(),
            ready: status.ready,
            is_cut,
            in_force: status.policies.into_iter().filter(|one| is_flow(&one.kind)).filter_map(in_force).collect(),
            refused: status.refused.into_iter().filter(|one| is_flow(&one.kind)).filter_map(refused).collect(),
        }
    }
}

fn key(namespace: &str, name: &str) -> Key {
    Key { namespace: namespace.into(), name: name.into() }
}

#[cfg(test)]
pub(super) mod tests {
    use serde_json::{Value, json};

    use super::*;

    pub(in crate::controller) fn node(status: &Value) -> Node {
        let object = json!({
            "apiVersion": "enforcer.dev/v1alpha1", "kind": "EnforcerNode", "metadata": {"name": "n1"}, "status": status,
        });
        Node::of(&serde_json::from_value(object).unwrap())
    }
}
