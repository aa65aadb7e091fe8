//! Pings: a workload that may send requests gets the replies, and the id of its echo lets nothing else pass.

use std::net::{IpAddr, SocketAddr};

use enforcer::lab::Layout;
use enforcer_common::id::Direction;
use enforcer_common::verdict::Reason;
use enforcer_tests::net::wire::{PATIENCE, Sender};
use enforcer_tests::packet::parts::{self, icmp, protocol};
use enforcer_tests::stage::Stage;
use enforcer_tests::traffic::{bound, nonce};
use socket2::{Protocol, Type};

use super::attack::{Attack, arrive, fail, reach};
use super::common::{change, policy, rule, stage};

/// Id of the pings, and one that nobody uses.
const IDS: [u16; 2] = [0x1234, 0x4321];

/// Protocol number and type of an echo request or reply.
fn echo(v4: bool, request: bool) -> (u8, u8) {
    match (v4, request) {
        (true, true) => (protocol::ICMP, 8),
        (true, false) => (protocol::ICMP, 0),
        (false, true) => (protocol::ICMPV6, 128),
        (false, false) => (protocol::ICMPV6, 129),
    }
}

/// What follows the checksum of an echo.
fn rest(id: u16, nonce: &[u8]) -> Vec<u8> {
    [&id.to_be_bytes()[..], &[0, 1], nonce].concat()
}

/// Pings as a program would, in both families; fails unless the answers of the other side's kernel come back.
fn answered(stage: &Stage, when: &str, from: &str, to: &str, id: u16) {
    for v4 in [true, false] {
        answered_by(stage, when, from, stage.address(to, v4), id);
    }
}

/// The same of one address, whosever it is.
pub(crate) fn answered_by(stage: &Stage, when: &str, from: &str, destination: IpAddr, id: u16) {
    let tap = stage.tap(from);
    let v4 = destination.is_ipv4();
    let (source, nonce) = (stage.address(from, v4), nonce());
    let (number, request) = echo(v4, true);
    let send = || {
        // The kernel fills in what ICMPv6 needs of a checksum.
        let socket = bound(source, Type::RAW, Protocol::from(i32::from(number))).unwrap();
        let message = icmp(request, 0, &rest(id, &nonce));
        socket.send_to(&message, &SocketAddr::new(destination, 0).into()).unwrap();
    };
    stage.at(from).enter(send).unwrap();
    let (_, reply) = echo(v4, false);
    let is_reply = |bytes: &[u8]| bytes.first() == Some(&reply);
    let came = tap.wait(PATIENCE, |frame| {
        !frame.outgoing && frame.holds(&nonce) && frame.packet().is_some_and(|packet| is_reply(packet.body))
    });
    assert!(came, "{when}: no answer to {from} from {destination}");
}

/// Echoes of a workload to its neighbour, as raw frames of both families: no program has asked for them.
fn echoes(stage: &Stage, from: &str, to: &str, request: bool, id: u16, direction: Direction) -> Vec<Attack> {
    let route = stage.route(from, Some(to));
    let frame = |v4: bool| {
        let (source, destination): (IpAddr, IpAddr) = (stage.address(from, v4), stage.address(to, v4));
        let (number, kind) = echo(v4, request);
        let name = format!("{} {id:#x} from {source}", if request { "request" } else { "reply" });
        Attack::new(name, direction, Reason::NoRule, |nonce| {
            parts::ip(route, source, destination, number, &icmp(kind, 0, &rest(id, nonce)))
        })
    };
    [true, false].map(frame).into()
}

/// `a` may ping `b`; `isolated` is the one of them that has the policy.
fn one_way(layout: Layout, isolated: &str) {
    let mut stage = stage(layout, &["a", "b", "c"]);
    let (peers, direction) = if isolated == "a" {
        ("to: [{workloads: {app: b}}]", Direction::Ingress)
    } else {
        ("from: [{workloads: {app: a}}]", Direction::Egress)
    };
    stage.policy("policy.yaml", &policy(isolated, "[ingress, egress]", &rule(peers, "icmp")));
    let sender = Sender::open(stage.at("b"), "eth0").unwrap();
    let other = Sender::open(stage.at("c"), "eth0").unwrap();
    let victim = stage.tap("a");
    let forged = |request, id| echoes(&stage, "b", "a", request, id, direction);
    let requests = forged(true, IDS[0]);
    let replies = forged(false, IDS[0]);
    let unasked = forged(false, IDS[1]);
    // Where `b` is the one with the policy, `a` is open to `c`.
    let strangers = if isolated == "a" { echoes(&stage, "c", "a", false, IDS[0], direction) } else { Vec::new() };
    answered(&stage, "positive control", "a", "b", IDS[0]);
    for attacks in [&requests, &replies, &unasked] {
        arrive(&sender, &victim, attacks);
    }
    arrive(&other, &victim, &strangers);
    stage.start();
    for attacks in [&requests, &replies, &unasked] {
        fail(&stage, &format!("{layout:?}, nobody has asked"), &sender, &victim, attacks);
    }
    answered(&stage, "allowed", "a", "b", IDS[0]);
    for when in ["the daemon is alive", "the daemon is dead"] {
        let when = format!("{layout:?}, {when}");
        reach(&when, &sender, &victim, &replies);
        fail(&stage, &when, &sender, &victim, &requests);
        fail(&stage, &when, &sender, &victim, &unasked);
        fail(&stage, &when, &other, &victim, &strangers);
        answered(&stage, &when, "a", "b", IDS[0]);
        if when.ends_with("alive") {
            stage.kill();
        }
    }
}

#[test]
fn who_asks_is_answered_and_is_not_asked_back() {
    one_way(Layout::Bridged, "a");
    one_way(Layout::Routed, "a");
}

#[test]
fn who_is_asked_answers_and_does_not_ask_back() {
    one_way(Layout::Bridged, "b");
    one_way(Layout::Routed, "b");
}

#[test]
fn two_pings_with_one_id_are_two_flows() {
    let mut stage = stage(Layout::Bridged, &["a", "b"]);
    let to = rule("to: [{workloads: {app: b}}]", "icmp");
    let from = rule("from: [{workloads: {app: b}}]", "icmp");
    let both = [to.as_str(), &from].concat();
    let write = |stage: &Stage, allow: &str| stage.policy("a.yaml", &policy("a", "[ingress, egress]", allow));
    write(&stage, &both);
    let senders = ["a", "b"].map(|name| Sender::open(stage.at(name), "eth0").unwrap());
    let taps = ["a", "b"].map(|name| stage.tap(name));
    // Of `b` to what `a` has asked, and of `a` to what `b` has asked.
    let to_a = echoes(&stage, "b", "a", false, IDS[0], Direction::Ingress);
    let to_b = echoes(&stage, "a", "b", false, IDS[0], Direction::Egress);
    arrive(&senders[1], &taps[0], &to_a);
    arrive(&senders[0], &taps[1], &to_b);
    stage.start();
    for (allow, asks, is_closed) in [(&to, "a", "b"), (&from, "b", "a")] {
        // The one whose flow stays asks first, so that the other one's would take a common entry over.
        answered(&stage, "both may ask", asks, is_closed, IDS[0]);
        answered(&stage, "both may ask", is_closed, asks, IDS[0]);
        reach("both have asked", &senders[1], &taps[0], &to_a);
        reach("both have asked", &senders[0], &taps[1], &to_b);
        change(&mut stage, |stage| write(stage, allow));
        let when = format!("only {asks} may ask");
        if asks == "a" {
            reach(&when, &senders[1], &taps[0], &to_a);
            fail(&stage, &when, &senders[0], &taps[1], &to_b);
        } else {
            reach(&when, &senders[0], &taps[1], &to_b);
            fail(&stage, &when, &senders[1], &taps[0], &to_a);
        }
        answered(&stage, &when, asks, is_closed, IDS[0]);
        change(&mut stage, |stage| write(stage, &both));
    }
}
