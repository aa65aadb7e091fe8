//! The daemon's report about itself, which `enforcer status` reads. The daemon writes it beside its state at each change.

use serde::{Deserialize, Serialize};

/// What only the daemon itself knows. What the kernel knows is read from the pins.
#[derive(Clone, Debug, Default, Deserialize, PartialEq, Serialize)]
pub struct Report {
    /// Its process.
    pub pid: u32,
    /// Where the policies come from.
    pub policies: String,
    /// Number of policies in force.
    pub policy_count: usize,
    /// Why what lies in the policy directory is not in force.
    pub policy_error: Option<String>,
    /// Why what lies in the inventory is not in force.
    pub inventory_error: Option<String>,
    /// Why the newest state of workloads and policies is not in the kernel.
    pub apply_error: Option<String>,
    /// Not every source of workloads has given its first list.
    pub awaits_sources: bool,
    /// What of the plan in force could not be done yet.
    pub unfinished: Vec<String>,
    /// What discovery noticed and did not act on.
    pub findings: Vec<String>,
    /// Address claims that were refused.
    pub refused_claims: u64,
    /// How changes inside containers come to be known.
    pub discovery: String,
    /// Names of the devices towards the outside.
    pub uplinks: Vec<String>,
    /// Workloads with a veth here, by name or as unknown.
    pub workloads: Vec<WorkloadLine>,
    /// Unknown workloads are open.
    pub unknown_open: bool,
    /// How many workloads are unknown, those included whose sources contradict each other: these are closed in any case.
    #[serde(default)]
    pub unknown_workloads: usize,
    /// Their veths.
    #[serde(default)]
    pub unknown_veths: Vec<String>,
    /// Lines written to the flow log.
    pub flow_log_lines: u64,
    /// Records that the flow log had no room for: their packets are told of without their flows.
    pub flow_log_merged: u64,
    /// Packets on which kernel and policies disagree: an error of ours.
    pub disagreements: u64,
    /// Parts of the intended state that were found changed and put right.
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
    /// Policies that isolate it: ingress, egress.
    pub policies: [usize; 2],
}
