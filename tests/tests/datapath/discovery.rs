//! Tests of neighbour discovery and ARP, which pass without policy (N21), and of workloads that may use nothing else.

use enforcer_common::id::Ifindex;
use enforcer_common::verdict::{Reason, Verdict};
use enforcer_tests::packet::{Frame, Transport};
use enforcer_tests::world::Unknown;

use crate::stage::*;

const SOLICITATION: u8 = 135;
const ADVERTISEMENT: u8 = 136;

/// A message of neighbour discovery as it should be: 24 bytes, hop limit 255.
fn message<'a>(kind: u8, source: &str, destination: &str) -> Frame<'a> {
    Frame {
        hop_limit: 255,
        payload: &[0; 16],
        ..Frame::new(address(source), address(destination), Transport::Icmp { kind, code: 0, rest: [0; 4] })
    }
}

const OWN: &str = "fd00::11";
const NEIGHBOUR: &str = "fd00::12";
const FAR: &str = "2001:db8::7";

#[test]
fn discovery_passes_within_its_bounds() {
    let stage = Stage::new(&[("a", CLOSED)]);
    for kind in [SOLICITATION, ADVERTISEMENT] {
        for (to, verdict, why) in [
            ("ff02::1:ff00:12", ALLOW, "a group of the link"),
            ("fe80::1", ALLOW, "a link-local address"),
            ("fd00::fe", ALLOW, "this node"),
            (NEIGHBOUR, ALLOW, "a local workload"),
            (FAR, NO_RULE, "far away"),
            ("ff05::1", NO_RULE, "a group beyond the link"),
            ("fec0::1", NO_RULE, "one bit from link-local"),
        ] {
            assert_eq!(stage.sends(A, &message(kind, OWN, to)), verdict, "{kind} to {why}");
        }
        assert_eq!(stage.world.flow_count(), 0, "it makes no state");
    }
}

#[test]
fn discovery_out_of_its_bounds_is_judged() {
    let stage = Stage::new(&[("a", CLOSED)]);
    let (longest, too_long) = ([0; 56], [0; 57]);
    // 1 KiB: eight bytes and 127 times eight more.
    let mut options = vec![0; 1024];
    options[1] = 127;
    let options: [(u8, &[u8]); 1] = [(60, &options)];
    for kind in [SOLICITATION, ADVERTISEMENT] {
        for from_workload in [true, false] {
            let (source, to) = if from_workload { (OWN, NEIGHBOUR) } else { (NEIGHBOUR, OWN) };
            let plain = || message(kind, source, to);
            for (frame, verdict, why) in [
                (plain(), ALLOW, "as it should be"),
                (Frame { payload: &longest, ..plain() }, ALLOW, "64 bytes"),
                (Frame { payload: &too_long, ..plain() }, NO_RULE, "65 bytes"),
                (Frame { hop_limit: 254, ..plain() }, NO_RULE, "it was forwarded"),
                (Frame { extensions: &options, ..plain() }, NO_RULE, "behind 1 KiB of options"),
                (
                    Frame { transport: Transport::Icmp { kind, code: 1, rest: [0; 4] }, ..plain() },
                    NO_RULE,
                    "another code",
                ),
            ] {
                let judged = if from_workload { stage.sends(A, &frame) } else { stage.receives(A, B, &frame) };
                assert_eq!(judged, verdict, "{kind}, from the workload {from_workload}: {why}");
            }
        }
    }
}

#[test]
fn discovery_keeps_to_the_guardrails() {
    let stage = Stage::new(&[("a", CLOSED)]);
    let spoofed = denied(Reason::SpoofedSource);
    for kind in [SOLICITATION, ADVERTISEMENT] {
        assert_eq!(stage.sends(A, &message(kind, NEIGHBOUR, "ff02::1")), spoofed, "as a neighbour");
        assert_eq!(
            stage.sends(A, &message(kind, "fe80::abcd", "ff02::1")),
            spoofed,
            "from an address it does not have"
        );
        let from_uplink = stage.receives(A, UPLINK, &message(kind, NEIGHBOUR, OWN));
        assert_eq!(from_uplink, denied(Reason::SpoofedSource), "a local address by the uplink");
        assert_eq!(stage.receives(A, UPLINK, &message(kind, FAR, OWN)), ALLOW, "the outside asks for it");
        for from in [B, UPLINK] {
            let flooded = stage.receives(A, from, &message(kind, FAR, NEIGHBOUR));
            assert_eq!(flooded, denied(Reason::NotAddressed), "a unicast that is not its own");
        }
    }
}

#[test]
fn the_unspecified_address_asks_for_its_own_sake_only() {
    let stage = Stage::new(&[("a", CLOSED)]);
    let spoofed = denied(Reason::SpoofedSource);
    assert_eq!(stage.sends(A, &message(SOLICITATION, "::", "ff02::1:ff00:11")), ALLOW, "duplicate address detection");
    assert_eq!(stage.sends(A, &message(SOLICITATION, "::", NEIGHBOUR)), spoofed, "of one neighbour");
    assert_eq!(stage.sends(A, &message(ADVERTISEMENT, "::", "ff02::1")), spoofed, "nobody advertises");
    assert_eq!(stage.sends(A, &message(ADVERTISEMENT, "::", NEIGHBOUR)), spoofed);
    let detection = message(SOLICITATION, "::", "ff02::1:ff00:11");
    assert_eq!(stage.receives(A, B, &detection), ALLOW);
    assert_eq!(stage.receives(A, B, &message(ADVERTISEMENT, "::", "ff02::1")), NO_RULE, "judged like any packet");
    // MLD (RFC 3590) without its router alert is judged by policy; its sender is not held against it.
    for kind in [131, 132, 143] {
        assert_eq!(stage.sends(A, &message(kind, "::", "ff02::16")), NO_RULE, "MLD {kind}");
        assert_eq!(Stage::new(&[]).sends(A, &message(kind, "::", "ff02::16")), ALLOW, "MLD {kind}");
    }
    let query = message(130, "::", "ff02::1");
    assert_eq!(stage.sends(A, &query), denied(Reason::RouterAdvertisement), "a query of a router");
}

#[test]
fn a_workload_is_no_router() {
    for (unknown, device) in [(Unknown::Strict, A), (Unknown::Strict, R), (Unknown::Strict, U), (Unknown::Open, U)] {
        let stage = Stage::with(&[], unknown);
        for kind in [134, 137] {
            let frame = message(kind, &host(false, device).to_string(), "ff02::1");
            assert_eq!(stage.sends(device, &frame), denied(Reason::RouterAdvertisement), "{kind} of {device}");
        }
    }
    let stage = Stage::new(&[("b", CLOSED)]);
    for (kind, verdict) in [(134, ALLOW), (137, NO_RULE)] {
        assert_eq!(stage.receives(A, UPLINK, &message(kind, "fe80::1", "ff02::1")), ALLOW, "of a real router");
        assert_eq!(stage.receives(B, UPLINK, &message(kind, "fe80::1", "ff02::1")), verdict, "{kind}: `link`, too");
    }
}

#[test]
fn an_unknown_workload_gets_discovery_and_arp_only() {
    let unknown = denied(Reason::UnknownWorkload);
    let stage = Stage::new(&[]);
    for v4 in FAMILIES {
        for frame in [
            syn(((host(v4, U), 40_000), (peer(v4), 80))),
            ack(((host(v4, U), 40_000), (peer(v4), 80))),
            datagram((host(v4, U), 40_000), (node(v4), 53)),
            echo(host(v4, U), peer(v4), true, 7),
        ] {
            assert_eq!(stage.sends(U, &frame), unknown, "{:?}", frame.transport);
        }
        for from in [NODE, B, UPLINK] {
            for frame in [
                syn(((node(v4), 40_000), (host(v4, U), 80))),
                datagram((node(v4), 40_000), (host(v4, U), 53)),
                echo(node(v4), host(v4, U), true, 7),
            ] {
                assert_eq!(stage.receives(U, from, &frame), unknown, "from {from}, {:?}", frame.transport);
            }
        }
    }
    let dhcp = datagram((address("0.0.0.0"), 68), (address("255.255.255.255"), 67));
    assert_eq!(stage.sends(U, &dhcp), unknown);
    for kind in [SOLICITATION, ADVERTISEMENT] {
        assert_eq!(stage.sends(U, &message(kind, "fe80::abcd", "ff02::1")), ALLOW);
        assert_eq!(stage.receives(U, NODE, &message(kind, "fd00::fe", "fe80::abcd")), ALLOW);
        assert_eq!(stage.sends(U, &message(kind, "fe80::abcd", FAR)), unknown, "a channel out");
    }
    assert_eq!(stage.sends(U, &message(SOLICITATION, "::", "ff02::1:ff00:14")), ALLOW);
    assert_eq!(stage.world.sends(Ifindex(U), &arp(42)), ALLOW);
    assert_eq!(stage.world.receives(Ifindex(U), Ifindex(UPLINK), &arp(42)), ALLOW);
    assert_eq!(stage.world.flow_count(), 0);
}

#[test]
fn an_open_unknown_workload_asks_from_an_address_that_nobody_listed() {
    let stage = Stage::with(&[], Unknown::Open);
    for device in [U, R] {
        assert_eq!(stage.sends(device, &message(SOLICITATION, "fe80::abcd", "ff02::1:ff00:1")), ALLOW);
        let as_neighbour = message(SOLICITATION, NEIGHBOUR, "ff02::1:ff00:1");
        assert_eq!(stage.sends(device, &as_neighbour), denied(Reason::SpoofedSource));
        let flooded = syn(((peer(false), 40_000), (host(false, B), 80)));
        assert_eq!(stage.receives(device, UPLINK, &flooded), denied(Reason::NotAddressed));
        let for_me = syn(((peer(false), 40_000), (address("fe80::abcd"), 80)));
        assert_eq!(stage.receives(device, UPLINK, &for_me), ALLOW);
    }
}

fn arp(length: usize) -> Vec<u8> {
    let mut frame = vec![0; length];
    frame[12..14].copy_from_slice(&[0x08, 0x06]);
    frame
}

#[test]
fn arp_is_as_long_as_arp_is() {
    let stage = Stage::new(&[("a", CLOSED)]);
    for device in [A, R, U] {
        for (length, verdict) in
            [(42, ALLOW), (64, ALLOW), (65, denied(Reason::Ethertype)), (1514, denied(Reason::Ethertype))]
        {
            assert_eq!(stage.world.sends(Ifindex(device), &arp(length)), verdict, "{length} bytes of {device}");
            let received: Verdict = stage.world.receives(Ifindex(device), Ifindex(UPLINK), &arp(length));
            assert_eq!(received, verdict, "{length} bytes to {device}");
        }
    }
}
