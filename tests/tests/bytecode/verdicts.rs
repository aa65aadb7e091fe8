//! Tests of every reason and every protocol, in both address families.

use std::net::IpAddr;

use enforcer_common::{
    endpoint::Endpoint,
    id::{Direction, Ifindex, PolicyWord, Revision},
    packet::tcp,
    verdict::{Reason, Verdict},
};
use enforcer_tests::{
    bytecode::scene::{LO, OTHER, Scene, TAP, UPLINK, ip, who},
    packet::{Frame, Transport},
};

use crate::{Both, shapes};

pub(crate) const ALLOW: Verdict = Verdict::Allow;

pub(crate) fn deny(reason: Reason) -> Verdict {
    Verdict::Deny(reason)
}

pub(crate) fn udp(source: u16, destination: u16) -> Transport {
    Transport::Udp { source, destination }
}

fn segment(source: u16, destination: u16, flags: u8) -> Transport {
    Transport::Tcp { source, destination, flags }
}

pub(crate) fn icmp(kind: u8) -> Transport {
    Transport::Icmp { kind, code: 0, rest: [0; 4] }
}

/// What a case says: a sentence, the other side's address, what is carried, and what must happen.
type Case = (&'static str, [&'static str; 2], Transport, Verdict);

fn cases(v4: bool) -> Vec<Case> {
    let no_rule = deny(Reason::NoRule);
    vec![
        ("a rule allows TCP 80", who::FRIEND, Transport::syn(40_000, 80), ALLOW),
        ("no rule allows TCP 81", who::FRIEND, Transport::syn(40_000, 81), no_rule),
        ("nor TCP 80 of somebody else", who::NEIGHBOUR, Transport::syn(40_000, 80), no_rule),
        ("a range is named like an address", who::RANGE, Transport::syn(40_000, 80), ALLOW),
        ("beside the range no rule holds", who::STRANGER, Transport::syn(40_000, 80), no_rule),
        ("a rule allows UDP 53", who::FRIEND, udp(5000, 53), ALLOW),
        ("UDP 80 is not TCP 80", who::FRIEND, udp(5000, 80), no_rule),
        ("the source port opens nothing", who::FRIEND, udp(53, 5000), no_rule),
        ("a rule allows SCTP 81", who::FRIEND, Transport::Sctp { source: 5000, destination: 81, chunk: 1 }, ALLOW),
        ("SCTP 80 is not TCP 80", who::FRIEND, Transport::Sctp { source: 5000, destination: 80, chunk: 1 }, no_rule),
        ("a rule allows echo", who::FRIEND, Transport::echo_request(v4, 9), ALLOW),
        ("of others it does not", who::STRANGER, Transport::echo_request(v4, 9), no_rule),
        ("a rule allows protocol 47", who::FRIEND, Transport::Other(47), ALLOW),
        ("no rule allows protocol 50", who::FRIEND, Transport::Other(50), no_rule),
        (
            "ICMP that makes no state is judged by its type",
            who::FRIEND,
            icmp(if v4 { 13 } else { 200 }),
            if v4 { ALLOW } else { no_rule },
        ),
        ("an error that quotes nothing is judged by its type", who::FRIEND, icmp(if v4 { 3 } else { 1 }), no_rule),
        ("an ACK without state is judged as new", who::FRIEND, segment(40_001, 80, tcp::ACK), ALLOW),
        ("and denied where a SYN would be", who::FRIEND, segment(40_001, 99, tcp::ACK), no_rule),
    ]
}

#[test]
fn policy_decides_in_both_directions_and_families() {
    let Some(mut both) = Both::new(&Scene::default()) else {
        return;
    };
    for family in 0..2 {
        let own = ip(who::WORKLOAD[family]);
        for (why, peer, transport, expected) in cases(family == 0) {
            let peer = ip(peer[family]);
            both.forget_flows();
            let frame = Frame::new(own, peer, transport).bytes();
            assert_eq!(both.sends(&frame), expected, "{why}: sent to {peer}");
            both.forget_flows();
            let frame = Frame::new(peer, own, transport).bytes();
            assert_eq!(both.receives(OTHER, &frame), expected, "{why}: received from {peer}");
        }
    }
}

fn v4(source: &str, destination: &str, transport: Transport) -> Frame<'static> {
    Frame::new(ip(source), ip(destination), transport)
}

#[test]
fn guardrails_come_before_policy() {
    let Some(both) = Both::new(&Scene::default()) else {
        return;
    };
    let [own, own6] = who::WORKLOAD;
    let [friend, friend6] = who::FRIEND;
    let syn = Transport::syn(40_000, 80);
    for (why, source, destination, transport, expected) in [
        ("another's address", friend, friend, syn, deny(Reason::SpoofedSource)),
        ("another's address, IPv6", friend6, friend6, syn, deny(Reason::SpoofedSource)),
        ("nobody's address", "10.0.0.200", friend, syn, deny(Reason::SpoofedSource)),
        ("the node's", who::NODE[0], friend, syn, deny(Reason::SpoofedSource)),
        ("DHCP has no address yet", "0.0.0.0", "255.255.255.255", udp(68, 67), ALLOW),
        ("0.0.0.0 is nobody's beside", "0.0.0.0", friend, udp(68, 68), deny(Reason::SpoofedSource)),
    ] {
        let frame = v4(source, destination, transport).bytes();
        assert_eq!(both.sends(&frame), expected, "{why}");
    }
    for (why, source, destination, from, expected) in [
        ("a bridge flooded it", friend, "10.0.0.99", OTHER, deny(Reason::NotAddressed)),
        ("the same, IPv6", friend6, "fd00::99", OTHER, deny(Reason::NotAddressed)),
        ("multicast is judged", friend, "224.0.0.251", OTHER, ALLOW),
        ("a neighbour does not come in by an uplink", who::NEIGHBOUR[0], own, UPLINK, deny(Reason::SpoofedSource)),
        ("nor does the receiver itself", own, own, UPLINK, deny(Reason::SpoofedSource)),
        ("IPv6 neither", who::NEIGHBOUR[1], own6, UPLINK, deny(Reason::SpoofedSource)),
        ("nor by any other device", who::NEIGHBOUR[0], own, TAP, deny(Reason::SpoofedSource)),
        ("nor from the node", who::NEIGHBOUR[0], own, 0, deny(Reason::SpoofedSource)),
        ("nor does the node send as the receiver", own6, own6, 0, deny(Reason::SpoofedSource)),
        ("by the bridge above it policy judges it", who::NEIGHBOUR[0], own, OTHER, deny(Reason::NoRule)),
        ("an address that a workload shows does, without its rights", who::SHOWN[0], own, UPLINK, deny(Reason::NoRule)),
        ("IPv6 alike", who::SHOWN[1], own6, UPLINK, deny(Reason::NoRule)),
        ("from that workload it has them", who::SHOWN[0], own, OTHER, ALLOW),
        ("in IPv6 too", who::SHOWN[1], own6, OTHER, ALLOW),
        ("a stranger does, and policy judges it", who::STRANGER[0], own, UPLINK, deny(Reason::NoRule)),
        ("the node may always send", who::NODE[0], own, 0, ALLOW),
        ("by ingress_ifindex, not by address", who::NODE[0], own, OTHER, deny(Reason::NoRule)),
    ] {
        let frame = v4(source, destination, Transport::syn(41_000, 80)).bytes();
        assert_eq!(both.receives(from, &frame), expected, "{why}");
    }
}

#[test]
fn routes_may_send_from_what_nobody_has() {
    let mut scene = Scene::default();
    scene.endpoint.flags = [Endpoint::ROUTES; 2];
    let Some(both) = Both::new(&scene) else { return };
    let friend = who::FRIEND[0];
    for (why, source, expected) in [
        ("an address behind it", "172.16.5.5", ALLOW),
        ("not a neighbour's", who::NEIGHBOUR[0], deny(Reason::SpoofedSource)),
        ("not the node's", who::NODE[0], deny(Reason::SpoofedSource)),
        ("not multicast", "224.0.0.1", deny(Reason::SpoofedSource)),
    ] {
        let frame = v4(source, friend, Transport::syn(40_000, 80)).bytes();
        assert_eq!(both.sends(&frame), expected, "{why}");
    }
}

#[test]
fn an_unknown_workload_gets_arp_and_neighbours_only() {
    let mut scene = Scene::default();
    scene.endpoint.flags = [Endpoint::UNKNOWN; 2];
    let Some(both) = Both::new(&scene) else { return };
    let unknown = deny(Reason::UnknownWorkload);
    let own: [IpAddr; 2] = who::WORKLOAD.map(ip);
    let friend = who::FRIEND.map(ip);
    for family in 0..2 {
        let syn = Transport::syn(40_000, 80);
        assert_eq!(both.sends(&Frame::new(own[family], friend[family], syn).bytes()), unknown);
        let frame = Frame::new(friend[family], own[family], syn).bytes();
        assert_eq!(both.receives(OTHER, &frame), unknown);
        assert_eq!(both.receives(0, &frame), unknown, "the node's own packets included");
    }
    let frame = shapes::edited_ethertype(&Frame::new(own[0], friend[0], Transport::Other(0)), [8, 6]);
    assert_eq!(both.sends(&frame), ALLOW);
    let solicitation = Frame { hop_limit: 255, payload: &[0; 16], ..Frame::new(own[1], ip("ff02::1"), icmp(135)) };
    assert_eq!(both.sends(&solicitation.bytes()), ALLOW);
}

#[test]
fn without_policy_or_tables_nothing_passes() {
    let mut scene = Scene { word: PolicyWord::default(), ..Scene::default() };
    let syn = v4(who::WORKLOAD[0], who::FRIEND[0], Transport::syn(1, 80)).bytes();
    let Some(both) = Both::new(&scene) else { return };
    assert_eq!(both.sends(&syn), deny(Reason::NoPolicy));
    scene.word.revision = Revision(2);
    let Some(mut both) = Both::new(&scene) else { return };
    both.node.break_images().unwrap();
    let verdict = both.node.verdict_of(Direction::Egress, LO, &syn).unwrap();
    assert_eq!(verdict, deny(Reason::Internal), "an image of one line answers nothing");
}

#[test]
fn an_endpoint_whose_place_is_taken_is_found() {
    let scene = Scene::default();
    let Some(mut both) = Both::new(&scene) else { return };
    let other = Endpoint { ifindex: Ifindex(LO + 4096), ..Endpoint::FREE };
    both.node.displace_endpoint(&scene.endpoint, &other).unwrap();
    let syn = Transport::syn(40_000, 80);
    assert_eq!(both.sends(&v4(who::WORKLOAD[0], who::FRIEND[0], syn).bytes()), ALLOW);
    assert_eq!(both.sends(&v4(who::WORKLOAD[0], who::STRANGER[0], syn).bytes()), deny(Reason::NoRule));
}
