//! What a run reads and writes, in small traits. The kernel implements them over eBPF maps, and the tests over ordinary
//! memory.
//!
//! A function names only the traits that it uses, so its bounds show on what its verdict depends.

use crate::endpoint::Endpoint;
use crate::flow_key::FlowKey;
use crate::flow_state::{FlowValue, Home};
use crate::home::HomeKey;
use crate::id::{Address, Direction, Ifindex, OwnerId, PolicyWord, QuotaPlace, Slot};
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
    /// Whether what a workload sends to a Service is judged again behind the node's translation.
    fn judges_backends(&self) -> bool;
}

/// The devices of this node.
pub trait Devices: Homes {
    /// The endpoint of a device.
    fn endpoint(&self, ifindex: Ifindex) -> Option<&Endpoint>;

    /// The owner id of one of the workload's own addresses, as [`Endpoint::owner_of`] finds it. The kernel's tables call it out of
    /// line, so the path of a live flow asks the endpoint itself.
    #[inline(always)]
    fn owner_of(&self, endpoint: &Endpoint, address: &Address) -> Option<OwnerId> {
        endpoint.owner_of(address)
    }
}

/// Where the packets of local workloads may come in.
pub trait Homes {
    /// Whether there is this pair.
    fn has_home(&self, key: &HomeKey) -> bool;

    /// Whether packets from a local workload's address may come in by a device. The node itself is no such device (D3).
    #[inline(always)]
    fn believes(&self, source: &Address, device: Ifindex) -> bool {
        device != Ifindex::NONE && self.has_home(&HomeKey::new(*source, device))
    }

    /// Whether what comes in by a device comes from the node itself, or from outside the node and over the workload's own link.
    /// A packet that was routed on the way comes in by another device: the bridge, or an uplink that is no port of it.
    #[inline(always)]
    fn leads_out(&self, device: Ifindex) -> bool {
        device == Ifindex::NONE || self.has_home(&HomeKey::out(device))
    }

    /// Whether a source that comes in by a device is a local workload's, and not there.
    #[inline(always)]
    fn is_spoofed(&self, source: &Address, device: Ifindex) -> bool {
        self.has_home(&HomeKey::guarded(*source)) && !self.believes(source, device)
    }
}

/// Whose an address is, where the kernel no longer knows by which veth a packet came in.
pub trait Veths {
    /// A veth of the workload that has an address; [`Ifindex::NONE`]: several have it. `None`: no local workload has it.
    fn veth_of(&self, address: &Address) -> Option<Ifindex>;
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

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    struct Pairs(BTreeSet<HomeKey>);

    impl Homes for Pairs {
        fn has_home(&self, key: &HomeKey) -> bool {
            self.0.contains(key)
        }
    }

    const OWN: Address = Address([0, 0, 1, 7]);
    const OTHER: Address = Address([0, 0, 1, 8]);

    #[test]
    fn an_address_is_believed_where_it_has_a_pair_and_nowhere_else() {
        let pairs = [HomeKey::guarded(OWN), HomeKey::new(OWN, Ifindex(5)), HomeKey::new(OWN, Ifindex(6))];
        let tables = Pairs(pairs.into());
        for (source, device, believed, spoofed) in [
            (OWN, 5, true, false),
            (OWN, 6, true, false),
            (OWN, 7, false, true),
            (OWN, 0, false, true),
            (OTHER, 5, false, false),
            (OTHER, 0, false, false),
        ] {
            assert_eq!(tables.believes(&source, Ifindex(device)), believed, "{source:?} by {device}");
            assert_eq!(tables.is_spoofed(&source, Ifindex(device)), spoofed, "{source:?} by {device}");
        }
    }

    #[test]
    fn the_node_is_no_home_whatever_the_table_holds() {
        let tables = Pairs([HomeKey::guarded(OWN), HomeKey::new(OWN, Ifindex::NONE)].into());
        assert!(!tables.believes(&OWN, Ifindex::NONE) && tables.is_spoofed(&OWN, Ifindex::NONE), "D3");
    }

    #[test]
    fn a_pair_without_the_mark_guards_nothing() {
        let tables = Pairs([HomeKey::new(OWN, Ifindex(5))].into());
        assert!(!tables.is_spoofed(&OWN, Ifindex(7)), "the mark comes last and goes first");
    }
}
