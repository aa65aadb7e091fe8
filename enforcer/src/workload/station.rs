//! The node's own stations on the links of workloads: whether what a workload sends to one is certain to reach the node's
//! stack, and with it the program that judges behind the node's translation (D5).
//!
//! Input: a network view, and the devices with tcx programs that are not ours. Output: the stations of those veths that have
//! one, and for the others what stands in the way. Pure.

#![forbid(unsafe_code)]

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use enforcer_common::id::Ifindex;

use super::finding::Finding;
use super::view::{Kind, Link, NetworkView};

/// Why frames that come in by a device may not reach the node's stack as the programs on the veth have seen them.
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub enum Detour {
    /// It takes the frames of its ports, and is no bridge of the node's own stack.
    Switch,
    /// It is a bridge that may give a frame for its own address to a port.
    Vlans,
    /// An XDP program.
    Xdp,
    /// Filters of a clsact or ingress qdisc.
    Filters,
    /// A tcx program that is not ours.
    Tcx,
}

impl fmt::Display for Detour {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Switch => {
                "it takes the frames of its ports before the node does; put the veths on a bridge that is no port itself"
            }
            Self::Vlans => "it filters VLANs, so another port may get a frame for the node; turn `vlan_filtering` off",
            Self::Xdp => "its XDP program may send packets past the node's translation; remove the program",
            Self::Filters => {
                "filters of its clsact or ingress qdisc may send packets past the node's translation; remove the qdisc"
            }
            Self::Tcx => {
                "a tcx program of somebody else may send packets past the node's translation; remove the program"
            }
        })
    }
}

impl NetworkView {
    /// The devices whose ingress the frames of workloads pass on their way to the node's stack: the veths, and the bridges
    /// that they are ports of. A VRF runs no program at its own ingress.
    pub fn entrances(&self) -> BTreeSet<Ifindex> {
        self.veths().flat_map(|(veth, link, _)| [Some(veth), link.master]).flatten().collect()
    }

    /// By veth, the hardware address by which a workload reaches the node's own stack; and what keeps others from having one.
    /// `chained`: devices with tcx programs that are not ours.
    pub fn stations(
        &self,
        veths: impl Iterator<Item = Ifindex>,
        chained: &BTreeSet<Ifindex>,
    ) -> (BTreeMap<Ifindex, [u8; 6]>, BTreeSet<Finding>) {
        let (mut stations, mut findings) = (BTreeMap::new(), BTreeSet::new());
        for veth in veths {
            match self.station(veth, chained) {
                Ok(station) => _ = stations.insert(veth, station),
                Err((device, because)) => {
                    // A device that the view does not know yet comes with the next one.
                    findings.extend(
                        self.links.get(&device).map(|link| Finding::NoStation { device: link.name.clone(), because }),
                    );
                }
            }
        }
        (stations, findings)
    }

    /// The station of a veth: its own address, or that of its bridge. An error names the device that is in the way.
    fn station(&self, veth: Ifindex, chained: &BTreeSet<Ifindex>) -> Result<[u8; 6], (Ifindex, Detour)> {
        let mut device = veth;
        loop {
            let link = self.links.get(&device).ok_or((device, Detour::Switch))?;
            if let Some(because) = self.at_ingress(device, link, chained) {
                return Err((device, because));
            }
            match link.master {
                Some(master) if self.links.get(&master).is_none_or(|master| master.kind != Kind::Vrf) => {
                    let is_bridge = self.links.get(&master).is_some_and(|master| master.kind == Kind::Bridge);
                    if !is_bridge || device != veth {
                        return Err((master, Detour::Switch));
                    }
                    device = master;
                }
                // A port of a VRF keeps its own way to the stack.
                Some(_) | None => return link.mac.ok_or((device, Detour::Vlans)),
            }
        }
    }

    /// What else than our programs may take a frame at the ingress of a device. All of it comes behind our program on the veth,
    /// or past it.
    fn at_ingress(&self, device: Ifindex, link: &Link, chained: &BTreeSet<Ifindex>) -> Option<Detour> {
        [
            (link.xdp, Detour::Xdp),
            (self.filtered.contains(&device), Detour::Filters),
            (chained.contains(&device), Detour::Tcx),
        ]
        .into_iter()
        .find_map(|(is_there, because)| is_there.then_some(because))
    }
}
