//! An isolated workload gets nothing to the address of a Service past the point where the node translates (D5): not by a frame
//! that its bridge switches, not by what connection tracking takes for an answer, and not by a connection from before.

use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::time::Duration;

use aya::programs::{SchedClassifier, TcAttachType};
use enforcer::lab::{Layout, UPLINK};
use enforcer_common::id::Direction;
use enforcer_common::side::Side;
use enforcer_common::verdict::Reason;
use enforcer_tests::bytecode::object;
use enforcer_tests::cases::Port;
use enforcer_tests::net::tun::{Layer, Tun};
use enforcer_tests::net::wire::{PATIENCE, Sender, device};
use enforcer_tests::net::{inside, sh};
use enforcer_tests::packet::parts::{self, Route, protocol};
use enforcer_tests::packet::{Frame, Transport};
use enforcer_tests::traffic::{Service, nonce};

use super::common::{Live, change, entry, inventory, policy, rule, switch_past_netfilter};
use super::translated::{SERVICE, Scene, TO_B, TO_C, TO_NOBODY, TO_ONE};

const FAMILIES: [bool; 2] = [true, false];
const LAYOUTS: [Layout; 2] = [Layout::Bridged, Layout::Routed];
/// How long what must not arrive is waited for.
const NEVER: Duration = Duration::from_millis(300);
/// A station of the bridge that is no workload.
const NEIGHBOUR: [u8; 6] = [2, 0, 0, 0, 0, 9];

fn service(v4: bool) -> IpAddr {
    SERVICE[usize::from(!v4)].parse().unwrap()
}

fn patience(hoped: bool) -> Duration {
    if hoped { PATIENCE } else { NEVER }
}

fn closed_but(rules: &str) -> String {
    policy("a", "[ingress, egress]", rules)
}

impl Scene {
    /// A socket of `a`.
    fn socket(&self, v4: bool, port: u16) -> UdpSocket {
        let own = self.stage.address("a", v4);
        self.stage.at("a").enter(|| UdpSocket::bind((own, port)).unwrap()).unwrap()
    }

    /// Whether what `a` sends gets to the outside.
    fn leads_out(&self, socket: &UdpSocket, to: SocketAddr, hoped: bool) -> bool {
        let nonce = nonce();
        socket.send_to(&nonce, to).unwrap();
        self.outside.wait(patience(hoped), |frame| !frame.outgoing && frame.holds(&nonce))
    }

    /// Filters at the ingress of a device that hand what is for the Service to `c`, past the node.
    fn divert(&self, device: &str) {
        let c = self.stage.host("c");
        inside(self.stage.lab.node(), || {
            sh(&format!("tc qdisc add dev {device} clsact"));
            for (place, (protocol, family)) in [("ip", "ip"), ("ipv6", "ip6")].into_iter().enumerate() {
                let prefix = [32, 128][place];
                sh(&format!(
                    "tc filter add dev {device} ingress protocol {protocol} prio {} u32 \
                     match {family} dst {}/{prefix} action mirred egress redirect dev {c}",
                    place + 1,
                    SERVICE[place]
                ));
            }
        });
    }

    /// By family, whether what `a` sends to the Service gets to `c`, without a translation.
    fn diverted(&self, hoped: bool) -> [bool; 2] {
        FAMILIES.map(|v4| {
            let nonce = nonce();
            self.socket(v4, 0).send_to(&nonce, (service(v4), TO_NOBODY)).unwrap();
            self.taps[2].wait(patience(hoped), |frame| !frame.outgoing && frame.holds(&nonce))
        })
    }

    /// Whether `status` says that no Service is reached by a device, and names what is there.
    fn tells(&self, device: &str, what: &str) -> bool {
        let (status, _) = self.stage.status();
        let findings = status["report"]["findings"].as_array().unwrap().iter();
        let head = format!("what isolated workloads send to Services by {device} is denied: ");
        findings.filter_map(|finding| finding.as_str()?.strip_prefix(&head)).any(|because| because.contains(what))
    }
}

#[test]
fn a_frame_that_the_bridge_switches_is_not_judged_later() {
    let mut scene = Scene::new(Layout::Bridged, true);
    switch_past_netfilter(&scene.stage);
    let neighbour = Tun::open(scene.stage.lab.node(), "card0", Layer::Tap).unwrap();
    scene.stage.ip(scene.stage.lab.node(), "link set card0 master br0");
    scene.stage.ip(scene.stage.lab.node(), "link set card0 up");
    let sender = Sender::open(scene.stage.at("a"), "eth0").unwrap();
    let own = scene.stage.route("a", None).from;
    // From the port of a flow that the node leads on.
    let gets_there = |scene: &Scene, v4: bool, from: u16, to: u16, hoped: bool| {
        let (nonce, source) = (nonce(), scene.stage.address("a", v4));
        let (route, body) = (Route { to: NEIGHBOUR, from: own }, parts::udp(from, to, &nonce));
        sender.send(&parts::ip(route, source, service(v4), protocol::UDP, &body)).unwrap();
        neighbour.arrived(&nonce, usize::from(hoped), NEVER) > 0
    };
    for v4 in FAMILIES {
        assert!(gets_there(&scene, v4, 9100, TO_B, true), "positive control, IPv4 {v4}");
    }
    scene.stage.start();
    let flows = FAMILIES.map(|v4| scene.socket(v4, 9200));
    for when in ["alive", "dead"] {
        for (v4, flow) in FAMILIES.into_iter().zip(&flows) {
            assert!(!gets_there(&scene, v4, 9100, TO_B, false), "{when}, a new flow, IPv4 {v4}");
            let (alive, to) = (nonce(), SocketAddr::new(service(v4), TO_B));
            for _ in 0..3 {
                flow.send_to(&alive, to).unwrap();
            }
            assert!(scene.taps[1].wait(PATIENCE, |frame| frame.holds(&alive)), "{when}, the flow is live, IPv4 {v4}");
            assert!(!gets_there(&scene, v4, 9200, TO_B, false), "{when}, a live flow, IPv4 {v4}");
            assert!(!gets_there(&scene, v4, 9100, TO_C, false), "{when}, a forbidden backend, IPv4 {v4}");
        }
        if when == "alive" {
            scene.stage.until("each is counted", || scene.stage.denied(Direction::Egress, Reason::NoRule) >= 6);
            scene.stage.kill();
        }
    }
}

#[test]
fn where_a_filter_may_take_the_packet_no_service_is_reached() {
    for (layout, at) in [(Layout::Routed, "a"), (Layout::Bridged, "a"), (Layout::Bridged, "br0")] {
        let mut scene = Scene::new(layout, true);
        // A router takes what is for others.
        let entries = [("a", ""), ("b", ""), ("c", ", routes: true")];
        let entries = entries.map(|(name, more)| entry(&scene.stage, name, more));
        scene.stage.inventory(&format!("services: [{}, \"{}\"]\n{}", SERVICE[0], SERVICE[1], inventory(&entries)));
        let device = if at == "a" { scene.stage.host("a").to_owned() } else { at.to_owned() };
        let when = |when: &str| format!("{layout:?}, on {at}, {when}");
        scene.divert(&device);
        assert_eq!(scene.diverted(true), [true; 2], "{}", when("positive control"));
        scene.stage.start();
        assert_eq!(scene.diverted(false), [false; 2], "{}", when("alive"));
        scene.stage.until(&when("status tells"), || scene.tells(&device, "clsact"));

        inside(scene.stage.lab.node(), || sh(&format!("tc qdisc del dev {device} clsact")));
        scene.stage.until(&when("the filters are gone"), || scene.arrives(TO_B, false) == [true; 2]);
        scene.stage.until(&when("status tells of nothing"), || !scene.tells(&device, ""));
        scene.divert(&device);
        scene.stage.until(&when("they are back"), || scene.diverted(false) == [false; 2]);
        scene.stage.kill();
        assert_eq!(scene.diverted(false), [false; 2], "{}", when("dead"));
    }
}

/// The kernel tells nobody of such a program.
#[test]
fn where_another_tcx_program_may_take_the_packet_no_service_is_reached() {
    for (layout, at) in [(Layout::Routed, "a"), (Layout::Bridged, "br0")] {
        let mut scene = Scene::new(layout, true);
        let device = if at == "a" { scene.stage.host("a").to_owned() } else { at.to_owned() };
        scene.stage.start();
        assert_eq!(scene.arrives(TO_B, true), [true; 2], "{layout:?}, positive control");
        let (mut loaded, _) = object::load(16).unwrap();
        // It lets everything pass: what a program does cannot be told from outside.
        let program: &mut SchedClassifier = loaded.program_mut(Side::Guard.program()).unwrap().try_into().unwrap();
        inside(scene.stage.lab.node(), || program.attach(&device, TcAttachType::Ingress).unwrap());
        scene.stage.until("it is found", || scene.arrives(TO_B, false) == [false; 2] && scene.tells(&device, "tcx"));
        drop(loaded);
        scene.stage.until("it is gone", || scene.arrives(TO_B, false) == [true; 2] && !scene.tells(&device, ""));
    }
}

/// The host that the Service names sends first, so the node's connection tracking knows the connection as that host's.
#[test]
fn what_answers_nobody_that_policy_lets_in_leads_to_no_service() {
    for layout in LAYOUTS {
        let mut scene = Scene::new(layout, true);
        scene.stage.policy("a.yaml", &closed_but(""));
        let host = Sender::open(scene.stage.lab.outside(), "eth0").unwrap();
        let (to, from) = (
            device(scene.stage.lab.node(), UPLINK).unwrap().mac,
            device(scene.stage.lab.outside(), "eth0").unwrap().mac,
        );
        let calls = |scene: &Scene, v4: bool, port: u16| {
            let (nonce, own) = (nonce(), scene.stage.address("a", v4));
            let body = parts::udp(TO_NOBODY, port, &nonce);
            host.send(&parts::ip(Route { to, from }, service(v4), own, protocol::UDP, &body)).unwrap();
            scene.taps[0].wait(NEVER, |frame| !frame.outgoing && frame.holds(&nonce))
        };
        for (when, port) in [("positive control", 9300), ("alive", 9301), ("dead", 9302), ("may call", 9303)] {
            let passes = when == "positive control" || when == "may call";
            if when == "alive" || when == "may call" {
                scene.stage.start();
            }
            if when == "may call" {
                change(&mut scene.stage, |stage| {
                    stage.policy("a.yaml", &closed_but(&rule("from: anywhere", "9303/udp")));
                });
            }
            for v4 in FAMILIES {
                let when = format!("{layout:?}, {when}, IPv4 {v4}");
                if passes {
                    // What a change opens waits until the files have been quiet.
                    scene.stage.until(&format!("{when}: the host calls"), || calls(&scene, v4, port));
                } else {
                    assert!(!calls(&scene, v4, port), "{when}: the host calls");
                }
                let to = SocketAddr::new(service(v4), TO_NOBODY);
                assert_eq!(scene.leads_out(&scene.socket(v4, port), to, passes), passes, "{when}: the workload sends");
            }
            if when == "alive" {
                scene.stage.kill();
            }
        }
    }
}

#[test]
fn a_connection_that_nobody_translated_ends_with_the_policy_that_isolates_its_opener() {
    for layout in LAYOUTS {
        let mut scene = Scene::new(layout, true);
        scene.stage.policy("a.yaml", &policy("a", "[ingress]", ""));
        scene.stage.start();
        let flows = FAMILIES.map(|v4| (scene.socket(v4, 9400), SocketAddr::new(service(v4), TO_NOBODY)));
        for (flow, to) in &flows {
            // The second packet belongs to a connection that is known.
            assert!(
                scene.leads_out(flow, *to, true) && scene.leads_out(flow, *to, true),
                "{layout:?}, {to}: nothing isolates it"
            );
        }
        change(&mut scene.stage, |stage| {
            stage.policy("a.yaml", &policy("a", "[egress]", &rule(TO_ONE, "7000/udp")));
        });
        for when in ["alive", "dead"] {
            for (flow, to) in &flows {
                assert!(!scene.leads_out(flow, *to, false), "{layout:?}, {when}, {to}");
            }
            if when == "alive" {
                scene.stage.kill();
            }
        }
    }
}

/// The kernel goes on to call such a connection translated.
#[test]
fn a_connection_whose_translation_is_gone_leads_to_no_service() {
    for layout in LAYOUTS {
        let mut scene = Scene::new(layout, true);
        // The kernel tracks connections for as long as a rule needs that.
        inside(scene.stage.lab.node(), || {
            sh("nft add table inet other");
            sh("nft add chain inet other forward { type filter hook forward priority 0 ; }");
            sh("nft add rule inet other forward ct state new counter");
        });
        let forget = |scene: &Scene| inside(scene.stage.lab.node(), || sh("nft delete table inet nat"));
        for (when, port) in [("positive control", 9500), ("alive", 9501), ("dead", 9502)] {
            let passes = when == "positive control";
            if when == "alive" {
                scene.stage.start();
            }
            let flows = FAMILIES.map(|v4| (scene.socket(v4, port), SocketAddr::new(service(v4), TO_B)));
            for (flow, to) in &flows {
                let nonce = nonce();
                flow.send_to(&nonce, to).unwrap();
                assert!(
                    scene.taps[1].wait(PATIENCE, |frame| frame.holds(&nonce)),
                    "{layout:?}, {when}, {to}: it is live"
                );
            }
            forget(&scene);
            for (flow, to) in &flows {
                assert_eq!(scene.leads_out(flow, *to, passes), passes, "{layout:?}, {when}, {to}");
            }
            scene.translate();
            if when == "alive" {
                scene.stage.kill();
            }
        }
    }
}

/// Connection tracking takes a message of these types for an error, and Enforcer does not: it quotes a connection of `b`.
#[test]
fn a_message_that_quotes_somebody_elses_connection_reaches_no_backend() {
    let mut scene = Scene::new(Layout::Routed, true);
    let sender = Sender::open(scene.stage.at("a"), "eth0").unwrap();
    let gets_there = |scene: &Scene, v4: bool, port: u16, hoped: bool| {
        let (own, b) = (scene.stage.address("a", v4), scene.stage.address("b", v4));
        let connection = scene.stage.at("b").enter(|| UdpSocket::bind((b, port)).unwrap()).unwrap();
        connection.send_to(&[0; 8], (service(v4), TO_C)).unwrap();
        let (nonce, route) = (nonce(), scene.stage.route("a", None));
        let quoted = parts::ip(route, service(v4), b, protocol::UDP, &parts::udp(TO_C, port, &nonce));
        let message = Transport::Icmp { kind: if v4 { 4 } else { 100 }, code: 0, rest: [0; 4] };
        let (macs, payload) = ([route.to, route.from], &quoted[14..]);
        sender.send(&Frame { macs, payload, ..Frame::new(own, service(v4), message) }.bytes()).unwrap();
        scene.taps[2].wait(patience(hoped), |frame| frame.holds(&nonce))
    };
    for v4 in FAMILIES {
        assert!(gets_there(&scene, v4, 9600, true), "positive control, IPv4 {v4}");
    }
    scene.stage.start();
    for (when, port) in [("alive", 9601), ("dead", 9602)] {
        for v4 in FAMILIES {
            assert!(!gets_there(&scene, v4, port, false), "{when}, IPv4 {v4}");
        }
        if when == "alive" {
            scene.stage.kill();
        }
    }
}

#[test]
fn a_connection_to_a_service_goes_on_until_policy_forbids_its_backend() {
    for layout in LAYOUTS {
        let mut scene = Scene::new(layout, true);
        inside(scene.stage.lab.node(), || {
            for (place, (family, service)) in ["ip", "ip6"].into_iter().zip(SERVICE).enumerate() {
                let to = SocketAddr::new(scene.stage.address("b", place == 0), 7000);
                sh(&format!(
                    "nft add rule inet nat pre {family} daddr {service} tcp dport {TO_B} dnat {family} to {to}"
                ));
            }
        });
        scene.stage.policy("a.yaml", &policy("a", "[egress]", &rule(TO_ONE, "7000/tcp")));
        scene.stage.start();
        let (stage, pause) = (&scene.stage, Duration::from_millis(10));
        let _servers = FAMILIES.map(|v4| Service::open(stage.at("b"), stage.address("b", v4), Port::Tcp(7000)));
        let live = FAMILIES.map(|v4| Live::to(stage, "a", SocketAddr::new(service(v4), TO_B), pause));
        for (v4, live) in FAMILIES.into_iter().zip(&live) {
            assert!(live.goes_on(PATIENCE), "{layout:?}, IPv4 {v4}: {:?}", live.error());
        }
        change(&mut scene.stage, |stage| {
            stage.policy("a.yaml", &policy("a", "[egress]", &rule("to: [{workloads: {app: c}}]", "7000/tcp")));
        });
        for (v4, live) in FAMILIES.into_iter().zip(&live) {
            assert!(!live.goes_on(Duration::from_secs(1)), "{layout:?}, IPv4 {v4}: policy allows c alone");
        }
        change(&mut scene.stage, |stage| {
            stage.policy("a.yaml", &policy("a", "[egress]", &rule(TO_ONE, "7000/tcp")));
        });
        for (v4, live) in FAMILIES.into_iter().zip(&live) {
            assert!(live.goes_on(PATIENCE), "{layout:?}, IPv4 {v4}: {:?}", live.error());
        }
    }
}
