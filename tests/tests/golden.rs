//! T0: compiles every example policy, and judges every case beside it in ordinary memory.
//!
//! Input: `policies/NAME.yaml` with its inventory and cases. The image as text is compared with a snapshot. The datapath on
//! real frames, the resolved policy and `enforcer explain` are compared with each case.

use std::process::ExitCode;

use enforcer::cli::explain::{self, Asked, Expected};
use enforcer::cli::in_force;
use enforcer::compile::{compile, dump};
use enforcer::policy::model::Transport as Protocol;
use enforcer::resolve::{ResolvedPolicy, Service};
use enforcer_common::id::Direction;
use enforcer_common::verdict::Verdict;
use enforcer_tests::cases::{Case, Expect, Port, examples};
use enforcer_tests::packet::Frame;
use enforcer_tests::planned::{answer, end, name, resolved, transport};
use enforcer_tests::world::{MemoryWorld, Unknown};

#[test]
fn every_example_compiles_to_its_snapshot() {
    for example in examples().unwrap() {
        let resolved = resolved(&example);
        let mut text = String::new();
        for (key, workload) in &resolved.snapshot().local {
            text.push_str(&format!("{}: {}\n", key.0, name(workload)));
        }
        text.push('\n');
        text.push_str(&dump(&compile(&resolved).unwrap()));
        insta::assert_snapshot!(example.name.as_str(), text);
    }
}

#[test]
fn every_case_comes_out_as_it_says() {
    let (mut allowed, mut denied) = (0, 0);
    for example in examples().unwrap() {
        let resolved = resolved(&example);
        let snapshot = resolved.snapshot();
        for case in &example.cases {
            for v4 in [true, false] {
                // A world for each case: what one leaves behind must not carry another.
                let mut world = MemoryWorld::new([]);
                world.install(snapshot, compile(&resolved).unwrap(), Unknown::Strict);
                let what = format!("{}, {}: {}", example.name, if v4 { "IPv4" } else { "IPv6" }, case.why);
                check_case(&world, &resolved, case, v4, &what);
            }
            match case.expect {
                Expect::Allow => allowed += 1,
                Expect::Deny { .. } => denied += 1,
            }
        }
    }
    assert!(allowed >= 20 && denied >= 20, "{allowed} allowed and {denied} denied cases are too few to mean much");
}

/// Sends the case's first packet through the sender's egress and the receiver's ingress, and the answer back.
fn check_case(world: &MemoryWorld, resolved: &ResolvedPolicy, case: &Case, v4: bool, what: &str) {
    let (from, to) = (end(resolved, &case.from, v4), end(resolved, &case.to, v4));
    let expected = match case.expect {
        Expect::Allow => (Verdict::Allow, None),
        Expect::Deny { reason, at } => (Verdict::Deny(reason), Some(at)),
    };
    let frame = Frame::new(from.address, to.address, transport(case.port, v4)).bytes();
    let mut verdict = (Verdict::Allow, None);
    if let Some((_, ifindex)) = from.local {
        verdict = at(world.sends(ifindex, &frame), Direction::Egress);
    }
    if let Some((_, ifindex)) = to.local
        && verdict.0 == Verdict::Allow
    {
        verdict = at(world.receives(ifindex, from.device(), &frame), Direction::Ingress);
    }
    assert_eq!(verdict, expected, "{what}: the datapath");

    if case.expect == Expect::Allow {
        let answer = Frame::new(to.address, from.address, answer(case.port, v4)).bytes();
        let sent = to.local.map_or(Verdict::Allow, |(_, ifindex)| world.sends(ifindex, &answer));
        let received = from.local.map_or(Verdict::Allow, |(_, ifindex)| world.receives(ifindex, to.device(), &answer));
        assert_eq!((sent, received), (Verdict::Allow, Verdict::Allow), "{what}: its answer");
    }

    let mut decided = (Verdict::Allow, None);
    for (own, peer, direction) in [(&from, &to, Direction::Egress), (&to, &from, Direction::Ingress)] {
        if let Some((key, _)) = own.local
            && decided.0 == Verdict::Allow
        {
            decided = at(resolved.decide(key, direction, peer.address, service(case.port, v4)).verdict, direction);
        }
    }
    assert_eq!(decided, expected, "{what}: the resolved policy");
}

fn at(verdict: Verdict, direction: Direction) -> (Verdict, Option<Direction>) {
    (verdict, (verdict != Verdict::Allow).then_some(direction))
}

#[test]
fn explain_says_what_each_case_says() {
    for example in examples().unwrap() {
        let resolved = resolved(&example);
        for case in &example.cases {
            for v4 in [true, false] {
                let (from, to) = (end(&resolved, &case.from, v4), end(&resolved, &case.to, v4));
                let right = match case.expect {
                    Expect::Allow => Expected::Allow,
                    Expect::Deny { .. } => Expected::Deny,
                };
                let wrong = if right == Expected::Allow { Expected::Deny } else { Expected::Allow };
                for (expect, code) in [(right, ExitCode::SUCCESS), (wrong, ExitCode::FAILURE)] {
                    let args = explain::Args {
                        from: from.party.parse().unwrap(),
                        to: to.party.parse().unwrap(),
                        port: asked(case.port),
                        policies: Some(example.policy.clone()),
                        inventory: Some(example.inventory.clone()),
                        expect: Some(expect),
                        place: in_force::Place { pin_dir: "/nowhere".into(), config: None },
                    };
                    let exit = explain::run(&args).unwrap();
                    assert_eq!(exit, code, "{}: {} ({expect:?})", example.name, case.why);
                }
            }
        }
    }
}

fn service(port: Port, v4: bool) -> Service {
    match port {
        Port::Tcp(number) => Service::Transport(Protocol::Tcp, number),
        Port::Udp(number) => Service::Transport(Protocol::Udp, number),
        Port::Sctp(number) => Service::Transport(Protocol::Sctp, number),
        Port::Icmp if v4 => Service::Icmp(8),
        Port::Icmp => Service::Icmpv6(128),
    }
}

fn asked(port: Port) -> Asked {
    match port {
        Port::Tcp(number) => Asked::Port(Protocol::Tcp, number),
        Port::Udp(number) => Asked::Port(Protocol::Udp, number),
        Port::Sctp(number) => Asked::Port(Protocol::Sctp, number),
        Port::Icmp => Asked::Echo,
    }
}
