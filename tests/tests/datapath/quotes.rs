//! Tests that an ICMP error passes only with the live flow that it quotes (N22, D4).

use std::net::IpAddr;

use enforcer_common::id::Ifindex;
use enforcer_common::packet::tcp;
use enforcer_tests::packet::{Frame, Transport};

use crate::stage::*;

/// IP header and the first bytes of what follows, as an error quotes them.
fn quoted(frame: &Frame<'_>, transport: usize) -> Vec<u8> {
    let header = if frame.source.is_ipv4() { 20 + frame.options.len() } else { 40 };
    let bytes = frame.bytes();
    bytes[14..bytes.len().min(14 + header + transport)].to_vec()
}

/// "Destination unreachable" of the family.
fn error(source: IpAddr, destination: IpAddr, quote: &[u8]) -> Frame<'_> {
    let kind = if source.is_ipv4() { 3 } else { 1 };
    Frame { payload: quote, ..Frame::new(source, destination, Transport::Icmp { kind, code: 1, rest: [0; 4] }) }
}

const OUT: &str = "{ to: anywhere, ports: [80/tcp, 53/udp] }";
const IN: &str = "{ from: anywhere, ports: [80/tcp, 53/udp] }";

#[test]
fn an_error_about_what_the_workload_sent_reaches_it() {
    for v4 in FAMILIES {
        let stage = Stage::closed_but(OUT);
        let (own, other, router) = (host(v4, A), peer(v4), stranger(v4));
        for (sent, unsent) in [
            (syn(((own, 40_000), (other, 80))), ack(((own, 40_001), (other, 80)))),
            (datagram((own, 5000), (other, 53)), datagram((own, 5000), (stranger(v4), 53))),
        ] {
            let quote = quoted(&sent, 8);
            assert_eq!(stage.receives(A, UPLINK, &error(router, own, &quote)), NO_RULE, "nothing was sent yet");
            assert_eq!(stage.sends(A, &sent), ALLOW);
            let before = stage.entry(&stage.key(A, None, &sent));
            for from in [router, other] {
                assert_eq!(stage.receives(A, UPLINK, &error(from, own, &quote)), ALLOW, "of {from}");
                assert_eq!(stage.receives(A, OTHER, &error(from, own, &quote)), ALLOW, "by any device");
            }
            assert_eq!(stage.entry(&stage.key(A, None, &sent)), before, "it does not touch the flow");
            let quote = quoted(&unsent, 8);
            assert_eq!(stage.receives(A, UPLINK, &error(router, own, &quote)), NO_RULE, "about another flow");
            let reversed = Frame { source: sent.destination, destination: sent.source, ..sent.clone() };
            assert_eq!(stage.receives(A, UPLINK, &error(router, own, &quoted(&reversed, 8))), NO_RULE, "turned round");
        }
        assert_eq!(stage.world.flow_count(), 2, "errors make no state");
    }
}

#[test]
fn d5_an_error_to_a_service_passes_with_the_flow_that_it_quotes_alone() {
    for v4 in FAMILIES {
        let mut stage = Stage::closed_but("");
        stage.world.judges_backends = true;
        let (own, to) = ((host(v4, A), 40_000), (service(v4), 53));
        let of_another = quoted(&datagram(to, (host(v4, B), 40_000)), 8);
        assert_eq!(stage.sends(A, &error(own.0, to.0, &of_another)), NO_RULE, "somebody else's connection");
        assert_eq!(stage.sends(A, &datagram(own, to)), ALLOW);
        let answer = datagram(to, own);
        assert_eq!(stage.receives(A, UPLINK, &answer), ALLOW);
        let quote = quoted(&answer, 8);
        let about_it = error(own.0, to.0, &quote);
        assert_eq!(stage.sends(A, &about_it), ALLOW);
        let switched = Frame { macs: [[2, 0, 0, 0, 0, 9], [2, 0, 0, 0, 0, 1]], ..about_it };
        assert_eq!(stage.sends(A, &switched), NO_RULE, "a bridge would take it past the judgement");
        assert_eq!(Stage::new(&[]).sends(A, &error(own.0, to.0, &of_another)), ALLOW, "nothing isolates it");
    }
}

#[test]
fn an_error_about_what_the_workload_received_leaves_it() {
    for v4 in FAMILIES {
        let stage = Stage::closed_but(IN);
        let (own, other) = (host(v4, A), peer(v4));
        let received = datagram((other, 5000), (own, 53));
        let quote = quoted(&received, 8);
        assert_eq!(stage.sends(A, &error(own, other, &quote)), NO_RULE, "nothing was received yet");
        assert_eq!(stage.receives(A, UPLINK, &received), ALLOW);
        assert_eq!(stage.sends(A, &error(own, other, &quote)), ALLOW);
        assert_eq!(stage.sends(A, &error(own, stranger(v4), &quote)), NO_RULE, "addressed elsewhere");
        let not_its_own = error(host(v4, B), other, &quote);
        assert_ne!(stage.sends(A, &not_its_own), ALLOW, "as somebody else");
    }
}

#[test]
fn an_error_about_an_echo_passes_with_it() {
    for v4 in FAMILIES {
        let (own, other) = (host(v4, A), peer(v4));
        let cidr = if v4 { "198.51.100.7/32" } else { "2001:db8::7/128" };
        let stage = Stage::closed_but(&format!("{{ to: [{{ cidr: \"{cidr}\" }}], ports: [icmp] }}"));
        let request = quoted(&echo(own, other, true, 7), 8);
        assert_eq!(stage.receives(A, UPLINK, &error(stranger(v4), own, &request)), NO_RULE);
        assert_eq!(stage.sends(A, &echo(own, other, true, 7)), ALLOW);
        assert_eq!(stage.receives(A, UPLINK, &error(stranger(v4), own, &request)), ALLOW);
        let reply = quoted(&echo(own, other, false, 7), 8);
        assert_eq!(stage.receives(A, UPLINK, &error(stranger(v4), own, &reply)), NO_RULE, "it did not reply");
    }
}

#[test]
fn an_error_is_judged_again_with_its_flow() {
    for v4 in FAMILIES {
        for (own_flow, rules) in [(true, OUT), (false, IN)] {
            let (own, other) = (host(v4, A), peer(v4));
            let mut stage = Stage::closed_but(rules);
            let ends = ((own, 40_000), (other, 80));
            let ends = if own_flow { ends } else { ((other, 40_000), (own, 80)) };
            let quote = quoted(&syn(ends), 8);
            let judge = |stage: &Stage| {
                if own_flow {
                    stage.receives(A, UPLINK, &error(stranger(v4), own, &quote))
                } else {
                    stage.sends(A, &error(own, other, &quote))
                }
            };
            let opened = if own_flow { stage.sends(A, &syn(ends)) } else { stage.receives(A, UPLINK, &syn(ends)) };
            assert_eq!(opened, ALLOW);
            assert_eq!(judge(&stage), ALLOW);
            stage.apply(&[("a", &but(rules))]);
            let key = stage.key(A, (!own_flow).then_some(UPLINK), &syn(ends));
            let before = stage.entry(&key);
            assert_eq!(judge(&stage), ALLOW, "another epoch, the same policy");
            assert_eq!(stage.entry(&key), before, "the flow is not renewed by it");
            stage.apply(&[("a", CLOSED)]);
            assert_eq!(judge(&stage), NO_RULE, "closed since");
        }
    }
}

#[test]
fn an_error_of_a_stale_flow_is_judged_by_the_peer_that_it_quotes_and_not_by_its_sender() {
    for v4 in FAMILIES {
        let (own, port) = (host(v4, A), |to: String| but(&format!("{{ to: [{to}], ports: [80/tcp] }}")));
        let only = |address: IpAddr| port(format!("{{ cidr: \"{address}/{}\" }}", if v4 { 32 } else { 128 }));
        let neighbour = port("{ workloads: { app: b } }".to_owned());
        // The image knows the address of one of the two, and tells it apart from the other.
        for (quoted_peer, sender, own_rule, sender_rule) in [
            (peer(v4), node(v4), only(peer(v4)), only(node(v4))),
            (host(v4, B), stranger(v4), neighbour.clone(), only(stranger(v4))),
            (peer(v4), stranger(v4), only(peer(v4)), only(stranger(v4))),
        ] {
            let mut stage = Stage::new(&[("a", &own_rule)]);
            let sent = syn(((own, 40_000), (quoted_peer, 80)));
            let error = error(sender, own, &quoted(&sent, 8)).bytes();
            let judge = |stage: &Stage| stage.world.receives(Ifindex(A), Ifindex(UPLINK), &error);
            assert_eq!(judge(&stage), NO_RULE, "nothing was sent yet");
            assert_eq!(stage.sends(A, &sent), ALLOW);
            stage.apply(&[("a", &own_rule)]);
            assert_eq!(judge(&stage), ALLOW, "{quoted_peer} is still allowed, whoever {sender} is");
            stage.apply(&[("a", &sender_rule)]);
            assert_eq!(judge(&stage), NO_RULE, "{quoted_peer} is closed since, though {sender} is allowed");
        }
    }
}

#[test]
fn an_error_about_the_nodes_flow_leaves_a_closed_workload() {
    for v4 in FAMILIES {
        let stage = Stage::new(&[("a", CLOSED)]);
        let received = datagram((node(v4), 5000), (host(v4, A), 53));
        assert_eq!(stage.receives(A, NODE, &received), ALLOW);
        let answer = quoted(&received, 8);
        assert_eq!(stage.sends(A, &error(host(v4, A), node(v4), &answer)), ALLOW);
        let unsent = quoted(&syn(((host(v4, A), 1), (peer(v4), 2))), 8);
        assert_eq!(stage.receives(A, NODE, &error(node(v4), host(v4, A), &unsent)), NO_RULE, "it has not sent that");
        let answer = datagram((host(v4, A), 53), (node(v4), 5000));
        assert_eq!(stage.receives(A, NODE, &error(node(v4), host(v4, A), &quoted(&answer, 8))), ALLOW, "its answer");
    }
}

/// Judged again, the sender would be the workload that shows its address, to which no block applies.
#[test]
fn an_error_about_a_live_flow_passes_without_being_judged_again() {
    for v4 in FAMILIES {
        let (own, owner) = (host(v4, A), peer(v4));
        let cidr = format!("{owner}/{}", if v4 { 32 } else { 128 });
        let rules = but(&format!("{{ from: [{{ cidr: \"{cidr}\" }}], ports: [53/udp] }}"));
        let stage = Stage::with_shown(&[("a", &rules)], &[owner]);
        let received = datagram((owner, 5000), (own, 53));
        assert_eq!(stage.receives(A, UPLINK, &received), ALLOW);
        assert_eq!(stage.sends(A, &error(own, owner, &quoted(&received, 8))), ALLOW);
    }
}

/// The peer that is quoted has a class of its own, and the router has another.
#[test]
fn an_error_is_judged_again_by_the_peer_that_it_quotes() {
    for v4 in FAMILIES {
        let mut stage = Stage::closed_but("{ to: [{ workloads: { app: b } }] }");
        let (own, other) = (host(v4, A), host(v4, B));
        let ends = ((own, 40_000), (other, 80));
        assert_eq!(stage.sends(A, &syn(ends)), ALLOW);
        let quote = quoted(&syn(ends), 8);
        let by_router = |stage: &Stage| stage.receives(A, UPLINK, &error(stranger(v4), own, &quote));
        assert_eq!(by_router(&stage), ALLOW);
        stage.apply(&[("a", &but("{ to: [{ workloads: { app: b } }] }"))]);
        assert_eq!(by_router(&stage), ALLOW, "another epoch: `b` is allowed, whoever says that it cannot be reached");
        let cidr = if v4 { "203.0.113.9/32" } else { "2001:db8:113::9/128" };
        stage.apply(&[("a", &but(&format!("{{ to: [{{ cidr: \"{cidr}\" }}] }}")))]);
        assert_eq!(by_router(&stage), NO_RULE, "and now the router is, but not `b`");
    }
}

#[test]
fn a_workload_speaks_of_its_own_flows_only() {
    for v4 in FAMILIES {
        let (own, outside, neighbour) = (host(v4, A), peer(v4), host(v4, B));
        let mut stage = Stage::closed_but("{ to: anywhere, ports: [80/tcp] }");
        for (to, speaks, why) in [(outside, false, "of a flow that goes elsewhere"), (neighbour, true, "of its own")] {
            let ends = ((own, 40_000), (to, 80));
            assert_eq!(stage.sends(A, &syn(ends)), ALLOW);
            let quote = quoted(&syn(ends), 8);
            let verdict = if speaks { ALLOW } else { NO_RULE };
            assert_eq!(stage.receives(A, B, &error(neighbour, own, &quote)), verdict, "{why}");
            assert_eq!(stage.receives(A, UPLINK, &error(stranger(v4), own, &quote)), ALLOW, "a router");
            stage.apply(&[("a", &but("{ to: anywhere, ports: [80/tcp] }"))]);
            assert_eq!(stage.receives(A, B, &error(neighbour, own, &quote)), verdict, "{why}, judged again");
        }
        // Policy may let it speak for all that.
        stage.apply(&[("a", &but("{ to: anywhere, ports: [80/tcp] }, { from: [{ workloads: { app: b } }] }"))]);
        let quote = quoted(&syn(((own, 40_000), (outside, 80))), 8);
        assert_eq!(stage.receives(A, B, &error(neighbour, own, &quote)), ALLOW);
    }
}

#[test]
fn an_error_carries_no_more_than_errors_do() {
    for (v4, most) in [(true, 576), (false, 1280)] {
        for (set, limit) in [(0, most), (200, 200), (4000, most)] {
            let mut stage = Stage::new(&[("a", &but(&format!("{OUT}, {IN}")))]);
            stage.world.error_bytes = set;
            let (own, other) = (host(v4, A), peer(v4));
            let (sent, got) = (syn(((own, 40_000), (other, 80))), datagram((other, 5000), (own, 53)));
            assert_eq!(stage.sends(A, &sent), ALLOW);
            assert_eq!(stage.receives(A, UPLINK, &got), ALLOW);
            let header = if v4 { 20 + 8 } else { 40 + 8 };
            let long = |frame: &Frame<'_>, length: usize| {
                let mut quote = quoted(frame, 8);
                quote.resize(length - header, 0x41);
                quote
            };
            for (length, verdict) in [(limit, ALLOW), (limit + 1, NO_RULE), (limit + 900, NO_RULE)] {
                let inwards = long(&sent, length);
                let verdict_of = stage.receives(A, UPLINK, &error(stranger(v4), own, &inwards));
                assert_eq!(verdict_of, verdict, "{length} bytes, set to {set}");
                let outwards = long(&got, length);
                assert_eq!(stage.sends(A, &error(own, other, &outwards)), verdict, "{length} bytes, set to {set}");
            }
        }
    }
}

#[test]
fn a_quote_that_is_no_whole_header_matches_nothing() {
    for v4 in FAMILIES {
        let stage = Stage::closed_but(OUT);
        let (own, other, router) = (host(v4, A), peer(v4), stranger(v4));
        let sent = syn(((own, 40_000), (other, 80)));
        assert_eq!(stage.sends(A, &sent), ALLOW);
        let header = if v4 { 20 } else { 40 };
        let whole = quoted(&sent, 8);
        let judge = |quote: &[u8]| stage.receives(A, UPLINK, &error(router, own, quote));
        assert_eq!(judge(&whole), ALLOW);
        for length in 0..whole.len() {
            assert_eq!(judge(&whole[..length]), NO_RULE, "{length} bytes of the quote");
        }
        let with = |at: usize, byte: u8| {
            let mut quote = whole.clone();
            quote[at] = byte;
            quote
        };
        assert_eq!(judge(&with(0, if v4 { 0x65 } else { 0x40 })), NO_RULE, "another version");
        if v4 {
            assert_eq!(judge(&with(0, 0x44)), NO_RULE, "a header of 16 bytes");
            assert_eq!(judge(&with(7, 1)), NO_RULE, "a later fragment has no ports");
            assert_eq!(judge(&with(6, 0x40)), ALLOW, "don't fragment");
            let options = Frame { options: &[1; 4], ..sent.clone() };
            assert_eq!(judge(&quoted(&options, 8)), ALLOW, "options before the ports");
            assert_eq!(judge(&quoted(&options, 8)[..28]), NO_RULE, "of which half the ports are left");
        } else {
            assert_eq!(judge(&with(6, 60)), NO_RULE, "extension headers");
        }
        assert_eq!(judge(&with(header - 1, whole[header - 1] ^ 1)), NO_RULE, "another peer");
    }
}

#[test]
fn a_quote_in_the_padding_matches_nothing() {
    for v4 in FAMILIES {
        let stage = Stage::closed_but(OUT);
        let sent = syn(((host(v4, A), 40_000), (peer(v4), 80)));
        assert_eq!(stage.sends(A, &sent), ALLOW);
        let quote = quoted(&sent, 8);
        for inside in 0..quote.len() {
            let mut frame = error(stranger(v4), host(v4, A), &quote).bytes();
            let (at, length) = if v4 { (16, 20 + 8 + inside) } else { (18, 8 + inside) };
            frame[at..at + 2].copy_from_slice(&(length as u16).to_be_bytes());
            assert_eq!(
                stage.world.receives(Ifindex(A), Ifindex(UPLINK), &frame),
                NO_RULE,
                "{inside} bytes of the quote are the packet's"
            );
        }
    }
}

#[test]
fn a_mapped_address_in_a_quote_is_not_that_of_the_other_family() {
    let stage = Stage::closed_but(OUT);
    assert_eq!(stage.sends(A, &syn(((host(true, A), 40_000), (peer(true), 80)))), ALLOW);
    let mapped = |address: IpAddr| match address {
        IpAddr::V4(v4) => IpAddr::V6(v4.to_ipv6_mapped()),
        v6 @ IpAddr::V6(_) => v6,
    };
    let quote = quoted(&syn(((mapped(host(true, A)), 40_000), (mapped(peer(true)), 80))), 8);
    assert_eq!(stage.receives(A, UPLINK, &error(stranger(false), host(false, A), &quote)), NO_RULE);
}

#[test]
fn a_quote_vouches_for_errors_only() {
    for (v4, kinds) in [(true, &[4, 5, 13, 10][..]), (false, &[0, 5, 100, 137])] {
        let stage = Stage::closed_but(OUT);
        let sent = syn(((host(v4, A), 40_000), (peer(v4), 80)));
        assert_eq!(stage.sends(A, &sent), ALLOW);
        let quote = quoted(&sent, 8);
        for kind in kinds {
            let transport = Transport::Icmp { kind: *kind, code: 0, rest: [0; 4] };
            let frame = Frame { payload: &quote, ..Frame::new(stranger(v4), host(v4, A), transport) };
            assert_eq!(stage.receives(A, UPLINK, &frame), NO_RULE, "type {kind}");
        }
        let errors: &[u8] = if v4 { &[3, 11, 12] } else { &[1, 2, 3, 4] };
        for kind in errors {
            let transport = Transport::Icmp { kind: *kind, code: 0, rest: [0; 4] };
            let frame = Frame { payload: &quote, ..Frame::new(stranger(v4), host(v4, A), transport) };
            assert_eq!(stage.receives(A, UPLINK, &frame), ALLOW, "type {kind}");
        }
    }
}

#[test]
fn an_error_keeps_to_the_guardrails() {
    for v4 in FAMILIES {
        let stage = Stage::closed_but(OUT);
        let sent = segment((host(v4, A), 40_000), (peer(v4), 80), tcp::SYN);
        assert_eq!(stage.sends(A, &sent), ALLOW);
        let quote = quoted(&sent, 8);
        assert_ne!(stage.receives(A, UPLINK, &error(host(v4, B), host(v4, A), &quote)), ALLOW, "as a neighbour");
        assert_ne!(stage.receives(A, UPLINK, &error(peer(v4), host(v4, B), &quote)), ALLOW, "flooded");
    }
}
