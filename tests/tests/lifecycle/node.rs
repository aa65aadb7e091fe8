//! The node and its workloads (D3): what the node sends to them passes, and what they send to the node is judged.

use std::net::IpAddr;
use std::process::Command;

use enforcer::lab::Layout;
use enforcer_tests::cases::Port;

use super::common::{check, control, dropped, passes, policy, rule, stage};

#[test]
fn the_node_reaches_closed_workloads_and_they_are_judged() {
    let mut stage = stage(Layout::Bridged, &["a", "b"]);
    let to_node = "to: [{cidr: 100.64.0.1/32}, {cidr: \"fd00:64::1/128\"}]";
    stage.policy("a.yaml", &policy("a", "[ingress, egress]", ""));
    stage.policy("b.yaml", &policy("b", "[ingress, egress]", &rule(to_node, "53/udp")));
    let flows = [
        passes("node", "a", Port::Tcp(7000)),
        passes("node", "a", Port::Udp(7000)),
        passes("node", "b", Port::Icmp),
        dropped("a", "node", Port::Tcp(7000)),
        dropped("a", "node", Port::Udp(53)),
        dropped("a", "node", Port::Icmp),
        passes("b", "node", Port::Udp(53)),
        dropped("b", "node", Port::Tcp(53)),
        dropped("a", "b", Port::Udp(53)),
        dropped("outside", "a", Port::Tcp(7000)),
    ];
    control(&stage, &flows);
    stage.start();
    check(&stage, "the daemon is alive", &flows);
    stage.kill();
    check(&stage, "the daemon is dead", &flows);
}

#[test]
fn masqueraded_packets_are_not_the_nodes_own() {
    let mut stage = stage(Layout::Bridged, &["a", "b"]);
    stage.policy(
        "b.yaml",
        &policy("b", "[ingress]", &rule("from: [{cidr: 192.0.2.7/32}, {cidr: \"2001:db8::7/128\"}]", "any/udp")),
    );
    let rules = "add table inet nat; add chain inet nat post { type nat hook postrouting priority 100; }; \
                 add rule inet nat post oifname br0 masquerade";
    let nft = || Command::new("nft").arg(rules).output().unwrap();
    let output = stage.lab.node().enter(nft).unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let flow = [dropped("outside", "b", Port::Udp(7000))];
    let tap = stage.tap("b");
    control(&stage, &flow);
    let node: [IpAddr; 2] = ["10.88.0.1", "fd00:88::1"].map(|address| address.parse().unwrap());
    let from_node =
        tap.count(|frame| frame.packet().is_some_and(|packet| packet.protocol == 17 && node.contains(&packet.source)));
    assert_eq!(from_node, 2, "positive control: they carry the node's address");
    stage.start();
    check(&stage, "the rule is for the outside's address, and these have the node's", &flow);
    check(&stage, "the node itself", &[passes("node", "b", Port::Udp(7000))]);
}
