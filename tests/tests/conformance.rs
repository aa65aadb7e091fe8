//! The traffic rows of the public NetworkPolicy suite: three namespaces with three pods each, and a probe of every pair.
//!
//! Input: the policies of each row, in both kinds, and the suite's own matrix, from [`enforcer_tests::suite`]. Both kinds must
//! also compile to the same image.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
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
use enforcer_tests::suite::{NAMESPACES, PODS, PORTS, PROBES, Probe, Row, relabelled, rows};
use enforcer_tests::world::{MemoryWorld, Unknown};

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
        let mine = relabelled(row, step).filter(move |it| it.namespace == namespace && it.pod == pod);
        mine.map(|it| (it.key.to_owned(), it.value.to_owned())).collect::<Vec<_>>()
    };
    let mut snapshot = Snapshot::default();
    for name in NAMESPACES {
        let mut labels = Labels::from([("kubernetes.io/metadata.name".to_owned(), name.to_owned())]);
        labels.extend(relabelled(name, None));
        snapshot.namespaces.insert(name.to_owned(), labels);
    }
    let mut ports: BTreeMap<String, BTreeSet<NamedPort>> = BTreeMap::new();
    for (name, protocol) in [("tcp", 6), ("udp", 17), ("sctp", 132)] {
        for port in PORTS {
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

#[test]
fn every_pair_of_every_row() {
    let mut pairs = 0;
    let mut probed = BTreeSet::new();
    for Row { number, title, steps } in rows() {
        for probe in PROBES.into_iter().filter(|probe| probe.0 == number) {
            let Probe(row, step, port, ..) = probe;
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
                    let expected = probe.passes(&names[0], &names[1]);
                    assert_eq!(passes(&world, from, to, port), expected, "{what}: {} to {}", names[0], names[1]);
                    world.forget_flows();
                    pairs += 1;
                }
            }
            probed.insert((number, step));
        }
    }
    for (number, step) in (1..=48).map(|number| (number, 0)).chain(PROBES.map(|Probe(row, step, ..)| (row, step))) {
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
