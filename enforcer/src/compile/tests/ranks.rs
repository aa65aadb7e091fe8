//! Compares images with a test of each single rule, for rules of both actions and of several priorities (C2, D2).

use enforcer_common::verdict::Reason;
use proptest::prelude::*;

use super::*;
use crate::resolve::ResolvedPolicy;

const DENIED: Verdict = Verdict::Deny(Reason::RuleDeny);
const CLOSED: Verdict = Verdict::Deny(Reason::NoRule);
/// The numbers of priorities that policies have here.
const PRIORITIES: [u16; 4] = [0, 1, 999, 1000];
/// Peers that nest, and one that lies apart.
const BLOCKS: [&str; 4] = ["10.0.0.0/8", "10.1.0.0/16", "10.1.1.0/24", "192.0.2.0/24"];
const PEERS: [&str; 6] = ["10.9.0.1", "10.1.9.1", "10.1.1.7", "192.0.2.1", "203.0.113.1", "2001:db8::1"];

/// Whether it denies, whom, and the first of two TCP ports. Beyond the last block stand all workloads, then everybody.
type Said = (bool, usize, u16);
/// Place of the priority, and the rules.
type Stated = (usize, Vec<Said>);

/// As declared, but for workload selectors: `10.1.1.7` is the one peer that they see.
fn matches(said: &Said, peer: IpAddr, port: u16) -> bool {
    let (_, whom, first) = said;
    let named = match BLOCKS.get(*whom) {
        Some(block) => block.parse::<IpNetwork>().unwrap().contains(peer),
        None if *whom == BLOCKS.len() => peer == PEERS[2].parse::<IpAddr>().unwrap(),
        None => true,
    };
    named && (*first..=*first + 1).contains(&port)
}

fn declared((denies, whom, first): &Said) -> Rule {
    let peers = match BLOCKS.get(*whom) {
        Some(block) => Peers::Only(vec![cidr(block, &[])]),
        None if *whom == BLOCKS.len() => Peers::Only(vec![everyone()]),
        None => Peers::Any,
    };
    let action = if *denies { Action::Deny } else { Action::Allow };
    Rule { action, ..rule(peers, tcp(*first, *first + 1)) }
}

fn policies(stated: &[Stated]) -> Vec<Policy> {
    let policy = |(place, (priority, said)): (usize, &Stated)| Policy {
        priority: Priority::new(PRIORITIES[*priority]).unwrap(),
        ..policy(&format!("p{place}"), said.iter().map(declared).collect(), Vec::new())
    };
    stated.iter().enumerate().map(policy).collect()
}

fn resolved(policies: Vec<Policy>) -> ResolvedPolicy {
    let mut snapshot = snapshot();
    let addresses = BTreeSet::from([PEERS[2].parse().unwrap()]);
    snapshot.remote = vec![Arc::new(RemoteWorkload { identity: identity("shop", "far"), addresses })];
    resolve(Arc::new(PolicySet::from_iter(policies)), Arc::new(snapshot))
}

/// What the tables say; the reasons' evaluator must say the same, and name a rule that says it.
fn verdict(resolved: &ResolvedPolicy, image: &Image, peer: IpAddr, port: u16) -> Verdict {
    let address = Address::from(peer);
    let row = image.row(WEB, Direction::Ingress);
    let verdict = decide(image, row, &address, image.address(&address), PortKey::tcp(port));
    let decision = resolved.decide(WEB, Direction::Ingress, peer, Service::Transport(Transport::Tcp, port));
    assert_eq!(decision.verdict, verdict, "{peer} {port}");
    let said = match decision.by {
        DecidedBy::Rule(at) => resolved.policies().rule(at).map(|rule| rule.action),
        DecidedBy::Isolated { .. } => None,
        by @ (DecidedBy::NotIsolated | DecidedBy::Itself) => panic!("{by:?}"),
    };
    let expected = match said {
        Some(Action::Allow) => Verdict::Allow,
        Some(Action::Deny) => DENIED,
        None => CLOSED,
    };
    assert_eq!(verdict, expected, "{peer} {port}");
    verdict
}

/// All rules that match, one by one.
fn reckoned(stated: &[Stated], peer: IpAddr, port: u16) -> Verdict {
    let rules = stated.iter().flat_map(|(priority, said)| said.iter().map(move |said| (*priority, said)));
    let matching = rules.filter(|(_, said)| matches(said, peer, port));
    let mut best: Option<(usize, bool)> = None;
    for (priority, (denies, _, _)) in matching {
        if best.is_none_or(|(most, denied)| priority < most || (priority == most && *denies && !denied)) {
            best = Some((priority, *denies));
        }
    }
    match best {
        None => CLOSED,
        Some((_, true)) => DENIED,
        Some((_, false)) => Verdict::Allow,
    }
}

proptest! {
    #[test]
    fn the_highest_rank_decides_in_whatever_order(
        stated in prop::collection::vec(
            (0..PRIORITIES.len(), prop::collection::vec((any::<bool>(), 0..BLOCKS.len() + 2, 1_u16..5), 0..5)),
            1..7,
        ),
    ) {
        let resolved_in_order = resolved(policies(&stated));
        let image = compile(&resolved_in_order).unwrap();
        for peer in PEERS {
            let peer = peer.parse().unwrap();
            for port in 1..=6 {
                let found = verdict(&resolved_in_order, &image, peer, port);
                prop_assert_eq!(found, reckoned(&stated, peer, port), "{} {}", peer, port);
            }
        }
        let mut turned = stated;
        turned.reverse();
        for (_, said) in &mut turned {
            said.reverse();
        }
        prop_assert_eq!(compile(&resolved(policies(&turned))).unwrap(), image);
    }
}

#[test]
fn deny_stands_before_allow() {
    let (allow, deny) = ((false, 0, 80), (true, 2, 80));
    for (stated, why) in [
        (vec![(0, vec![allow, deny])], "behind it"),
        (vec![(0, vec![deny, allow])], "before it"),
        (vec![(0, vec![allow]), (0, vec![deny])], "in a later policy"),
        (vec![(0, vec![deny]), (0, vec![allow])], "in an earlier policy"),
    ] {
        let resolved = resolved(policies(&stated));
        let image = compile(&resolved).unwrap();
        let of = |peer: &str, port| verdict(&resolved, &image, peer.parse().unwrap(), port);
        assert_eq!(of("10.1.1.7", 80), DENIED, "{why}");
        assert_eq!(of("10.1.9.1", 80), Verdict::Allow, "{why}: another peer");
        assert_eq!(of("10.1.1.7", 82), CLOSED, "{why}: another port");
        assert_eq!(image.sizes.vectors, 3, "{why}");
    }
}

#[test]
fn a_smaller_number_stands_before_a_denial() {
    for (of_allow, of_deny, expected) in
        [(0, 1, Verdict::Allow), (2, 3, Verdict::Allow), (1, 0, DENIED), (3, 2, DENIED)]
    {
        let resolved = resolved(policies(&[(of_deny, vec![(true, 5, 80)]), (of_allow, vec![(false, 5, 80)])]));
        let image = compile(&resolved).unwrap();
        assert_eq!(verdict(&resolved, &image, "192.0.2.1".parse().unwrap(), 80), expected, "{of_allow} {of_deny}");
    }
}

#[test]
fn rows_are_shared_by_what_they_say() {
    // The same peers and ports, but the other action: neither row nor cell is the same.
    let rows = |denies: bool| {
        let other = Policy { namespace: "pay".to_owned(), ..policies(&[(0, vec![(denies, 0, 80)])]).remove(0) };
        let mut snapshot = snapshot();
        snapshot.local.insert(WorkloadKey(2), local(Some(identity("pay", "db")), &["10.0.0.2"]));
        let mut both = policies(&[(0, vec![(false, 0, 80)])]);
        both.push(other);
        image_of(both, snapshot).sizes.rows
    };
    assert_eq!((rows(false), rows(true)), (1, 2));
}
