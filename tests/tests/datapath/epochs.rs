//! Tests of a policy change: live flows are judged again at their next packet, and only those that are now denied are cut
//! (D7).

use enforcer_common::flow_state::Role;
use enforcer_common::id::{Ifindex, PolicyWord, Revision};
use enforcer_common::verdict::{Reason, Verdict};
use enforcer_tests::packet::Frame;

use crate::stage::*;

fn both_ways(stage: &Stage, ends: Ends, from_peer: bool) -> [Verdict; 2] {
    let (there, back) = (ack(ends), ack((ends.1, ends.0)));
    if from_peer {
        [stage.receives(A, UPLINK, &there), stage.sends(A, &back)]
    } else {
        [stage.sends(A, &there), stage.receives(A, UPLINK, &back)]
    }
}

#[test]
fn while_no_image_is_in_force_no_live_flow_vouches_for_its_packets() {
    for v4 in FAMILIES {
        let policies = &[("a", &*but("{ from: anywhere, ports: [80/tcp] }"))];
        let mut stage = Stage::new(policies);
        // The second image is in the slot that no image at all would be in.
        stage.apply(policies);
        assert_eq!(stage.world.word.slot(), PolicyWord::default().slot());
        let ends = ((peer(v4), 40_000), (host(v4, A), 80));
        assert_eq!(stage.receives(A, UPLINK, &syn(ends)), ALLOW);
        assert_eq!(both_ways(&stage, ends, true), [ALLOW; 2]);
        // The epoch stays, so only the missing image tells.
        stage.world.word.revision = Revision::NONE;
        assert_eq!(both_ways(&stage, ends, true), [Verdict::Deny(Reason::NoPolicy); 2]);
    }
}

#[test]
fn what_policy_closes_is_cut_in_both_directions_and_the_rest_goes_on() {
    for v4 in FAMILIES {
        let mut stage = Stage::closed_but("{ from: anywhere, ports: [80-81/tcp] }, { to: anywhere, ports: [443/tcp] }");
        let (own, other) = (host(v4, A), peer(v4));
        let kept = ((other, 40_000), (own, 80));
        let cut = ((other, 40_000), (own, 81));
        let asked = ((own, 50_000), (other, 443));
        for (ends, from_peer) in [(kept, true), (cut, true), (asked, false)] {
            let opened = if from_peer { stage.receives(A, UPLINK, &syn(ends)) } else { stage.sends(A, &syn(ends)) };
            assert_eq!(opened, ALLOW);
            assert_eq!(both_ways(&stage, ends, from_peer), [ALLOW; 2]);
        }
        stage.apply(&[("a", &but("{ from: anywhere, ports: [80/tcp] }, { to: anywhere, ports: [443/tcp] }"))]);
        // The reply first: it is the packet whose own direction says nothing of the flow.
        assert_eq!(stage.sends(A, &ack((cut.1, cut.0))), NO_RULE);
        assert_eq!(both_ways(&stage, cut, true), [NO_RULE; 2]);
        assert_eq!(stage.sends(A, &ack((kept.1, kept.0))), ALLOW);
        assert_eq!(both_ways(&stage, kept, true), [ALLOW; 2]);
        assert_eq!(stage.receives(A, UPLINK, &ack((asked.1, asked.0))), ALLOW);
        assert_eq!(both_ways(&stage, asked, false), [ALLOW; 2]);
        let entry = |frame: &Frame<'_>, from| stage.entry(&stage.key(A, from, frame)).unwrap();
        let epoch = stage.world.word.epoch;
        let (kept, cut) = (entry(&ack(kept), Some(UPLINK)), entry(&ack(cut), Some(UPLINK)));
        let asked = entry(&ack(asked), None);
        assert_eq!((kept.role, kept.epoch), (Role::PeerOpened, epoch), "in its role, under the new epoch");
        assert_eq!((asked.role, asked.epoch), (Role::WorkloadOpened, epoch));
        assert_eq!((cut.role, cut.epoch), (Role::PeerOpened, epoch - 1), "a denied packet renews nothing");
    }
}

#[test]
fn a_flow_is_judged_again_by_the_role_and_not_by_the_packet() {
    // The other direction is open all the time: it must neither save the flow nor be what it is judged by.
    for v4 in FAMILIES {
        let (own, other) = (host(v4, A), peer(v4));
        let mut stage = Stage::new(&[]);
        let peers = ((other, 40_000), (own, 80));
        assert_eq!(stage.receives(A, UPLINK, &syn(peers)), ALLOW);
        stage.apply(&[("a", INGRESS_CLOSED)]);
        assert_eq!(stage.sends(A, &ack((peers.1, peers.0))), NO_RULE, "the answer, though egress is open");

        let mut stage = Stage::new(&[]);
        let own_flow = ((own, 40_000), (other, 80));
        assert_eq!(stage.sends(A, &syn(own_flow)), ALLOW);
        stage.apply(&[("a", INGRESS_CLOSED)]);
        assert_eq!(
            stage.receives(A, UPLINK, &ack((own_flow.1, own_flow.0))),
            ALLOW,
            "the answer, though ingress is closed"
        );
        stage.apply(&[("a", EGRESS_CLOSED)]);
        assert_eq!(stage.receives(A, UPLINK, &ack((own_flow.1, own_flow.0))), NO_RULE, "though ingress is open");
    }
}

#[test]
fn a_flow_is_judged_again_by_the_port_that_was_asked() {
    for v4 in FAMILIES {
        let (own, other) = (host(v4, A), peer(v4));
        let mut stage = Stage::new(&[]);
        let ends = ((other, 81), (own, 80));
        assert_eq!(stage.receives(A, UPLINK, &syn(ends)), ALLOW);
        stage.apply(&[("a", "isolate: [ingress], allow: [{ from: anywhere, ports: [80/tcp] }]")]);
        assert_eq!(both_ways(&stage, ends, true), [ALLOW; 2]);
        stage.apply(&[("a", "isolate: [ingress], allow: [{ from: anywhere, ports: [81/tcp] }]")]);
        assert_eq!(both_ways(&stage, ends, true), [NO_RULE; 2], "81 is the client's");
    }
}

#[test]
fn a_policy_that_opens_again_lets_the_flow_go_on() {
    let mut stage = Stage::new(&[]);
    let ends = ((peer(true), 40_000), (host(true, A), 80));
    assert_eq!(stage.receives(A, UPLINK, &syn(ends)), ALLOW);
    stage.apply(&[("a", CLOSED)]);
    assert_eq!(both_ways(&stage, ends, true), [NO_RULE; 2]);
    stage.apply(&[]);
    assert_eq!(both_ways(&stage, ends, true), [ALLOW; 2]);
    let entry = stage.entry(&stage.key(A, Some(UPLINK), &ack(ends))).unwrap();
    assert_eq!((entry.role, entry.epoch), (Role::PeerOpened, stage.world.word.epoch));
}

#[test]
fn another_device_is_judged_again_and_the_node_is_a_device() {
    for v4 in FAMILIES {
        let mut stage = Stage::closed_but("{ from: anywhere, ports: [80/tcp] }");
        let ends = ((peer(v4), 40_000), (host(v4, A), 80));
        assert_eq!(stage.receives(A, UPLINK, &syn(ends)), ALLOW);
        let key = stage.key(A, Some(UPLINK), &ack(ends));
        assert_eq!(stage.entry(&key).unwrap().ingress, UPLINK);
        assert_eq!(stage.receives(A, OTHER, &ack(ends)), ALLOW);
        let entry = stage.entry(&key).unwrap();
        assert_eq!((entry.ingress, entry.role), (OTHER, Role::PeerOpened));
        stage.apply(&[("a", CLOSED)]);
        for from in [OTHER, UPLINK] {
            assert_eq!(stage.receives(A, from, &ack(ends)), NO_RULE, "{from}");
        }
        assert_eq!(stage.entry(&key).unwrap(), entry, "what is denied writes nothing");
    }
}

#[test]
fn other_addresses_of_the_workload_are_other_flows() {
    let mut stage = Stage::new(&[]);
    let endpoint = stage.world.endpoint_mut(Ifindex(A)).unwrap();
    let place = endpoint.owned as usize;
    endpoint.addresses[place] = address("10.0.0.99").into();
    endpoint.owners[place] = enforcer_common::id::OwnerId(4321);
    endpoint.owned += 1;
    stage.apply(&[("a", INGRESS_CLOSED)]);
    assert_eq!(stage.sends(A, &syn(((host(true, A), 40_000), (peer(true), 80)))), ALLOW);
    assert_eq!(stage.receives(A, UPLINK, &ack(((peer(true), 80), (host(true, A), 40_000)))), ALLOW);
    let other = ack(((peer(true), 80), (address("10.0.0.99"), 40_000)));
    assert_eq!(stage.receives(A, UPLINK, &other), NO_RULE);
}

#[test]
fn a_workload_cannot_use_its_neighbours_flow() {
    for v4 in FAMILIES {
        let stage = Stage::new(&[("a", CLOSED)]);
        let ends = ((peer(v4), 40_000), (host(v4, B), 80));
        assert_eq!(stage.receives(B, UPLINK, &syn(ends)), ALLOW);
        assert_eq!(stage.sends(B, &ack((ends.1, ends.0))), ALLOW);
        assert_eq!(stage.sends(A, &ack(((host(v4, A), 80), ends.0))), NO_RULE);
        assert_ne!(stage.sends(A, &ack((ends.1, ends.0))), ALLOW);
    }
}
