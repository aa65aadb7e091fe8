//! Tests of the rules for floating addresses (D11).

use super::super::Store;
use super::world::{World, behind, disputed, ip, ips, own};
use crate::workload::finding::{Finding, Refusal};
use crate::workload::model::Voucher;

const FLOATING: [&str; 2] = ["10.88.0.100", "fd88::100"];

/// Two holders by the inventory, with addresses of their own, and a stranger.
fn pair() -> World {
    let mut world = World::bridged();
    for (veth, nsid) in [(10, 1), (11, 2), (12, 3)] {
        world.veth(veth, nsid);
        world.show(nsid, &[&format!("10.88.0.{veth}")]);
    }
    world.inventory(
        "workloads: [{name: a, match: {netns: /ns/1}, addresses: [10.88.0.10], floating: [10.88.0.100, \"fd88::100\"]},\n\
         {name: b, match: {netns: /ns/2}, addresses: [10.88.0.11], floating: [\"fd88::100\", 10.88.0.100]},\n\
         {name: c, match: {netns: /ns/3}}]",
    );
    world
}

fn nsid_of(veth: u32) -> i32 {
    if veth == 10 { 1 } else { 2 }
}

#[test]
fn it_belongs_to_the_holder_that_shows_it_at_any_time() {
    for floating in FLOATING {
        let (mut world, mut store) = (pair(), Store::new());
        let snapshot = world.update(&mut store).snapshot;
        assert!(snapshot.local.values().all(|one| !own(one).contains(&ip(floating))), "declared, but nobody has it");
        for (there, away) in [(10, 11), (11, 10), (10, 11)] {
            world.pass(60);
            world.show(nsid_of(there), &[floating]);
            world.show(nsid_of(away), &[]);
            let snapshot = world.update(&mut store).snapshot;
            assert!(own(behind(&snapshot, there)).contains(&ip(floating)));
            assert!(!own(behind(&snapshot, away)).contains(&ip(floating)));
            let voucher = &behind(&snapshot, there).addresses[&ip(floating)];
            assert_eq!(*voucher, Voucher::Floating("the inventory".to_owned()));
            assert!(!voucher.is_nobody());
        }
    }
}

#[test]
fn two_holders_that_show_it_both_have_it_and_no_selector_matches_it() {
    for floating in FLOATING {
        let (mut world, mut store) = (pair(), Store::new());
        world.show(1, &[floating]);
        world.update(&mut store);
        world.show(2, &[floating]);
        let outcome = world.update(&mut store);
        for veth in [10, 11] {
            assert!(!own(behind(&outcome.snapshot, veth)).contains(&ip(floating)));
            assert_eq!(disputed(behind(&outcome.snapshot, veth)), ips(&[floating]));
        }
        assert!(outcome.findings.iter().any(|finding| matches!(finding, Finding::AddressDisputed { .. })));
        world.show(1, &[]);
        let snapshot = world.update(&mut store).snapshot;
        assert!(own(behind(&snapshot, 11)).contains(&ip(floating)), "until one gives it up");
    }
}

#[test]
fn nobody_else_gets_it_and_it_takes_nothing_that_is_given() {
    for floating in FLOATING {
        let (mut world, mut store) = (pair(), Store::new());
        world.show(3, &[floating]);
        let outcome = world.update(&mut store);
        assert!(!own(behind(&outcome.snapshot, 12)).contains(&ip(floating)), "though no holder shows it");
        let refused =
            |finding: &Finding| matches!(finding, Finding::AddressRefused { because: Refusal::Floating { .. }, .. });
        assert!(outcome.findings.iter().any(refused), "{:#?}", outcome.findings);
        // A container to which the runtime gives it.
        world.container("c", 3, &[], &[floating]);
        world.show(1, &[floating]);
        let snapshot = world.update(&mut store).snapshot;
        assert!(own(behind(&snapshot, 12)).contains(&ip(floating)));
        assert!(!own(behind(&snapshot, 10)).contains(&ip(floating)));
    }
}

#[test]
fn a_label_of_a_container_declares_it_and_a_bad_one_is_reported() {
    let mut world = World::bridged();
    for (veth, nsid) in [(10, 1), (11, 2)] {
        world.veth(veth, nsid);
        let label = ("enforcer.dev/floating", "10.88.0.100, fd88::100");
        world.container(&format!("c{nsid}"), nsid, &[label], &[&format!("10.88.0.{veth}")]);
    }
    world.show(2, &["10.88.0.11", "10.88.0.100", "fd88::100"]);
    let mut store = Store::new();
    let snapshot = world.update(&mut store).snapshot;
    assert_eq!(own(behind(&snapshot, 11)), ips(&["10.88.0.11", "10.88.0.100", "fd88::100"]));
    assert_eq!(own(behind(&snapshot, 10)), ips(&["10.88.0.10"]));
    for wrong in ["10.88.0.100/32", "10.88.0.100,", "224.0.0.1", "::ffff:10.88.0.100", "web"] {
        world.containers[1].labels.insert("enforcer.dev/floating".to_owned(), wrong.to_owned());
        let outcome = world.update(&mut store);
        assert_eq!(own(behind(&outcome.snapshot, 11)), ips(&["10.88.0.11"]), "{wrong}");
        let text = "is ignored; write addresses as `10.88.0.100, fd00:88::100`";
        assert!(outcome.findings.iter().any(|finding| finding.to_string().contains(text)), "{wrong}");
    }
}

#[test]
fn it_has_to_be_plausible_like_any_address() {
    let mut world = World::bridged();
    world.veth(10, 1);
    world.show(1, &["10.88.0.1", "192.0.2.254", "192.0.2.7"]);
    world.inventory("workloads: [{name: a, match: {netns: /ns/1}, floating: [10.88.0.1, 192.0.2.254, 192.0.2.7]}]");
    let snapshot = world.update(&mut Store::new()).snapshot;
    assert_eq!(own(behind(&snapshot, 10)), ips(&[]), "the node's, a gateway's, and one of another device");
}
