//! What a run reads and writes, in small traits. The kernel implements them over eBPF maps, and the tests over ordinary
//! memory.
//!
//! A function names only the traits that it uses, so its bounds show on what its verdict depends.

use crate::endpoint::Endpoint;
use crate::flow_key::FlowKey;
use crate::flow_state::FlowValue;
use crate::id::{Ifindex, PolicyWord, Slot};
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

/// The flow table.
pub trait Flows {
    /// The state of a flow.
    fn flow(&self, key: &FlowKey) -> Option<&FlowValue>;
    /// Adds a flow unless its workload's quota or the table is full. False: it is there already.
    fn insert(&self, key: &FlowKey, value: &FlowValue) -> Result<bool, Reason>;
}

/// The clocks.
pub trait Clock {
    /// A clock of about one second a tick, for idle flows.
    fn tick(&self) -> u32;
    /// CLOCK_BOOTTIME in ns.
    fn boot_time(&self) -> u64;
}
