//! Tests that the loaded programs let pass what keeps a workload on its link, in its narrow form and no wider (D16), and the
//! broadcast of its subnet.

use std::net::IpAddr;

use enforcer_common::{
    id::{OwnerId, Row},
    verdict::{Reason, Verdict},
};
use enforcer_tests::{
    bytecode::scene::{LO, OTHER, Scene, TAP, UPLINK, ip, who},
    packet::{Frame, Transport},
};

use crate::Both;
use crate::shapes::edited_ethertype;
use crate::verdicts::{ALLOW, deny, icmp, udp};

const OWN: &str = "fe80::2";
const ROUTER: &str = "fe80::1";
const GROUP: &[u8] = &[0; 16];
const NO_RULE: Verdict = Verdict::Deny(Reason::NoRule);

/// A closed workload that shows an address of the link.
fn scene() -> Scene {
    let mut scene = Scene { open: false, ..Scene::default() };
    scene.endpoint.addresses[2] = ip(OWN).into();
    scene.endpoint.owners[2] = OwnerId(102);
    scene.endpoint.owned = 3;
    scene
}

fn mld(kind: u8, source: &str, destination: &str, payload: &[u8]) -> Vec<u8> {
    let options: &[(u8, &[u8])] = &[(0, &[0, 0, 5, 2, 0, 0, 1, 0])];
    let frame = Frame::new(ip(source), ip(destination), icmp(kind));
    Frame { hop_limit: 1, extensions: options, payload, ..frame }.bytes()
}

fn igmp(source: &str, destination: &str, options: &[u8], message: &[u8]) -> Vec<u8> {
    let frame = Frame::new(ip(source), ip(destination), Transport::Other(2));
    Frame { hop_limit: 1, options, payload: message, ..frame }.bytes()
}

fn discovery(kind: u8, source: &str, destination: &str) -> Vec<u8> {
    Frame { hop_limit: 255, payload: GROUP, ..Frame::new(ip(source), ip(destination), icmp(kind)) }.bytes()
}

fn dhcp(source: &str, destination: &str, ports: (u16, u16), length: usize) -> Vec<u8> {
    let payload = vec![0; length];
    Frame { payload: &payload, ..Frame::new(ip(source), ip(destination), udp(ports.0, ports.1)) }.bytes()
}

const ALERT: &[u8] = &[0x94, 4, 0, 0];
const V3: &[u8] = &[0x22, 0, 0, 0, 0, 0, 0, 1, 4, 0, 0, 0, 224, 0, 0, 251];
const QUERY: &[u8] = &[0x11, 0, 0, 0, 0, 0, 0, 0];

#[test]
fn what_keeps_a_closed_workload_on_its_link_passes_without_a_flow() {
    let Some(both) = Both::new(&scene()) else { return };
    let own = who::WORKLOAD[0];
    for (why, frame) in [
        ("a report of MLD", mld(143, OWN, "ff02::16", GROUP)),
        ("a report from no address", mld(143, "::", "ff02::16", GROUP)),
        ("one of MLD version 1", mld(131, OWN, "ff02::1:ff00:2", GROUP)),
        ("who leaves", mld(132, OWN, "ff02::2", GROUP)),
        ("a report of IGMP", igmp(own, "224.0.0.22", ALERT, V3)),
        ("one of version 2", igmp(own, "224.0.0.251", ALERT, &[0x16, 0, 0, 0, 224, 0, 0, 251])),
        ("who asks for routers", discovery(133, OWN, "ff02::2")),
        ("a client of DHCP without an address", dhcp("0.0.0.0", "255.255.255.255", (68, 67), 300)),
        ("a client of DHCPv6", dhcp(OWN, "ff02::1:2", (546, 547), 300)),
    ] {
        assert_eq!(both.sends(&frame), ALLOW, "{why}");
    }
    for from in [0, UPLINK] {
        for (why, frame) in [
            ("a query of MLD", mld(130, ROUTER, "ff02::1", GROUP)),
            ("a query of IGMP", igmp("0.0.0.0", "224.0.0.1", ALERT, QUERY)),
            ("a router", discovery(134, ROUTER, "ff02::1")),
            ("an answer of DHCP", dhcp("10.0.0.200", own, (67, 68), 300)),
            ("an offer of DHCP", dhcp("10.0.0.200", "10.0.0.77", (67, 68), 300)),
            ("an answer of DHCPv6", dhcp(ROUTER, OWN, (547, 546), 300)),
        ] {
            assert_eq!(both.receives(from, &frame), ALLOW, "{why} from {from}");
        }
    }
    assert_eq!(both.node.flows().unwrap(), [], "no flow");
    assert_eq!(both.node.all_counts().unwrap().logged, 0, "no record");
}

#[test]
fn what_is_wider_or_comes_from_elsewhere_does_not_pass() {
    let Some(both) = Both::new(&scene()) else { return };
    let own = who::WORKLOAD[0];
    for (why, frame, verdict) in [
        ("a long report", mld(143, OWN, "ff02::16", &[0; 505]), NO_RULE),
        ("a report to a neighbour", mld(131, OWN, who::NEIGHBOUR[1], GROUP), NO_RULE),
        ("IGMP without the alert", igmp(own, "224.0.0.22", &[], V3), NO_RULE),
        ("IGMP with another option", igmp(own, "224.0.0.22", &[7, 3, 4, 0], V3), deny(Reason::IpOptions)),
        ("IGMP to a neighbour", igmp(own, who::NEIGHBOUR[0], ALERT, V3), deny(Reason::IpOptions)),
        ("long IGMP", igmp(own, "224.0.0.22", ALERT, &[0x22; 516]), deny(Reason::IpOptions)),
        ("a query of MLD", mld(130, OWN, "ff02::1", GROUP), deny(Reason::RouterAdvertisement)),
        ("a query of IGMP", igmp(own, "224.0.0.1", ALERT, QUERY), deny(Reason::RouterAdvertisement)),
        ("a plain query of IGMP", igmp(own, "224.0.0.1", &[], QUERY), deny(Reason::RouterAdvertisement)),
        ("who asks a neighbour for routers", discovery(133, OWN, who::NEIGHBOUR[1]), NO_RULE),
        ("long DHCP", dhcp(own, "255.255.255.255", (68, 67), 549), NO_RULE),
        ("DHCP to a neighbour", dhcp(own, who::NEIGHBOUR[0], (68, 67), 300), NO_RULE),
        ("a server of DHCP", dhcp(own, "255.255.255.255", (67, 68), 300), NO_RULE),
        ("a report in another's name", mld(143, "fe80::99", "ff02::16", GROUP), deny(Reason::SpoofedSource)),
    ] {
        assert_eq!(both.sends(&frame), verdict, "{why}");
    }
    for from in [OTHER, TAP] {
        for (why, frame, verdict) in [
            ("a query of MLD", mld(130, ROUTER, "ff02::1", GROUP), NO_RULE),
            ("a query of IGMP", igmp("0.0.0.0", "224.0.0.1", ALERT, QUERY), NO_RULE),
            ("a router", discovery(134, ROUTER, "ff02::1"), NO_RULE),
            ("an answer of DHCP", dhcp("10.0.0.200", own, (67, 68), 300), NO_RULE),
            ("an offer of DHCP", dhcp("10.0.0.200", "10.0.0.77", (67, 68), 300), deny(Reason::NotAddressed)),
            ("an answer of DHCPv6", dhcp(ROUTER, OWN, (547, 546), 300), NO_RULE),
        ] {
            assert_eq!(both.receives(from, &frame), verdict, "{why} from {from}");
        }
    }
}

#[test]
fn stp_and_lldp_come_from_the_node_alone() {
    let Some(both) = Both::new(&scene()) else { return };
    let plain = |group: u8| Frame {
        macs: [[1, 0x80, 0xc2, 0, 0, group], [2; 6]],
        ..Frame::new(ip("10.0.0.1"), ip("10.0.0.1"), udp(1, 2))
    };
    let lldp = edited_ethertype(&plain(0x0e), [0x88, 0xcc]);
    let mut stp = edited_ethertype(&plain(0), [0, 28]);
    stp[14..17].copy_from_slice(&[0x42, 0x42, 3]);
    for frame in [lldp, stp] {
        assert_eq!(both.receives(0, &frame), ALLOW, "{frame:02x?}");
        for from in [OTHER, UPLINK, TAP] {
            assert_eq!(both.receives(from, &frame), deny(Reason::Ethertype), "{from}: {frame:02x?}");
        }
        assert_eq!(both.sends(&frame), deny(Reason::Ethertype), "{frame:02x?}");
    }
}

#[test]
fn the_broadcast_of_the_subnet_is_judged_and_other_addresses_are_not_the_workloads() {
    let Some(both) = Both::new(&Scene::default()) else { return };
    let to = |destination: IpAddr, port| Frame::new(ip(who::FRIEND[0]), destination, udp(5000, port)).bytes();
    assert_eq!(both.receives(LO, &to(ip(who::BROADCAST), 53)), ALLOW, "a rule for its sender");
    assert_eq!(both.receives(LO, &to(ip(who::BROADCAST), 54)), NO_RULE, "and for no other port");
    assert_eq!(both.receives(LO, &to(ip("10.0.1.255"), 53)), deny(Reason::NotAddressed), "another subnet's");
    let elsewhere =
        Frame { macs: [[0xff; 6], [2; 6]], ..Frame::new(ip(who::FRIEND[0]), ip("10.9.9.255"), udp(5000, 53)) };
    assert_eq!(both.receives(LO, &elsewhere.bytes()), deny(Reason::NotAddressed), "the workload is isolated");
    let mut open = Scene::default();
    open.endpoint.rows = [[Row::NOT_ISOLATED; 2]; 2];
    let Some(both) = Both::new(&open) else { return };
    // The scene has one veth, which stands for the sender's, too.
    assert_eq!(both.receives(LO, &elsewhere.bytes()), ALLOW, "between two that nothing isolates");
    assert_eq!(both.receives(OTHER, &elsewhere.bytes()), deny(Reason::NotAddressed), "of no workload of the bridge");
    let flooded = Frame { macs: [[2; 6]; 2], ..elsewhere.clone() }.bytes();
    assert_eq!(both.receives(LO, &flooded), deny(Reason::NotAddressed), "in a frame for one station");
    let taken = Frame { destination: ip(who::NEIGHBOUR[0]), ..elsewhere }.bytes();
    assert_eq!(both.receives(LO, &taken), deny(Reason::NotAddressed), "somebody's address");
}
