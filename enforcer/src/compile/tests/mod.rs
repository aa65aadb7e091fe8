//! Tests of images against simple calculations: widths of fields, the budget, and each kind of address.

mod blocks;
mod meets;
mod ranks;
mod shown;

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;

use enforcer_common::decide::decide;
use enforcer_common::id::{Address, Direction, Row};
use enforcer_common::image::{AddressEntry, Header, PortKey, ReadImage as _};
use enforcer_common::verdict::Verdict;
use ipnetwork::IpNetwork;

use super::*;
use crate::policy::model::*;
use crate::policy::origin::Origin;
use crate::resolve::{DecidedBy, Service, resolve};
use crate::workload::model::{
    Identity, Labels, LocalWorkload, NamedPort, Past, RemoteWorkload, Snapshot, Vouched, Voucher, WorkloadKey,
    WorkloadName, given_by,
};

const WEB: WorkloadKey = WorkloadKey(1);

fn place() -> Origin {
    Origin::line("shop.yaml", 1)
}

fn identity(namespace: &str, name: &str) -> Identity {
    Identity {
        name: WorkloadName { namespace: namespace.to_owned(), name: name.to_owned() },
        labels: Labels::from([("app".to_owned(), name.to_owned())]).into(),
        ports: BTreeMap::new(),
    }
}

fn local(identity: Option<Identity>, addresses: &[&str]) -> LocalWorkload {
    LocalWorkload {
        identity,
        addresses: given_by("the inventory", addresses.iter().map(|address| address.parse().unwrap())),
        disputed: Vouched::new(),
        endpoints: BTreeMap::new(),
        routes: false,
        disagrees: false,
        foreign: BTreeMap::new(),
        past: Past::default(),
    }
}

fn snapshot() -> Snapshot {
    Snapshot {
        local: BTreeMap::from([(WEB, local(Some(identity("shop", "web")), &["10.0.0.1", "fd00::1"]))]),
        ..Snapshot::default()
    }
}

fn policy(name: &str, ingress: Vec<Rule>, egress: Vec<Rule>) -> Policy {
    Policy {
        kind: PolicyKind::NetworkPolicy,
        namespace: "shop".to_owned(),
        name: name.to_owned(),
        at: place(),
        tier: Tier::NetworkPolicy,
        priority: Priority::HIGHEST,
        subject: LabelSelector::default(),
        isolates_ingress: true,
        isolates_egress: !egress.is_empty(),
        ingress,
        egress,
    }
}

fn rule(peers: Peers, ports: Ports) -> Rule {
    Rule { at: place(), action: Action::Allow, peers, ports }
}

fn cidr(cidr: &str, except: &[&str]) -> Peer {
    Peer::Cidr { cidr: cidr.parse().unwrap(), except: except.iter().map(|part| part.parse().unwrap()).collect() }
}

fn everyone() -> Peer {
    Peer::Workloads {
        namespaces: NamespaceScope::Matching(LabelSelector::default()),
        workloads: LabelSelector::default(),
    }
}

fn tcp(first: u16, last: u16) -> Ports {
    Ports::Only(vec![PortSpec::Range { transport: Transport::Tcp, first, last }])
}

fn image_of(policies: Vec<Policy>, snapshot: Snapshot) -> Image {
    compile(&resolve(Arc::new(PolicySet::from_iter(policies)), Arc::new(snapshot))).unwrap()
}

fn allows(image: &Image, direction: Direction, peer: &str, key: PortKey) -> bool {
    let peer = Address::from(peer.parse::<IpAddr>().unwrap());
    let row = image.row(WEB, direction);
    decide(image, row, &peer, image.address(&peer), key) == Verdict::Allow
}

#[test]
fn no_policy_no_row_but_every_address() {
    let image = image_of(Vec::new(), snapshot());
    assert_eq!(image.row(WEB, Direction::Ingress), Row::NOT_ISOLATED);
    let entry = image.address(&"10.0.0.1".parse::<IpAddr>().unwrap().into());
    assert!(entry.is_some_and(AddressEntry::is_local));
    assert!(allows(&image, Direction::Ingress, "192.0.2.1", PortKey::tcp(22)));
    assert_eq!(image.row(WorkloadKey(9), Direction::Ingress), Row::NONE);
}

#[test]
fn equal_inputs_give_equal_images() {
    let policies = || {
        let ports: Vec<Rule> = (0..300)
            .map(|n| rule(Peers::Only(vec![cidr(&format!("10.{}.0.0/16", n % 250), &[])]), tcp(n, n + 7)))
            .collect();
        vec![policy("a", ports, Vec::new()), policy("b", vec![rule(Peers::Any, tcp(1, 2))], Vec::new())]
    };
    assert_eq!(image_of(policies(), snapshot()), image_of(policies(), snapshot()));
}

#[test]
fn what_selectors_may_not_see() {
    let mut snapshot = snapshot();
    let mut disputing = local(Some(identity("shop", "api")), &["10.0.0.2"]);
    disputing.disputed.insert("10.0.0.9".parse().unwrap(), Voucher::HostRoute);
    snapshot.local.insert(WorkloadKey(2), disputing);
    snapshot.local.insert(WorkloadKey(3), local(None, &["10.0.0.3"]));
    let remote = |name: &str, addresses: &[&str]| {
        let addresses = addresses.iter().map(|address| address.parse().unwrap()).collect();
        Arc::new(RemoteWorkload { identity: identity("shop", name), addresses })
    };
    snapshot.remote =
        vec![remote("far", &["10.1.0.1", "10.1.0.7", "10.0.0.3"]), remote("twin", &["10.1.0.7", "10.2.0.1"])];
    snapshot.node = BTreeSet::from(["10.2.0.1".parse().unwrap(), "10.2.0.2".parse().unwrap()]);
    let rules = vec![
        rule(Peers::Only(vec![everyone()]), tcp(80, 80)),
        rule(Peers::Only(vec![cidr("10.0.0.0/8", &[])]), tcp(81, 81)),
    ];
    let image = image_of(vec![policy("p", rules, Vec::new())], snapshot);
    for (peer, by_selector, is_local, is_node, why) in [
        ("10.0.0.2", true, true, false, "a named local workload"),
        ("10.0.0.9", false, true, false, "a disputed address"),
        ("10.0.0.3", false, true, false, "an unknown workload, whatever a file says of its address"),
        ("10.1.0.1", true, false, false, "a named remote workload"),
        ("10.1.0.7", false, false, false, "an address that two remote workloads claim"),
        ("10.2.0.1", false, false, true, "a workload on the node's own address"),
        ("10.2.0.2", false, false, true, "the node"),
        ("10.3.0.1", false, false, false, "a stranger"),
    ] {
        assert_eq!(allows(&image, Direction::Ingress, peer, PortKey::tcp(80)), by_selector, "{why}: selector");
        assert!(allows(&image, Direction::Ingress, peer, PortKey::tcp(81)), "{why}: CIDR");
        let entry = image.address(&peer.parse::<IpAddr>().unwrap().into());
        assert_eq!(entry.is_some_and(AddressEntry::is_local), is_local, "{why}: local");
        assert_eq!(entry.is_some_and(AddressEntry::is_node), is_node, "{why}: node");
    }
}

#[test]
fn named_ports_are_those_of_the_destination() {
    let mut snapshot = snapshot();
    let serving = |name: &str, protocol, port| {
        let mut identity = identity("shop", name);
        identity.ports.insert("http".to_owned(), BTreeSet::from([NamedPort { protocol, port }]));
        identity
    };
    snapshot.local.insert(WEB, local(Some(serving("web", 6, 80)), &["10.0.0.1"]));
    snapshot.local.insert(WorkloadKey(2), local(Some(serving("api", 6, 8080)), &["10.0.0.2"]));
    snapshot.local.insert(WorkloadKey(3), local(Some(serving("dns", 17, 53)), &["10.0.0.3"]));
    let named = |peers| {
        rule(peers, Ports::Only(vec![PortSpec::Named { name: "http".to_owned(), transport: Some(Transport::Tcp) }]))
    };
    let block = Peers::Only(vec![cidr("10.0.0.0/30", &[])]);
    let image = image_of(vec![policy("p", vec![named(Peers::Any)], vec![named(block)])], snapshot);
    for (direction, peer, key, allowed, why) in [
        (Direction::Ingress, "192.0.2.1", PortKey::tcp(80), true, "the selected workload's own number"),
        (Direction::Ingress, "10.0.0.2", PortKey::tcp(8080), false, "not the peer's number"),
        (Direction::Egress, "10.0.0.2", PortKey::tcp(8080), true, "the peer's number"),
        (Direction::Egress, "10.0.0.2", PortKey::tcp(80), false, "not the workload's own number"),
        (Direction::Egress, "10.0.0.3", PortKey::udp(53), false, "the name stands for another protocol"),
        (Direction::Egress, "10.0.0.0", PortKey::tcp(8080), false, "a stranger has no names"),
    ] {
        assert_eq!(allows(&image, direction, peer, key), allowed, "{why}");
    }
}

#[test]
fn the_first_rule_by_name_is_named() {
    let open = || vec![rule(Peers::Any, tcp(80, 80)), rule(Peers::Any, Ports::Any)];
    let policies = vec![policy("z", open(), Vec::new()), policy("a", open(), Vec::new())];
    let resolved = resolve(Arc::new(PolicySet::from_iter(policies)), Arc::new(snapshot()));
    let by = |peer: &str, service| resolved.decide(WEB, Direction::Ingress, peer.parse().unwrap(), service).by;
    let rule = |place| RuleRef { policy: PolicyRef(1), direction: Direction::Ingress, place };
    let web = Service::Transport(Transport::Tcp, 80);
    assert_eq!(by("192.0.2.1", web), DecidedBy::Rule(rule(0)));
    assert_eq!(by("192.0.2.1", Service::Other(47)), DecidedBy::Rule(rule(1)));
    assert_eq!(by("10.0.0.1", web), DecidedBy::Itself);
    let by = resolved.decide(WEB, Direction::Egress, "192.0.2.1".parse().unwrap(), web).by;
    assert_eq!(by, DecidedBy::NotIsolated);
}

#[test]
fn every_isolating_policy_is_named() {
    let policies = ["z", "a", "m"].map(|name| policy(name, Vec::new(), Vec::new())).to_vec();
    let resolved = resolve(Arc::new(PolicySet::from_iter(policies)), Arc::new(snapshot()));
    let web = Service::Transport(Transport::Tcp, 80);
    let decision = resolved.decide(WEB, Direction::Ingress, "192.0.2.1".parse().unwrap(), web);
    assert_eq!(decision.by, DecidedBy::Isolated { policies: [1, 2, 0].map(PolicyRef).to_vec() });
    let decision = resolved.decide(WorkloadKey(7), Direction::Ingress, "192.0.2.1".parse().unwrap(), web);
    assert_ne!(decision.verdict, Verdict::Allow, "nobody knows it");
}

#[test]
fn widths_follow_the_counts() {
    let each_port =
        |count: u16| (1..=count).map(|port| rule(Peers::Only(vec![cidr("10.0.0.0/8", &[])]), tcp(port, port)));
    let merged = |rules: Vec<Rule>| vec![policy("p", rules, Vec::new())];
    let narrow = image_of(merged(each_port(200).collect()), snapshot());
    assert_eq!(narrow.header().unwrap().flags, 0);
    let apart = |port: u16| {
        let block = IpNetwork::new(Ipv4Addr::from(0x1400_0000 + u32::from(port) * 256).into(), 24).unwrap();
        let peer = Peer::Cidr { cidr: block, except: Vec::new() };
        rule(Peers::Only(vec![peer]), tcp(port, port))
    };
    let wide = image_of(merged((1..=600).map(apart).collect()), snapshot());
    assert_eq!(wide.header().unwrap().flags, Header::WIDE_PORTS);
    for port in [1_u16, 256, 257, 600] {
        let peer = Ipv4Addr::from(0x1400_0000 + u32::from(port) * 256 + 5).to_string();
        assert!(allows(&wide, Direction::Ingress, &peer, PortKey::tcp(port)));
        assert!(!allows(&wide, Direction::Ingress, &peer, PortKey::tcp(port + 1)));
    }
}

#[test]
fn more_than_65536_vectors_take_four_bytes() {
    // Each block gets its own set of 17 ports: its number in binary.
    let bits = |number: u32| {
        let ports = (0..17_u16).filter(|bit| number >> bit & 1 == 1).map(|bit| PortSpec::Range {
            transport: Transport::Tcp,
            first: 1000 + bit * 2,
            last: 1000 + bit * 2,
        });
        let block = IpNetwork::new(Ipv4Addr::from(0x1400_0000 + number * 256).into(), 24).unwrap();
        let peer = Peer::Cidr { cidr: block, except: Vec::new() };
        rule(Peers::Only(vec![peer]), Ports::Only(ports.collect()))
    };
    let image = image_of(vec![policy("p", (1..70_000).map(bits).collect(), Vec::new())], snapshot());
    assert_eq!(image.header().unwrap().flags, Header::WIDE_VECTORS);
    assert_eq!(super::bytes(&image.header().unwrap()), image.sizes.bytes());
    for number in [1_u32, 65_535, 65_536, 69_999] {
        let peer = Ipv4Addr::from(0x1400_0000 + number * 256 + 9).to_string();
        for bit in 0..17 {
            let key = PortKey::tcp(1000 + bit * 2);
            assert_eq!(allows(&image, Direction::Ingress, &peer, key), number >> bit & 1 == 1);
        }
    }
}

/// `count` blocks, each with a port of its own: vectors x port classes is `count` squared.
fn apart(count: u32) -> Result<Image, CompileError> {
    let rules = (1..=count).map(|number| {
        let cidr = IpNetwork::new(Ipv4Addr::from(0x1400_0000 + number * 256).into(), 24).unwrap();
        let peer = Peer::Cidr { cidr, except: Vec::new() };
        rule(Peers::Only(vec![peer]), tcp(number as u16, number as u16))
    });
    let policies = vec![policy("p", rules.collect(), Vec::new())];
    compile(&resolve(Arc::new(PolicySet::from_iter(policies)), Arc::new(snapshot())))
}

#[test]
fn what_passes_the_budget_is_refused_with_numbers() {
    let Err(CompileError::Budget { bytes, budget, sizes }) = apart(9_000) else {
        panic!("81 MB of vectors pass 64 MiB");
    };
    assert_eq!((sizes.port_classes, sizes.vectors, sizes.rows), (9_001, 9_001, 1));
    assert!(bytes > 9_001 * 9_001 && bytes < 9_001 * 9_001 + (2 << 20), "{bytes}");
    assert_eq!(budget, 64 << 20);
}

#[test]
fn what_passes_it_by_far_is_not_counted_to_the_end() {
    let Err(CompileError::FarTooLarge { at_least, sizes, .. }) = apart(20_000) else {
        panic!("400 MB of vectors pass 128 MiB");
    };
    assert!(at_least > 128 << 20 && sizes.vectors < 10_000, "{at_least} {sizes}");
}

#[test]
fn an_image_as_text() {
    let mut snapshot = snapshot();
    snapshot.local.insert(WorkloadKey(2), local(Some(identity("pay", "db")), &["10.0.0.2"]));
    snapshot.node.insert("10.0.0.254".parse().unwrap());
    let ingress = vec![
        rule(Peers::Only(vec![everyone()]), tcp(80, 81)),
        rule(Peers::Only(vec![cidr("10.0.0.0/8", &["10.0.0.128/25"])]), Ports::Only(vec![PortSpec::Icmp])),
        rule(Peers::Only(vec![cidr("2001:db8::/32", &[])]), Ports::Any),
    ];
    let egress = vec![rule(Peers::Any, Ports::Only(vec![PortSpec::Every(Transport::Udp)]))];
    insta::assert_snapshot!(dump(&image_of(vec![policy("p", ingress, egress)], snapshot)));
}
