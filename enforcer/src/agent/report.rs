//! The daemon's report about itself, which `enforcer status` reads. The daemon writes it beside its state at each change.

use std::collections::BTreeMap;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::policy::source::Versioned;

/// What only the daemon itself knows. `status` reads everything else from the pins.
#[derive(Clone, Debug, Default, Deserialize, PartialEq, Serialize)]
pub struct Report {
    /// Process id of the daemon.
    pub pid: u32,
    /// Where the policies come from.
    pub policies: String,
    /// Number of policies in force.
    pub policy_count: usize,
    /// The policies of the Kubernetes API in force, with the version of each object.
    #[serde(default)]
    pub versions: Arc<Vec<Versioned>>,
    /// The documents beside the policies in force that are none, counted in one line.
    #[serde(default)]
    pub policies_skipped: Option<String>,
    /// Policies, rules and port names without an effect, as text; not more than some.
    #[serde(default)]
    pub no_ops: Vec<String>,
    /// Why and since when what a source of policies said last may be out of date.
    #[serde(default)]
    pub stale_sources: Vec<String>,
    /// Sources of policies that are not there at all, such as a kind that the API server does not have.
    #[serde(default)]
    pub missing_sources: Vec<String>,
    /// The error for which the newest policies are not in force.
    pub policy_error: Option<String>,
    /// Something that the newest policies open waits until their files are quiet.
    #[serde(default)]
    pub opening_waits: bool,
    /// Errors for which the newest version of a source of workloads, such as the inventory, is not in force.
    #[serde(default)]
    pub refused_sources: Vec<String>,
    /// The error for which the newest state of workloads and policies is not in the kernel.
    pub apply_error: Option<String>,
    /// True until every source of workloads has given its first list.
    pub awaits_sources: bool,
    /// Errors of the steps of the plan in force that are not done yet.
    pub unfinished: Vec<String>,
    /// The findings of discovery, as text.
    pub findings: Vec<String>,
    /// Findings for which a workload is closed although a source names it, as text.
    #[serde(default)]
    pub closed: Vec<String>,
    /// Findings of workloads with devices that pass no program, as text.
    #[serde(default)]
    pub partly_enforced: Vec<String>,
    /// Address claims that were refused.
    pub refused_claims: u64,
    /// How the daemon learns about changes inside containers.
    pub discovery: String,
    /// Names of the devices towards the outside.
    pub uplinks: Vec<String>,
    /// Devices that lead to no workload, by ifindex and name: each should have a guard.
    #[serde(default)]
    pub others: Vec<(u32, String)>,
    /// Workloads with a veth here, by name or as unknown.
    pub workloads: Vec<WorkloadLine>,
    /// True if unknown workloads are open.
    pub unknown_open: bool,
    /// Number of unknown workloads. It includes those whose sources contradict each other, which are always closed.
    #[serde(default)]
    pub unknown_workloads: usize,
    /// Veths of the unknown workloads.
    #[serde(default)]
    pub unknown_veths: Vec<String>,
    /// Lines written to the flow log.
    pub flow_log_lines: u64,
    /// Records for which the flow log had no room. Their packets are reported as a sum, without their flows.
    pub flow_log_merged: u64,
    /// Records beyond what a workload may write to the flow log. Their packets are reported as a sum, without their flows.
    #[serde(default)]
    pub flow_log_over_limit: u64,
    /// Packets that the kernel denied although the policies allow them, which is a defect of Enforcer.
    pub disagreements: u64,
    /// Parts of the kernel state that something else had changed and that the daemon has repaired.
    pub repaired: u64,
}

/// One workload.
#[derive(Clone, Debug, Default, Deserialize, PartialEq, Serialize)]
pub struct WorkloadLine {
    /// Namespace and name; empty: unknown.
    pub name: String,
    /// Its veths: ifindex and name.
    pub endpoints: Vec<(u32, String)>,
    /// Its addresses.
    pub addresses: Vec<String>,
    /// Its devices that pass no program, with their kinds.
    #[serde(default)]
    pub foreign: Vec<String>,
    /// Who vouches for each of its addresses, in a word or two.
    #[serde(default)]
    pub vouchers: BTreeMap<String, String>,
    /// Policies that isolate it: ingress, egress.
    pub policies: [usize; 2],
}
