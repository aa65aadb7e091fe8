//! Packets of live flows with only the Ethernet header in the linear part. They pass and are dropped like all others.

use std::time::{Duration, Instant};

use enforcer::lab::Layout;
use enforcer_common::id::Direction;
use enforcer_common::verdict::Reason;
use enforcer_tests::net::ring;
use enforcer_tests::net::wire::{PATIENCE, Sender, Wire};
use enforcer_tests::packet::parts::{ip, protocol, tcp, udp};
use enforcer_tests::stage::Stage;

use super::attack::{Attack, arrive, reach};
use super::common::{change, policy, rule, stage};

const SYN: u8 = 0x02;
const SYN_ACK: u8 = 0x12;
const ACK: u8 = 0x10;
const PSH_ACK: u8 = 0x18;

/// What a transport header is made of: source port, destination port, nonce.
type Body = fn(u16, u16, &[u8]) -> Vec<u8>;

/// UDP, and TCP segments without and with the flag for data at once.
const LIVE: [(u8, Body); 3] = [
    (protocol::UDP, udp),
    (protocol::TCP, |from, to, nonce| tcp(from, to, ACK, nonce)),
    (protocol::TCP, |from, to, nonce| tcp(from, to, PSH_ACK, nonce)),
];

/// Frames of both families.
fn frames(stage: &Stage, from: &str, to: &str, ports: [u16; 2], kinds: &[(u8, Body)], by: Direction) -> Vec<Attack> {
    let route = stage.route(from, Some(to));
    let mut frames = Vec::new();
    for v4 in [true, false] {
        for (place, (number, body)) in kinds.iter().enumerate() {
            let (source, destination) = (stage.address(from, v4), stage.address(to, v4));
            let name = format!("{source} to {destination}, {ports:?}, protocol {number}, {place}");
            frames.push(Attack::new(name, by, Reason::NoRule, |nonce| {
                ip(route, source, destination, *number, &body(ports[0], ports[1], nonce))
            }));
        }
    }
    frames
}

/// Sends each by a ring of its own, and gives how often each came since the tap was last emptied. `hoped`: how often each should.
fn by_ring(stage: &Stage, from: &str, victim: &Wire, attacks: &[Attack], hoped: usize) -> Vec<usize> {
    for attack in attacks {
        ring::send(&Sender::open(stage.at(from), "eth0").unwrap(), &attack.frame).unwrap();
    }
    let count = |attack: &Attack| victim.peek(|frame| !frame.outgoing && frame.holds(&attack.nonce));
    let end = Instant::now() + PATIENCE;
    while attacks.iter().any(|attack| count(attack) < hoped) && Instant::now() < end {
        std::thread::sleep(Duration::from_millis(3));
    }
    victim.settle();
    let came: Vec<usize> = attacks.iter().map(count).collect();
    victim.frames().clear();
    came
}

/// All come, or none does and all are counted.
fn expect(stage: &Stage, when: &str, from: &str, victim: &Wire, attacks: &[Attack], passes: bool) {
    let direction = attacks[0].direction;
    let denied = stage.denied(direction, Reason::NoRule);
    let came = by_ring(stage, from, victim, attacks, usize::from(passes));
    let names: Vec<&str> = attacks.iter().map(|attack| attack.name.as_str()).collect();
    assert_eq!(came, vec![usize::from(passes); attacks.len()], "{when}: {names:#?}");
    if !passes {
        let counted = || stage.denied(direction, Reason::NoRule) - denied;
        // What the other side's kernel answers may be denied as well.
        stage.until(&format!("{when}: all of {} are counted", attacks.len()), || counted() >= attacks.len() as u64);
    }
    for other in [Direction::Ingress, Direction::Egress] {
        assert_eq!(stage.denied(other, Reason::PullFailed), 0, "{when}");
    }
}

fn live(layout: Layout) {
    let mut stage = stage(layout, &["a", "b"]);
    stage.settings("older_connections_seconds: 0\n");
    let ports = "7000-7001/udp, 7000-7001/tcp";
    stage.policy("a.yaml", &policy("a", "[ingress, egress]", &rule("to: [{workloads: {app: b}}]", ports)));
    let write = |stage: &Stage, ports: &str| {
        stage.policy("b.yaml", &policy("b", "[ingress, egress]", &rule("from: [{workloads: {app: a}}]", ports)));
    };
    write(&stage, "7000/udp, 7000/tcp");
    let (at_a, at_b) = (stage.tap("a"), stage.tap("b"));
    let openers = frames(
        &stage,
        "a",
        "b",
        [4000, 7000],
        &[(protocol::UDP, udp), (protocol::TCP, |from, to, nonce| tcp(from, to, SYN, nonce))],
        Direction::Ingress,
    );
    let answers = frames(
        &stage,
        "b",
        "a",
        [7000, 4000],
        &[(protocol::UDP, udp), (protocol::TCP, |from, to, nonce| tcp(from, to, SYN_ACK, nonce))],
        Direction::Egress,
    );
    let asks = frames(&stage, "a", "b", [4000, 7000], &LIVE, Direction::Ingress);
    let tells = frames(&stage, "b", "a", [7000, 4000], &LIVE, Direction::Egress);
    // Ports that are one off those of the live flows.
    let denied = frames(&stage, "a", "b", [4000, 7001], &LIVE, Direction::Ingress);
    let back = frames(&stage, "b", "a", [7000, 4001], &LIVE, Direction::Egress);
    let [from_a, from_b] = ["a", "b"].map(|name| Sender::open(stage.at(name), "eth0").unwrap());
    arrive(&from_a, &at_b, &openers);
    arrive(&from_b, &at_a, &answers);
    let when = |what: &str| format!("{layout:?}, {what}");
    for attacks in [&asks, &denied] {
        expect_control(&stage, "a", &at_b, attacks);
    }
    for attacks in [&tells, &back] {
        expect_control(&stage, "b", &at_a, attacks);
    }
    stage.start();
    expect(&stage, &when("nobody has asked"), "b", &at_a, &tells, false);
    reach(&when("the flows open"), &from_a, &at_b, &openers);
    reach(&when("and are answered"), &from_b, &at_a, &answers);
    let judged = |stage: &Stage, when: &str| {
        for _ in 0..3 {
            expect(stage, when, "a", &at_b, &asks, true);
            expect(stage, when, "b", &at_a, &tells, true);
            expect(stage, when, "a", &at_b, &denied, false);
            expect(stage, when, "b", &at_a, &back, false);
        }
    };
    judged(&stage, &when("live"));
    change(&mut stage, |stage| write(stage, "7000/sctp"));
    expect(&stage, &when("policy has closed them"), "a", &at_b, &asks, false);
    expect(&stage, &when("policy has closed them"), "b", &at_a, &tells, false);
    change(&mut stage, |stage| write(stage, "7000/udp, 7000/tcp"));
    judged(&stage, &when("allowed again"));
    stage.kill();
    judged(&stage, &when("the daemon is dead"));
}

fn expect_control(stage: &Stage, from: &str, victim: &Wire, attacks: &[Attack]) {
    assert_eq!(by_ring(stage, from, victim, attacks, 1), vec![1; attacks.len()], "positive control");
}

#[test]
fn a_live_flow_is_known_outside_the_linear_part() {
    live(Layout::Bridged);
    live(Layout::Routed);
}
