//! A container with `CAP_NET_ADMIN` takes addresses of others: it gains nothing, and the owners of the addresses lose
//! nothing.

use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::time::Duration;

use enforcer::lab::Layout;
use enforcer_common::id::{Direction, Ifindex};
use enforcer_common::verdict::Reason;
use enforcer_tests::cases::Port;
use enforcer_tests::net::wire::PATIENCE;
use enforcer_tests::stage::Stage;
use enforcer_tests::traffic::nonce;

use super::common::{Live, check, entry, inventory, passes, policy, rule, stage};

/// Neighbour's, gateway's, remote peer's, off-subnet.
const CLAIMS: [[&str; 2]; 4] = [
    ["10.88.0.10", "fd00:88::10"],
    ["10.88.0.1", "fd00:88::1"],
    ["10.99.0.7", "fd00:99::7"],
    ["172.16.5.5", "fd00:55::5"],
];

#[test]
fn claimed_addresses_gain_nothing_bridged() {
    claims(Layout::Bridged);
}

#[test]
fn claimed_addresses_gain_nothing_routed() {
    claims(Layout::Routed);
}

fn claims(layout: Layout) {
    // `v` is open to `a` and to the remote peer by label and to all claimed addresses that are nobody's; `c` is the thief.
    let mut stage = stage(layout, &["a", "c", "v"]);
    let peer = "  - {name: peer, namespace: t, labels: {app: peer}, match: {address: [10.99.0.7, \"fd00:99::7\"]}}\n";
    let entries = ["a", "c", "v"].map(|name| entry(&stage, name, ""));
    stage.inventory(&inventory(&[entries.concat(), peer.to_owned()]));
    let from = "from: [{workloads: {app: a}}, {workloads: {app: peer}}, {cidr: 172.16.0.0/12}, {cidr: \"fd00:55::/32\"}, \
                {cidr: 10.88.0.1/32}, {cidr: \"fd00:88::1/128\"}]";
    stage.policy("v.yaml", &policy("v", "[ingress]", &rule(from, "any/udp, 7000-7001/tcp")));
    keep_neighbours(&stage, layout);

    claim(&stage, "add");
    for (source, arrived) in sent_as(&stage, 1) {
        assert!(arrived > 0, "positive control: {source}");
    }
    claim(&stage, "del");
    stage.start();
    let kept =
        [passes("a", "v", Port::Udp(7000)), passes("a", "v", Port::Tcp(7000)), passes("v", "a", Port::Udp(7000))];
    check(&stage, "before the theft", &kept);
    let service = [true, false]
        .map(|v4| enforcer_tests::traffic::Service::open(stage.at("v"), stage.address("v", v4), Port::Tcp(7001)));
    let live = [true, false].map(|v4| Live::open(&stage, "a", "v", 7001, v4, Duration::from_millis(20)));

    claim(&stage, "add");
    gains_nothing(&stage, "at once");
    stage.until("the claims are refused and shown", || {
        stage.status().0["report"]["refused_claims"].as_u64().unwrap_or(0) > 0
    });
    gains_nothing(&stage, "known");
    check(&stage, "who is robbed", &kept);
    for flow in &live {
        assert!(flow.goes_on(PATIENCE) && flow.error().is_none(), "the neighbour's flow");
    }
    let own = |name: &str| {
        let ifindex = stage.ifindex(name);
        stage.view().endpoints.iter().find(|endpoint| endpoint.ifindex == Ifindex(ifindex)).unwrap().addresses.clone()
    };
    for address in CLAIMS.iter().flatten() {
        let address: IpAddr = address.parse().unwrap();
        assert!(!own("c").contains(&address.into()), "{address} is not c's");
    }
    for v4 in [true, false] {
        assert!(own("a").contains(&stage.address("a", v4).into()), "a keeps its address");
    }
    stage.until("each is counted", || stage.denied(Direction::Egress, Reason::SpoofedSource) >= 16);
    let record = stage.wait_record("the theft", |record| record.reason == "spoofed-source");
    assert_eq!((record.from.as_str(), record.direction.as_str()), ("t/c", "EGRESS"), "the real sender: {record:#?}");

    stage.kill();
    gains_nothing(&stage, "the daemon is dead");
    stage.start();
    gains_nothing(&stage, "a new daemon");
    check(&stage, "a new daemon", &kept);
    drop(live);
    drop(service);
}

/// Takes the addresses, or gives them back.
fn claim(stage: &Stage, action: &str) {
    for address in CLAIMS.iter().flatten() {
        // The kernel ends even the detection of duplicates that it skips a moment later, and nobody binds to the address before.
        let rest = match (address.contains(':'), action) {
            (false, _) => "32 dev eth0",
            (true, "add") => "128 dev eth0 nodad",
            (true, _) => "128 dev eth0",
        };
        stage.ip(stage.at("c"), &format!("addr {action} {address}/{rest}"));
    }
}

/// What `c` sends to `v` from each claimed address: how much of it arrives, where so much should.
fn sent_as(stage: &Stage, hoped: usize) -> Vec<(IpAddr, usize)> {
    let victim = stage.tap("v");
    let sent: Vec<(IpAddr, [u8; 24])> = CLAIMS
        .iter()
        .flatten()
        .map(|source| {
            let (source, nonce) = (source.parse::<IpAddr>().unwrap(), nonce());
            let target = SocketAddr::new(stage.address("v", source.is_ipv4()), 7000);
            let send = || UdpSocket::bind(SocketAddr::new(source, 0)).unwrap().send_to(&nonce, target).unwrap();
            assert_eq!(stage.at("c").enter(send).unwrap(), nonce.len());
            (source, nonce)
        })
        .collect();
    // The first packet may have to wait for its next hop.
    std::thread::sleep(Duration::from_millis(300));
    sent.into_iter().map(|(source, nonce)| (source, victim.arrives(&nonce, hoped))).collect()
}

fn gains_nothing(stage: &Stage, when: &str) {
    for (source, arrived) in sent_as(stage, 0) {
        assert_eq!(arrived, 0, "{when}: {source}");
    }
}

/// Who answers for an address is another matter than who may send from it.
fn keep_neighbours(stage: &Stage, layout: Layout) {
    if layout == Layout::Bridged {
        for name in ["a", "v"] {
            stage.pin_neighbour(name, stage.lab.node(), "br0");
        }
        stage.pin_neighbour("a", stage.at("v"), "eth0");
        stage.pin_neighbour("v", stage.at("a"), "eth0");
        stage.pin_neighbour("v", stage.at("c"), "eth0");
    }
}
