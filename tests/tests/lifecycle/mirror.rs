//! The node is no mirror: what it answers to a stranger who speaks in a workload's name does not reach that workload.

use std::net::IpAddr;
use std::time::Duration;

use enforcer::lab::{Layout, UPLINK};
use enforcer_tests::net::wire::{PATIENCE, Sender, Wire, device};
use enforcer_tests::packet::{Frame, Transport};
use enforcer_tests::stage::Stage;
use enforcer_tests::traffic::nonce;

use super::common::{address, place, policy, rule, stage};
use super::errors::{is_error, unlimited};
use super::pings::answered_by;

/// A request of a stranger, with the workload's address: a ping, and a datagram to a closed port of the node.
fn forged(stage: &Stage, ping: bool, v4: bool, nonce: &[u8]) -> Vec<u8> {
    let (source, destination): (IpAddr, IpAddr) = (address(stage, "a", v4), address(stage, "node", v4));
    let transport =
        if ping { Transport::echo_request(v4, 0x1234) } else { Transport::Udp { source: 4000, destination: 9999 } };
    let macs = [device(stage.lab.node(), UPLINK).unwrap().mac, device(stage.lab.outside(), "eth0").unwrap().mac];
    // Long enough to carry something.
    let payload = [nonce, &[0x41; 300]].concat();
    Frame { macs, payload: &payload, ..Frame::new(source, destination, transport) }.bytes()
}

/// Whether the node's answer to it reaches the workload.
fn mirrors(stage: &Stage, stranger: &Sender, victim: &Wire, ping: bool, v4: bool, patience: Duration) -> bool {
    let nonce = nonce();
    stranger.send(&forged(stage, ping, v4, &nonce)).unwrap();
    victim.wait(patience, |frame| !frame.outgoing && frame.holds(&nonce))
}

fn is_no_mirror(layout: Layout) {
    let mut stage = stage(layout, &["a"]);
    stage.policy("a.yaml", &policy("a", "[ingress, egress]", ""));
    unlimited(&stage, "node");
    let stranger = Sender::open(place(&stage, "outside"), "eth0").unwrap();
    let victim = stage.tap("a");
    let kinds = [(true, true), (true, false), (false, true), (false, false)];
    for (ping, v4) in kinds {
        let came = mirrors(&stage, &stranger, &victim, ping, v4, PATIENCE);
        assert!(came, "{layout:?}, positive control: ping {ping}, IPv4 {v4}");
    }
    stage.start();
    for when in ["the daemon is alive", "the daemon is dead"] {
        for (ping, v4) in kinds {
            let came = mirrors(&stage, &stranger, &victim, ping, v4, Duration::from_millis(400));
            assert!(!came, "{layout:?}, {when}: ping {ping}, IPv4 {v4}");
        }
        if when.ends_with("alive") {
            stage.kill();
        }
    }
}

#[test]
fn the_node_is_no_mirror() {
    is_no_mirror(Layout::Bridged);
    is_no_mirror(Layout::Routed);
}

#[test]
fn who_asks_the_node_is_answered() {
    for layout in [Layout::Bridged, Layout::Routed] {
        let mut stage = stage(layout, &["a"]);
        stage.policy("a.yaml", &policy("a", "[ingress, egress]", &rule("to: anywhere", "icmp, 9999/udp")));
        unlimited(&stage, "node");
        stage.start();
        answered_by(&stage, "allowed", "a", address(&stage, "node", true), 7);
        answered_by(&stage, "allowed", "a", address(&stage, "node", false), 7);
        let victim = stage.tap("a");
        let sender = Sender::open(stage.at("a"), "eth0").unwrap();
        for v4 in [true, false] {
            let route = stage.route("a", None);
            let transport = Transport::Udp { source: 4000, destination: 9999 };
            let (own, node) = (address(&stage, "a", v4), address(&stage, "node", v4));
            let nonce = nonce();
            let asks = Frame { macs: [route.to, route.from], payload: &nonce, ..Frame::new(own, node, transport) };
            sender.send(&asks.bytes()).unwrap();
            let refused = |frame: &enforcer_tests::net::wire::Frame| is_error(frame) && frame.holds(&nonce);
            assert!(
                victim.wait(PATIENCE, |frame| !frame.outgoing && refused(frame)),
                "{layout:?}: the node's error about its datagram, IPv4 {v4}"
            );
        }
    }
}
