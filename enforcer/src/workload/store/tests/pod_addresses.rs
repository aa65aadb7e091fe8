//! Tests of whose an address is: a pod that puts on another's, two that are said to have one, and one that is used again.

use std::collections::BTreeMap;

use enforcer_common::id::Ifindex;

use super::super::Store;
use super::pods::{appears, comes, elsewhere, names, not_joined, nsid, set, started};
use super::world::{World, behind, disputed, ip, ips, key_behind, name_behind, own};
use crate::workload::finding::{Finding, NotJoined};
use crate::workload::model::Voucher;
use crate::workload::statement::FoundBy;

/// D13.
#[test]
fn a_pod_that_shows_the_address_of_another_gets_nothing_and_takes_nothing() {
    let (mine, other) = ("10.88.0.2", "10.88.0.3");
    // Before the other one comes, and after; with its own address beside, and without.
    for shows in [&[mine, other][..], &[other]] {
        for is_first in [true, false] {
            let mut world = World::bridged();
            let mut store = started(&mut world);
            comes(&mut world, &mut store, 10, "hostile", &[mine]);
            if is_first {
                world.show(10, shows);
                world.update(&mut store);
            }
            comes(&mut world, &mut store, 11, "victim", &[other]);
            world.show(10, shows);
            let snapshot = world.update(&mut store).snapshot;
            let expected = [(10, "shop/hostile".to_owned()), (11, "shop/victim".to_owned())];
            assert_eq!(names(&snapshot), expected.clone().into(), "{shows:?} {is_first}");
            assert_eq!(own(behind(&snapshot, 11)), ips(&[other]));
            assert_eq!(own(behind(&snapshot, 10)), ips(&[mine]));
            // The victim goes. What is left of it in the API is not the hostile pod.
            world.remove_veth(11);
            assert_eq!(names(&world.update(&mut store).snapshot), expected[..1].iter().cloned().collect());
        }
    }
}

#[test]
fn a_pod_that_is_quicker_than_the_api_is_known_by_what_it_was_given() {
    let (mine, other) = ("10.88.0.2", "10.88.0.3");
    let mut world = World::bridged();
    let mut store = started(&mut world);
    // Its address is taken off, and another's put on, before the API has told who it is.
    appears(&mut world, &mut store, 10, &[mine]);
    world.show(10, &[other]);
    world.update(&mut store);
    let snapshot = comes(&mut world, &mut store, 11, "victim", &[other]).snapshot;
    assert_eq!(names(&snapshot), [(10, String::new()), (11, "shop/victim".to_owned())].into());
    world.pod("hostile", &[mine]);
    let expected = [(10, "shop/hostile".to_owned()), (11, "shop/victim".to_owned())];
    assert_eq!(names(&world.update(&mut store).snapshot), expected.into());
    // Nor by another network namespace behind the same veth.
    let mut world = World::bridged();
    let mut store = started(&mut world);
    appears(&mut world, &mut store, 10, &[mine]);
    world.move_far_side(10, 77);
    world.show(77, &[other]);
    world.update(&mut store);
    world.pod("victim", &[other]);
    world.update(&mut store);
    world.pass(60);
    assert_eq!(name_behind(&world.update(&mut store).snapshot, 10), "");
}

/// A pod may have done this before the daemon started.
#[test]
fn what_old_veths_show_counts_only_without_doubt() {
    let (mine, other) = ("10.88.0.2", "10.88.0.3");
    let both = |hostile: &str, victim: &str| BTreeMap::from([(10, hostile.to_owned()), (11, victim.to_owned())]);
    for (shows, expected) in [
        // It is the only one that can be the hostile pod, so the other one is the victim.
        (&[mine, other][..], both("shop/hostile", "shop/victim")),
        // Nobody can tell them apart, and one of them has hidden.
        (&[other], both("", "")),
        // It has hidden, and harms nobody.
        (&["10.88.7.7"], both("", "")),
    ] {
        let mut world = World::bridged();
        let mut store = Store::new();
        for (veth, shown) in [(10, shows), (11, &[other])] {
            world.veth(veth, nsid(veth));
            world.show(nsid(veth), shown);
        }
        world.pod("hostile", &[mine]);
        world.pod("victim", &[other]);
        let first = world.update(&mut store);
        assert_eq!(names(&first.snapshot), both("", ""), "evidence has to stand for a while: {shows:?}");
        world.pass(3);
        let outcome = world.update(&mut store);
        assert_eq!(names(&outcome.snapshot), expected, "{shows:?}");
        world.pass(60);
        assert_eq!(names(&world.update(&mut store).snapshot), expected, "{shows:?}");
    }
    // A victim that has no veth any more, though the API has not heard of that.
    let mut world = World::bridged();
    let mut store = Store::new();
    world.veth(10, 10);
    world.show(10, &[other]);
    world.pod("hostile", &[mine]);
    world.pod("victim", &[other]);
    for _ in 0..4 {
        assert_eq!(name_behind(&world.update(&mut store).snapshot, 10), "");
        world.pass(10);
    }
    let outcome = world.update(&mut store);
    assert_eq!(not_joined(&outcome)["victim"], NotJoined::Doubtful(set(&["veth10"])));
    assert_eq!(elsewhere(&outcome.snapshot), ["shop/hostile {10.88.0.2}"], "in doubt its address is nobody's");
    // A host route tells, also here.
    let mut world = World::bridged();
    world.veth_on(10, 10, None);
    world.veth_on(11, 11, None);
    world.show(10, &[other]);
    world.route("10.88.0.3/32", 11, false);
    world.pod("hostile", &[mine]);
    world.pod("victim", &[other]);
    let mut store = Store::new();
    world.update(&mut store);
    world.pass(3);
    assert_eq!(names(&world.update(&mut store).snapshot), both("", "shop/victim"));
}

#[test]
fn two_pods_or_two_veths_with_one_address_are_unknown() {
    let address = "10.88.0.2";
    // Two networks of the node use the same addresses.
    let mut world = World::bridged();
    let mut store = started(&mut world);
    appears(&mut world, &mut store, 10, &[address]);
    appears(&mut world, &mut store, 11, &[address]);
    world.pod("a", &[address]);
    let outcome = world.update(&mut store);
    assert_eq!(names(&outcome.snapshot), [(10, String::new()), (11, String::new())].into());
    assert_eq!(elsewhere(&outcome.snapshot), Vec::<String>::new());
    world.pass(10);
    let outcome = world.update(&mut store);
    assert_eq!(not_joined(&outcome)["a"], NotJoined::Conflict(set(&["veth10", "veth11"])));
    // Two pods for one veth.
    let mut world = World::bridged();
    let mut store = started(&mut world);
    appears(&mut world, &mut store, 10, &[address]);
    world.pod("a", &[address]);
    world.pod("b", &[address]);
    let outcome = world.update(&mut store);
    assert_eq!(name_behind(&outcome.snapshot, 10), "");
    assert!(
        outcome
            .findings
            .iter()
            .any(|finding| matches!(finding, Finding::AddressOfTwo { workloads, .. } if workloads.len() == 2))
    );
    assert_eq!(elsewhere(&outcome.snapshot), Vec::<String>::new());
    // The one goes, and the other is what is left.
    world.forget_pod("b-uid");
    world.pass(1);
    world.update(&mut store);
    world.pass(3);
    assert_eq!(name_behind(&world.update(&mut store).snapshot, 10), "shop/a");
    // Two host routes.
    let mut world = World::bridged();
    let mut store = started(&mut world);
    for (veth, address) in [(10, "10.88.0.2"), (11, "10.88.0.3")] {
        world.veth_on(veth, nsid(veth), None);
        world.route(&format!("{address}/32"), veth, false);
    }
    world.update(&mut store);
    world.pass(1);
    world.pod("a", &["10.88.0.2", "10.88.0.3"]);
    let outcome = world.update(&mut store);
    assert_eq!(names(&outcome.snapshot), [(10, String::new()), (11, String::new())].into());
    assert_eq!(elsewhere(&outcome.snapshot), Vec::<String>::new());
}

#[test]
fn an_address_of_two_pods_is_seen_by_no_selector() {
    let address = "10.88.0.9";
    let mut world = World::bridged();
    let mut store = started(&mut world);
    world.pod_elsewhere("a", &[address, "10.88.0.10"]);
    world.pod_elsewhere("b", &[address]);
    let outcome = world.update(&mut store);
    assert_eq!(elsewhere(&outcome.snapshot), ["shop/a {10.88.0.10}"]);
    // One of them is here.
    world.forget_pod("b-uid");
    let outcome = comes(&mut world, &mut store, 10, "b", &[address]);
    let workload = behind(&outcome.snapshot, 10);
    assert_eq!(name_behind(&outcome.snapshot, 10), "shop/b");
    assert_eq!((own(workload), disputed(workload)), (ips(&[]), ips(&[address])));
    // The node's own routes know whose it is here.
    world.route("10.88.0.9/32", 10, false);
    let outcome = world.update(&mut store);
    assert_eq!(behind(&outcome.snapshot, 10).addresses, [(ip(address), Voucher::HostRoute)].into());
    assert_eq!(elsewhere(&outcome.snapshot), ["shop/a {10.88.0.10}"]);
}

/// An address that a pod has left is another's: the API may tell of the new one first, or of the end of the old one.
#[test]
fn an_address_that_is_used_again_follows_the_pod_that_runs() {
    let address = "10.88.0.2";
    for old_goes_first in [true, false] {
        for is_routed in [true, false] {
            let mut world = World::bridged();
            let mut store = started(&mut world);
            if is_routed {
                world.route("10.88.0.2/32", 10, false);
            }
            comes(&mut world, &mut store, 10, "old", &[address]);
            let old_key = key_behind(&world.update(&mut store).snapshot, 10);
            world.pods[0].found_by = FoundBy::Pod { leaving: true };
            world.remove_veth(10);
            world.view.routes.retain(|route| route.device != Ifindex(10));
            if is_routed {
                world.route("10.88.0.2/32", 11, false);
            }
            appears(&mut world, &mut store, 11, &[address]);
            assert_eq!(name_behind(&world.update(&mut store).snapshot, 11), "", "nobody has told of it yet");
            if old_goes_first {
                world.forget_pod("old-uid");
                world.update(&mut store);
            } else {
                // What the source makes of two that say so.
                world.pods[0].addresses.clear();
            }
            world.pod("new", &[address]);
            let snapshot = world.update(&mut store).snapshot;
            assert_eq!(name_behind(&snapshot, 11), "shop/new", "{old_goes_first} {is_routed}");
            assert_ne!(key_behind(&snapshot, 11), old_key);
            world.forget_pod("old-uid");
            assert_eq!(name_behind(&world.update(&mut store).snapshot, 11), "shop/new");
        }
    }
}

#[test]
fn a_word_of_the_api_that_is_older_than_the_veth_has_to_stand_for_a_while() {
    let address = "10.88.0.2";
    let mut world = World::bridged();
    let mut store = started(&mut world);
    comes(&mut world, &mut store, 10, "old", &[address]);
    // Its sandbox has died and made room, and the API has not heard of that.
    world.remove_veth(10);
    appears(&mut world, &mut store, 11, &[address]);
    assert_eq!(name_behind(&world.update(&mut store).snapshot, 11), "");
    // Now it says whose the address is.
    world.pod("new", &[address]);
    assert_eq!(name_behind(&world.update(&mut store).snapshot, 11), "shop/new");
    // A pod whose network was made anew with the same address gets its name when nobody else came.
    let mut world = World::bridged();
    let mut store = started(&mut world);
    comes(&mut world, &mut store, 10, "web", &[address]);
    world.remove_veth(10);
    appears(&mut world, &mut store, 11, &[address]);
    world.pass(3);
    assert_eq!(name_behind(&world.update(&mut store).snapshot, 11), "shop/web");
}

/// A pod of a `StatefulSet` comes back under its name as another object.
#[test]
fn a_new_pod_of_the_same_name_does_not_get_the_veth_of_the_old_one() {
    let mut world = World::bridged();
    let mut store = started(&mut world);
    let before = comes(&mut world, &mut store, 10, "web-0", &["10.88.0.2"]).snapshot;
    // Deleted by force: it still runs, and the API has forgotten it.
    world.pods[0].object = "pod another-uid".to_owned();
    world.pods[0].addresses = ips(&["10.88.0.3"]);
    let snapshot = world.update(&mut store).snapshot;
    assert!(behind(&snapshot, 10).lost_its_name(), "closed");
    appears(&mut world, &mut store, 11, &["10.88.0.3"]);
    world.pass(3);
    let snapshot = world.update(&mut store).snapshot;
    assert_eq!(names(&snapshot), [(10, String::new()), (11, "shop/web-0".to_owned())].into());
    assert_ne!(key_behind(&snapshot, 11), key_behind(&before, 10));
    // Even if the new one is said to have the old address.
    world.remove_veth(11);
    world.pods[0].addresses = ips(&["10.88.0.2"]);
    world.update(&mut store);
    world.pass(3);
    assert_eq!(name_behind(&world.update(&mut store).snapshot, 10), "");
}
