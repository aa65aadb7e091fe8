//! The node's routes, reduced to what the rules about address owners and uplinks need.
//!
//! Input: route messages. Output: unicast routes and gateways.

#![forbid(unsafe_code)]

use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use enforcer_common::id::Ifindex;

use ipnetwork::IpNetwork;
use netlink_packet_route::AddressFamily;
use netlink_packet_route::route::{
    RouteAddress, RouteAttribute, RouteHeader, RouteMessage, RouteNextHop, RouteProtocol, RouteType, RouteVia,
};

use crate::workload::view::Route;

/// The kernel's table of its own addresses; what stands there says nothing about others.
const TABLE_LOCAL: u32 = 255;

/// What the node's routes say.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub(super) struct Routes {
    pub(super) routes: Vec<Route>,
    pub(super) gateways: BTreeSet<IpAddr>,
}

/// Adds one route message.
pub(super) fn collect_routes(message: &RouteMessage, into: &mut Routes) {
    if message.header.kind != RouteType::Unicast || table_of(message) == TABLE_LOCAL {
        return;
    }
    let hops = hops_of(message);
    into.gateways.extend(hops.iter().filter_map(|hop| hop.gateway));
    // A container can send an RA or a redirect; a route learnt so must neither make its veth an uplink nor give it a
    // subnet. Its next hop still counts as a gateway, because that only takes claims away.
    if matches!(message.header.protocol, RouteProtocol::Ra | RouteProtocol::IcmpRedirect) {
        return;
    }
    let Some(to) = destination_of(message) else { return };
    into.routes.extend(hops.iter().map(|hop| Route { to, device: hop.device, via: hop.gateway.is_some() }));
}

struct Hop {
    device: Ifindex,
    gateway: Option<IpAddr>,
}

fn hops_of(message: &RouteMessage) -> Vec<Hop> {
    let mut hops = Vec::new();
    let device = message.attributes.iter().find_map(|attribute| match attribute {
        RouteAttribute::Oif(index) => Some(*index),
        _ => None,
    });
    if let Some(device) = device {
        hops.push(Hop { device: Ifindex(device), gateway: gateway_of(&message.attributes) });
    }
    for attribute in &message.attributes {
        if let RouteAttribute::MultiPath(next_hops) = attribute {
            hops.extend(next_hops.iter().map(|hop: &RouteNextHop| Hop {
                device: Ifindex(hop.interface_index),
                gateway: gateway_of(&hop.attributes),
            }));
        }
    }
    hops
}

fn gateway_of(attributes: &[RouteAttribute]) -> Option<IpAddr> {
    attributes.iter().find_map(|attribute| match attribute {
        RouteAttribute::Gateway(RouteAddress::Inet(address)) | RouteAttribute::Via(RouteVia::Inet(address)) => {
            Some(IpAddr::V4(*address))
        }
        RouteAttribute::Gateway(RouteAddress::Inet6(address)) | RouteAttribute::Via(RouteVia::Inet6(address)) => {
            Some(IpAddr::V6(*address))
        }
        _ => None,
    })
}

fn destination_of(message: &RouteMessage) -> Option<IpNetwork> {
    let address = message.attributes.iter().find_map(|attribute| match attribute {
        RouteAttribute::Destination(RouteAddress::Inet(address)) => Some(IpAddr::V4(*address)),
        RouteAttribute::Destination(RouteAddress::Inet6(address)) => Some(IpAddr::V6(*address)),
        _ => None,
    });
    let address = match (address, message.header.address_family) {
        (Some(address), _) => address,
        (None, AddressFamily::Inet) => IpAddr::V4(Ipv4Addr::UNSPECIFIED),
        (None, AddressFamily::Inet6) => IpAddr::V6(Ipv6Addr::UNSPECIFIED),
        (None, _) => return None,
    };
    IpNetwork::new(address, message.header.destination_prefix_length).ok()
}

fn table_of(message: &RouteMessage) -> u32 {
    message
        .attributes
        .iter()
        .find_map(|attribute| match attribute {
            RouteAttribute::Table(table) => Some(*table),
            _ => None,
        })
        .unwrap_or_else(|| table_of_header(&message.header))
}

fn table_of_header(header: &RouteHeader) -> u32 {
    u32::from(header.table)
}
