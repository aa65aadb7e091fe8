//! Tests of ICMP. The NetworkPolicy API does not cover it (N21), so here it is a protocol of its own (D4). The id of an echo
//! belongs to the side that sent the request, and does not match a request in the other direction.

use enforcer_common::id::Ifindex;
use enforcer_common::verdict::Reason;
use enforcer_tests::packet::{Frame, Transport};

use crate::stage::*;

#[test]
fn an_id_opens_one_way_only() {
    // A11: whoever was asked does not ask back by the same id.
    for v4 in FAMILIES {
        let (own, other) = (host(v4, A), peer(v4));
        let stage = Stage::closed_but("{ to: anywhere, ports: [icmp] }");
        assert_eq!(stage.receives(A, UPLINK, &echo(other, own, false, 7)), NO_RULE, "nobody has asked");
        assert_eq!(stage.sends(A, &echo(own, other, true, 7)), ALLOW);
        assert_eq!(stage.receives(A, UPLINK, &echo(other, own, false, 7)), ALLOW, "the reply");
        assert_eq!(stage.receives(A, UPLINK, &echo(other, own, true, 7)), NO_RULE, "a request by the same id");
        assert_eq!(stage.receives(A, UPLINK, &echo(other, own, false, 8)), NO_RULE, "another id");
        assert_eq!(stage.receives(A, UPLINK, &echo(stranger(v4), own, false, 7)), NO_RULE, "another peer");

        let stage = Stage::closed_but("{ from: anywhere, ports: [icmp] }");
        assert_eq!(stage.sends(A, &echo(own, other, false, 7)), NO_RULE, "nobody has asked");
        assert_eq!(stage.receives(A, UPLINK, &echo(other, own, true, 7)), ALLOW);
        assert_eq!(stage.sends(A, &echo(own, other, false, 7)), ALLOW, "the reply");
        assert_eq!(stage.sends(A, &echo(own, other, true, 7)), NO_RULE, "a request by the same id");
        assert_eq!(stage.sends(A, &echo(own, other, false, 8)), NO_RULE, "another id");
    }
}

#[test]
fn an_id_is_not_a_port() {
    let stage = Stage::closed_but("{ to: anywhere, ports: [icmp] }");
    let (own, other) = (host(true, A), peer(true));
    assert_eq!(stage.sends(A, &echo(own, other, true, 80)), ALLOW);
    for answer in [ack(((other, 0), (own, 80))), datagram((other, 0), (own, 80))] {
        assert_eq!(stage.receives(A, UPLINK, &answer), NO_RULE, "{:?}", answer.transport);
    }
}

#[test]
fn a_ping_is_judged_again_after_a_policy_change() {
    for v4 in FAMILIES {
        let (own, other) = (host(v4, A), peer(v4));
        let mut stage = Stage::new(&[]);
        assert_eq!(stage.sends(A, &echo(own, other, true, 7)), ALLOW);
        stage.apply(&[("a", &but("{ to: anywhere, ports: [icmp] }"))]);
        assert_eq!(stage.receives(A, UPLINK, &echo(other, own, false, 7)), ALLOW, "still allowed as asked");
        stage.apply(&[("a", CLOSED)]);
        assert_eq!(stage.receives(A, UPLINK, &echo(other, own, false, 7)), NO_RULE);
    }
}

#[test]
fn other_icmp_is_judged_and_makes_no_state() {
    for (v4, kinds) in [(true, &[5, 9, 13, 14, 17, 40][..]), (false, &[133, 138, 139, 200])] {
        for kind in kinds {
            let frame = |from, to| Frame::new(from, to, Transport::Icmp { kind: *kind, code: 0, rest: [0; 4] });
            let (out, back) = (frame(host(v4, A), peer(v4)), frame(peer(v4), host(v4, A)));
            let stage = Stage::new(&[("a", CLOSED)]);
            assert_eq!(stage.sends(A, &out), NO_RULE, "type {kind}");
            assert_eq!(stage.receives(A, UPLINK, &back), NO_RULE, "type {kind}");
            let stage = Stage::new(&[("a", INGRESS_CLOSED)]);
            assert_eq!(stage.sends(A, &out), ALLOW, "type {kind}");
            assert_eq!(stage.world.flow_count(), 0, "type {kind}");
            assert_eq!(stage.receives(A, UPLINK, &back), NO_RULE, "type {kind} is not its answer");
        }
    }
}

#[test]
fn icmp_of_the_other_family_is_any_other_protocol() {
    // A stack takes neither for ICMP: by number, and an echo in it opens nothing.
    for (v4, number) in [(true, 58), (false, 1)] {
        let stage = Stage::closed_but("{ to: anywhere, ports: [icmp] }");
        let frame = Frame { payload: &[8; 16], ..Frame::new(host(v4, A), peer(v4), Transport::Other(number)) };
        assert_eq!(stage.sends(A, &frame), NO_RULE);
    }
}

#[test]
fn icmp_of_seven_bytes_is_short() {
    let stage = Stage::new(&[]);
    for v4 in FAMILIES {
        let mut frame = echo(host(v4, A), peer(v4), true, 7).bytes();
        assert_eq!(stage.world.sends(Ifindex(A), &frame), ALLOW);
        frame.pop();
        let length = if v4 { 17 } else { 19 };
        frame[length] -= 1;
        assert_eq!(stage.world.sends(Ifindex(A), &frame), denied(Reason::L4Short));
    }
}
