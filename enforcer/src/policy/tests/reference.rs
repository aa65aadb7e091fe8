//! The reference page: its examples are legal, and it has every field.

use std::path::Path;

use super::loaded;

fn page() -> String {
    let page = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/policy-reference.md");
    std::fs::read_to_string(page).unwrap()
}

#[test]
fn whole_examples_are_legal_and_mean_no_surprise() {
    let page = page();
    let examples: Vec<_> = page.split("```yaml\n").skip(1).map(|rest| rest.split("```").next().unwrap()).collect();
    let whole: Vec<_> = examples.iter().filter(|example| example.starts_with("apiVersion:")).collect();
    assert_eq!((examples.len() > 10, whole.len()), (true, 2));
    for example in whole {
        assert_eq!(loaded(example).warnings.len(), 0, "{example}");
    }
}

#[test]
fn parts_of_a_flow_policy_are_legal() {
    let page = page();
    let section = page.split("## FlowPolicy").nth(1).unwrap().split("\n## ").next().unwrap();
    let mut seen = 0;
    for example in section.split("```yaml\n").skip(2).map(|rest| rest.split("```").next().unwrap()) {
        let indented = format!("  {}\n", example.trim_end().replace('\n', "\n  "));
        let spec = match example {
            example if example.starts_with("workloads:") => format!("{indented}  isolate: [ingress]\n"),
            example if example.starts_with("ports:") => format!("  allow:\n    - from: anywhere\n    {indented}"),
            _ => indented,
        };
        loaded(&super::flow_policy(&spec));
        seen += 1;
    }
    assert!(seen >= 6, "{seen} examples");
}

#[test]
fn every_field_is_on_the_page() {
    let page = page();
    for field in [
        "workloads",
        "isolate",
        "allow",
        "from",
        "to",
        "namespaces",
        "cidr",
        "except",
        "ports",
        "podSelector",
        "policyTypes",
        "ingress",
        "egress",
        "namespaceSelector",
        "ipBlock",
        "port",
        "endPort",
        "protocol",
        "matchLabels",
        "matchExpressions",
        "operator",
        "values",
        "metadata.name",
        "metadata.namespace",
    ] {
        assert!(page.contains(&format!("`{field}`")) || page.contains(&format!(".{field}`")), "{field}");
    }
}
