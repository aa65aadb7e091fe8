//! Tests of what keeps a workload on its link (D16): it passes in its narrow form whatever policy says, and makes no state.

use std::net::IpAddr;

use enforcer_common::id::Ifindex;
use enforcer_common::verdict::{Reason, Verdict};
use enforcer_tests::packet::{Frame, Transport};
use enforcer_tests::world::Unknown;

use crate::stage::*;

const OWN: &str = "fe80::11";
const OTHERS: &str = "fe80::12";
const ROUTER: &str = "fe80::1";
const ALERT: &[u8] = &[0x94, 4, 0, 0];
const ALERT_V6: &[u8] = &[0, 0, 5, 2, 0, 0, 1, 0];
const UNKNOWN: Verdict = Verdict::Deny(Reason::UnknownWorkload);
const ROUTES: Verdict = Verdict::Deny(Reason::RouterAdvertisement);

/// A stage whose workloads show an address of the link: `fe80::DEVICE`.
fn stage(policies: &[(&str, &str)], unknown: Unknown) -> Stage {
    let mut stage = Stage::with(policies, unknown);
    for device in [A, B] {
        let endpoint = stage.world.endpoint_mut(Ifindex(device)).expect("it is there");
        let place = endpoint.owned as usize;
        endpoint.owned += 1;
        endpoint.addresses[place] = address(&format!("fe80::{device}")).into();
        endpoint.owners[place] = enforcer_common::id::OwnerId(1000 + device);
    }
    stage
}

fn closed() -> Stage {
    stage(&[("a", CLOSED), ("b", CLOSED)], Unknown::Strict)
}

/// MLD of a type, as it should be.
fn mld<'a>(kind: u8, source: &str, destination: &str, payload: &'a [u8]) -> Frame<'a> {
    let options: &'static [(u8, &'static [u8])] = &[(0, ALERT_V6)];
    let transport = Transport::Icmp { kind, code: 0, rest: [0; 4] };
    let frame = Frame::new(address(source), address(destination), transport);
    Frame { hop_limit: 1, extensions: options, payload, ..frame }
}

/// IGMP, as it should be: `message` is all of it.
fn igmp<'a>(source: IpAddr, destination: &str, message: &'a [u8]) -> Frame<'a> {
    let frame = Frame::new(source, address(destination), Transport::Other(2));
    Frame { hop_limit: 1, options: ALERT, payload: message, ..frame }
}

fn udp<'a>(source: &str, destination: &str, ports: (u16, u16), payload: &'a [u8]) -> Frame<'a> {
    Frame { payload, ..datagram((address(source), ports.0), (address(destination), ports.1)) }
}

/// A message of neighbour or router discovery, 16 bytes long.
fn discovery<'a>(kind: u8, source: &str, destination: &str, payload: &'a [u8]) -> Frame<'a> {
    let transport = Transport::Icmp { kind, code: 0, rest: [0; 4] };
    Frame { hop_limit: 255, payload, ..Frame::new(address(source), address(destination), transport) }
}

/// Sixteen bytes: what MLD version 1 and discovery hold behind their first eight.
const GROUP: &[u8] = &[0xff, 2, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 0xff, 0, 0, 0x11];
/// A report of IGMP version 3 of one group.
const V3: &[u8] = &[0x22, 0, 0, 0, 0, 0, 0, 1, 4, 0, 0, 0, 224, 0, 0, 251];

const fn igmp_v2(kind: u8) -> [u8; 8] {
    [kind, 0, 0, 0, 224, 0, 0, 251]
}

#[test]
fn reports_of_groups_pass_both_ways_and_queries_come_from_the_node_and_the_uplink() {
    let own = host(true, A);
    let (v1, v2, leave, query) = (igmp_v2(0x12), igmp_v2(0x16), igmp_v2(0x17), igmp_v2(0x11));
    let neighbour = host(true, B);
    for stage in [closed(), stage(&[], Unknown::Strict)] {
        for frame in [
            mld(131, OWN, "ff02::1:ff00:11", GROUP),
            mld(131, OWN, "ff05::7", GROUP),
            mld(132, OWN, "ff02::2", GROUP),
            mld(143, OWN, "ff02::16", GROUP),
            mld(143, "::", "ff02::16", GROUP),
            igmp(own, "224.0.0.251", &v1),
            igmp(own, "224.0.0.251", &v2),
            igmp(own, "224.0.0.2", &leave),
            igmp(own, "224.0.0.22", V3),
            igmp(address("0.0.0.0"), "224.0.0.22", V3),
        ] {
            assert_eq!(stage.sends(A, &frame), ALLOW, "{frame:?}");
        }
        for frame in [mld(143, OTHERS, "ff02::16", GROUP), igmp(neighbour, "224.0.0.22", V3)] {
            assert_eq!(stage.receives(A, B, &frame), ALLOW, "a bridge without snooping floods it: {frame:?}");
        }
        for frame in [
            mld(130, ROUTER, "ff02::1", GROUP),
            mld(130, ROUTER, "ff02::1:ff00:11", GROUP),
            igmp(address("0.0.0.0"), "224.0.0.1", &query),
        ] {
            assert_eq!(stage.receives(A, NODE, &frame), ALLOW, "of the bridge itself: {frame:?}");
            assert_eq!(stage.receives(A, UPLINK, &frame), ALLOW, "of a router on the link: {frame:?}");
        }
        assert_eq!(stage.world.flow_count(), 0, "it makes no state");
    }
    // The node's end of the veth reports its own groups when it comes up, and nobody has named the workload yet.
    for policies in [&[("a", CLOSED)][..], &[]] {
        let stage = stage(policies, Unknown::Strict);
        for device in [A, U] {
            assert_eq!(stage.receives(device, NODE, &mld(143, ROUTER, "ff02::16", GROUP)), ALLOW, "{device}");
        }
    }
    let closed = closed();
    for from in [B, OTHER, TAP] {
        for frame in [mld(130, ROUTER, "ff02::1", GROUP), igmp(stranger(true), "224.0.0.1", &query)] {
            assert_eq!(closed.receives(A, from, &frame), NO_RULE, "a query that is no router's, from {from}");
        }
    }
    for (frame, why) in [
        (Frame { extensions: &[], ..mld(130, ROUTER, "ff02::1", GROUP) }, "without a router alert"),
        (Frame { hop_limit: 2, ..mld(130, ROUTER, "ff02::1", GROUP) }, "it could be forwarded"),
        (mld(130, "::", "ff02::1", GROUP), "from nobody"),
        (mld(130, "2001:db8::7", "ff02::1", GROUP), "from an address that is not of the link"),
        (mld(130, ROUTER, "fd00::11", GROUP), "to the workload alone"),
        (mld(130, ROUTER, "ff02::1", &[0; 505]), "too long"),
        (Frame { options: &[], ..igmp(stranger(true), "224.0.0.1", &query) }, "IGMP without a router alert"),
    ] {
        assert_eq!(closed.receives(A, UPLINK, &frame), NO_RULE, "{why}");
    }
}

#[test]
fn what_is_not_the_narrow_form_of_a_report_is_judged_or_refused() {
    let (closed, own) = (closed(), host(true, A));
    let (longest, too_long) = ([0; 504], [0; 505]);
    assert_eq!(closed.sends(A, &mld(143, OWN, "ff02::16", &longest)), ALLOW, "512 bytes");
    let other_option: &[u8] = &[0, 0, 1, 4, 0, 0, 0, 0];
    let twice: &[u8] = &[0, 0, 5, 2, 0, 0, 5, 2];
    let other_alert: &[u8] = &[0, 0, 5, 2, 0, 1, 1, 0];
    let long_options: &[u8] = &[0, 1, 5, 2, 0, 0, 1, 8, 0, 0, 0, 0, 0, 0, 0, 0];
    let short_pads: &[u8] = &[0, 0, 5, 2, 0, 0, 0, 0];
    let with =
        |options: &'static [(u8, &'static [u8])]| Frame { extensions: options, ..mld(143, OWN, "ff02::16", GROUP) };
    assert_eq!(closed.sends(A, &Frame { extensions: &[(0, short_pads)], ..mld(143, OWN, "ff02::16", GROUP) }), ALLOW);
    for (frame, why) in [
        (mld(143, OWN, "ff02::16", &too_long), "513 bytes: a channel"),
        (mld(143, OWN, "ff02::1", GROUP), "version 2 goes to one group"),
        (mld(143, OWN, "fd00::12", GROUP), "to a neighbour"),
        (mld(143, OWN, "2001:db8::7", GROUP), "to somebody far away"),
        (mld(131, OWN, "fe80::12", GROUP), "version 1 to a neighbour"),
        (mld(131, OWN, "ff02::1:ff00:11", &longest), "version 1 has 24 bytes"),
        (mld(132, OWN, "ff02::1", GROUP), "who leaves tells the routers"),
        (mld(151, OWN, "ff02::6a", GROUP), "what finds multicast routers is none"),
        (Frame { hop_limit: 2, ..mld(143, OWN, "ff02::16", GROUP) }, "it could be forwarded"),
        (mld(143, "fd00::11", "ff02::16", GROUP), "from an address that is not of the link"),
        (
            Frame {
                transport: Transport::Icmp { kind: 143, code: 1, rest: [0; 4] },
                ..mld(143, OWN, "ff02::16", GROUP)
            },
            "another code",
        ),
        (with(&[]), "without a router alert"),
        (Frame { extensions: &[(0, other_option)], ..with(&[]) }, "with another option"),
        (Frame { extensions: &[(0, twice)], ..with(&[]) }, "with two"),
        (Frame { extensions: &[(0, other_alert)], ..with(&[]) }, "an alert for somebody else"),
        (Frame { extensions: &[(0, long_options)], ..with(&[]) }, "with long options"),
        (Frame { extensions: &[(60, ALERT_V6)], ..with(&[]) }, "options for the destination"),
    ] {
        assert_eq!(closed.sends(A, &frame), NO_RULE, "{why}");
    }
    let options = denied(Reason::IpOptions);
    let (v2, long) = (igmp_v2(0x16), [0x22; 516]);
    for (frame, why) in [
        (Frame { hop_limit: 2, ..igmp(own, "224.0.0.22", V3) }, "it could be forwarded"),
        (igmp(own, "10.0.0.12", V3), "to a neighbour"),
        (igmp(own, "198.51.100.7", V3), "to somebody far away"),
        (igmp(address("224.0.0.251"), "224.0.0.22", V3), "from a group"),
        (igmp(own, "255.255.255.255", V3), "to everybody"),
        (igmp(own, "224.0.0.22", &long), "too long: a channel"),
        (igmp(own, "224.0.0.22", &V3[..4]), "cut"),
        (Frame { options: &[0x94, 4, 0, 1], ..igmp(own, "224.0.0.22", V3) }, "an alert for somebody else"),
        (Frame { options: &[7, 3, 4, 0], ..igmp(own, "224.0.0.22", V3) }, "a record of the route"),
        (Frame { options: &[0x94, 4, 0, 0, 0, 0, 0, 0], ..igmp(own, "224.0.0.22", V3) }, "more options"),
        (Frame { options: &[0x83, 7, 4, 10, 0, 0, 12, 0], ..igmp(own, "224.0.0.22", V3) }, "a source route"),
        (Frame { fragment: 0x2000, ..igmp(own, "224.0.0.22", V3) }, "a fragment"),
        (
            Frame { transport: Transport::Udp { source: 1, destination: 2 }, ..igmp(own, "224.0.0.22", V3) },
            "another protocol",
        ),
    ] {
        for open in [&closed, &stage(&[], Unknown::Strict)] {
            assert_eq!(open.sends(A, &frame), options, "{why}");
        }
    }
    for (frame, why) in [
        (Frame { options: &[], ..igmp(own, "224.0.0.22", V3) }, "without the alert"),
        (igmp(own, "224.0.0.1", V3), "version 3 goes to one group"),
        (igmp(own, "224.0.0.22", &[0x13; 8]), "of another protocol above IGMP"),
        (igmp(own, "224.0.0.251", &[v2, v2].concat()), "version 2 has eight bytes"),
        (igmp(own, "224.0.0.251", &igmp_v2(0x17)), "who leaves tells the routers"),
    ] {
        assert_eq!(closed.sends(A, &frame), NO_RULE, "{why}");
    }
    let cut = Frame { options: &[], ..igmp(own, "224.0.0.22", &V3[..4]) };
    assert_eq!(closed.sends(A, &cut), denied(Reason::L4Short));
    assert_eq!(closed.world.flow_count(), 0);
}

#[test]
fn reports_keep_to_the_guardrails() {
    let closed = closed();
    let spoofed = denied(Reason::SpoofedSource);
    assert_eq!(closed.sends(A, &mld(143, OTHERS, "ff02::16", GROUP)), spoofed, "as a neighbour");
    assert_eq!(closed.sends(A, &igmp(host(true, B), "224.0.0.22", V3)), spoofed, "as a neighbour");
    assert_eq!(closed.sends(A, &igmp(node(true), "224.0.0.22", V3)), spoofed, "as the node");
    assert_eq!(closed.receives(A, UPLINK, &igmp(host(true, B), "224.0.0.22", V3)), spoofed, "in a workload's name");
    assert_eq!(closed.receives(A, NODE, &igmp(host(true, B), "224.0.0.1", &igmp_v2(0x11))), spoofed);
}

#[test]
fn a_workload_is_no_router_and_asks_for_no_groups() {
    for (stage, device) in [
        (closed(), A),
        (stage(&[], Unknown::Strict), A),
        (stage(&[], Unknown::Strict), R),
        (stage(&[], Unknown::Strict), U),
        (stage(&[], Unknown::Open), U),
    ] {
        let own = host(true, device);
        for frame in [
            mld(130, OWN, "ff02::1", GROUP),
            Frame { extensions: &[], ..mld(130, OWN, "ff02::1", GROUP) },
            discovery(134, OWN, "ff02::1", GROUP),
            igmp(own, "224.0.0.1", &igmp_v2(0x11)),
            Frame { options: &[], ..igmp(own, "224.0.0.1", &igmp_v2(0x11)) },
        ] {
            assert_eq!(stage.sends(device, &frame), ROUTES, "{frame:?}");
        }
    }
}

#[test]
fn routers_are_asked_for_and_answer_from_the_node_and_the_uplink() {
    let stages = [closed(), stage(&[], Unknown::Strict)];
    let long = [0; 1600];
    for stage in &stages {
        for source in [OWN, "fd00::11", "::"] {
            assert_eq!(stage.sends(A, &discovery(133, source, "ff02::2", &[])), ALLOW, "{source}");
        }
        assert_eq!(stage.receives(A, B, &discovery(133, OTHERS, "ff02::2", &[])), ALLOW, "flooded");
        for from in [NODE, UPLINK] {
            for to in ["ff02::1", OWN] {
                assert_eq!(stage.receives(A, from, &discovery(134, ROUTER, to, GROUP)), ALLOW, "from {from} to {to}");
            }
        }
        assert_eq!(stage.world.flow_count(), 0);
    }
    let [closed, _] = stages;
    for (frame, why) in [
        (discovery(133, OWN, "ff02::1", &[]), "to all nodes"),
        (discovery(133, OWN, "fe80::12", &[]), "to a neighbour"),
        (discovery(133, OWN, "2001:db8::7", &[]), "to somebody far away"),
        (discovery(133, OWN, "ff02::2", &long[..57]), "too long"),
        (Frame { hop_limit: 254, ..discovery(133, OWN, "ff02::2", &[]) }, "it was forwarded"),
    ] {
        assert_eq!(closed.sends(A, &frame), NO_RULE, "{why}");
    }
    for from in [B, OTHER, TAP] {
        let advertisement = discovery(134, ROUTER, "ff02::1", GROUP);
        assert_eq!(closed.receives(A, from, &advertisement), NO_RULE, "no router is behind {from}");
    }
    for (frame, why) in [
        (Frame { hop_limit: 254, ..discovery(134, ROUTER, "ff02::1", GROUP) }, "it was forwarded"),
        (discovery(134, "2001:db8::1", "ff02::1", GROUP), "from an address that is not of the link"),
        (discovery(134, ROUTER, "fd00::11", GROUP), "to an address that is not of the link"),
        (discovery(134, ROUTER, "ff02::1", &long), "too long"),
        (discovery(137, ROUTER, OWN, GROUP), "a redirect is judged"),
    ] {
        assert_eq!(closed.receives(A, UPLINK, &frame), NO_RULE, "{why}");
    }
}

#[test]
fn a_client_of_dhcp_asks_its_link_and_is_answered_from_the_node_and_the_uplink() {
    let (own, everybody, server) = ("10.0.0.11", "255.255.255.255", "10.0.0.254");
    let outside = "10.0.0.7";
    for stage in [closed(), stage(&[], Unknown::Strict)] {
        for (source, to, ports) in
            [("0.0.0.0", everybody, (68, 67)), (own, everybody, (68, 67)), (OWN, "ff02::1:2", (546, 547))]
        {
            assert_eq!(stage.sends(A, &udp(source, to, ports, &[0; 300])), ALLOW, "from {source}");
        }
        for (from, source) in [(NODE, server), (UPLINK, outside)] {
            for to in [everybody, own, "10.0.0.77"] {
                assert_eq!(stage.receives(A, from, &udp(source, to, (67, 68), &[0; 300])), ALLOW, "to {to}");
            }
            assert_eq!(stage.receives(A, from, &udp(ROUTER, OWN, (547, 546), &[0; 300])), ALLOW);
        }
        assert_eq!(stage.world.flow_count(), 0);
    }
}

#[test]
fn a_client_of_dhcp_reaches_nobody_but_its_link_and_no_workload_serves_it() {
    let (own, everybody) = ("10.0.0.11", "255.255.255.255");
    let closed = closed();
    let bounded = 556 - 8;
    assert_eq!(closed.sends(A, &udp(own, everybody, (68, 67), &vec![0; bounded])), ALLOW, "576 bytes in all");
    for (frame, why) in [
        (udp(own, everybody, (68, 67), &vec![0; bounded + 1]), "577 bytes: a channel"),
        (udp(OWN, "ff02::1:2", (546, 547), &vec![0; bounded + 1]), "the same, IPv6"),
        (udp(own, "10.0.0.12", (68, 67), &[]), "to a neighbour"),
        (udp(own, "10.0.0.254", (68, 67), &[]), "to the node"),
        (udp(own, "198.51.100.7", (68, 67), &[]), "to somebody far away"),
        (udp(own, "10.0.0.255", (68, 67), &[]), "to the subnet"),
        (udp(own, "224.0.0.1", (68, 67), &[]), "to a group"),
        (udp(own, everybody, (67, 68), &[]), "as a server"),
        (udp(own, everybody, (67, 67), &[]), "as a relay"),
        (udp(own, everybody, (4000, 67), &[]), "from another port"),
        (udp(own, everybody, (68, 68), &[]), "to another port"),
        (udp(OWN, "fe80::12", (546, 547), &[]), "to a neighbour, IPv6"),
        (udp(OWN, "ff02::1", (546, 547), &[]), "to another group"),
        (udp(OWN, "ff05::1:3", (546, 547), &[]), "to the servers of the site"),
        (udp("fd00::11", "ff02::1:2", (546, 547), &[]), "from an address that is not of the link"),
        (udp(OWN, "fe80::12", (547, 546), &[]), "as a server, IPv6"),
    ] {
        assert_eq!(closed.sends(A, &frame), NO_RULE, "{why}");
    }
    let server = "10.0.0.12";
    for from in [B, OTHER, TAP] {
        let source = if from == TAP { "10.0.0.7" } else { server };
        for to in [everybody, own] {
            assert_eq!(closed.receives(A, from, &udp(source, to, (67, 68), &[])), NO_RULE, "{from} serves nobody");
        }
        let offer = udp(source, "10.0.0.77", (67, 68), &[]);
        assert_eq!(closed.receives(A, from, &offer), denied(Reason::NotAddressed), "an offer of {from}");
        assert_eq!(closed.receives(A, from, &udp(OTHERS, OWN, (547, 546), &[])), NO_RULE, "{from} serves nobody");
    }
    let asks = udp(server, everybody, (68, 67), &[0; 300]);
    assert_eq!(closed.receives(A, B, &asks), NO_RULE, "what a neighbour asks is not for a workload");
    for (frame, verdict, why) in [
        (udp("10.0.0.7", "10.0.0.12", (67, 68), &[]), denied(Reason::NotAddressed), "another workload's"),
        (udp("10.0.0.7", "10.0.0.254", (67, 68), &[]), denied(Reason::NotAddressed), "the node's"),
        (udp("10.0.0.7", "10.0.0.77", (67, 69), &[]), denied(Reason::NotAddressed), "to another port"),
        (udp("10.0.0.7", "10.0.0.77", (53, 68), &[]), denied(Reason::NotAddressed), "from another port"),
        (udp("10.0.0.7", own, (67, 68), &[0; 1473]), NO_RULE, "too long"),
        (udp("2001:db8::1", OWN, (547, 546), &[]), NO_RULE, "from afar"),
        (udp(ROUTER, "fd00::11", (547, 546), &[]), NO_RULE, "to an address that is not of the link"),
        (udp(ROUTER, "fe80::77", (547, 546), &[]), denied(Reason::NotAddressed), "to somebody else"),
        (udp("10.0.0.12", own, (67, 68), &[]), denied(Reason::SpoofedSource), "in a workload's name"),
    ] {
        assert_eq!(closed.receives(A, UPLINK, &frame), verdict, "{why}");
    }
}

#[test]
fn an_unknown_workload_stays_on_its_link_and_does_nothing_else() {
    let unknown = stage(&[], Unknown::Strict);
    let query = igmp_v2(0x11);
    for frame in [
        mld(143, "fe80::abcd", "ff02::16", GROUP),
        igmp(host(true, U), "224.0.0.22", V3),
        discovery(133, "fe80::abcd", "ff02::2", &[]),
    ] {
        assert_eq!(unknown.sends(U, &frame), ALLOW, "{frame:?}");
    }
    for frame in [mld(130, ROUTER, "ff02::1", GROUP), igmp(node(true), "224.0.0.1", &query)] {
        assert_eq!(unknown.receives(U, NODE, &frame), ALLOW, "{frame:?}");
        assert_eq!(unknown.receives(U, B, &frame), UNKNOWN, "{frame:?}");
    }
    for frame in [
        mld(143, "fe80::abcd", "ff02::16", &[0; 600]),
        udp("0.0.0.0", "255.255.255.255", (68, 67), &[]),
        udp("fe80::abcd", "ff02::1:2", (546, 547), &[]),
    ] {
        assert_eq!(unknown.sends(U, &frame), UNKNOWN, "{frame:?}");
    }
    let answer = udp("10.0.0.254", "255.255.255.255", (67, 68), &[]);
    assert_eq!(unknown.receives(U, NODE, &answer), UNKNOWN);
}

/// A frame of the link layer to this group.
fn neighbourly(group: u8, ethertype: [u8; 2], body: &[u8]) -> Vec<u8> {
    [&[1, 0x80, 0xc2, 0, 0, group, 2, 0, 0, 0, 0, 1][..], &ethertype, body, &[0; 36]].concat()
}

#[test]
fn the_nodes_own_stp_and_lldp_reach_a_workload_and_nobody_elses() {
    let (bpdu, ethertype) = (&[0x42, 0x42, 3, 0][..], denied(Reason::Ethertype));
    let stage = closed();
    for frame in [
        neighbourly(0, [0, 38], bpdu),
        neighbourly(0x0e, [0x88, 0xcc], &[]),
        neighbourly(3, [0x88, 0xcc], &[]),
        neighbourly(0, [0x88, 0xcc], &[]),
    ] {
        for device in [A, U] {
            assert_eq!(stage.world.receives(Ifindex(device), Ifindex(NODE), &frame), ALLOW, "{frame:02x?}");
        }
        for from in [B, UPLINK, TAP] {
            assert_eq!(stage.world.receives(Ifindex(A), Ifindex(from), &frame), ethertype, "{from}: {frame:02x?}");
        }
        assert_eq!(stage.world.sends(Ifindex(A), &frame), ethertype, "a workload is no bridge");
    }
    let mut unicast = neighbourly(0, [0, 38], bpdu);
    unicast[0] = 0;
    for frame in [
        unicast,
        neighbourly(0, [0, 38], &[0xaa, 0xaa, 3, 0]),
        neighbourly(0, [5, 0xdd], bpdu),
        neighbourly(1, [0, 38], bpdu),
        neighbourly(0x0e, [0, 38], bpdu),
        neighbourly(2, [0x88, 0xcc], &[]),
        neighbourly(0x0e, [0x88, 0x09], &[]),
        neighbourly(0x0e, [0x88, 0xcc], &[0; 1500]),
    ] {
        assert_eq!(stage.world.receives(Ifindex(A), Ifindex(NODE), &frame), ethertype, "{frame:02x?}");
    }
}

#[test]
fn the_broadcast_of_the_subnet_is_for_everybody_on_it() {
    let open = stage(&[], Unknown::Strict);
    let broadcast = (IpAddr::V4(BROADCAST), 6667);
    let from_b = datagram((host(true, B), 40_000), broadcast);
    assert_eq!(open.sends(B, &from_b), ALLOW);
    assert_eq!(open.receives(A, B, &from_b), ALLOW, "nothing isolates either of them");
    assert_eq!(open.receives(A, NODE, &datagram((node(true), 40_000), broadcast)), ALLOW, "of the node");
    for (to, why) in [("10.0.0.254", "the node's"), ("10.0.0.12", "the sender's"), ("10.0.1.255", "another subnet's")] {
        let frame = datagram((host(true, B), 40_000), (address(to), 6667));
        assert_eq!(open.receives(A, B, &frame), denied(Reason::NotAddressed), "{why}");
    }
    assert_eq!(open.sends(A, &datagram(broadcast, (peer(true), 80))), denied(Reason::SpoofedSource), "nobody's source");
    let closed = closed();
    assert_eq!(closed.receives(A, B, &from_b), NO_RULE, "policy judges it");
    // Of a subnet that the node does not have: in a frame for all, between two that nothing isolates.
    let elsewhere = |to: &str| Frame {
        macs: [[0xff; 6], [2, 0, 0, 0, 0, 1]],
        ..datagram((host(true, B), 40_000), (address(to), 6667))
    };
    let (not_addressed, unicast) =
        (denied(Reason::NotAddressed), datagram((host(true, B), 1), (address("10.9.9.255"), 2)));
    assert_eq!(open.receives(A, B, &elsewhere("10.9.9.255")), ALLOW);
    assert_eq!(open.receives(A, B, &unicast), not_addressed, "a frame for one station, which the bridge flooded");
    for to in ["10.0.0.254", "10.0.0.12", "10.0.0.13"] {
        assert_eq!(open.receives(A, B, &elsewhere(to)), not_addressed, "somebody's: {to}");
    }
    for from in [UPLINK, OTHER, TAP] {
        let frame = Frame { source: address("10.9.9.1"), ..elsewhere("10.9.9.255") };
        assert_eq!(open.receives(A, from, &frame), not_addressed, "of no workload of the bridge: {from}");
    }
    for (policies, why) in [
        ([("a", INGRESS_CLOSED)], "the receiver is isolated"),
        ([("b", EGRESS_CLOSED)], "the sender is, and would go by an address that it may send to"),
    ] {
        assert_eq!(stage(&policies, Unknown::Strict).receives(A, B, &elsewhere("10.9.9.255")), not_addressed, "{why}");
    }
    let others = stage(&[("a", EGRESS_CLOSED), ("b", INGRESS_CLOSED)], Unknown::Strict);
    assert_eq!(others.receives(A, B, &elsewhere("10.9.9.255")), ALLOW, "the other directions do not matter");
    assert_eq!(open.receives(A, U, &elsewhere("10.9.9.255")), not_addressed, "an unknown sender");
    let ruled = stage(&[("a", &but("{ from: [{ workloads: { app: b } }], ports: [6667/udp] }"))], Unknown::Strict);
    assert_eq!(ruled.receives(A, B, &from_b), ALLOW, "a rule for its sender");
    let other = datagram((host(true, B), 40_000), (IpAddr::V4(BROADCAST), 6668));
    assert_eq!(ruled.receives(A, B, &other), NO_RULE, "and for no other port");
}
