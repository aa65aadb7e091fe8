//! Tests of D10: connections that are older than the daemon's first attach, within the window after it and outside of it.

use enforcer_common::flow_state::{FlowValue, Role};
use enforcer_common::id::{Ifindex, Row};
use enforcer_common::packet::tcp;
use enforcer_common::verdict::Reason;
use enforcer_tests::packet::{Frame, Transport};

use crate::stage::*;

const CLIENT: &str = "{ to: anywhere, ports: [80/tcp] }";
const SERVER: &str = "{ from: anywhere, ports: [80/tcp] }";

/// `a`, closed but for these rules, within the window.
fn young(rules: &str) -> Stage {
    let mut stage = Stage::closed_but(rules);
    stage.world.endpoint_mut(Ifindex(A)).expect("its endpoint").window_end = 1_000;
    stage.world.boot_time = 999;
    stage
}

#[test]
fn an_answer_of_an_older_connection_survives_in_both_directions() {
    for v4 in FAMILIES {
        let stage = young(CLIENT);
        let there = ((host(v4, A), 40_000), (peer(v4), 80));
        let back = ((peer(v4), 80), (host(v4, A), 40_000));
        assert_eq!(stage.receives(A, UPLINK, &ack(back)), ALLOW, "what the server writes to this client");
        let entry = stage.entry(&stage.key(A, None, &ack(there))).unwrap();
        assert_eq!((entry.role, entry.ingress), (Role::WorkloadOpened, FlowValue::UNKNOWN.0));
        assert_eq!(stage.sends(A, &ack(there)), ALLOW);
        assert_eq!(stage.receives(A, UPLINK, &ack(((peer(v4), 81), (host(v4, A), 40_000)))), NO_RULE, "not its port");

        let stage = young(SERVER);
        let there = ((peer(v4), 40_000), (host(v4, A), 80));
        let back = ((host(v4, A), 80), (peer(v4), 40_000));
        assert_eq!(stage.sends(A, &ack(back)), ALLOW, "what this server writes");
        let entry = stage.entry(&stage.key(A, None, &ack(back))).unwrap();
        assert_eq!((entry.role, entry.ingress), (Role::PeerOpened, FlowValue::UNKNOWN.0));
        assert_eq!(stage.receives(A, UPLINK, &ack(there)), ALLOW);
        assert_eq!(stage.sends(A, &ack(((host(v4, A), 81), (peer(v4), 40_000)))), NO_RULE, "not its port");
    }
}

#[test]
fn a_connection_that_only_the_server_writes_to_survives_the_window() {
    for v4 in FAMILIES {
        let mut stage = young(SERVER);
        let (server, client) = ((host(v4, A), 80), (peer(v4), 40_000));
        assert_eq!(stage.sends(A, &data(server, client)), ALLOW);
        stage.world.boot_time = 5_000;
        for _ in 0..3 {
            assert_eq!(stage.sends(A, &data(server, client)), ALLOW, "and the client is silent");
        }
        stage.apply(&[("a", CLOSED)]);
        assert_eq!(stage.sends(A, &data(server, client)), NO_RULE, "policy closes it like any other");
    }
}

#[test]
fn what_the_window_forgives_policy_still_closes() {
    let mut stage = young(CLIENT);
    let back = ack(((peer(true), 80), (host(true, A), 40_000)));
    assert_eq!(stage.receives(A, UPLINK, &back), ALLOW);
    stage.apply(&[("a", CLOSED)]);
    assert_eq!(stage.receives(A, UPLINK, &back), NO_RULE, "in the window, too");
}

#[test]
fn a_segment_to_the_node_counts_as_an_answer_to_it() {
    for v4 in FAMILIES {
        let stage = young("");
        let (own, there) = ((host(v4, A), 8080), (node(v4), 40_000));
        assert_eq!(stage.sends(A, &ack((own, (peer(v4), 40_000)))), NO_RULE, "no other address does");
        assert_eq!(stage.sends(A, &ack((own, (host(v4, B), 40_000)))), NO_RULE, "nor that of a workload here");
        assert_eq!(stage.sends(A, &ack((own, there))), ALLOW);
        let entry = stage.entry(&stage.key(A, None, &ack((own, there)))).unwrap();
        assert_eq!((entry.role, entry.ingress), (Role::NodeOpened, FlowValue::UNKNOWN.0), "unknown is never the node");
        assert_eq!(stage.receives(A, NODE, &ack((there, own))), ALLOW);
        assert_eq!(stage.receives(A, UPLINK, &ack((there, own))), NO_RULE, "a stranger with the node's address");
    }
}

#[test]
fn the_window_is_for_older_connections_only() {
    for v4 in FAMILIES {
        let stage = young(SERVER);
        let (own, other) = ((host(v4, A), 80), (peer(v4), 40_000));
        for (flags, why) in [
            (tcp::SYN, "it opens one"),
            (tcp::SYN | tcp::ACK, "it answers one that was never seen"),
            (tcp::RST, "no ACK"),
            (tcp::FIN, "no ACK"),
            (0, "no ACK"),
        ] {
            assert_eq!(stage.sends(A, &segment(own, other, flags)), NO_RULE, "flags {flags}: {why}");
        }
        let stage = young("{ from: anywhere }");
        assert_eq!(stage.sends(A, &datagram(own, other)), NO_RULE, "UDP");
        assert_eq!(stage.sends(A, &echo(own.0, other.0, false, 7)), NO_RULE, "an echo reply");
        let sctp = Transport::Sctp { source: 80, destination: 40_000, chunk: 0 };
        assert_eq!(stage.sends(A, &Frame::new(own.0, other.0, sctp)), NO_RULE, "SCTP");
    }
}

#[test]
fn the_window_ends() {
    for (window_end, boot_time, verdict) in
        [(1_000, 999, ALLOW), (1_000, 1_000, NO_RULE), (1_000, 1_001, NO_RULE), (0, 0, NO_RULE), (0, 1, NO_RULE)]
    {
        let mut stage = young(SERVER);
        stage.world.endpoint_mut(Ifindex(A)).unwrap().window_end = window_end;
        stage.world.boot_time = boot_time;
        let segment = ack(((host(true, A), 80), (peer(true), 40_000)));
        assert_eq!(stage.sends(A, &segment), verdict, "at {boot_time} of {window_end}");
    }
}

#[test]
fn tables_that_contradict_themselves_are_not_forgiven() {
    let internal = denied(Reason::Internal);
    let mut stage = young(SERVER);
    let (server, client) = ((host(true, A), 80), (peer(true), 40_000));
    for row in [Row(4_000), Row::NONE] {
        let endpoint = stage.world.endpoint_mut(Ifindex(A)).unwrap();
        for rows in &mut endpoint.rows {
            rows[1] = row;
        }
        assert_eq!(stage.sends(A, &ack((server, client))), internal, "{row:?}");
        assert_eq!(stage.sends(A, &ack((server, (node(true), 40_000)))), internal, "to the node");
        assert_eq!(stage.sends(A, &syn((server, client))), internal);
    }
    assert_eq!(stage.world.flow_count(), 0);
}

#[test]
fn without_the_window_state_comes_back_where_policy_allows_it() {
    // D10: judged as a new flow in its own direction, never as a reply.
    for v4 in FAMILIES {
        let stage = Stage::closed_but(SERVER);
        let there = ((peer(v4), 40_000), (host(v4, A), 80));
        let back = ((host(v4, A), 80), (peer(v4), 40_000));
        assert_eq!(stage.sends(A, &ack(back)), NO_RULE, "as a reply nothing passes");
        assert_eq!(stage.receives(A, UPLINK, &ack(there)), ALLOW, "the client's segment brings it back");
        assert_eq!(stage.sends(A, &ack(back)), ALLOW);
    }
}
