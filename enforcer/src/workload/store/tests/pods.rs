//! Tests of the rules that join pods of the Kubernetes API to veths, and of what a hostile pod cannot get by them.

use std::collections::{BTreeMap, BTreeSet};

use enforcer_common::id::Ifindex;

use super::super::{Outcome, Store};
use super::world::{BRIDGE, World, behind, ip, ips, name_behind, own};
use crate::workload::finding::{Finding, NotJoined, Refusal};
use crate::workload::model::{Past, Snapshot, Voucher};
use crate::workload::source::SourceError;
use crate::workload::statement::FoundBy;
use crate::workload::view::Kind;

/// A store that has looked at the world before.
pub(super) fn started(world: &mut World) -> Store {
    let mut store = Store::new();
    world.update(&mut store);
    world.pass(1);
    store
}

/// A pod as it comes: its veth with its addresses, and a second later what the API says.
pub(super) fn comes(world: &mut World, store: &mut Store, veth: u32, name: &str, addresses: &[&str]) -> Outcome {
    appears(world, store, veth, addresses);
    world.pod(name, addresses);
    world.update(store)
}

/// A veth with its addresses, of a pod of which the API says nothing yet.
pub(super) fn appears(world: &mut World, store: &mut Store, veth: u32, addresses: &[&str]) {
    world.veth(veth, nsid(veth));
    world.update(store);
    world.show(nsid(veth), addresses);
    world.update(store);
    world.pass(1);
}

pub(super) fn nsid(veth: u32) -> i32 {
    i32::try_from(veth).unwrap()
}

pub(super) fn names(snapshot: &Snapshot) -> BTreeMap<u32, String> {
    let veths = snapshot.local.values().flat_map(|one| one.endpoints.keys());
    veths.map(|veth| (veth.0, name_behind(snapshot, veth.0))).collect()
}

pub(super) fn elsewhere(snapshot: &Snapshot) -> Vec<String> {
    snapshot.remote.iter().map(|remote| format!("{} {:?}", remote.identity.name, remote.addresses)).collect()
}

pub(super) fn not_joined(outcome: &Outcome) -> BTreeMap<String, NotJoined> {
    let found = outcome.findings.iter().filter_map(|finding| match finding {
        Finding::PodNotJoined { pod, because } => Some((pod.name.clone(), because.clone())),
        _ => None,
    });
    found.collect()
}

pub(super) fn set(texts: &[&str]) -> BTreeSet<String> {
    texts.iter().map(|text| (*text).to_owned()).collect()
}

pub(super) fn pasts(snapshot: &Snapshot) -> BTreeMap<Ifindex, Past> {
    let local = snapshot.local.values();
    local.flat_map(|one| one.endpoints.keys().map(|veth| (*veth, one.past.clone()))).collect()
}

#[test]
fn a_new_pod_is_joined_by_what_its_veth_showed_first_in_each_family() {
    let both = ["10.88.0.2", "fd88::2"];
    for addresses in [&both[..1], &both[1..], &both] {
        let mut world = World::bridged();
        let mut store = started(&mut world);
        let outcome = comes(&mut world, &mut store, 10, "web", addresses);
        assert_eq!(name_behind(&outcome.snapshot, 10), "shop/web", "{addresses:?}");
        let workload = behind(&outcome.snapshot, 10);
        assert_eq!(own(workload), ips(addresses));
        let by_api = Voucher::Source("the Kubernetes API".to_owned());
        assert!(workload.addresses.values().all(|voucher| *voucher == by_api), "{workload:?}");
        assert!(outcome.snapshot.remote.is_empty() && outcome.findings.is_empty(), "{:?}", outcome.findings);
    }
    // A veth that shows only one of two is not the pod's.
    let mut world = World::bridged();
    let mut store = started(&mut world);
    appears(&mut world, &mut store, 10, &both[..1]);
    world.pod("web", &both);
    assert_eq!(name_behind(&world.update(&mut store).snapshot, 10), "");
}

#[test]
fn a_host_route_joins_a_pod_whatever_anybody_shows() {
    for address in ["10.88.0.2", "fd88::2"] {
        let prefix = if address.contains(':') { 128 } else { 32 };
        let mut world = World::bridged();
        let mut store = started(&mut world);
        world.veth_on(11, 11, None);
        world.veth_on(10, 10, None);
        world.show(11, &[address]);
        world.route(&format!("{address}/{prefix}"), 10, false);
        world.update(&mut store);
        world.pass(1);
        world.pod("web", &[address]);
        let outcome = world.update(&mut store);
        assert_eq!(names(&outcome.snapshot), [(10, "shop/web".to_owned()), (11, String::new())].into());
        assert_eq!(own(behind(&outcome.snapshot, 11)), ips(&[]), "what it shows is somebody else's");
    }
}

/// The plugin writes the addresses one after the other, and a look may come in between.
#[test]
fn the_second_family_may_be_seen_a_moment_later() {
    let mut world = World::bridged();
    let mut store = started(&mut world);
    appears(&mut world, &mut store, 10, &["10.88.0.2"]);
    world.show(10, &["10.88.0.2", "fd88::2"]);
    world.update(&mut store);
    world.pod("web", &["10.88.0.2", "fd88::2"]);
    assert_eq!(name_behind(&world.update(&mut store).snapshot, 10), "shop/web");
}

#[test]
fn the_first_snapshot_waits_for_evidence_but_not_for_ever() {
    let mut world = World::bridged();
    let mut store = Store::new();
    world.veth(10, 10);
    world.show(10, &["10.88.0.2"]);
    world.pod("web", &["10.88.0.2"]);
    let outcome = world.update(&mut store);
    assert!(outcome.is_waiting && outcome.settles.is_some_and(|end| end > world.now), "{outcome:?}");
    world.pass(2);
    let outcome = world.update(&mut store);
    assert_eq!((outcome.is_waiting, name_behind(&outcome.snapshot, 10)), (false, "shop/web".to_owned()));
    // One after the other.
    for veth in 11..20 {
        world.veth(veth, nsid(veth));
        let address = format!("10.88.1.{veth}");
        world.show(nsid(veth), &[&address]);
        world.pod(&format!("web{veth}"), &[&address]);
        world.pass(1);
        assert!(!world.update(&mut store).is_waiting || veth < 13, "{veth}");
    }
    // While the API does not answer there is nothing to wait for.
    world.api_error = Some(SourceError::Down("away".to_owned()));
    assert!(!world.update(&mut Store::new()).is_waiting);
}

#[test]
fn nothing_new_is_believed_while_the_api_is_not_heard_or_at_once_after_that() {
    let mut world = World::bridged();
    let mut store = started(&mut world);
    comes(&mut world, &mut store, 10, "web", &["10.88.0.2"]);
    world.api_error = Some(SourceError::Down("away".to_owned()));
    world.pod("old", &["10.88.0.3"]);
    appears(&mut world, &mut store, 11, &["10.88.0.3"]);
    for _ in 0..5 {
        world.pass(10);
        let snapshot = world.update(&mut store).snapshot;
        assert_eq!(names(&snapshot), [(10, "shop/web".to_owned()), (11, String::new())].into());
    }
    world.api_error = None;
    world.pass(60);
    world.update(&mut store);
    world.pass(1);
    assert_eq!(name_behind(&world.update(&mut store).snapshot, 11), "", "not yet");
    world.pass(2);
    assert_eq!(name_behind(&world.update(&mut store).snapshot, 11), "shop/old");
}

#[test]
fn a_restart_keeps_every_join_whatever_is_shown_meanwhile() {
    let mut world = World::bridged();
    let mut store = started(&mut world);
    comes(&mut world, &mut store, 10, "hostile", &["10.88.0.2"]);
    let before = comes(&mut world, &mut store, 11, "victim", &["10.88.0.3"]).snapshot;
    world.show(10, &["10.88.0.3"]);
    world.show(11, &[]);
    let mut later = Store::new();
    later.remember(pasts(&before));
    let outcome = world.update(&mut later);
    assert_eq!(names(&outcome.snapshot), names(&before));
    assert_eq!(own(behind(&outcome.snapshot, 11)), ips(&["10.88.0.3"]));
    // Of a pod that the API had not told of yet, the later daemon knows what it was given.
    appears(&mut world, &mut later, 12, &["10.88.0.4"]);
    let before = world.update(&mut later).snapshot;
    world.show(12, &["10.88.0.5"]);
    let mut last = Store::new();
    last.remember(pasts(&before));
    world.pod("third", &["10.88.0.4"]);
    world.update(&mut last);
    world.pass(3);
    assert_eq!(name_behind(&world.update(&mut last).snapshot, 12), "shop/third");
}

#[test]
fn a_pod_of_another_node_is_never_joined_here() {
    let mut world = World::bridged();
    let mut store = started(&mut world);
    world.route("10.88.0.9/32", 10, false);
    world.pod_elsewhere("remote", &["10.88.0.9"]);
    appears(&mut world, &mut store, 10, &["10.88.0.9"]);
    world.pass(60);
    let snapshot = world.update(&mut store).snapshot;
    assert_eq!(name_behind(&snapshot, 10), "");
}

/// A node that comes back under another name: the API says that the pods that still run here are of the node that is gone.
#[test]
fn a_pod_of_a_node_that_was_renamed_is_unknown_until_the_api_has_removed_it() {
    let mut world = World::bridged();
    let mut store = started(&mut world);
    let before = comes(&mut world, &mut store, 10, "web", &["10.88.0.2"]).snapshot;
    assert_eq!(name_behind(&before, 10), "shop/web");
    world.pods[0].found_by = FoundBy::Elsewhere;
    let mut later = Store::new();
    later.remember(pasts(&before));
    for _ in 0..3 {
        let snapshot = world.update(&mut later).snapshot;
        let workload = behind(&snapshot, 10);
        assert!(workload.lost_its_name(), "{workload:?}");
        assert_eq!(own(workload), ips(&[]));
        world.pass(10);
    }
    // A pod that the node gets under its new name.
    assert_eq!(name_behind(&comes(&mut world, &mut later, 11, "new", &["10.88.0.3"]).snapshot, 11), "shop/new");
}

#[test]
fn a_pod_that_leaves_keeps_its_veth_until_it_is_gone() {
    let mut world = World::bridged();
    let mut store = started(&mut world);
    comes(&mut world, &mut store, 10, "web", &["10.88.0.2"]);
    world.pods[0].found_by = FoundBy::Pod { leaving: true };
    let snapshot = world.update(&mut store).snapshot;
    assert_eq!(name_behind(&snapshot, 10), "shop/web");
    assert_eq!(own(behind(&snapshot, 10)), ips(&["10.88.0.2"]));
    world.pods.clear();
    assert!(behind(&world.update(&mut store).snapshot, 10).lost_its_name());
}

/// D6, N20.
#[test]
fn the_address_of_a_node_is_nobodys_whoever_says_so() {
    let node = "10.88.9.1";
    let mut world = World::bridged();
    world.nodes.insert(ip(node), "node2".into());
    world.inventory(&format!("services: [{node}, 10.96.0.10]\nworkloads: []\n"));
    let mut store = started(&mut world);
    comes(&mut world, &mut store, 10, "web", &["10.88.0.2"]);
    world.show(10, &["10.88.0.2", node]);
    world.pod_elsewhere("liar", &[node, "10.88.0.9"]);
    let outcome = world.update(&mut store);
    assert_eq!(elsewhere(&outcome.snapshot), ["shop/liar {10.88.0.9}"]);
    assert_eq!(own(behind(&outcome.snapshot, 10)), ips(&["10.88.0.2"]));
    assert_eq!(outcome.snapshot.services, ips(&["10.96.0.10"]), "nor a Service's");
    let of_node = Refusal::OfNode { name: "node2".to_owned() };
    assert!(
        outcome
            .findings
            .iter()
            .any(|finding| matches!(finding, Finding::AddressRefused { because, .. } if *because == of_node))
    );
    // A pod of this node with nothing but that.
    world.veth(11, 11);
    world.update(&mut store);
    world.show(11, &[node]);
    world.update(&mut store);
    world.pass(1);
    world.pod("thief", &[node]);
    let snapshot = world.update(&mut store).snapshot;
    assert_eq!((name_behind(&snapshot, 11).as_str(), own(behind(&snapshot, 11))), ("", ips(&[])));
}

#[test]
fn a_pod_without_a_veth_is_a_peer_and_a_person_hears_of_it() {
    let mut world = World::bridged();
    let mut store = started(&mut world);
    world.pod("macvlan", &["192.0.2.77"]);
    world.pod("starts", &[]);
    let outcome = world.update(&mut store);
    assert_eq!(not_joined(&outcome), BTreeMap::new(), "its veth may be on the way");
    assert_eq!(outcome.settles, Some(world.now + std::time::Duration::from_secs(10)));
    world.pass(10);
    let outcome = world.update(&mut store);
    assert_eq!(not_joined(&outcome), [("macvlan".to_owned(), NotJoined::NoVeth)].into());
    assert_eq!(elsewhere(&outcome.snapshot), ["shop/macvlan {192.0.2.77}"]);
}

/// kind, k3d and our own rig: the node's way out is a veth itself.
#[test]
fn a_node_that_is_a_container_has_its_way_out_and_its_pods() {
    let mut world = World::default();
    world.veth_on(2, 2, None);
    world.show(2, &["10.77.0.1", "10.77.0.12"]);
    world.route("0.0.0.0/0", 2, true);
    world.route("10.77.0.0/24", 2, false);
    world.view.node = ips(&["10.77.0.11"]);
    world.veth_on(10, 10, None);
    world.route("10.78.1.2/32", 10, false);
    world.device(BRIDGE, "cni0", Kind::Bridge, None);
    world.veth(11, 11);
    world.show(11, &["10.78.1.3"]);
    world.pod("routed", &["10.78.1.2"]);
    world.pod("bridged", &["10.78.1.3"]);
    // The outside shows the address of a pod of another node.
    world.pod_elsewhere("far", &["10.77.0.12"]);
    let mut store = Store::new();
    world.update(&mut store);
    world.pass(3);
    let snapshot = world.update(&mut store).snapshot;
    assert_eq!(snapshot.uplinks.keys().copied().collect::<Vec<_>>(), [Ifindex(2)]);
    assert_eq!(names(&snapshot), [(10, "shop/routed".to_owned()), (11, "shop/bridged".to_owned())].into());
}
