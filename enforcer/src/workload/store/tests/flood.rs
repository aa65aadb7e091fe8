//! Tests with a container that shows more addresses than one workload can have.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use enforcer_common::id::Ifindex;
use enforcer_common::limits::OWN_ADDRESSES;

use super::super::{Outcome, Store};
use super::world::{World, behind, ip, own};
use crate::workload::finding::{Finding, Refusal};

/// `10.88.NUMBER.1` and so on.
fn many(number: u8, count: u8) -> BTreeSet<IpAddr> {
    (1..=count).map(|last| IpAddr::from([10, 88, number, last])).collect()
}

/// A container with 200 addresses of the subnet, 50 of another one and 100 link-local ones, beside an honest one.
fn flooded() -> World {
    let mut world = World::bridged();
    world.veth(10, 1);
    let link_local = (1..=100).map(|last| ip(&format!("fe80::{last}")));
    let elsewhere = (1..=50).map(|last| IpAddr::from([10, 99, 0, last]));
    world.view.inside.insert(1, many(5, 200).into_iter().chain(link_local).chain(elsewhere).collect());
    world.veth(11, 2);
    world.show(2, &["10.88.0.2", "fe80::2"]);
    world
}

/// How many findings of each kind there are, and how many addresses the one without addresses counts.
fn counts(outcome: &Outcome) -> (usize, Vec<usize>) {
    let too_many = |finding: &Finding| match finding {
        Finding::TooManyAddresses { claimant, count } => {
            assert_eq!(claimant.ifindex, Ifindex(10));
            Some(*count)
        }
        _ => None,
    };
    let counts: Vec<usize> = outcome.findings.iter().filter_map(too_many).collect();
    (outcome.findings.len() - counts.len(), counts)
}

#[test]
fn it_gets_as_many_as_one_can_have_and_one_finding_for_the_rest() {
    let world = flooded();
    let mut store = Store::new();
    let outcome = world.update(&mut store);
    assert_eq!(own(behind(&outcome.snapshot, 10)), many(5, OWN_ADDRESSES as u8), "the first in order");
    assert_eq!(counts(&outcome), (OWN_ADDRESSES, vec![350 - 2 * OWN_ADDRESSES]), "{:#?}", outcome.findings);
    assert_eq!(store.refused(), 350 - OWN_ADDRESSES as u64);
    assert_eq!(world.update(&mut store), outcome);
    assert_eq!(store.refused(), 350 - OWN_ADDRESSES as u64, "a standing claim counts once");
    let beyond = "shows 318 more addresses, which are not accepted: a workload can have at most 16";
    assert!(outcome.findings.iter().any(|finding| finding.to_string().contains(beyond)));
}

#[test]
fn the_neighbours_keep_what_they_have_and_get_what_they_show() {
    let mut world = flooded();
    let mut store = Store::new();
    let before = world.update(&mut store).snapshot;
    // One address that the flood did not get and one that it did.
    world.veth(12, 3);
    world.show(3, &["10.88.5.200", "10.88.5.1"]);
    let outcome = world.update(&mut store);
    assert_eq!(behind(&outcome.snapshot, 11), behind(&before, 11));
    assert_eq!(own(behind(&outcome.snapshot, 12)), BTreeSet::from([ip("10.88.5.200")]));
    assert!(behind(&outcome.snapshot, 12).disputed.is_empty());
}

#[test]
fn given_addresses_come_first_and_then_those_it_had() {
    let mut world = World::bridged();
    world.veth(10, 1);
    let mut store = Store::new();
    // It had some at the end of the order, before it showed the others.
    let had: BTreeSet<IpAddr> = many(9, 10);
    world.view.inside.insert(1, had.clone());
    world.update(&mut store);
    world.view.inside.insert(1, had.union(&many(5, 100)).copied().collect());
    for given in ["10.88.200.1/32", "fd88::1:1/128", "10.88.200.2/32"] {
        world.route(given, 10, false);
    }
    let given = BTreeSet::from([ip("10.88.200.1"), ip("fd88::1:1"), ip("10.88.200.2")]);
    let expected: BTreeSet<IpAddr> = given.iter().chain(&had).chain(&many(5, 3)).copied().collect();
    let snapshot = world.update(&mut store).snapshot;
    assert_eq!(own(behind(&snapshot, 10)), expected);
    // Owners of an earlier run count like those it had.
    let mut store = Store::new();
    let owners: BTreeMap<IpAddr, Ifindex> = had.iter().map(|address| (*address, Ifindex(10))).collect();
    store.restore(owners, &BTreeSet::from([10].map(Ifindex)), &BTreeSet::new());
    assert_eq!(own(behind(&world.update(&mut store).snapshot, 10)), expected);
}

#[test]
fn more_given_addresses_than_one_can_have_are_cut_too() {
    let mut world = World::bridged();
    world.veth(10, 1);
    for last in 1..=40 {
        world.route(&format!("10.1.0.{last}/32"), 10, false);
    }
    let outcome = world.update(&mut Store::new());
    assert_eq!(behind(&outcome.snapshot, 10).addresses.len(), OWN_ADDRESSES);
    assert_eq!(counts(&outcome), (0, vec![24]));
}

#[test]
fn what_was_not_read_is_counted() {
    let mut world = World::bridged();
    world.veth(10, 1);
    world.show(1, &["10.88.0.2", "10.99.0.1"]);
    world.view.unread.insert(1, 1000);
    let mut store = Store::new();
    let outcome = world.update(&mut store);
    assert_eq!((counts(&outcome), store.refused()), ((1, vec![1000]), 1001));
    world.view.unread.insert(1, 1500);
    world.update(&mut store);
    assert_eq!(store.refused(), 1501, "only the new ones");
    world.view.unread.clear();
    let outcome = world.update(&mut store);
    assert_eq!(counts(&outcome), (1, vec![]));
    assert!(matches!(outcome.findings.first(), Some(Finding::AddressRefused { because: Refusal::OffSubnet, .. })));
}

/// The time of an update must not grow with the square of what containers show.
#[test]
fn floods_from_all_sides_on_the_same_entry_are_judged_in_time() {
    let mut world = World::bridged();
    let entries: Vec<String> =
        (1..=250).map(|last| format!("{{name: peer{last}, match: {{address: 10.88.7.{last}}}}}")).collect();
    world.inventory(&format!("workloads: [{}]", entries.join(", ")));
    for space in 1..=250 {
        world.veth(10 + space, i32::try_from(space).unwrap());
        world.view.inside.insert(i32::try_from(space).unwrap(), many(7, 250));
    }
    let mut store = Store::new();
    let start = std::time::Instant::now();
    let outcome = world.update(&mut store);
    let took = start.elapsed();
    assert!(outcome.snapshot.local.values().all(|workload| workload.identity.is_none()));
    assert!(took < std::time::Duration::from_secs(8), "{took:?}");
}
