//! Tests of the addresses that a packet may carry: those of the sender, of the receiver, and of hosts outside the node.

use enforcer_common::endpoint::Endpoint;
use enforcer_common::id::{Address, Ifindex, OwnerId};
use enforcer_common::packet::tcp;
use enforcer_common::verdict::Reason;
use enforcer_tests::packet::{Frame, Transport};
use enforcer_tests::world::Unknown;

use crate::stage::*;

const SPOOFED: enforcer_common::verdict::Verdict = enforcer_common::verdict::Verdict::Deny(Reason::SpoofedSource);

#[test]
fn a_workload_sends_from_its_own_addresses_only() {
    let stage = Stage::new(&[]);
    for v4 in FAMILIES {
        for (source, verdict, why) in [
            (host(v4, A), ALLOW, "its own"),
            (host(v4, B), SPOOFED, "its neighbour's"),
            (host(v4, U), SPOOFED, "that of a workload without a name"),
            (node(v4), SPOOFED, "the node's"),
            (stranger(v4), SPOOFED, "one that nobody here has"),
        ] {
            for frame in [
                syn(((source, 40_000), (peer(v4), 80))),
                ack(((source, 40_000), (peer(v4), 80))),
                datagram((source, 40_000), (peer(v4), 53)),
                echo(source, peer(v4), true, 7),
                Frame::new(source, peer(v4), Transport::Sctp { source: 40_000, destination: 9, chunk: 1 }),
                Frame::new(source, peer(v4), Transport::Other(47)),
                Frame::new(source, peer(v4), Transport::Icmp { kind: 3, code: 1, rest: [0; 4] }),
            ] {
                assert_eq!(stage.sends(A, &frame), verdict, "{why}: {:?}", frame.transport);
            }
        }
    }
}

#[test]
fn a_multicast_packet_does_not_vouch_for_a_neighbours_address() {
    for v4 in FAMILIES {
        let stage = Stage::new(&[]);
        let group = address(if v4 { "224.0.0.251" } else { "ff02::fb" });
        let heard = datagram((peer(v4), 5353), (group, 5353));
        assert_eq!(stage.receives(A, UPLINK, &heard), ALLOW);
        let key = stage.key(A, Some(UPLINK), &heard);
        assert!(stage.entry(&key).is_some(), "a group address makes an entry under the shared id");
        for (source, why) in [(host(v4, B), "neighbour"), (node(v4), "node"), (stranger(v4), "nobody")] {
            let forged = datagram((source, 5353), (peer(v4), 5353));
            assert_eq!(stage.key(A, None, &forged), key, "the same tuple: {why}");
            assert_eq!(stage.sends(A, &forged), SPOOFED, "as {why}");
        }
        let flooded = datagram((peer(v4), 5353), (host(v4, B), 5353));
        assert_eq!(stage.key(A, Some(UPLINK), &flooded), key);
        assert_eq!(stage.receives(A, UPLINK, &flooded), denied(Reason::NotAddressed), "for the neighbour");
        assert_eq!(stage.receives(A, UPLINK, &heard), ALLOW, "the group still is heard");
    }
}

#[test]
fn a_dhcp_request_does_not_vouch_for_the_nodes_address() {
    let stage = Stage::new(&[]);
    let request = datagram((address("0.0.0.0"), 4444), (host(true, B), 67));
    assert_eq!(stage.sends(A, &request), ALLOW, "a workload without an address asks for one");
    let key = stage.key(A, None, &request);
    assert!(stage.entry(&key).is_some());
    for (source, why) in [(node(true), "node"), (host(true, R), "neighbour"), (address("127.0.0.1"), "loopback")] {
        let forged = datagram((source, 4444), (host(true, B), 67));
        assert_eq!(stage.key(A, None, &forged), key, "the same tuple");
        assert_eq!(stage.sends(A, &forged), SPOOFED, "{why}");
    }
    for (frame, why) in [
        (datagram((address("0.0.0.0"), 68), (host(true, B), 68)), "another port"),
        (syn(((address("0.0.0.0"), 68), (host(true, B), 67))), "another protocol"),
        (datagram((address("::"), 68), (host(false, B), 67)), "another family"),
    ] {
        assert_eq!(stage.sends(A, &frame), SPOOFED, "{why}");
    }
}

#[test]
fn a_router_forwards_for_others_but_not_as_its_neighbours() {
    for v4 in FAMILIES {
        let stage = Stage::new(&[]);
        let ends = ((stranger(v4), 4444), (peer(v4), 80));
        assert_eq!(stage.sends(R, &syn(ends)), ALLOW, "from an address that nobody here has");
        let key = stage.key(R, None, &syn(ends));
        assert!(stage.entry(&key).is_some());
        assert_eq!(stage.sends(R, &ack(ends)), ALLOW, "and on");
        for (source, why) in [(host(v4, B), "neighbour"), (host(v4, U), "unnamed neighbour"), (node(v4), "node")] {
            let forged = ack(((source, 4444), (peer(v4), 80)));
            assert_eq!(stage.key(R, None, &forged), key, "the same tuple");
            assert_eq!(stage.sends(R, &forged), SPOOFED, "as its {why}");
        }
        let answer = segment((peer(v4), 80), (stranger(v4), 4444), tcp::ACK);
        assert_eq!(stage.receives(R, UPLINK, &answer), ALLOW, "the answer to whom it forwards for");
        let flooded = segment((peer(v4), 80), (host(v4, B), 4444), tcp::ACK);
        assert_eq!(stage.key(R, Some(UPLINK), &flooded), key);
        assert_eq!(stage.receives(R, UPLINK, &flooded), denied(Reason::NotAddressed), "its neighbour's packets");
    }
}

#[test]
fn who_may_send_from_anywhere_does_not_send_from_nowhere() {
    for unknown in [Unknown::Open, Unknown::Strict] {
        let stage = Stage::with(&[], unknown);
        // Under `strict` the unnamed workload is judged by another rule.
        let devices: &[u32] = if unknown == Unknown::Open { &[R, U] } else { &[R] };
        for device in devices {
            for source in ["127.0.0.1", "127.9.9.9", "0.0.0.0", "0.1.2.3", "224.0.0.1", "255.255.255.255"] {
                let frame = syn(((address(source), 40_000), (peer(true), 80)));
                assert_eq!(stage.sends(*device, &frame), SPOOFED, "{source} of {device}");
            }
            for source in ["::", "::1", "ff02::1"] {
                let frame = syn(((address(source), 40_000), (peer(false), 80)));
                assert_eq!(stage.sends(*device, &frame), SPOOFED, "{source} of {device}");
            }
            for v4 in FAMILIES {
                let frame = syn(((stranger(v4), 40_000), (peer(v4), 80)));
                assert_eq!(stage.sends(*device, &frame), ALLOW, "any other");
                let flooded = syn(((peer(v4), 40_000), (host(v4, B), 80)));
                let verdict = stage.receives(*device, UPLINK, &flooded);
                assert_eq!(verdict, denied(Reason::NotAddressed), "flooded for a neighbour of {device}");
                let flooded = syn(((peer(v4), 40_000), (node(v4), 80)));
                let verdict = stage.receives(*device, UPLINK, &flooded);
                assert_eq!(verdict, denied(Reason::NotAddressed), "flooded for the node, at {device}");
            }
        }
    }
}

#[test]
fn flooded_packets_are_not_for_the_workload() {
    let stage = Stage::new(&[]);
    for v4 in FAMILIES {
        for (to, why) in [(host(v4, B), "neighbour"), (node(v4), "node"), (stranger(v4), "stranger")] {
            let verdict = stage.receives(A, OTHER, &syn(((peer(v4), 40_000), (to, 80))));
            assert_eq!(verdict, denied(Reason::NotAddressed), "for the {why}");
            let verdict = stage.receives(A, NODE, &syn(((node(v4), 40_000), (to, 80))));
            assert_eq!(verdict, denied(Reason::NotAddressed), "for the {why}, of the node");
        }
        assert_eq!(stage.receives(A, OTHER, &syn(((peer(v4), 40_000), (host(v4, A), 80)))), ALLOW);
    }
}

#[test]
fn a_local_address_comes_in_by_its_own_veth_or_the_bridge_above_and_by_no_other_device() {
    for v4 in FAMILIES {
        let stage = Stage::new(&[]);
        for (source, why) in
            [(host(v4, A), "its own"), (host(v4, B), "a neighbour's"), (host(v4, U), "an unnamed one's")]
        {
            for frame in [
                syn(((source, 40_000), (host(v4, A), 80))),
                ack(((source, 40_000), (host(v4, A), 80))),
                datagram((source, 40_000), (host(v4, A), 53)),
                echo(source, host(v4, A), true, 7),
            ] {
                for from in [UPLINK, TAP, NODE, R] {
                    let verdict = stage.receives(A, from, &frame);
                    assert_eq!(verdict, SPOOFED, "{why} by {from}: {:?}", frame.transport);
                }
                assert_eq!(stage.receives(A, OTHER, &frame), ALLOW, "{why}, by the bridge");
            }
        }
        for from in [UPLINK, TAP, NODE] {
            let frame = syn(((node(v4), 40_000), (host(v4, A), 80)));
            assert_eq!(stage.receives(A, from, &frame), ALLOW, "the node's passes");
        }
        for from in [A, B, U] {
            let frame = syn(((host(v4, from), 40_000), (host(v4, A), 80)));
            assert_eq!(stage.receives(A, from, &frame), ALLOW, "its own veth, routed");
        }
    }
}

#[test]
fn its_own_address_may_be_younger_than_the_image() {
    for v4 in FAMILIES {
        let mut stage = Stage::new(&[]);
        let young = address(if v4 { "10.0.0.99" } else { "fd00::99" });
        let endpoint: &mut Endpoint = stage.world.endpoint_mut(Ifindex(A)).unwrap();
        let place = endpoint.owned as usize;
        endpoint.addresses[place] = Address::from(young);
        endpoint.owners[place] = OwnerId(4321);
        endpoint.owned += 1;
        let frame = syn(((young, 40_000), (host(v4, A), 80)));
        assert_eq!(stage.receives(A, UPLINK, &frame), denied(Reason::SpoofedSource));
        assert_eq!(stage.receives(A, NODE, &frame), denied(Reason::SpoofedSource), "nor from the node");
        assert_eq!(stage.sends(A, &syn(((young, 40_000), (peer(v4), 80)))), ALLOW, "it is its own");
    }
}

#[test]
fn a_live_flow_does_not_move_to_an_uplink() {
    for v4 in FAMILIES {
        let stage = Stage::new(&[]);
        let ends = ((host(v4, B), 40_000), (host(v4, A), 80));
        assert_eq!(stage.receives(A, B, &syn(ends)), ALLOW);
        assert_eq!(stage.receives(A, B, &ack(ends)), ALLOW);
        let before = stage.entry(&stage.key(A, Some(B), &ack(ends)));
        assert_eq!(stage.receives(A, UPLINK, &ack(ends)), denied(Reason::SpoofedSource), "by the uplink");
        assert_eq!(stage.entry(&stage.key(A, Some(B), &ack(ends))), before, "the flow is as it was");
        assert_eq!(stage.receives(A, B, &ack(ends)), ALLOW, "and goes on");
    }
}
