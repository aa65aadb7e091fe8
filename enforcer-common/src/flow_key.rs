//! The key of a flow, and where the ports of a packet stand in it.
//!
//! Input: the headers of a packet and the owner of its local address. Output: the [`FlowKey`], which is the same for both
//! directions.
//!
//! The ports are those of the packet, seen from the workload. The id of an ICMP echo is the local port if the workload sent
//! the request, and the peer port if it received the request. So an id does not match a request in the other direction. For
//! any other protocol, the local port holds the protocol number.

use crate::flow_state::Role;
use crate::id::{Address, Direction, OwnerId};
use crate::image::PortKey;
use crate::opaque::opaque;
use crate::packet::{Kind, Packet, ProtocolClass, icmp};

/// Key of the flow table.
///
/// Local and peer instead of source and destination: one entry serves both directions, and one lookup a packet is enough.
/// `owner` names one incarnation of a workload and one of its addresses, so no other workload's packet can hit the entry.
/// Local port in the upper half of `ports`. An IPv4 address is mapped into IPv6 (RFC 4291 2.5.5.2).
/// 24 bytes: jhash takes 12 a round, so a third word more would cost a round.
#[repr(C)]
#[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub struct FlowKey {
    owner_and_class: u32,
    ports: u32,
    peer: Address,
}
const _: () = assert!(size_of::<FlowKey>() == 24 && align_of::<FlowKey>() == 4);

impl FlowKey {
    /// The key that belongs to no flow.
    pub const NONE: Self = Self { owner_and_class: 0, ports: 0, peer: Address::UNSPECIFIED };

    /// Makes it the key that belongs to no flow. Zeros of which the compiler knows would become a call of `memset`.
    #[inline(always)]
    pub fn clear(&mut self) {
        let zero = opaque(0) as u32;
        *self = Self { owner_and_class: zero, ports: zero, peer: Address([zero; 4]) };
    }

    /// A key.
    #[inline(always)]
    pub fn new(owner: OwnerId, class: ProtocolClass, local_port: u16, peer_port: u16, peer: &Address) -> Self {
        Self {
            owner_and_class: owner.0 << 3 | class as u32,
            ports: u32::from(local_port) << 16 | u32::from(peer_port),
            peer: *peer,
        }
    }

    /// The key of the flow to which a packet belongs. `peer` is the address of the peer's side.
    #[inline(always)]
    pub(crate) fn of_packet(owner: OwnerId, direction: Direction, packet: &Packet, peer: &Address) -> Self {
        let asks = matches!(packet.kind, Kind::Opening);
        let ports = [packet.source_port, packet.destination_port];
        let (local_port, peer_port) = sides(direction, packet.class, packet.protocol, ports, asks, packet.echo_id);
        Self::new(owner, packet.class, local_port, peer_port, peer)
    }

    /// The owner of the flow.
    pub fn owner(&self) -> OwnerId {
        OwnerId(self.owner_and_class >> 3)
    }

    /// The protocol class.
    #[inline(always)]
    pub fn class(&self) -> ProtocolClass {
        ProtocolClass::from_bits(self.owner_and_class as u8 & 7)
    }

    /// The address of the other side.
    #[inline(always)]
    pub fn peer(&self) -> &Address {
        &self.peer
    }

    /// Port of the workload, or as the module documents.
    #[inline(always)]
    pub fn local_port(&self) -> u16 {
        (self.ports >> 16) as u16
    }

    /// Port of the peer.
    #[inline(always)]
    pub fn peer_port(&self) -> u16 {
        self.ports as u16
    }

    /// The port by which policy judges the flow. It depends on which side opened the flow.
    #[inline(always)]
    pub(crate) fn service(&self, role: Role) -> PortKey {
        let port = match role {
            Role::WorkloadOpened => self.peer_port(),
            Role::PeerOpened | Role::NodeOpened => self.local_port(),
        };
        match self.class() {
            ProtocolClass::Tcp => PortKey::tcp(port),
            ProtocolClass::Udp => PortKey::udp(port),
            ProtocolClass::Sctp => PortKey::sctp(port),
            ProtocolClass::Icmp => PortKey::icmp(icmp::ECHO_REQUEST),
            ProtocolClass::Icmpv6 => PortKey::icmpv6(icmp::V6_ECHO_REQUEST),
            ProtocolClass::Other => PortKey::other(self.local_port() as u8),
        }
    }

    /// 24 bits that differ for most pairs of keys. They show if a table element was freed and reused for another key.
    #[inline(always)]
    pub fn tag(&self) -> u32 {
        let Address([a, b, c, d]) = self.peer;
        // Odd factors, so that words that are exchanged show; the last one moves what they differ in to the upper bits.
        let mixed = self.owner_and_class
            ^ self.ports.wrapping_mul(0x0000_2003)
            ^ a.wrapping_mul(0x0000_0101)
            ^ b.wrapping_mul(0x0001_0007)
            ^ c
            ^ d.wrapping_mul(0x0000_0805);
        let mixed = mixed.wrapping_mul(0x9e37_79b1);
        mixed >> 8
    }
}

/// The workload's port and the peer's, of a packet that goes in `direction`. `ports` are its source and its destination;
/// `asks` says that an ICMP echo is a request.
#[inline(always)]
pub(crate) fn sides(
    direction: Direction,
    class: ProtocolClass,
    protocol: u8,
    ports: [u16; 2],
    asks: bool,
    echo_id: u16,
) -> (u16, u16) {
    let from_workload = matches!(direction, Direction::Egress);
    let [source, destination] = ports;
    match class {
        ProtocolClass::Icmp | ProtocolClass::Icmpv6 => {
            if from_workload == asks {
                (echo_id, 0)
            } else {
                (0, echo_id)
            }
        }
        ProtocolClass::Other => (u16::from(protocol), 0),
        ProtocolClass::Tcp | ProtocolClass::Udp | ProtocolClass::Sctp if from_workload => (source, destination),
        ProtocolClass::Tcp | ProtocolClass::Udp | ProtocolClass::Sctp => (destination, source),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const CLASSES: [ProtocolClass; 6] = [
        ProtocolClass::Tcp,
        ProtocolClass::Udp,
        ProtocolClass::Sctp,
        ProtocolClass::Icmp,
        ProtocolClass::Icmpv6,
        ProtocolClass::Other,
    ];

    #[test]
    fn a_key_holds_its_parts_apart() {
        let peer = Address([1, 2, 3, 4]);
        for owner in [OwnerId(1), OwnerId(0x1234_5678 & OwnerId::MAX.0), OwnerId::MAX] {
            for class in CLASSES {
                for (local, remote) in [(0, 0), (0, 1), (1, 0), (u16::MAX, 0), (0, u16::MAX), (0x1234, 0x5678)] {
                    let key = FlowKey::new(owner, class, local, remote, &peer);
                    let parts = (key.owner(), key.class(), key.local_port(), key.peer_port(), *key.peer());
                    assert_eq!(parts, (owner, class, local, remote, peer));
                }
            }
        }
    }

    #[test]
    fn a_tag_tells_similar_keys_apart() {
        let base = |owner, local, peer_port, peer: [u32; 4]| {
            FlowKey::new(OwnerId(owner), ProtocolClass::Tcp, local, peer_port, &Address(peer)).tag()
        };
        let key = base(7, 40_000, 80, [1, 2, 3, 4]);
        assert!(key <= 0x00ff_ffff, "24 bits");
        for (other, why) in [
            (base(8, 40_000, 80, [1, 2, 3, 4]), "another owner"),
            (base(7, 40_001, 80, [1, 2, 3, 4]), "another local port"),
            (base(7, 40_000, 81, [1, 2, 3, 4]), "another peer port"),
            (base(7, 80, 40_000, [1, 2, 3, 4]), "ports turned round"),
            (base(7, 40_000, 80, [1, 2, 3, 5]), "another peer"),
            (base(7, 40_000, 80, [2, 1, 3, 4]), "a peer with its words turned round"),
        ] {
            assert_ne!(other, key, "{why}");
        }
    }
}
