//! ICMP errors about a live flow reach the sender of the flow, and nothing else passes as such an error.

use std::io::ErrorKind;
use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::time::Duration;

use enforcer::lab::{Layout, UPLINK};
use enforcer_common::id::Direction;
use enforcer_common::verdict::Reason;
use enforcer_tests::cases::Port;
use enforcer_tests::net::wire::{Frame, PATIENCE, Sender, Wire, device};
use enforcer_tests::packet::parts::{self, Route, icmp, ip, protocol};
use enforcer_tests::stage::Stage;
use enforcer_tests::traffic::{Service, nonce};

use super::attack::{Attack, arrive, fail, reach};
use super::common::{address, change, place, policy, rule, stage};

/// Addresses of the outside that no flow goes to.
const ELSEWHERE: [&str; 2] = ["192.0.2.9", "2001:db8::9"];

/// Errors without a limit of the kernel's own.
pub(crate) fn unlimited(stage: &Stage, name: &str) {
    let settings = ["ipv4/icmp_ratelimit", "ipv6/icmp/ratelimit"];
    let write = || settings.map(|setting| std::fs::write(format!("/proc/sys/net/{setting}"), "0").unwrap());
    place(stage, name).enter(write).unwrap();
}

/// What a program hears that sends a datagram to a port.
#[derive(Debug, Eq, PartialEq)]
enum Heard {
    /// ECONNREFUSED: the error has come.
    Refused,
    /// Nothing.
    Nothing,
}

fn ask(stage: &Stage, from: &str, to: &str, port: u16, v4: bool, patience: Duration) -> Heard {
    let target = SocketAddr::new(address(stage, to, v4), port);
    let socket = datagrams(stage, from, v4);
    socket.connect(target).unwrap();
    socket.set_read_timeout(Some(patience)).unwrap();
    socket.send(&nonce()).unwrap();
    match socket.recv(&mut [0; 64]) {
        Err(error) if error.kind() == ErrorKind::ConnectionRefused => Heard::Refused,
        Err(error) if error.kind() == ErrorKind::WouldBlock => Heard::Nothing,
        other => panic!("an answer of a closed port: {other:?}"),
    }
}

fn datagrams(stage: &Stage, at: &str, v4: bool) -> UdpSocket {
    let own = SocketAddr::new(address(stage, at, v4), 0);
    stage.at(at).enter(|| UdpSocket::bind(own).unwrap()).unwrap()
}

/// A frame is an ICMP error.
pub(crate) fn is_error(frame: &Frame) -> bool {
    frame.packet().is_some_and(|packet| match (packet.protocol, packet.body.first()) {
        (protocol::ICMP, Some(kind)) => [3, 11, 12].contains(kind),
        (protocol::ICMPV6, Some(kind)) => *kind < 128,
        _ => false,
    })
}

fn closed_ports(layout: Layout) {
    let mut stage = stage(layout, &["a", "b"]);
    let ports = "7000-7002/udp";
    stage.policy("a.yaml", &policy("a", "[ingress, egress]", &rule("to: [{workloads: {app: b}}]", ports)));
    // 7001 passes at `a` only: no error is due.
    let open = rule("from: [{workloads: {app: a}}]", "7000/udp, 7002/udp");
    stage.policy("b.yaml", &policy("b", "[ingress, egress]", &open));
    unlimited(&stage, "b");
    let tap = stage.tap("a");
    let patience = |hoped: &Heard| if *hoped == Heard::Refused { PATIENCE } else { Duration::from_millis(300) };
    let hears = |stage: &Stage, when: &str, expected: [(u16, Heard); 3]| {
        tap.frames().clear();
        let mut errors = 0;
        for v4 in [true, false] {
            for (port, hoped) in &expected {
                let heard = ask(stage, "a", "b", *port, v4, patience(hoped));
                assert_eq!(heard, *hoped, "{layout:?}, {when}: port {port}, IPv4 {v4}");
                errors += usize::from(*hoped == Heard::Refused);
            }
        }
        assert_eq!(tap.count(|frame| !frame.outgoing && is_error(frame)), errors, "{layout:?}, {when}");
    };
    let enforced = || [(7000, Heard::Refused), (7001, Heard::Nothing), (7002, Heard::Refused)];
    hears(&stage, "positive control", [7000, 7001, 7002].map(|port| (port, Heard::Refused)));
    stage.start();
    hears(&stage, "the daemon is alive", enforced());
    stage.kill();
    hears(&stage, "the daemon is dead", enforced());
}

#[test]
fn a_closed_port_that_policy_opens_refuses() {
    closed_ports(Layout::Bridged);
    closed_ports(Layout::Routed);
}

/// A "packet too big" that quotes a datagram with these ports.
fn too_big(quoted: [SocketAddr; 2], protocol: u8, nonce: &[u8]) -> Vec<u8> {
    let [source, destination] = quoted;
    // Of the frame only the packet is quoted.
    let nowhere = Route { to: [0; 6], from: [0; 6] };
    let datagram = parts::udp(source.port(), destination.port(), nonce);
    let quote = ip(nowhere, source.ip(), destination.ip(), protocol, &datagram);
    let (kind, code, mtu) = if source.is_ipv4() { (3, 4, [0, 0, 0x05, 0x14]) } else { (2, 0, [0, 0, 0x05, 0x14]) };
    icmp(kind, code, &[&mtu, &quote[14..]].concat())
}

/// Live flows of `a` and `b` to the outside, and what is sent as errors about them and about others.
struct Flows {
    v4: bool,
    outside: SocketAddr,
    own: [SocketAddr; 2],
    sockets: [UdpSocket; 2],
    _service: Service,
}

impl Flows {
    fn open(stage: &Stage, v4: bool) -> Self {
        let outside = SocketAddr::new(address(stage, "outside", v4), 7000);
        let service = Service::open(stage.lab.outside(), outside.ip(), Port::Udp(7000));
        let sockets = ["a", "b"].map(|name| datagrams(stage, name, v4));
        let own = sockets.each_ref().map(|socket| socket.local_addr().unwrap());
        Self { v4, outside, own, sockets, _service: service }
    }

    /// Both are answered.
    fn live(&self) -> bool {
        self.sockets.iter().all(|socket| {
            socket.set_read_timeout(Some(PATIENCE)).unwrap();
            let (sent, mut buffer) = (nonce(), [0; 64]);
            socket.send_to(&sent, self.outside).is_ok()
                && socket.recv(&mut buffer).is_ok_and(|length| buffer[..length] == sent)
        })
    }

    fn elsewhere(&self) -> SocketAddr {
        SocketAddr::new(ELSEWHERE[usize::from(!self.v4)].parse().unwrap(), 7000)
    }

    /// To `a` from the outside: about its flow, and about none of its flows.
    fn received(&self, route: Route) -> [Vec<Attack>; 2] {
        let [a, b] = self.own;
        let other_port = SocketAddr::new(a.ip(), 1);
        let error = |name: &str, quoted: [SocketAddr; 2], number: u8| {
            Attack::new(format!("{name}, IPv4 {}", self.v4), Direction::Ingress, Reason::NoRule, |nonce| {
                let carrier = if self.v4 { protocol::ICMP } else { protocol::ICMPV6 };
                ip(route, self.outside.ip(), a.ip(), carrier, &too_big(quoted, number, nonce))
            })
        };
        let udp = protocol::UDP;
        [
            vec![error("its flow", [a, self.outside], udp)],
            vec![
                error("from a port that sent nothing", [other_port, self.outside], udp),
                error("to whom it sent nothing", [a, self.elsewhere()], udp),
                error("another protocol", [a, self.outside], protocol::TCP),
                error("another workload's flow", [b, self.outside], udp),
                error("turned round", [self.outside, a], udp),
                error("what a node between would get", [b, a], udp),
            ],
        ]
    }

    /// From `a` to the outside: about its flow, and about none.
    fn sent(&self, route: Route) -> [Vec<Attack>; 2] {
        let [a, b] = self.own;
        let other_port = SocketAddr::new(a.ip(), 1);
        let error = |name: &str, to: IpAddr, quoted: [SocketAddr; 2]| {
            Attack::new(format!("{name}, IPv4 {}", self.v4), Direction::Egress, Reason::NoRule, |nonce| {
                let carrier = if self.v4 { protocol::ICMP } else { protocol::ICMPV6 };
                ip(route, a.ip(), to, carrier, &too_big(quoted, protocol::UDP, nonce))
            })
        };
        let outside = self.outside.ip();
        [
            vec![error("its flow", outside, [self.outside, a])],
            vec![
                error("what it did not get", outside, [self.outside, other_port]),
                error("from whom it got nothing", self.elsewhere().ip(), [self.elsewhere(), a]),
                error("to another than it quotes", self.elsewhere().ip(), [self.outside, a]),
                error("what another workload got", outside, [self.outside, b]),
                error("what it sent itself", outside, [a, self.outside]),
            ],
        ]
    }
}

fn forged(layout: Layout) {
    let mut stage = stage(layout, &["a", "b"]);
    stage.outside(&ELSEWHERE);
    let to = "to: [{cidr: 192.0.2.7/32}, {cidr: \"2001:db8::7/128\"}]";
    let write = |stage: &Stage, ports: &str| {
        for name in ["a", "b"] {
            stage.policy(&format!("{name}.yaml"), &policy(name, "[ingress, egress]", &rule(to, ports)));
        }
    };
    write(&stage, "7000/udp");
    let inwards = Route {
        to: device(stage.lab.node(), UPLINK).unwrap().mac,
        from: device(stage.lab.outside(), "eth0").unwrap().mac,
    };
    let outwards = stage.route("a", None);
    let (mut flows, mut received, mut sent) = (Vec::new(), [Vec::new(), Vec::new()], [Vec::new(), Vec::new()]);
    for v4 in [true, false] {
        let one = Flows::open(&stage, v4);
        for (all, more) in received.iter_mut().zip(one.received(inwards)).chain(sent.iter_mut().zip(one.sent(outwards)))
        {
            all.extend(more);
        }
        flows.push(one);
    }
    let (outsider, insider) =
        (Sender::open(stage.lab.outside(), "eth0").unwrap(), Sender::open(stage.at("a"), "eth0").unwrap());
    let (at_a, at_outside) = (stage.tap("a"), Wire::tap(stage.lab.outside(), |_| true).unwrap());
    for attacks in &received {
        arrive(&outsider, &at_a, attacks);
    }
    for attacks in &sent {
        arrive(&insider, &at_outside, attacks);
    }
    stage.start();
    let when = format!("{layout:?}, before the flows");
    for attacks in &received {
        fail(&stage, &when, &outsider, &at_a, attacks);
    }
    for attacks in &sent {
        fail(&stage, &when, &insider, &at_outside, attacks);
    }
    let judged = |stage: &Stage, when: &str| {
        let when = format!("{layout:?}, {when}");
        reach(&when, &outsider, &at_a, &received[0]);
        fail(stage, &when, &outsider, &at_a, &received[1]);
        reach(&when, &insider, &at_outside, &sent[0]);
        fail(stage, &when, &insider, &at_outside, &sent[1]);
    };
    let all_live = || assert!(flows.iter().all(Flows::live), "{layout:?}: the flows are allowed");
    all_live();
    judged(&stage, "live flows");
    change(&mut stage, |stage| write(stage, "7000/udp, 7001/udp"));
    judged(&stage, "another set that allows them");
    all_live();
    change(&mut stage, |stage| write(stage, "7001/udp"));
    let when = format!("{layout:?}, a set that closes them");
    for attacks in &received {
        fail(&stage, &when, &outsider, &at_a, attacks);
    }
    for attacks in &sent {
        fail(&stage, &when, &insider, &at_outside, attacks);
    }
    change(&mut stage, |stage| write(stage, "7000/udp"));
    all_live();
    stage.kill();
    judged(&stage, "the daemon is dead");
}

#[test]
fn a_forged_error_does_not_pass_bridged() {
    forged(Layout::Bridged);
}

#[test]
fn a_forged_error_does_not_pass_routed() {
    forged(Layout::Routed);
}

/// An error of a third workload, or of a router, that quotes a live flow of `a` and carries this many bytes more.
fn carrying(stage: &Stage, from: &str, flow: &Flows, route: Route, more: usize) -> Attack {
    let (v4, [own, _]) = (flow.v4, flow.own);
    Attack::new(format!("{from}, {more} bytes, IPv4 {v4}"), Direction::Ingress, Reason::NoRule, |nonce| {
        let carrier = if v4 { protocol::ICMP } else { protocol::ICMPV6 };
        let carried = [nonce, &vec![0x41; more]].concat();
        let message = too_big([own, flow.outside], protocol::UDP, &carried);
        ip(route, address(stage, from, v4), own.ip(), carrier, &message)
    })
}

/// `a` may ask the outside and nobody may ask it; `c` is free, and knows of a flow of `a`.
fn third(layout: Layout) {
    let mut stage = stage(layout, &["a", "b", "c"]);
    stage.outside(&ELSEWHERE);
    let to = "to: [{cidr: 192.0.2.7/32}, {cidr: \"2001:db8::7/128\"}]";
    for name in ["a", "b"] {
        stage.policy(&format!("{name}.yaml"), &policy(name, "[ingress, egress]", &rule(to, "7000/udp")));
    }
    let inwards = Route {
        to: device(stage.lab.node(), UPLINK).unwrap().mac,
        from: device(stage.lab.outside(), "eth0").unwrap().mac,
    };
    let beside = stage.route("c", Some("a"));
    let flows = [true, false].map(|v4| Flows::open(&stage, v4));
    let of = |from: &str, route: Route, sizes: [usize; 2]| -> Vec<Attack> {
        flows.iter().zip(sizes).map(|(flow, more)| carrying(&stage, from, flow, route, more)).collect()
    };
    // Header, ICMP header, quoted headers and the nonce are 80 bytes over IPv4, and 120 over IPv6.
    let (short, fits, long) = ([0, 0], [576 - 80, 1280 - 120], [577 - 80, 1281 - 120]);
    let of_third: Vec<Attack> = [of("c", beside, short), of("c", beside, [400, 900])].into_iter().flatten().collect();
    let of_router: Vec<Attack> =
        [of("outside", inwards, short), of("outside", inwards, fits)].into_iter().flatten().collect();
    let too_long = of("outside", inwards, long);
    let (outsider, insider) =
        (Sender::open(stage.lab.outside(), "eth0").unwrap(), Sender::open(stage.at("c"), "eth0").unwrap());
    let at_a = stage.tap("a");
    arrive(&insider, &at_a, &of_third);
    arrive(&outsider, &at_a, &of_router);
    arrive(&outsider, &at_a, &too_long);
    stage.start();
    assert!(flows.iter().all(Flows::live), "{layout:?}: the flows are allowed");
    for when in ["the daemon is alive", "the daemon is dead"] {
        let when = format!("{layout:?}, {when}");
        fail(&stage, &when, &insider, &at_a, &of_third);
        reach(&when, &outsider, &at_a, &of_router);
        fail(&stage, &when, &outsider, &at_a, &too_long);
        if when.ends_with("alive") {
            stage.kill();
        }
    }
}

#[test]
fn a_third_workload_sends_nothing_by_errors_bridged() {
    third(Layout::Bridged);
}

#[test]
fn a_third_workload_sends_nothing_by_errors_routed() {
    third(Layout::Routed);
}
