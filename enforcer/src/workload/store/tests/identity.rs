//! Tests of the rules that say which name and labels a workload gets.

use std::collections::BTreeSet;
use std::sync::Arc;

use super::super::Store;
use super::world::{World, behind, ip, ips, name_behind, own};
use crate::workload::finding::{Disagreement, Finding, Refusal};
use crate::workload::model::{Identity, RemoteWorkload};
use crate::workload::runtime::Pod;

fn disagreement(world: &World) -> Option<Disagreement> {
    let outcome = world.update(&mut Store::new());
    let found = outcome.findings.into_iter().find_map(|finding| match finding {
        Finding::SourcesDisagree { disagreement, .. } => Some(disagreement),
        _ => None,
    });
    let workload = behind(&outcome.snapshot, 10);
    assert_eq!((workload.disagrees, workload.identity.is_none()), (found.is_some(), found.is_some()));
    found
}

fn pairs(identity: &Identity) -> Vec<String> {
    identity.labels.pairs().into_iter().map(|(key, value)| format!("{key}={value}")).collect()
}

fn one_veth() -> World {
    let mut world = World::bridged();
    world.veth(10, 1);
    world.show(1, &["10.88.0.2"]);
    world
}

#[test]
fn an_entry_finds_its_workload_by_path_interface_or_address() {
    for matches in ["netns: /ns/1", "interface: veth10", "address: 10.88.0.2", "address: [fd88::9, 10.88.0.2]"] {
        let mut world = one_veth();
        world.route("10.88.0.2/32", 10, false);
        world.inventory(&format!(
            "namespaces: {{shop: {{labels: {{team: a}}}}}}\n\
             workloads: [{{name: web, namespace: shop, labels: {{app: web}}, ports: {{http: 80/tcp}}, routes: true, match: {{{matches}}}}}]"
        ));
        let snapshot = world.update(&mut Store::new()).snapshot;
        let workload = behind(&snapshot, 10);
        let identity = workload.identity.as_ref().expect(matches);
        assert_eq!(
            (identity.name.to_string().as_str(), &pairs(identity)[..]),
            ("shop/web", &["app=web".to_owned()][..])
        );
        assert_eq!(identity.ports["http"].len(), 1);
        assert!(workload.routes && snapshot.remote.is_empty());
        assert_eq!(snapshot.namespaces["shop"].len(), 2);
        assert_eq!(snapshot.namespaces["shop"]["kubernetes.io/metadata.name"], "shop");
    }
}

#[test]
fn an_entry_with_both_families_owns_both_once_one_is_seen() {
    let mut world = one_veth();
    world.route("10.88.0.2/32", 10, false);
    world.inventory("workloads: [{name: web, match: {address: [fd88::9, 10.88.0.2]}}]");
    let snapshot = world.update(&mut Store::new()).snapshot;
    assert_eq!(own(behind(&snapshot, 10)), ips(&["10.88.0.2", "fd88::9"]));
}

#[test]
fn an_entry_nobody_here_is_becomes_a_remote_peer() {
    let mut world = one_veth();
    world.inventory(
        "workloads: [{name: db, namespace: shop, match: {address: 203.0.113.5}},\n\
         {name: gone, match: {netns: nowhere}}, {name: own, match: {address: 10.88.0.1}}]",
    );
    let snapshot = world.update(&mut Store::new()).snapshot;
    let remote: Vec<String> = snapshot.remote.iter().map(|remote| remote.identity.name.to_string()).collect();
    assert_eq!(remote, ["shop/db"], "without an address, or with the node's, there is no peer");
    assert!(snapshot.namespaces.contains_key("shop"));
}

#[test]
fn peers_elsewhere_that_have_not_changed_are_shared_with_the_last_snapshot() {
    let mut world = one_veth();
    let mut store = Store::new();
    let entry = |name: &str, app: &str, address: &str| {
        format!("  - {{name: {name}, labels: {{app: {app}}}, match: {{address: {address}}}}}\n")
    };
    let inventory = |entries: &[String]| format!("workloads:\n{}", entries.concat());
    let (a, b, c) = (entry("a", "x", "203.0.113.1"), entry("b", "x", "203.0.113.2"), entry("c", "x", "203.0.113.3"));
    world.inventory(&inventory(&[a.clone(), b, c.clone()]));
    let before = world.update(&mut store).snapshot.remote;
    for (changed, kept) in [
        (vec![c.clone(), entry("b", "y", "203.0.113.2"), a.clone()], [true, false, true]),
        (vec![a.clone(), entry("b", "x", "203.0.113.9"), c.clone()], [true, false, true]),
        (vec![entry("aa", "x", "203.0.113.8"), a.clone(), c.clone()], [true, false, true]),
    ] {
        world.inventory(&inventory(&changed));
        let now = world.update(&mut store).snapshot.remote;
        let fresh = world.update(&mut Store::new()).snapshot.remote;
        assert_eq!(now, fresh, "what is shared is what it would be");
        let is_kept = |old: &Arc<RemoteWorkload>| now.iter().any(|new| Arc::ptr_eq(old, new));
        assert_eq!(before.iter().map(is_kept).collect::<Vec<_>>(), kept, "{changed:?}");
    }
}

#[test]
fn an_entry_by_address_follows_a_host_route_and_stays_until_its_namespace_is_gone() {
    let mut world = one_veth();
    let mut store = Store::new();
    world.inventory("workloads: [{name: web, match: {address: 10.88.0.2}}]");
    world.route("10.88.0.2/32", 10, false);
    assert_eq!(name_behind(&world.update(&mut store).snapshot, 10), "default/web");
    world.veth(11, 2);
    world.show(2, &["10.88.0.2"]);
    world.view.routes.pop();
    world.route("10.88.0.2/32", 11, false);
    world.show(1, &[]);
    let snapshot = world.update(&mut store).snapshot;
    assert_eq!((name_behind(&snapshot, 10).as_str(), name_behind(&snapshot, 11).as_str()), ("default/web", ""));
    assert!(own(behind(&snapshot, 10)).contains(&ip("10.88.0.2")), "the inventory names it for that namespace");
    world.remove_veth(10);
    assert_eq!(name_behind(&world.update(&mut store).snapshot, 11), "default/web");
}

#[test]
fn a_runtime_that_gives_the_address_finds_the_entry_too() {
    let mut world = one_veth();
    world.container("web", 1, &[], &["10.88.0.2"]);
    world.inventory("workloads: [{name: web, labels: {app: web}, match: {address: 10.88.0.2}}]");
    let snapshot = world.update(&mut Store::new()).snapshot;
    assert!(pairs(behind(&snapshot, 10).identity.as_ref().unwrap()).contains(&"app=web".to_owned()));
    assert!(snapshot.remote.is_empty());
}

#[test]
fn a_shown_address_names_nobody_not_even_at_the_first_look() {
    for family in ["10.88.7.7", "fd88::77"] {
        let mut world = one_veth();
        let mut store = Store::new();
        world.inventory(&format!("workloads: [{{name: peer, match: {{address: \"{family}\"}}}}]"));
        world.show(1, &["10.88.0.2", family]);
        let outcome = world.update(&mut store);
        assert_eq!(name_behind(&outcome.snapshot, 10), "");
        assert_eq!(outcome.snapshot.remote[0].addresses, ips(&[family]), "it is still a peer elsewhere");
        let declared =
            |finding: &Finding| matches!(finding, Finding::AddressRefused { because: Refusal::Declared { .. }, .. });
        assert!(outcome.findings.iter().any(declared), "{:#?}", outcome.findings);
        assert_eq!(world.update(&mut store).snapshot, outcome.snapshot);
    }
}

#[test]
fn a_workload_with_a_name_cannot_become_a_peer_by_showing_its_address() {
    let mut world = one_veth();
    let mut store = Store::new();
    world.inventory("workloads: [{name: a, match: {netns: /ns/1}}, {name: peer, match: {address: 10.88.7.7}}]");
    let before = world.update(&mut store).snapshot;
    world.show(1, &["10.88.0.2", "10.88.7.7"]);
    assert_eq!(world.update(&mut store).snapshot, before);
    assert_eq!(before.remote.len(), 1);
}

#[test]
fn a_container_is_named_by_its_labels_and_cannot_forge_its_name() {
    for (labels, namespace) in [
        (&[("app", "web"), ("enforcer.dev/namespace", "shop"), ("com.docker.compose.project", "proj")][..], "shop"),
        (&[("app", "web"), ("com.docker.compose.project", "proj")][..], "proj"),
        (&[("app", "web"), ("enforcer.dev/container", "db")][..], "default"),
    ] {
        let mut world = one_veth();
        world.container("web-1", 1, labels, &["10.88.0.2"]);
        let snapshot = world.update(&mut Store::new()).snapshot;
        let identity = behind(&snapshot, 10).identity.clone().unwrap();
        assert_eq!(identity.name.to_string(), format!("{namespace}/web-1"));
        let labels = identity.labels.single().expect("one container");
        assert_eq!((labels["enforcer.dev/container"].as_str(), labels["app"].as_str()), ("web-1", "web"));
        assert_eq!(snapshot.namespaces[namespace].len(), 1, "a container gives its namespace no labels");
    }
}

#[test]
fn a_port_label_names_a_port_and_a_bad_one_is_reported() {
    let mut world = one_veth();
    let labels = [
        ("enforcer.dev/port.http", "8080/tcp"),
        ("enforcer.dev/port.dns", "53/udp, 53/tcp"),
        ("enforcer.dev/port.x", "0/tcp"),
    ];
    world.container("web", 1, &labels, &[]);
    let outcome = world.update(&mut Store::new());
    let ports = behind(&outcome.snapshot, 10).identity.clone().unwrap().ports;
    assert_eq!(
        ports.iter().map(|(name, ports)| (name.as_str(), ports.len())).collect::<Vec<_>>(),
        [("dns", 2), ("http", 1)]
    );
    assert!(
        outcome
            .findings
            .iter()
            .any(|f| matches!(f, Finding::LabelIgnored { label, .. } if label == "enforcer.dev/port.x"))
    );
}

/// D14, b07.
#[test]
fn containers_of_one_namespace_are_one_workload_with_a_set_of_labels_for_each() {
    let project = ("com.docker.compose.project", "shop");
    let mut world = one_veth();
    world.container("vpn", 1, &[("app", "vpn"), ("maintainer", "a"), project], &["10.88.0.2"]);
    world.member("web", "vpn", &[("app", "web"), ("maintainer", "b"), project, ("enforcer.dev/container", "x")]);
    world.member("log", "vpn", &[project]);
    let outcome = world.update(&mut Store::new());
    assert!(outcome.findings.is_empty(), "{:?}", outcome.findings);
    let identity = behind(&outcome.snapshot, 10).identity.clone().unwrap();
    assert_eq!(identity.name.to_string(), "shop/vpn");
    let sets: BTreeSet<Vec<&str>> =
        identity.labels.iter().map(|set| set.values().map(String::as_str).collect()).collect();
    let expected = [&["vpn", "shop", "vpn", "a"][..], &["web", "shop", "web", "b"], &["shop", "log"]];
    assert_eq!(sets, expected.map(<[&str]>::to_vec).into());
}

/// b09.
#[test]
fn a_pod_has_its_own_name_and_its_labels_are_those_of_each_container() {
    let mut world = one_veth();
    world.container("0123456789ab-infra", 1, &[], &["10.88.0.2"]);
    let labels = [("team", "a"), ("enforcer.dev/port.http", "8080-tcp"), ("enforcer.dev/container", "x")];
    let labels = labels.map(|(key, value)| (key.to_owned(), value.to_owned())).into();
    world.containers[0].pod = Some(Pod { name: "shop".to_owned(), labels });
    world.member("web", "0123456789ab-infra", &[("app", "web"), ("team", "a")]);
    world.member("log", "0123456789ab-infra", &[("app", "log")]);
    let snapshot = world.update(&mut Store::new()).snapshot;
    let identity = behind(&snapshot, 10).identity.clone().unwrap();
    assert_eq!((identity.name.to_string().as_str(), identity.ports["http"].len()), ("default/shop", 1));
    let sets: Vec<[&str; 3]> = identity
        .labels
        .iter()
        .map(|set| ["app", "enforcer.dev/container", "team"].map(|key| set[key].as_str()))
        .collect();
    assert_eq!(sets, [["log", "log", "a"], ["web", "web", "a"]], "the infra container has no set");
    // What a pod says and a container contradicts is neither.
    world.containers[1].labels.insert("team".to_owned(), "b".to_owned());
    let text = disagreement(&world).map(|found| found.to_string()).unwrap_or_default();
    assert!(text.contains("pod shop gives the label `team`") && text.contains("container web"), "{text}");
}

#[test]
fn what_an_entry_says_of_the_whole_holds_for_each_container() {
    let mut world = one_veth();
    world.container("web", 1, &[("app", "web")], &[]);
    world.member("log", "web", &[("app", "log")]);
    world.inventory("workloads: [{name: web, labels: {team: a}, match: {netns: /ns/1}}]");
    let snapshot = world.update(&mut Store::new()).snapshot;
    let labels = behind(&snapshot, 10).identity.clone().unwrap().labels;
    assert_eq!(labels.iter().len(), 2);
    assert!(labels.iter().all(|set| set["team"] == "a"), "{labels:?}");
    // Several sets are of containers that the runtime does not know.
    world.inventory("workloads: [{name: web, labels: [{app: a}, {app: b}], match: {netns: /ns/1}}]");
    let snapshot = world.update(&mut Store::new()).snapshot;
    let labels = behind(&snapshot, 10).identity.clone().unwrap().labels;
    assert_eq!(labels.iter().map(|set| set["app"].as_str()).collect::<BTreeSet<_>>(), ["a", "b", "log", "web"].into());
}

#[test]
fn what_contradicts_itself_is_unknown_and_both_sides_are_named() {
    let shop = ("enforcer.dev/namespace", "shop");
    let bank = ("enforcer.dev/namespace", "bank");
    for (labels, other, expected) in [
        (&[shop][..], &[bank][..], "namespace"),
        (&[shop][..], &[("com.docker.compose.project", "proj")][..], "namespace"),
        (&[("enforcer.dev/port.http", "80/tcp")][..], &[("enforcer.dev/port.http", "81/tcp")][..], "port name `http`"),
    ] {
        let mut world = one_veth();
        world.container("one", 1, labels, &[]);
        world.member("two", "one", other);
        let text = disagreement(&world).map(|found| found.to_string()).unwrap_or_default();
        assert!(text.contains(expected) && text.contains("container one") && text.contains("container two"), "{text}");
    }
    // Two containers that were both put into the namespace from outside.
    let mut world = one_veth();
    world.container("one", 1, &[], &[]);
    world.container("two", 1, &[], &[]);
    let text = disagreement(&world).map(|found| found.to_string()).unwrap_or_default();
    assert!(text.contains("`--network container:NAME`"), "{text}");
    // Inventory and runtime.
    let mut world = one_veth();
    world.container("web", 1, &[("app", "web")], &[]);
    world.inventory("workloads: [{name: web, labels: {app: web}, match: {netns: /ns/1}}]");
    assert_eq!(disagreement(&world), None, "they agree");
    world.inventory("workloads: [{name: web, labels: {app: db}, match: {netns: /ns/1}}]");
    assert!(matches!(disagreement(&world), Some(Disagreement::Label { .. })));
    // Two entries.
    let mut world = one_veth();
    world.inventory("workloads: [{name: a, match: {netns: /ns/1}}, {name: b, match: {interface: veth10}}]");
    assert!(disagreement(&world).is_some_and(|found| found.to_string().contains("inventory line 1")));
    // A namespace that would be two words in a log line.
    let mut world = one_veth();
    world.container("web", 1, &[("enforcer.dev/namespace", "shop/web")], &[]);
    assert!(matches!(disagreement(&world), Some(Disagreement::InvalidName { .. })));
}

#[test]
fn a_contradiction_says_what_to_do_and_it_helps() {
    let port = "enforcer.dev/port.http";
    let mut world = one_veth();
    world.container("web", 1, &[(port, "80/tcp")], &[]);
    world.member("log", "web", &[(port, "81/tcp")]);
    let text = disagreement(&world).map(|found| found.to_string()).unwrap_or_default();
    assert!(text.contains("by the label `enforcer.dev/port.http`"), "{text}");
    world.containers[1].labels.insert(port.to_owned(), "80/tcp".to_owned());
    assert_eq!(disagreement(&world), None);
    // One protocol does not contradict another.
    world.containers[1].labels.insert(port.to_owned(), "81/udp".to_owned());
    assert_eq!(disagreement(&world), None);
    let mut world = one_veth();
    world.container("web", 1, &[("team", "a")], &[]);
    world.inventory("workloads: [{name: web, labels: {team: b}, match: {netns: /ns/1}}]");
    let text = disagreement(&world).map(|found| found.to_string()).unwrap_or_default();
    assert!(
        text.contains(
            "change the entry of the inventory or the label of the pod, or give the container the same value by `--label team=VALUE`"
        ),
        "{text}"
    );
    world.containers[0].labels.insert("team".to_owned(), "b".to_owned());
    assert_eq!(disagreement(&world), None);
}

#[test]
fn containers_that_name_each_other_end() {
    let mut world = one_veth();
    world.member("a", "b", &[]);
    world.member("b", "a", &[]);
    let snapshot = world.update(&mut Store::new()).snapshot;
    assert_eq!(name_behind(&snapshot, 10), "");
    assert!(!behind(&snapshot, 10).disagrees, "nobody named it");
}
