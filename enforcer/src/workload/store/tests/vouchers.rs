//! Tests of the rules that say what an address is worth that nobody but its workload vouches for (D11).

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use enforcer_common::id::Ifindex;

use super::super::{Outcome, Store};
use super::world::{World, behind, ip, ips, own};
use crate::workload::finding::{Finding, Refusal};
use crate::workload::model::{Past, Snapshot, Voucher};

const FAMILIES: [[&str; 3]; 2] = [["10.88.0.2", "10.88.0.3", "10.88.0.4"], ["fd88::2", "fd88::3", "fd88::4"]];

fn one_veth(address: &str) -> World {
    let mut world = World::bridged();
    world.veth(10, 1);
    world.show(1, &[address]);
    world
}

fn refusals(outcome: &Outcome) -> BTreeMap<IpAddr, Refusal> {
    let refused = outcome.findings.iter().filter_map(|finding| match finding {
        Finding::AddressRefused { address, because, .. } => Some((*address, because.clone())),
        _ => None,
    });
    refused.collect()
}

#[test]
fn every_address_has_its_voucher() {
    let mut world = one_veth("10.88.0.2");
    world.show(1, &["10.88.0.2", "fd88::2", "fe80::2"]);
    world.route("10.1.0.2/32", 10, false);
    world.inventory("workloads: [{name: web, match: {netns: /ns/1}, addresses: [\"fd88::2\"]}]");
    let snapshot = world.update(&mut Store::new()).snapshot;
    let expected = [
        ("10.1.0.2", Voucher::HostRoute, false),
        ("10.88.0.2", Voucher::Pinned, true),
        ("fd88::2", Voucher::Source("the inventory".to_owned()), false),
        ("fe80::2", Voucher::LinkLocal, true),
    ];
    assert!(expected.iter().all(|(_, voucher, nobody)| voucher.is_nobody() == *nobody));
    let expected: BTreeMap<IpAddr, Voucher> = expected.into_iter().map(|(at, voucher, _)| (ip(at), voucher)).collect();
    assert_eq!(behind(&snapshot, 10).addresses, expected);
}

#[test]
fn what_is_shown_while_it_settles_is_pinned_and_what_is_shown_later_is_refused() {
    for [first, second, third] in FAMILIES {
        let mut world = one_veth(first);
        let mut store = Store::new();
        let outcome = world.update(&mut store);
        assert_eq!(outcome.settles, Some(world.now + world.settling));
        world.pass(10);
        world.show(1, &[first, second]);
        assert_eq!(own(behind(&world.update(&mut store).snapshot, 10)), ips(&[first, second]), "just in time");
        world.pass(1);
        world.show(1, &[first, second, third]);
        let outcome = world.update(&mut store);
        assert_eq!(own(behind(&outcome.snapshot, 10)), ips(&[first, second]));
        assert_eq!(refusals(&outcome), [(ip(third), Refusal::Late)].into());
        assert_eq!(outcome.settles, None);
        // A pin stays while the namespace lives, though what is not shown is not there.
        world.show(1, &[first]);
        assert_eq!(own(behind(&world.update(&mut store).snapshot, 10)), ips(&[first]));
        world.pass(3600);
        world.show(1, &[first, second]);
        assert_eq!(own(behind(&world.update(&mut store).snapshot, 10)), ips(&[first, second]));
        // Somebody who vouches for it is never too late.
        world.inventory(&format!("workloads: [{{name: web, match: {{netns: /ns/1}}, addresses: [\"{third}\"]}}]"));
        assert_eq!(own(behind(&world.update(&mut store).snapshot, 10)), ips(&[third]), "and says which are its own");
    }
}

#[test]
fn a_second_veth_settles_for_itself_and_an_old_one_does_not_settle_twice() {
    let mut world = one_veth("10.88.0.2");
    let mut store = Store::new();
    world.update(&mut store);
    world.pass(60);
    world.veth(11, 1);
    world.show(1, &["10.88.0.2", "10.88.0.3"]);
    assert_eq!(own(behind(&world.update(&mut store).snapshot, 10)), ips(&["10.88.0.2", "10.88.0.3"]));
    // Another namespace behind an old veth.
    world.pass(60);
    world.move_far_side(10, 5);
    world.move_far_side(11, 5);
    world.show(5, &["10.88.0.4"]);
    let outcome = world.update(&mut store);
    assert_eq!(own(behind(&outcome.snapshot, 10)), ips(&[]));
    assert_eq!(refusals(&outcome), [(ip("10.88.0.4"), Refusal::Late)].into());
}

#[test]
fn where_a_source_gives_addresses_of_a_family_no_other_of_that_family_counts() {
    for ([given, shown, _], [other, ..]) in [(FAMILIES[0], FAMILIES[1]), (FAMILIES[1], FAMILIES[0])] {
        let mut world = one_veth(shown);
        let mut store = Store::new();
        world.show(1, &[shown, other, "fe80::2"]);
        assert_eq!(own(behind(&world.update(&mut store).snapshot, 10)), ips(&[shown, other, "fe80::2"]));
        // The list of the runtime came a moment later.
        world.container("web", 1, &[], &[given]);
        let outcome = world.update(&mut store);
        assert_eq!(own(behind(&outcome.snapshot, 10)), ips(&[given, other, "fe80::2"]));
        let because = Refusal::NotGiven { source: "the runtime".to_owned() };
        assert_eq!(refusals(&outcome), [(ip(shown), because)].into());
    }
}

/// Whoever has a right to it gets a pinned address at once, however long it was pinned.
#[test]
fn an_address_that_is_claimed_ahead_of_time_keeps_nobody_out() {
    type Right = fn(&mut World, &str);
    let inventory: Right = |world, address| {
        world.veth(11, 2);
        world.inventory(&format!("workloads: [{{name: a, match: {{netns: /ns/2}}, addresses: [\"{address}\"]}}]"));
    };
    let runtime: Right = |world, address| {
        world.veth(11, 2);
        world.container("late", 2, &[], &[address]);
    };
    let route: Right = |world, address| {
        world.veth(11, 2);
        world.route(&format!("{address}/{}", if address.contains(':') { 128 } else { 32 }), 11, false);
    };
    let floating: Right = |world, address| {
        world.veth(11, 2);
        world.show(2, &[address]);
        world.inventory(&format!("workloads: [{{name: a, match: {{netns: /ns/2}}, floating: [\"{address}\"]}}]"));
    };
    let node: Right = |world, address| _ = world.view.node.insert(ip(address));
    let gateway: Right = |world, address| _ = world.view.gateways.insert(ip(address));
    let remote: Right = |world, address| {
        world.inventory(&format!("workloads: [{{name: a, match: {{address: \"{address}\"}}}}]"));
    };
    for (who, right, here) in [
        ("a workload of the inventory", inventory, true),
        ("a container", runtime, true),
        ("a host route", route, true),
        ("a holder of a floating address", floating, true),
        ("the node", node, false),
        ("a gateway", gateway, false),
        ("a peer elsewhere", remote, false),
    ] {
        for [address, ..] in FAMILIES {
            let mut world = one_veth(address);
            let mut store = Store::new();
            assert!(own(behind(&world.update(&mut store).snapshot, 10)).contains(&ip(address)), "nobody else's yet");
            world.pass(3600);
            right(&mut world, address);
            let outcome = world.update(&mut store);
            assert!(!own(behind(&outcome.snapshot, 10)).contains(&ip(address)), "{who}");
            assert!(refusals(&outcome).contains_key(&ip(address)), "{who}");
            if here {
                assert_eq!(own(behind(&outcome.snapshot, 11)), ips(&[address]), "{who}");
            }
        }
    }
}

#[test]
fn among_those_that_merely_show_an_address_the_first_keeps_it() {
    let mut world = one_veth("10.88.0.2");
    let mut store = Store::new();
    world.update(&mut store);
    world.veth(11, 2);
    world.show(2, &["10.88.0.2"]);
    let outcome = world.update(&mut store);
    assert_eq!(own(behind(&outcome.snapshot, 10)), ips(&["10.88.0.2"]));
    assert_eq!(own(behind(&outcome.snapshot, 11)), ips(&[]));
    // It was not its own while it settled, so it is not pinned either.
    world.pass(60);
    world.update(&mut store);
    world.remove_veth(10);
    let outcome = world.update(&mut store);
    assert_eq!(refusals(&outcome), [(ip("10.88.0.2"), Refusal::Late)].into());
}

/// What a restart takes over: the pasts of the last snapshot, by veth.
fn pasts(snapshot: &Snapshot) -> BTreeMap<Ifindex, Past> {
    let local = snapshot.local.values();
    local.flat_map(|one| one.endpoints.keys().map(|veth| (*veth, one.past.clone()))).collect()
}

#[test]
fn pins_and_the_settling_time_outlive_the_daemon() {
    for [first, second, third] in FAMILIES {
        let mut world = one_veth(first);
        let mut store = Store::new();
        world.show(1, &[first, second]);
        let unsettled = world.update(&mut store).snapshot;
        world.show(1, &[second]);
        world.pass(11);
        let settled = world.update(&mut store).snapshot;
        world.show(1, &[first, third]);
        let mut store = Store::new();
        store.remember(pasts(&settled));
        let outcome = world.update(&mut store);
        assert_eq!(own(behind(&outcome.snapshot, 10)), ips(&[first]));
        assert_eq!(refusals(&outcome), [(ip(third), Refusal::Late)].into());
        // One that did not settle begins again, and another veth is new.
        world.veth(11, 2);
        world.show(2, &["10.88.0.9"]);
        let mut store = Store::new();
        store.remember(pasts(&unsettled));
        let snapshot = world.update(&mut store).snapshot;
        assert_eq!(own(behind(&snapshot, 10)), ips(&[first, third]));
        assert_eq!(own(behind(&snapshot, 11)), ips(&["10.88.0.9"]));
    }
}

#[test]
fn pins_are_as_many_as_addresses_and_those_that_are_gone_give_way() {
    let mut world = World::bridged();
    world.veth(10, 1);
    let mut store = Store::new();
    let addresses =
        |from: u8| -> BTreeSet<IpAddr> { (from..from + 10).map(|last| ip(&format!("10.88.3.{last}"))).collect() };
    for from in [10, 20, 30] {
        world.view.inside.insert(1, addresses(from));
        assert_eq!(own(behind(&world.update(&mut store).snapshot, 10)), addresses(from));
    }
    world.pass(11);
    let past = behind(&world.update(&mut store).snapshot, 10).past.clone();
    assert_eq!(past.pinned.len(), 16);
    assert!(past.pinned.is_superset(&addresses(30)) && past.settled);
}
