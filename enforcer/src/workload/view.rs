//! What netlink shows of this node at one moment, as plain data.
//!
//! Input: `netlink` fills it. Output: `store` reads it and decides which of it to believe.

#![forbid(unsafe_code)]

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr};

use enforcer_common::id::Ifindex;

use ipnetwork::IpNetwork;

use super::model::{Beside, ForeignDevice};

/// Everything that discovery reads from the kernel, complete and immutable.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct NetworkView {
    /// All devices of the node's own namespace, by ifindex.
    pub links: BTreeMap<Ifindex, Link>,
    /// Addresses inside other namespaces, by nsid. Loopback addresses are left out.
    pub inside: BTreeMap<i32, BTreeSet<IpAddr>>,
    /// How many addresses inside a namespace are not in `inside`, because there are too many; by nsid.
    pub unread: BTreeMap<i32, usize>,
    /// Devices inside other namespaces that end at none of our hooks, by nsid and name: what they send passes no program.
    pub foreign: BTreeMap<i32, BTreeMap<String, ForeignDevice>>,
    /// Namespaces that we may not look into (they belong to another user namespace).
    pub unreadable: BTreeSet<i32>,
    /// Unicast routes of the node. Without those that a neighbour can plant: learnt from an RA or a redirect.
    pub routes: Vec<Route>,
    /// Next hops of all routes of the node, learnt ones included.
    pub gateways: BTreeSet<IpAddr>,
    /// Addresses of the node itself, on any device.
    pub node: BTreeSet<IpAddr>,
    /// Devices with a qdisc whose filters see what they receive (clsact or ingress); asked for only where Services are judged
    /// behind translation.
    pub filtered: BTreeSet<Ifindex>,
}

impl NetworkView {
    /// Veths whose peer is in another namespace.
    pub fn veths(&self) -> impl Iterator<Item = (Ifindex, &Link, &VethPeer)> {
        self.links.iter().filter_map(|(index, link)| Some((*index, link, link.peer.as_ref()?)))
    }

    /// What lies above each of these devices on the way to the stack: what it is a port of (a bridge, a bond, a VRF), what is
    /// stacked on that (a VLAN, a macvlan), and so on. The kernel says of a packet that it came in by the last of them.
    pub fn above(&self, devices: impl Iterator<Item = Ifindex>) -> BTreeMap<Ifindex, BTreeSet<Ifindex>> {
        let mut next: BTreeMap<Ifindex, Vec<Ifindex>> = BTreeMap::new();
        for (index, link) in &self.links {
            if let Some(master) = link.master {
                next.entry(*index).or_default().push(master);
            }
            if let (Kind::Stacked, Some(below)) = (link.kind, link.below) {
                next.entry(below).or_default().push(*index);
            }
        }
        let above = |index: Ifindex| {
            let (mut found, mut open) = (BTreeSet::new(), vec![index]);
            while let Some(lower) = open.pop() {
                open.extend(next.get(&lower).into_iter().flatten().copied().filter(|upper| found.insert(*upper)));
            }
            found.remove(&index);
            found
        };
        devices.map(|index| (index, above(index))).collect()
    }

    /// What else is on the links of these veths, but for the stations of the node. A subnet is what the node has a route to on
    /// the bridge itself: the word of a workload about its subnet would let it choose whose packets it receives.
    pub fn beside<'a>(
        &self,
        veths: impl Iterator<Item = Ifindex> + Clone,
        uplinks: impl Iterator<Item = &'a Ifindex>,
    ) -> Beside {
        let bridge = |device: &Ifindex| self.links.get(device)?.master;
        let bridges: BTreeSet<Ifindex> = veths.clone().filter_map(|veth| bridge(&veth)).collect();
        let uplinks = uplinks.filter(|uplink| bridge(uplink).is_some_and(|bridge| bridges.contains(&bridge)));
        // By bridge, since a node may have a route to each of many thousands of workloads.
        let mut subnets = BTreeMap::<Ifindex, BTreeSet<Ipv4Addr>>::new();
        for route in self.routes.iter().filter(|route| !route.via && bridges.contains(&route.device)) {
            subnets.entry(route.device).or_default().extend(broadcast(&route.to));
        }
        let mut broadcasts = BTreeMap::new();
        for veth in veths {
            if let Some(own) = bridge(&veth).and_then(|bridge| subnets.get(&bridge)).filter(|own| !own.is_empty()) {
                broadcasts.insert(veth, own.clone());
            }
        }
        Beside { uplinks: uplinks.copied().collect(), broadcasts, stations: BTreeMap::new() }
    }

    /// Devices directly below this one, if it is a bridge, a bond or a VLAN.
    pub fn lower(&self, index: Ifindex) -> BTreeSet<Ifindex> {
        let Some(link) = self.links.get(&index) else {
            return BTreeSet::new();
        };
        match link.kind {
            Kind::Bridge | Kind::Master => {
                self.links.iter().filter(|(_, port)| port.master == Some(index)).map(|(port, _)| *port).collect()
            }
            Kind::Stacked => link.below.into_iter().collect(),
            Kind::Vrf | Kind::Plain => BTreeSet::new(),
        }
    }
}

/// The broadcast address of a subnet that has one.
fn broadcast(subnet: &IpNetwork) -> Option<Ipv4Addr> {
    match subnet {
        IpNetwork::V4(subnet) if (1..=30).contains(&subnet.prefix()) => Some(subnet.broadcast()),
        IpNetwork::V4(_) | IpNetwork::V6(_) => None,
    }
}

/// A device of the node's own namespace.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Link {
    /// Name at the moment.
    pub name: String,
    /// What may lie below it.
    pub kind: Kind,
    /// Bridge, bond or VRF that it is a port of.
    pub master: Option<Ifindex>,
    /// Device of this namespace that it lies on.
    pub below: Option<Ifindex>,
    /// Set if it is a veth whose peer is in another namespace.
    pub peer: Option<VethPeer>,
    /// Its hardware address, if the device takes all frames for that address: a bridge that filters VLANs may hand them on.
    pub mac: Option<[u8; 6]>,
    /// An XDP program is attached. None is ours.
    pub xdp: bool,
}

/// How a device relates to others.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Kind {
    /// Bridge: its ports name it as their master.
    Bridge,
    /// Bond or team: as a bridge.
    Master,
    /// VRF: as a bridge, but its ports keep their own way to the stack.
    Vrf,
    /// VLAN, macvlan or ipvlan: it names the device below.
    Stacked,
    /// Anything else.
    Plain,
}

/// The far end of a veth.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct VethPeer {
    /// The kernel's id for the far namespace; `None` while that namespace is being torn down.
    pub nsid: Option<i32>,
    /// Ifindex of the far end. The number belongs to the far namespace, so it is not an `Ifindex` of this node.
    pub index: u32,
    /// MAC address of the far end.
    pub mac: Option<[u8; 6]>,
}

/// A unicast route of the node: one entry for each next hop.
#[derive(Clone, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub struct Route {
    /// Destination; prefix length 0 is a default route.
    pub to: IpNetwork,
    /// Device that it leaves by.
    pub device: Ifindex,
    /// It has a next hop; without one the destination is on the link.
    pub via: bool,
}

impl Route {
    /// A default route.
    pub fn is_default(&self) -> bool {
        self.to.prefix() == 0
    }

    /// A route to one address.
    pub fn is_host(&self) -> bool {
        self.to.prefix() == if self.to.is_ipv4() { 32 } else { 128 }
    }
}
