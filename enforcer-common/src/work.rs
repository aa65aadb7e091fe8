//! The packet that is judged, as one part of a run hands it to the next part and to the record of a denial.

use crate::flow_key::FlowKey;
use crate::home::Station;
use crate::id::{Direction, Ifindex, IncarnationId, OwnerId, PolicyWord, Revision};
use crate::packet::Packet;

/// The devices of a frame: that of its workload, and the one by which it came in.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct Meta {
    /// The host side of the workload's veth.
    pub ifindex: Ifindex,
    /// The device by which the frame came into this namespace; [`Ifindex::NONE`]: this node made it.
    pub ingress_ifindex: Ifindex,
    /// It carries an accelerated VLAN tag.
    pub vlan: bool,
}

/// A packet under judgement: filled by `datapath` as far as the frame can be read. The judge and the record of a
/// denial need no more than this.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct Work {
    /// The policy in force, as read once for this half of the run.
    pub word: PolicyWord,
    /// The devices of the frame.
    pub meta: Meta,
    /// The direction of the packet, seen from the workload.
    pub direction: Direction,
    /// State bits of the packet's flow, or of the one that an ICMP error quotes; 0: there is none.
    pub flow: u8,
    /// The packet's flow has been judged. Only the guardrails still have to decide, because the workload does not own
    /// the local address.
    pub settled: bool,
    /// It is an ICMP error about a live flow.
    pub quotes_live_flow: bool,
    /// An IPv4 packet for an address that is not the workload's, in a frame for all stations of the link.
    pub to_all: bool,
    /// Of what the workload sends, the station on its link that the frame is for.
    pub station: Station,
    /// The workload; [`IncarnationId::NONE`] if the device is not known.
    pub workload: IncarnationId,
    /// Owner id of the packet's local address; [`OwnerId::NONE`] if the workload does not own that address.
    pub owner: OwnerId,
    /// Key of the packet's flow, or of the one that an ICMP error quotes.
    pub key: FlowKey,
    /// The headers.
    pub packet: Packet,
}

impl Work {
    /// The value before a run.
    pub const EMPTY: Self = Self {
        word: PolicyWord { revision: Revision::NONE, epoch: 0 },
        meta: Meta { ifindex: Ifindex::NONE, ingress_ifindex: Ifindex::NONE, vlan: false },
        direction: Direction::Ingress,
        flow: 0,
        settled: false,
        quotes_live_flow: false,
        to_all: false,
        station: Station([0; 3]),
        workload: IncarnationId::NONE,
        owner: OwnerId::NONE,
        key: FlowKey::NONE,
        packet: Packet::EMPTY,
    };
}
