//! What compiling takes and what comes of it, at the two sizes that the design gives figures for.
//!
//! `cargo run --release --example compile_sizes`
#![allow(clippy::print_stdout, reason = "a measurement for people")]

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;
use std::time::Instant;

use enforcer::compile::compile;
use enforcer::policy::model::{
    Action, LabelSelector, NamespaceScope, Peer, Peers, Policy, PolicyKind, PolicySet, PortSpec, Ports, Priority,
    Requirement, Rule, Tier, Transport,
};
use enforcer::policy::origin::Origin;
use enforcer::resolve::resolve;
use enforcer::workload::model::{
    Identity, Labels, LocalWorkload, Past, RemoteWorkload, Snapshot, Vouched, WorkloadKey, WorkloadName, given_by,
};
use ipnetwork::IpNetwork;

const LOCAL: usize = 100;

fn main() {
    measure("1,000 policies, 10,000 pods", services());
    measure("100,000 CIDR rules, 500 ports", blocks());
}

fn measure(what: &str, (policies, snapshot): (Vec<Policy>, Snapshot)) {
    let (policies, snapshot) = (Arc::new(PolicySet::from_iter(policies)), Arc::new(snapshot));
    let start = Instant::now();
    let resolved = resolve(policies, snapshot);
    let resolving = start.elapsed();
    let start = Instant::now();
    match compile(&resolved) {
        Ok(image) => println!(
            "{what}: resolve {resolving:?}, compile {:?}, {} bytes of lines; {}; buckets {:?}",
            start.elapsed(),
            image.lines.len() * 64,
            image.sizes,
            image.sizes.buckets
        ),
        Err(refused) => println!("{what}: {refused}"),
    }
}

fn at() -> Origin {
    Origin::line("made.yaml", 1)
}

fn identity(place: usize) -> Identity {
    let (namespace, app) = (place % 50, place / 50 % 20);
    Identity {
        name: WorkloadName { namespace: format!("ns{namespace}"), name: format!("pod{place}") },
        // As a runtime names them: no two workloads have the same labels.
        labels: Labels::from([
            ("app".to_owned(), format!("app{app}")),
            ("enforcer.dev/container".to_owned(), format!("pod{place}")),
        ])
        .into(),
        ports: BTreeMap::new(),
    }
}

fn snapshot(remote: usize) -> Snapshot {
    let address = |place: usize| IpAddr::from(Ipv4Addr::from(0x0a00_0000 + place as u32));
    let local = (0..LOCAL).map(|place| {
        let workload = LocalWorkload {
            identity: Some(identity(place * 7)),
            addresses: given_by("the inventory", [address(place)]),
            disputed: Vouched::new(),
            endpoints: BTreeMap::new(),
            routes: false,
            disagrees: false,
            foreign: BTreeMap::new(),
            past: Past::default(),
        };
        (WorkloadKey(place as u64 + 1), workload)
    });
    Snapshot {
        local: local.collect(),
        remote: (LOCAL..LOCAL + remote)
            .map(|place| RemoteWorkload { identity: identity(place), addresses: BTreeSet::from([address(place)]) })
            .map(Arc::new)
            .collect(),
        ..Snapshot::default()
    }
}

fn app(number: usize) -> LabelSelector {
    LabelSelector { requirements: vec![Requirement::In("app".to_owned(), BTreeSet::from([format!("app{number}")]))] }
}

fn tcp(port: usize) -> Ports {
    Ports::Only(vec![PortSpec::Range { transport: Transport::Tcp, first: port as u16, last: port as u16 }])
}

fn policy(namespace: usize, name: usize, subject: LabelSelector, rules: [Vec<Rule>; 2]) -> Policy {
    let [ingress, egress] = rules;
    Policy {
        kind: PolicyKind::NetworkPolicy,
        namespace: format!("ns{namespace}"),
        name: format!("p{name}"),
        at: at(),
        tier: Tier::NetworkPolicy,
        priority: Priority::HIGHEST,
        subject,
        isolates_ingress: true,
        isolates_egress: !egress.is_empty(),
        ingress,
        egress,
    }
}

fn rule(peer: Peer, ports: Ports) -> Rule {
    Rule { at: at(), action: Action::Allow, peers: Peers::Only(vec![peer]), ports }
}

fn services() -> (Vec<Policy>, Snapshot) {
    let pods = |namespaces, number| Peer::Workloads { namespaces, workloads: app(number) };
    let everywhere = || NamespaceScope::Matching(LabelSelector::default());
    let policies = (0..1_000).map(|place| {
        let number = place / 50;
        let ingress = vec![
            rule(pods(NamespaceScope::Own, (number + 1) % 20), tcp(8000 + place % 160)),
            rule(pods(everywhere(), (number + 2) % 20), tcp(9000)),
        ];
        let outside =
            Peer::Cidr { cidr: network(0, 0), except: vec![network(0x0a00_0000, 8), network(0xac10_0000, 12)] };
        let egress = vec![
            rule(outside, tcp(443)),
            rule(pods(NamespaceScope::Own, (number + 3) % 20), tcp(8000 + place * 7 % 160)),
        ];
        policy(place % 50, place, app(number), [ingress, egress])
    });
    (policies.collect(), snapshot(10_000 - LOCAL))
}

fn network(address: u32, prefix: u8) -> IpNetwork {
    IpNetwork::new(Ipv4Addr::from(address).into(), prefix).expect("at most 32")
}

fn blocks() -> (Vec<Policy>, Snapshot) {
    let rules = (0..100_000_usize).map(|place| {
        // Spread by a multiplicative hash; /20 to /32.
        let prefix = 20 + (place % 13) as u8;
        let address = (place as u32).wrapping_mul(0x9e37_79b1) >> (32 - u32::from(prefix)) << (32 - u32::from(prefix));
        let peer = Peer::Cidr { cidr: network(address, prefix), except: Vec::new() };
        rule(peer, tcp(1_000 + place * 31 % 500))
    });
    let rules: Vec<Rule> = rules.collect();
    let policies = rules
        .chunks(1_000)
        .enumerate()
        .map(|(place, rules)| policy(place % 50, place, LabelSelector::default(), [rules.to_vec(), Vec::new()]));
    (policies.collect(), snapshot(0))
}
