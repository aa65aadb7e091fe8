//! The cases of every example policy as real traffic between namespaces: on a bridge and routed, over IPv4 and IPv6, while
//! the daemon runs and after it was killed. The frames that arrive at the victim give the verdict. SCTP is sent as raw INIT
//! packets, because not every kernel has SCTP sockets.

#![allow(clippy::unwrap_used, reason = "a failed step ends the test")]

use std::fs;
use std::net::IpAddr;

use enforcer::lab::{Layout, Namespace};
use enforcer_common::id::Direction;
use enforcer_tests::cases::{Case, Example, Expect, Place, Port, example, examples};
use enforcer_tests::stage::Stage;
use enforcer_tests::stage::log::Record;
use enforcer_tests::traffic::{Attempt, Ground, Outcome, Tap};

#[test]
fn shop_bridged_with_raw_sctp() {
    enforce("shop", Layout::Bridged);
}

#[test]
fn shop_routed_with_raw_sctp() {
    enforce("shop", Layout::Routed);
}

#[test]
fn guestbook_bridged_with_raw_sctp() {
    enforce("guestbook", Layout::Bridged);
}

#[test]
fn guestbook_routed_with_raw_sctp() {
    enforce("guestbook", Layout::Routed);
}

#[test]
fn lockdown_bridged_with_raw_sctp() {
    enforce("lockdown", Layout::Bridged);
}

#[test]
fn lockdown_routed_with_raw_sctp() {
    enforce("lockdown", Layout::Routed);
}

/// D14.
#[test]
fn sidecar_bridged() {
    enforce("sidecar", Layout::Bridged);
}

#[test]
fn sidecar_routed() {
    enforce("sidecar", Layout::Routed);
}

#[test]
fn every_example_is_run() {
    let names: Vec<String> = examples().unwrap().into_iter().map(|example| example.name).collect();
    assert_eq!(names, ["guestbook", "lockdown", "shop", "sidecar"], "each needs its two tests here");
}

/// Which policies isolate a workload in a direction: what a denial has to name, sorted.
fn isolating(example: &str, workload: &str, direction: Direction) -> &'static [&'static str] {
    match (example, workload, direction) {
        ("shop", "shop/web", _) => &["shop/web"],
        ("shop", "shop/api", _) => &["shop/api"],
        ("shop", "shop/db", _) => &["shop/db"],
        ("guestbook", "guestbook/redis" | "guestbook/memo", Direction::Ingress) => &["guestbook/backend"],
        ("guestbook", "guestbook/front", Direction::Egress) => &["guestbook/frontend-egress"],
        ("lockdown", "vault/gate", _) => &["vault/default-deny", "vault/outside", "vault/peers"],
        ("lockdown", "vault/key" | "vault/spare", _) => &["vault/default-deny", "vault/peers"],
        ("sidecar", "media/tunnel", Direction::Ingress) => &["media/indexer"],
        ("sidecar", "media/store", Direction::Ingress) => &["media/store"],
        ("sidecar", "media/whole", Direction::Ingress) => &["media/trusted"],
        _ => panic!("nothing isolates {workload} for {direction:?} in {example}"),
    }
}

fn enforce(name: &str, layout: Layout) {
    let example = example(name).unwrap();
    let mut stage = Stage::of(layout, &example);
    for place in example.cases.iter().flat_map(|case| [&case.from, &case.to]) {
        if let Place::Outside(addresses) = place {
            for address in addresses {
                // An address that several cases use is there already.
                let _ = stage.lab.add_outside(*address);
            }
        }
    }
    let tries: Vec<(&Case, bool)> = example.cases.iter().flat_map(|case| [(case, true), (case, false)]).collect();
    check(&stage, &tries, "before enforcement", |_| true);
    stage.start();
    check(&stage, &tries, "with the daemon alive", |case| case.expect == Expect::Allow);
    check_log(&stage, &example, &tries, 1);
    stage.kill();
    check(&stage, &tries, "with the daemon dead", |case| case.expect == Expect::Allow);
    stage.start();
    check_log(&stage, &example, &tries, 2);
    check(&stage, &tries, "with a new daemon", |case| case.expect == Expect::Allow);
    check_log(&stage, &example, &tries, 3);
    stage.until("no trouble", || {
        let (status, code) = stage.status();
        (code, &status["troubles"]) == (0, &serde_json::json!([]))
    });
}

/// Tries every case in both families; what is hoped for arrives and is answered, all else does not come to the victim.
fn check(stage: &Stage, tries: &[(&Case, bool)], when: &str, hoped: impl Fn(&Case) -> bool) {
    let attempts: Vec<Attempt<'_>> = tries
        .iter()
        .map(|(case, v4)| Attempt {
            from: namespace(stage, &case.from),
            source: address(stage, &case.from, *v4),
            to: namespace(stage, &case.to),
            destination: address(stage, &case.to, *v4),
            port: case.port,
            hoped: hoped(case),
            evidence: Tap::Wire,
        })
        .collect();
    let outcomes = Ground::prepare(&attempts).run(&attempts);
    let wrong: Vec<String> = tries
        .iter()
        .zip(attempts.iter().zip(outcomes))
        .filter(|(_, (attempt, outcome))| {
            if attempt.hoped {
                outcome.arrived == 0 || !outcome.answered
            } else {
                // An INIT has no answer to wait for.
                *outcome != Outcome { arrived: 0, answered: matches!(attempt.port, Port::Sctp(_)) }
            }
        })
        .map(|((case, v4), (attempt, outcome))| {
            let family = if *v4 { "IPv4" } else { "IPv6" };
            format!("{} ({family}): hoped for {}, {outcome:?}", case.why, attempt.hoped)
        })
        .collect();
    assert!(wrong.is_empty(), "{when}:\n  {}", wrong.join("\n  "));
}

fn namespace<'a>(stage: &'a Stage, place: &Place) -> &'a Namespace {
    match place {
        Place::Workload(name) => stage.at(name),
        Place::Outside(_) => stage.lab.outside(),
    }
}

fn address(stage: &Stage, place: &Place, v4: bool) -> IpAddr {
    match place {
        Place::Workload(name) => stage.address(name, v4),
        Place::Outside(addresses) => *addresses.iter().find(|address| address.is_ipv4() == v4).unwrap(),
    }
}

/// After so many rounds: every denied packet is in the log with its reason, direction, names and lines, and no allowed one.
fn check_log(stage: &Stage, example: &Example, tries: &[(&Case, bool)], rounds: u64) {
    let text = fs::read_to_string(&example.policy).unwrap();
    let records_of = |log: &[Record], case: &Case, v4: bool| -> Vec<Record> {
        let (source, destination) = (address(stage, &case.from, v4), address(stage, &case.to, v4));
        let of_flow = |record: &&Record| {
            record.source == Some(source) && record.destination == Some(destination) && record.port == Some(case.port)
        };
        log.iter().filter(of_flow).cloned().collect()
    };
    let packets = |records: &[Record]| records.iter().map(|record| record.count).sum::<u64>();
    stage.until("every denial in the log", || {
        let log = stage.log();
        tries.iter().all(|(case, v4)| case.expect == Expect::Allow || packets(&records_of(&log, case, *v4)) >= rounds)
    });
    let log = stage.log();
    for (case, v4) in tries {
        let records = records_of(&log, case, *v4);
        let Expect::Deny { reason, at } = case.expect else {
            assert!(records.is_empty(), "{}: allowed, and in the log: {records:#?}", case.why);
            continue;
        };
        let (judged, direction) = match at {
            Direction::Egress => (&case.from, "EGRESS"),
            Direction::Ingress => (&case.to, "INGRESS"),
        };
        let Place::Workload(judged) = judged else { panic!("{}: nobody judges at that end", case.why) };
        let policies = isolating(&example.name, judged, at);
        let lines: Vec<String> = policies.iter().map(|policy| named_at(&example.name, &text, policy)).collect();
        // A SYN may have been sent again on a slow machine; nothing else is.
        let exact = !matches!(case.port, Port::Tcp(_));
        assert!(!exact || packets(&records) == rounds, "{}: {rounds} sent, logged: {records:#?}", case.why);
        for record in &records {
            assert_eq!(record.reason, reason.name(), "{}: {record:#?}", case.why);
            assert_eq!(record.direction, direction, "{}: {record:#?}", case.why);
            assert_eq!([&record.from, &record.to], [&case.from, &case.to].map(shown), "{}: {record:#?}", case.why);
            assert_eq!(record.denied_by, policies, "{}: {record:#?}", case.why);
            assert_eq!(record.policies, lines, "{}: {record:#?}", case.why);
        }
    }
}

/// How the log names a place.
fn shown(place: &Place) -> &String {
    static NOBODY: String = String::new();
    match place {
        Place::Workload(name) => name,
        Place::Outside(_) => &NOBODY,
    }
}

/// `namespace/name file:line` of a policy, from the text: the line of `name:` below `metadata:`.
fn named_at(example: &str, text: &str, policy: &str) -> String {
    let name = policy.split_once('/').unwrap().1;
    let lines: Vec<&str> = text.lines().collect();
    let found: Vec<usize> = (1..lines.len())
        .filter(|at| lines[at - 1].trim() == "metadata:" && lines[*at].trim() == format!("name: {name}"))
        .collect();
    let [at] = found[..] else { panic!("{policy} is there {} times", found.len()) };
    format!("{policy} {example}.yaml:{}", at + 1)
}
