//! Tests of the blocks that hold an address which a workload merely shows (D11): those that deny, and none that allows.

use super::*;
use crate::resolve::ResolvedPolicy;

const SHOWN: &str = "10.0.0.9";
const OTHER: &str = "10.0.0.8";

/// A workload `api` that shows an address, and these rules about it.
fn resolved(rules: Vec<Rule>, egress: Vec<Rule>) -> ResolvedPolicy {
    let mut snapshot = snapshot();
    let mut api = local(Some(identity("shop", "api")), &[OTHER]);
    let http = NamedPort { protocol: 6, port: 80 };
    api.identity.as_mut().unwrap().ports = BTreeMap::from([("http".to_owned(), BTreeSet::from([http]))]);
    api.addresses.insert(SHOWN.parse().unwrap(), Voucher::Pinned);
    snapshot.local.insert(WorkloadKey(2), api);
    resolve(Arc::new(PolicySet::from_iter(vec![policy("p", rules, egress)])), Arc::new(snapshot))
}

/// What tables and rules say alike.
fn allowed(resolved: &ResolvedPolicy, direction: Direction, peer: &str, port: u16) -> bool {
    let image = compile(resolved).unwrap();
    let allowed = allows(&image, direction, peer, PortKey::tcp(port));
    let service = Service::Transport(Transport::Tcp, port);
    let decision = resolved.decide(WEB, direction, peer.parse().unwrap(), service);
    assert_eq!(decision.verdict == Verdict::Allow, allowed, "{direction:?} {peer} {port}");
    allowed
}

fn block(action: Action, text: &str, except: &[&str]) -> Rule {
    Rule { action, ..rule(Peers::Only(vec![cidr(text, except)]), tcp(80, 80)) }
}

#[test]
fn a_block_that_allows_does_not_hold_it_and_one_that_denies_does() {
    let (allow, deny) = (Action::Allow, Action::Deny);
    let everybody = || rule(Peers::Any, tcp(80, 80));
    let selector = || rule(Peers::Only(vec![everyone()]), tcp(80, 80));
    for (why, rules, shown, other) in [
        ("a block", vec![block(allow, "10.0.0.0/8", &[])], false, true),
        ("itself", vec![block(allow, "10.0.0.9/32", &[])], false, false),
        ("everybody", vec![everybody()], true, true),
        ("a selector", vec![selector()], true, true),
        ("a selector, and a block that denies", vec![selector(), block(deny, "10.0.0.0/8", &[])], false, false),
        ("denied but for an exception", vec![selector(), block(deny, "10.0.0.0/8", &["10.0.0.8/31"])], true, true),
        ("only it is denied", vec![everybody(), block(deny, "10.0.0.9/32", &[])], false, true),
        (
            "blocks of both kinds",
            vec![block(allow, "10.0.0.0/16", &[]), block(deny, "10.0.0.0/8", &["10.0.0.8/31"])],
            false,
            true,
        ),
    ] {
        let resolved = resolved(rules, Vec::new());
        assert_eq!(allowed(&resolved, Direction::Ingress, SHOWN, 80), shown, "{why}");
        assert_eq!(allowed(&resolved, Direction::Ingress, OTHER, 80), other, "{why}");
    }
}

#[test]
fn a_named_port_in_a_block_is_none_of_its_workload() {
    let http = || Ports::Only(vec![PortSpec::Named { name: "http".to_owned(), transport: Some(Transport::Tcp) }]);
    let blocks = Peers::Only(vec![cidr("10.0.0.0/8", &[])]);
    let by_block = resolved(Vec::new(), vec![rule(blocks.clone(), http())]);
    assert!(!allowed(&by_block, Direction::Egress, SHOWN, 80));
    assert!(allowed(&by_block, Direction::Egress, OTHER, 80));
    let denied = Rule { action: Action::Deny, ..rule(blocks, http()) };
    let denied = resolved(Vec::new(), vec![rule(Peers::Any, Ports::Any), denied]);
    assert!(!allowed(&denied, Direction::Egress, SHOWN, 80));
    assert!(allowed(&denied, Direction::Egress, SHOWN, 81));
}

#[test]
fn its_entry_says_so() {
    let image = compile(&resolved(Vec::new(), Vec::new())).unwrap();
    let entry = |text: &str| image.address(&text.parse::<IpAddr>().unwrap().into()).unwrap();
    assert!(
        entry(SHOWN).is_local() && entry(SHOWN).is_shown() && !entry(SHOWN).is_vouched() && !entry(SHOWN).is_exempt()
    );
    assert!(
        entry(OTHER).is_local() && !entry(OTHER).is_shown() && entry(OTHER).is_vouched() && entry(OTHER).is_exempt()
    );
    assert!(!entry(OTHER).disputed().is_exempt() && entry(OTHER).disputed().is_vouched());
}
