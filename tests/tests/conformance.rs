//! The traffic rows of the public NetworkPolicy suite: three namespaces with three pods each, and a probe of every pair.
//!
//! Input: the policies of each row, in both kinds, from the fixture beside the policy tests. Expected: the suite's own
//! matrix, which is written down here by row. Both kinds must also compile to the same image.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::path::Path;
use std::sync::Arc;

use enforcer::compile::{Image, compile};
use enforcer::policy::load::{SourceFile, from_sources};
use enforcer::resolve::resolve;
use enforcer::workload::model::{
    Identity, Interface, Labels, LocalWorkload, NamedPort, Past, Snapshot, Vouched, WorkloadKey, WorkloadName, given_by,
};
use enforcer_common::id::Ifindex;
use enforcer_common::verdict::Verdict;
use enforcer_tests::packet::{Frame, Transport};
use enforcer_tests::world::{MemoryWorld, Unknown};
use serde::Deserialize;

#[derive(Deserialize)]
struct Row {
    number: u32,
    title: String,
    steps: Vec<Step>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Step {
    network_policies: String,
    flow_policies: String,
}

/// A probe of all pairs: row and step, port, who is denied, and who of those is not. `*` stands for any name. Loopback is
/// not looked at.
type Probe = (u32, usize, &'static str, &'static [&'static str], &'static [&'static str]);

const PROBES: [Probe; 67] = [
    (1, 0, "80/tcp", &["* > x/*"], &[]),
    (2, 0, "80/tcp", &["* > x/*", "x/* > *"], &[]),
    (3, 0, "80/tcp", &["* > x/a"], &["x/b > x/a"]),
    (4, 0, "80/tcp", &["* > x/b", "* > x/c"], &[]),
    (5, 0, "80/tcp", &[], &[]),
    (6, 0, "80/tcp", &["x/* > x/a", "z/* > x/a"], &[]),
    (7, 0, "80/tcp", &["* > x/a"], &["x/b > x/a"]),
    (8, 0, "80/tcp", &["x/* > x/a", "z/* > x/a"], &[]),
    (9, 0, "80/tcp", &["x/c > x/a"], &[]),
    (10, 0, "80/tcp", &["* > x/a"], &["y/b > x/a", "z/b > x/a"]),
    (11, 0, "80/tcp", &["x/* > x/a", "y/a > x/a", "z/a > x/a"], &[]),
    (12, 0, "80/tcp", &["* > x/a"], &["x/b > x/a", "x/c > x/a"]),
    (13, 0, "80/tcp", &["* > x/a"], &["y/a > x/a"]),
    (14, 0, "81/tcp", &["x/* > x/a", "z/* > x/a"], &[]),
    (14, 0, "80/tcp", &["* > x/a"], &[]),
    (15, 0, "81/tcp", &["x/* > x/a", "z/* > x/a"], &[]),
    (15, 0, "80/tcp", &["* > x/a"], &[]),
    (15, 1, "81/tcp", &["x/* > x/a", "z/* > x/a"], &[]),
    (15, 1, "80/tcp", &["x/* > x/a", "z/* > x/a"], &[]),
    (16, 0, "80/tcp", &[], &[]),
    (16, 0, "81/tcp", &[], &[]),
    (17, 0, "81/tcp", &[], &[]),
    (17, 0, "80/tcp", &["* > x/*"], &[]),
    (18, 0, "80/tcp", &["x/* > x/a", "z/* > x/a"], &[]),
    (18, 0, "81/tcp", &["* > x/a"], &[]),
    (19, 0, "80/tcp", &[], &[]),
    (19, 0, "81/tcp", &["x/* > *"], &[]),
    (20, 0, "81/tcp", &[], &[]),
    (20, 1, "81/tcp", &["* > x/*"], &[]),
    (21, 0, "80/tcp", &["* > x/a"], &[]),
    (21, 1, "80/tcp", &["* > x/a"], &["y/* > x/a"]),
    (22, 0, "80/tcp", &["* > x/a"], &[]),
    (22, 1, "80/tcp", &["* > x/a"], &["x/b > x/a"]),
    (23, 0, "80/tcp", &["y/* > x/*", "z/* > x/*"], &[]),
    (24, 0, "80/tcp", &[], &[]),
    (24, 1, "80/tcp", &["* > x/a"], &[]),
    (25, 0, "80/tcp", &["x/a > *"], &[]),
    (26, 0, "80/tcp", &["x/* > *"], &[]),
    (27, 0, "80/tcp", &["* > x/a"], &["x/b > x/a"]),
    (27, 0, "81/tcp", &["* > x/a", "x/a > *"], &["x/b > x/a"]),
    (28, 0, "80/tcp", &["x/a > *", "* > y/b", "* > y/a"], &["x/a > y/a"]),
    (29, 0, "80/tcp", &["x/a > *"], &["x/a > y/a"]),
    (30, 0, "80/tcp", &[], &[]),
    (30, 0, "80/udp", &["* > x/a"], &[]),
    (31, 0, "81/tcp", &["* > x/*"], &[]),
    (31, 1, "81/tcp", &[], &[]),
    (32, 0, "81/tcp", &["x/* > *"], &[]),
    (32, 1, "81/tcp", &[], &[]),
    (33, 0, "80/tcp", &["* > x/*", "x/* > *"], &[]),
    (33, 1, "80/tcp", &[], &[]),
    (34, 0, "80/tcp", &["x/a > *"], &["x/a > y/b"]),
    (35, 0, "80/tcp", &["x/a > x/b"], &[]),
    (36, 0, "80/tcp", &["x/a > x/b"], &[]),
    (36, 1, "80/tcp", &["x/a > *"], &["x/a > x/b"]),
    (37, 0, "80/tcp", &[], &[]),
    (37, 1, "80/tcp", &["* > x/a"], &[]),
    (38, 0, "81/tcp", &["* > x/*"], &[]),
    (39, 0, "81/tcp", &["* > x/a"], &[]),
    (40, 0, "81/tcp", &["* > x/a"], &[]),
    (41, 0, "80/tcp", &["x/* > x/a", "z/* > x/a"], &[]),
    (42, 0, "80/tcp", &["x/a > y/*"], &[]),
    (43, 0, "80/udp", &["* > x/*"], &[]),
    (44, 0, "81/udp", &["x/* > x/a", "z/* > x/a"], &[]),
    (45, 0, "80/udp", &["* > x/a"], &["y/a > x/a"]),
    (46, 0, "80/sctp", &["* > x/*"], &[]),
    (47, 0, "81/sctp", &["x/* > x/a", "z/* > x/a"], &[]),
    (48, 0, "80/sctp", &["* > x/a"], &["y/a > x/a"]),
];

const NAMESPACES: [&str; 3] = ["x", "y", "z"];
const PODS: [&str; 3] = ["a", "b", "c"];

/// A label that a row adds between its probes: row, the step from which it holds, the namespace, the pod in it (none: the
/// namespace itself), key and value.
type Relabelled = (u32, usize, &'static str, Option<&'static str>, &'static str, &'static str);

const RELABELLED: [Relabelled; 3] = [
    (21, 1, "y", None, "ns2", "updated"),
    (22, 1, "x", Some("b"), "pod2", "updated"),
    (24, 1, "x", Some("a"), "target", "isolated"),
];

fn pods() -> impl Iterator<Item = (u8, &'static str, &'static str)> {
    NAMESPACES.into_iter().enumerate().flat_map(|(namespace, name)| {
        let pod = move |(pod, pod_name)| ((namespace * 3 + pod) as u8, name, pod_name);
        PODS.into_iter().enumerate().map(pod)
    })
}

fn address(place: u8) -> IpAddr {
    IpAddr::from([10, 20, place / 3 + 1, place % 3 + 1])
}

/// The suite's cluster on one node, as it is at a step of a row.
fn cluster(row: u32, step: usize) -> Snapshot {
    let relabelled = |namespace: &str, pod: Option<&str>| {
        RELABELLED
            .into_iter()
            .filter(move |it| it.0 == row && it.1 <= step && it.2 == namespace && it.3 == pod)
            .map(|it| (it.4.to_owned(), it.5.to_owned()))
            .collect::<Vec<_>>()
    };
    let mut snapshot = Snapshot::default();
    for name in NAMESPACES {
        let mut labels = Labels::from([("kubernetes.io/metadata.name".to_owned(), name.to_owned())]);
        labels.extend(relabelled(name, None));
        snapshot.namespaces.insert(name.to_owned(), labels);
    }
    let mut ports: BTreeMap<String, BTreeSet<NamedPort>> = BTreeMap::new();
    for (name, protocol) in [("tcp", 6), ("udp", 17), ("sctp", 132)] {
        for port in [80, 81] {
            ports.insert(format!("serve-{port}-{name}"), BTreeSet::from([NamedPort { protocol, port }]));
        }
    }
    for (place, namespace, pod) in pods() {
        let mut labels = Labels::from([("pod".to_owned(), pod.to_owned())]);
        labels.extend(relabelled(namespace, Some(pod)));
        let interface = Interface { name: format!("veth-{namespace}-{pod}"), peer_mac: None, existed_at_start: false };
        let workload = LocalWorkload {
            identity: Some(Identity {
                name: WorkloadName { namespace: namespace.to_owned(), name: pod.to_owned() },
                labels: labels.into(),
                ports: ports.clone(),
            }),
            addresses: given_by("the inventory", [address(place)]),
            disputed: Vouched::new(),
            endpoints: BTreeMap::from([(Ifindex(u32::from(place) + 1), interface)]),
            routes: false,
            disagrees: false,
            foreign: BTreeMap::new(),
            past: Past::default(),
        };
        snapshot.local.insert(WorkloadKey(u64::from(place)), workload);
    }
    snapshot
}

fn image_of(what: &str, snapshot: &Snapshot, text: &str) -> Image {
    let source = SourceFile { path: "rows.yaml".into(), text: text.into() };
    let loaded = from_sources(vec![source]).unwrap_or_else(|errors| panic!("{what}\n{errors}"));
    let resolved = resolve(loaded.set, Arc::new(snapshot.clone()));
    compile(&resolved).unwrap_or_else(|refused| panic!("{what}: {refused}"))
}

fn matches(pattern: &str, from: &str, to: &str) -> bool {
    let one = |pattern: &str, name: &str| match pattern.strip_suffix('*') {
        Some(start) => name.starts_with(start),
        None => name == pattern,
    };
    let (wanted_from, wanted_to) = pattern.split_once(" > ").expect("FROM > TO");
    one(wanted_from, from) && one(wanted_to, to)
}

fn transport(port: &str) -> Transport {
    let (number, protocol) = port.split_once('/').expect("PORT/PROTOCOL");
    let destination = number.parse().expect("a port");
    match protocol {
        "tcp" => Transport::syn(40_000, destination),
        "udp" => Transport::Udp { source: 40_000, destination },
        "sctp" => Transport::Sctp { source: 40_000, destination, chunk: 1 },
        other => panic!("{other}"),
    }
}

fn passes(world: &MemoryWorld, from: u8, to: u8, port: &str) -> bool {
    let frame = Frame::new(address(from), address(to), transport(port)).bytes();
    let (from, to) = (Ifindex(u32::from(from) + 1), Ifindex(u32::from(to) + 1));
    world.sends(from, &frame) == Verdict::Allow && world.receives(to, from, &frame) == Verdict::Allow
}

fn rows() -> Vec<Row> {
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("../enforcer/tests/conformance_rows.yaml");
    let text = std::fs::read_to_string(file).expect("the fixture is there");
    serde_yaml::from_str(&text).expect("the fixture is YAML")
}

#[test]
fn every_pair_of_every_row() {
    let mut pairs = 0;
    let mut probed = BTreeSet::new();
    for Row { number, title, steps } in rows() {
        for (row, step, port, denied, allowed) in PROBES.into_iter().filter(|probe| probe.0 == number) {
            // A step beyond the policies' last changes labels only.
            let policies = &steps[step.min(steps.len() - 1)];
            let what = format!("row {row} step {step} {port}: {title}");
            let snapshot = cluster(row, step);
            let image = image_of(&what, &snapshot, &policies.network_policies);
            let translated = image_of(&what, &snapshot, &policies.flow_policies);
            assert!(image == translated, "{what}: the two kinds give two images");
            let mut world = MemoryWorld::new([]);
            world.install(&snapshot, image, Unknown::Strict);
            for (from, from_namespace, from_pod) in pods() {
                for (to, to_namespace, to_pod) in pods().filter(|to| to.0 != from) {
                    let names = [format!("{from_namespace}/{from_pod}"), format!("{to_namespace}/{to_pod}")];
                    let any = |patterns: &[&str]| patterns.iter().any(|it| matches(it, &names[0], &names[1]));
                    let expected = !any(denied) || any(allowed);
                    assert_eq!(passes(&world, from, to, port), expected, "{what}: {} to {}", names[0], names[1]);
                    world.forget_flows();
                    pairs += 1;
                }
            }
            probed.insert((number, step));
        }
    }
    for (number, step) in (1..=48).map(|number| (number, 0)).chain(PROBES.map(|probe| (probe.0, probe.1))) {
        assert!(probed.contains(&(number, step)), "row {number} step {step} was not probed");
    }
    assert_eq!(pairs, PROBES.len() * 72);
}

#[test]
fn replies_pass_where_new_flows_do_not() {
    // Row 37: x/a may send and not receive; answers to what it opened pass, in the same world.
    let row = rows().into_iter().find(|row| row.number == 37).expect("row 37");
    let snapshot = cluster(37, 1);
    let mut world = MemoryWorld::new([]);
    let image = image_of("row 37", &snapshot, &row.steps[1].network_policies);
    world.install(&snapshot, image, Unknown::Strict);
    let answer = Transport::Tcp { source: 80, destination: 40_000, flags: 0x12 };
    let answer = Frame::new(address(1), address(0), answer).bytes();
    assert_ne!(world.receives(Ifindex(1), Ifindex(2), &answer), Verdict::Allow, "nobody has asked");
    assert!(passes(&world, 0, 1, "80/tcp"));
    assert_eq!(world.receives(Ifindex(1), Ifindex(2), &answer), Verdict::Allow);
}
