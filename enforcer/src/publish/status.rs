//! What an `EnforcerNode` says.
//!
//! Input: none. Output: the types of its `status`. Every list and text of them has a bound, whatever the node holds.

use serde::{Deserialize, Serialize};

/// Policies that are listed one by one.
pub const MOST_POLICIES: usize = 500;
/// Refused policies that are listed.
pub const MOST_REFUSED: usize = 50;
/// Characters of the error of one of them.
pub const REFUSAL: usize = 500;
/// Reasons for which pods are not enforced.
pub const MOST_REASONS: usize = 16;
/// Pods that are named for each reason.
pub const MOST_PODS: usize = 10;
/// Characters of an error.
pub const ERROR: usize = 2_000;
/// Sources that are listed as out of date.
pub const MOST_STALE: usize = 16;

/// What one agent says about its node.
#[derive(Clone, Debug, Default, Deserialize, Eq, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct NodeStatus {
    /// Version of the agent.
    pub version: String,
    /// Whether the first full set of policies and workloads is in the kernel.
    pub ready: bool,
    /// Revision of the policies in the kernel.
    pub revision: u64,
    /// How many policies are in force.
    pub policy_count: u64,
    /// The policies of the API in force, `FlowPolicies` first, in the order of their names; not more than some.
    pub policies: Vec<Applied>,
    /// The policies of the API of which the newest version is refused; not more than some.
    #[serde(default)]
    pub refused: Vec<RefusedPolicy>,
    /// Veths by what holds for them.
    pub veths: Veths,
    /// Workloads of this node.
    pub workloads: Workloads,
    /// Pods of this node that are not enforced, by reason.
    pub unmanaged_pods: Vec<Unmanaged>,
    /// Sources of which the last word may be out of date.
    pub stale: Vec<StaleSource>,
    /// Since when the first of them is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub stale_since: Option<String>,
    /// Why something of the newest policies or workloads is not in force.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_error: Option<String>,
}

/// A policy of the API that is in force.
#[derive(Clone, Debug, Default, Deserialize, Eq, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Applied {
    /// Its kind.
    pub kind: String,
    /// Its namespace.
    pub namespace: String,
    /// Its name.
    pub name: String,
    /// The `resourceVersion` of the object from which it was read; absent: it is not known, or `generation` tells it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub resource_version: Option<String>,
    /// The `uid` of the object.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub uid: Option<String>,
    /// The `generation` of the object from which it was read.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub generation: Option<i64>,
    /// It isolates in the place of this version of the object, which is refused.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub stands_in: bool,
}

/// A policy of the API of which the newest version is refused.
#[derive(Clone, Debug, Default, Deserialize, Eq, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct RefusedPolicy {
    /// Its kind.
    pub kind: String,
    /// Its namespace.
    pub namespace: String,
    /// Its name.
    pub name: String,
    /// The `resourceVersion` of the refused version; absent: it is not known, or `generation` tells it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub resource_version: Option<String>,
    /// The `uid` of the object.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub uid: Option<String>,
    /// The `generation` of the refused version.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub generation: Option<i64>,
    /// What counts in its place: `LastGood`, `Isolation` or `Nothing`.
    pub instead: String,
    /// Why it is refused.
    pub error: String,
}

/// Veths by what holds for them.
#[derive(Clone, Copy, Debug, Default, Deserialize, Eq, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Veths {
    /// They have their programs, and a source names their workload.
    pub enforced: u64,
    /// They have their programs, and no source names their workload.
    pub unknown: u64,
    /// They have no place in the tables, or lack a program.
    pub failed: u64,
}

/// Workloads of this node.
#[derive(Clone, Copy, Debug, Default, Deserialize, Eq, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Workloads {
    /// They have a name.
    pub named: u64,
    /// They have none.
    pub unknown: u64,
}

/// Pods that are not enforced for one reason.
#[derive(Clone, Debug, Default, Deserialize, Eq, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Unmanaged {
    /// The reason, in one word.
    pub reason: String,
    /// How many pods.
    pub count: u64,
    /// Some of them, as `NAMESPACE/NAME`.
    pub pods: Vec<String>,
}

/// A source of which the last word may be out of date.
#[derive(Clone, Debug, Default, Deserialize, Eq, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct StaleSource {
    /// Since when.
    pub since: String,
    /// What is in the way.
    pub error: String,
}
