//! What keeps an isolated workload on its link (D16), on a real bridge: membership of groups where a querier asks for it,
//! routers and DHCP servers on the node and behind an uplink; and the broadcast of the subnet.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::time::Duration;

use enforcer::lab::Layout;
use enforcer_common::id::Direction;
use enforcer_common::verdict::Reason;
use enforcer_tests::cases::Port;
use enforcer_tests::net::inside;
use enforcer_tests::net::tun::{Layer, Tun};
use enforcer_tests::net::wire::{PATIENCE, Sender, Wire, device};
use enforcer_tests::packet::parts::{Ipv4, Ipv6, Route, ethernet, icmp, ip, protocol, udp};
use enforcer_tests::stage::Stage;
use enforcer_tests::traffic::nonce;
use socket2::{Domain, Socket, Type};

use super::attack::{Attack, arrive, fail, reach};
use super::common::{change, check, passes, policy, rule, stage};

const GROUP: Ipv4Addr = Ipv4Addr::new(239, 7, 7, 7);
const CLOSED: &str = "[ingress, egress]";
/// A membership lasts for 2.5 s, in hundredths of a second; the querier asks every second.
const QUERIER: &str = "link set br0 type bridge mcast_snooping 1 mcast_querier 1 mcast_query_interval 100 \
                       mcast_startup_query_interval 100 mcast_startup_query_count 2 mcast_query_response_interval 20 \
                       mcast_membership_interval 250 mcast_last_member_interval 20";
/// Questions that come while a membership would end that nobody renews.
const QUERIES: usize = 4;

fn lines_of_the_link(stage: &Stage) -> Vec<String> {
    let of_link = |line: &serde_json::Value| {
        let l4 = &line["flow"]["l4"];
        let ports = [&l4["UDP"]["destination_port"], &l4["UDP"]["source_port"]];
        let group = line["flow"]["IP"]["destination"].as_str().is_some_and(|to| to.starts_with("224.0.0."));
        group || !l4["ICMPv6"].is_null() || ports.iter().any(|port| [67, 68, 546, 547].iter().any(|one| **port == *one))
    };
    stage.log().into_iter().map(|record| record.line).filter(of_link).map(|line| line.to_string()).collect()
}

/// Waits until the bridge has asked for members of IPv6 groups so often.
fn asked(tap: &Wire) {
    let query = |frame: &enforcer_tests::net::wire::Frame| {
        !frame.outgoing && frame.packet().is_some_and(|packet| packet.protocol == 0 && packet.body.get(8) == Some(&130))
    };
    tap.frames().clear();
    for count in 1..=QUERIES {
        let more = || tap.peek(query) >= count;
        let end = std::time::Instant::now() + Duration::from_secs(20);
        while !more() {
            assert!(std::time::Instant::now() < end, "the bridge does not ask");
            std::thread::sleep(Duration::from_millis(20));
        }
    }
}

/// `a` finds `b` anew, in both families, and what it sends to a group of `b` arrives there.
fn reachable(stage: &Stage, when: &str, tap: &Wire) {
    stage.ip(stage.at("a"), "neigh flush dev eth0");
    check(stage, when, &[passes("a", "b", Port::Udp(7000))]);
    let nonce = nonce();
    inside(stage.at("a"), || {
        let socket = Socket::new(Domain::IPV4, Type::DGRAM, None).unwrap();
        socket.send_to(&nonce, &std::net::SocketAddr::from((GROUP, 7000)).into()).unwrap();
    });
    assert!(tap.wait(PATIENCE, |frame| frame.holds(&nonce)), "{when}: the group is gone");
}

#[test]
fn isolated_workloads_stay_reachable_for_longer_than_a_membership_lasts() {
    let mut stage = stage(Layout::Bridged, &["a", "b"]);
    let to = "to: [{workloads: {app: b}}, {cidr: 239.7.7.7/32}]";
    stage.policy("a.yaml", &policy("a", CLOSED, &rule(to, "7000/udp")));
    stage.policy("b.yaml", &policy("b", CLOSED, &rule("from: [{workloads: {app: a}}]", "7000/udp")));
    let member = inside(stage.at("b"), || {
        let socket = Socket::new(Domain::IPV4, Type::DGRAM, None).unwrap();
        socket.join_multicast_v4_n(&GROUP, &socket2::InterfaceIndexOrAddress::Index(2)).unwrap();
        socket
    });
    let tap = stage.tap("b");
    stage.ip(stage.lab.node(), &format!("{QUERIER} mcast_igmp_version 3 mcast_mld_version 2"));
    asked(&tap);
    reachable(&stage, "positive control", &tap);
    stage.start();
    asked(&tap);
    reachable(&stage, "MLD 2 and IGMP 3", &tap);
    stage.ip(stage.lab.node(), "link set br0 type bridge mcast_igmp_version 2 mcast_mld_version 1");
    asked(&tap);
    asked(&tap);
    reachable(&stage, "MLD 1 and IGMP 2", &tap);
    drop(member);
    assert_eq!(lines_of_the_link(&stage), [""; 0], "it makes no line");
    for direction in [Direction::Ingress, Direction::Egress] {
        assert_eq!(stage.denied(direction, Reason::IpOptions), 0, "{direction:?}");
    }
}

/// The address of the link that a device's kernel makes of its hardware address.
fn of_link(mac: [u8; 6]) -> Ipv6Addr {
    let [a, b, c, d, e, f] = mac;
    Ipv6Addr::from([0xfe, 0x80, 0, 0, 0, 0, 0, 0, a ^ 2, b, c, 0xff, 0xfe, d, e, f])
}

fn v6(text: &str) -> Ipv6Addr {
    text.parse().unwrap()
}

/// A message to a group or to everybody, or to `b`.
struct Says {
    from: [u8; 6],
    b: [u8; 6],
}

impl Says {
    fn attack(
        &self,
        name: &str,
        (direction, reason): (Direction, Reason),
        to_b: bool,
        body: impl FnOnce(Route, &[u8]) -> Vec<u8>,
    ) -> Attack {
        // Groups lie behind several hardware addresses; every station takes what is for all.
        let route = Route { to: if to_b { self.b } else { [0xff; 6] }, from: self.from };
        Attack::new(name, direction, reason, |nonce| body(route, nonce))
    }

    /// MLD or IGMP, with the nonce as more of it.
    fn group(&self, name: &str, why: (Direction, Reason), message: &[u8], source: IpAddr, to: IpAddr) -> Attack {
        self.attack(name, why, false, |route, nonce| match (source, to) {
            (IpAddr::V4(source), IpAddr::V4(destination)) => {
                let header =
                    Ipv4 { source, destination, protocol: 2, hop_limit: 1, options: &[0x94, 4, 0, 0], ..Ipv4::PLAIN };
                ethernet(route, 0x0800, &header.packet(&[message, nonce].concat()))
            }
            (IpAddr::V6(source), IpAddr::V6(destination)) => {
                let options = [protocol::ICMPV6, 0, 5, 2, 0, 0, 1, 0];
                let body = [&options[..], message, nonce].concat();
                ethernet(route, 0x86dd, &Ipv6 { source, destination, next: 0, hop_limit: 1 }.packet(&body))
            }
            _ => panic!("two families"),
        })
    }

    /// Router discovery.
    fn discovery(&self, name: &str, why: (Direction, Reason), kind: u8, source: Ipv6Addr, to: &str) -> Attack {
        self.attack(name, why, false, |route, nonce| {
            let message = icmp(kind, 0, &[&[0; 12][..], nonce].concat());
            let header = Ipv6 { source, destination: v6(to), next: protocol::ICMPV6, hop_limit: 255 };
            ethernet(route, 0x86dd, &header.packet(&message))
        })
    }

    fn dhcp(&self, name: &str, why: (Direction, Reason), ends: [IpAddr; 2], ports: [u16; 2], to_b: bool) -> Attack {
        self.attack(name, why, to_b, |route, nonce| {
            ip(route, ends[0], ends[1], protocol::UDP, &udp(ports[0], ports[1], &[nonce, &[0; 240]].concat()))
        })
    }

    /// What routers and servers say to `b`, as a workload might say it: dropped as these say.
    fn as_router(&self, server: IpAddr, b: &Ends) -> Vec<Attack> {
        let routes = (Direction::Egress, Reason::RouterAdvertisement);
        let judged = (Direction::Ingress, Reason::NoRule);
        let link = of_link(self.from);
        vec![
            self.group("a query of MLD", routes, &icmp(130, 0, &[0; 20]), link.into(), v6("ff02::1").into()),
            self.group("a query of IGMP", routes, &[0x11, 0, 0, 0, 0, 0, 0, 0], server, [224, 0, 0, 1].into()),
            self.discovery("a router", routes, 134, link, "ff02::1"),
            self.dhcp("an answer to all", judged, [server, [255; 4].into()], [67, 68], false),
            self.dhcp("an answer", judged, [server, b.v4], [67, 68], true),
            self.dhcp(
                "an offer",
                (Direction::Ingress, Reason::NotAddressed),
                [server, [10, 88, 0, 77].into()],
                [67, 68],
                true,
            ),
            self.dhcp("an answer of DHCPv6", judged, [link.into(), b.link.into()], [547, 546], true),
        ]
    }
}

struct Ends {
    v4: IpAddr,
    link: Ipv6Addr,
}

#[test]
fn routers_and_dhcp_servers_reach_isolated_workloads_from_the_node_and_the_uplink_alone() {
    // `c` is open, so that nothing but what it says is wrong.
    let mut stage = stage(Layout::Bridged, &["b", "c"]);
    let node = stage.lab.node();
    let card = Tun::open(node, "card0", Layer::Tap).unwrap();
    for line in [
        "link set br0 type bridge mcast_snooping 0",
        "link set card0 master br0",
        "link set card0 up",
        // The way out leads over the bridge, so its other port is an uplink.
        "route add default via 10.88.0.250 dev br0 metric 50",
    ] {
        stage.ip(node, line);
    }
    let bridge = Sender::open(node, "br0").unwrap();
    let [b_mac, c_mac] = ["b", "c"].map(|name| device(stage.at(name), "eth0").unwrap().mac);
    let (b, c) = (Sender::open(stage.at("b"), "eth0").unwrap(), Sender::open(stage.at("c"), "eth0").unwrap());
    let taps = ["b", "c"].map(|name| stage.tap(name));
    let ends = Ends { v4: stage.address("b", true), link: of_link(b_mac) };
    let bridge_mac = device(node, "br0").unwrap().mac;
    let nobody = IpAddr::from([10, 88, 0, 250]);
    let of_node = Says { from: bridge_mac, b: b_mac }.as_router([10, 88, 0, 1].into(), &ends);
    let of_card = Says { from: [2, 0, 0, 0, 0, 9], b: b_mac }.as_router(nobody, &ends);
    let of_c = Says { from: c_mac, b: b_mac }.as_router(stage.address("c", true), &ends);
    let says = Says { from: b_mac, b: c_mac };
    let no_rule = (Direction::Egress, Reason::NoRule);
    let everybody = IpAddr::from([255; 4]);
    let c_v4 = stage.address("c", true);
    let own = [
        says.group("MLD", no_rule, &icmp(143, 0, &[0; 4]), ends.link.into(), v6("ff02::16").into()),
        says.group("IGMP", no_rule, &[0x22, 0, 0, 0, 0, 0, 0, 0], ends.v4, [224, 0, 0, 22].into()),
        says.discovery("a solicitation", no_rule, 133, ends.link, "ff02::2"),
        says.dhcp("DHCP", no_rule, [[0; 4].into(), everybody], [68, 67], false),
        says.dhcp("DHCP for more time", no_rule, [ends.v4, everybody], [68, 67], false),
        says.dhcp("DHCPv6", no_rule, [ends.link.into(), v6("ff02::1:2").into()], [546, 547], false),
    ];
    let wide = [
        says.group("long MLD", no_rule, &icmp(143, 0, &[0; 600]), ends.link.into(), v6("ff02::16").into()),
        says.group("MLD to a neighbour", no_rule, &icmp(143, 0, &[0; 4]), ends.link.into(), of_link(c_mac).into()),
        says.discovery("a solicitation to all", no_rule, 133, ends.link, "ff02::1"),
        says.dhcp("DHCP to a neighbour", no_rule, [ends.v4, c_v4], [68, 67], true),
        says.dhcp("DHCP as a server", no_rule, [ends.v4, everybody], [67, 68], false),
        says.dhcp("DHCPv6 to a neighbour", no_rule, [ends.link.into(), of_link(c_mac).into()], [546, 547], true),
    ];
    arrive(&bridge, &taps[0], &of_node);
    arrive(&card, &taps[0], &of_card);
    arrive(&c, &taps[0], &of_c);
    arrive(&b, &taps[1], &own);
    arrive(&b, &taps[1], &wide);
    stage.policy("b.yaml", &policy("b", CLOSED, ""));
    stage.start();
    stage.until("its address of the link is known", || {
        b.send(&own[2].frame).unwrap();
        taps[1].peek(|frame| frame.holds(&own[2].nonce)) > 0
    });
    for when in ["the daemon is alive", "the daemon is dead"] {
        reach(when, &bridge, &taps[0], &of_node);
        reach(when, &card, &taps[0], &of_card);
        reach(when, &b, &taps[1], &own);
        if when.ends_with("alive") {
            assert_eq!(lines_of_the_link(&stage), [""; 0], "it makes no line");
            bpdus_arrive(&stage, &taps[0]);
        }
        fail(&stage, when, &c, &taps[0], &of_c);
        fail(&stage, when, &b, &taps[1], &wide);
        if when.ends_with("alive") {
            stage.kill();
        }
    }
}

/// STP of the node's bridge, and LLDP of a station on it.
fn bpdus_arrive(stage: &Stage, tap: &Wire) {
    let by = Sender::open(stage.lab.node(), stage.host("b")).unwrap();
    for (group, head) in [(0, &[0, 38, 0x42, 0x42, 3][..]), (0x0e, &[0x88, 0xcc])] {
        let nonce = nonce();
        let macs = [1, 0x80, 0xc2, 0, 0, group, 2, 0, 0, 0, 0, 9];
        by.send(&[&macs[..], head, &nonce, &[0; 24]].concat()).unwrap();
        assert!(tap.wait(PATIENCE, |frame| frame.holds(&nonce)), "{head:02x?}");
    }
    for direction in [Direction::Ingress, Direction::Egress] {
        assert_eq!(stage.denied(direction, Reason::Ethertype), 0, "{direction:?}");
    }
}

#[test]
fn the_broadcast_of_the_subnet_passes_where_nothing_isolates_and_is_judged_elsewhere() {
    let mut stage = stage(Layout::Bridged, &["a", "b"]);
    let (sender, tap) = (Sender::open(stage.at("a"), "eth0").unwrap(), stage.tap("b"));
    let for_b = stage.route("a", Some("b"));
    let for_all = Route { to: [0xff; 6], ..for_b };
    let own = stage.address("a", true);
    let to = |route: Route, to: [u8; 4], reason| {
        let to = IpAddr::from(to);
        Attack::new(to.to_string(), Direction::Ingress, reason, |nonce| {
            ip(route, own, to, protocol::UDP, &udp(4000, 6667, nonce))
        })
    };
    let broadcast = [to(for_all, [10, 88, 255, 255], Reason::NoRule)];
    // Of subnets that the node does not have on this bridge.
    let elsewhere = [[10, 88, 0, 255], [10, 77, 0, 255]].map(|address| to(for_all, address, Reason::NotAddressed));
    // What a bridge floods because it does not know the station.
    let flooded = [[10, 88, 255, 254], [10, 77, 0, 255]].map(|address| to(for_b, address, Reason::NotAddressed));
    for attacks in [&broadcast[..], &elsewhere, &flooded] {
        arrive(&sender, &tap, attacks);
    }
    stage.start();
    reach("nothing isolates them", &sender, &tap, &broadcast);
    reach("nothing isolates them", &sender, &tap, &elsewhere);
    fail(&stage, "nobody's address", &sender, &tap, &flooded);
    let close = |stage: &Stage, allow: &str| stage.policy("b.yaml", &policy("b", "[ingress]", allow));
    change(&mut stage, |stage| close(stage, ""));
    fail(&stage, "isolated", &sender, &tap, &broadcast);
    fail(&stage, "isolated", &sender, &tap, &elsewhere);
    change(&mut stage, |stage| close(stage, &rule("from: [{workloads: {app: a}}]", "6667/udp")));
    reach("a rule for its sender", &sender, &tap, &broadcast);
    // The node's subnet is another one now.
    stage.ip(stage.lab.node(), "addr del 10.88.0.1/16 dev br0");
    stage.ip(stage.lab.node(), "addr add 10.88.0.1/24 dev br0");
    stage.until("the other subnet's is in force", || {
        sender.send(&elsewhere[0].frame).unwrap();
        tap.peek(|frame| frame.holds(&elsewhere[0].nonce)) > 0
    });
    let former = || to(for_all, [10, 88, 255, 255], Reason::NotAddressed);
    // The former subnet's goes a grace period after the other one's came.
    stage.until("the former subnet's is no longer in force", || {
        let (probe, denied) = (former(), stage.denied(Direction::Ingress, Reason::NotAddressed));
        sender.send(&probe.frame).unwrap();
        !tap.wait(Duration::from_millis(50), |frame| frame.holds(&probe.nonce))
            && stage.denied(Direction::Ingress, Reason::NotAddressed) > denied
    });
    fail(&stage, "of no subnet", &sender, &tap, &[former()]);
}
