//! What the agent asks for and what it is told: plain data.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;

use enforcer_common::id::{Address, OwnerId, PolicyWord, Row};
use enforcer_common::image::{AddressEntry, Line};
use enforcer_common::limits;

use crate::kernel::error::KernelError;

/// How to open the kernel side.
#[derive(Clone, Debug)]
pub struct KernelConfig {
    /// Where everything is pinned.
    pub pin_dir: PathBuf,
    /// Entries of the flow table. Counts when the table is made; a pinned one keeps its size.
    pub flows: u32,
    /// Flows of one workload.
    pub flow_quota: u32,
    /// Another object than the embedded one.
    pub object: Option<Vec<u8>>,
}

impl Default for KernelConfig {
    fn default() -> Self {
        Self {
            pin_dir: PathBuf::from("/sys/fs/bpf/enforcer"),
            flows: limits::FLOWS,
            flow_quota: limits::FLOW_QUOTA,
            object: None,
        }
    }
}

/// An image and who it is for.
#[derive(Clone, Debug)]
pub struct Plan<'a> {
    /// Lines of the compiled image.
    pub lines: &'a [Line],
    /// Its exact addresses.
    pub addresses: &'a [(Address, AddressEntry)],
    /// Every workload with a veth here, unknown ones included. A veth that is attached and that no workload names is
    /// closed.
    pub workloads: Vec<PlannedWorkload>,
    /// Devices towards the outside. One that was a workload's is detached.
    pub uplinks: Vec<u32>,
}

/// One workload.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct PlannedWorkload {
    /// Its incarnation, never reused within a run of the daemon.
    pub key: u64,
    /// Host sides of its veths, by ifindex.
    pub endpoints: Vec<u32>,
    /// Its own addresses.
    pub addresses: Vec<Address>,
    /// Closed: only ARP and neighbour discovery pass.
    pub unknown: bool,
    /// May send from addresses that no local workload and no node has.
    pub routes: bool,
    /// Rows, by [`enforcer_common::id::Direction`].
    pub rows: [Row; 2],
    /// How long older connections are accepted (D10) on a veth that this attaches for the first time.
    pub window: Option<Duration>,
}

/// A plan is in force.
#[derive(Debug)]
#[must_use]
pub struct Applied {
    /// Revision and epoch in force.
    pub word: PolicyWord,
    /// Id of each workload in denial records, by key.
    pub ids: BTreeMap<u64, OwnerId>,
    /// Addresses beyond the places of a workload: they stay without an owner.
    pub refused: Vec<RefusedAddress>,
    /// What went wrong after the plan came into force, device by device. The next plan tries again.
    pub failures: Vec<KernelError>,
}

/// An address that found no place.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct RefusedAddress {
    /// Workload.
    pub key: u64,
    /// Address.
    pub address: Address,
}

/// An endpoint that an earlier daemon has left attached.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct AdoptedEndpoint {
    /// Host side of the veth.
    pub ifindex: u32,
    /// Id of the workload in denial records.
    pub id: OwnerId,
    /// Its own addresses.
    pub addresses: Vec<Address>,
}
