//! Raw frames whose source address does not belong to the sender.

use std::net::IpAddr;

use enforcer::lab::{Layout, UPLINK};
use enforcer_common::id::Direction;
use enforcer_common::verdict::Reason;
use enforcer_tests::cases::Port;
use enforcer_tests::net::wire::{Sender, device};
use enforcer_tests::packet::parts::{self, Route, protocol};

use super::attack::{Attack, arrive, fail};
use super::common::{check, dropped, open, passes, stage};

#[test]
fn a_workload_sends_from_its_own_addresses_only() {
    let mut stage = stage(Layout::Bridged, &["a", "b", "c"]);
    stage.policy("b.yaml", &open("b", "7000/udp"));
    let (sender, victim) = (Sender::open(stage.at("a"), "eth0").unwrap(), stage.tap("b"));
    let route = stage.route("a", Some("b"));
    // A neighbour's, the victim's own, the node's, nobody's, and what no host has.
    let sources = [
        "10.88.0.12",
        "10.88.0.11",
        "10.88.0.1",
        "100.64.0.1",
        "10.88.0.77",
        "172.16.5.5",
        "169.254.169.254",
        "0.0.0.0",
        "0.1.2.3",
        "127.0.0.1",
        "224.0.0.1",
        "255.255.255.255",
        "10.88.255.255",
        "fd00:88::12",
        "fd00:88::11",
        "fd00:88::1",
        "fd00:64::1",
        "fd00:88::77",
        "2001:db8::7",
        "fe80::77",
        "::",
        "::1",
        "ff02::1",
    ];
    // An IPv4 address inside of IPv6 is nobody's on a wire.
    let mapped = ["::ffff:10.88.0.12", "::ffff:10.88.0.10"].map(|source| (source, Reason::IpMalformed));
    let sources = sources.iter().map(|source| (*source, Reason::SpoofedSource));
    let attacks: Vec<Attack> = sources
        .chain(mapped)
        .map(|(source, reason)| {
            let source: IpAddr = source.parse().unwrap();
            let destination = stage.address("b", source.is_ipv4());
            Attack::new(format!("from {source}"), Direction::Egress, reason, |nonce| {
                parts::ip(route, source, destination, protocol::UDP, &parts::udp(4000, 7000, nonce))
            })
        })
        .collect();
    arrive(&sender, &victim, &attacks);
    stage.start();
    fail(&stage, "the daemon is alive", &sender, &victim, &attacks);
    let flows =
        [passes("a", "b", Port::Udp(7000)), dropped("a", "b", Port::Udp(7001)), passes("c", "b", Port::Udp(7000))];
    check(&stage, "from its own address", &flows);
    let record = stage.wait_record("the neighbour's address", |record| {
        record.reason == "spoofed-source" && record.source == Some("10.88.0.12".parse().unwrap())
    });
    assert_eq!([record.from.as_str(), record.to.as_str()], ["t/a", "t/b"], "the real sender: {record:#?}");
    stage.kill();
    fail(&stage, "the daemon is dead", &sender, &victim, &attacks);
}

#[test]
fn nobody_outside_sends_from_a_local_workloads_address() {
    for layout in [Layout::Bridged, Layout::Routed] {
        let mut stage = stage(layout, &["a", "b"]);
        stage.policy("b.yaml", &open("b", "7000/udp"));
        let (sender, victim) = (Sender::open(stage.lab.outside(), "eth0").unwrap(), stage.tap("b"));
        let route = Route {
            to: device(stage.lab.node(), UPLINK).unwrap().mac,
            from: device(stage.lab.outside(), "eth0").unwrap().mac,
        };
        // The receiver's own address is no case of IPv4: the node itself refuses to forward it.
        let sources = [("a", true), ("a", false), ("b", true), ("b", false)];
        let attacks: Vec<Attack> = sources
            .iter()
            .map(|(name, v4)| {
                let (source, destination) = (stage.address(name, *v4), stage.address("b", *v4));
                Attack::new(format!("from {source}"), Direction::Ingress, Reason::SpoofedSource, |nonce| {
                    parts::ip(route, source, destination, protocol::UDP, &parts::udp(4000, 7000, nonce))
                })
            })
            .collect();
        let genuine = |v4: bool| {
            let (source, destination) = (stage.address("a", v4), stage.address("b", v4));
            let route = stage.route("a", Some("b"));
            parts::ip(route, source, destination, protocol::UDP, &parts::udp(4000, 7000, b"genuine"))
        };
        let genuine = [true, false].map(genuine);
        arrive(&sender, &victim, &attacks);
        stage.start();
        fail(&stage, &format!("{layout:?}, no flow"), &sender, &victim, &attacks);
        let insider = Sender::open(stage.at("a"), "eth0").unwrap();
        for frame in &genuine {
            insider.send(frame).unwrap();
        }
        assert_eq!(victim.arrives(b"genuine", 2), 2, "the flow of a itself is allowed");
        fail(&stage, &format!("{layout:?}, into a live flow"), &sender, &victim, &attacks);
        for frame in &genuine {
            insider.send(frame).unwrap();
        }
        assert_eq!(victim.arrives(b"genuine", 4), 4, "and goes on");
        stage.kill();
        fail(&stage, &format!("{layout:?}, the daemon is dead"), &sender, &victim, &attacks);
    }
}
