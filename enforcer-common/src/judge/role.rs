//! Finds the role in which a packet is judged: which side opened its flow, or would have opened it. Pure over the parsed
//! headers.

use crate::flow_state::Role;
use crate::id::Direction;
use crate::packet::{Packet, ProtocolClass, tcp};

/// The role that a packet is judged in: that of its flow if it has one, whatever the packet's own direction. `stored` is
/// the flow's; `from_node` says that the node itself made the packet.
#[inline(always)]
pub(super) fn of_packet(direction: Direction, packet: &Packet, stored: Option<Role>, from_node: bool) -> Role {
    let resets = packet.tcp_flags & (tcp::SYN | tcp::RST) != 0;
    match (stored, direction) {
        (Some(Role::NodeOpened) | None, Direction::Ingress) if from_node => Role::NodeOpened,
        // Whatever the peer's side did before, now it is the node; unless it only answers for a peer, as a firewall does
        // that rejects.
        (Some(Role::PeerOpened), Direction::Ingress) if from_node && !resets => Role::NodeOpened,
        (Some(Role::NodeOpened), Direction::Ingress) => Role::PeerOpened,
        (Some(role), _) => role,
        (None, direction) => Role::of_sender(direction),
    }
}

/// The role of the same flow if the other side opened it.
#[inline(always)]
pub(super) fn other(role: Role) -> Role {
    match role {
        Role::WorkloadOpened => Role::PeerOpened,
        Role::PeerOpened | Role::NodeOpened => Role::WorkloadOpened,
    }
}

/// The packet answers another one.
#[inline(always)]
pub(super) fn answers(packet: &Packet) -> bool {
    packet.tcp_flags & (tcp::SYN | tcp::RST) != 0
        || packet.is_reset()
        || packet.is_acceptance()
        || packet.is_icmp_reply()
}

/// A TCP segment with ACK and without SYN: where it has no state, its connection is older than that.
#[inline(always)]
pub(super) fn is_midstream(packet: &Packet) -> bool {
    matches!(packet.class, ProtocolClass::Tcp) && packet.tcp_flags & (tcp::SYN | tcp::ACK) == tcp::ACK
}
