//! Tests of D3: packets that the node itself made pass to workloads, and they open nothing else.

use enforcer_common::flow_state::Role;
use enforcer_common::id::Ifindex;
use enforcer_common::packet::tcp;
use enforcer_common::verdict::Reason;
use enforcer_tests::packet::{Frame, Transport};

use crate::stage::*;

#[test]
fn the_node_is_let_in_by_its_device_and_not_by_its_address() {
    for v4 in FAMILIES {
        let stage = Stage::new(&[("a", CLOSED)]);
        for source in [node(v4), peer(v4), stranger(v4)] {
            for frame in [
                syn(((source, 40_000), (host(v4, A), 80))),
                datagram((source, 40_000), (host(v4, A), 53)),
                echo(source, host(v4, A), true, 7),
                Frame::new(source, host(v4, A), Transport::Other(47)),
            ] {
                assert_eq!(stage.receives(A, UPLINK + 100, &frame), NO_RULE, "{source} by a device");
                assert_eq!(stage.receives(A, NODE, &frame), ALLOW, "{source}, made here");
            }
        }
        for source in [host(v4, A), host(v4, B), host(v4, U)] {
            let frame = syn(((source, 40_000), (host(v4, A), 80)));
            assert_eq!(stage.receives(A, NODE, &frame), denied(Reason::SpoofedSource), "{source}, a workload's");
        }
        let there = ((node(v4), 40_000), (host(v4, A), 80));
        let back = ((host(v4, A), 80), (node(v4), 40_000));
        assert_eq!(stage.sends(A, &segment(back.0, back.1, tcp::SYN | tcp::ACK)), ALLOW, "the answer to the node");
        let entry = stage.entry(&stage.key(A, None, &ack(back))).unwrap();
        assert_eq!((entry.role, entry.ingress), (Role::NodeOpened, NODE));
        assert_eq!(stage.receives(A, NODE, &ack(there)), ALLOW);
        assert_eq!(stage.sends(A, &syn(back)), NO_RULE, "no new connection to the node");
        assert_eq!(stage.sends(A, &ack(((host(v4, A), 81), (node(v4), 40_000)))), NO_RULE, "nor of another port");
    }
}

#[test]
fn the_nodes_flow_survives_a_policy_change_and_is_the_nodes_alone() {
    for v4 in FAMILIES {
        let mut stage = Stage::new(&[]);
        let there = ((peer(v4), 40_000), (host(v4, A), 80));
        let back = ((host(v4, A), 80), (peer(v4), 40_000));
        assert_eq!(stage.receives(A, NODE, &syn(there)), ALLOW);
        stage.apply(&[("a", CLOSED)]);
        assert_eq!(stage.sends(A, &ack(back)), ALLOW, "judged again by the stored role");
        assert_eq!(stage.receives(A, NODE, &ack(there)), ALLOW);
        assert_eq!(stage.receives(A, UPLINK, &ack(there)), NO_RULE, "somebody else on the same tuple");
        assert_eq!(stage.sends(A, &ack(back)), ALLOW, "which changes nothing");
    }
}

#[test]
fn a_reset_that_the_node_makes_for_a_peer_does_not_make_the_flow_the_nodes() {
    for flags in [tcp::RST, tcp::RST | tcp::ACK, tcp::SYN | tcp::ACK] {
        let mut stage = Stage::closed_but("{ from: anywhere, ports: [80/tcp] }");
        let there = ((peer(true), 40_000), (host(true, A), 80));
        let back = ((host(true, A), 80), (peer(true), 40_000));
        let key = stage.key(A, None, &ack(back));
        assert_eq!(stage.receives(A, UPLINK, &syn(there)), ALLOW);
        assert_eq!(stage.receives(A, NODE, &segment(there.0, there.1, flags)), ALLOW);
        assert_eq!(stage.entry(&key).unwrap().role, Role::PeerOpened, "flags {flags}");
        stage.apply(&[("a", CLOSED)]);
        assert_eq!(stage.receives(A, NODE, &segment(there.0, there.1, flags)), ALLOW, "the node may always send");
        assert_eq!(stage.entry(&key).unwrap().role, Role::PeerOpened);
        assert_eq!(stage.sends(A, &ack(back)), NO_RULE, "flags {flags}: the flow is the peer's, and closed");
        assert_eq!(stage.receives(A, UPLINK, &ack(there)), NO_RULE);
    }
}

#[test]
fn data_that_the_node_makes_does() {
    let mut stage = Stage::closed_but("{ from: anywhere, ports: [80/tcp] }");
    let there = ((peer(true), 40_000), (host(true, A), 80));
    let back = ((host(true, A), 80), (peer(true), 40_000));
    let key = stage.key(A, None, &ack(back));
    assert_eq!(stage.receives(A, UPLINK, &syn(there)), ALLOW);
    stage.apply(&[("a", CLOSED)]);
    assert_eq!(stage.receives(A, NODE, &data(there.0, there.1)), ALLOW);
    assert_eq!(stage.entry(&key).unwrap().role, Role::NodeOpened);
    assert_eq!(stage.sends(A, &ack(back)), ALLOW);
}

#[test]
fn an_answer_of_the_node_makes_no_entry() {
    for v4 in FAMILIES {
        let stage = Stage::new(&[("a", CLOSED)]);
        let there = ((node(v4), 22), (host(v4, A), 40_000));
        let back = ((host(v4, A), 40_000), (node(v4), 22));
        for flags in [tcp::SYN | tcp::ACK, tcp::RST, tcp::RST | tcp::ACK] {
            assert_eq!(stage.receives(A, NODE, &segment(there.0, there.1, flags)), ALLOW, "flags {flags}");
            assert_eq!(stage.world.flow_count(), 0, "flags {flags}");
            assert_eq!(stage.sends(A, &ack(back)), NO_RULE, "flags {flags}: no way back");
        }
        assert_eq!(stage.receives(A, NODE, &data(there.0, there.1)), ALLOW);
        let entry = stage.entry(&stage.key(A, None, &ack(back))).expect("data makes one");
        assert_eq!(entry.role, Role::NodeOpened);
    }
}

/// Types of ICMP that answer a request: echo, timestamp, information, address mask, extended echo; and those of ICMPv6.
const REPLIES: [&[u8]; 2] = [&[0, 14, 16, 18, 43], &[129, 140, 161]];

#[test]
fn a_reply_of_the_node_reaches_nobody_who_has_not_asked() {
    for v4 in FAMILIES {
        let (own, other) = (host(v4, A), node(v4));
        for kind in REPLIES[usize::from(!v4)] {
            let reply = Frame::new(other, own, Transport::Icmp { kind: *kind, code: 0, rest: [0, 7, 0, 1] });
            let stage = Stage::new(&[("a", CLOSED)]);
            assert_eq!(stage.receives(A, NODE, &reply), NO_RULE, "type {kind}: somebody asked in its name");
            let stage = Stage::new(&[]);
            assert_eq!(stage.receives(A, NODE, &reply), ALLOW, "type {kind}: nothing is closed");
            assert_eq!(stage.world.flow_count(), 0, "type {kind}: which opens nothing");
        }
        let mut stage = Stage::closed_but("{ to: anywhere, ports: [icmp] }");
        let reply = echo(other, own, false, 7);
        assert_eq!(stage.receives(A, NODE, &reply), NO_RULE);
        assert_eq!(stage.sends(A, &echo(own, other, true, 7)), ALLOW);
        assert_eq!(stage.receives(A, NODE, &reply), ALLOW, "it has asked");
        assert_eq!(stage.receives(A, NODE, &echo(other, own, false, 8)), NO_RULE, "by another id");
        assert_eq!(stage.receives(A, NODE, &echo(stranger(v4), own, false, 7)), NO_RULE, "somebody else");
        stage.apply(&[("a", CLOSED)]);
        assert_eq!(stage.receives(A, NODE, &reply), ALLOW, "what it asked while it might is answered");
    }
}

#[test]
fn what_refuses_or_accepts_an_association_for_the_node_makes_no_entry() {
    for v4 in FAMILIES {
        let stage = Stage::new(&[("a", CLOSED)]);
        for chunk in [2, 6] {
            let frame = Frame::new(node(v4), host(v4, A), Transport::Sctp { source: 9, destination: 5000, chunk });
            assert_eq!(stage.receives(A, NODE, &frame), ALLOW, "chunk {chunk}");
            assert_eq!(stage.world.flow_count(), 0, "chunk {chunk}");
        }
    }
}

#[test]
fn the_node_does_not_renew_what_the_workload_opened_and_policy_closed() {
    for v4 in FAMILIES {
        let mut stage = Stage::new(&[]);
        for (asks, answers) in [
            (datagram((host(v4, A), 5000), (node(v4), 53)), datagram((node(v4), 53), (host(v4, A), 5000))),
            (syn(((host(v4, A), 5000), (node(v4), 22))), data((node(v4), 22), (host(v4, A), 5000))),
        ] {
            stage.apply(&[]);
            assert_eq!(stage.sends(A, &asks), ALLOW);
            let key = stage.key(A, None, &asks);
            let opened = stage.entry(&key).unwrap();
            stage.apply(&[("a", EGRESS_CLOSED)]);
            assert_eq!(stage.receives(A, NODE, &answers), ALLOW, "the node may always send");
            let entry = stage.entry(&key).unwrap();
            assert_eq!((entry.role, entry.epoch), (Role::WorkloadOpened, opened.epoch), "not renewed");
            let more = match asks.transport {
                Transport::Udp { .. } => asks.clone(),
                _ => ack(((host(v4, A), 5000), (node(v4), 22))),
            };
            assert_eq!(stage.sends(A, &more), NO_RULE);
        }
    }
}

#[test]
fn before_the_first_image_nobody_is_let_in() {
    let mut stage = Stage::new(&[]);
    stage.world.word = enforcer_common::id::PolicyWord::default();
    stage.world.endpoint_mut(Ifindex(A)).unwrap().flags = [0; 2];
    for v4 in FAMILIES {
        let own = syn(((host(v4, A), 40_000), (peer(v4), 80)));
        assert_eq!(stage.sends(A, &own), denied(Reason::NoPolicy));
        let nodes = syn(((node(v4), 40_000), (host(v4, A), 80)));
        assert_eq!(stage.receives(A, NODE, &nodes), denied(Reason::NoPolicy));
        assert_eq!(stage.sends(99, &own), denied(Reason::UnknownWorkload), "a device that nobody knows");
    }
}
