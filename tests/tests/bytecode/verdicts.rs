//! Every reason and every protocol, in both families.

use std::net::IpAddr;

use enforcer_common::{
    datapath::Meta,
    endpoint::Endpoint,
    id::{Direction, PolicyWord},
    packet::tcp,
    verdict::{Reason, Verdict},
};
use enforcer_tests::{
    bytecode::scene::{LO, OTHER, Scene, UPLINK, ip, who},
    packet::{Frame, Transport},
};

use crate::Both;

const ALLOW: Verdict = Verdict::Allow;
const META: Meta = Meta {
    ifindex: LO,
    ingress_ifindex: LO,
    vlan: false,
};

fn deny(reason: Reason) -> Verdict {
    Verdict::Deny(reason)
}

fn udp(source: u16, destination: u16) -> Transport {
    Transport::Udp { source, destination }
}

fn segment(source: u16, destination: u16, flags: u8) -> Transport {
    Transport::Tcp {
        source,
        destination,
        flags,
    }
}

fn icmp(kind: u8) -> Transport {
    Transport::Icmp {
        kind,
        code: 0,
        rest: [0; 4],
    }
}

/// What a case says: a sentence, the other side's address, what is carried, and what must happen.
type Case = (&'static str, [&'static str; 2], Transport, Verdict);

fn cases(v4: bool) -> Vec<Case> {
    let no_rule = deny(Reason::NoRule);
    vec![
        ("a rule allows TCP 80", who::FRIEND, Transport::syn(40_000, 80), ALLOW),
        (
            "no rule allows TCP 81",
            who::FRIEND,
            Transport::syn(40_000, 81),
            no_rule,
        ),
        (
            "nor TCP 80 of somebody else",
            who::NEIGHBOUR,
            Transport::syn(40_000, 80),
            no_rule,
        ),
        (
            "a range is named like an address",
            who::RANGE,
            Transport::syn(40_000, 80),
            ALLOW,
        ),
        (
            "beside the range no rule holds",
            who::STRANGER,
            Transport::syn(40_000, 80),
            no_rule,
        ),
        ("a rule allows UDP 53", who::FRIEND, udp(5000, 53), ALLOW),
        ("UDP 80 is not TCP 80", who::FRIEND, udp(5000, 80), no_rule),
        ("the source port opens nothing", who::FRIEND, udp(53, 5000), no_rule),
        (
            "a rule allows SCTP 81",
            who::FRIEND,
            Transport::Sctp {
                source: 5000,
                destination: 81,
                chunk: 1,
            },
            ALLOW,
        ),
        (
            "SCTP 80 is not TCP 80",
            who::FRIEND,
            Transport::Sctp {
                source: 5000,
                destination: 80,
                chunk: 1,
            },
            no_rule,
        ),
        ("a rule allows echo", who::FRIEND, Transport::echo_request(v4, 9), ALLOW),
        (
            "of others it does not",
            who::STRANGER,
            Transport::echo_request(v4, 9),
            no_rule,
        ),
        ("a rule allows protocol 47", who::FRIEND, Transport::Other(47), ALLOW),
        ("no rule allows protocol 50", who::FRIEND, Transport::Other(50), no_rule),
        (
            "ICMP that makes no state is judged by its type",
            who::FRIEND,
            icmp(if v4 { 13 } else { 200 }),
            if v4 { ALLOW } else { no_rule },
        ),
        (
            "an error that quotes nothing is judged by its type",
            who::FRIEND,
            icmp(if v4 { 3 } else { 1 }),
            no_rule,
        ),
        (
            "an ACK without state is judged as new",
            who::FRIEND,
            segment(40_001, 80, tcp::ACK),
            ALLOW,
        ),
        (
            "and denied where a SYN would be",
            who::FRIEND,
            segment(40_001, 99, tcp::ACK),
            no_rule,
        ),
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
        (
            "another's address, IPv6",
            friend6,
            friend6,
            syn,
            deny(Reason::SpoofedSource),
        ),
        (
            "nobody's address",
            "10.0.0.200",
            friend,
            syn,
            deny(Reason::SpoofedSource),
        ),
        ("the node's", who::NODE[0], friend, syn, deny(Reason::SpoofedSource)),
        (
            "DHCP has no address yet, policy judges it",
            "0.0.0.0",
            "255.255.255.255",
            udp(68, 67),
            deny(Reason::NoRule),
        ),
        (
            "0.0.0.0 is nobody's beside",
            "0.0.0.0",
            friend,
            udp(68, 68),
            deny(Reason::SpoofedSource),
        ),
    ] {
        let frame = v4(source, destination, transport).bytes();
        assert_eq!(both.sends(&frame), expected, "{why}");
    }
    for (why, source, destination, from, expected) in [
        (
            "a bridge flooded it",
            friend,
            "10.0.0.99",
            OTHER,
            deny(Reason::NotAddressed),
        ),
        ("the same, IPv6", friend6, "fd00::99", OTHER, deny(Reason::NotAddressed)),
        ("multicast is judged", friend, "224.0.0.251", OTHER, ALLOW),
        (
            "a neighbour does not come in by an uplink",
            who::NEIGHBOUR[0],
            own,
            UPLINK,
            deny(Reason::SpoofedFromUplink),
        ),
        (
            "nor does the receiver itself",
            own,
            own,
            UPLINK,
            deny(Reason::SpoofedFromUplink),
        ),
        (
            "IPv6 neither",
            who::NEIGHBOUR[1],
            own6,
            UPLINK,
            deny(Reason::SpoofedFromUplink),
        ),
        (
            "a stranger does, and policy judges it",
            who::STRANGER[0],
            own,
            UPLINK,
            deny(Reason::NoRule),
        ),
        ("the node may always send", who::NODE[0], own, 0, ALLOW),
        (
            "by ingress_ifindex, not by address",
            who::NODE[0],
            own,
            OTHER,
            deny(Reason::NoRule),
        ),
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

/// An IPv6 extension header of eight bytes.
const EIGHT: &[u8] = &[0, 0, 1, 4, 0, 0, 0, 0];

#[test]
fn what_cannot_be_parsed_is_dropped_by_its_reason() {
    let Some(both) = Both::new(&Scene::default()) else {
        return;
    };
    let [own, own6] = who::WORKLOAD.map(ip);
    let [friend, friend6] = who::FRIEND.map(ip);
    let syn = Transport::syn(40_000, 80);
    let plain = Frame::new(own, friend, syn);
    let plain6 = Frame::new(own6, friend6, syn);
    let edited = |frame: &Frame<'_>, at: usize, byte: u8| {
        let mut bytes = frame.bytes();
        bytes[at] = byte;
        bytes
    };
    let cut = |frame: &Frame<'_>, length: usize| {
        let mut bytes = frame.bytes();
        bytes.truncate(length);
        bytes
    };
    let six: Vec<(u8, &[u8])> = vec![(60, EIGHT); 6];
    let seven: Vec<(u8, &[u8])> = vec![(60, EIGHT); 7];
    let with = |extensions| {
        Frame {
            extensions,
            ..plain6.clone()
        }
        .bytes()
    };
    let mut total_too_small = plain.bytes();
    total_too_small[16..18].copy_from_slice(&[0, 19]);
    // BPF_PROG_TEST_RUN itself refuses these two.
    for (why, frame) in [
        ("a cut IPv4 header", cut(&plain, 33)),
        ("a cut IPv6 header", cut(&plain6, 53)),
    ] {
        let (verdict, _) = both.memory.judge(Direction::Egress, &META, &frame);
        assert_eq!(verdict, deny(Reason::IpMalformed), "{why}");
    }
    let accelerated = Meta { vlan: true, ..META };
    let (verdict, _) = both.memory.judge(Direction::Egress, &accelerated, &plain.bytes());
    assert_eq!(verdict, deny(Reason::Vlan), "an accelerated tag");
    let table: Vec<(&str, Vec<u8>, Verdict)> = vec![
        ("a whole frame", plain.bytes(), ALLOW),
        ("a whole frame, IPv6", plain6.bytes(), ALLOW),
        ("shorter than it says", cut(&plain, 50), deny(Reason::IpMalformed)),
        (
            "a total length under the header's",
            total_too_small,
            deny(Reason::IpMalformed),
        ),
        ("version 5", edited(&plain, 14, 0x55), deny(Reason::IpMalformed)),
        ("version 7", edited(&plain6, 14, 0x70), deny(Reason::IpMalformed)),
        (
            "a header of 16 bytes",
            edited(&plain, 14, 0x44),
            deny(Reason::IpMalformed),
        ),
        (
            "IPv4 options",
            Frame {
                options: &[1, 1, 1, 1],
                ..plain.clone()
            }
            .bytes(),
            deny(Reason::IpOptions),
        ),
        (
            "a first fragment",
            Frame {
                fragment: 0x2000,
                ..plain.clone()
            }
            .bytes(),
            deny(Reason::Fragment),
        ),
        (
            "a later fragment",
            Frame {
                fragment: 0x0003,
                ..plain.clone()
            }
            .bytes(),
            deny(Reason::Fragment),
        ),
        (
            "don't-fragment is none",
            Frame {
                fragment: 0x4000,
                ..plain.clone()
            }
            .bytes(),
            ALLOW,
        ),
        ("hop-by-hop options first", with(&[(0, EIGHT)]), ALLOW),
        (
            "hop-by-hop options later",
            with(&[(60, EIGHT), (0, EIGHT)]),
            deny(Reason::ExtensionHeader),
        ),
        ("a routing header", with(&[(43, EIGHT)]), deny(Reason::ExtensionHeader)),
        ("six extension headers", with(&six), ALLOW),
        ("seven", with(&seven), deny(Reason::ExtensionHeader)),
        ("an atomic fragment", with(&[(44, &[0; 8])]), ALLOW),
        (
            "a fragment that is not atomic",
            with(&[(44, &[0, 0, 0, 1, 0, 0, 0, 0])]),
            deny(Reason::Fragment),
        ),
        (
            "an extension header that runs out",
            with(&[(60, &[0, 200, 0, 0, 0, 0, 0, 0])]),
            deny(Reason::ExtensionHeader),
        ),
        ("TCP data offset 4", edited(&plain, 46, 0x40), deny(Reason::L4Short)),
        (
            "TCP data offset beyond the segment",
            edited(&plain, 46, 0xf0),
            deny(Reason::L4Short),
        ),
        (
            "UDP length over the packet's",
            edited(&Frame::new(own, friend, udp(5000, 53)), 38, 1),
            deny(Reason::L4Short),
        ),
        (
            "an 802.1Q tag",
            Frame {
                tags: &[(0x8100, 5)],
                ..plain.clone()
            }
            .bytes(),
            deny(Reason::Vlan),
        ),
        (
            "an 802.1ad tag",
            Frame {
                tags: &[(0x88a8, 5)],
                ..plain.clone()
            }
            .bytes(),
            deny(Reason::Vlan),
        ),
        ("LLDP", edited_ethertype(&plain, [0x88, 0xcc]), deny(Reason::Ethertype)),
        ("ARP", edited_ethertype(&plain, [0x08, 0x06]), ALLOW),
    ];
    for (why, frame, expected) in table {
        assert_eq!(both.sends(&frame), expected, "{why}");
    }
}

fn edited_ethertype(frame: &Frame<'_>, ethertype: [u8; 2]) -> Vec<u8> {
    let mut bytes = frame.bytes();
    bytes[12..14].copy_from_slice(&ethertype);
    bytes
}

#[test]
fn neighbour_discovery_passes_within_its_bounds() {
    let Some(both) = Both::new(&Scene::default()) else {
        return;
    };
    let [_, own6] = who::WORKLOAD;
    let nd = |kind: u8, source: &str, destination: &str, hop_limit: u8, payload: &[u8]| {
        Frame {
            hop_limit,
            payload,
            ..Frame::new(ip(source), ip(destination), icmp(kind))
        }
        .bytes()
    };
    let target = [0u8; 16];
    let long = [0u8; 200];
    for (why, frame, expected) in [
        ("a solicitation", nd(135, own6, "ff02::1:ff00:3", 255, &target), ALLOW),
        (
            "an advertisement to the node",
            nd(136, own6, who::NODE[1], 255, &target),
            ALLOW,
        ),
        ("to a neighbour", nd(136, own6, who::NEIGHBOUR[1], 255, &target), ALLOW),
        (
            "to a stranger",
            nd(135, own6, who::STRANGER[1], 255, &target),
            deny(Reason::NoRule),
        ),
        (
            "forwarded",
            nd(135, own6, "ff02::1", 254, &target),
            deny(Reason::NoRule),
        ),
        ("too long", nd(135, own6, "ff02::1", 255, &long), deny(Reason::NoRule)),
        (
            "with a claimed address",
            nd(136, who::FRIEND[1], "ff02::1", 255, &target),
            deny(Reason::SpoofedSource),
        ),
        (
            "duplicate address detection",
            nd(135, "::", "ff02::1:ff00:2", 255, &target),
            ALLOW,
        ),
        (
            "a router advertisement",
            nd(134, own6, "ff02::1", 255, &target),
            deny(Reason::RouterAdvertisement),
        ),
        (
            "a redirect",
            nd(137, own6, who::NEIGHBOUR[1], 255, &target),
            deny(Reason::RouterAdvertisement),
        ),
        (
            "a report of group members is judged",
            nd(143, "::", "ff02::16", 1, &target),
            deny(Reason::NoRule),
        ),
    ] {
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
        assert_eq!(
            both.sends(&Frame::new(own[family], friend[family], syn).bytes()),
            unknown
        );
        let frame = Frame::new(friend[family], own[family], syn).bytes();
        assert_eq!(both.receives(OTHER, &frame), unknown);
        assert_eq!(both.receives(0, &frame), unknown, "the node's own packets included");
    }
    let frame = edited_ethertype(&Frame::new(own[0], friend[0], Transport::Other(0)), [8, 6]);
    assert_eq!(both.sends(&frame), ALLOW);
    let solicitation = Frame {
        hop_limit: 255,
        payload: &[0; 16],
        ..Frame::new(own[1], ip("ff02::1"), icmp(135))
    };
    assert_eq!(both.sends(&solicitation.bytes()), ALLOW);
}

#[test]
fn without_policy_or_tables_nothing_passes() {
    let mut scene = Scene {
        word: PolicyWord::default(),
        ..Scene::default()
    };
    let syn = v4(who::WORKLOAD[0], who::FRIEND[0], Transport::syn(1, 80)).bytes();
    let Some(both) = Both::new(&scene) else { return };
    assert_eq!(both.sends(&syn), deny(Reason::NoPolicy));
    scene.word.revision = 2;
    let Some(mut both) = Both::new(&scene) else { return };
    both.node.break_images().unwrap();
    let verdict = both.node.judge(Direction::Egress, LO, &syn).unwrap();
    assert_eq!(verdict, deny(Reason::Internal), "an image of one line answers nothing");
}

#[test]
fn an_endpoint_whose_place_is_taken_is_found() {
    let scene = Scene::default();
    let Some(mut both) = Both::new(&scene) else { return };
    let other = Endpoint {
        ifindex: LO + 4096,
        ..Endpoint::FREE
    };
    both.node.displace_endpoint(&scene.endpoint, &other).unwrap();
    let syn = Transport::syn(40_000, 80);
    assert_eq!(both.sends(&v4(who::WORKLOAD[0], who::FRIEND[0], syn).bytes()), ALLOW);
    assert_eq!(
        both.sends(&v4(who::WORKLOAD[0], who::STRANGER[0], syn).bytes()),
        deny(Reason::NoRule)
    );
}
