//! The guardrails for packets without a live flow. Pure, over parsed headers and the addresses of the endpoint.

use crate::endpoint::Endpoint;
use crate::id::{Address, Direction, Slot};
use crate::image::AddressEntry;
use crate::link;
use crate::packet::{Kind, Packet, ProtocolClass, icmp};
use crate::verdict::Reason;

/// What is known about a packet's endpoint and addresses before it is judged.
#[derive(Clone, Copy, Debug)]
pub struct Place<'a> {
    /// The workload's endpoint.
    pub endpoint: &'a Endpoint,
    /// Slot of the image in force.
    pub slot: Slot,
    /// The direction, seen from the workload.
    pub direction: Direction,
    /// The local side's address is the workload's own.
    pub own: bool,
    /// What the image knows about the source.
    pub source: Option<AddressEntry>,
    /// What the image knows about the destination. It is looked up only if `own` is not enough.
    pub destination: Option<AddressEntry>,
}

/// Checks in the order of the specification: the sender's address, the receiver's address, a local workload's address from
/// elsewhere. `home` says whether the packet came in by a device by which packets of its source may come (D12); it is asked
/// only of a local workload's address. `for_all` says whether the packet is for everybody on the workload's link (D16, N1); it
/// is asked only of an address that is nobody's here. `is_from_itself` says whether the source is an address of the receiver.
#[inline(always)]
pub fn check(
    place: &Place<'_>,
    packet: &Packet,
    home: impl FnOnce() -> bool,
    for_all: impl FnOnce() -> bool,
    is_from_itself: impl FnOnce() -> bool,
) -> Result<(), Reason> {
    let routes = place.endpoint.flags[place.slot.index()] & Endpoint::ROUTES != 0;
    let taken = |entry: Option<AddressEntry>| entry.is_some_and(|entry| entry.is_local() || entry.is_node());
    match place.direction {
        Direction::Egress => {
            if place.own || is_addressless(packet) {
                return Ok(());
            }
            let foreign = !taken(place.source) && !packet.source.is_group() && !is_martian(&packet.source);
            if routes && foreign { Ok(()) } else { Err(Reason::SpoofedSource) }
        }
        Direction::Ingress => {
            let addressed = place.own || packet.destination.is_group();
            if !addressed && (taken(place.destination) || !routes && !for_all()) {
                return Err(Reason::NotAddressed);
            }
            // A source that a workload merely shows may be its true owner's, who is outside (D11). The workload's own
            // address may be younger than the image.
            let shown = place.source.is_some_and(AddressEntry::is_shown);
            let local = place.source.is_some_and(AddressEntry::is_vouched) || !shown && is_from_itself();
            if local && !home() { Err(Reason::SpoofedSource) } else { Ok(()) }
        }
    }
}

/// Addresses that nobody sends from: "this network", loopback (RFC 1122 3.2.1.3, RFC 4291 2.5.2 and 2.5.3).
#[inline(always)]
fn is_martian(address: &Address) -> bool {
    let [high, low] = address.halves();
    if address.is_v4() { matches!((low as u32) >> 24, 0 | 127) } else { high == 0 && low <= 1 }
}

/// A sender that has no address yet: duplicate address detection (RFC 4862 5.4), router discovery (RFC 4861 4.1), DHCP (RFC
/// 2131 4.1), MLD (RFC 3590), IGMP (RFC 3376 4.2.13).
#[inline(always)]
fn is_addressless(packet: &Packet) -> bool {
    match packet.class {
        ProtocolClass::Icmpv6 => {
            packet.source == Address::UNSPECIFIED
                && (link::is_discovery(packet)
                    || matches!(packet.icmp_type, icmp::V6_GROUP_REPORT | icmp::V6_GROUP_DONE | icmp::V6_GROUPS_REPORT))
        }
        ProtocolClass::Udp => packet.source == Address::v4(0) && packet.destination_port == 67,
        ProtocolClass::Other => packet.source == Address::v4(0) && matches!(packet.kind, Kind::Membership),
        ProtocolClass::Tcp | ProtocolClass::Sctp | ProtocolClass::Icmp => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use core::net::IpAddr;

    #[test]
    fn nobody_sends_from_these_and_from_their_neighbours_somebody_may() {
        for (text, martian) in [
            ("0.0.0.0", true),
            ("0.255.255.255", true),
            ("1.0.0.0", false),
            ("126.255.255.255", false),
            ("127.0.0.0", true),
            ("127.255.255.255", true),
            ("128.0.0.0", false),
            ("::", true),
            ("::1", true),
            ("::2", false),
            ("::127.0.0.1", false),
            ("::1:0:0:1", false),
            ("1::1", false),
            ("1::", false),
        ] {
            let address: IpAddr = text.parse().unwrap();
            assert_eq!(is_martian(&address.into()), martian, "{text}");
        }
    }
}
