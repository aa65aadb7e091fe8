//! Random frames: properties that must hold whatever somebody sends.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use enforcer_common::id::Direction;
use enforcer_common::packet::{HEAD, Packet, PacketBytes, parse};
use enforcer_common::verdict::Verdict;
use enforcer_tests::packet::{Bytes, Frame, Transport};
use enforcer_tests::world::Unknown;
use proptest::prelude::*;

use crate::stage::*;

/// Which way a frame goes: sent by the device, or received by it from another.
type Way = Option<u32>;

const OPTIONS: [(u8, &[u8]); 3] = [(60, &[0, 0, 1, 4, 0, 0, 0, 0]); 3];
const ALERT: [(u8, &[u8]); 1] = [(0, &[0, 0, 5, 2, 0, 0, 1, 0])];
const PORTS: [u16; 8] = [67, 68, 80, 443, 546, 547, 5353, 40_000];

fn addresses(v4: bool) -> Vec<IpAddr> {
    let others: &[&str] = if v4 {
        &["0.0.0.0", "127.0.0.1", "10.0.0.255", "224.0.0.22", "224.0.0.251", "255.255.255.255"]
    } else {
        &[
            "::",
            "::1",
            "ff02::1",
            "ff02::2",
            "ff02::16",
            "ff02::1:2",
            "ff02::1:ff00:11",
            "fe80::abcd",
            "::ffff:10.0.0.11",
        ]
    };
    let mut all =
        vec![host(v4, A), host(v4, A), host(v4, B), host(v4, R), host(v4, U), node(v4), peer(v4), stranger(v4)];
    all.extend(others.iter().map(|text| address(text)));
    all
}

fn transport() -> impl Strategy<Value = Transport> {
    let port = || proptest::sample::select(&PORTS[..]);
    let kinds = vec![0u8, 1, 2, 3, 5, 8, 11, 12, 128, 129, 130, 131, 132, 133, 134, 135, 136, 137, 143];
    prop_oneof![
        4 => (port(), port(), any::<u8>())
            .prop_map(|(source, destination, flags)| Transport::Tcp { source, destination, flags }),
        2 => (port(), port()).prop_map(|(source, destination)| Transport::Udp { source, destination }),
        1 => (port(), port(), 0..3u8)
            .prop_map(|(source, destination, chunk)| Transport::Sctp { source, destination, chunk }),
        3 => (proptest::sample::select(kinds), 0..2u8, 0..3u8)
            .prop_map(|(kind, code, id)| Transport::Icmp { kind, code, rest: [0, id, 0, 1] }),
        1 => any::<u8>().prop_map(Transport::Other),
        1 => Just(Transport::Other(2)),
    ]
}

/// Valid frames among a few addresses and ports, so that they meet each other's flows; and what a few flipped bits make
/// of them.
fn frame() -> impl Strategy<Value = Vec<u8>> {
    let valid = any::<bool>().prop_flat_map(|v4| {
        let ends = || proptest::sample::select(addresses(v4));
        let payload = prop_oneof![Just(Vec::new()), proptest::collection::vec(any::<u8>(), 0..80)];
        (ends(), ends(), transport(), payload, prop_oneof![Just(255u8), Just(64), Just(1)], 0..6usize).prop_map(
            move |(source, destination, transport, payload, hop_limit, extensions)| {
                let alert = hop_limit == 1 || extensions == 5;
                let options: &[u8] = if v4 && alert { &[0x94, 4, 0, 0] } else { &[] };
                let extensions: &[(u8, &[u8])] = match extensions {
                    _ if v4 => &[],
                    _ if alert => &ALERT,
                    3 => &OPTIONS,
                    _ => &[],
                };
                let base = Frame::new(source, destination, transport);
                Frame { payload: &payload, hop_limit, options, extensions, ..base }.bytes()
            },
        )
    });
    let flipped = (valid, proptest::collection::vec((any::<proptest::sample::Index>(), 0..8u8), 0..4), any::<bool>());
    let flipped = flipped.prop_map(|(mut frame, flips, flip)| {
        for (place, bit) in flips.into_iter().filter(|_| flip) {
            let place = place.index(frame.len());
            frame[place] ^= 1 << bit;
        }
        frame
    });
    prop_oneof![
        12 => flipped.clone(),
        1 => (flipped, any::<proptest::sample::Index>())
            .prop_map(|(frame, length)| frame[..length.index(frame.len() + 1)].to_vec()),
        1 => proptest::collection::vec(any::<u8>(), 0..200),
    ]
}

fn way() -> impl Strategy<Value = Way> {
    prop_oneof![Just(None), proptest::sample::select(&[NODE, B, UPLINK, OTHER, TAP][..]).prop_map(Some)]
}

fn device() -> impl Strategy<Value = u32> {
    proptest::sample::select(&[A, B, R, U][..])
}

fn traffic() -> impl Strategy<Value = Vec<(u32, Way, Vec<u8>)>> {
    proptest::collection::vec((device(), way(), frame()), 1..40)
}

/// Source and destination, read without the parser under test.
fn ends(frame: &[u8]) -> Option<(IpAddr, IpAddr)> {
    match frame.get(12..14)? {
        [0x08, 0x00] => {
            let at = |at: usize| Some(Ipv4Addr::from(<[u8; 4]>::try_from(frame.get(at..at + 4)?).ok()?));
            Some((at(26)?.into(), at(30)?.into()))
        }
        [0x86, 0xdd] => {
            let at = |at: usize| Some(Ipv6Addr::from(<[u8; 16]>::try_from(frame.get(at..at + 16)?).ok()?));
            Some((at(22)?.into(), at(38)?.into()))
        }
        _ => None,
    }
}

fn is_arp(frame: &[u8]) -> bool {
    frame.get(12..14) == Some(&[0x08, 0x06]) && frame.len() <= 64
}

/// Solicitation or advertisement, directly behind the IPv6 header, not forwarded, small.
fn is_discovery(frame: &[u8]) -> bool {
    frame.get(12..14) == Some(&[0x86, 0xdd])
        && frame.get(20..22) == Some(&[58, 255])
        && matches!(frame.get(54..56), Some([135 | 136, 0]))
        && matches!(frame.get(18..20), Some([0, 0..=64]))
}

/// Keeps a workload on its link (D16): router discovery, membership of groups, or DHCP. What only a router or a server says
/// comes from the node or by the uplink.
fn keeps_the_link(way: Way, frame: &[u8]) -> bool {
    let Some((source, destination)) = ends(frame) else { return false };
    let (byte, half) = (|at: usize| frame[at], |at: usize| u16::from_be_bytes([frame[at], frame[at + 1]]));
    let of_router = matches!(way, Some(UPLINK | NODE));
    match (source, destination) {
        (IpAddr::V4(source), IpAddr::V4(to)) if frame.len() > 45 && byte(14) == 0x46 => {
            let whole = byte(22) == 1 && byte(23) == 2 && frame[34..38] == [0x94, 4, 0, 0] && half(16) <= 24 + 512;
            let report = matches!(byte(38), 0x12 | 0x16 | 0x17 | 0x22);
            whole && to.is_multicast() && (report || of_router && byte(38) == 0x11) && !source.is_multicast()
        }
        (IpAddr::V4(_), IpAddr::V4(to)) if frame.len() >= 42 && byte(14) == 0x45 && byte(23) == 17 => {
            let asks = way.is_none() && to.is_broadcast() && half(16) <= 576 && [half(34), half(36)] == [68, 67];
            asks || of_router && [half(34), half(36)] == [67, 68]
        }
        (IpAddr::V6(source), IpAddr::V6(to)) if frame.len() >= 62 => {
            let (of_link, to_link) = (source.is_unicast_link_local(), to.is_unicast_link_local());
            let text = to.to_string();
            match (byte(20), byte(21)) {
                (58, 255) if byte(54) == 133 => byte(55) == 0 && text == "ff02::2" && half(18) <= 64,
                (58, 255) if byte(54) == 134 => of_router && of_link && (to_link || text == "ff02::1"),
                (0, 1) => {
                    let report = frame.len() >= 86 && matches!(byte(62), 131 | 132 | 143);
                    let query = frame.len() >= 86 && byte(62) == 130 && of_router;
                    let options = matches!(frame[54..62], [58, 0, 5, 2, 0, 0, 0 | 1, 0]);
                    let narrow = options && half(18) <= 8 + 512;
                    narrow && (of_link || source.is_unspecified()) && to.is_multicast() && (report || query)
                }
                (17, _) if [half(54), half(56)] == [546, 547] => way.is_none() && of_link && text == "ff02::1:2",
                (17, _) if [half(54), half(56)] == [547, 546] => of_router && of_link && to_link,
                _ => false,
            }
        }
        _ => false,
    }
}

fn is_own(device: u32, address: IpAddr) -> bool {
    FAMILIES.iter().any(|v4| host(*v4, device) == address)
}

/// A sender without an address: DHCP, IGMP, and ICMPv6 from `::`.
fn is_addressless(frame: &[u8]) -> bool {
    match ends(frame) {
        Some((IpAddr::V4(source), _)) => {
            let dhcp = frame.get(23) == Some(&17) && frame.get(36..38) == Some(&[0, 67]);
            source.is_unspecified() && (dhcp || frame.get(22..24) == Some(&[1, 2]))
        }
        // Behind options MLD is MLD as well.
        Some((IpAddr::V6(source), _)) => source.is_unspecified() && matches!(frame.get(20), Some(58 | 0 | 60 | 44)),
        None => false,
    }
}

fn is_foreign(source: IpAddr) -> bool {
    let known = [A, B, R, U].into_iter().any(|device| is_own(device, source));
    let nobodys = match source {
        IpAddr::V4(v4) => v4.octets()[0] == 0 || v4.is_loopback() || v4.is_multicast() || v4.is_broadcast(),
        IpAddr::V6(v6) => v6.is_unspecified() || v6.is_loopback() || v6.is_multicast(),
    };
    !known && !nobodys && !FAMILIES.iter().any(|v4| node(*v4) == source)
}

fn closed() -> Vec<(&'static str, &'static str)> {
    ["a", "b", "r"].map(|name| (name, CLOSED)).into()
}

/// What may pass where policy allows nothing.
fn passes_by_itself(device: u32, way: Way, frame: &[u8]) -> bool {
    let to_itself = ends(frame).is_some_and(|(source, destination)| {
        let peer = if way.is_none() { destination } else { source };
        is_own(device, peer)
    });
    is_arp(frame) || is_discovery(frame) || keeps_the_link(way, frame) || way == Some(NODE) || to_itself
}

/// A frame of which only its head is in the linear part.
struct Head<'a> {
    frame: &'a Bytes<'a>,
    pulled: usize,
}

impl PacketBytes for Head<'_> {
    fn length(&self) -> u32 {
        self.frame.length()
    }

    fn ethertype(&self) -> Option<u16> {
        self.frame.ethertype()
    }

    fn fixed<const N: usize>(&self, offset: usize) -> Option<[u32; N]> {
        let reachable = offset + N * 4 <= self.pulled || self.frame.fixed::<N>(offset).is_none();
        assert!(reachable, "{N} words at {offset}, but {} bytes are pulled", self.pulled);
        self.frame.fixed(offset)
    }

    fn at<const N: usize>(&self, offset: u32) -> Option<[u32; N]> {
        self.frame.at(offset)
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 1_000, failure_persistence: None, ..ProptestConfig::default() })]

    /// The kernel parses every packet into the memory of the one before it.
    #[test]
    fn nothing_of_the_last_packet_is_left_in_the_next(last in frame(), next in frame(), cut in 0..200usize) {
        let next = &next[..next.len() - cut.min(next.len())];
        let (mut used, mut fresh) = (Packet::EMPTY, Packet::EMPTY);
        let _ = parse(&Bytes(&last), &mut used);
        let (used_result, fresh_result) = (parse(&Bytes(next), &mut used), parse(&Bytes(next), &mut fresh));
        prop_assert_eq!((used_result.is_ok(), used), (fresh_result.is_ok(), fresh));
    }

    #[test]
    fn nothing_leaves_under_a_foreign_address(traffic in traffic(), open in any::<bool>()) {
        let stage = Stage::with(&[], if open { Unknown::Open } else { Unknown::Strict });
        for (device, way, frame) in traffic {
            let (verdict, _) = stage.verdict_of(device, way, &frame);
            if way.is_some() || verdict != Verdict::Allow || is_arp(&frame) {
                continue;
            }
            let (source, _) = ends(&frame).expect("what passes is ARP or IP");
            let routes = device == R || (device == U && open);
            let unnamed = device == U && !open && (is_discovery(&frame) || keeps_the_link(way, &frame));
            prop_assert!(
                is_own(device, source) || routes && is_foreign(source) || is_addressless(&frame) || unnamed,
                "{device} sent as {source}: {frame:02x?}"
            );
        }
    }

    #[test]
    fn nothing_comes_from_elsewhere_under_a_local_workloads_address(traffic in traffic()) {
        let stage = Stage::new(&[]);
        for (device, way, frame) in traffic {
            let (verdict, _) = stage.verdict_of(device, way, &frame);
            let (Some(from), Verdict::Allow) = (way, verdict) else { continue };
            let Some((source, _)) = ends(&frame) else { continue };
            let owner = [A, B, R, U].into_iter().find(|device| is_own(*device, source));
            // An unknown workload gets discovery and reports of groups from whoever sends them.
            let discovery = device == U && (is_discovery(&frame) || keeps_the_link(way, &frame));
            if let Some(owner) = owner.filter(|_| !discovery) {
                prop_assert!(from == owner || from == OTHER, "{owner}'s by {from} to {device}: {frame:02x?}");
            }
        }
    }

    #[test]
    fn nothing_passes_where_policy_allows_nothing(traffic in traffic()) {
        let stage = Stage::new(&closed());
        let mut opened = std::collections::BTreeSet::new();
        for (device, way, frame) in traffic {
            let (verdict, work) = stage.verdict_of(device, way, &frame);
            if verdict != Verdict::Allow {
                continue;
            }
            // An answer to the node passes with what the node sent.
            let answers = opened.contains(&work.key);
            prop_assert!(passes_by_itself(device, way, &frame) || answers, "{device} {way:?}: {frame:02x?}");
            if way == Some(NODE) && work.direction == Direction::Ingress {
                opened.insert(work.key);
            }
        }
    }

    #[test]
    fn no_flow_outlives_its_policy(before in traffic(), after in traffic(), open in any::<bool>()) {
        let mut stage = Stage::with(&[], if open { Unknown::Open } else { Unknown::Strict });
        // The node's own flows are its own: here nothing comes from it.
        let named = |(device, way, _): &&(u32, Way, Vec<u8>)| *device != U && *way != Some(NODE);
        for (device, way, frame) in before.iter().filter(named) {
            let _ = stage.verdict_of(*device, *way, frame);
        }
        stage.unknown = Unknown::Strict;
        stage.apply(&closed());
        for _ in 0..2 {
            for (device, way, frame) in before.iter().chain(&after).filter(named) {
                let (verdict, _) = stage.verdict_of(*device, *way, frame);
                let passes = verdict == Verdict::Allow;
                prop_assert!(!passes || passes_by_itself(*device, *way, frame), "{device} {way:?}: {frame:02x?}");
            }
        }
    }

    #[test]
    fn what_is_pulled_is_enough(frame in frame()) {
        let (whole, mut packet, mut pulled) = (Bytes(&frame), Packet::EMPTY, Packet::EMPTY);
        let head = Head { frame: &whole, pulled: HEAD as usize };
        let (expected, found) = (parse(&whole, &mut packet), parse(&head, &mut pulled));
        prop_assert_eq!((expected, packet), (found, pulled));
    }

    #[test]
    fn bytes_at_random_are_judged(frame in proptest::collection::vec(any::<u8>(), 0..400), way in way(), v4 in any::<bool>()) {
        let stage = Stage::new(&[]);
        let mut frame = frame;
        if let Some(ethertype) = frame.get_mut(12..14) {
            ethertype.copy_from_slice(if v4 { &[0x08, 0x00] } else { &[0x86, 0xdd] });
        }
        let _ = stage.verdict_of(A, way, &frame);
    }
}

#[test]
fn random_traffic_is_not_inert() {
    use proptest::strategy::ValueTree;
    use proptest::test_runner::TestRunner;

    let mut runner = TestRunner::deterministic();
    let (mut frames, mut allowed, mut again) = (0, 0, 0);
    for _ in 0..200 {
        let traffic = traffic().new_tree(&mut runner).unwrap().current();
        let stage = Stage::new(&[]);
        for (device, way, frame) in traffic {
            let flows = stage.world.flow_count();
            frames += 1;
            if stage.verdict_of(device, way, &frame).0 == Verdict::Allow {
                allowed += 1;
                again += usize::from(flows > 0 && stage.world.flow_count() == flows);
            }
        }
    }
    assert!(allowed * 10 > frames, "{allowed} of {frames} allowed");
    assert!(again * 50 > frames, "{again} of {frames} met a flow");
}
