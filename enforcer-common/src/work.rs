//! The packet that is judged, as one part of a run hands it to the next part and to the record of a denial.

use crate::flow_key::FlowKey;
use crate::id::{Direction, OwnerId, PolicyWord, Revision};
use crate::packet::Packet;

/// Where a frame came by.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct Meta {
    /// The host side of the workload's veth.
    pub ifindex: u32,
    /// The device by which the frame came into this namespace; 0: this node made it.
    pub ingress_ifindex: u32,
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
    /// Where the frame came by.
    pub meta: Meta,
    /// Which way it goes.
    pub direction: Direction,
    /// State bits of the packet's flow, or of the one that an ICMP error quotes, if it must be judged again; else 0.
    pub flow: u8,
    /// Its flow has been judged; only the guardrails are open, since its local address is not the workload's own.
    pub settled: bool,
    /// It is an ICMP error about a live flow.
    pub quotes_live_flow: bool,
    /// The workload; [`OwnerId::NONE`] if the device is not known.
    pub workload: OwnerId,
    /// Of the local address; [`OwnerId::NONE`]: it is not the workload's own.
    pub owner: OwnerId,
    /// Key of the packet's flow, or of the one that an ICMP error quotes.
    pub key: FlowKey,
    /// The headers.
    pub packet: Packet,
}

impl Work {
    /// Before a run.
    pub const EMPTY: Self = Self {
        word: PolicyWord { revision: Revision::NONE, epoch: 0 },
        meta: Meta { ifindex: 0, ingress_ifindex: 0, vlan: false },
        direction: Direction::Ingress,
        flow: 0,
        settled: false,
        quotes_live_flow: false,
        workload: OwnerId::NONE,
        owner: OwnerId::NONE,
        key: FlowKey::NONE,
        packet: Packet::EMPTY,
    };
}
