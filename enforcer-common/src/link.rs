//! What a workload needs to stay on its link passes in a narrow form, without policy and without state (D16). Pure, over
//! parsed headers.
//!
//! Input: a packet, its direction, and whether it comes from the node or by an uplink of the link. Output: whether it passes,
//! is denied whatever policy says, or is judged. The guardrails of [`hygiene`](crate::hygiene) hold for all of it: who sends,
//! and to whom.

use crate::id::{Address, Direction};
use crate::image::ReadImage;
use crate::limits::{DHCP_REQUEST_BYTES, ROUTER_BYTES};
use crate::packet::{Kind, Packet, ProtocolClass, icmp, igmp};
use crate::verdict::Reason;

/// What a packet is to the link.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Upkeep {
    /// It keeps a workload on the link.
    Pass,
    /// A workload that acts as a router.
    Deny(Reason),
    /// Judged like any other packet.
    Judge,
}

/// Offsets of the transport header behind a plain IP header.
const PLAIN_V4: u32 = 14 + 20;
const PLAIN_V6: u32 = 14 + 40;

const EVERYBODY_V4: Address = Address::v4(u32::MAX);
const ROUTERS_V4: Address = Address::v4(u32::from_ne_bytes([224, 0, 0, 2]));
const GROUP_ROUTERS_V4: Address = Address::v4(u32::from_ne_bytes([224, 0, 0, 22]));
/// `ff02::1`.
const NODES: Address = of_link(1);
/// `ff02::2`.
const ROUTERS: Address = of_link(2);
/// `ff02::16`.
const GROUP_ROUTERS: Address = of_link(0x16);
/// `ff02::1:2`.
const DHCP_SERVERS: Address = of_link(0x0001_0002);

const fn of_link(number: u32) -> Address {
    Address([0xff02_0000_u32.to_be(), 0, 0, number.to_be()])
}

/// What a packet is to the link. `from_out` says whether it comes from the node itself or by an uplink of the workload's link;
/// it is asked only where that matters.
#[inline(always)]
pub fn upkeep<I: ReadImage>(
    image: Option<&I>,
    direction: Direction,
    packet: &Packet,
    from_out: impl Fn() -> bool,
) -> Upkeep {
    match packet.class {
        ProtocolClass::Icmpv6 => icmpv6(image, direction, packet, from_out),
        ProtocolClass::Udp if is_dhcp(direction, packet) && (matches!(direction, Direction::Egress) || from_out()) => {
            Upkeep::Pass
        }
        ProtocolClass::Other if packet.icmp_type != 0 => groups_v4(direction, packet, from_out),
        ProtocolClass::Udp | ProtocolClass::Other | ProtocolClass::Tcp | ProtocolClass::Sctp | ProtocolClass::Icmp => {
            Upkeep::Judge
        }
    }
}

#[inline(always)]
fn pass_if(passes: bool) -> Upkeep {
    if passes { Upkeep::Pass } else { Upkeep::Judge }
}

#[inline(always)]
fn icmpv6<I: ReadImage>(
    image: Option<&I>,
    direction: Direction,
    packet: &Packet,
    from_out: impl Fn() -> bool,
) -> Upkeep {
    let to = &packet.destination;
    match (packet.icmp_type, direction) {
        // Routers say these. A bridge that took a workload for the one that asks would go by its word (RFC 4541 2.1.1).
        (icmp::V6_ROUTER_ADVERTISEMENT | icmp::V6_REDIRECT | icmp::V6_GROUP_QUERY, Direction::Egress) => {
            Upkeep::Deny(Reason::RouterAdvertisement)
        }
        (icmp::V6_ROUTER_ADVERTISEMENT, Direction::Ingress) => {
            pass_if(is_advertisement(packet) && (*to == NODES || to.is_v6_link_local()) && from_out())
        }
        (icmp::V6_GROUP_QUERY, Direction::Ingress) => {
            pass_if(matches!(packet.kind, Kind::Membership) && packet.source.is_v6_link_local() && from_out())
        }
        (icmp::V6_GROUP_REPORT, _) => pass_if(matches!(packet.kind, Kind::Membership) && packet.transport_length == 24),
        (icmp::V6_GROUP_DONE, _) => {
            pass_if(matches!(packet.kind, Kind::Membership) && packet.transport_length == 24 && *to == ROUTERS)
        }
        (icmp::V6_GROUPS_REPORT, _) => pass_if(matches!(packet.kind, Kind::Membership) && *to == GROUP_ROUTERS),
        (icmp::V6_ROUTER_SOLICITATION, _) => pass_if(is_discovery(packet)),
        (icmp::V6_NEIGHBOUR_SOLICITATION | icmp::V6_NEIGHBOUR_ADVERTISEMENT, _) => {
            let near = to.is_v6_link_scope_group() || to.is_v6_link_local();
            let known =
                || image.and_then(|image| image.address(to)).is_some_and(|entry| entry.is_local() || entry.is_node());
            pass_if(is_discovery(packet) && (near || known()))
        }
        (_, _) => Upkeep::Judge,
    }
}

/// Neighbour and router discovery of a host within its bounds (RFC 4861 7.1 and 6.1.1): hop limit 255, code 0, at most 64
/// bytes behind the IPv6 header itself. A router is asked for by its group. The unspecified address asks for its own sake only,
/// and all of the link (RFC 4862 5.4.2).
#[inline(always)]
pub(crate) fn is_discovery(packet: &Packet) -> bool {
    let to = &packet.destination;
    let from_somebody = packet.source != Address::UNSPECIFIED;
    let right = match packet.icmp_type {
        icmp::V6_NEIGHBOUR_SOLICITATION => from_somebody || to.is_v6_link_scope_group(),
        icmp::V6_NEIGHBOUR_ADVERTISEMENT => from_somebody,
        icmp::V6_ROUTER_SOLICITATION => *to == ROUTERS,
        _ => false,
    };
    right
        && packet.hop_limit == 255
        && packet.icmp_code == 0
        && packet.transport_length <= 64
        && packet.transport_at == PLAIN_V6
}

/// A router advertisement within its bounds (RFC 4861 6.1.2).
#[inline(always)]
fn is_advertisement(packet: &Packet) -> bool {
    packet.hop_limit == 255
        && packet.icmp_code == 0
        && packet.transport_at == PLAIN_V6
        && packet.transport_length <= ROUTER_BYTES
        && packet.source.is_v6_link_local()
}

/// IGMP: `packet` is of no other protocol.
#[inline(always)]
fn groups_v4(direction: Direction, packet: &Packet, from_out: impl Fn() -> bool) -> Upkeep {
    let to = &packet.destination;
    let (whole, short) = (matches!(packet.kind, Kind::Membership), packet.transport_length == 8);
    match (packet.icmp_type, direction) {
        (igmp::QUERY, Direction::Egress) => Upkeep::Deny(Reason::RouterAdvertisement),
        (igmp::QUERY, Direction::Ingress) => pass_if(whole && from_out()),
        (igmp::V1_REPORT | igmp::V2_REPORT, _) => pass_if(whole && short),
        (igmp::LEAVE, _) => pass_if(whole && short && *to == ROUTERS_V4),
        (igmp::V3_REPORT, _) => pass_if(whole && *to == GROUP_ROUTERS_V4),
        (_, _) => Upkeep::Judge,
    }
}

/// DHCP between a client and whoever serves its link: from the client's port to all of the link (RFC 2131 4.1, RFC 8415 7),
/// and from the server's port to the client's. Over IPv6 the server or its relay speaks from an address of the link.
#[inline(always)]
fn is_dhcp(direction: Direction, packet: &Packet) -> bool {
    let (source, to) = (&packet.source, &packet.destination);
    match (packet.source_port, packet.destination_port, direction) {
        (68, 67, Direction::Egress) => {
            *to == EVERYBODY_V4 && packet.transport_at == PLAIN_V4 && packet.transport_length <= DHCP_REQUEST_BYTES
        }
        (546, 547, Direction::Egress) => {
            *to == DHCP_SERVERS
                && source.is_v6_link_local()
                && packet.transport_at == PLAIN_V6
                && packet.transport_length <= DHCP_REQUEST_BYTES
        }
        (67, 68, Direction::Ingress) => packet.transport_at == PLAIN_V4 && packet.transport_length <= ROUTER_BYTES,
        (547, 546, Direction::Ingress) => {
            source.is_v6_link_local()
                && to.is_v6_link_local()
                && packet.transport_at == PLAIN_V6
                && packet.transport_length <= ROUTER_BYTES
        }
        (_, _, _) => false,
    }
}

/// Whether a packet may be for a workload that does not have its destination yet: the answer to a DHCP client (RFC 2131 4.1).
#[inline(always)]
pub fn is_offer(direction: Direction, packet: &Packet) -> bool {
    packet.destination_port == 68 && packet.source.is_v4() && is_dhcp(direction, packet)
}
