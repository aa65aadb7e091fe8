//! Tests of the rule that a veth which had a name keeps it or is closed, whatever its far side does (D13).

use std::collections::BTreeMap;

use enforcer_common::id::Ifindex;

use super::super::{Outcome, Store};
use super::world::{World, behind, ips, key_behind, name_behind, own};
use crate::workload::finding::Finding;
use crate::workload::model::{Past, Snapshot};

/// Two workloads, found in different ways, with addresses of their own.
fn world(matches: &str) -> World {
    let mut world = World::bridged();
    for (veth, nsid, address) in [(10, 1, "10.88.0.2"), (11, 2, "10.88.0.3")] {
        world.veth(veth, nsid);
        world.show(nsid, &[address]);
    }
    world.inventory(&format!(
        "workloads: [{{name: a, match: {{{matches}}}}}, {{name: b, match: {{netns: /ns/2}}}},\n\
         {{name: down, match: {{address: [10.88.7.7, \"fd88::77\"]}}}}]"
    ));
    world
}

fn strayed(outcome: &Outcome) -> bool {
    let of_a = |finding: &Finding| match finding {
        Finding::Strayed { workload } => {
            assert_eq!(workload.name.as_ref().map(ToString::to_string), Some("default/a".to_owned()));
            true
        }
        _ => false,
    };
    outcome.findings.iter().any(of_a)
}

fn closed(outcome: &Outcome, veth: u32) {
    let workload = behind(&outcome.snapshot, veth);
    assert!(workload.identity.is_none() && workload.lost_its_name(), "{workload:#?}");
    assert!(workload.addresses.is_empty() && workload.disputed.is_empty(), "{workload:#?}");
    assert!(strayed(outcome), "{:#?}", outcome.findings);
}

#[test]
fn a_veth_whose_far_side_is_moved_away_is_closed_whatever_is_there() {
    let mut world = world("netns: /ns/1");
    let mut store = Store::new();
    assert_eq!(name_behind(&world.update(&mut store).snapshot, 10), "default/a");
    world.move_far_side(10, 5);
    // The address of an entry that is down, a free one, and its own.
    world.show(5, &["10.88.7.7", "fd88::77", "10.88.0.9", "10.88.0.2"]);
    let outcome = world.update(&mut store);
    closed(&outcome, 10);
    assert_eq!(outcome.snapshot.remote.len(), 1, "the entry that is down is not here");
    assert_eq!(name_behind(&outcome.snapshot, 11), "default/b");
    assert_eq!(world.update(&mut store).snapshot, outcome.snapshot, "and stays so, under the same key");
    // A host route makes no difference, and neither does an entry for the new namespace.
    world.route("10.88.7.7/32", 10, false);
    world.inventory("workloads: [{name: e, match: {netns: /ns/5}}, {name: down, match: {address: 10.88.7.7}}]");
    closed(&world.update(&mut store), 10);
    // Nor the way back.
    world.move_far_side(10, 1);
    closed(&world.update(&mut store), 10);
    // The veth itself is gone, and the number is another's.
    world.view.links.remove(&Ifindex(10));
    world.update(&mut store);
    world.veth(10, 1);
    world.inventory("workloads: [{name: e, match: {netns: /ns/1}}]");
    assert_eq!(name_behind(&world.update(&mut store).snapshot, 10), "default/e");
}

#[test]
fn a_veth_that_is_moved_into_another_workload_does_not_become_it_and_does_not_harm_it() {
    let mut world = world("netns: /ns/1");
    let mut store = Store::new();
    let before = world.update(&mut store).snapshot;
    world.move_far_side(10, 2);
    let outcome = world.update(&mut store);
    closed(&outcome, 10);
    assert_eq!(behind(&outcome.snapshot, 11), behind(&before, 11));
    assert_eq!(key_behind(&outcome.snapshot, 11), key_behind(&before, 11));
}

#[test]
fn a_number_that_stands_for_another_namespace_counts_as_moved() {
    let mut world = world("netns: /ns/1");
    let mut store = Store::new();
    world.update(&mut store);
    world.gone.insert(1);
    closed(&world.update(&mut store), 10);
    world.gone.clear();
    closed(&world.update(&mut store), 10);
}

#[test]
fn an_entry_by_interface_keeps_its_veth_but_not_what_is_shown_behind_it() {
    let mut world = world("interface: veth10");
    let mut store = Store::new();
    assert_eq!(own(behind(&world.update(&mut store).snapshot, 10)), ips(&["10.88.0.2"]));
    world.move_far_side(10, 5);
    world.show(5, &["10.88.7.7", "10.88.0.2"]);
    let outcome = world.update(&mut store);
    assert_eq!(name_behind(&outcome.snapshot, 10), "default/a");
    assert_eq!(own(behind(&outcome.snapshot, 10)), ips(&[]));
    assert!(!strayed(&outcome));
}

#[test]
fn a_namespace_that_is_torn_down_is_not_moved() {
    let mut world = world("netns: /ns/1");
    let mut store = Store::new();
    let before = world.update(&mut store).snapshot;
    world.view.links.get_mut(&Ifindex(10)).unwrap().peer.as_mut().unwrap().nsid = None;
    let outcome = world.update(&mut store);
    assert_eq!(key_behind(&outcome.snapshot, 10), key_behind(&before, 10));
    assert!(!strayed(&outcome));
}

#[test]
fn one_that_nobody_names_any_more_is_closed_and_gets_its_name_back() {
    let mut world = world("netns: /ns/1");
    let mut store = Store::new();
    world.update(&mut store);
    let named = world.inventory.clone();
    world.inventory("workloads: []");
    let outcome = world.update(&mut store);
    assert!(behind(&outcome.snapshot, 10).lost_its_name() && !strayed(&outcome));
    assert!(
        !behind(&World { inventory: named.clone(), ..world.clone() }.update(&mut store).snapshot, 10).lost_its_name()
    );
    // It never had one.
    let snapshot = world.update(&mut Store::new()).snapshot;
    assert!(!behind(&snapshot, 10).lost_its_name());
}

/// Only what a source found by the same path, name or id is the same thing under another name.
#[test]
fn a_source_renames_a_veth_only_as_the_same_object() {
    let entry = |name: &str, matches: &str| format!("workloads: [{{name: {name}, match: {{{matches}}}}}]");
    for (matches, allowed) in [("netns: /ns/1", true), ("interface: veth10", false), ("address: 10.88.0.2", false)] {
        let mut world = world("netns: /ns/1");
        world.route("10.88.0.2/32", 10, false);
        let mut store = Store::new();
        world.update(&mut store);
        world.inventory(&entry("other", matches));
        let outcome = world.update(&mut store);
        let expected = if allowed { "default/other" } else { "" };
        assert_eq!(name_behind(&outcome.snapshot, 10), expected, "{matches}");
        assert_eq!(behind(&outcome.snapshot, 10).lost_its_name(), !allowed);
        // Under its own name it may be found in another way.
        world.inventory(&entry("a", matches));
        assert_eq!(name_behind(&world.update(&mut store).snapshot, 10), "default/a", "{matches}");
    }
    // A container by its id.
    let mut world = World::bridged();
    world.veth(10, 1);
    world.container("web", 1, &[], &["10.88.0.2"]);
    let mut store = Store::new();
    world.update(&mut store);
    world.containers[0].name = "renamed".to_owned();
    assert_eq!(name_behind(&world.update(&mut store).snapshot, 10), "default/renamed");
    world.containers[0].id = "another-0123456789ab".to_owned();
    assert_eq!(name_behind(&world.update(&mut store).snapshot, 10), "default/renamed", "it keeps its name");
    world.containers[0].name = "third".to_owned();
    world.containers[0].id = "third-0123456789ab".to_owned();
    let outcome = world.update(&mut store);
    assert!(behind(&outcome.snapshot, 10).lost_its_name());
    let renamed = |finding: &Finding| matches!(finding, Finding::Renamed { to, .. } if to.name == "third");
    assert!(outcome.findings.iter().any(renamed), "{:#?}", outcome.findings);
}

fn pasts(snapshot: &Snapshot) -> BTreeMap<Ifindex, Past> {
    let local = snapshot.local.values();
    local.flat_map(|one| one.endpoints.keys().map(|veth| (*veth, one.past.clone()))).collect()
}

#[test]
fn a_restart_changes_nothing_of_this() {
    let mut world = world("netns: /ns/1");
    let mut store = Store::new();
    let named = world.update(&mut store).snapshot;
    // While no daemon runs.
    world.move_far_side(10, 5);
    world.show(5, &["10.88.7.7"]);
    let mut later = Store::new();
    later.remember(pasts(&named));
    let outcome = world.update(&mut later);
    closed(&outcome, 10);
    // And from that daemon to the next, even if it is back.
    world.move_far_side(10, 1);
    let mut last = Store::new();
    last.remember(pasts(&outcome.snapshot));
    closed(&world.update(&mut last), 10);
    // A name that was lost is lost for the next daemon too.
    world.inventory("workloads: []");
    let mut next = Store::new();
    next.remember(pasts(&named));
    assert!(behind(&world.update(&mut next).snapshot, 11).lost_its_name());
}
