//! What a run reads and writes, in small traits. The kernel implements them over eBPF maps, and the tests over ordinary
//! memory.
//!
//! A function names only the traits that it uses, so its bounds show on what its verdict depends.

use crate::endpoint::Endpoint;
use crate::flow_key::FlowKey;
use crate::flow_state::{FlowValue, Home};
use crate::id::{Direction, Ifindex, PolicyWord, QuotaPlace, Slot};
use crate::image::ReadImage;
use crate::verdict::Reason;

/// The policy in force.
pub trait PolicyTables {
    /// The tables of one image.
    type Image: ReadImage;
    /// The policy in force. Asked once by each half of a run, and no verdict mixes two answers.
    fn word(&self) -> PolicyWord;
    /// The image in a slot.
    fn image(&self, slot: Slot) -> Option<Self::Image>;
}

/// The devices of this node.
pub trait Devices {
    /// The endpoint of a device.
    fn endpoint(&self, ifindex: Ifindex) -> Option<&Endpoint>;
    /// Whether a device leads to the outside.
    fn is_uplink(&self, ifindex: Ifindex) -> bool;
}

/// The flow table, and the counts of its flows.
pub trait Flows {
    /// The state of a flow.
    fn flow(&self, key: &FlowKey) -> Option<&FlowValue>;
    /// Adds a half-open flow, and puts its place among those into its `home`: the oldest of them gives way. Refused if the
    /// share in which the flow would be counted is full. False: it is there already.
    fn insert(&self, key: &FlowKey, flow: &mut FlowValue) -> Result<bool, Reason>;
    /// Counts a flow that is being established in a workload's share, if there is room in that and in the table.
    fn take(&self, quota: QuotaPlace, share: Direction) -> Result<(), Reason>;
    /// Takes a flow off that count.
    fn give(&self, quota: QuotaPlace, share: Direction);
    /// Frees the place that a flow had while it was half open.
    fn settle(&self, key: &FlowKey, home: Home);
}

/// The clocks.
pub trait Clock {
    /// A clock of about one second a tick, for idle flows.
    fn tick(&self) -> u32;
    /// CLOCK_BOOTTIME in ns.
    fn boot_time(&self) -> u64;
}

/// Bounds that the operator sets.
pub trait Bounds {
    /// Bytes that an ICMP error may have which passes with the flow that it quotes; 0: as many as its family permits.
    fn error_bytes(&self) -> u32;
}
