//! Says by which devices the packets of each local workload may come in (D12), and what else is on their links (D16, N1, D5).
//!
//! Input: a plan, and the addresses of each of its workloads that have an id. Output: the pairs of `HOMES`. This is the only
//! place that decides whose addresses are guarded: those for which somebody vouches (D11). What a workload merely shows may
//! be the address of its true owner elsewhere, so nobody's packets are dropped for it.

use std::collections::BTreeSet;
use std::net::IpAddr;

use enforcer_common::home::{HomeKey, Station};
use enforcer_common::id::{Address, Ifindex};

use super::{Plan, WorkloadKey};

/// The pairs of all workloads and their links. A workload's own address is believed from each of its veths, and from what lies above one of
/// them.
pub(crate) fn homes(plan: &Plan<'_>, addresses: impl Fn(WorkloadKey) -> Vec<Address>) -> BTreeSet<HomeKey> {
    let vouched: BTreeSet<Address> =
        plan.addresses.iter().filter(|(_, entry)| entry.is_vouched()).map(|(address, _)| *address).collect();
    let mut homes = BTreeSet::new();
    for workload in &plan.workloads {
        let above = workload.endpoints.iter().filter_map(|veth| plan.above.get(veth)).flatten();
        let devices: BTreeSet<Ifindex> = workload.endpoints.iter().chain(above).copied().collect();
        for address in addresses(workload.key) {
            if vouched.contains(&address) {
                homes.insert(HomeKey::guarded(address));
            }
            homes.extend(devices.iter().map(|device| HomeKey::new(address, *device)));
        }
    }
    homes.extend(plan.beside.uplinks.iter().map(|uplink| HomeKey::out(*uplink)));
    for (veth, broadcasts) in &plan.beside.broadcasts {
        homes.extend(broadcasts.iter().map(|address| HomeKey::for_all(IpAddr::from(*address).into(), *veth)));
    }
    homes.extend(plan.beside.stations.iter().map(|(veth, mac)| HomeKey::station(Station::of(*mac), *veth)));
    homes
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;
    use std::net::Ipv4Addr;

    use enforcer_common::id::{PeerClass, Row};
    use enforcer_common::image::AddressEntry;

    use super::*;
    use crate::plan::PlannedWorkload;
    use crate::workload::model::Beside;

    const A: Address = Address([1, 0, 0, 0]);
    const B: Address = Address([2, 0, 0, 0]);
    const SHARED: Address = Address([3, 0, 0, 0]);
    const SHOWN: Address = Address([4, 0, 0, 0]);
    const MAC: [u8; 6] = [2, 0, 0, 0, 0, 8];

    fn workload(key: u64, endpoints: &[u32]) -> PlannedWorkload {
        PlannedWorkload {
            key: WorkloadKey(key),
            endpoints: endpoints.iter().copied().map(Ifindex).collect(),
            addresses: Vec::new(),
            unknown: false,
            routes: false,
            rows: [Row::NONE; 2],
            window: None,
        }
    }

    #[test]
    fn an_address_is_at_home_on_all_veths_of_its_workload_and_above_them_and_nowhere_else() {
        // a has two veths, one of them in a bridge (10) with a VLAN (11); b has one in the same bridge; c is routed.
        let above = [(5, &[10, 11][..]), (6, &[]), (7, &[10, 11]), (8, &[])];
        let devices = |numbers: &[u32]| numbers.iter().copied().map(Ifindex).collect::<BTreeSet<_>>();
        let local = AddressEntry::new(PeerClass(0), true, false);
        let entries = [(A, local), (B, local), (SHARED, local.disputed()), (SHOWN, local.shown())];
        let plan = Plan {
            lines: &[],
            addresses: &entries,
            workloads: vec![workload(1, &[5, 6]), workload(2, &[7]), workload(3, &[8])],
            uplinks: vec![Ifindex(10), Ifindex(12)],
            above: above.into_iter().map(|(veth, above)| (Ifindex(veth), devices(above))).collect::<BTreeMap<_, _>>(),
            beside: Beside {
                uplinks: [Ifindex(12)].into(),
                broadcasts: BTreeMap::from([(Ifindex(7), [Ipv4Addr::new(10, 0, 0, 255)].into())]),
                stations: BTreeMap::from([(Ifindex(8), MAC)]),
            },
        };
        let addresses = |WorkloadKey(key)| match key {
            1 => vec![A, SHARED],
            2 => vec![B, SHARED, SHOWN],
            _ => Vec::new(),
        };
        let found = homes(&plan, addresses);
        let expected = [(A, &[5, 6, 10, 11][..]), (B, &[7, 10, 11]), (SHARED, &[5, 6, 7, 10, 11])];
        let expected = expected.into_iter().flat_map(|(address, devices)| {
            let pairs = devices.iter().map(move |device| HomeKey::new(address, Ifindex(*device)));
            pairs.chain([HomeKey::guarded(address)])
        });
        let shown = [7, 10, 11].map(|device| HomeKey::new(SHOWN, Ifindex(device)));
        let broadcast = IpAddr::from([10, 0, 0, 255]).into();
        let station = HomeKey::station(Station::of(MAC), Ifindex(8));
        let beside = [HomeKey::out(Ifindex(12)), HomeKey::for_all(broadcast, Ifindex(7)), station];
        assert_eq!(
            found,
            expected.chain(shown).chain(beside).collect(),
            "what a workload merely shows is guarded against nobody"
        );
    }
}
