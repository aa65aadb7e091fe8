//! The guard of devices that lead to no workload, and the program of a veth for which there is no room.

use enforcer_common::{
    denial::Counts,
    id::{Address, Direction, Ifindex},
    verdict::Reason,
};
use enforcer_tests::{
    bytecode::{
        node::Node,
        scene::{LO, Scene, ip, who},
    },
    packet::{Frame, Transport},
};

use crate::Both;

/// The frame with inline tags before its ethertype, outermost first.
fn tagged(frame: &[u8], tags: &[[u8; 2]]) -> Vec<u8> {
    let (macs, rest) = frame.split_at(12);
    let tags = tags.iter().flat_map(|tag| [tag[0], tag[1], 0, 10]);
    macs.iter().copied().chain(tags).chain(rest.iter().copied()).collect()
}

fn node(scene: &Scene) -> Option<Node> {
    Both::new(scene).map(|both| both.node)
}

const TAGS: [&[[u8; 2]]; 4] = [&[], &[[0x81, 0]], &[[0x88, 0xa8], [0x81, 0]], &[[0x81, 0]; 4]];

#[test]
fn the_guard_drops_a_workloads_source_that_is_not_at_home_and_lets_all_else_pass() {
    let Some(mut node) = node(&Scene::default()) else { return };
    for family in 0..2 {
        for transport in
            [Transport::syn(40_000, 80), Transport::Udp { source: 1, destination: 2 }, Transport::Other(47)]
        {
            for tags in TAGS {
                for (source, passes, why) in [
                    (who::NEIGHBOUR, false, "a workload that is at home elsewhere"),
                    (who::WORKLOAD, true, "one that is at home there"),
                    (who::NODE, true, "the node"),
                    (who::STRANGER, true, "anybody else"),
                ] {
                    for destination in [who::WORKLOAD, who::NODE, who::STRANGER] {
                        let frame = Frame::new(ip(source[family]), ip(destination[family]), transport).bytes();
                        let found = node.lets_pass("guard", &tagged(&frame, tags)).unwrap();
                        assert_eq!(found, passes, "{why}, to {}, behind {tags:x?}", destination[family]);
                    }
                }
            }
        }
    }
    assert!(!node.events().unwrap().is_empty());
}

#[test]
fn what_the_guard_drops_is_counted_once_and_told_with_its_device() {
    let Some(mut node) = node(&Scene::default()) else { return };
    let frame = |family: usize| {
        Frame::new(ip(who::NEIGHBOUR[family]), ip(who::NODE[family]), Transport::echo_request(family == 0, 7)).bytes()
    };
    for family in 0..2 {
        assert!(!node.lets_pass("guard", &frame(family)).unwrap());
        assert!(!node.lets_pass("guard", &tagged(&frame(family), &[[0x81, 0]])).unwrap());
    }
    let expected = Counts { logged: 2, suppressed: 2, lost: 0 };
    assert_eq!(node.counts(Direction::Ingress, Reason::SpoofedSource).unwrap(), expected);
    assert_eq!(node.all_counts().unwrap(), expected, "and as nothing else");
    let events = node.events().unwrap();
    for (family, event) in events.iter().enumerate() {
        let key = event.way.key;
        assert_eq!(key.workload.device(), Some(Ifindex(LO)));
        assert_eq!(key.reason, Reason::SpoofedSource as u8);
        assert_eq!(key.peer, Address::from(ip(who::NEIGHBOUR[family])), "who it says it is");
        assert_eq!(event.way.local, Address::from(ip(who::NODE[family])), "to whom");
        assert_eq!(key.revision, Scene::default().word.revision);
    }
    assert_eq!(events.len(), 2);
}

#[test]
fn the_guard_is_no_judge_of_what_it_cannot_read() {
    let Some(node) = node(&Scene::default()) else { return };
    let whole = Frame::new(ip(who::NEIGHBOUR[0]), ip(who::NODE[0]), Transport::Other(47)).bytes();
    let mut arp = whole.clone();
    arp[12..14].copy_from_slice(&[8, 6]);
    for (frame, why) in [(arp, "ARP"), (tagged(&whole, &[[0x81, 0]; 5]), "more tags than are read")] {
        assert!(node.lets_pass("guard", &frame).unwrap(), "{why}");
    }
}

#[test]
fn a_veth_without_room_gets_arp_only_and_its_program_uses_no_map() {
    let Some(node) = node(&Scene::default()) else { return };
    let info = node.program("closed").unwrap().info().unwrap();
    assert_eq!(info.map_ids().unwrap(), Some(Vec::new()), "closed must need nothing");
    for family in 0..2 {
        for transport in [Transport::syn(1, 80), Transport::Udp { source: 68, destination: 67 }, Transport::Other(47)] {
            for (source, destination) in [(who::WORKLOAD, who::FRIEND), (who::NODE, who::WORKLOAD)] {
                let frame = Frame::new(ip(source[family]), ip(destination[family]), transport).bytes();
                assert!(!node.lets_pass("closed", &frame).unwrap());
            }
        }
    }
    let mut arp = Frame::new(ip(who::WORKLOAD[0]), ip(who::FRIEND[0]), Transport::Other(0)).bytes();
    arp[12..14].copy_from_slice(&[8, 6]);
    arp.resize(64, 0);
    assert!(node.lets_pass("closed", &arp).unwrap());
    assert!(!node.lets_pass("closed", &tagged(&arp[..60], &[[0x81, 0]])).unwrap(), "tagged");
    arp.push(0);
    assert!(!node.lets_pass("closed", &arp).unwrap(), "it would carry something else");
}
