//! Tests of the rules that say which workload owns an address.

use std::collections::{BTreeMap, BTreeSet};

use enforcer_common::id::Ifindex;

use super::super::Store;
use super::world::{World, behind, disputed, ip, ips, key_behind, own};
use crate::workload::finding::{Finding, Refusal};

/// What one workload gets out of showing an address on the bridged node.
fn refusal_of(address: &str) -> Option<Refusal> {
    let mut world = World::bridged();
    world.veth(10, 1);
    world.show(1, &[address]);
    world.veth(11, 2);
    world.route("10.88.9.0/24", 11, false);
    world.route("10.77.0.0/16", 1, true);
    world.inventory("workloads: [{name: peer, match: {netns: elsewhere}, addresses: [10.88.7.7]}]");
    let outcome = world.update(&mut Store::new());
    let own = behind(&outcome.snapshot, 10).addresses.contains_key(&ip(address));
    let refusal = outcome.findings.iter().find_map(|finding| match finding {
        Finding::AddressRefused { because, .. } => Some(because.clone()),
        _ => None,
    });
    assert_eq!(own, refusal.is_none(), "{address}: own or refused, and never silently neither");
    refusal
}

#[test]
fn a_shown_address_is_own_only_where_it_can_be() {
    let peer = crate::workload::model::WorkloadName { namespace: "default".to_owned(), name: "peer".to_owned() };
    for (address, expected, why) in [
        ("10.88.0.2", None, "in the bridge's subnet"),
        ("fd88::2", None, "in the bridge's IPv6 subnet"),
        ("fe80::2", None, "link-local"),
        ("10.88.0.1", Some(Refusal::Node), "the node's, and the containers' gateway"),
        ("192.0.2.1", Some(Refusal::Node), "the node's on another device"),
        ("192.0.2.254", Some(Refusal::Gateway), "the node's gateway"),
        ("192.0.2.7", Some(Refusal::OffSubnet), "in a subnet of another device"),
        ("10.89.0.2", Some(Refusal::OffSubnet), "under the default route only"),
        ("10.88.9.9", Some(Refusal::OffSubnet), "a longer prefix leads to another veth"),
        ("10.77.0.2", Some(Refusal::OffSubnet), "behind a next hop on the bridge"),
        (
            "10.88.7.7",
            Some(Refusal::Declared { source: "the inventory".to_owned(), name: peer }),
            "the inventory gives it to a peer",
        ),
        ("169.254.169.254", Some(Refusal::Reserved), "metadata service"),
        ("10.88.255.255", Some(Refusal::Reserved), "broadcast of the subnet"),
        ("10.88.0.0", Some(Refusal::Reserved), "the subnet itself"),
        ("224.0.0.9", Some(Refusal::Reserved), "multicast"),
        ("255.255.255.255", Some(Refusal::Reserved), "broadcast"),
        ("::ffff:10.88.0.2", Some(Refusal::Reserved), "an IPv4 address in disguise"),
    ] {
        assert_eq!(refusal_of(address), expected, "{address}: {why}");
    }
}

#[test]
fn a_host_route_makes_an_address_own_even_unseen_and_behind_no_subnet() {
    let mut world = World::bridged();
    world.veth_on(10, 1, None);
    world.route("10.1.0.2/32", 10, false);
    world.route("fd01::2/128", 10, false);
    world.route("10.5.0.0/24", 10, true);
    world.show(1, &["10.1.0.2", "10.5.0.7"]);
    let outcome = world.update(&mut Store::new());
    assert_eq!(own(behind(&outcome.snapshot, 10)), ips(&["10.1.0.2", "fd01::2", "10.5.0.7"]));
}

#[test]
fn at_the_first_look_a_doubled_address_is_nobodys_until_one_gives_it_up() {
    let mut world = World::bridged();
    let mut store = Store::new();
    for (veth, nsid) in [(10, 1), (11, 2)] {
        world.veth(veth, nsid);
        world.show(nsid, &["10.88.0.2"]);
    }
    let outcome = world.update(&mut store);
    for veth in [10, 11] {
        assert_eq!(own(behind(&outcome.snapshot, veth)), ips(&[]));
        assert_eq!(disputed(behind(&outcome.snapshot, veth)), ips(&["10.88.0.2"]));
    }
    let disputes = |findings: &BTreeSet<Finding>| {
        findings
            .iter()
            .filter(|finding| matches!(finding, Finding::AddressDisputed { between, .. } if between.len() == 2))
            .count()
    };
    assert_eq!(disputes(&outcome.findings), 1);
    assert_eq!(world.update(&mut store).snapshot, outcome.snapshot, "nothing changed");
    world.show(1, &[]);
    let outcome = world.update(&mut store);
    assert_eq!(own(behind(&outcome.snapshot, 11)), ips(&["10.88.0.2"]));
    assert_eq!(disputes(&outcome.findings), 0);
}

#[test]
fn owners_of_an_earlier_run_settle_the_first_look() {
    let mut world = World::bridged();
    let mut store = Store::new();
    for (veth, nsid) in [(10, 1), (11, 2)] {
        world.veth(veth, nsid);
        world.show(nsid, &["10.88.0.2"]);
    }
    store.restore(
        BTreeMap::from([(ip("10.88.0.2"), Ifindex(11))]),
        &BTreeSet::from([10, 11].map(Ifindex)),
        &BTreeSet::new(),
    );
    let outcome = world.update(&mut store);
    assert_eq!(own(behind(&outcome.snapshot, 11)), ips(&["10.88.0.2"]));
    assert_eq!(own(behind(&outcome.snapshot, 10)), ips(&[]));
    assert_eq!(disputed(behind(&outcome.snapshot, 10)), ips(&[]));
}

#[test]
fn a_given_address_takes_precedence_over_one_who_squats_on_it() {
    let mut world = World::bridged();
    let mut store = Store::new();
    world.veth(10, 1);
    world.show(1, &["10.88.0.2", "10.88.0.3"]);
    assert_eq!(own(behind(&world.update(&mut store).snapshot, 10)), ips(&["10.88.0.2", "10.88.0.3"]));
    world.veth(11, 2);
    world.container("late", 2, &[], &["10.88.0.3"]);
    let outcome = world.update(&mut store);
    assert_eq!(own(behind(&outcome.snapshot, 10)), ips(&["10.88.0.2"]));
    assert_eq!(own(behind(&outcome.snapshot, 11)), ips(&["10.88.0.3"]));
    assert_eq!(store.refused(), 1);
    world.update(&mut store);
    assert_eq!(store.refused(), 1, "a standing claim counts once");
}

#[test]
fn not_even_a_runtime_gives_away_the_nodes_address() {
    let mut world = World::bridged();
    world.veth(10, 1);
    world.container("c", 1, &[], &["10.88.0.1"]);
    let outcome = world.update(&mut Store::new());
    assert_eq!(own(behind(&outcome.snapshot, 10)), ips(&[]));
}

#[test]
fn keys_follow_the_namespace_and_not_its_number() {
    let mut world = World::bridged();
    let mut store = Store::new();
    world.veth(10, 1);
    world.veth(11, 1);
    let first = key_behind(&world.update(&mut store).snapshot, 10);
    world.remove_veth(10);
    world.veth(11, 1);
    world.veth(12, 1);
    assert_eq!(key_behind(&world.update(&mut store).snapshot, 12), first, "one veth stayed");
    let mut reused = world.clone();
    reused.gone.insert(1);
    let second = key_behind(&reused.update(&mut store).snapshot, 12);
    assert_ne!(second, first, "the number was given to another namespace");
    world.remove_veth(11);
    world.remove_veth(12);
    world.veth(13, 1);
    assert_ne!(key_behind(&world.update(&mut store).snapshot, 13), second, "all its veths are gone");
}

#[test]
fn a_namespace_that_is_torn_down_stays_who_it_was() {
    let mut world = World::bridged();
    let mut store = Store::new();
    world.veth(10, 1);
    let first = key_behind(&world.update(&mut store).snapshot, 10);
    world.view.links.get_mut(&Ifindex(10)).unwrap().peer.as_mut().unwrap().nsid = None;
    assert_eq!(key_behind(&world.update(&mut store).snapshot, 10), first);
}
