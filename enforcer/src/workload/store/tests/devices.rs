//! Tests of what a snapshot says of the node's devices: by which of them a workload's packets come in, and which of them lead
//! to no workload.

use std::collections::{BTreeMap, BTreeSet};

use enforcer_common::id::Ifindex;

use super::super::Store;
use super::world::{World, behind, ips, name_behind};
use crate::workload::finding::Finding;
use crate::workload::model::ForeignDevice;
use crate::workload::station::Detour;
use crate::workload::view::Kind;

fn devices(numbers: &[u32]) -> BTreeSet<Ifindex> {
    numbers.iter().copied().map(Ifindex).collect()
}

/// A device that lies on another one.
fn stacked(world: &mut World, index: u32, below: u32, master: Option<u32>) {
    world.device(index, &format!("stacked{index}"), Kind::Stacked, master);
    world.view.links.get_mut(&Ifindex(index)).unwrap().below = Some(Ifindex(below));
}

#[test]
fn a_workloads_packets_come_in_by_its_veth_and_by_what_lies_above_it() {
    let mut world = World::default();
    // A bridge with a VLAN that is in a VRF, another bridge with an uplink, and a tunnel whose lower device is the first.
    world.device(20, "br0", Kind::Bridge, None);
    stacked(&mut world, 21, 20, Some(22));
    world.device(22, "vrf0", Kind::Plain, None);
    stacked(&mut world, 23, 21, None);
    world.device(30, "br1", Kind::Bridge, None);
    world.device(31, "eth0", Kind::Plain, Some(30));
    stacked(&mut world, 32, 31, None);
    world.device(40, "vxlan0", Kind::Plain, None);
    world.view.links.get_mut(&Ifindex(40)).unwrap().below = Some(Ifindex(20));
    world.route("0.0.0.0/0", 30, true);
    world.veth_on(10, 1, Some(20));
    world.veth_on(11, 2, Some(30));
    world.veth_on(12, 3, Some(22));
    world.veth_on(13, 4, None);
    let snapshot = world.update(&mut Store::new()).snapshot;
    for (veth, above) in [(10, &[20, 21, 22, 23][..]), (11, &[30]), (12, &[22]), (13, &[])] {
        assert_eq!(snapshot.above[&Ifindex(veth)], devices(above), "veth {veth}");
    }
    let others: BTreeSet<Ifindex> = snapshot.others.keys().copied().collect();
    assert_eq!(others, devices(&[20, 21, 22, 23, 30, 31, 32, 40]), "everything but the veths of workloads");
}

/// Routers, DHCP servers and the subnet of a link are believed by what the node itself is connected to (D16, N1).
#[test]
fn uplinks_and_subnets_count_for_the_workloads_of_their_own_bridge() {
    let mut world = World::default();
    world.device(20, "br0", Kind::Bridge, None);
    world.device(30, "br1", Kind::Bridge, None);
    world.device(31, "eth0", Kind::Plain, Some(30));
    world.device(32, "eth1", Kind::Plain, None);
    world.device(33, "tap0", Kind::Plain, Some(20));
    world.route("0.0.0.0/0", 30, true);
    world.route("0.0.0.0/0", 32, true);
    for (subnet, device, via) in [
        ("10.0.0.0/24", 20, false),
        ("10.0.1.0/25", 20, false),
        ("10.0.2.0/31", 20, false),
        ("10.0.3.3/32", 20, false),
        ("10.0.4.0/24", 20, true),
        ("fd00::/64", 20, false),
        ("10.1.0.0/16", 30, false),
        ("10.2.0.0/16", 32, false),
        ("10.3.0.0/24", 12, false),
    ] {
        world.route(subnet, device, via);
    }
    world.veth_on(10, 1, Some(20));
    world.veth_on(11, 2, Some(30));
    world.veth_on(12, 3, None);
    let beside = world.update(&mut Store::new()).snapshot.beside;
    assert_eq!(beside.uplinks, devices(&[31]), "what is routed comes in by the bridge or by eth1");
    let found: Vec<(u32, String)> = beside
        .broadcasts
        .iter()
        .flat_map(|(veth, all)| all.iter().map(|address| (veth.0, address.to_string())))
        .collect();
    let expected = [(10, "10.0.0.255"), (10, "10.0.1.127"), (11, "10.1.255.255")];
    assert_eq!(found, expected.map(|(veth, address)| (veth, address.to_owned())));
}

#[test]
fn the_nodes_station_on_a_link_is_the_veth_or_its_bridge_and_nothing_else() {
    let mut world = World::default();
    world.device(20, "br0", Kind::Bridge, None);
    world.device(21, "by-vlan", Kind::Bridge, None);
    world.view.links.get_mut(&Ifindex(21)).unwrap().mac = None;
    world.device(22, "ovs-system", Kind::Plain, None);
    world.device(23, "br1", Kind::Bridge, Some(22));
    world.device(24, "vrf0", Kind::Vrf, None);
    world.device(25, "br2", Kind::Bridge, Some(24));
    world.device(26, "bond0", Kind::Master, None);
    let masters = [None, Some(20), Some(21), Some(22), Some(23), Some(24), Some(25), Some(26), Some(99)];
    for (veth, nsid, master) in (10..).zip(1..).zip(masters).map(|((veth, nsid), master)| (veth, nsid, master)) {
        world.veth_on(veth, nsid, master);
    }
    let outcome = world.update(&mut Store::new());
    let expected = [(10, 10), (11, 20), (15, 15), (16, 25)];
    assert_eq!(outcome.snapshot.beside.stations, stations(&expected));
    let told = [("by-vlan", Detour::Vlans), ("ovs-system", Detour::Switch), ("bond0", Detour::Switch)];
    assert_eq!(outcome.findings, no_stations(&told), "once for all veths on it");
}

fn stations(of: &[(u32, u8)]) -> BTreeMap<Ifindex, [u8; 6]> {
    of.iter().map(|(veth, of)| (Ifindex(*veth), [2, 0, 0, 0, 0, *of])).collect()
}

fn no_stations(told: &[(&str, Detour)]) -> BTreeSet<Finding> {
    let told = told.iter();
    told.map(|(device, because)| Finding::NoStation { device: (*device).to_owned(), because: *because }).collect()
}

#[test]
fn where_somebody_else_may_take_the_frames_is_no_station() {
    let mut world = World::default();
    world.device(20, "br0", Kind::Bridge, None);
    world.device(21, "br1", Kind::Bridge, None);
    world.device(22, "vrf0", Kind::Vrf, None);
    world.device(23, "eth0", Kind::Plain, None);
    stacked(&mut world, 24, 20, None);
    let masters = [None, None, None, Some(20), Some(20), Some(21), Some(22)];
    for (veth, nsid, master) in (10..).zip(1..).zip(masters).map(|((veth, nsid), master)| (veth, nsid, master)) {
        world.veth_on(veth, nsid, master);
    }
    let all = stations(&[(10, 10), (11, 11), (12, 12), (13, 20), (14, 20), (15, 21), (16, 16)]);
    let mut store = Store::new();
    assert_eq!(world.update(&mut store).snapshot.beside.stations, all, "positive control");

    // What frames of workloads do not pass on their way says nothing.
    world.view.filtered = devices(&[23, 24]);
    world.chained = devices(&[22, 23]);
    let outcome = world.update(&mut store);
    assert_eq!((outcome.snapshot.beside.stations, outcome.findings), (all.clone(), BTreeSet::new()));

    let xdp = |world: &mut World, is_there| world.view.links.get_mut(&Ifindex(10)).unwrap().xdp = is_there;
    xdp(&mut world, true);
    world.view.filtered.extend(devices(&[11, 20]));
    world.chained.extend(devices(&[12, 13, 20]));
    let outcome = world.update(&mut store);
    assert_eq!(outcome.snapshot.beside.stations, stations(&[(15, 21), (16, 16)]));
    let told = [
        ("veth10", Detour::Xdp),
        ("veth11", Detour::Filters),
        ("veth12", Detour::Tcx),
        ("veth13", Detour::Tcx),
        ("br0", Detour::Filters),
    ];
    assert_eq!(outcome.findings, no_stations(&told), "the first that a frame meets");

    xdp(&mut world, false);
    (world.view.filtered, world.chained) = (BTreeSet::new(), BTreeSet::new());
    assert_eq!(world.update(&mut store).snapshot.beside.stations, all, "it is gone");
}

#[test]
fn devices_that_lie_on_each_other_in_a_circle_end() {
    let mut world = World::default();
    stacked(&mut world, 20, 21, None);
    stacked(&mut world, 21, 20, None);
    world.veth_on(10, 1, Some(20));
    let snapshot = world.update(&mut Store::new()).snapshot;
    assert_eq!(snapshot.above[&Ifindex(10)], devices(&[20, 21]));
}

#[test]
fn a_veth_that_leads_out_of_the_node_leads_to_no_workload_and_the_loopback_device_is_left_out() {
    let mut world = World::default();
    world.device(1, "lo", Kind::Plain, None);
    world.veth_on(10, 1, None);
    world.veth_on(11, 2, None);
    world.route("0.0.0.0/0", 10, true);
    let snapshot = world.update(&mut Store::new()).snapshot;
    assert_eq!(snapshot.others.keys().copied().collect::<BTreeSet<_>>(), devices(&[10]));
}

#[test]
fn a_device_on_one_of_the_nodes_closes_its_workload_while_it_is_there() {
    let mut world = World::bridged();
    world.veth(10, 1);
    world.veth(11, 2);
    world.container("a", 1, &[], &["10.88.0.10"]);
    world.container("b", 2, &[], &["10.88.0.11"]);
    let mut store = Store::new();
    let before = world.update(&mut store).snapshot;
    let names = [10, 11].map(|veth| name_behind(&before, veth));
    assert!(names.iter().all(|name| !name.is_empty()), "{names:?}");

    let device = |over_node| ForeignDevice { kind: "macvlan".to_owned(), addresses: ips(&["10.99.0.1"]), over_node };
    world.view.foreign.insert(1, BTreeMap::from([("mv0\u{1b}[2J".to_owned(), device(true))]));
    let outcome = world.update(&mut store);
    assert_eq!([10, 11].map(|veth| name_behind(&outcome.snapshot, veth)), [String::new(), names[1].clone()]);
    assert!(behind(&outcome.snapshot, 10).disagrees, "closed whatever happens to unknown workloads");
    let closing: Vec<&Finding> = outcome.findings.iter().filter(|finding| finding.closes()).collect();
    let text = closing.first().expect("a finding").to_string();
    assert!(text.contains(&names[0]) && text.contains("mv0") && !text.contains('\u{1b}'), "{text}");
    assert_eq!(closing.len(), 1);
    assert!(outcome.findings.iter().any(|finding| finding.partly_enforced().is_some()), "and it is listed");

    // One that lies elsewhere is listed, and closes nothing.
    world.view.foreign.insert(1, BTreeMap::from([("mv0".to_owned(), device(false))]));
    let outcome = world.update(&mut store);
    assert_eq!([10, 11].map(|veth| name_behind(&outcome.snapshot, veth)), names);
    assert_eq!(behind(&outcome.snapshot, 10).foreign, BTreeMap::from([("mv0".to_owned(), device(false))]));
    let found: Vec<String> = outcome.findings.iter().map(ToString::to_string).collect();
    assert!(
        matches!(&found[..], [text] if text.contains("partly enforced") && text.contains("mv0 (macvlan)")),
        "{found:?}"
    );
    world.view.foreign.clear();
    assert_eq!(world.update(&mut store).snapshot, before, "as before");
}
