//! SCTP as raw frames: an association that policy allows, and frames that only look like part of it.

use enforcer::lab::Layout;
use enforcer_common::id::Direction;
use enforcer_common::verdict::Reason;
use enforcer_tests::net::wire::Sender;
use enforcer_tests::packet::parts::{ip, protocol, sctp, sctp_init};
use enforcer_tests::stage::Stage;

use super::attack::{Attack, arrive, fail, reach};
use super::common::{change, policy, rule, stage};

/// Types of chunks (RFC 9260 section 3.2).
const DATA: u8 = 0;
const INIT: u8 = 1;
const INIT_ACK: u8 = 2;
const ABORT: u8 = 6;
const COOKIE_ECHO: u8 = 10;

/// The port of the client.
const CLIENT: u16 = 4000;

/// Packets of both families with this chunk. `direction`: of the program that drops them, if they are to be dropped.
fn chunk(stage: &Stage, from: &str, to: &str, ports: [u16; 2], kind: u8, direction: Direction) -> Vec<Attack> {
    let route = stage.route(from, Some(to));
    let frame = |v4: bool| {
        let (source, destination) = (stage.address(from, v4), stage.address(to, v4));
        Attack::new(format!("chunk {kind} from {source}, {ports:?}"), direction, Reason::NoRule, |nonce| {
            let [from, to] = ports;
            let packet = if kind == INIT { sctp_init(from, to, nonce) } else { sctp(from, to, kind, nonce) };
            ip(route, source, destination, protocol::SCTP, &packet)
        })
    };
    [true, false].map(frame).into()
}

fn write(stage: &Stage, ports: &str) {
    stage.policy("b.yaml", &policy("b", "[ingress, egress]", &rule("from: [{workloads: {app: a}}]", ports)));
}

fn association(layout: Layout) {
    let mut stage = stage(layout, &["a", "b", "c"]);
    stage.policy("a.yaml", &policy("a", "[ingress, egress]", &rule("to: [{workloads: {app: b}}]", "7000-7002/sctp")));
    write(&stage, "7000/sctp");
    let senders = ["a", "b", "c"].map(|name| Sender::open(stage.at(name), "eth0").unwrap());
    let taps = ["a", "b"].map(|name| stage.tap(name));
    let asks = |kind: u8, port: u16| chunk(&stage, "a", "b", [CLIENT, port], kind, Direction::Ingress);
    let tells = |kind: u8, ports: [u16; 2]| chunk(&stage, "b", "a", ports, kind, Direction::Egress);

    let init = asks(INIT, 7000);
    let requests = [COOKIE_ECHO, DATA].map(|kind| asks(kind, 7000));
    let answers = [INIT_ACK, DATA].map(|kind| tells(kind, [7000, CLIENT]));
    // No rule opens these; 7002 is open in another protocol later.
    let denied: Vec<Attack> = [INIT, DATA, COOKIE_ECHO, ABORT].into_iter().flat_map(|kind| asks(kind, 7001)).collect();
    let back: Vec<Attack> = [
        tells(INIT, [7000, CLIENT]),
        tells(DATA, [7000, CLIENT + 1]),
        tells(DATA, [7001, CLIENT]),
        tells(INIT_ACK, [CLIENT, 7000]),
    ]
    .into_iter()
    .flatten()
    .collect();
    let stranger: Vec<Attack> = [INIT, DATA]
        .into_iter()
        .flat_map(|kind| chunk(&stage, "c", "b", [CLIENT, 7000], kind, Direction::Ingress))
        .collect();

    for attacks in requests.iter().chain([&init, &denied]) {
        arrive(&senders[0], &taps[1], attacks);
    }
    for attacks in answers.iter().chain([&back]) {
        arrive(&senders[1], &taps[0], attacks);
    }
    arrive(&senders[2], &taps[1], &stranger);
    stage.start();
    let closed = |stage: &Stage, when: &str| {
        fail(stage, when, &senders[0], &taps[1], &denied);
        fail(stage, when, &senders[1], &taps[0], &back);
        fail(stage, when, &senders[2], &taps[1], &stranger);
    };
    let open = |when: &str| {
        for attacks in &requests {
            reach(when, &senders[0], &taps[1], attacks);
        }
        for attacks in &answers {
            reach(when, &senders[1], &taps[0], attacks);
        }
    };
    let when = |what: &str| format!("{layout:?}, {what}");
    closed(&stage, &when("before the association"));
    for attacks in &answers {
        fail(&stage, &when("before the association"), &senders[1], &taps[0], attacks);
    }
    reach(&when("it opens"), &senders[0], &taps[1], &init);
    open(&when("it is open"));
    closed(&stage, &when("it is open"));
    // The same port in another protocol does not keep it.
    change(&mut stage, |stage| write(stage, "7000/tcp, 7002/sctp"));
    let cut = when("policy has closed it");
    for attacks in requests.iter().chain([&init, &denied]) {
        fail(&stage, &cut, &senders[0], &taps[1], attacks);
    }
    for attacks in answers.iter().chain([&back]) {
        fail(&stage, &cut, &senders[1], &taps[0], attacks);
    }
    change(&mut stage, |stage| write(stage, "7000/sctp"));
    open(&when("allowed again"));
    stage.kill();
    open(&when("the daemon is dead"));
    closed(&stage, &when("the daemon is dead"));
}

#[test]
fn an_association_passes_and_nothing_near_it_bridged() {
    association(Layout::Bridged);
}

#[test]
fn an_association_passes_and_nothing_near_it_routed() {
    association(Layout::Routed);
}
