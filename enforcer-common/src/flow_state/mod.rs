//! Flow state ABI: one live flow of one workload, seen from that workload.
//!
//! The datapath writes it after an allow verdict and reads it at every later packet. Any change of the layout is an ABI
//! change.

mod step;

use core::sync::atomic::Ordering;

use crate::atomic::{AtomicU32, AtomicU64};
use crate::id::{Direction, Ifindex, PolicyWord, QuotaPlace};
use crate::limits;
use crate::opaque::opaque;
use crate::packet::Packet;

pub use step::{SHORTEST_LIMIT, Seen, Step, first, idle_limit, is_renewed, is_settled, least_limit, open_again, step};

/// Value of the flow table.
///
/// The word is the only part that is safe from late writes, of a program that held the element for another flow. A late
/// write of another part costs no more than a packet that is judged once more, or a reset that is not believed.
#[repr(C)]
#[derive(Debug)]
pub struct FlowValue {
    /// Behind (1 bit), epoch (31), tag of the key (24), state (8): see [`FlowWord`]. Rewritten by compare-and-swap only.
    pub word: AtomicU64,
    /// Tick of the last packet; of a connection that is half open, tick of its first one.
    pub last_seen: AtomicU32,
    /// ifindex by which the peer's packets come in: 0 for the node itself, [`FlowValue::UNKNOWN`] before the first.
    pub ingress: AtomicU32,
    /// Where the flow is counted, and its place among the half-open ones.
    pub home: Home,
    /// Half open: what establishes it, see [`step`]. Established: sequence number of the reset that the state bits ask about.
    pub mark: AtomicU32,
    /// By the [`Direction`] of the sender: what it last acknowledged, as it lies in the packet.
    pub acknowledged: [AtomicU32; 2],
    /// Zero. The kernel puts 48 bytes and the key before a value (`struct htab_elem`, kernel/bpf/hashtab.c), so an element has
    /// 128 bytes: two whole cache lines. With 104, every second element lies in three, and a new flow takes 6 % longer.
    pub pad: [u64; 3],
}
const _: () = assert!(size_of::<FlowValue>() == 56 && align_of::<FlowValue>() == 8);

impl FlowValue {
    /// No packet of the peer has been seen.
    pub const UNKNOWN: Ifindex = Ifindex(0xffff_ffff);

    /// A new flow. `acknowledged`: of both directions.
    #[inline(always)]
    pub fn new(word: FlowWord, now: u32, ingress: Ifindex, home: Home, mark: u32, acknowledged: [u32; 2]) -> Self {
        let [to_workload, from_workload] = acknowledged;
        // Zeros of which the compiler knows become a call of `memset`, which writes byte by byte on the path of a new flow.
        let zero = opaque(0);
        Self {
            word: AtomicU64::new(word.0),
            last_seen: AtomicU32::new(now),
            ingress: AtomicU32::new(ingress.0),
            home,
            mark: AtomicU32::new(mark),
            acknowledged: [AtomicU32::new(to_workload), AtomicU32::new(from_workload)],
            pad: [zero; 3],
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
        same_way && current.is_current(direction, epoch, tag)
    }

    /// Stores `now` if it is another tick.
    #[inline(always)]
    pub fn touch(&self, now: u32) {
        if self.last_seen.load(Ordering::Relaxed) != now {
            self.last_seen.store(now, Ordering::Relaxed);
        }
    }

    /// Stores what a packet acknowledges if that is another number.
    #[inline(always)]
    pub fn note(&self, direction: Direction, packet: &Packet) {
        let [to_workload, from_workload] = &self.acknowledged;
        let last = match direction {
            Direction::Ingress => to_workload,
            Direction::Egress => from_workload,
        };
        if last.load(Ordering::Relaxed) != packet.acknowledgement {
            last.store(packet.acknowledgement, Ordering::Relaxed);
        }
    }

    /// Neither side has acknowledged anything.
    #[inline(always)]
    pub fn forget(&self) {
        let [to_workload, from_workload] = &self.acknowledged;
        to_workload.store(0, Ordering::Relaxed);
        from_workload.store(0, Ordering::Relaxed);
    }

    /// What the state after one more packet depends on beside the state.
    #[inline(always)]
    pub fn seen(&self, direction: Direction, now: u32) -> Seen {
        let [to_workload, from_workload] = &self.acknowledged;
        let other = match direction {
            Direction::Ingress => from_workload,
            Direction::Egress => to_workload,
        };
        Seen {
            mark: self.mark.load(Ordering::Relaxed),
            others_acknowledgement: other.load(Ordering::Relaxed),
            is_later: self.last_seen.load(Ordering::Relaxed) != now,
        }
    }
}

/// Where a flow is counted: place in `QUOTAS` (13 bits), and its place in `HALF_OPEN` (19). Never changed.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
#[repr(transparent)]
pub struct Home(pub u32);
const _: () = assert!(limits::WORKLOADS <= 1 << 13 && limits::HALF_OPEN_MOST <= 1 << 19);

impl Home {
    /// Both places.
    #[inline(always)]
    pub fn new(quota: QuotaPlace, half_open: u32) -> Self {
        Self(quota.0 & 0x1fff | half_open << 13)
    }

    /// Place in `QUOTAS`.
    #[inline(always)]
    pub fn quota(self) -> QuotaPlace {
        QuotaPlace(self.0 & 0x1fff)
    }

    /// Place in `HALF_OPEN`.
    #[inline(always)]
    pub fn half_open(self) -> u32 {
        self.0 >> 13
    }
}

/// The first word of a [`FlowValue`].
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct FlowWord(pub u64);

/// How a flow goes on: the side that opened it, and whether it counts on a second judgement.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Course {
    /// Who opened it.
    pub role: Role,
    /// See [`FlowWord::is_behind`].
    pub behind: bool,
}

impl Course {
    /// Both as a number, for a call in the kernel.
    #[inline(always)]
    pub fn to_code(self) -> u32 {
        self.role as u32 | u32::from(self.behind) << 2
    }

    /// The same back; `None` is no such number.
    #[inline(always)]
    pub fn from_code(code: u32) -> Option<Self> {
        Some(Self { role: Role::of_state(code as u8)?, behind: code >> 2 & 1 != 0 })
    }
}

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

/// State bits: role (2), the other side has answered (1), FIN of the workload (1), FIN of the peer (1), established (1),
/// reset (2).
pub mod state {
    /// Mask of the role.
    pub const ROLE: u8 = 0b11;
    /// The side that did not open the flow has answered. A connection whose opening packet was seen: it has accepted.
    pub const REPLIED: u8 = 1 << 2;
    /// The workload has sent a FIN.
    pub const FIN_LOCAL: u8 = 1 << 3;
    /// The peer has sent a FIN.
    pub const FIN_PEER: u8 = 1 << 4;
    /// The opener has shown that it gets what the other side sends. The flow is counted in its share.
    pub const ESTABLISHED: u8 = 1 << 5;
    /// Mask of what is known of resets.
    pub const RESET: u8 = 0b11 << 6;
    /// The last segment was an RST that ended the connection for both sides.
    pub const ENDED: u8 = 0b01 << 6;
    /// The workload has sent an RST that its peer may not believe; `mark` holds its sequence number.
    pub const ASKED_LOCAL: u8 = 0b10 << 6;
    /// The same of the peer.
    pub const ASKED_PEER: u8 = 0b11 << 6;
}

impl FlowWord {
    /// The element is about to be deleted. No tag and no role: whoever finds it takes it for another flow's.
    pub const FREED: Self = Self(0);

    const BEHIND: u64 = 1 << 63;

    /// A word.
    #[inline(always)]
    pub fn new(epoch: u32, tag: u32, state: u8) -> Self {
        Self(u64::from(epoch & PolicyWord::EPOCHS) << 32 | u64::from(tag & 0x00ff_ffff) << 8 | u64::from(state))
    }

    /// The same word of a flow that is judged behind the node's translation, or not there.
    #[inline(always)]
    #[must_use]
    pub fn with_behind(self, behind: bool) -> Self {
        Self(self.0 & !Self::BEHIND | u64::from(behind) << 63)
    }

    /// The workload is isolated, and the flow is one with a Service that its peer there has not opened. So what the workload sends
    /// passes the veth only because it is judged once more behind the node's translation (D5).
    #[inline(always)]
    pub fn is_behind(self) -> bool {
        self.0 & Self::BEHIND != 0
    }

    /// Whether epoch and key are the same, so that the decision still holds for a packet in a direction. Where the flow is judged
    /// behind translation, it never holds for what the workload sends: each packet has to be addressed to the node, or it
    /// would not come there.
    #[inline(always)]
    pub fn is_current(self, direction: Direction, epoch: u32, tag: u32) -> bool {
        let word = match direction {
            Direction::Egress => self.0,
            Direction::Ingress => self.0 & !Self::BEHIND,
        };
        word >> 8 == u64::from(epoch) << 24 | u64::from(tag & 0x00ff_ffff)
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

    /// The share in which the flow is counted: that of the direction in which it was opened. `None`: it is half open.
    #[inline(always)]
    pub fn share(self) -> Option<Direction> {
        if self.state() & state::ESTABLISHED == 0 { None } else { self.role().map(Role::direction) }
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

#[cfg(test)]
mod tests;
