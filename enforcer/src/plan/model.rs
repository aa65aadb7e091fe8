//! The plan itself: plain data that says what shall be in force.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use enforcer_common::id::{Address, Ifindex, Row};
use enforcer_common::image::{AddressEntry, Line};

use super::WorkloadKey;
use crate::workload::model::Beside;

/// An image, and the workloads for which it is.
#[derive(Clone, Debug)]
pub struct Plan<'a> {
    /// Lines of the compiled image.
    pub lines: &'a [Line],
    /// Its exact addresses.
    pub addresses: &'a [(Address, AddressEntry)],
    /// Every workload with a veth on this node, including unknown ones. An attached veth that no workload names is
    /// closed.
    pub workloads: Vec<PlannedWorkload>,
    /// Devices that lead out of the node. If one belonged to a workload before, it is detached.
    pub uplinks: Vec<Ifindex>,
    /// By which devices else the packets of a veth's workload come in: what lies above the veth on the way to the stack.
    pub above: BTreeMap<Ifindex, BTreeSet<Ifindex>>,
    /// What else is on the links of the veths.
    pub beside: Beside,
}

/// One workload.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct PlannedWorkload {
    /// Its incarnation, never reused within a run of the daemon.
    pub key: WorkloadKey,
    /// Host sides of its veths, by ifindex.
    pub endpoints: Vec<Ifindex>,
    /// Its own addresses.
    pub addresses: Vec<Address>,
    /// The workload is closed: only ARP, discovery and membership of groups pass.
    pub unknown: bool,
    /// The workload may send from addresses that belong to no local workload and not to the node.
    pub routes: bool,
    /// Rows, by [`enforcer_common::id::Direction`].
    pub rows: [Row; 2],
    /// How long older connections are accepted (D10) on a veth that this attaches for the first time.
    pub window: Option<Duration>,
}

/// An address that gets no owner id: the workload may not send from it, and nobody else may either.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct RefusedAddress {
    /// Workload.
    pub key: WorkloadKey,
    /// Address.
    pub address: Address,
    /// Why.
    pub why: Refusal,
}

/// Why an address gets no owner id.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Refusal {
    /// The endpoint has no place for it.
    NoPlace,
    /// The workload has used up its new ids for now.
    TooManyNew,
}
