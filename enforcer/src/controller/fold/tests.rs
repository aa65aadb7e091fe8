//! The table of what nodes may say, and what becomes of it.

use serde_json::{Value, json};

use super::*;
use crate::controller::told::tests::node;
use crate::publish::MOST_POLICIES;

const THEN: &str = "2026-01-02T03:04:05Z";
const NOW: &str = "2026-01-02T03:04:06Z";

fn policy(status: Option<Status>) -> Policy {
    Policy { uid: "u1".to_owned(), generation: 2, status }
}

fn lists(uid: &str, generation: i64) -> Value {
    json!({"kind": "FlowPolicy", "namespace": "shop", "name": "db", "uid": uid, "generation": generation})
}

fn report(policies: &[Value], refused: &[Value]) -> Value {
    json!({
        "version": "1", "ready": true, "revision": 7, "policyCount": policies.len(), "policies": policies,
        "refused": refused, "veths": {"enforced": 0, "unknown": 0, "failed": 0},
        "workloads": {"named": 0, "unknown": 0}, "unmanagedPods": [], "stale": [],
    })
}

fn has(uid: &str, generation: i64) -> Value {
    report(&[lists(uid, generation)], &[])
}

fn refuses(generation: i64, instead: &str, error: &str) -> Value {
    let mut refused = lists("u1", generation);
    refused["instead"] = json!(instead);
    refused["error"] = json!(error);
    report(&[lists("u1", generation - 1)], &[refused])
}

fn nodes(reports: &[Value]) -> BTreeMap<Key, Arc<Node>> {
    let named = reports.iter().enumerate().map(|(number, report)| {
        let key = Key { namespace: "".into(), name: format!("n{}", number + 1).into() };
        (key, Arc::new(node(report)))
    });
    named.collect()
}

fn folded(reports: &[Value]) -> Status {
    fold(&policy(None), &nodes(reports), NOW)
}

/// Each condition with its status, in their order.
fn words(status: &Status) -> String {
    let words = status.conditions.iter().map(|one| format!("{}={}/{}", one.kind, one.status, one.reason));
    words.collect::<Vec<_>>().join(" ")
}

fn message<'a>(status: &'a Status, kind: &str) -> &'a str {
    &status.conditions.iter().find(|condition| condition.kind == kind).unwrap().message
}

#[test]
fn what_nodes_say_becomes_conditions_and_counts() {
    let in_force = "Accepted=True/Accepted Enforced=True/InForce Ready=True/InForce Stalled=False/NotRefused";
    let behind =
        "Accepted=True/Accepted Enforced=False/NotEverywhere Ready=False/NotEverywhere Stalled=False/NotRefused";
    let unheard =
        "Accepted=Unknown/NotReported Enforced=False/NotEverywhere Ready=False/NotEverywhere Stalled=False/NotRefused";
    let refused = "Accepted=False/Refused Enforced=False/Refused Ready=False/Refused Stalled=True/Refused";
    let no_nodes =
        "Accepted=Unknown/NotReported Enforced=Unknown/NoNodes Ready=Unknown/NoNodes Stalled=False/NotRefused";
    let mut not_ready = has("u1", 2);
    not_ready["ready"] = json!(false);
    let mut stands_in = has("u1", 2);
    stands_in["policies"][0]["standsIn"] = json!(true);
    let mut old_agent = has("u1", 2);
    old_agent["policies"][0] = json!({"kind": "FlowPolicy", "namespace": "shop", "name": "db", "resourceVersion": "7"});
    let mut other_kind = has("u1", 2);
    other_kind["policies"][0]["kind"] = json!("NetworkPolicy");
    let table: &[(&str, &[Value], &str, u64, &str)] = &[
        ("nobody", &[], no_nodes, 0, "no agent has told of its node yet"),
        ("all", &[has("u1", 2), has("u1", 2)], in_force, 2, "in force on all 2 nodes"),
        ("an older version", &[has("u1", 2), has("u1", 1)], behind, 1, "not in force on 1 of 2 nodes: n2"),
        ("nothing of it", &[has("u1", 2), report(&[], &[])], behind, 1, "not in force on 1 of 2 nodes: n2"),
        ("no status", &[has("u1", 2), Value::Null], behind, 1, "not in force on 1 of 2 nodes: n2"),
        ("odd words", &[has("u1", 2), json!({"ready": "x"})], behind, 1, "not in force on 1 of 2 nodes: n2"),
        ("not ready", &[not_ready], unheard, 0, "not in force on 1 of 1 nodes: n1"),
        ("an agent without generations", &[old_agent], unheard, 0, "not in force on 1 of 1 nodes: n1"),
        ("another object of its name", &[has("u0", 2)], unheard, 0, "not in force on 1 of 1 nodes: n1"),
        ("another kind", &[other_kind], unheard, 0, "not in force on 1 of 1 nodes: n1"),
        (
            "a refusal",
            &[has("u1", 2), refuses(2, "LastGood", "no port")],
            refused,
            1,
            "refused on 1 of 2 nodes; there the last good version stays in force",
        ),
        (
            "no good version",
            &[refuses(2, "Isolation", "no port")],
            refused,
            0,
            "refused on 1 of 1 nodes; there what it selects is isolated and gets nothing",
        ),
        (
            "no selector",
            &[refuses(2, "Nothing", "no port")],
            refused,
            0,
            "refused on 1 of 1 nodes; there the policy changes nothing",
        ),
        (
            "a stand-in",
            &[stands_in],
            refused,
            0,
            "refused on 1 of 1 nodes; there what it selects is isolated and gets nothing",
        ),
        ("a refusal of what was", &[refuses(1, "LastGood", "no port")], unheard, 0, "not in force on 1 of 1 nodes: n1"),
    ];
    for (what, reports, expected, programmed, why) in table {
        let status = folded(reports);
        assert_eq!(words(&status), *expected, "{what}");
        assert_eq!((status.nodes_programmed, status.nodes_total), (*programmed, reports.len() as u64), "{what}");
        assert_eq!(message(&status, "Enforced"), *why, "{what}");
        assert_eq!(status.observed_generation, 2);
        assert!(status.conditions.iter().all(|condition| condition.observed_generation == 2));
    }
}

#[test]
fn the_author_reads_the_error_and_where_it_comes_from() {
    let status = folded(&[
        has("u1", 2),
        refuses(2, "LastGood", "flowpolicy/shop/db spec:\n  it has\u{1b} host bits"),
        refuses(2, "LastGood", "another"),
    ]);
    let wanted = "refused on n2, n3: flowpolicy/shop/db spec: it has\\u{1b} host bits";
    assert_eq!(message(&status, "Accepted"), wanted);
    assert_eq!((message(&status, "Ready"), message(&status, "Stalled")), (wanted, wanted));
}

#[test]
fn what_a_node_cannot_list_is_neither_in_force_nor_missing() {
    let many: Vec<Value> = (0..MOST_POLICIES).map(|number| lists(&format!("x{number}"), 1)).collect();
    let status = folded(&[has("u1", 2), report(&many, &[])]);
    assert!(words(&status).contains("Enforced=Unknown/NotListed Ready=Unknown/NotListed"), "{}", words(&status));
    // Beside policies of other kinds every FlowPolicy is listed.
    let mut mixed = many.clone();
    mixed[MOST_POLICIES - 1]["kind"] = json!("NetworkPolicy");
    assert!(words(&folded(&[report(&mixed, &[])])).contains("Enforced=False/NotEverywhere"));
}

#[test]
fn a_condition_keeps_its_time_until_it_changes() {
    let first = fold(&policy(None), &nodes(&[has("u1", 1)]), THEN);
    assert!(first.conditions.iter().all(|condition| condition.last_transition_time == THEN));
    let again = fold(&policy(Some(first.clone())), &nodes(&[has("u1", 1)]), NOW);
    assert_eq!(again, first, "the same is no news, so nothing is written");
    let later = fold(&policy(Some(first)), &nodes(&[has("u1", 2)]), NOW);
    let times: Vec<_> = later.conditions.iter().map(|one| (one.kind.as_str(), &*one.last_transition_time)).collect();
    assert_eq!(times, [("Accepted", NOW), ("Enforced", NOW), ("Ready", NOW), ("Stalled", THEN)]);
}

#[test]
fn no_node_makes_a_message_longer_than_its_bound() {
    let reports: Vec<Value> = (0..3_000).map(|_| refuses(2, "LastGood", &"\u{202e}\u{e4}".repeat(250))).collect();
    let status = folded(&reports);
    for condition in &status.conditions {
        assert!(condition.message.chars().count() <= MESSAGE, "{}", condition.message);
    }
    assert!(
        message(&status, "Accepted").starts_with("refused on n1, n10, n100, n1000, n1001 and 2995 more: \\u{202e}")
    );
    let behind = folded(&vec![report(&[], &[]); 3_000]);
    assert_eq!(
        message(&behind, "Enforced"),
        "not in force on 3000 of 3000 nodes: n1, n10, n100, n1000, n1001 and 2995 more"
    );
}
