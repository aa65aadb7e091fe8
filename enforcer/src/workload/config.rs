//! The configuration with which the agent starts discovery: sources, uplinks, and what an earlier daemon knew.

#![forbid(unsafe_code)]

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use enforcer_common::id::Ifindex;

use super::source::inventory::Inventory;
use super::source::runtime::RuntimeKind;

/// What discovery watches, and what an earlier daemon knew.
#[derive(Clone, Debug, Default)]
pub struct Config {
    /// The inventory; empty if there is none.
    pub inventory: Inventory,
    /// True if there is an inventory whose content is not known. Then there is no snapshot before
    /// `Discovery::use_inventory`.
    pub awaits_inventory: bool,
    /// Container runtime.
    pub runtime: Option<RuntimeKind>,
    /// Devices that are uplinks whatever else is known of them.
    pub uplinks: Vec<String>,
    /// The owner of each address in an earlier run, named by the ifindex of one of its veths.
    pub owners: BTreeMap<IpAddr, Ifindex>,
    /// Veths (by ifindex) that belonged to workloads in an earlier run.
    pub endpoints: BTreeSet<Ifindex>,
    /// Devices (by ifindex) that were uplinks in an earlier run. A veth among them stays one unless a source names it.
    pub uplink_ifindexes: BTreeSet<Ifindex>,
}
