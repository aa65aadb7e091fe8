//! Flow state ABI: one live flow of one workload, seen from that workload.
//!
//! The datapath writes it after an allow verdict and reads it at every later packet. Any change of the layout is an ABI
//! change.

use core::sync::atomic::Ordering;

use crate::atomic::{AtomicU32, AtomicU64};
use crate::id::{Direction, Ifindex, QuotaPlace};
use crate::packet::{Packet, ProtocolClass, tcp};

/// Value of the flow table.
#[repr(C)]
#[derive(Debug)]
pub struct FlowValue {
    /// Epoch (32 bits), tag of the key (24), state (8): see [`FlowWord`]. Rewritten by compare-and-swap only.
    pub word: AtomicU64,
    /// Tick of the last packet.
    pub last_seen: AtomicU32,
    /// ifindex by which the peer's packets come in: 0 for the node itself, [`FlowValue::UNKNOWN`] before the first.
    pub ingress: AtomicU32,
    /// Where the flow is counted.
    pub quota: QuotaPlace,
    /// Zero.
    pub pad: u32,
}
const _: () = assert!(size_of::<FlowValue>() == 24 && align_of::<FlowValue>() == 8);

impl FlowValue {
    /// No packet of the peer has been seen.
    pub const UNKNOWN: Ifindex = Ifindex(0xffff_ffff);

    /// A new flow.
    #[inline(always)]
    pub fn new(word: FlowWord, now: u32, ingress: Ifindex, quota: QuotaPlace) -> Self {
        Self {
            word: AtomicU64::new(word.0),
            last_seen: AtomicU32::new(now),
            ingress: AtomicU32::new(ingress.0),
            quota,
            pad: 0,
        }
    }

    /// Whether the flow lets a packet pass: it was judged in this epoch, and packets of the peer still come in by the
    /// same device. `current` is the flow's word as it was read, `ingress` is the device by which the packet came in,
    /// and `tag` is the tag of its key.
    #[inline(always)]
    pub fn vouches(&self, current: FlowWord, direction: Direction, ingress: Ifindex, epoch: u32, tag: u32) -> bool {
        let same_way = match direction {
            Direction::Egress => true,
            Direction::Ingress => self.ingress.load(Ordering::Relaxed) == ingress.0,
        };
        same_way && current.is_current(epoch, tag)
    }

    /// Stores `now` if it is another tick.
    #[inline(always)]
    pub fn touch(&self, now: u32) {
        if self.last_seen.load(Ordering::Relaxed) != now {
            self.last_seen.store(now, Ordering::Relaxed);
        }
    }
}

/// The first word of a [`FlowValue`].
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct FlowWord(pub u64);

/// The side that opened a flow. Policy judges the flow in the direction in which it was opened.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
#[repr(u8)]
pub enum Role {
    /// The workload opened it: egress.
    WorkloadOpened = 1,
    /// The peer opened it: ingress.
    PeerOpened = 2,
    /// The node itself opened it (D3). A role of its own, since the word is the only part of a value that is safe from
    /// late writes: an `ingress` of 0 beside it could come from a writer that held the element for another flow.
    NodeOpened = 3,
}

impl Role {
    /// The role of whoever sends a packet in `direction` without being answered yet.
    #[inline(always)]
    pub fn of_sender(direction: Direction) -> Self {
        match direction {
            Direction::Egress => Self::WorkloadOpened,
            Direction::Ingress => Self::PeerOpened,
        }
    }

    /// The role in state bits; `None`: there is no flow.
    #[inline(always)]
    pub fn of_state(state: u8) -> Option<Self> {
        match state & state::ROLE {
            1 => Some(Self::WorkloadOpened),
            2 => Some(Self::PeerOpened),
            3 => Some(Self::NodeOpened),
            _ => None,
        }
    }

    /// The direction in which the flow was opened.
    #[inline(always)]
    pub fn direction(self) -> Direction {
        match self {
            Self::WorkloadOpened => Direction::Egress,
            Self::PeerOpened | Self::NodeOpened => Direction::Ingress,
        }
    }
}

/// State bits: role (2), the other side has answered (1), FIN of the workload (1), FIN of the peer (1), RST (1).
pub mod state {
    /// Mask of the role.
    pub const ROLE: u8 = 0b11;
    /// The side that did not open the flow has sent a packet.
    pub const REPLIED: u8 = 1 << 2;
    /// The workload has sent a FIN.
    pub const FIN_LOCAL: u8 = 1 << 3;
    /// The peer has sent a FIN.
    pub const FIN_PEER: u8 = 1 << 4;
    /// The last segment was an RST.
    pub const RST: u8 = 1 << 5;
}

impl FlowWord {
    /// A word.
    #[inline(always)]
    pub fn new(epoch: u32, tag: u32, state: u8) -> Self {
        Self(u64::from(epoch) << 32 | u64::from(tag & 0x00ff_ffff) << 8 | u64::from(state))
    }

    /// Whether epoch and key are the same, so that the decision still holds.
    #[inline(always)]
    pub fn is_current(self, epoch: u32, tag: u32) -> bool {
        self.0 >> 8 == u64::from(epoch) << 24 | u64::from(tag & 0x00ff_ffff)
    }

    /// It belongs to the key with this tag.
    #[inline(always)]
    pub fn has_tag(self, tag: u32) -> bool {
        (self.0 >> 8) as u32 & 0x00ff_ffff == tag & 0x00ff_ffff
    }

    /// State bits.
    #[inline(always)]
    pub fn state(self) -> u8 {
        self.0 as u8
    }

    /// The stored role; `None` is a corrupt word.
    #[inline(always)]
    pub fn role(self) -> Option<Role> {
        Role::of_state(self.state())
    }

    /// The same word with other state bits.
    #[inline(always)]
    #[must_use]
    pub fn with_state(self, state: u8) -> Self {
        Self(self.0 & !0xff | u64::from(state))
    }
}

/// The state after one more packet. Pure.
///
/// RST and FIN only shorten how long the flow may be idle, so a blind RST cuts nothing: a later segment without RST takes
/// it back, and payload after a FIN takes that FIN back.
#[inline(always)]
pub fn step(current: u8, direction: Direction, packet: &Packet) -> u8 {
    let mut next = current;
    let workload_opened = current & state::ROLE == Role::WorkloadOpened as u8;
    let (fin, from_workload) = match direction {
        Direction::Egress => (state::FIN_LOCAL, true),
        Direction::Ingress => (state::FIN_PEER, false),
    };
    if workload_opened != from_workload {
        next |= state::REPLIED;
    }
    if !matches!(packet.class, ProtocolClass::Tcp) {
        return next;
    }
    if packet.tcp_flags & tcp::RST != 0 {
        next |= state::RST;
    } else {
        next &= !state::RST;
        if packet.tcp_flags & tcp::FIN != 0 {
            next |= fin;
        } else if packet.has_payload {
            next &= !fin;
        }
    }
    next
}

/// Whether a packet that neither opens nor closes a connection leaves the state unchanged. For most packets this is
/// the result of [`step`].
#[inline(always)]
pub fn is_settled(current: u8, direction: Direction) -> bool {
    match direction {
        Direction::Egress => {
            current & (state::FIN_LOCAL | state::RST) == 0
                && (current & state::REPLIED != 0 || current & state::ROLE == Role::WorkloadOpened as u8)
        }
        Direction::Ingress => {
            current & (state::FIN_PEER | state::RST) == 0
                && (current & state::REPLIED != 0 || current & state::ROLE != Role::WorkloadOpened as u8)
        }
    }
}

/// Records one more packet of a flow that was judged before. `current` is the flow's word as it was read.
#[inline(always)]
pub fn renew(flow: &FlowValue, current: FlowWord, direction: Direction, packet: &Packet, now: u32) {
    flow.touch(now);
    let next = step(current.state(), direction, packet);
    if next != current.state() {
        // A lost race only leaves the idle limit longer or shorter by one packet.
        let _ = flow.word.compare_exchange(current.0, current.with_state(next).0, Ordering::Relaxed, Ordering::Relaxed);
    }
}

/// How long a flow in a state may be without a packet, in seconds.
///
/// TCP: a connection with Linux's default keepalive (first probe after 7,200 s) never loses its state.
pub fn idle_limit(class: ProtocolClass, flow_state: u8) -> u32 {
    let replied = flow_state & state::REPLIED != 0;
    let both_fins = flow_state & (state::FIN_LOCAL | state::FIN_PEER) == state::FIN_LOCAL | state::FIN_PEER;
    match class {
        ProtocolClass::Tcp if both_fins || flow_state & state::RST != 0 => 10,
        ProtocolClass::Tcp | ProtocolClass::Sctp if !replied => 60,
        ProtocolClass::Tcp | ProtocolClass::Sctp => 7_800,
        ProtocolClass::Udp if replied => 180,
        ProtocolClass::Udp | ProtocolClass::Icmp | ProtocolClass::Icmpv6 | ProtocolClass::Other => 30,
    }
}

#[cfg(test)]
mod tests;
