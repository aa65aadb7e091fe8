//! Tests that policy judges a flow in the role in which it was opened, whichever side sent the packet. So replies of allowed
//! flows pass (N22).

use enforcer_common::flow_state::{FlowValue, Role, idle_limit, state};
use enforcer_common::packet::{ProtocolClass, tcp};
use enforcer_tests::packet::{Frame, Transport};

use crate::stage::*;

const WEB: &str = "{ from: anywhere, ports: [80/tcp] }";

#[test]
fn replies_pass_where_new_flows_do_not() {
    for v4 in FAMILIES {
        for (rules, opened_by_peer) in [(WEB, true), ("{ to: anywhere, ports: [80/tcp] }", false)] {
            let stage = Stage::closed_but(rules);
            let (client, server) = if opened_by_peer { (peer(v4), host(v4, A)) } else { (host(v4, A), peer(v4)) };
            let there = ((client, 40_000), (server, 80));
            let back = ((server, 80), (client, 40_000));
            let judge = |frame: &Frame<'_>, from_peer: bool| {
                if from_peer { stage.receives(A, UPLINK, frame) } else { stage.sends(A, frame) }
            };
            let answer = segment(back.0, back.1, tcp::SYN | tcp::ACK);
            assert_eq!(judge(&answer, !opened_by_peer), NO_RULE, "nobody has asked");
            assert_eq!(judge(&syn(there), opened_by_peer), ALLOW);
            for _ in 0..2 {
                assert_eq!(judge(&answer, !opened_by_peer), ALLOW, "the answer");
                assert_eq!(judge(&ack(there), opened_by_peer), ALLOW);
                assert_eq!(judge(&ack(back), !opened_by_peer), ALLOW);
            }
            assert_eq!(judge(&syn(back), !opened_by_peer), NO_RULE, "a SYN never is an answer");
            assert_eq!(judge(&ack(back), !opened_by_peer), ALLOW, "and cuts nothing");
            assert_eq!(judge(&ack(((server, 81), (client, 40_000))), !opened_by_peer), NO_RULE, "another port");
            assert_eq!(
                judge(&ack(((server, 80), (client, 40_001))), !opened_by_peer),
                NO_RULE,
                "another port of the client"
            );
        }
    }
}

#[test]
fn other_protocols_answer_too() {
    for v4 in FAMILIES {
        let stage = Stage::closed_but("{ to: anywhere }");
        let (own, other) = (host(v4, A), peer(v4));
        let sctp = |source, destination, from_own, chunk| {
            let (from, to) = if from_own { (own, other) } else { (other, own) };
            Frame::new(from, to, Transport::Sctp { source, destination, chunk })
        };
        for (asks, answers, why) in [
            (datagram((own, 5000), (other, 53)), datagram((other, 53), (own, 5000)), "UDP"),
            (sctp(5000, 9, true, 1), sctp(9, 5000, false, 2), "SCTP"),
            (Frame::new(own, other, Transport::Other(47)), Frame::new(other, own, Transport::Other(47)), "GRE"),
        ] {
            assert_ne!(stage.receives(A, UPLINK, &answers), ALLOW, "{why}: nobody has asked");
            assert_eq!(stage.sends(A, &asks), ALLOW, "{why}");
            assert_eq!(stage.receives(A, UPLINK, &answers), ALLOW, "{why}: the answer");
        }
        assert_eq!(stage.receives(A, UPLINK, &sctp(9, 5000, false, 1)), NO_RULE, "an INIT never is an answer");
        let other_protocol = Frame::new(other, own, Transport::Other(50));
        assert_eq!(stage.receives(A, UPLINK, &other_protocol), NO_RULE, "ESP does not answer GRE");
        let low_byte = datagram((other, 0), (own, 47));
        assert_eq!(stage.receives(A, UPLINK, &low_byte), NO_RULE, "nor does UDP to a port of that number");
    }
}

#[test]
fn a_server_does_not_turn_its_clients_connection_into_its_own() {
    for v4 in FAMILIES {
        let mut stage = Stage::new(&[("a", "isolate: [ingress], allow: [{ from: anywhere, ports: [80/tcp] }]")]);
        let there = ((peer(v4), 40_000), (host(v4, A), 80));
        let back = ((host(v4, A), 80), (peer(v4), 40_000));
        assert_eq!(stage.receives(A, UPLINK, &syn(there)), ALLOW);
        stage.world.forget_flows();
        assert_eq!(stage.sends(A, &ack(back)), ALLOW, "egress is open, so state comes back by the server's segment");
        let entry = stage.entry(&stage.key(A, None, &ack(back))).expect("an entry");
        assert_eq!(entry.role, Role::PeerOpened, "in the role that policy knows it in");
        stage.apply(&[("a", INGRESS_CLOSED)]);
        assert_eq!(stage.sends(A, &ack(back)), NO_RULE, "closed since");
        assert_eq!(stage.receives(A, UPLINK, &ack(there)), NO_RULE, "in both directions");
    }
}

#[test]
fn the_one_role_that_policy_allows_is_kept() {
    // Without state a segment of the client itself is the client's, and one that both roles may explain is the other
    // side's only where that direction is isolated.
    for (policy, expected, why) in [
        ("isolate: [ingress]", Role::WorkloadOpened, "what nobody may ask is no answer"),
        ("isolate: [egress], allow: [{ to: anywhere }]", Role::WorkloadOpened, "an open ingress says nothing"),
        ("isolate: [ingress], allow: [{ from: anywhere, ports: [80/tcp] }]", Role::PeerOpened, "an answer of port 80"),
        ("isolate: [ingress], allow: [{ from: anywhere, ports: [81/tcp] }]", Role::WorkloadOpened, "not of port 81"),
    ] {
        let stage = Stage::new(&[("a", policy)]);
        let segment = ack(((host(true, A), 80), (peer(true), 40_000)));
        assert_eq!(stage.sends(A, &segment), ALLOW, "{why}");
        assert_eq!(stage.entry(&stage.key(A, None, &segment)).map(|entry| entry.role), Some(expected), "{why}");
    }
}

#[test]
fn a_closed_connection_is_kept_as_long_as_the_answering_side_sends() {
    let there = ((peer(true), 40_000), (host(true, A), 80));
    let back = ((host(true, A), 80), (peer(true), 40_000));
    let mut stage = Stage::new(&[("a", "isolate: [ingress], allow: [{ from: anywhere, ports: [80/tcp] }]")]);
    assert_eq!(stage.receives(A, UPLINK, &syn(there)), ALLOW);
    let key = stage.key(A, None, &ack(back));
    let half_open = stage.entry(&key).unwrap();
    assert_eq!(idle_limit(ProtocolClass::Tcp, half_open.state), 60, "half open");
    assert_eq!(stage.sends(A, &syn_ack(back)), ALLOW);
    assert_eq!(stage.receives(A, UPLINK, &ack(there)), ALLOW);
    let opened = stage.entry(&key).unwrap();

    stage.apply(&[("a", INGRESS_CLOSED)]);
    stage.world.tick = 500;
    assert_eq!(stage.receives(A, UPLINK, &ack(there)), NO_RULE);
    assert_eq!(stage.entry(&key), Some(opened), "the side that opened it does not keep it");
    assert_eq!(stage.sends(A, &ack(back)), NO_RULE);
    let kept = stage.entry(&key).unwrap();
    assert_eq!(kept.last_seen, 500, "the answering side does: freed, its next segment would be a new flow of its own");
    assert_eq!(kept.role, Role::PeerOpened);
    assert_eq!(kept.epoch, opened.epoch, "it is not renewed");
    assert_eq!(idle_limit(ProtocolClass::Tcp, kept.state), 7_800);
    stage.world.tick = 600;
    let reset = Frame { numbers: BELIEVED, ..segment(back.0, back.1, tcp::RST | tcp::ACK) };
    assert_eq!(stage.sends(A, &reset), NO_RULE);
    let kept = stage.entry(&key).unwrap();
    assert_eq!((kept.last_seen, idle_limit(ProtocolClass::Tcp, kept.state)), (600, 7_800), "an RST does not free it");
}

#[test]
fn a_closed_udp_flow_ends_by_itself() {
    let asks = datagram((peer(true), 40_000), (host(true, A), 53));
    let answers = datagram((host(true, A), 53), (peer(true), 40_000));
    let mut stage = Stage::new(&[("a", "isolate: [ingress], allow: [{ from: anywhere }]")]);
    assert_eq!(stage.receives(A, UPLINK, &asks), ALLOW);
    stage.apply(&[("a", INGRESS_CLOSED)]);
    stage.world.tick = 500;
    assert_eq!(stage.sends(A, &answers), NO_RULE);
    assert_eq!(stage.entry(&stage.key(A, None, &answers)).unwrap().last_seen, 1, "not kept");
}

#[test]
fn a_syn_takes_an_older_entry_over() {
    let there = ((peer(true), 40_000), (host(true, A), 80));
    let back = ((host(true, A), 80), (peer(true), 40_000));
    let stage = Stage::new(&[]);
    let key = stage.key(A, Some(UPLINK), &ack(there));
    assert_eq!(stage.receives(A, UPLINK, &syn(there)), ALLOW);
    for frame in [segment(back.0, back.1, tcp::FIN | tcp::ACK), segment(back.0, back.1, tcp::RST)] {
        assert_eq!(stage.sends(A, &frame), ALLOW);
    }
    assert_ne!(stage.entry(&key).unwrap().state, Role::PeerOpened as u8);
    assert_eq!(stage.receives(A, UPLINK, &syn(there)), ALLOW, "the same tuple again");
    assert_eq!(stage.entry(&key).unwrap().state, Role::PeerOpened as u8, "as if it were the first");
    assert_eq!(stage.sends(A, &syn(back)), ALLOW, "from the other side");
    let entry = stage.entry(&key).unwrap();
    assert_eq!(entry.state, Role::WorkloadOpened as u8, "in its own role");
    assert_eq!(stage.world.flow_count(), 1);
}

#[test]
fn a_denied_syn_leaves_the_flow_alone() {
    let stage = Stage::closed_but(WEB);
    let there = ((peer(true), 40_000), (host(true, A), 80));
    let back = ((host(true, A), 80), (peer(true), 40_000));
    assert_eq!(stage.receives(A, UPLINK, &syn(there)), ALLOW);
    let before = stage.entry(&stage.key(A, None, &ack(back)));
    assert_eq!(stage.sends(A, &syn(back)), NO_RULE);
    assert_eq!(stage.entry(&stage.key(A, None, &ack(back))), before);
    assert_eq!(stage.sends(A, &ack(back)), ALLOW);
}

/// The numbers of a reset that the other side takes for one: all segments acknowledge the same.
const BELIEVED: [u32; 2] = [0x0102_0305, 0x0102_0305];

/// An established connection of a client outside to port 80 of `a`.
fn connected(stage: &Stage) -> (Ends, Ends) {
    let there = ((peer(true), 40_000), (host(true, A), 80));
    let back = (there.1, there.0);
    assert_eq!(stage.receives(A, UPLINK, &syn(there)), ALLOW);
    assert_eq!(stage.sends(A, &syn_ack(back)), ALLOW);
    assert_eq!(stage.receives(A, UPLINK, &ack(there)), ALLOW);
    (there, back)
}

#[test]
fn a_reset_that_the_other_side_takes_for_one_shortens_the_limit() {
    let stage = Stage::closed_but(WEB);
    let (there, back) = connected(&stage);
    let key = stage.key(A, None, &ack(back));
    let limit = || idle_limit(ProtocolClass::Tcp, stage.entry(&key).unwrap().state);
    let reset = |ends: Ends, number| Frame { numbers: [number, 0], ..segment(ends.0, ends.1, tcp::RST) };
    assert_eq!(limit(), 7_800);
    assert_eq!(stage.receives(A, UPLINK, &reset(there, BELIEVED[0])), ALLOW);
    assert_eq!(limit(), 10, "after an RST the flow may be idle for a short time");
    assert_eq!(stage.receives(A, UPLINK, &ack(there)), ALLOW, "a later segment passes");
    assert_eq!(limit(), 7_800, "and takes it back");
    assert_eq!(stage.sends(A, &reset(back, BELIEVED[0])), ALLOW);
    assert_eq!(limit(), 10, "of either side");
    assert_eq!(stage.sends(A, &data(back.0, back.1)), ALLOW, "data of the side that has sent it, too");
    assert_eq!(limit(), 7_800);
    for number in [0, BELIEVED[0] - 1, BELIEVED[0] + 1, u32::MAX] {
        for _ in 0..3 {
            assert_eq!(stage.receives(A, UPLINK, &data(there.0, there.1)), ALLOW);
            assert_eq!(stage.receives(A, UPLINK, &reset(there, number)), ALLOW, "it reaches the workload");
            assert_eq!(limit(), 7_800, "which does not believe it: {number:#x}");
        }
        assert_eq!(stage.sends(A, &ack(back)), ALLOW);
        assert_eq!(limit(), 7_800, "and goes on");
    }
    assert_eq!(stage.receives(A, UPLINK, &reset(there, BELIEVED[0] + 100)), ALLOW, "behind data on its way");
    assert_eq!(limit(), 7_800);
    let got_it = Frame { numbers: [1, BELIEVED[0] + 100], ..ack(back) };
    assert_eq!(stage.sends(A, &got_it), ALLOW);
    assert_eq!(limit(), 10, "the workload had got the data, and gets the reset behind it");
}

/// A client makes its connection look over, waits until its entry is gone, and policy closes it: the server's next packet
/// must not come for a flow of the server's own.
#[test]
fn a_forbidden_connection_does_not_survive_by_resets() {
    for v4 in FAMILIES {
        let mut stage = Stage::new(&[("a", "isolate: [ingress], allow: [{ from: anywhere, ports: [80/tcp] }]")]);
        let there = ((peer(v4), 40_000), (host(v4, A), 80));
        let back = ((host(v4, A), 80), (peer(v4), 40_000));
        assert_eq!(stage.receives(A, UPLINK, &syn(there)), ALLOW);
        assert_eq!(stage.sends(A, &syn_ack(back)), ALLOW);
        assert_eq!(stage.receives(A, UPLINK, &ack(there)), ALLOW);
        let key = stage.key(A, None, &ack(back));
        let forged = Frame { numbers: [77, 0], ..segment(there.0, there.1, tcp::RST) };
        for _ in 0..5 {
            assert_eq!(stage.receives(A, UPLINK, &data(there.0, there.1)), ALLOW);
            assert_eq!(stage.sends(A, &ack(back)), ALLOW);
            assert_eq!(stage.receives(A, UPLINK, &forged), ALLOW);
        }
        let left = |stage: &Stage| {
            let entry = stage.entry(&key).unwrap();
            idle_limit(ProtocolClass::Tcp, entry.state) - (stage.world.tick - entry.last_seen)
        };
        assert_eq!(left(&stage), 7_800);
        stage.apply(&[("a", INGRESS_CLOSED)]);
        stage.world.tick += 7_000;
        assert_eq!(left(&stage), 800, "silent for nearly two hours");
        assert_eq!(stage.sends(A, &data(back.0, back.1)), NO_RULE, "the server's heartbeat");
        assert_eq!(left(&stage), 7_800, "which keeps it closed");
        assert_eq!(stage.receives(A, UPLINK, &forged), NO_RULE);
        assert_eq!(stage.receives(A, UPLINK, &data(there.0, there.1)), NO_RULE);
        assert_eq!(left(&stage), 7_800);
    }
}

#[test]
fn both_fins_shorten_the_idle_limit_and_the_last_segments_pass() {
    let stage = Stage::closed_but(WEB);
    let there = ((peer(true), 40_000), (host(true, A), 80));
    let back = ((host(true, A), 80), (peer(true), 40_000));
    let key = stage.key(A, None, &ack(back));
    let limit = || idle_limit(ProtocolClass::Tcp, stage.entry(&key).unwrap().state);
    let fin = tcp::FIN | tcp::ACK;
    assert_eq!(stage.receives(A, UPLINK, &syn(there)), ALLOW);
    assert_eq!(stage.sends(A, &segment(back.0, back.1, tcp::SYN | tcp::ACK)), ALLOW);
    assert_eq!(stage.receives(A, UPLINK, &segment(there.0, there.1, fin)), ALLOW);
    assert_eq!(limit(), 7_800, "half closed");
    assert_eq!(stage.sends(A, &data(back.0, back.1)), ALLOW, "the other side still sends");
    assert_eq!(limit(), 7_800);
    assert_eq!(stage.sends(A, &segment(back.0, back.1, fin)), ALLOW);
    assert_eq!(limit(), 10, "closed");
    assert_eq!(stage.receives(A, UPLINK, &ack(there)), ALLOW, "the last acknowledgement");
    assert_eq!(limit(), 10, "changes nothing");
    assert_eq!(stage.receives(A, UPLINK, &data(there.0, there.1)), ALLOW);
    assert_eq!(limit(), 7_800, "data takes its side's FIN back: it was forged");
}

#[test]
fn a_flow_of_the_workload_learns_its_peers_device() {
    let mut stage = Stage::closed_but("{ to: anywhere, ports: [80/tcp] }");
    let there = ((host(true, A), 40_000), (peer(true), 80));
    let back = ((peer(true), 80), (host(true, A), 40_000));
    let key = stage.key(A, None, &ack(there));
    assert_eq!(stage.sends(A, &syn(there)), ALLOW);
    assert_eq!(stage.entry(&key).unwrap().ingress, FlowValue::UNKNOWN.0);
    assert_eq!(stage.receives(A, UPLINK, &syn_ack(back)), ALLOW);
    let entry = stage.entry(&key).unwrap();
    assert_eq!((entry.ingress, entry.role), (UPLINK, Role::WorkloadOpened));
    assert_eq!(entry.state & state::REPLIED, state::REPLIED);
    assert_eq!(stage.receives(A, OTHER, &ack(back)), ALLOW, "judged again, in the stored role");
    let entry = stage.entry(&key).unwrap();
    assert_eq!((entry.ingress, entry.role), (OTHER, Role::WorkloadOpened));
    stage.apply(&[("a", CLOSED)]);
    assert_eq!(stage.receives(A, OTHER, &ack(back)), NO_RULE);
}

#[test]
fn a_workload_reaches_itself() {
    // N19: it cannot be blocked, and what it does not own is not itself.
    for v4 in FAMILIES {
        let stage = Stage::new(&[("a", CLOSED)]);
        let own = ((host(v4, A), 40_000), (host(v4, A), 80));
        assert_eq!(stage.sends(A, &syn(own)), ALLOW);
        assert_eq!(stage.receives(A, A, &syn(own)), ALLOW);
        assert_eq!(stage.sends(A, &syn(((host(v4, A), 40_000), (host(v4, B), 80)))), NO_RULE);
    }
}
