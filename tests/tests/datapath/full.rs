//! Tests of a full flow table: new flows are denied with their own reason, and the node's traffic passes without state.

use enforcer_common::verdict::Reason;

use crate::refusing::Refusing;
use crate::stage::*;

#[test]
fn without_room_a_new_flow_is_denied_by_its_own_reason() {
    for reason in [Reason::FlowQuota, Reason::FlowTableFull] {
        for v4 in FAMILIES {
            let mut stage = Stage::closed_but("{ from: anywhere, ports: [80/tcp, 53/udp, icmp] }, { to: anywhere }");
            let (own, other) = (host(v4, A), peer(v4));
            let live = ((other, 40_000), (own, 80));
            assert_eq!(stage.receives(A, UPLINK, &syn(live)), ALLOW);
            let full = Refusing::flows(&stage.world, reason);
            for (from, frame) in [
                (Some(UPLINK), syn(((other, 40_001), (own, 80)))),
                (Some(UPLINK), ack(((other, 40_001), (own, 80)))),
                (Some(UPLINK), datagram((other, 40_001), (own, 53))),
                (Some(UPLINK), echo(other, own, true, 7)),
                (None, syn(((own, 40_001), (other, 80)))),
                (None, datagram((own, 40_001), (other, 53))),
            ] {
                assert_eq!(full.verdict_of(A, from, &frame), denied(reason), "{:?} from {from:?}", frame.transport);
            }
            let closed = syn(((other, 40_001), (own, 81)));
            assert_eq!(full.verdict_of(A, Some(UPLINK), &closed), NO_RULE, "policy is asked first");
            assert_eq!(full.verdict_of(A, Some(UPLINK), &ack(live)), ALLOW, "a live flow goes on");
            assert_eq!(full.verdict_of(A, None, &ack((live.1, live.0))), ALLOW, "in both directions");
            assert_eq!(full.verdict_of(A, Some(UPLINK), &syn(live)), ALLOW, "a SYN takes its entry over");
            for frame in [
                syn(((node(v4), 40_000), (own, 22))),
                data((node(v4), 40_000), (own, 22)),
                datagram((node(v4), 40_000), (own, 5353)),
                echo(node(v4), own, true, 7),
            ] {
                assert_eq!(full.verdict_of(A, Some(NODE), &frame), ALLOW, "the node: {:?}", frame.transport);
            }
            let own_packet = syn(((own, 40_000), (own, 80)));
            assert_eq!(full.verdict_of(A, None, &own_packet), denied(reason), "no state, no flow: itself included");
            assert_eq!(stage.world.flow_count(), 1);
            stage.apply(&[("a", CLOSED)]);
            let full = Refusing::flows(&stage.world, reason);
            assert_eq!(full.verdict_of(A, Some(UPLINK), &ack(live)), NO_RULE, "and is judged again");
        }
    }
}

#[test]
fn the_last_place_is_a_place() {
    let mut stage = Stage::new(&[]);
    stage.world.flow_limit = 2;
    for (port, verdict) in [(1, ALLOW), (2, ALLOW), (3, denied(Reason::FlowTableFull)), (1, ALLOW)] {
        assert_eq!(stage.sends(A, &syn(((host(true, A), port), (peer(true), 80)))), verdict, "port {port}");
    }
}
