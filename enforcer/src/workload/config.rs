//! The configuration with which the agent starts discovery: sources, uplinks, and what an earlier daemon knew.

#![forbid(unsafe_code)]

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use super::source::inventory::Inventory;
use super::source::runtime::RuntimeKind;

/// Where to look.
#[derive(Clone, Debug, Default)]
pub struct Config {
    /// The inventory; empty if there is none.
    pub inventory: Inventory,
    /// There is an inventory and nobody knows what it says: no snapshot before `Discovery::use_inventory`.
    pub awaits_inventory: bool,
    /// Container runtime.
    pub runtime: Option<RuntimeKind>,
    /// Devices that are uplinks whatever else is known of them.
    pub uplinks: Vec<String>,
    /// Who had which address in an earlier run, by the ifindex of one of its veths.
    pub owners: BTreeMap<IpAddr, u32>,
    /// Veths (by ifindex) that were workloads' in an earlier run.
    pub endpoints: BTreeSet<u32>,
    /// Devices (by ifindex) that were uplinks in an earlier run. A veth among them stays one unless a source names it.
    pub uplink_ifindexes: BTreeSet<u32>,
}
