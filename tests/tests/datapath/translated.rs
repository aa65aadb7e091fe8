//! Tests of which address a policy matches: with address translation (N16, D5), and with the parts that `except` leaves out
//! (N14).

use enforcer_common::verdict::Reason;

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
