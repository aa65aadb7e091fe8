//! FlowPolicy has the power of NetworkPolicy: each row of the public suite, written in both, is one and the same model.

use std::collections::BTreeSet;
use std::path::Path;
use std::sync::Arc;

use enforcer::policy::load::{SourceFile, from_sources};
use enforcer::policy::model::{Policy, PolicyKind, Rule};
use enforcer::policy::origin::Origin;
use serde::Deserialize;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Row {
    number: u32,
    title: String,
    steps: Vec<Step>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Step {
    network_policies: String,
    flow_policies: String,
}

/// The policies of a text, checked to be of one kind, without what must differ: kind and places.
fn model(what: &str, kind: PolicyKind, text: String) -> Vec<Policy> {
    let nowhere = Origin::line("", 0);
    let placeless = |rule: Rule| Rule { at: nowhere.clone(), ..rule };
    let path = Arc::from("rows.yaml");
    let loaded =
        from_sources(vec![SourceFile { path, text: text.into() }]).unwrap_or_else(|error| panic!("{what}\n{error}"));
    let policies = loaded.set.policies.iter().map(|policy| (**policy).clone()).map(|policy| {
        assert_eq!(policy.kind, kind, "{what}");
        let ingress = policy.ingress.into_iter().map(placeless).collect();
        let egress = policy.egress.into_iter().map(placeless).collect();
        Policy { kind: PolicyKind::NetworkPolicy, at: nowhere.clone(), ingress, egress, ..policy }
    });
    policies.collect()
}

#[test]
fn every_row_says_the_same_in_both_kinds() {
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/conformance_rows.yaml");
    let rows: Vec<Row> = serde_yaml::from_str(&std::fs::read_to_string(file).unwrap()).unwrap();
    assert!(rows.iter().map(|row| row.number).eq(1..=48), "the 48 rows with traffic, in their order");
    let mut sets = BTreeSet::new();
    for Row { number, title, steps } in rows {
        assert!(!steps.is_empty());
        for (index, Step { network_policies, flow_policies }) in steps.into_iter().enumerate() {
            let what = format!("row {number} step {index}: {title}");
            let expected = model(&what, PolicyKind::NetworkPolicy, network_policies);
            let translated = model(&what, PolicyKind::FlowPolicy, flow_policies);
            assert_eq!(translated, expected, "{what}");
            sets.insert(format!("{expected:?}"));
        }
    }
    assert!(sets.len() > 35, "the rows are {} different sets", sets.len());
}
