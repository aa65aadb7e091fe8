//! Tests of half-open flows (D17): the oldest of them give way, so that they keep nobody out; what is established stays, and is
//! counted in a share of its own direction.

use enforcer_common::flow_state::idle_limit;
use enforcer_common::id::{Direction, Ifindex};
use enforcer_common::packet::{ProtocolClass, tcp};
use enforcer_common::verdict::{Reason, Verdict};
use enforcer_tests::packet::{Frame, Transport};

use crate::stage::*;

const OPEN: &str = "{ from: anywhere }, { to: anywhere }";
/// Places among half-open flows.
const PLACES: usize = 8;

fn small(rules: &str) -> Stage {
    let mut stage = Stage::closed_but(rules);
    stage.world.half_open_limit = PLACES;
    stage
}

/// Both ways of a connection between `a` and X: whoever opens it has the port.
fn ends(v4: bool, port: u16, from_peer: bool) -> (Ends, Ends) {
    let there = if from_peer { ((peer(v4), port), (host(v4, A), 80)) } else { ((host(v4, A), port), (peer(v4), 80)) };
    (there, (there.1, there.0))
}

fn pass(stage: &Stage, frame: &Frame<'_>, from_peer: bool) -> Verdict {
    if from_peer { stage.receives(A, UPLINK, frame) } else { stage.sends(A, frame) }
}

/// The verdicts for SYN, SYN+ACK and ACK.
fn connect(stage: &Stage, v4: bool, port: u16, from_peer: bool) -> [Verdict; 3] {
    let (there, back) = ends(v4, port, from_peer);
    [pass(stage, &syn(there), from_peer), pass(stage, &syn_ack(back), !from_peer), pass(stage, &ack(there), from_peer)]
}

/// Whether data passes in both directions.
fn goes_on(stage: &Stage, v4: bool, port: u16, from_peer: bool) -> bool {
    let (there, back) = ends(v4, port, from_peer);
    pass(stage, &data(there.0, there.1), from_peer) == ALLOW && pass(stage, &data(back.0, back.1), !from_peer) == ALLOW
}

#[test]
fn a_flood_keeps_nobody_out_and_pushes_out_nothing_established() {
    for v4 in FAMILIES {
        let own = host(v4, A);
        // What a client that is not there sends, and what the workload answers.
        let forged = |number: u16| {
            let ends = ((peer(v4), 1000 + number), (own, 80));
            let back = (ends.1, ends.0);
            let datagrams = (datagram(ends.0, ends.1), datagram(back.0, back.1));
            let sctp = |from: (std::net::IpAddr, u16), to: (std::net::IpAddr, u16), chunk| {
                Frame::new(from.0, to.0, Transport::Sctp { source: from.1, destination: to.1, chunk })
            };
            let init_ack = Frame { payload: &[0, 0, 0, 9], ..sctp(back.0, back.1, 2) };
            [
                (syn(ends), syn_ack(back)),
                (ack(ends), segment(back.0, back.1, tcp::RST)),
                datagrams,
                (sctp(ends.0, ends.1, 1), init_ack),
                (echo(peer(v4), own, true, number), echo(own, peer(v4), false, number)),
            ]
        };
        for kind in 0..forged(0).len() {
            let mut stage = small(OPEN);
            stage.world.share_limit = 4;
            assert_eq!(connect(&stage, v4, 1, true), [ALLOW; 3]);
            assert_eq!(connect(&stage, v4, 2, false), [ALLOW; 3]);
            for number in 0..300 {
                let (asks, answers) = &forged(number)[kind];
                assert_eq!(stage.receives(A, UPLINK, asks), ALLOW, "{kind}: {number}");
                assert_eq!(stage.sends(A, answers), ALLOW, "{kind}: {number}");
            }
            assert!(stage.world.flow_count() <= 2 + PLACES, "{kind}: {} flows", stage.world.flow_count());
            for share in [Direction::Ingress, Direction::Egress] {
                assert_eq!(stage.world.established(Ifindex(A), share), 1, "{kind}: what nobody opened is counted");
            }
            assert!(goes_on(&stage, v4, 1, true) && goes_on(&stage, v4, 2, false), "{kind}");
            assert_eq!(connect(&stage, v4, 3, true), [ALLOW; 3], "{kind}: a new one");
            assert_eq!(connect(&stage, v4, 4, false), [ALLOW; 3], "{kind}: of its own");
            assert!(goes_on(&stage, v4, 3, true) && goes_on(&stage, v4, 4, false), "{kind}");
        }
    }
}

#[test]
fn the_oldest_gives_way_first() {
    let stage = small(OPEN);
    for port in 0..PLACES as u16 {
        assert_eq!(pass(&stage, &syn(ends(true, 1 + port, true).0), true), ALLOW);
    }
    let known = |port| stage.entry(&stage.key(A, Some(UPLINK), &syn(ends(true, port, true).0))).is_some();
    assert!(known(1) && known(PLACES as u16));
    assert_eq!(pass(&stage, &syn(ends(true, 100, true).0), true), ALLOW);
    assert!(!known(1) && known(2) && known(100));
    // What a workload opens has places of its own.
    for port in 0..100 {
        assert_eq!(pass(&stage, &syn(ends(true, 200 + port, false).0), false), ALLOW);
    }
    assert!(known(2) && known(100));
}

#[test]
fn each_direction_has_its_share() {
    for (v4, from_peer) in [(true, true), (true, false), (false, true), (false, false)] {
        let mut stage = Stage::closed_but(OPEN);
        stage.world.share_limit = 2;
        for port in [1, 2] {
            assert_eq!(connect(&stage, v4, port, from_peer), [ALLOW; 3]);
        }
        let full = denied(Reason::FlowQuota);
        assert_eq!(pass(&stage, &syn(ends(v4, 3, from_peer).0), from_peer), full, "the share is full");
        assert!(goes_on(&stage, v4, 1, from_peer), "and what is in it goes on");
        assert_eq!(connect(&stage, v4, 4, !from_peer), [ALLOW; 3], "the other one is not");
        let nodes = syn(((node(v4), 5), (host(v4, A), 22)));
        assert_eq!(stage.receives(A, NODE, &nodes), ALLOW, "the node is let in");
        assert_eq!(stage.world.established(Ifindex(A), Direction::Ingress), if from_peer { 2 } else { 1 });
        // Its ports are used by the other side: it changes the share.
        let (there, _) = ends(v4, 4, !from_peer);
        assert_eq!(pass(&stage, &syn((there.1, there.0)), from_peer), full);
        assert_eq!(stage.world.established(Ifindex(A), Direction::Egress), if from_peer { 1 } else { 2 });
    }
}

#[test]
fn many_may_wait_but_no_more_than_the_share_are_established() {
    for v4 in FAMILIES {
        let mut stage = Stage::closed_but(OPEN);
        stage.world.share_limit = 2;
        for port in 1..=5 {
            let (there, back) = ends(v4, port, true);
            assert_eq!(pass(&stage, &syn(there), true), ALLOW);
            assert_eq!(pass(&stage, &syn_ack(back), false), ALLOW);
        }
        let verdicts = [1, 2, 3, 4, 5].map(|port| pass(&stage, &ack(ends(v4, port, true).0), true));
        let full = denied(Reason::FlowQuota);
        assert_eq!(verdicts, [ALLOW, ALLOW, full, full, full]);
        assert_eq!(stage.world.established(Ifindex(A), Direction::Ingress), 2);
        let (there, back) = ((node(v4), 9), (host(v4, A), 22));
        assert_eq!(stage.receives(A, NODE, &syn((there, back))), ALLOW);
        assert_eq!(stage.receives(A, NODE, &ack((there, back))), ALLOW, "the node is let in all the same");
    }
}

#[test]
fn a_half_open_connection_is_as_old_as_its_first_packet() {
    for v4 in FAMILIES {
        for from_peer in [true, false] {
            let mut stage = Stage::closed_but(OPEN);
            let (there, back) = ends(v4, 40_000, from_peer);
            let key = stage.key(A, from_peer.then_some(UPLINK), &syn(there));
            let age = |stage: &Stage| stage.world.tick - stage.entry(&key).unwrap().last_seen;
            let limit = |stage: &Stage| idle_limit(ProtocolClass::Tcp, stage.entry(&key).unwrap().state);
            assert_eq!(pass(&stage, &syn(there), from_peer), ALLOW);
            let guess = Frame { numbers: [1, 0xdead_beef], ..ack(there) };
            for (second, frame, forth) in [
                (10, syn(there), true),
                (20, syn_ack(back), false),
                (30, syn_ack(back), false),
                (40, guess.clone(), true),
                (50, Frame { payload: b"data", ..guess }, true),
                (55, ack(back), false),
            ] {
                stage.world.tick = 1 + second;
                assert_eq!(pass(&stage, &frame, forth == from_peer), ALLOW);
                assert_eq!((age(&stage), limit(&stage)), (second, 60), "{:?}", frame.transport);
            }
            let epoch = stage.world.word.epoch;
            stage.apply(&[("a", &but(OPEN))]);
            assert_eq!(pass(&stage, &syn_ack(back), !from_peer), ALLOW, "judged again");
            assert_eq!((stage.entry(&key).unwrap().epoch, age(&stage)), (epoch + 1, 55));
            assert_eq!(pass(&stage, &ack(there), from_peer), ALLOW);
            assert_eq!((age(&stage), limit(&stage)), (0, 7_800), "established");
        }
    }
}

#[test]
fn an_acceptance_without_state_must_be_allowed_to_both_sides() {
    for v4 in FAMILIES {
        for (policy, verdict, why) in [
            (INGRESS_CLOSED, NO_RULE, "the connection is closed to its opener"),
            ("isolate: [ingress], allow: [{ from: anywhere, ports: [80/tcp] }]", ALLOW, "it is allowed"),
            ("isolate: [ingress], allow: [{ from: anywhere, ports: [81/tcp] }]", NO_RULE, "at another port"),
            (EGRESS_CLOSED, NO_RULE, "as a reply nothing passes"),
            ("isolate: [egress], allow: [{ to: anywhere }]", ALLOW, "nobody forbids it to the opener"),
        ] {
            let stage = Stage::new(&[("a", policy)]);
            let (there, back) = ends(v4, 40_000, true);
            assert_eq!(stage.sends(A, &syn_ack(back)), verdict, "{why}");
            let entry = stage.entry(&stage.key(A, None, &ack(back)));
            assert_eq!(entry.is_some(), verdict == ALLOW, "{why}");
            if let Some(entry) = entry {
                assert_eq!(entry.role.direction(), Direction::Ingress, "{why}");
                assert_eq!(stage.receives(A, UPLINK, &ack(there)), ALLOW, "{why}");
            }
        }
    }
}

#[test]
fn a_reset_without_state_makes_none() {
    for v4 in FAMILIES {
        let stage = Stage::closed_but(OPEN);
        for from_peer in [true, false] {
            let (there, _) = ends(v4, 40_000, from_peer);
            for flags in [tcp::RST, tcp::RST | tcp::ACK] {
                assert_eq!(pass(&stage, &segment(there.0, there.1, flags), from_peer), ALLOW);
            }
        }
        assert_eq!(stage.world.flow_count(), 0);
    }
}
