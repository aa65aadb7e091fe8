//! Flow state ABI: one live flow of one workload, seen from that workload.
//!
//! The datapath writes it after an allow verdict and reads it at every later packet. Any change of the layout is an ABI
//! change.

use core::sync::atomic::Ordering;

use crate::atomic::{AtomicU32, AtomicU64};
use crate::id::{Direction, Ifindex, QuotaPlace};
use crate::limits;
use crate::packet::{Kind, Packet, ProtocolClass, tcp};

/// Value of the flow table.
///
/// The word is the only part that is safe from late writes, of a program that held the element for another flow. A late
/// write of another part costs no more than a packet that is judged once more, or a reset that is not believed.
#[repr(C)]
#[derive(Debug)]
pub struct FlowValue {
    /// Epoch (32 bits), tag of the key (24), state (8): see [`FlowWord`]. Rewritten by compare-and-swap only.
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
}
const _: () = assert!(size_of::<FlowValue>() == 32 && align_of::<FlowValue>() == 8);

impl FlowValue {
    /// No packet of the peer has been seen.
    pub const UNKNOWN: Ifindex = Ifindex(0xffff_ffff);

    /// A new flow. `acknowledged`: of both directions.
    #[inline(always)]
    pub fn new(word: FlowWord, now: u32, ingress: Ifindex, home: Home, mark: u32, acknowledged: [u32; 2]) -> Self {
        let [to_workload, from_workload] = acknowledged;
        Self {
            word: AtomicU64::new(word.0),
            last_seen: AtomicU32::new(now),
            ingress: AtomicU32::new(ingress.0),
            home,
            mark: AtomicU32::new(mark),
            acknowledged: [AtomicU32::new(to_workload), AtomicU32::new(from_workload)],
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

/// What [`step`] needs to know of a flow beside its state.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Seen {
    /// See [`FlowValue::mark`].
    pub mark: u32,
    /// What the other side than the sender last acknowledged.
    pub others_acknowledgement: u32,
    /// The last packet was in another tick.
    pub is_later: bool,
}

/// The state bits after a packet, and the mark beside them.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Step {
    /// State bits.
    pub state: u8,
    /// See [`FlowValue::mark`].
    pub mark: u32,
}

/// As [`FlowValue::mark`]: the next answer of the other side establishes the connection, whatever its numbers.
const ANY_ANSWER: u32 = 1;
/// As [`FlowValue::mark`], after an answer: the next packet of the opener establishes it, whatever its numbers.
const ANY_PACKET: u32 = 0;
/// As [`FlowValue::mark`] of a connection whose opening packet was seen: nothing but an acceptance counts as an answer.
const ACCEPTANCE: u32 = 0;
/// So far beyond the first byte may the opener's acknowledgement be: the other side may send data with its SYN+ACK (RFC 7413),
/// at most an initial window (RFC 6928). One of 262,144 guesses hits.
const FIRST_WINDOW: u32 = 1 << 14;

/// TCP and SCTP: what opens them has an answer, by which both sides prove themselves.
#[inline(always)]
fn is_connection(class: ProtocolClass) -> bool {
    matches!(class, ProtocolClass::Tcp | ProtocolClass::Sctp)
}

/// Which side sends.
#[inline(always)]
fn opener_sends(state_bits: u8, direction: Direction) -> bool {
    let workload_opened = state_bits & state::ROLE == Role::WorkloadOpened as u8;
    workload_opened == matches!(direction, Direction::Egress)
}

/// The state of a flow by its first packet, whoever sends it. Pure.
#[inline(always)]
pub fn first(role: Role, direction: Direction, packet: &Packet) -> Step {
    let opener = opener_sends(role as u8, direction);
    let replied = if opener { role as u8 } else { role as u8 | state::REPLIED };
    let mark = match packet.kind {
        Kind::Opening => ACCEPTANCE,
        Kind::Following | Kind::IcmpError | Kind::IcmpOther if opener && is_connection(packet.class) => ANY_ANSWER,
        Kind::Following | Kind::IcmpError | Kind::IcmpOther => ANY_PACKET,
    };
    Step { state: fins(replied, direction, packet), mark }
}

/// The state after one more packet that opens no connection. Pure.
///
/// A flow is established once its opener has shown that it gets what the other side sends, so that a forged source cannot
/// do it: by an acknowledgement of the SYN+ACK, by the tag of the INIT ACK, by any segment to a connection that the table
/// has met midway and that the other side knows. Other protocols have no numbers: a second packet of the opener after an
/// answer, or an answer in a later second.
///
/// RST and FIN only shorten how long the flow may be idle. An RST does so if it ends the connection for both sides: its
/// sequence number is what the other side expects next (RFC 5961 section 3.2), by its last acknowledgement or by its next
/// one. A later segment without RST takes it back, and payload after a FIN takes that FIN back.
#[inline(always)]
pub fn step(current: u8, direction: Direction, packet: &Packet, seen: Seen) -> Step {
    let opener = opener_sends(current, direction);
    if !is_connection(packet.class) {
        let established = current & state::REPLIED != 0 && (opener || seen.is_later);
        let more = if established { state::ESTABLISHED } else { 0 } | if opener { 0 } else { state::REPLIED };
        return Step { state: current | more, mark: seen.mark };
    }
    if packet.is_reset() {
        return reset(current, direction, packet, seen);
    }
    if current & state::ESTABLISHED == 0 {
        let Step { state, mark } = establish(current, opener, packet, seen.mark);
        return Step { state: fins(state & !state::RESET, direction, packet), mark };
    }
    let asked = match direction {
        Direction::Ingress => state::ASKED_LOCAL,
        Direction::Egress => state::ASKED_PEER,
    };
    // The answer of whoever got the RST: it had come as far.
    let ended = current & state::RESET == asked && u32::from_be(packet.acknowledgement) == seen.mark;
    let next = current & !state::RESET | if ended { state::ENDED } else { 0 };
    Step { state: fins(next, direction, packet), mark: seen.mark }
}

#[inline(always)]
fn reset(current: u8, direction: Direction, packet: &Packet, seen: Seen) -> Step {
    if !matches!(packet.class, ProtocolClass::Tcp) {
        return Step { state: current, mark: seen.mark };
    }
    let rest = current & !state::RESET;
    if packet.sequence == seen.others_acknowledgement {
        return Step { state: rest | state::ENDED, mark: seen.mark };
    }
    if current & state::ESTABLISHED == 0 {
        return Step { state: current, mark: seen.mark };
    }
    let asked = match direction {
        Direction::Ingress => state::ASKED_PEER,
        Direction::Egress => state::ASKED_LOCAL,
    };
    Step { state: rest | asked, mark: u32::from_be(packet.sequence) }
}

/// A half-open connection after a packet that is no reset.
#[inline(always)]
fn establish(current: u8, opener: bool, packet: &Packet, mark: u32) -> Step {
    let tcp = matches!(packet.class, ProtocolClass::Tcp);
    if packet.is_acceptance() {
        let expected = if tcp { u32::from_be(packet.sequence).wrapping_add(1) } else { packet.sequence };
        return if opener {
            Step { state: current, mark }
        } else {
            Step { state: current | state::REPLIED, mark: expected }
        };
    }
    let replied = current & state::REPLIED != 0;
    let counts = !tcp || packet.tcp_flags & tcp::ACK != 0;
    let proves = match (opener, replied) {
        (true, true) if mark == ANY_PACKET => true,
        (true, true) if tcp => u32::from_be(packet.acknowledgement).wrapping_sub(mark) < FIRST_WINDOW,
        (true, true) => packet.acknowledgement == mark,
        (false, false) => mark == ANY_ANSWER,
        (true, false) | (false, true) => false,
    };
    let more = if counts && proves { state::REPLIED | state::ESTABLISHED } else { 0 };
    Step { state: current | more, mark }
}

/// The bits of FINs.
#[inline(always)]
fn fins(current: u8, direction: Direction, packet: &Packet) -> u8 {
    let fin = match direction {
        Direction::Egress => state::FIN_LOCAL,
        Direction::Ingress => state::FIN_PEER,
    };
    if packet.tcp_flags & tcp::FIN != 0 {
        current | fin
    } else if packet.has_payload {
        current & !fin
    } else {
        current
    }
}

/// The state of a flow after a packet that opens one of its key, judged in `role`. `None`: a half-open flow begins anew,
/// because its other side opens one or because it was over. Pure.
///
/// An established flow stays so: whoever opens it anew may be somebody else.
#[inline(always)]
pub fn open_again(current: u8, role: Role, class: ProtocolClass) -> Option<u8> {
    let same = Role::of_state(current).is_some_and(|old| old.direction() as u8 == role.direction() as u8);
    let renamed = current & !state::ROLE | role as u8;
    let kept = renamed & !(state::RESET | state::FIN_LOCAL | state::FIN_PEER);
    if current & state::ESTABLISHED != 0 {
        return Some(if is_over(current) { kept } else { renamed });
    }
    // An echo request after a reply.
    let asks_on = !is_connection(class) && current & state::REPLIED != 0;
    (same && !is_over(current)).then_some(if asks_on { kept | state::ESTABLISHED } else { kept })
}

/// Both sides are done.
#[inline(always)]
fn is_over(current: u8) -> bool {
    let fins = state::FIN_LOCAL | state::FIN_PEER;
    current & fins == fins || current & state::RESET == state::ENDED
}

/// Whether a packet that neither opens nor closes a connection, of TCP or UDP, leaves the state unchanged and counts as the
/// flow's last one. For most packets this is so by [`step`].
#[inline(always)]
pub fn is_settled(current: u8, direction: Direction, class: ProtocolClass) -> bool {
    let fin = match direction {
        Direction::Egress => state::FIN_LOCAL,
        Direction::Ingress => state::FIN_PEER,
    };
    if current & (state::ESTABLISHED | state::RESET | fin) == state::ESTABLISHED {
        return true;
    }
    // Datagrams that nobody answers.
    !is_connection(class) && current & (state::ESTABLISHED | state::REPLIED) == 0 && opener_sends(current, direction)
}

/// Whether a packet of a flow in this state counts as its last one: a half-open connection is as old as its first packet.
#[inline(always)]
pub fn is_renewed(current: u8, class: ProtocolClass) -> bool {
    current & state::ESTABLISHED != 0 || !is_connection(class)
}

/// How long a flow in a state may be without a packet, in seconds.
///
/// TCP: a connection with Linux's default keepalive (first probe after 7,200 s) never loses its state.
pub fn idle_limit(class: ProtocolClass, flow_state: u8) -> u32 {
    match class {
        ProtocolClass::Tcp if is_over(flow_state) => 10,
        ProtocolClass::Tcp | ProtocolClass::Sctp if flow_state & state::ESTABLISHED == 0 => 60,
        ProtocolClass::Tcp | ProtocolClass::Sctp => 7_800,
        ProtocolClass::Udp if flow_state & state::REPLIED != 0 => 180,
        ProtocolClass::Udp | ProtocolClass::Icmp | ProtocolClass::Icmpv6 | ProtocolClass::Other => 30,
    }
}

#[cfg(test)]
mod tests;
