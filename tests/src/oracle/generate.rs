//! Generates random nodes, policies and flows, so densely that every rule of the semantics decides often.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::Arc;

use enforcer_common::id::Ifindex;

use enforcer::policy::model::{
    Action, LabelSelector, NamespaceScope, Peer, Peers, PortSpec, Ports, Requirement, Rule, Transport,
};
use enforcer::workload::model::{
    Identity, Interface, LabelSets, Labels, LocalWorkload, NamedPort, Past, RemoteWorkload, Snapshot, Vouched, Voucher,
    WorkloadKey, WorkloadName,
};
use ipnetwork::IpNetwork;

use super::declare::{Declared, at};
use super::evaluate::{Flow, Wants};
use super::random::Random;

/// The device towards the outside.
pub const UPLINK: u32 = 900;
/// A device that is neither an uplink nor an endpoint.
pub const OTHER_DEVICE: u32 = 901;

const NAMESPACES: [&str; 4] = ["shop", "pay", "ops", "dev"];
const APPS: [&str; 3] = ["web", "api", "db"];
const TIERS: [&str; 2] = ["front", "back"];
const TEAMS: [&str; 2] = ["red", "blue"];
const PORT_NAMES: [&str; 3] = ["http", "dns", "sig"];
const PORTS: [u16; 14] = [53, 79, 80, 81, 82, 90, 91, 443, 8000, 8005, 8010, 8011, 65_534, 65_535];
const TRANSPORTS: [Transport; 4] = [Transport::Tcp, Transport::Tcp, Transport::Udp, Transport::Sctp];

/// A node at one moment.
pub fn snapshot(random: &mut Random) -> Snapshot {
    let mut snapshot = Snapshot::default();
    // The last namespace is one that no source names.
    for name in &NAMESPACES[..3] {
        let team = random.pick(&TEAMS);
        let labels = [("kubernetes.io/metadata.name", *name), ("team", team)];
        snapshot.namespaces.insert((*name).to_owned(), owned(&labels));
    }
    let mut next = 0;
    for place in 0..3 + random.below(6) as u64 {
        let mut workload = LocalWorkload {
            identity: (!random.chance(18)).then(|| identity(random, place)),
            addresses: vouched(random, &mut next),
            disputed: Vouched::new(),
            endpoints: BTreeMap::new(),
            routes: false,
            disagrees: false,
            foreign: BTreeMap::new(),
            past: Past::default(),
        };
        let interface = Interface { name: format!("veth{place}"), peer_mac: None, existed_at_start: false };
        workload.endpoints.insert(Ifindex(10 + place as u32), interface);
        snapshot.local.insert(WorkloadKey(place + 1), workload);
    }
    if random.chance(85) {
        let disputed = vouched(random, &mut next);
        for workload in snapshot.local.values_mut().take(2) {
            workload.disputed.clone_from(&disputed);
        }
    }
    for place in 0..random.below(5) as u64 {
        let remote =
            RemoteWorkload { identity: identity(random, 100 + place), addresses: addresses(random, &mut next) };
        snapshot.remote.push(Arc::new(remote));
    }
    if let [first, .., last] = snapshot.remote.as_mut_slice()
        && random.chance(60)
    {
        Arc::make_mut(last).addresses.extend(&first.addresses);
    }
    snapshot.node = addresses(random, &mut next);
    snapshot
}

fn owned(labels: &[(&str, &str)]) -> Labels {
    labels.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect()
}

fn identity(random: &mut Random, place: u64) -> Identity {
    // Of several containers in one network namespace, which may contradict each other.
    let sets = if random.chance(40) { 2 + random.below(2) } else { 1 };
    let labels = LabelSets::of((0..sets).map(|_| labels(random)));
    let mut ports: BTreeMap<String, BTreeSet<NamedPort>> = BTreeMap::new();
    for name in PORT_NAMES {
        for _ in 0..random.below(3) {
            ports
                .entry(name.to_owned())
                .or_default()
                .insert(NamedPort { protocol: random.pick(&[6, 6, 17, 132]), port: random.pick(&PORTS) });
        }
    }
    Identity {
        name: WorkloadName { namespace: random.pick(&NAMESPACES).to_owned(), name: format!("w{place}") },
        labels,
        ports,
    }
}

/// Those of one container.
fn labels(random: &mut Random) -> Labels {
    let mut labels = Labels::new();
    if random.chance(90) {
        labels.extend(owned(&[("app", random.pick(&APPS))]));
    }
    if random.chance(70) {
        labels.extend(owned(&[("tier", random.pick(&TIERS))]));
    }
    labels
}

/// The same, and who vouches for them.
fn vouched(random: &mut Random, next: &mut u32) -> Vouched {
    let voucher = |random: &mut Random| {
        if random.chance(30) { Voucher::Pinned } else { Voucher::Source("a source".to_owned()) }
    };
    addresses(random, next).into_iter().map(|address| (address, voucher(random))).collect()
}

/// One to three addresses that nobody has yet, close together, of one or both families.
fn addresses(random: &mut Random, next: &mut u32) -> BTreeSet<IpAddr> {
    let mut addresses = BTreeSet::new();
    for _ in 0..=random.below(3) {
        *next += 1 + random.below(3) as u32;
        if random.chance(60) {
            addresses.insert(v4(*next));
        } else {
            addresses.insert(v6(*next));
        }
    }
    addresses
}

fn v4(number: u32) -> IpAddr {
    Ipv4Addr::from(0x0a00_0000 + number).into()
}

fn v6(number: u32) -> IpAddr {
    Ipv6Addr::from((0xfd00 << 112) + u128::from(number % 4) + (u128::from(number / 4) << 64)).into()
}

/// Addresses that someone on or off the node has, and neighbours that nobody has.
pub fn places(snapshot: &Snapshot) -> Vec<IpAddr> {
    let local = snapshot.local.values();
    let known = local
        .flat_map(|workload| workload.addresses.keys().chain(workload.disputed.keys()))
        .chain(snapshot.remote.iter().flat_map(|workload| &workload.addresses))
        .chain(&snapshot.node);
    let mut places: Vec<IpAddr> = known.copied().collect();
    places.extend((0..40).step_by(7).flat_map(|number| [v4(number), v6(number)]));
    let far: [IpAddr; 4] = [
        Ipv4Addr::new(192, 0, 2, 1).into(),
        Ipv4Addr::new(203, 0, 113, 255).into(),
        Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 1).into(),
        Ipv6Addr::new(0x2001, 0xdb8, 0, 1, 0, 0, 0, 0).into(),
    ];
    places.extend(far);
    places.sort_unstable();
    places.dedup();
    places
}

/// Policies for the workloads of a node.
pub fn policies(random: &mut Random, places: &[IpAddr]) -> Vec<Declared> {
    let policy = |random: &mut Random, place: usize| Declared {
        namespace: random.pick(&NAMESPACES).to_owned(),
        name: format!("p{place}"),
        subject: selector(random),
        types: random.chance(60).then(|| random.pick(&[[true, false], [false, true], [true, true], [true, true]])),
        ingress: rules(random, places),
        egress: if random.chance(70) { rules(random, places) } else { Vec::new() },
    };
    (0..=random.below(9)).map(|place| policy(random, place)).collect()
}

fn selector(random: &mut Random) -> LabelSelector {
    let mut requirements = Vec::new();
    if !random.chance(45) {
        for _ in 0..=random.below(2) {
            let (key, values): (&str, &[&str]) = if random.chance(60) { ("app", &APPS) } else { ("tier", &TIERS) };
            let some = |random: &mut Random| (0..=random.below(2)).map(|_| random.pick(values).to_owned()).collect();
            requirements.push(match random.below(6) {
                0 => Requirement::NotIn(key.to_owned(), some(random)),
                1 => Requirement::Exists(key.to_owned()),
                2 => Requirement::DoesNotExist(key.to_owned()),
                _ => Requirement::In(key.to_owned(), some(random)),
            });
        }
    }
    LabelSelector { requirements }
}

fn namespace_selector(random: &mut Random) -> LabelSelector {
    let requirement = match random.below(5) {
        0 => return LabelSelector::default(),
        1 => Requirement::In("team".to_owned(), BTreeSet::from([random.pick(&TEAMS).to_owned()])),
        2 => Requirement::DoesNotExist("team".to_owned()),
        _ => Requirement::In(
            "kubernetes.io/metadata.name".to_owned(),
            (0..=random.below(2)).map(|_| random.pick(&NAMESPACES).to_owned()).collect(),
        ),
    };
    LabelSelector { requirements: vec![requirement] }
}

fn rules(random: &mut Random, places: &[IpAddr]) -> Vec<Rule> {
    let rule = |random: &mut Random| Rule {
        at: at(),
        action: if random.chance(8) { Action::Deny } else { Action::Allow },
        peers: if random.chance(20) {
            Peers::Any
        } else {
            Peers::Only((0..=random.below(3)).map(|_| peer(random, places)).collect())
        },
        ports: if random.chance(35) {
            Ports::Any
        } else {
            Ports::Only((0..=random.below(3)).map(|_| port(random)).collect())
        },
    };
    (0..random.below(4)).map(|_| rule(random)).collect()
}

fn peer(random: &mut Random, places: &[IpAddr]) -> Peer {
    if random.chance(45) {
        let cidr = around(random.pick(places), random, 0);
        let inside: Vec<IpAddr> = places.iter().copied().filter(|place| cidr.contains(*place)).collect();
        let except = (0..random.below(3))
            .filter(|_| cidr.prefix() < if cidr.is_ipv4() { 32 } else { 128 })
            .map(|_| around(random.pick(&inside), random, cidr.prefix() + 1))
            .collect();
        return Peer::Cidr { cidr, except };
    }
    Peer::Workloads {
        namespaces: if random.chance(40) {
            NamespaceScope::Own
        } else {
            NamespaceScope::Matching(namespace_selector(random))
        },
        workloads: selector(random),
    }
}

/// A block that holds an address, at least `shortest` bits long.
fn around(place: IpAddr, random: &mut Random, shortest: u8) -> IpNetwork {
    let width = if place.is_ipv4() { 32 } else { 128 };
    let wanted = match random.below(8) {
        0 => 0,
        1 => 8,
        2 => width,
        _ if place.is_ipv4() => 24 + random.below(8) as u8,
        _ => 58 + random.below(70) as u8,
    };
    let prefix = wanted.max(shortest);
    let exact = IpNetwork::new(place, prefix).expect("the prefix fits the family");
    IpNetwork::new(exact.network(), prefix).expect("the prefix fits the family")
}

fn port(random: &mut Random) -> PortSpec {
    let transport = random.pick(&TRANSPORTS);
    match random.below(13) {
        0 | 1 => PortSpec::Every(transport),
        2 => PortSpec::Icmp,
        3..=6 => PortSpec::Named {
            name: random.pick(&PORT_NAMES).to_owned(),
            transport: random.chance(80).then_some(transport),
        },
        _ => {
            let (one, other) = (random.pick(&PORTS), random.pick(&PORTS));
            PortSpec::Range {
                transport,
                first: one.min(other),
                last: if random.chance(50) { one.min(other) } else { one.max(other) },
            }
        }
    }
}

/// A flow that begins or ends at a local workload, or both.
pub fn flow(random: &mut Random, snapshot: &Snapshot, places: &[IpAddr]) -> Flow {
    let keys: Vec<WorkloadKey> = snapshot.local.keys().copied().collect();
    let subject = random.pick(&keys);
    let own: Vec<IpAddr> = snapshot.local[&subject].addresses.keys().copied().collect();
    let own = random.pick(&own);
    let family: Vec<IpAddr> = places.iter().copied().filter(|place| place.is_ipv4() == own.is_ipv4()).collect();
    let peer = if random.chance(6) { own } else { random.pick(&family) };
    let holder = keys.iter().copied().find(|key| snapshot.local[key].addresses.contains_key(&peer));
    let sends = random.chance(50);
    let served = if sends { holder } else { Some(subject) };
    let served = served.and_then(|key| snapshot.local[&key].identity.as_ref());
    let wants = wants(random, own.is_ipv4(), served);
    let from_node = !sends && random.chance(10);
    Flow {
        from: if sends { Some(subject) } else { holder.filter(|_| !from_node) },
        to: if sends { holder } else { Some(subject) },
        source: if sends { own } else { peer },
        destination: if sends { peer } else { own },
        wants,
        from_node,
    }
}

fn wants(random: &mut Random, v4: bool, destination: Option<&Identity>) -> Wants {
    let named: Vec<NamedPort> =
        destination.map_or_else(Vec::new, |destination| destination.ports.values().flatten().copied().collect());
    if !named.is_empty() && random.chance(25) {
        let transport = random.pick(&TRANSPORTS);
        return Wants::Port(transport, random.pick(&named).port);
    }
    match random.below(20) {
        // Neither an error nor neighbour discovery: those are the datapath's own matter.
        0 | 1 => Wants::Icmp(random.pick(if v4 { &[8, 8, 13, 17] } else { &[128, 128, 139, 200] })),
        2 => Wants::Other(random.pick(&[4, 47, 50, 112])),
        _ => Wants::Port(random.pick(&TRANSPORTS), port_near(random)),
    }
}

fn port_near(random: &mut Random) -> u16 {
    let port = random.pick(&PORTS);
    if random.chance(20) { port.wrapping_add(1).max(1) } else { port }
}
