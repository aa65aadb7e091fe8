//! Tests that the shape of a frame is judged before its sender: malformed frames, and neighbour discovery.

use enforcer_common::{
    id::{Direction, Ifindex, Revision},
    verdict::{Reason, Verdict},
    work::Meta,
};
use enforcer_tests::{
    bytecode::scene::{LO, Scene, WORKLOAD, ip, who},
    packet::{Frame, Transport},
};

use crate::Both;
use crate::verdicts::{ALLOW, deny, icmp, udp};

const META: Meta = Meta { ifindex: Ifindex(LO), ingress_ifindex: Ifindex(LO), vlan: false };

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
    let with = |extensions| Frame { extensions, ..plain6.clone() }.bytes();
    let mut total_too_small = plain.bytes();
    total_too_small[16..18].copy_from_slice(&[0, 19]);
    // `BPF_PROG_TEST_RUN` itself refuses these two.
    for (why, frame) in [("a cut IPv4 header", cut(&plain, 33)), ("a cut IPv6 header", cut(&plain6, 53))] {
        let (verdict, _) = both.memory.verdict_of(Direction::Egress, &META, &frame);
        assert_eq!(verdict, deny(Reason::IpMalformed), "{why}");
    }
    let accelerated = Meta { vlan: true, ..META };
    let (verdict, _) = both.memory.verdict_of(Direction::Egress, &accelerated, &plain.bytes());
    assert_eq!(verdict, deny(Reason::Vlan), "an accelerated tag");
    let (verdict, work) = both.memory.judge_unreadable(Direction::Egress, &META);
    assert_eq!(verdict, deny(Reason::PullFailed), "headers that the kernel cannot pull");
    assert_eq!((work.workload, work.word.revision), (WORKLOAD, Revision(2)), "and the record says whose");
    let table: Vec<(&str, Vec<u8>, Verdict)> = vec![
        ("a whole frame", plain.bytes(), ALLOW),
        ("a whole frame, IPv6", plain6.bytes(), ALLOW),
        ("shorter than it says", cut(&plain, 50), deny(Reason::IpMalformed)),
        ("a total length under the header's", total_too_small, deny(Reason::IpMalformed)),
        ("version 5", edited(&plain, 14, 0x55), deny(Reason::IpMalformed)),
        ("version 7", edited(&plain6, 14, 0x70), deny(Reason::IpMalformed)),
        ("a header of 16 bytes", edited(&plain, 14, 0x44), deny(Reason::IpMalformed)),
        ("IPv4 options", Frame { options: &[1, 1, 1, 1], ..plain.clone() }.bytes(), deny(Reason::IpOptions)),
        ("a first fragment", Frame { fragment: 0x2000, ..plain.clone() }.bytes(), deny(Reason::Fragment)),
        ("a later fragment", Frame { fragment: 0x0003, ..plain.clone() }.bytes(), deny(Reason::Fragment)),
        ("don't-fragment is none", Frame { fragment: 0x4000, ..plain.clone() }.bytes(), ALLOW),
        ("hop-by-hop options first", with(&[(0, EIGHT)]), ALLOW),
        ("hop-by-hop options later", with(&[(60, EIGHT), (0, EIGHT)]), deny(Reason::ExtensionHeader)),
        ("a routing header", with(&[(43, EIGHT)]), deny(Reason::ExtensionHeader)),
        ("six extension headers", with(&six), ALLOW),
        ("seven", with(&seven), deny(Reason::ExtensionHeader)),
        ("an atomic fragment", with(&[(44, &[0; 8])]), ALLOW),
        ("a fragment that is not atomic", with(&[(44, &[0, 0, 0, 1, 0, 0, 0, 0])]), deny(Reason::Fragment)),
        (
            "an extension header that runs out",
            with(&[(60, &[0, 200, 0, 0, 0, 0, 0, 0])]),
            deny(Reason::ExtensionHeader),
        ),
        ("TCP data offset 4", edited(&plain, 46, 0x40), deny(Reason::L4Short)),
        ("TCP data offset beyond the segment", edited(&plain, 46, 0xf0), deny(Reason::L4Short)),
        ("UDP length over the packet's", edited(&Frame::new(own, friend, udp(5000, 53)), 38, 1), deny(Reason::L4Short)),
        ("an 802.1Q tag", Frame { tags: &[(0x8100, 5)], ..plain.clone() }.bytes(), deny(Reason::Vlan)),
        ("an 802.1ad tag", Frame { tags: &[(0x88a8, 5)], ..plain.clone() }.bytes(), deny(Reason::Vlan)),
        ("LLDP", edited_ethertype(&plain, [0x88, 0xcc]), deny(Reason::Ethertype)),
        ("ARP", edited_ethertype(&plain, [0x08, 0x06]), ALLOW),
    ];
    for (why, frame, expected) in table {
        assert_eq!(both.sends(&frame), expected, "{why}");
    }
}

pub(crate) fn edited_ethertype(frame: &Frame<'_>, ethertype: [u8; 2]) -> Vec<u8> {
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
        Frame { hop_limit, payload, ..Frame::new(ip(source), ip(destination), icmp(kind)) }.bytes()
    };
    let target = [0u8; 16];
    let long = [0u8; 200];
    for (why, frame, expected) in [
        ("a solicitation", nd(135, own6, "ff02::1:ff00:3", 255, &target), ALLOW),
        ("an advertisement to the node", nd(136, own6, who::NODE[1], 255, &target), ALLOW),
        ("to a neighbour", nd(136, own6, who::NEIGHBOUR[1], 255, &target), ALLOW),
        ("to a stranger", nd(135, own6, who::STRANGER[1], 255, &target), deny(Reason::NoRule)),
        ("forwarded", nd(135, own6, "ff02::1", 254, &target), deny(Reason::NoRule)),
        ("too long", nd(135, own6, "ff02::1", 255, &long), deny(Reason::NoRule)),
        ("with a claimed address", nd(136, who::FRIEND[1], "ff02::1", 255, &target), deny(Reason::SpoofedSource)),
        ("duplicate address detection", nd(135, "::", "ff02::1:ff00:2", 255, &target), ALLOW),
        ("a router advertisement", nd(134, own6, "ff02::1", 255, &target), deny(Reason::RouterAdvertisement)),
        ("a redirect", nd(137, own6, who::NEIGHBOUR[1], 255, &target), deny(Reason::RouterAdvertisement)),
        (
            "a report of group members without its alert is judged",
            nd(143, "::", "ff02::16", 1, &target),
            deny(Reason::NoRule),
        ),
    ] {
        assert_eq!(both.sends(&frame), expected, "{why}");
    }
}
