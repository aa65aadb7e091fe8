//! A workload's own packets pass as policy says, whatever lies between its veth and the stack: two bridges of which one has an
//! uplink as a port, a device that is stacked on a bridge, a routed workload beside bridged ones, a way back by the bridge.

use std::time::Duration;

use enforcer::lab::{Layout, UPLINK};
use enforcer_tests::cases::Port;
use enforcer_tests::net::wire::PATIENCE;
use enforcer_tests::net::{inside, sh};
use enforcer_tests::stage::Stage;

use super::common::{check, control, dropped, entry, inventory, passes, policy, rule, stage};

const SERVICE: Port = Port::Tcp(7000);
const OTHER: Port = Port::Udp(7001);

/// A stage with bridged workloads `a` and `c`, and `b`, whose way leads over a device of its own on the node.
fn two_networks() -> Stage {
    let stage = stage(Layout::Bridged, &["a", "b", "c"]);
    let b = stage.at("b");
    stage.ip(b, "address flush dev eth0 scope global");
    stage.ip(b, "address add 10.88.0.11/32 dev eth0");
    stage.ip(b, "address add fd00:88::11/128 dev eth0 nodad");
    for name in ["a", "c"] {
        stage.ip(stage.at(name), "route add 10.88.0.11/32 via 10.88.0.1");
        stage.ip(stage.at(name), "-6 route add fd00:88::11/128 via fd00:88::1");
    }
    stage
}

/// Leads to `b` over a device of the node.
fn lead(stage: &Stage, device: &str) {
    let node = stage.lab.node();
    stage.ip(node, &format!("address add 169.254.1.1/32 dev {device}"));
    stage.ip(node, &format!("address add fe80::1/64 dev {device} nodad"));
    stage.ip(node, &format!("route add 10.88.0.11/32 dev {device}"));
    stage.ip(node, &format!("-6 route add fd00:88::11/128 dev {device}"));
    stage.ip(stage.at("b"), "route replace default via 169.254.1.1 dev eth0 onlink");
    stage.ip(stage.at("b"), "-6 route replace default via fe80::1 dev eth0");
}

/// Puts `b` behind a bridge of its own.
fn second_bridge(stage: &Stage) {
    let node = stage.lab.node();
    stage.ip(node, "link add name br1 type bridge");
    stage.ip(node, "link set br1 up");
    stage.ip(node, &format!("link set {} master br1", stage.host("b")));
    lead(stage, "br1");
}

/// Makes the uplink a port of the first bridge, which takes over its addresses and routes.
fn uplink_into_bridge(stage: &Stage) {
    let node = stage.lab.node();
    stage.ip(node, &format!("address flush dev {UPLINK}"));
    stage.ip(node, &format!("link set {UPLINK} master br0"));
    stage.ip(node, "address add 100.64.0.1/30 dev br0");
    stage.ip(node, "address add fd00:64::1/126 dev br0 nodad");
    stage.ip(node, "route replace default via 100.64.0.2 dev br0");
    stage.ip(node, "-6 route replace default via fd00:64::2 dev br0");
}

/// What passes by a policy that opens one service of `b` to `a`, and one of `a` to `b`.
fn as_policy_says(stage: &mut Stage) {
    let ways = [("a", "b"), ("b", "a")];
    let wanted: Vec<_> = ways
        .into_iter()
        .flat_map(|(from, to)| [passes(from, to, SERVICE), dropped(from, to, OTHER)])
        .chain([dropped("c", "b", SERVICE), passes("a", "c", SERVICE), passes("b", "c", OTHER)])
        .collect();
    control(stage, &wanted);
    stage.start();
    check(
        stage,
        "without a policy",
        &wanted.iter().map(|flow| super::common::Flow { passes: true, ..*flow }).collect::<Vec<_>>(),
    );
    super::common::change(stage, |stage| {
        for (name, peer) in [("b", "a"), ("a", "b")] {
            let allow = rule(&format!("from: [{{workloads: {{app: {peer}}}}}]"), "7000/tcp");
            stage.policy(&format!("{name}.yaml"), &policy(name, "[ingress]", &allow));
        }
    });
    check(stage, "as policy says", &wanted);
    stage.kill();
    check(stage, "the daemon is dead", &wanted);
}

#[test]
fn between_two_bridges_of_which_one_has_an_uplink_as_a_port() {
    let mut stage = two_networks();
    second_bridge(&stage);
    uplink_into_bridge(&stage);
    as_policy_says(&mut stage);
}

#[test]
fn between_bridged_and_routed_workloads() {
    let mut stage = two_networks();
    stage.ip(stage.lab.node(), &format!("link set {} nomaster", stage.host("b")));
    lead(&stage, stage.host("b"));
    as_policy_says(&mut stage);
}

#[test]
fn by_a_device_that_is_stacked_on_the_bridge() {
    let mut stage = two_networks();
    second_bridge(&stage);
    let node = stage.lab.node();
    // The gateway of the first network lies on the macvlan, so the node gets its packets by that device.
    for (address, length) in [("10.88.0.1", 16), ("fd00:88::1", 64)] {
        stage.ip(node, &format!("address del {address}/{length} dev br0"));
    }
    stage.ip(node, "link add link br0 name stack0 type macvlan mode bridge");
    stage.ip(node, "link set stack0 up");
    stage.ip(node, "address add 10.88.0.1/16 dev stack0");
    stage.ip(node, "address add fd00:88::1/64 dev stack0 nodad");
    // The node routes to the macvlan and no more to the bridge, so the addresses need somebody who gives them.
    let given = |name: &&str| entry(&stage, name, "");
    stage.inventory(&inventory(&["a", "b", "c"].iter().map(given).collect::<Vec<_>>()));
    as_policy_says(&mut stage);
}

#[test]
fn by_the_bridge_back_to_a_neighbour() {
    let mut stage = stage(Layout::Bridged, &["a", "b", "c"]);
    inside(stage.lab.node(), || {
        sh("nft add table inet t");
        sh("nft add chain inet t pre { type nat hook prerouting priority -100 ; }");
        sh("nft add rule inet t pre ip daddr 100.64.0.1 udp dport 8000 dnat ip to 10.88.0.11:7000");
        sh("nft add rule inet t pre ip6 daddr fd00:64::1 udp dport 8000 dnat ip6 to [fd00:88::11]:7000");
    });
    stage.policy("b.yaml", &policy("b", "[ingress]", &rule("from: [{workloads: {app: a}}]", "7000/udp")));
    let tap = stage.tap("b");
    let arrives = |stage: &Stage, from: &str, hoped: bool| {
        let patience = if hoped { PATIENCE } else { Duration::from_millis(500) };
        [("0.0.0.0:0", "100.64.0.1:8000"), ("[::]:0", "[fd00:64::1]:8000")].map(|(own, to)| {
            let nonce = enforcer_tests::traffic::nonce();
            let send = || std::net::UdpSocket::bind(own).unwrap().send_to(&nonce, to).unwrap();
            stage.at(from).enter(send).unwrap();
            tap.wait(patience, |frame| !frame.outgoing && frame.holds(&nonce))
        })
    };
    assert_eq!([arrives(&stage, "a", true), arrives(&stage, "c", true)], [[true; 2]; 2], "positive control");
    stage.start();
    assert_eq!([arrives(&stage, "a", true), arrives(&stage, "c", false)], [[true; 2], [false; 2]], "as policy says");
}
