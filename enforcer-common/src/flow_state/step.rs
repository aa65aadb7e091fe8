//! How the state of a flow follows from its packets. Pure.
//!
//! Input: the state bits of a flow, what else is known of it, and a packet. Output: the state bits afterwards; what they mean
//! for the time that the flow may be idle.

use super::{Role, state};
use crate::id::Direction;
use crate::packet::{Kind, Packet, ProtocolClass, tcp};

/// What [`step`] needs to know of a flow beside its state.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Seen {
    /// See [`FlowValue::mark`](super::FlowValue::mark).
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
    /// See [`FlowValue::mark`](super::FlowValue::mark).
    pub mark: u32,
}

/// As [`FlowValue::mark`](super::FlowValue::mark): the next answer of the other side establishes the connection, whatever its numbers.
pub(super) const ANY_ANSWER: u32 = 1;
/// As [`FlowValue::mark`](super::FlowValue::mark), after an answer: the next packet of the opener establishes it, whatever its numbers.
pub(super) const ANY_PACKET: u32 = 0;
/// As [`FlowValue::mark`](super::FlowValue::mark) of a connection whose opening packet was seen: nothing but an acceptance counts as an answer.
pub(super) const ACCEPTANCE: u32 = 0;
/// So far beyond the first byte may the opener's acknowledgement be: the other side may send data with its SYN+ACK (RFC 7413),
/// at most an initial window (RFC 6928). One of 262,144 guesses hits.
pub(super) const FIRST_WINDOW: u32 = 1 << 14;

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
        Kind::Following | Kind::IcmpError | Kind::IcmpOther | Kind::Membership
            if opener && is_connection(packet.class) =>
        {
            ANY_ANSWER
        }
        Kind::Following | Kind::IcmpError | Kind::IcmpOther | Kind::Membership => ANY_PACKET,
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

/// The shortest [`idle_limit`], in seconds.
pub const SHORTEST_LIMIT: u32 = 10;

/// How long a flow in a state may be without a packet, in seconds.
///
/// TCP: a connection with Linux's default keepalive (first probe after 7,200 s) never loses its state.
pub fn idle_limit(class: ProtocolClass, flow_state: u8) -> u32 {
    match class {
        ProtocolClass::Tcp if is_over(flow_state) => SHORTEST_LIMIT,
        ProtocolClass::Tcp | ProtocolClass::Sctp if flow_state & state::ESTABLISHED == 0 => 60,
        ProtocolClass::Tcp | ProtocolClass::Sctp => 7_800,
        ProtocolClass::Udp if flow_state & state::REPLIED != 0 => 180,
        ProtocolClass::Udp | ProtocolClass::Icmp | ProtocolClass::Icmpv6 | ProtocolClass::Other => 30,
    }
}

/// How long after its last packet a flow in a state may be over at the earliest, in seconds, whatever comes next.
///
/// A packet that ends a connection counts as its last one, so the limit that it brings begins then. Only a half-open
/// connection stays as old as its first packet, and a reset may give it the shortest limit at any time.
pub fn least_limit(class: ProtocolClass, flow_state: u8) -> u32 {
    if is_renewed(flow_state, class) { idle_limit(class, flow_state) } else { SHORTEST_LIMIT }
}
