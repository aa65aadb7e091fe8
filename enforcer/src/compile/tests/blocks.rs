//! Compares images with a test of each single block, for address blocks that nest, touch and repeat.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use enforcer_common::id::Direction;
use enforcer_common::image::PortKey;
use ipnetwork::IpNetwork;
use proptest::prelude::*;

use super::{allows, image_of, policy, rule, snapshot, tcp};
use crate::policy::model::{Peer, Peers};

fn block(v4: bool) -> impl Strategy<Value = (IpNetwork, Vec<IpNetwork>)> {
    // A small corner of the space, so that blocks nest, meet and repeat.
    let address = move |bits: u8| {
        if v4 {
            IpAddr::from(Ipv4Addr::from(0x0a00_0000 | u32::from(bits) << 2))
        } else {
            IpAddr::from(Ipv6Addr::from(0xfd00_u128 << 112 | u128::from(bits) << 62))
        }
    };
    let (lengths, deepest) = if v4 { (22_u8..=32, 32) } else { (56_u8..=68, 128) };
    let net = |address, prefix| {
        let net = IpNetwork::new(address, prefix).unwrap();
        IpNetwork::new(net.network(), prefix).unwrap()
    };
    (any::<u8>(), lengths, prop::collection::vec((any::<u8>(), 1_u8..8), 0..3)).prop_map(
        move |(bits, length, except)| {
            let cidr = net(address(bits), length);
            let except = except
                .into_iter()
                .map(|(bits, deeper)| net(address(bits), (length + deeper).min(deepest)))
                .filter(|part| part.prefix() > length && cidr.contains(part.network()))
                .collect();
            (cidr, except)
        },
    )
}

type Rules = Vec<((IpNetwork, Vec<IpNetwork>), u16)>;

fn check_blocks(rules: &Rules, peers: &[IpAddr]) -> Result<(), TestCaseError> {
    let declared = rules.iter().map(|((cidr, except), port)| {
        let peer = Peer::Cidr { cidr: *cidr, except: except.clone() };
        rule(Peers::Only(vec![peer]), tcp(*port, *port + 1))
    });
    let image = image_of(vec![policy("p", declared.collect(), Vec::new())], snapshot());
    let edges = rules
        .iter()
        .flat_map(|((cidr, except), _)| except.iter().chain([cidr]).flat_map(|net| [net.network(), net.broadcast()]));
    for peer in edges.chain(peers.iter().copied()) {
        for port in 1..=6 {
            let expected = rules.iter().any(|((cidr, except), first)| {
                (*first..=*first + 1).contains(&port)
                    && cidr.contains(peer)
                    && !except.iter().any(|part| part.contains(peer))
            });
            prop_assert_eq!(allows(&image, Direction::Ingress, &peer.to_string(), PortKey::tcp(port)), expected);
        }
    }
    Ok(())
}

proptest! {
    #[test]
    fn ranges_hold_what_blocks_hold_v4(
        rules in prop::collection::vec((block(true), 1_u16..5), 0..40),
        peers in prop::collection::vec(0_u32..2048, 40),
    ) {
        let peers: Vec<IpAddr> = peers.into_iter().map(|n| Ipv4Addr::from(0x09ff_fe00 + n).into()).collect();
        check_blocks(&rules, &peers)?;
    }

    #[test]
    fn ranges_hold_what_blocks_hold_v6(
        rules in prop::collection::vec((block(false), 1_u16..5), 0..40),
        peers in prop::collection::vec(any::<u16>(), 40),
    ) {
        let peers: Vec<IpAddr> = peers
            .into_iter()
            .map(|n| Ipv6Addr::from(0xfd00_u128 << 112 | u128::from(n) << 54 | u128::from(n & 3)).into())
            .collect();
        check_blocks(&rules, &peers)?;
    }

    #[test]
    fn many_ranges_far_apart(networks in prop::collection::btree_set(any::<u16>(), 1..600), wide in any::<bool>()) {
        // Buckets of several ranges, and ranges that reach over buckets.
        let net = |n: u16| if wide { u32::from(n) << 16 } else { 0x0a00_0000 | u32::from(n) << 3 };
        let length = if wide { 18 } else { 30 };
        let rules = networks.iter().map(|n| {
            let cidr = IpNetwork::new(Ipv4Addr::from(net(*n)).into(), length).unwrap();
            rule(Peers::Only(vec![Peer::Cidr { cidr, except: Vec::new() }]), tcp(1 + n % 3, 1 + n % 3))
        });
        let image = image_of(vec![policy("p", rules.collect(), Vec::new())], snapshot());
        for n in &networks {
            let inside = Ipv4Addr::from(net(*n) | 1).to_string();
            let outside = Ipv4Addr::from(net(*n) + (1 << (32 - u32::from(length)))).to_string();
            for port in 1..4 {
                prop_assert_eq!(allows(&image, Direction::Ingress, &inside, PortKey::tcp(port)), port == 1 + n % 3);
                prop_assert!(!allows(&image, Direction::Ingress, &outside, PortKey::tcp(port)));
            }
        }
    }
}
