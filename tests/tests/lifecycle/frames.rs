//! Raw frames from a workload to its neighbour on the bridge. Their shape is the attack, and their addresses are correct.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use enforcer::lab::Layout;
use enforcer_common::id::Direction;
use enforcer_common::verdict::Reason;
use enforcer_tests::net::ring;
use enforcer_tests::net::wire::Sender;
use enforcer_tests::packet::parts::{Ipv4, Ipv6, Route, ethernet, icmp, ip, protocol, tcp, udp};
use enforcer_tests::stage::Stage;
use enforcer_tests::traffic::nonce;

use super::attack::{Attack, arrive, fail};
use super::common::{open, stage, switch_past_netfilter};

/// The two ends, and how a frame gets from one to the other.
struct Ends {
    route: Route,
    v4: [Ipv4Addr; 2],
    v6: [Ipv6Addr; 2],
}

impl Ends {
    fn of(stage: &Stage) -> Self {
        let v4 = ["a", "b"].map(|name| match stage.address(name, true) {
            IpAddr::V4(address) => address,
            IpAddr::V6(_) => unreachable!("asked for IPv4"),
        });
        let v6 = ["a", "b"].map(|name| match stage.address(name, false) {
            IpAddr::V6(address) => address,
            IpAddr::V4(_) => unreachable!("asked for IPv6"),
        });
        Self { route: stage.route("a", Some("b")), v4, v6 }
    }

    fn ipv4(&self) -> Ipv4<'static> {
        Ipv4 { source: self.v4[0], destination: self.v4[1], ..Ipv4::PLAIN }
    }

    fn ipv6(&self, next: u8, body: &[u8]) -> Vec<u8> {
        let packet = Ipv6 { source: self.v6[0], destination: self.v6[1], next, hop_limit: 64 }.packet(body);
        ethernet(self.route, 0x86dd, &packet)
    }

    /// To the allowed port, so that nothing but the shape is wrong.
    fn v4(&self, name: &str, reason: Reason, shape: impl Fn(Ipv4<'static>) -> Ipv4<'static>) -> Attack {
        Attack::new(name, Direction::Egress, reason, |nonce| {
            ethernet(self.route, 0x0800, &shape(self.ipv4()).packet(&udp(4000, 7000, nonce)))
        })
    }

    fn v6(&self, name: &str, reason: Reason, next: u8, headers: &[u8]) -> Attack {
        Attack::new(name, Direction::Egress, reason, |nonce| {
            self.ipv6(next, &[headers, &udp(4000, 7000, nonce)].concat())
        })
    }

    /// To a port that policy closes at the receiver.
    fn closed(&self, name: &str, number: u8, body: impl Fn(&[u8]) -> Vec<u8>) -> [Attack; 2] {
        [true, false].map(|v4| {
            let (source, destination) = if v4 {
                (IpAddr::V4(self.v4[0]), IpAddr::V4(self.v4[1]))
            } else {
                (IpAddr::V6(self.v6[0]), IpAddr::V6(self.v6[1]))
            };
            Attack::new(format!("{name}, IPv4 {v4}"), Direction::Ingress, Reason::NoRule, |nonce| {
                ip(self.route, source, destination, number, &body(nonce))
            })
        })
    }
}

/// A stage whose `b` is open at 7000/udp and 7000/tcp.
fn two() -> Stage {
    let stage = stage(Layout::Bridged, &["a", "b"]);
    stage.policy("b.yaml", &open("b", "7000/udp, 7000/tcp"));
    // A segment without state is a new flow.
    stage.settings("older_connections_seconds: 0\n");
    // What the bridge itself thinks of headers is not under test.
    stage.ip(stage.lab.node(), "link set br0 type bridge mcast_snooping 0");
    switch_past_netfilter(&stage);
    stage
}

fn all_fail(attacks: impl FnOnce(&Ends) -> Vec<Attack>) {
    let mut stage = two();
    let (sender, victim) = (Sender::open(stage.at("a"), "eth0").unwrap(), stage.tap("b"));
    let attacks = attacks(&Ends::of(&stage));
    arrive(&sender, &victim, &attacks);
    stage.start();
    fail(&stage, "the daemon is alive", &sender, &victim, &attacks);
    stage.kill();
    fail(&stage, "the daemon is dead", &sender, &victim, &attacks);
}

#[test]
fn tags_and_ethertypes() {
    all_fail(|ends| {
        let inner = |nonce: &[u8]| ends.ipv4().packet(&udp(4000, 7000, nonce));
        let mut attacks = Vec::new();
        for (tag, id) in [(0x8100_u16, 0_u16), (0x8100, 100), (0x88a8, 100)] {
            attacks.push(Attack::new(format!("tag {tag:#06x} {id}"), Direction::Egress, Reason::Vlan, |nonce| {
                let body = [&id.to_be_bytes()[..], &[0x08, 0x00], &inner(nonce)].concat();
                ethernet(ends.route, tag, &body)
            }));
        }
        attacks.push(Attack::new("two tags", Direction::Egress, Reason::Vlan, |nonce| {
            let body = [&[0, 5, 0x81, 0, 0, 6, 0x08, 0x00][..], &inner(nonce)].concat();
            ethernet(ends.route, 0x8100, &body)
        }));
        // LLDP, MPLS, PPPoE, TSN, MACsec, PROFINET, loopback, a length.
        for ethertype in [0x88cc, 0x8847, 0x8848, 0x8863, 0x8864, 0x22f0, 0x88e5, 0x8892, 0x9000, 0x0040, 0x05dc] {
            attacks.push(Attack::new(format!("{ethertype:#06x}"), Direction::Egress, Reason::Ethertype, |nonce| {
                ethernet(ends.route, ethertype, &inner(nonce))
            }));
        }
        attacks.push(Attack::new("ARP with a passenger", Direction::Egress, Reason::Ethertype, |nonce| {
            ethernet(ends.route, 0x0806, &[&[0, 1, 8, 0, 6, 4, 0, 2][..], &[0; 20], &[0; 40], nonce].concat())
        }));
        attacks
    });
}

#[test]
fn fragments_options_and_extension_headers() {
    all_fail(|ends| {
        let fragment = |offset: u16, more: bool| {
            let field = (offset << 3 | u16::from(more)).to_be_bytes();
            [&[protocol::UDP, 0][..], &field, &[0, 0, 0, 7]].concat()
        };
        vec![
            ends.v4("first fragment", Reason::Fragment, |ip| Ipv4 { fragment: 0x2000, ..ip }),
            ends.v4("middle fragment", Reason::Fragment, |ip| Ipv4 { fragment: 0x20b9, ..ip }),
            ends.v4("last fragment", Reason::Fragment, |ip| Ipv4 { fragment: 185, ..ip }),
            ends.v4("fragment that may not be one", Reason::Fragment, |ip| Ipv4 { fragment: 0x6000, ..ip }),
            ends.v4("no operation", Reason::IpOptions, |ip| Ipv4 { options: &[1, 1, 1, 0], ..ip }),
            ends.v4("router alert", Reason::IpOptions, |ip| Ipv4 { options: &[0x94, 4, 0, 0], ..ip }),
            ends.v4("source route", Reason::IpOptions, |ip| Ipv4 { options: &[0x83, 7, 4, 10, 88, 0, 12, 0], ..ip }),
            ends.v6("first fragment", Reason::Fragment, 44, &fragment(0, true)),
            ends.v6("later fragment", Reason::Fragment, 44, &fragment(185, false)),
            ends.v6(
                "fragment behind options",
                Reason::Fragment,
                60,
                &[&[44, 0, 1, 4, 0, 0, 0, 0], &fragment(1, true)[..]].concat(),
            ),
            ends.v6(
                "routing header 0",
                Reason::ExtensionHeader,
                43,
                &[protocol::UDP, 2, 0, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0],
            ),
            ends.v6("routing header 4", Reason::ExtensionHeader, 43, &[protocol::UDP, 0, 4, 0, 0, 0, 0, 0]),
            ends.v6("seven headers", Reason::ExtensionHeader, 60, &[[60, 0, 1, 4, 0, 0, 0, 0]; 7].concat()),
        ]
    });
}

#[test]
fn headers_that_contradict_themselves() {
    all_fail(|ends| {
        let short = |name: &str, number: u8, body: &dyn Fn(&[u8]) -> Vec<u8>| {
            let v4 = Attack::new(format!("{name}, IPv4"), Direction::Egress, Reason::L4Short, |nonce| {
                ethernet(ends.route, 0x0800, &Ipv4 { protocol: number, ..ends.ipv4() }.packet(&body(nonce)))
            });
            let v6 = Attack::new(format!("{name}, IPv6"), Direction::Egress, Reason::L4Short, |nonce| {
                ends.ipv6(number, &body(nonce))
            });
            [v4, v6]
        };
        let mut attacks = vec![
            ends.v4("header of 16 bytes", Reason::IpMalformed, |ip| Ipv4 { first_byte: Some(0x44), ..ip }),
            ends.v4("header of no bytes", Reason::IpMalformed, |ip| Ipv4 { first_byte: Some(0x40), ..ip }),
            ends.v4("version 5", Reason::IpMalformed, |ip| Ipv4 { first_byte: Some(0x55), ..ip }),
            ends.v4("version 6 as IPv4", Reason::IpMalformed, |ip| Ipv4 { first_byte: Some(0x65), ..ip }),
            ends.v4("longer than the frame", Reason::IpMalformed, |ip| Ipv4 { total: Some(1400), ..ip }),
            ends.v4("shorter than its header", Reason::IpMalformed, |ip| Ipv4 { total: Some(19), ..ip }),
            Attack::new("IPv4 as IPv6", Direction::Egress, Reason::IpMalformed, |nonce| {
                ethernet(ends.route, 0x86dd, &ends.ipv4().packet(&udp(4000, 7000, nonce)))
            }),
            Attack::new("IPv6 longer than the frame", Direction::Egress, Reason::IpMalformed, |nonce| {
                let mut frame = ends.ipv6(protocol::UDP, &udp(4000, 7000, nonce));
                frame[18..20].copy_from_slice(&1400_u16.to_be_bytes());
                frame
            }),
        ];
        attacks.extend(short("TCP header of 16 bytes", protocol::TCP, &|nonce| {
            let mut segment = tcp(4000, 7000, 2, nonce);
            segment[12] = 0x40;
            segment
        }));
        attacks.extend(short("UDP length of 7", protocol::UDP, &|nonce| {
            let mut datagram = udp(4000, 7000, nonce);
            datagram[4..6].copy_from_slice(&7_u16.to_be_bytes());
            datagram
        }));
        attacks
    });
}

#[test]
fn routers_that_are_none() {
    all_fail(|ends| {
        let all = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 1);
        let mut attacks = Vec::new();
        for (kind, name) in [(134, "router advertisement"), (137, "redirect")] {
            for destination in [all, ends.v6[1]] {
                let name = format!("{name} to {destination}");
                attacks.push(Attack::new(name, Direction::Egress, Reason::RouterAdvertisement, |nonce| {
                    let body = icmp(kind, 0, &[&[0; 12][..], nonce].concat());
                    let packet = Ipv6 { source: ends.v6[0], destination, next: protocol::ICMPV6, hop_limit: 255 };
                    ethernet(ends.route, 0x86dd, &packet.packet(&body))
                }));
            }
        }
        attacks
    });
}

#[test]
fn segments_and_protocols_that_policy_does_not_allow() {
    all_fail(|ends| {
        let mut attacks = Vec::new();
        let flags = [("SYN", 2), ("SYN and ACK", 0x12), ("ACK", 0x10), ("PSH and ACK", 0x18), ("FIN", 1), ("RST", 4)];
        for (name, flags) in flags.into_iter().chain([("NULL", 0), ("XMAS", 0x29)]) {
            attacks.extend(ends.closed(name, protocol::TCP, move |nonce| tcp(4000, 7001, flags, nonce)));
            attacks.extend(
                ends.closed(&format!("{name} as a reply"), protocol::TCP, move |nonce| tcp(7000, 4000, flags, nonce)),
            );
        }
        // An allowed port in the wrong protocol, port 0, IPIP, GRE, ESP, AH, UDP-Lite, DCCP, 253.
        attacks.extend(
            ends.closed("SCTP", protocol::SCTP, |nonce| enforcer_tests::packet::parts::sctp_init(4000, 7000, nonce)),
        );
        attacks.extend(ends.closed("port 0", protocol::UDP, |nonce| udp(4000, 0, nonce)));
        attacks.extend(ends.closed("port 65535", protocol::UDP, |nonce| udp(4000, 65_535, nonce)));
        for number in [4, 41, 47, 50, 136, 33, 253] {
            attacks.extend(ends.closed(&format!("protocol {number}"), number, |nonce| udp(4000, 7000, nonce)));
        }
        let groups: [(&str, IpAddr); 4] = [
            ("224.0.0.251", IpAddr::V4(ends.v4[0])),
            ("255.255.255.255", IpAddr::V4(ends.v4[0])),
            ("10.88.255.255", IpAddr::V4(ends.v4[0])),
            ("ff02::fb", IpAddr::V6(ends.v6[0])),
        ];
        for (group, source) in groups {
            let destination: IpAddr = group.parse().unwrap();
            attacks.push(Attack::new(group, Direction::Ingress, Reason::NoRule, |nonce| {
                ip(ends.route, source, destination, protocol::UDP, &udp(4000, 5353, nonce))
            }));
        }
        // Flooded by the bridge, since nobody has that hardware address; not for b.
        let flooded = Route { to: [2, 0, 0, 0, 0, 0x99], from: ends.route.from };
        attacks.push(Attack::new("flooded", Direction::Ingress, Reason::NotAddressed, |nonce| {
            let other = IpAddr::from([10, 88, 0, 99]);
            ip(flooded, IpAddr::V4(ends.v4[0]), other, protocol::UDP, &udp(4000, 7000, nonce))
        }));
        attacks
    });
}

#[test]
fn a_packet_whose_headers_are_not_in_its_linear_part() {
    let mut stage = two();
    let (ends, victim) = (Ends::of(&stage), stage.tap("b"));
    let open_ring = || Sender::open(stage.at("a"), "eth0").unwrap();
    let rings = [open_ring(), open_ring(), open_ring(), open_ring()];
    let nonces = [nonce(), nonce(), nonce(), nonce()];
    let frames = [
        ethernet(ends.route, 0x0800, &ends.ipv4().packet(&udp(4000, 7001, &nonces[0]))),
        ends.ipv6(protocol::UDP, &udp(4000, 7001, &nonces[1])),
        ethernet(ends.route, 0x0800, &ends.ipv4().packet(&udp(4000, 7000, &nonces[2]))),
        ends.ipv6(protocol::UDP, &udp(4000, 7000, &nonces[3])),
    ];
    let send = |at: usize| ring::send(&rings[at], &frames[at]).unwrap();
    (0..4).for_each(send);
    assert_eq!(nonces.map(|nonce| victim.arrives(&nonce, 1)), [1; 4], "positive control");
    stage.start();
    let denied = |stage: &Stage| stage.denied(Direction::Ingress, Reason::NoRule);
    let before = denied(&stage);
    let again: Vec<Sender> = (0..4).map(|_| Sender::open(stage.at("a"), "eth0").unwrap()).collect();
    for (ring, frame) in again.iter().zip(&frames) {
        ring::send(ring, frame).unwrap();
    }
    let wanted = [1, 1, 2, 2];
    let came: Vec<usize> = nonces.iter().zip(wanted).map(|(nonce, hoped)| victim.arrives(nonce, hoped)).collect();
    assert_eq!(came, wanted, "by port, as any other packet");
    stage.until("two are counted", || denied(&stage) == before + 2);
    assert_eq!(stage.denied(Direction::Egress, Reason::PullFailed), 0);
}

#[test]
fn a_denied_segment_sent_again_stays_denied() {
    let mut stage = two();
    let (sender, victim) = (Sender::open(stage.at("a"), "eth0").unwrap(), stage.tap("b"));
    let attacks = Ends::of(&stage).closed("SYN", protocol::TCP, |nonce| tcp(4000, 7001, 2, nonce));
    arrive(&sender, &victim, &attacks);
    stage.start();
    let denied = |stage: &Stage| stage.denied(Direction::Ingress, Reason::NoRule);
    let before = denied(&stage);
    for _ in 0..7 {
        for attack in &attacks {
            sender.send(&attack.frame).unwrap();
        }
    }
    for attack in &attacks {
        assert_eq!(victim.arrived(&attack.nonce), 0, "{}", attack.name);
    }
    stage.until("each is counted", || denied(&stage) == before + 14);
    stage.until("the log counts them", || {
        let of_flow = |v4: bool| {
            stage
                .log()
                .iter()
                .filter(|record| {
                    record.source.is_some_and(|own| own.is_ipv4() == v4)
                        && record.port == Some(enforcer_tests::cases::Port::Tcp(7001))
                })
                .map(|record| record.count)
                .sum::<u64>()
        };
        [true, false].map(of_flow) == [7, 7]
    });
}
