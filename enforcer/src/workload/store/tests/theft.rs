//! Property: whatever a container configures inside itself, it gains nothing and its neighbours lose nothing.
//!
//! Two stores see the same node. In one of them a thief also shows addresses that are not its own. After each step the two
//! snapshots must be equal, apart from the thief's own row.

use std::collections::BTreeSet;
use std::net::IpAddr;

use enforcer_common::id::Ifindex;

use proptest::prelude::*;

use super::super::Store;
use super::world::{World, behind, ip, ips, key_behind, own};
use crate::workload::model::Voucher;

const THIEF: (u32, i32) = (10, 1);
/// Known by the runtime, with an address that the runtime gave it.
const GIVEN: (u32, i32) = (11, 2);
/// Known by the inventory's path; its address is a claim like any other.
const SHOWN: (u32, i32) = (12, 3);
/// Known by a host route and by nothing else.
const ROUTED: (u32, i32) = (13, 4);

const LOOT: [&str; 12] = [
    "10.88.0.2",
    "fd88::2",
    "10.88.0.3",
    "fd88::3",
    "10.1.0.4",
    "10.88.0.1",
    "192.0.2.254",
    "10.88.7.7",
    "203.0.113.5",
    "172.16.0.1",
    "169.254.169.254",
    "10.88.255.255",
];

#[derive(Clone, Debug)]
enum Step {
    /// The thief shows this one of the loot.
    Take(usize),
    /// The thief stops showing it.
    Drop(usize),
    /// A neighbour goes.
    Leave(usize),
    /// A neighbour comes (back).
    Come(usize),
    /// Time passes.
    Wait,
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let step = prop_oneof![
        6 => (0..LOOT.len()).prop_map(Step::Take),
        2 => (0..LOOT.len()).prop_map(Step::Drop),
        1 => (0..2_usize).prop_map(Step::Leave),
        2 => (0..2_usize).prop_map(Step::Come),
        1 => Just(Step::Wait),
    ];
    proptest::collection::vec(step, 1..30)
}

fn node() -> World {
    let mut world = World::bridged();
    world.inventory(
        "workloads: [{name: thief, match: {netns: /ns/1}}, {name: shown, match: {netns: /ns/3}},\n\
         {name: near, match: {address: 10.88.7.7}}, {name: far, match: {address: 203.0.113.5}}]",
    );
    for (veth, nsid) in [THIEF, SHOWN] {
        world.veth(veth, nsid);
    }
    world.show(THIEF.1, &["10.88.0.9"]);
    world.show(SHOWN.1, &["10.88.0.3", "fd88::3"]);
    world
}

fn come(world: &mut World, who: usize) {
    if who == 0 && !world.view.links.contains_key(&Ifindex(GIVEN.0)) {
        world.veth(GIVEN.0, GIVEN.1);
        world.show(GIVEN.1, &["10.88.0.2", "fd88::2"]);
        world.container("given", GIVEN.1, &[("app", "given")], &["10.88.0.2", "fd88::2"]);
    }
    if who == 1 && !world.view.links.contains_key(&Ifindex(ROUTED.0)) {
        world.veth_on(ROUTED.0, ROUTED.1, None);
        world.show(ROUTED.1, &["10.1.0.4"]);
        world.route("10.1.0.4/32", ROUTED.0, false);
    }
}

fn leave(world: &mut World, who: usize) {
    if who == 0 {
        world.remove_veth(GIVEN.0);
        world.containers.clear();
    } else {
        world.remove_veth(ROUTED.0);
        world.view.routes.retain(|route| route.device != Ifindex(ROUTED.0));
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 512, max_shrink_iters: 256, ..ProptestConfig::default() })]

    #[test]
    fn a_thief_gains_nothing_and_nobody_loses_anything(steps in steps()) {
        let (mut honest, mut real) = (node(), node());
        let (mut honest_store, mut real_store) = (Store::new(), Store::new());
        let mut loot: BTreeSet<IpAddr> = BTreeSet::new();
        for step in [Step::Come(1)].into_iter().chain(steps) {
            match step {
                Step::Take(item) => _ = loot.insert(ip(LOOT[item])),
                Step::Drop(item) => _ = loot.remove(&ip(LOOT[item])),
                Step::Leave(who) => [&mut honest, &mut real].into_iter().for_each(|world| leave(world, who)),
                Step::Come(who) => [&mut honest, &mut real].into_iter().for_each(|world| come(world, who)),
                Step::Wait => [&mut honest, &mut real].into_iter().for_each(|world| world.pass(6)),
            }
            real.view.inside.insert(THIEF.1, loot.union(&ips(&["10.88.0.9"])).copied().collect());
            let expected = honest.update(&mut honest_store).snapshot;
            let got = real.update(&mut real_store).snapshot;
            let thief = key_behind(&got, THIEF.0);
            for (key, workload) in &expected.local {
                if *key != thief {
                    prop_assert_eq!(got.local.get(key), Some(workload), "a neighbour lost or changed");
                }
            }
            prop_assert_eq!(got.local.len(), expected.local.len());
            prop_assert_eq!(&got.remote, &expected.remote);
            prop_assert_eq!(&got.uplinks, &expected.uplinks);
            prop_assert_eq!(&got.namespaces, &expected.namespaces);
            let row = behind(&got, THIEF.0);
            prop_assert_eq!(&row.identity, &behind(&expected, THIEF.0).identity);
            prop_assert!(row.disputed.is_empty());
            // An address that nobody has is free to take inside the subnet while the thief is new, and only there.
            let taken = own(row);
            prop_assert!(row.addresses.values().all(Voucher::is_nobody), "somebody vouches for {row:?}");
            let free = ips(&["10.88.0.9", "10.88.0.2", "fd88::2"]);
            prop_assert!(taken.is_subset(&free), "gained {taken:?}");
            if got.local.values().any(|workload| workload.endpoints.contains_key(&Ifindex(GIVEN.0))) {
                prop_assert_eq!(taken, ips(&["10.88.0.9"]));
            }
        }
    }
}
