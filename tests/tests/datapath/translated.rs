//! Tests of which address a policy matches: with address translation (N16, D5), and with the parts that `except` leaves out
//! (N14).

use enforcer_common::verdict::Reason;

use enforcer_tests::packet::{Frame, Transport};

use crate::stage::*;

/// What the node publishes, and the port of the workload that it stands for.
const PUBLISHED: u16 = 80;
const SERVED: u16 = 8080;

fn only_to_port(port: u16) -> Stage {
    Stage::closed_but(&format!("{{ from: anywhere, ports: [{port}/tcp] }}"))
}

fn block(v4: bool, address: std::net::IpAddr) -> String {
    format!("{address}/{}", if v4 { 32 } else { 128 })
}

#[test]
fn n16_d5_a_published_port_is_judged_by_what_it_stands_for() {
    for v4 in FAMILIES {
        let (client, server) = ((peer(v4), 40_000), (host(v4, A), SERVED));
        let translated = syn((client, server));
        let stage = only_to_port(SERVED);
        assert_eq!(stage.receives(A, UPLINK, &translated), ALLOW, "the port after translation");
        assert_eq!(stage.sends(A, &ack((server, client))), ALLOW, "its answer, not translated back yet");
        assert_eq!(
            only_to_port(PUBLISHED).receives(A, UPLINK, &translated),
            NO_RULE,
            "the published port is no port of a"
        );

        // Whatever rule there is, a packet that was not translated is not a's.
        let before = syn((client, (node(v4), PUBLISHED)));
        for port in [PUBLISHED, SERVED] {
            assert_eq!(only_to_port(port).receives(A, UPLINK, &before), denied(Reason::NotAddressed));
        }
    }
}

#[test]
fn n16_d3_a_masqueraded_client_is_the_address_that_it_was_given() {
    for v4 in FAMILIES {
        let from = |address| {
            Stage::closed_but(&format!("{{ from: [{{ cidr: \"{}\" }}], ports: [{SERVED}/tcp] }}", block(v4, address)))
        };
        let kept = syn(((peer(v4), 40_000), (host(v4, A), SERVED)));
        let masqueraded = syn(((node(v4), 40_000), (host(v4, A), SERVED)));
        for (stage, of_kept, of_masqueraded) in [(from(peer(v4)), ALLOW, NO_RULE), (from(node(v4)), NO_RULE, ALLOW)] {
            assert_eq!(stage.receives(A, OTHER, &kept), of_kept);
            assert_eq!(stage.receives(A, OTHER, &masqueraded), of_masqueraded);
        }
    }
}

#[test]
fn d5_a_service_passes_the_veth_while_somebody_judges_its_backend() {
    for v4 in FAMILIES {
        let (own, to) = ((host(v4, A), 40_000), (service(v4), PUBLISHED));
        let (asks, answer) = (syn((own, to)), syn_ack((to, own)));
        for rules in [String::new(), format!("{{ to: [{{ cidr: \"{}\" }}], ports: [80/tcp] }}", block(v4, service(v4)))]
        {
            let mut stage = Stage::closed_but(&rules);
            assert_eq!(stage.sends(A, &asks), NO_RULE, "nobody judges it later, and no block holds a Service");
            stage.world.judges_backends = true;
            assert_eq!(stage.sends(A, &asks), ALLOW);
            assert_eq!(
                stage.receives(A, OTHER, &answer),
                ALLOW,
                "its answer comes back with the address of the Service"
            );
            assert_eq!(stage.receives(A, OTHER, &syn((to, own))), NO_RULE, "from a Service comes nobody");
        }
        let mut stage = Stage::new(&[("r", CLOSED)]);
        stage.world.judges_backends = true;
        assert_eq!(stage.sends(R, &syn(((host(v4, R), 40_000), to))), ALLOW);
        let of_another = syn(((peer(v4), 40_000), to));
        assert_eq!(stage.sends(R, &of_another), NO_RULE, "by that address nobody would find its sender");
        assert_eq!(Stage::new(&[]).sends(A, &asks), ALLOW, "nothing isolates it");
    }
}

#[test]
fn d5_what_a_bridge_switches_past_the_node_is_not_judged_later() {
    let elsewhere = |frame: &Frame<'static>| Frame { macs: [[2, 0, 0, 0, 0, 9], [2, 0, 0, 0, 0, 1]], ..frame.clone() };
    for v4 in FAMILIES {
        let (own, to) = ((host(v4, A), 40_000), (service(v4), PUBLISHED));
        for (opens, answers, follows) in [
            (syn((own, to)), syn_ack((to, own)), data(own, to)),
            (datagram(own, to), datagram(to, own), datagram(own, to)),
            (echo(own.0, to.0, true, 7), echo(to.0, own.0, false, 7), echo(own.0, to.0, true, 7)),
        ] {
            let mut stage = Stage::closed_but("");
            stage.world.judges_backends = true;
            assert_eq!(stage.sends(A, &elsewhere(&opens)), NO_RULE);
            assert_eq!(stage.sends(A, &opens), ALLOW);
            let key = stage.key(A, None, &opens);
            assert!(stage.entry(&key).unwrap().behind);
            assert_eq!(stage.sends(A, &elsewhere(&opens)), NO_RULE, "the flow does not vouch for it");
            // Until the flow is established, and after that.
            for _ in 0..3 {
                assert_eq!(stage.receives(A, OTHER, &answers), ALLOW);
                stage.world.tick += 1;
                assert_eq!(stage.sends(A, &elsewhere(&follows)), NO_RULE);
                assert_eq!(stage.sends(A, &follows), ALLOW);
                assert!(stage.entry(&key).unwrap().behind, "no packet takes it off");
            }
            stage.world.judges_backends = false;
            assert_eq!(stage.sends(A, &follows), NO_RULE, "nobody judges it later any more");
        }
    }
}

#[test]
fn d5_no_other_role_lets_a_frame_for_somebody_else_pass() {
    let elsewhere = |frame: &Frame<'static>| Frame { macs: [[2, 0, 0, 0, 0, 9], [2, 0, 0, 0, 0, 1]], ..frame.clone() };
    for v4 in FAMILIES {
        let (own, to) = ((host(v4, A), PUBLISHED), (service(v4), 40_000));
        for begins in [ack((own, to)), syn_ack((own, to))] {
            // Whoever calls from the address of the Service would be let in.
            let mut stage = Stage::closed_but("{ from: anywhere, ports: [80/tcp] }");
            stage.world.judges_backends = true;
            assert_eq!(stage.sends(A, &begins), ALLOW, "for the node");
            assert!(stage.entry(&stage.key(A, None, &begins)).unwrap().behind);
            assert_eq!(stage.sends(A, &elsewhere(&ack((own, to)))), NO_RULE);
        }
        // A backend that is the node answers late, when the flow has gone.
        let mut stage = Stage::closed_but("");
        stage.world.judges_backends = true;
        let answer = datagram(to, own);
        assert_eq!(stage.receives(A, NODE, &answer), ALLOW, "D3");
        let asks = datagram(own, to);
        assert!(stage.entry(&stage.key(A, None, &asks)).unwrap().behind);
        assert_eq!(stage.sends(A, &elsewhere(&asks)), NO_RULE);
        let quote = answer.bytes()[14..].to_vec();
        let message = Transport::Icmp { kind: if v4 { 3 } else { 1 }, code: 1, rest: [0; 4] };
        let error = Frame { payload: &quote, ..Frame::new(own.0, to.0, message) };
        assert_eq!(stage.sends(A, &error), ALLOW);
        let switched = Frame { macs: [[2, 0, 0, 0, 0, 9], [2, 0, 0, 0, 0, 1]], ..error };
        assert_eq!(stage.sends(A, &switched), NO_RULE, "an error about it neither");
        assert_eq!(stage.sends(A, &asks), ALLOW);
    }
}

#[test]
fn d5_nothing_leads_a_message_that_is_no_echo_to_a_backend() {
    for v4 in FAMILIES {
        let mut stage = Stage::closed_but("");
        stage.world.judges_backends = true;
        // Connection tracking takes some of these for errors, and so for packets of the connection that they quote.
        let kinds: &[u8] = if v4 { &[4, 5, 13] } else { &[0, 5, 100, 127, 139] };
        for kind in kinds {
            let message = Transport::Icmp { kind: *kind, code: 0, rest: [0; 4] };
            let frame = Frame { payload: &[0; 64], ..Frame::new(host(v4, A), service(v4), message) };
            assert_eq!(stage.sends(A, &frame), NO_RULE, "type {kind}");
            assert_eq!(Stage::new(&[]).sends(A, &frame), ALLOW, "nothing isolates it");
        }
    }
}

#[test]
fn d5_who_is_not_isolated_sends_to_a_service_as_to_anybody() {
    for v4 in FAMILIES {
        let (own, to) = ((host(v4, A), 40_000), (service(v4), PUBLISHED));
        let elsewhere = Frame { macs: [[2, 0, 0, 0, 0, 9], [2, 0, 0, 0, 0, 1]], ..syn((own, to)) };
        let mut stage = Stage::new(&[("a", INGRESS_CLOSED)]);
        assert_eq!(stage.sends(A, &elsewhere), ALLOW);
        assert!(!stage.entry(&stage.key(A, None, &elsewhere)).unwrap().behind);
        stage.world.judges_backends = true;
        stage.apply(&[("a", CLOSED)]);
        assert_eq!(stage.sends(A, &ack((own, to))), ALLOW, "it goes on, and is judged later from now on");
        assert!(stage.entry(&stage.key(A, None, &elsewhere)).unwrap().behind);
        stage.apply(&[("a", INGRESS_CLOSED)]);
        assert_eq!(stage.sends(A, &ack((own, to))), ALLOW);
        assert!(!stage.entry(&stage.key(A, None, &elsewhere)).unwrap().behind);
    }
}

#[test]
fn d5_a_host_outside_at_the_address_of_a_service_opens_connections_as_anybody() {
    for v4 in FAMILIES {
        let (own, from) = ((host(v4, A), SERVED), (service(v4), 40_000));
        let mut stage = Stage::closed_but(&format!("{{ from: anywhere, ports: [{SERVED}/tcp] }}"));
        stage.world.judges_backends = true;
        let opens = syn((from, own));
        assert_eq!(stage.receives(A, UPLINK, &opens), ALLOW);
        let answer = Frame { macs: [[2, 0, 0, 0, 0, 9], [2, 0, 0, 0, 0, 1]], ..syn_ack((own, from)) };
        assert_eq!(stage.sends(A, &answer), ALLOW, "an answer needs nobody's judgement");
        assert!(!stage.entry(&stage.key(A, Some(UPLINK), &opens)).unwrap().behind);
    }
}

#[test]
fn d5_a_service_that_claims_an_address_takes_it_from_nobody() {
    for v4 in FAMILIES {
        let mut stage = Stage::closed_but("");
        stage.world.judges_backends = true;
        for claimed in [host(v4, B), node(v4)] {
            assert_eq!(stage.sends(A, &syn(((host(v4, A), 40_000), (claimed, PUBLISHED)))), NO_RULE);
        }
    }
}

#[test]
fn n14_what_one_item_leaves_out_another_may_allow() {
    for v4 in FAMILIES {
        let all = if v4 { "0.0.0.0/0" } else { "::/0" };
        let without = format!("{{ cidr: \"{all}\", except: [\"{}\"] }}", block(v4, peer(v4)));
        let with = format!("{{ cidr: \"{}\" }}", block(v4, peer(v4)));
        let rule = |items: &str, port: u16| format!("{{ from: [{items}], ports: [{port}/tcp] }}");
        let asks =
            |stage: &Stage, source, port| stage.receives(A, UPLINK, &syn(((source, 40_000), (host(v4, A), port))));

        let stage = Stage::closed_but(&rule(&without, SERVED));
        assert_eq!(asks(&stage, peer(v4), SERVED), NO_RULE, "left out");
        assert_eq!(asks(&stage, stranger(v4), SERVED), ALLOW);
        let stage = Stage::closed_but(&rule(&format!("{without}, {with}"), SERVED));
        assert_eq!(asks(&stage, peer(v4), SERVED), ALLOW, "allowed by another item");
        let stage = Stage::closed_but(&format!("{}, {}", rule(&without, SERVED), rule(&with, PUBLISHED)));
        assert_eq!(asks(&stage, peer(v4), PUBLISHED), ALLOW, "allowed by another rule");
        assert_eq!(asks(&stage, peer(v4), SERVED), NO_RULE, "at its port alone");
        let two = [("a", but(&rule(&without, SERVED))), ("a", but(&rule(&with, SERVED)))];
        let stage = Stage::new(&[(two[0].0, &two[0].1), (two[1].0, &two[1].1)]);
        assert_eq!(asks(&stage, peer(v4), SERVED), ALLOW, "allowed by another policy");
    }
}
