//! Frames and IP headers that contradict themselves, with one table for each field.

use enforcer_common::id::{Direction, Ifindex};
use enforcer_common::verdict::{Reason, Verdict};
use enforcer_common::work::Meta;
use enforcer_tests::packet::{Frame, Transport};

use crate::stage::*;

const MALFORMED: Verdict = Verdict::Deny(Reason::IpMalformed);
const FRAGMENT: Verdict = Verdict::Deny(Reason::Fragment);
const EXTENSION: Verdict = Verdict::Deny(Reason::ExtensionHeader);

/// A frame that an open policy lets pass.
fn good<'a>(v4: bool) -> Frame<'a> {
    syn(((host(v4, A), 40_000), (peer(v4), 80)))
}

/// What becomes of a frame with some of its bytes changed.
fn patched(frame: &Frame<'_>, at: usize, bytes: &[u8]) -> Verdict {
    let mut frame = frame.bytes();
    frame[at..at + bytes.len()].copy_from_slice(bytes);
    Stage::new(&[]).world.sends(Ifindex(A), &frame)
}

#[test]
fn version_and_header_length() {
    for first in 0..=255 {
        let verdict = match first {
            0x45 => ALLOW,
            0x46..=0x4f => denied(Reason::IpOptions),
            _ => MALFORMED,
        };
        assert_eq!(patched(&good(true), 14, &[first]), verdict, "IPv4 starts with {first:#x}");
        let verdict = if first >> 4 == 6 { ALLOW } else { MALFORMED };
        assert_eq!(patched(&good(false), 14, &[first]), verdict, "IPv6 starts with {first:#x}");
    }
    let options = Frame { options: &[1; 4], ..good(true) };
    assert_eq!(Stage::new(&[]).sends(A, &options), denied(Reason::IpOptions), "options that are there");
}

#[test]
fn total_length() {
    let frame = good(true);
    let whole = frame.bytes().len() - 14;
    for length in (0..2_000).chain((2_000..65_535).step_by(997)).chain([u16::MAX]) {
        let verdict = match usize::from(length) {
            0..20 => MALFORMED,
            length if length < whole => denied(Reason::L4Short),
            length if length == whole => ALLOW,
            _ => MALFORMED,
        };
        assert_eq!(patched(&frame, 16, &length.to_be_bytes()), verdict, "IPv4 length {length}");
    }
    let frame = good(false);
    let whole = frame.bytes().len() - 54;
    for length in 0..2_000u16 {
        let verdict = match usize::from(length) {
            length if length < whole => denied(Reason::L4Short),
            length if length == whole => ALLOW,
            _ => MALFORMED,
        };
        assert_eq!(patched(&frame, 18, &length.to_be_bytes()), verdict, "IPv6 length {length}");
    }
}

#[test]
fn padding_is_not_part_of_a_packet() {
    for v4 in FAMILIES {
        let mut frame = good(v4).bytes();
        frame.extend([0; 40]);
        assert_eq!(Stage::new(&[]).world.sends(Ifindex(A), &frame), ALLOW);
    }
}

#[test]
fn fragments_of_ipv4() {
    for (fragment, verdict, why) in [
        (0x0000, ALLOW, "a whole packet"),
        (0x4000, ALLOW, "don't fragment"),
        (0x8000, ALLOW, "the reserved bit, which no stack heeds"),
        (0xc000, ALLOW, "both"),
        (0x2000, FRAGMENT, "a first fragment"),
        (0x6000, FRAGMENT, "a first fragment that must not be one"),
        (0x2001, FRAGMENT, "one in the middle"),
        (0x0001, FRAGMENT, "the last one"),
        (0x1fff, FRAGMENT, "the last one possible"),
        (0x9000, FRAGMENT, "an offset beside the reserved bit"),
        (0xffff, FRAGMENT, "all at once"),
    ] {
        let stage = Stage::new(&[]);
        let frame = Frame { fragment, ..good(true) };
        assert_eq!(stage.sends(A, &frame), verdict, "{why}");
        let back = Frame { fragment, ..syn(((peer(true), 40_000), (host(true, A), 80))) };
        assert_eq!(stage.receives(A, UPLINK, &back), verdict, "{why}, to the workload");
    }
    // Live flows have none either.
    let stage = Stage::new(&[]);
    assert_eq!(stage.sends(A, &good(true)), ALLOW);
    assert_eq!(stage.sends(A, &Frame { fragment: 0x2000, ..good(true) }), FRAGMENT);
}

/// Eight bytes of options: a `PadN`.
const OPTIONS: [u8; 8] = [0, 0, 1, 4, 0, 0, 0, 0];
/// An extension header: its number and its bytes.
type Extension<'a> = (u8, &'a [u8]);

const HOP_BY_HOP: Extension<'_> = (0, &OPTIONS);
const DESTINATION: Extension<'_> = (60, &OPTIONS);
const ROUTING: Extension<'_> = (43, &OPTIONS);
const ATOMIC: Extension<'_> = (44, &[0, 0, 0, 0, 1, 2, 3, 4]);

#[test]
fn extension_headers() {
    let long = {
        let mut bytes = [0; 2048];
        bytes[1] = 255;
        bytes
    };
    let fragment = |low: [u8; 2]| [0, 0, low[0], low[1], 1, 2, 3, 4];
    let (first, middle, last) = (fragment([0, 1]), fragment([0, 9]), fragment([0, 8]));
    let (reserved, far) = (fragment([0, 6]), fragment([0xff, 0xf8]));
    let rows: [(&[Extension<'_>], Verdict, &str); 22] = [
        (&[], ALLOW, "none"),
        (&[HOP_BY_HOP], ALLOW, "hop-by-hop options"),
        (&[DESTINATION], ALLOW, "destination options"),
        (&[HOP_BY_HOP, DESTINATION], ALLOW, "both"),
        (&[DESTINATION; 6], ALLOW, "six"),
        (&[DESTINATION; 7], EXTENSION, "seven"),
        (&[DESTINATION; 20], EXTENSION, "twenty"),
        (&[ROUTING], EXTENSION, "a routing header"),
        (&[DESTINATION, ROUTING], EXTENSION, "a routing header further on"),
        (
            &[DESTINATION, DESTINATION, DESTINATION, DESTINATION, DESTINATION, DESTINATION, ROUTING],
            EXTENSION,
            "or beyond",
        ),
        (&[DESTINATION, HOP_BY_HOP], EXTENSION, "hop-by-hop options that are not first"),
        (&[HOP_BY_HOP, HOP_BY_HOP], EXTENSION, "or twice"),
        (&[(0, &long)], ALLOW, "2 KiB of hop-by-hop options"),
        (&[(60, &long)], ALLOW, "2 KiB of destination options"),
        (&[ATOMIC], ALLOW, "an atomic fragment"),
        (&[DESTINATION, ATOMIC, DESTINATION], ALLOW, "between others"),
        (&[(44, &reserved)], ALLOW, "reserved bits of an atomic fragment"),
        (&[(44, &first)], FRAGMENT, "a first fragment"),
        (&[(44, &middle)], FRAGMENT, "one in the middle"),
        (&[(44, &last)], FRAGMENT, "the last one"),
        (&[(44, &far)], FRAGMENT, "the last one possible"),
        (&[DESTINATION, (44, &first)], FRAGMENT, "behind options"),
    ];
    for (extensions, verdict, why) in rows {
        let stage = Stage::new(&[]);
        let frame = Frame { extensions, ..good(false) };
        assert_eq!(stage.sends(A, &frame), verdict, "{why}");
        let back = Frame { extensions, ..syn(((peer(false), 40_000), (host(false, A), 80))) };
        assert_eq!(stage.receives(A, UPLINK, &back), verdict, "{why}, to the workload");
    }
}

#[test]
fn what_stands_behind_extension_headers_is_judged() {
    let stage = Stage::closed_but("{ to: anywhere, ports: [80/tcp] }");
    for extensions in [&[][..], &[HOP_BY_HOP, DESTINATION], &[ATOMIC], &[DESTINATION; 6]] {
        for (port, verdict) in [(80, ALLOW), (81, NO_RULE)] {
            let frame = Frame { extensions, ..syn(((host(false, A), 40_000), (peer(false), port))) };
            assert_eq!(stage.sends(A, &frame), verdict, "port {port} behind {}", extensions.len());
        }
    }
}

#[test]
fn extension_headers_that_lie_about_their_length() {
    let frame = Frame { extensions: &[DESTINATION], ..good(false) };
    for length in 0..=255 {
        let verdict = match length {
            0 => ALLOW,
            // The transport header begins inside itself: what it says then is another port, or nothing whole.
            1 | 2 => continue,
            _ => EXTENSION,
        };
        assert_eq!(patched(&frame, 14 + 40 + 1, &[length]), verdict, "length {length}");
    }
    for length in [1, 2] {
        assert_ne!(patched(&frame, 14 + 40 + 1, &[length]), ALLOW, "length {length}");
    }
    let stage = Stage::new(&[]);
    let cut = Frame { extensions: &[DESTINATION; 3], ..good(false) }.bytes();
    for length in 54..cut.len() {
        let mut frame = cut[..length].to_vec();
        let payload = (length - 54) as u16;
        frame[18..20].copy_from_slice(&payload.to_be_bytes());
        assert!(matches!(stage.world.sends(Ifindex(A), &frame), Verdict::Deny(_)), "cut to {length} bytes");
    }
}

#[test]
fn tags_and_other_ethertypes() {
    let stage = Stage::new(&[]);
    for v4 in FAMILIES {
        for tags in [&[(0x8100, 5)][..], &[(0x88a8, 5)], &[(0x9100, 5)], &[(0x88a8, 5), (0x8100, 6)]] {
            let frame = Frame { tags, ..good(v4) };
            assert_eq!(stage.sends(A, &frame), denied(Reason::Vlan), "{tags:?}");
            assert_eq!(stage.receives(A, NODE, &frame), denied(Reason::Vlan), "{tags:?}, of the node");
        }
        for direction in [Direction::Ingress, Direction::Egress] {
            let meta = Meta { ifindex: Ifindex(A), ingress_ifindex: Ifindex(NODE), vlan: true };
            let verdict = stage.world.verdict_of(direction, &meta, &good(v4).bytes()).0;
            assert_eq!(verdict, denied(Reason::Vlan), "an accelerated tag");
        }
        for ethertype in [0u16, 1, 0x0600, 0x0801, 0x8035, 0x86dc, 0x8847, 0x8863, 0x88cc, 0x88e5, 0xffff] {
            let verdict = patched(&good(v4), 12, &ethertype.to_be_bytes());
            assert_eq!(verdict, denied(Reason::Ethertype), "{ethertype:#x}");
        }
    }
    let meta = Meta { ifindex: Ifindex(A), ingress_ifindex: Ifindex(NODE), vlan: true };
    let mut arp = vec![0; 42];
    arp[12..14].copy_from_slice(&[8, 6]);
    assert_eq!(stage.world.verdict_of(Direction::Ingress, &meta, &arp).0, denied(Reason::Vlan), "ARP in a VLAN");
    assert_eq!(patched(&good(true), 12, &[0x86, 0xdd]), MALFORMED, "IPv4 that calls itself IPv6");
    assert_eq!(patched(&good(false), 12, &[0x08, 0x00]), MALFORMED, "IPv6 that calls itself IPv4");
}

#[test]
fn a_mapped_address_on_the_wire() {
    let mapped = address("::ffff:10.0.0.11");
    let stage = Stage::new(&[]);
    for (source, destination) in [(mapped, peer(false)), (host(false, A), mapped), (mapped, mapped)] {
        assert_eq!(stage.sends(A, &syn(((source, 40_000), (destination, 80)))), MALFORMED);
        assert_eq!(stage.receives(A, UPLINK, &syn(((source, 40_000), (destination, 80)))), MALFORMED);
        assert_eq!(stage.receives(A, NODE, &syn(((source, 40_000), (destination, 80)))), MALFORMED);
    }
}

#[test]
fn runts_of_every_length() {
    let stage = Stage::with(&[], enforcer_tests::world::Unknown::Open);
    for v4 in FAMILIES {
        let whole = good(v4).bytes();
        for length in 0..whole.len() {
            for device in [A, R, U] {
                let sent = stage.world.sends(Ifindex(device), &whole[..length]);
                assert!(matches!(sent, Verdict::Deny(_)), "{length} bytes of {device}");
                let received = stage.world.receives(Ifindex(device), Ifindex(NODE), &whole[..length]);
                assert!(matches!(received, Verdict::Deny(_)), "{length} bytes to {device}");
            }
        }
    }
    for length in 0..=74 {
        for ethertype in [[8, 0], [0x86, 0xdd]] {
            for fill in [0, 0xff, 0x45, 0x60] {
                let mut frame = vec![fill; length];
                if let Some(place) = frame.get_mut(12..14) {
                    place.copy_from_slice(&ethertype);
                }
                for device in [A, R, U] {
                    assert!(
                        matches!(stage.world.sends(Ifindex(device), &frame), Verdict::Deny(_)),
                        "{length} times {fill}"
                    );
                }
            }
        }
    }
}

#[test]
fn packets_of_over_64_kib() {
    // BIG TCP: an offloaded packet has no room for its length and says 0.
    let stage = Stage::new(&[]);
    let payload = vec![0; 70_000];
    for v4 in FAMILIES {
        let length = if v4 { 16 } else { 18 };
        for (size, verdict, why) in [
            (70_000, ALLOW, "a large one"),
            (65_000, if v4 { MALFORMED } else { denied(Reason::L4Short) }, "one that has room"),
            (0, if v4 { MALFORMED } else { denied(Reason::L4Short) }, "an empty one"),
        ] {
            let transport = Transport::Tcp { source: 40_000, destination: 80, flags: 16 };
            let frame = Frame { payload: &payload[..size], ..Frame::new(host(v4, A), peer(v4), transport) };
            let mut frame = frame.bytes();
            frame[length..length + 2].copy_from_slice(&[0, 0]);
            assert_eq!(stage.world.sends(Ifindex(A), &frame), verdict, "{why}");
        }
        let datagram = Frame { payload: &payload, ..datagram((host(v4, A), 1), (peer(v4), 2)) };
        let mut frame = datagram.bytes();
        frame[length..length + 2].copy_from_slice(&[0, 0]);
        let udp = if v4 { 14 + 20 } else { 14 + 40 };
        frame[udp + 4..udp + 6].copy_from_slice(&[0, 0]);
        assert_eq!(stage.world.sends(Ifindex(A), &frame), ALLOW, "UDP, whose length then is 0, too");
    }
}
