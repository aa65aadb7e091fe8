//! Frames of every shape before the guard, as bytes from the network header on.

use std::collections::BTreeSet;

use core::net::IpAddr;
use proptest::prelude::*;

use super::*;
use crate::home::HomeKey;
use crate::id::Revision;

struct Pairs(BTreeSet<HomeKey>);

impl Homes for Pairs {
    fn has_home(&self, key: &HomeKey) -> bool {
        self.0.contains(key)
    }
}

struct Frame(u16, Vec<u8>);

impl NetworkBytes for Frame {
    fn ethertype(&self) -> u16 {
        self.0
    }

    fn at<const N: usize>(&self, offset: u32) -> Option<[u32; N]> {
        let from = offset as usize;
        let bytes = self.1.get(from..from + 4 * N)?;
        let mut words = [0; N];
        for (word, chunk) in words.iter_mut().zip(bytes.as_chunks::<4>().0) {
            *word = u32::from_ne_bytes(*chunk);
        }
        Some(words)
    }
}

fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

/// An IP header of this source, whatever else is in it.
fn header(source: IpAddr, destination: IpAddr) -> (u16, Vec<u8>) {
    match (source, destination) {
        (IpAddr::V4(source), IpAddr::V4(destination)) => {
            let mut bytes = vec![0x45, 0, 0, 28, 0, 0, 0, 0, 64, 17, 0, 0];
            bytes.extend(source.octets());
            bytes.extend(destination.octets());
            (0x0800, bytes)
        }
        (IpAddr::V6(source), IpAddr::V6(destination)) => {
            let mut bytes = vec![0x60, 0, 0, 0, 0, 8, 58, 255];
            bytes.extend(source.octets());
            bytes.extend(destination.octets());
            (0x86dd, bytes)
        }
        _ => panic!("two families"),
    }
}

/// The same behind inline tags, outermost first.
fn tagged((ethertype, header): (u16, Vec<u8>), tags: &[u16]) -> Frame {
    let (mut first, mut bytes) = (ethertype, header);
    for tag in tags.iter().rev() {
        let mut with = vec![0, 10];
        with.extend(first.to_be_bytes());
        with.extend(bytes);
        (first, bytes) = (*tag, with);
    }
    Frame(first, bytes)
}

const OWN: [&str; 2] = ["10.0.0.2", "fd00::2"];
const PEER: [&str; 2] = ["10.0.0.9", "fd00::9"];
const HOME: Ifindex = Ifindex(5);
const TAP: Ifindex = Ifindex(9);

fn pairs() -> Pairs {
    let own = OWN.map(|own| Address::from(ip(own)));
    Pairs(own.iter().flat_map(|own| [HomeKey::guarded(*own), HomeKey::new(*own, HOME)]).collect())
}

#[test]
fn a_workloads_source_passes_at_home_and_is_spoofed_elsewhere_behind_any_tag() {
    let tags: [&[u16]; 6] = [&[], &[0x8100], &[0x88a8, 0x8100], &[0x9100], &[0x8100; 3], &[0x8100; VLAN_TAGS]];
    for tags in tags {
        for (own, peer) in OWN.into_iter().zip(PEER) {
            let frame = tagged(header(ip(own), ip(peer)), tags);
            let found = look(&pairs(), TAP, &frame).unwrap_or_else(|| panic!("{own} behind {tags:x?}"));
            let (ethertype, _) = header(ip(own), ip(peer));
            let expected = Spoofed { ethertype, at: 4 * tags.len() as u32, source: ip(own).into() };
            assert_eq!(found, expected, "{own} behind {tags:x?}");
            assert_eq!(look(&pairs(), HOME, &frame), None, "{own} at home behind {tags:x?}");
            assert_eq!(look(&pairs(), TAP, &tagged(header(ip(peer), ip(own)), tags)), None, "to {own}");
        }
    }
}

#[test]
fn what_cannot_be_read_passes_on() {
    let (ethertype, whole) = header(ip(OWN[0]), ip(PEER[0]));
    for length in 0..16 {
        assert_eq!(look(&pairs(), TAP, &Frame(ethertype, whole[..length].to_vec())), None, "{length} bytes of IPv4");
    }
    let (ethertype, whole) = header(ip(OWN[1]), ip(PEER[1]));
    for length in 0..24 {
        assert_eq!(look(&pairs(), TAP, &Frame(ethertype, whole[..length].to_vec())), None, "{length} bytes of IPv6");
    }
    let own = || header(ip(OWN[0]), ip(PEER[0]));
    assert_eq!(look(&pairs(), TAP, &tagged(own(), &[0x8100; VLAN_TAGS + 1])), None, "one tag too many");
    for other in [0, 0x0806, 0x8847, 0x8864, 0xffff] {
        assert_eq!(look(&pairs(), TAP, &Frame(other, own().1)), None, "ethertype {other:#06x}");
    }
}

#[test]
fn an_ipv4_source_inside_of_ipv6_is_the_same_address() {
    let mapped = ip("::ffff:10.0.0.2");
    let frame = tagged(header(mapped, ip(PEER[1])), &[]);
    assert!(look(&pairs(), TAP, &frame).is_some(), "nobody sends from it, and the guard needs no rule for that");
}

#[test]
fn the_record_shows_the_device_and_both_addresses() {
    for (own, peer, protocol) in [(OWN[0], PEER[0], 17), (OWN[1], PEER[1], 58)] {
        for tags in [&[][..], &[0x8100]] {
            let frame = tagged(header(ip(own), ip(peer)), tags);
            let spoofed = look(&pairs(), TAP, &frame).unwrap();
            // The memory is that of the last packet, which was another one.
            let mut work = Work { direction: Direction::Egress, ..Work::EMPTY };
            work.meta = Meta { ifindex: HOME, ingress_ifindex: HOME, vlan: true };
            work.packet.destination_port = 22;
            let meta = Meta { ifindex: TAP, ingress_ifindex: TAP, vlan: false };
            let word = PolicyWord { revision: Revision(7), epoch: 1 };
            note(&spoofed, word, &meta, &frame, &mut work);
            assert_eq!(work.workload.device(), Some(TAP));
            assert_eq!((work.word, work.direction), (word, Direction::Ingress));
            assert_eq!((work.meta.ifindex, work.meta.ingress_ifindex, work.meta.vlan), (TAP, TAP, false));
            let packet = work.packet;
            assert_eq!((packet.source, packet.destination), (ip(own).into(), ip(peer).into()), "{own}");
            assert_eq!((packet.ethertype, packet.protocol), (spoofed.ethertype, protocol), "{own}");
            assert_eq!(packet.destination_port, 0, "a port of the last packet");
        }
    }
}

proptest! {
    #[test]
    fn no_bytes_make_it_read_beyond_them_or_drop_what_is_nobodys(
        ethertype in prop_oneof![Just(0x0800), Just(0x86dd), Just(0x8100), any::<u16>()],
        bytes in proptest::collection::vec(any::<u8>(), 0..80),
    ) {
        let frame = Frame(ethertype, bytes);
        if let Some(spoofed) = look(&pairs(), TAP, &frame) {
            let own = OWN.map(|own| Address::from(ip(own)));
            prop_assert!(own.contains(&spoofed.source));
        }
        prop_assert_eq!(look(&Pairs(BTreeSet::new()), TAP, &frame), None);
    }
}
