//! Tests of the rules that say which devices lead out of the node.

use std::collections::{BTreeMap, BTreeSet};

use enforcer_common::id::Ifindex;

use super::super::Store;
use super::world::{World, behind};
use crate::workload::finding::Finding;
use crate::workload::model::Snapshot;
use crate::workload::view::Kind;

fn uplinks(snapshot: &Snapshot) -> Vec<u32> {
    snapshot.uplinks.keys().map(|device| device.0).collect()
}

/// A node without a device of its own: the default route leads over what the test says.
fn container_node(default_over: u32) -> World {
    let mut world = World::default();
    world.device(1, "br0", Kind::Bridge, None);
    world.route("0.0.0.0/0", default_over, true);
    world
}

#[test]
fn the_device_of_a_default_route_and_all_below_it() {
    let mut world = World::default();
    world.device(1, "br0", Kind::Bridge, None);
    world.device(2, "bond0", Kind::Master, Some(1));
    world.device(3, "eth0", Kind::Plain, Some(2));
    world.device(4, "eth1", Kind::Plain, None);
    world.device(5, "br0.7", Kind::Stacked, None);
    world.view.links.get_mut(&Ifindex(5)).unwrap().below = Some(Ifindex(1));
    world.route("::/0", 5, true);
    world.veth(10, 1);
    let snapshot = world.update(&mut Store::new()).snapshot;
    assert_eq!(uplinks(&snapshot), [1, 2, 3, 5]);
    assert_eq!(behind(&snapshot, 10).identity, None);
}

#[test]
fn a_nodes_own_veth_is_one_and_stays_one_when_the_route_flaps() {
    let mut world = container_node(10);
    let mut store = Store::new();
    world.veth_on(10, 1, None);
    assert_eq!(uplinks(&world.update(&mut store).snapshot), [10]);
    let routes = std::mem::take(&mut world.view.routes);
    assert_eq!(uplinks(&world.update(&mut store).snapshot), [10]);
    world.view.routes = routes;
    assert_eq!(uplinks(&world.update(&mut store).snapshot), [10]);
    world.inventory("workloads: [{name: vpn, match: {netns: /ns/1}}]");
    let snapshot = world.update(&mut store).snapshot;
    assert!(uplinks(&snapshot).is_empty(), "a source names it");
    world.inventory("");
    assert!(uplinks(&world.update(&mut store).snapshot).is_empty(), "and a workload it stays");
}

#[test]
fn an_address_entry_does_not_make_the_way_out_a_workload() {
    let mut world = container_node(10);
    world.veth_on(10, 1, None);
    world.route("192.0.2.0/24", 10, false);
    world.show(1, &["192.0.2.2"]);
    world.inventory("workloads: [{name: world, match: {address: 192.0.2.2}}]");
    let snapshot = world.update(&mut Store::new()).snapshot;
    assert_eq!((uplinks(&snapshot), snapshot.remote.len()), (vec![10], 1));
}

#[test]
fn a_veth_that_came_later_or_was_a_workload_becomes_none_without_being_asked_for() {
    let mut world = World::bridged();
    let mut store = Store::new();
    world.veth(10, 1);
    world.update(&mut store);
    world.route("0.0.0.0/0", 10, false);
    world.veth(11, 2);
    world.route("::/0", 11, false);
    assert_eq!(uplinks(&world.update(&mut store).snapshot), [2]);
    world.uplinks = vec!["veth10".to_owned(), "eth7".to_owned()];
    let outcome = world.update(&mut store);
    assert_eq!(uplinks(&outcome.snapshot), [2, 10]);
    assert!(outcome.findings.contains(&Finding::UplinkMissing { name: "eth7".to_owned() }));
    // Over a restart too.
    world.uplinks.clear();
    let mut store = Store::new();
    store.restore(BTreeMap::new(), &BTreeSet::from([10, 11].map(Ifindex)), &BTreeSet::new());
    assert_eq!(uplinks(&world.update(&mut store).snapshot), [2]);
}

#[test]
fn below_a_bridge_the_doubt_goes_against_a_veth() {
    // (veths, another device in the bridge, named ones, uplinks, unclear)
    for (veths, nic, named, expected, unclear) in [
        (&[10][..], false, "", &[1, 10][..], false),
        (&[10, 11][..], false, "", &[1][..], true),
        (&[10, 11][..], false, "/ns/11", &[1, 10][..], false),
        (&[10][..], true, "", &[1, 2][..], false),
        (&[10][..], false, "/ns/10", &[1][..], false),
    ] {
        let mut world = container_node(1);
        for veth in veths {
            world.veth(*veth, i32::try_from(*veth).unwrap());
        }
        if nic {
            world.device(2, "eth0", Kind::Plain, Some(1));
        }
        if !named.is_empty() {
            world.inventory(&format!("workloads: [{{name: a, match: {{netns: {named}}}}}]"));
        }
        let mut store = Store::new();
        for look in ["first", "second"] {
            let outcome = world.update(&mut store);
            let case = format!("{veths:?} nic {nic} named {named} {look}");
            assert_eq!(uplinks(&outcome.snapshot), expected, "{case}");
            let found = outcome.findings.iter().any(|finding| matches!(finding, Finding::UplinkUnclear { .. }));
            assert_eq!(found, unclear, "{case}");
        }
    }
}

#[test]
fn an_uplink_of_an_earlier_run_stays_one_beside_a_newcomer() {
    let mut world = container_node(1);
    world.veth(10, 1);
    // It came while nobody looked.
    world.veth(11, 2);
    world.device(20, "lan", Kind::Plain, None);
    let restored = |endpoints: &[u32]| {
        let mut store = Store::new();
        // The plain device was one too, and the route over it is gone.
        store.restore(
            BTreeMap::new(),
            &endpoints.iter().copied().map(Ifindex).collect(),
            &BTreeSet::from([1, 10, 20].map(Ifindex)),
        );
        store
    };
    let mut store = restored(&[]);
    for look in ["first", "second"] {
        let outcome = world.update(&mut store);
        assert_eq!(uplinks(&outcome.snapshot), [1, 10], "{look}");
        assert_eq!(outcome.findings, BTreeSet::new(), "{look}");
        assert!(behind(&outcome.snapshot, 11).identity.is_none());
    }
    assert_eq!(uplinks(&world.update(&mut restored(&[10])).snapshot), [1], "one that was both is a workload's");
    world.inventory("workloads: [{name: a, match: {netns: /ns/1}}, {name: b, match: {netns: /ns/2}}]");
    assert_eq!(uplinks(&world.update(&mut restored(&[])).snapshot), [1], "a source names it");
}

/// A node with a bridge and three veths, in every way that matters for what is an uplink.
fn every_node(mut look: impl FnMut(World, Store)) {
    const VETHS: [u32; 3] = [10, 11, 12];
    let chosen =
        |set: u32| VETHS.into_iter().enumerate().filter(move |(bit, _)| set >> bit & 1 == 1).map(|(_, veth)| veth);
    for case in 0..8 * 8 * 8 * 8 * 4 * 2 * 2 {
        let part = |shift: u32, mask: u32| case >> shift & mask;
        let [bridged, named, earlier, adopted] = [0, 3, 6, 9].map(|shift| part(shift, 7));
        let mut world = World::default();
        world.device(1, "br0", Kind::Bridge, None);
        if part(14, 1) == 1 {
            world.device(2, "eth0", Kind::Plain, Some(1));
        }
        for (veth, nsid) in VETHS.into_iter().zip(1..) {
            world.veth_on(veth, nsid, chosen(bridged).any(|port| port == veth).then_some(1));
        }
        if let Some(device) = [None, Some(1), Some(10), Some(12)][part(12, 3) as usize] {
            world.route("0.0.0.0/0", device, true);
        }
        let asked = part(15, 1) * 2;
        if asked != 0 {
            world.uplinks = vec!["veth11".to_owned()];
        }
        let entries: Vec<String> =
            chosen(named).map(|veth| format!("{{name: w{veth}, match: {{interface: veth{veth}}}}}")).collect();
        world.inventory(&format!("workloads: [{}]", entries.join(", ")));
        let mut store = Store::new();
        store.restore(
            BTreeMap::new(),
            &chosen(adopted).map(Ifindex).collect(),
            &chosen(earlier).map(Ifindex).collect(),
        );
        // What was the way out, or is by the operator's word, and is named all the same, leaves the way out to another.
        if named & (earlier & !adopted | asked) == 0 {
            look(world, store);
        }
    }
}

#[test]
fn before_anything_is_named_no_veth_counts_as_a_workloads_that_may_be_the_way_out() {
    let (mut outside, mut closed) = (0, 0);
    every_node(|world, mut store| {
        let veths = store.workload_veths(&world.view, &world.uplinks);
        let snapshot = world.update(&mut store).snapshot;
        let wrong: Vec<_> = snapshot.uplinks.keys().filter(|device| veths.contains(device)).collect();
        assert!(wrong.is_empty(), "{wrong:?}: {world:?}");
        outside += snapshot.uplinks.len();
        closed += veths.len();
    });
    assert!(outside > 10_000 && closed > 10_000, "{outside} {closed}");
}

#[test]
fn a_veth_that_nothing_makes_the_way_out_counts_as_a_workloads_at_once() {
    let mut world = World::bridged();
    world.veth(10, 1);
    assert_eq!(Store::new().workload_veths(&world.view, &[]), BTreeSet::from([10].map(Ifindex)));
    assert!(Store::new().workload_veths(&world.view, &["veth10".to_owned()]).is_empty(), "asked for");
    // Beside another port of the bridge that leads outside, and beside the veth that was the way out.
    let mut world = container_node(1);
    world.veth(10, 1);
    world.veth(11, 2);
    assert!(Store::new().workload_veths(&world.view, &[]).is_empty(), "one of the two is");
    let mut store = Store::new();
    store.restore(BTreeMap::new(), &BTreeSet::new(), &BTreeSet::from([10].map(Ifindex)));
    assert_eq!(store.workload_veths(&world.view, &[]), BTreeSet::from([11].map(Ifindex)));
    world.device(2, "eth0", Kind::Plain, Some(1));
    assert_eq!(Store::new().workload_veths(&world.view, &[]), BTreeSet::from([10, 11].map(Ifindex)));
}
