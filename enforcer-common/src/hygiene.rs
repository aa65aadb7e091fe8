//! The guardrails of a packet that no live flow vouches for: pure, over parsed headers and the endpoint's addresses.

use crate::endpoint::Endpoint;
use crate::id::{Address, Direction};
use crate::image::{AddressEntry, Image};
use crate::packet::{Packet, ProtocolClass, icmp};
use crate::verdict::Reason;

/// What is known of a packet's place before it is judged.
#[derive(Clone, Copy, Debug)]
pub struct Place<'a> {
    /// The workload's endpoint.
    pub endpoint: &'a Endpoint,
    /// Slot of the image in force.
    pub slot: usize,
    /// Which way.
    pub direction: Direction,
    /// The local side's address is the workload's own.
    pub own: bool,
    /// What the image knows of the source.
    pub source: Option<AddressEntry>,
    /// The packet came in by a device towards the outside.
    pub from_uplink: bool,
}

/// Checks in the order of the specification: the sender's address, the receiver's address, a local address from outside.
#[inline(always)]
pub fn check(place: &Place<'_>, packet: &Packet) -> Result<(), Reason> {
    let routes = place.endpoint.flags[place.slot & 1] & Endpoint::ROUTES != 0;
    match place.direction {
        Direction::Egress => {
            if place.own || is_addressless(packet) {
                return Ok(());
            }
            let taken = place.source.is_some_and(|entry| entry.is_local() || entry.is_node());
            if routes && !taken && !packet.source.is_group() { Ok(()) } else { Err(Reason::SpoofedSource) }
        }
        Direction::Ingress => {
            if !place.own && !packet.destination.is_group() && !routes {
                return Err(Reason::NotAddressed);
            }
            if place.from_uplink && place.source.is_some_and(AddressEntry::is_local) {
                return Err(Reason::SpoofedFromUplink);
            }
            Ok(())
        }
    }
}

/// A sender that has no address yet: duplicate address detection (RFC 4862 5.4), DHCP (RFC 2131 4.1), MLD (RFC 3590).
#[inline(always)]
fn is_addressless(packet: &Packet) -> bool {
    match packet.class {
        ProtocolClass::Icmpv6 => {
            packet.source == Address::UNSPECIFIED
                && matches!(packet.icmp_type, icmp::V6_NEIGHBOUR_SOLICITATION | 131 | 132 | 143)
        }
        ProtocolClass::Udp => packet.source == Address::v4(0) && packet.destination_port == 67,
        ProtocolClass::Tcp | ProtocolClass::Sctp | ProtocolClass::Icmp | ProtocolClass::Other => false,
    }
}

/// What neighbour discovery means for a packet.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Discovery {
    /// Address resolution within its bounds: passes without policy and without state.
    Pass,
    /// A workload that acts as a router.
    Deny(Reason),
    /// Judged like any other packet.
    Judge,
}

/// Neighbour discovery (RFC 4861): solicitations and advertisements with hop limit 255, code 0, at most 64 bytes, to
/// `ff02::/16`, `fe80::/10`, this node or a local workload pass. Larger ones to farther places would be a channel out.
#[inline(always)]
pub fn discovery<I: Image>(image: Option<&I>, direction: Direction, packet: &Packet) -> Discovery {
    if !matches!(packet.class, ProtocolClass::Icmpv6) {
        return Discovery::Judge;
    }
    match packet.icmp_type {
        icmp::V6_ROUTER_ADVERTISEMENT | icmp::V6_REDIRECT => match direction {
            Direction::Egress => Discovery::Deny(Reason::RouterAdvertisement),
            Direction::Ingress => Discovery::Judge,
        },
        icmp::V6_NEIGHBOUR_SOLICITATION | icmp::V6_NEIGHBOUR_ADVERTISEMENT => {
            let to = &packet.destination;
            let bounded = packet.hop_limit == 255 && packet.icmp_code == 0 && packet.transport_length <= 64;
            let near = to.is_v6_link_scope_group() || to.is_v6_link_local();
            let known =
                || image.and_then(|image| image.address(to)).is_some_and(|entry| entry.is_local() || entry.is_node());
            if bounded && (near || known()) { Discovery::Pass } else { Discovery::Judge }
        }
        _ => Discovery::Judge,
    }
}
