//! Tests of the inventory's grammar: one complete file, and the full message for each possible mistake.

use std::fmt::Write as _;
use std::path::Path;

use super::{Inventory, Match};

fn parse(text: &str) -> Result<Inventory, String> {
    Inventory::parse(Path::new("node.inventory.yaml"), text).map_err(|error| error.to_string())
}

#[test]
fn the_documented_example_parses_to_what_it_says() {
    let reference = include_str!("../../../../../docs/inventory-reference.md");
    let example = reference.split("```yaml\n").nth(1).and_then(|rest| rest.split("```").next()).expect("an example");
    insta::assert_snapshot!(format!("{:#?}", parse(example).unwrap()));
}

#[test]
fn nothing_but_comments_is_an_empty_inventory() {
    for text in ["", "\n", "# nobody yet\n", "workloads: []\n"] {
        assert_eq!(parse(text), Ok(Inventory::default()), "{text:?}");
    }
}

#[test]
fn services_are_addresses() {
    let inventory = parse("services: [10.96.0.1, \"fd00:96::1\"]\nworkloads: []\n").unwrap();
    let services: Vec<String> = inventory.services.iter().map(ToString::to_string).collect();
    assert_eq!(services, ["10.96.0.1", "fd00:96::1"]);
    for wrong in ["10.96.0.0/16", "224.0.0.1", "db.example", "\"\""] {
        let error = parse(&format!("services:\n  - 10.96.0.1\n  - {wrong}\n")).unwrap_err();
        assert!(error.contains(":3:5:"), "{wrong}: {error}");
    }
}

#[test]
fn a_namespace_path_is_a_name_of_ip_netns_or_absolute() {
    for (written, meant) in [("web", "/var/run/netns/web"), ("/proc/7/ns/net", "/proc/7/ns/net")] {
        let inventory = parse(&format!("workloads: [{{name: a, match: {{netns: {written}}}}}]")).unwrap();
        assert_eq!(inventory.entries[0].matches, Match::Netns(meant.into()));
    }
    assert!(parse("workloads: [{name: a, match: {netns: ../web}}]").is_err());
}

#[test]
fn each_mistake_has_a_message_with_its_place() {
    let workload = |rest: &str| format!("workloads:\n- name: web\n  namespace: shop\n{rest}");
    let cases = [
        ("unknown field", workload("  matsch: {netns: web}\n")),
        ("unknown field at the top", "workload: []\n".to_owned()),
        ("no match", workload("  labels: {app: web}\n")),
        ("no match key", workload("  match: {}\n")),
        ("two match keys", workload("  match: {netns: web, interface: veth0}\n")),
        ("empty netns", workload("  match: {netns: ''}\n")),
        ("empty address list", workload("  match: {address: []}\n")),
        ("no address", workload("  match: {address: 10.88.0}\n")),
        ("a subnet is no address", workload("  match: {address: [10.88.0.2, 10.88.0.0/16]}\n")),
        ("multicast", workload("  match: {address: 224.0.0.1}\n")),
        ("mapped", workload("  match: {address: '::ffff:10.0.0.1'}\n")),
        ("port zero", workload("  ports: {http: 0/tcp}\n  match: {netns: web}\n")),
        ("port without protocol", workload("  ports: {http: 8080}\n  match: {netns: web}\n")),
        ("port too large", workload("  ports: {http: [80/tcp, 65536/udp]}\n  match: {netns: web}\n")),
        ("wrong type", workload("  routes: perhaps\n  match: {netns: web}\n")),
        ("bad name", "workloads:\n- {name: shop/web, match: {netns: web}}\n".to_owned()),
        (
            "name twice",
            format!("{}- {{name: web, namespace: shop, match: {{netns: b}}}}\n", workload("  match: {netns: a}\n")),
        ),
        (
            "address twice",
            format!("{}- {{name: b, match: {{address: 10.0.0.1}}}}\n", workload("  match: {address: 10.0.0.1}\n")),
        ),
        ("match twice", format!("{}- {{name: b, match: {{netns: a}}}}\n", workload("  match: {netns: a}\n"))),
        ("metadata name", "namespaces:\n  shop:\n    labels:\n      kubernetes.io/metadata.name: bank\n".to_owned()),
        ("key twice", "namespaces:\n  shop: {}\n  shop: {}\n".to_owned()),
        ("label twice", workload("  labels: {app: a, app: b}\n  match: {netns: web}\n")),
        ("truncated", workload("  match: {netns: web\n")),
        ("no workloads", "workloads:\n".to_owned()),
        ("no workload", format!("{}-\n", workload("  match: {netns: web}\n"))),
        ("no labels", workload("  labels:\n  match: {netns: web}\n")),
        ("no labels of the second container", workload("  labels: [{app: web}, ~]\n  match: {netns: web}\n")),
        ("labels in two lists", workload("  labels: [[{app: web}]]\n  match: {netns: web}\n")),
        ("label twice in the second set", workload("  labels: [{app: a}, {app: a, app: b}]\n  match: {netns: web}\n")),
        ("a label without a value", workload("  labels: [{app: }]\n  match: {netns: web}\n")),
        ("a map as a label", workload("  labels: {app: {name: web}}\n  match: {netns: web}\n")),
        ("many brackets", workload(&format!("  labels: {}\n", "[".repeat(10_000)))),
        ("many keys", workload(&format!("  labels:\n    {}x\n", "? ".repeat(10_000)))),
        ("too many entries", format!("workloads:\n{}", "- {name: w, match: {netns: w}}\n".repeat(40_000))),
        ("a second document", format!("{0}---\n{0}", workload("  match: {netns: web}\n"))),
    ];
    let mut messages = String::new();
    for (name, text) in cases {
        let message = parse(&text).expect_err(name);
        writeln!(messages, "== {name}\n{message}\n").unwrap();
    }
    insta::assert_snapshot!(messages);
}
