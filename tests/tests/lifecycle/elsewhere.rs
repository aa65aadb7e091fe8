//! Packets with a local workload's address as their source that come from elsewhere than that workload, by any device or from
//! the node itself (D3, D12).

use std::time::Duration;

use enforcer::lab::{Layout, UPLINK};
use enforcer_common::id::Direction;
use enforcer_common::verdict::Reason;
use enforcer_tests::cases::Port;
use enforcer_tests::net::tun::{Layer, Tun};
use enforcer_tests::net::wire::{Inject, Sender, device};
use enforcer_tests::packet::parts::{self, Route, protocol};
use enforcer_tests::stage::Stage;

use super::attack::{Attack, arrive, fail};
use super::common::{NODE, check, open, passes, policy, stage};

const FAMILIES: [bool; 2] = [true, false];
const LAYOUTS: [Layout; 2] = [Layout::Bridged, Layout::Routed];

/// A device of the node whose far side is this test.
fn card(stage: &Stage, name: &str, layer: Layer, master: &str) -> Tun {
    let tun = Tun::open(stage.lab.node(), name, layer).unwrap();
    if !master.is_empty() {
        stage.ip(stage.lab.node(), &format!("link set {name} master {master}"));
    }
    stage.ip(stage.lab.node(), &format!("link set {name} up"));
    tun
}

/// A datagram of `a` for `b`, in each family. `shape` makes a frame of the packet.
fn for_b(stage: &Stage, route: Route, shape: impl Fn(Vec<u8>) -> Vec<u8>) -> Vec<Attack> {
    let attack = |v4: bool| {
        let (source, destination) = (stage.address("a", v4), stage.address("b", v4));
        Attack::new(format!("from {source}"), Direction::Ingress, Reason::SpoofedSource, |nonce| {
            shape(parts::ip(route, source, destination, protocol::UDP, &parts::udp(4000, 7000, nonce)))
        })
    };
    FAMILIES.map(attack).into()
}

/// Each attack arrives at `b` without enforcement, and neither with a daemon nor after it is dead with it.
fn none_arrives(mut stage: Stage, what: &str, sender: &impl Inject, attacks: &[Attack]) -> Stage {
    let victim = stage.tap("b");
    stage.policy("b.yaml", &open("b", "7000/udp"));
    arrive(sender, &victim, attacks);
    stage.start();
    fail(&stage, &format!("{what}, the daemon is alive"), sender, &victim, attacks);
    stage.kill();
    fail(&stage, &format!("{what}, the daemon is dead"), sender, &victim, attacks);
    stage
}

#[test]
fn another_card_of_the_node_does_not_speak_for_a_workload() {
    for layout in LAYOUTS {
        let stage = stage(layout, &["a", "b"]);
        let card = card(&stage, "card0", Layer::Tap, "");
        let route = Route { to: device(stage.lab.node(), "card0").unwrap().mac, from: [2, 0, 0, 0, 0, 9] };
        let attacks = for_b(&stage, route, |frame| frame);
        let mut stage = none_arrives(stage, &format!("{layout:?}"), &card, &attacks);
        // The killed daemon may not have written the records yet; the next one does.
        stage.start_only();
        let record = stage.wait_record("the card's", |record| record.reason == "spoofed-source");
        let flow = &record.line["flow"];
        assert_eq!(flow["interface"]["name"], "card0", "{record:#?}");
        assert_eq!(flow["source"]["labels"][0], "reserved:world", "{record:#?}");
        assert_eq!(record.to, "t/b", "{record:#?}");
    }
}

#[test]
fn a_tunnel_whose_frames_begin_with_an_ip_header_does_not_speak_for_a_workload() {
    let stage = stage(Layout::Bridged, &["a", "b"]);
    let tunnel = card(&stage, "tun0", Layer::Tun, "");
    let nowhere = Route { to: [0; 6], from: [0; 6] };
    let attacks = for_b(&stage, nowhere, |frame| frame[14..].to_vec());
    none_arrives(stage, "tun", &tunnel, &attacks);
}

#[test]
fn another_port_of_the_bridge_does_not_speak_for_a_workload() {
    let stage = stage(Layout::Bridged, &["a", "b"]);
    let port = card(&stage, "vm0", Layer::Tap, "br0");
    let route = Route { to: device(stage.at("b"), "eth0").unwrap().mac, from: [2, 0, 0, 0, 0, 9] };
    let attacks = for_b(&stage, route, |frame| frame);
    none_arrives(stage, "a port", &port, &attacks);
}

/// The frame with an 802.1Q tag.
fn tagged(frame: &[u8]) -> Vec<u8> {
    [&frame[..12], &[0x81, 0, 0, 7], &frame[12..]].concat()
}

#[test]
fn a_neighbour_of_the_workload_sees_no_forged_source_and_a_tag_hides_none() {
    let mut stage = stage(Layout::Bridged, &["a", "b"]);
    let attacker = card(&stage, "vm0", Layer::Tap, "br0");
    let victim = card(&stage, "vm1", Layer::Tap, "br0");
    stage.ip(stage.lab.node(), "link set br0 type bridge mcast_snooping 0");
    let route = Route { to: [0xff; 6], from: [2, 0, 0, 0, 0, 9] };
    let frames = |v4: bool| {
        let (source, stranger) = (stage.address("a", v4), if v4 { "10.88.0.99" } else { "fd00:88::99" });
        let stranger = stranger.parse().unwrap();
        let frame =
            |source, nonce: &[u8]| parts::ip(route, source, stranger, protocol::UDP, &parts::udp(4000, 7000, nonce));
        let [plain, tag, honest] = [(); 3].map(|()| enforcer_tests::traffic::nonce());
        let own = if v4 { "10.88.0.98" } else { "fd00:88::98" }.parse().unwrap();
        [
            ("plain", plain, frame(source, &plain), false),
            ("tagged", tag, tagged(&frame(source, &tag)), false),
            ("its own", honest, tagged(&frame(own, &honest)), true),
        ]
    };
    let frames = FAMILIES.map(frames).concat();
    let look = |when: &str, enforced: bool| {
        for (what, nonce, frame, honest) in &frames {
            attacker.inject(frame).unwrap();
            let expected = usize::from(*honest || !enforced);
            assert_eq!(victim.arrived(nonce, expected, Duration::from_millis(150)), expected, "{when}: {what}");
        }
    };
    look("positive control", false);
    stage.start();
    look("the daemon is alive", true);
    stage.kill();
    look("the daemon is dead", true);
}

#[test]
fn the_node_is_no_mirror_for_a_forged_source() {
    for layout in LAYOUTS {
        let mut stage = stage(layout, &["a", "b"]);
        stage.policy("a.yaml", &policy("a", "[ingress, egress]", ""));
        let (sender, victim) = (Sender::open(stage.lab.outside(), "eth0").unwrap(), stage.tap("a"));
        super::errors::unlimited(&stage, "node");
        let route = Route {
            to: device(stage.lab.node(), UPLINK).unwrap().mac,
            from: device(stage.lab.outside(), "eth0").unwrap().mac,
        };
        let attacks: Vec<Attack> = FAMILIES
            .into_iter()
            .flat_map(|v4| {
                let (source, node) = (stage.address("a", v4), NODE[usize::from(!v4)].parse().unwrap());
                let attack = |name: &str, protocol, body: &dyn Fn(&[u8]) -> Vec<u8>| {
                    let name = format!("{name} of {source}");
                    Attack::new(name, Direction::Ingress, Reason::SpoofedSource, |nonce| {
                        parts::ip(route, source, node, protocol, &body(nonce))
                    })
                };
                let echo = |nonce: &[u8]| {
                    let rest = [&[0, 7, 0, 1], nonce, &[0x55; 776]].concat();
                    if v4 { parts::icmp(8, 0, &rest) } else { icmpv6(source, node, 128, &rest) }
                };
                let icmp = if v4 { protocol::ICMP } else { protocol::ICMPV6 };
                let closed = |nonce: &[u8]| checked_udp(source, node, &[nonce, &[0x55; 400]].concat());
                [attack("a ping", icmp, &echo), attack("a closed port", protocol::UDP, &closed)]
            })
            .collect();
        arrive(&sender, &victim, &attacks);
        stage.start();
        fail(&stage, &format!("{layout:?}, the daemon is alive"), &sender, &victim, &attacks);
        stage.kill();
        fail(&stage, &format!("{layout:?}, the daemon is dead"), &sender, &victim, &attacks);
    }
}

/// An ICMPv6 message with its checksum: the node has to take it.
fn icmpv6(source: std::net::IpAddr, destination: std::net::IpAddr, kind: u8, rest: &[u8]) -> Vec<u8> {
    let mut message = [&[kind, 0, 0, 0][..], rest].concat();
    let sum = parts::checksum(&pseudo(source, destination, protocol::ICMPV6, &message));
    message[2..4].copy_from_slice(&sum.to_be_bytes());
    message
}

/// A datagram to a closed port with its checksum: without one the node takes none over IPv6.
fn checked_udp(source: std::net::IpAddr, destination: std::net::IpAddr, payload: &[u8]) -> Vec<u8> {
    let mut datagram = parts::udp(4000, 9, payload);
    let sum = parts::checksum(&pseudo(source, destination, protocol::UDP, &datagram));
    datagram[6..8].copy_from_slice(&sum.to_be_bytes());
    datagram
}

/// What the checksum is over (RFC 768, RFC 8200 8.1).
fn pseudo(source: std::net::IpAddr, destination: std::net::IpAddr, protocol: u8, body: &[u8]) -> Vec<u8> {
    let octets = |address| match address {
        std::net::IpAddr::V4(v4) => v4.octets().to_vec(),
        std::net::IpAddr::V6(v6) => v6.octets().to_vec(),
    };
    let length = (body.len() as u32).to_be_bytes();
    [&octets(source)[..], &octets(destination), &length, &[0, 0, 0, protocol], body].concat()
}

/// Sends by a device whose own program drops the frames: the kernel tells the sender so.
struct Refused(Sender);

impl Inject for Refused {
    fn inject(&self, frame: &[u8]) -> std::io::Result<()> {
        match self.0.send(frame) {
            Err(error) if error.raw_os_error() == Some(libc::ENOBUFS) => Ok(()),
            other => other,
        }
    }
}

#[test]
fn the_node_itself_does_not_send_as_a_workload() {
    for layout in LAYOUTS {
        let stage = stage(layout, &["a", "b"]);
        let sender = Refused(Sender::open(stage.lab.node(), stage.host("b")).unwrap());
        let route = Route { to: device(stage.at("b"), "eth0").unwrap().mac, from: [2, 0, 0, 0, 0, 9] };
        let attacks = for_b(&stage, route, |frame| frame);
        let mut stage = none_arrives(stage, &format!("{layout:?}, the node"), &sender, &attacks);
        stage.start();
        check(
            &stage,
            "under its own address",
            &[passes("node", "b", Port::Udp(7001)), passes("a", "b", Port::Udp(7000))],
        );
    }
}
