//! A policy directory as people have it: lists, JSON, other kinds, nulls, a namespace of compose, and policies for nobody.

use std::fs;

use enforcer::lab::Layout;
use enforcer_tests::cases::Port;
use enforcer_tests::stage::Stage;

use super::common::{add, change, check, control, dropped, entry, inventory, passes};

/// `b` takes port 7000 of `a`. The list and the Deployment are in JSON, under a name in upper case.
const LIST: &str = r#"{
  "apiVersion": "v1", "kind": "List", "items": [
    {"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "b"}, "spec": {"replicas": 1}},
    {"apiVersion": "networking.k8s.io/v1", "kind": "NetworkPolicy", "metadata": {"name": "b", "namespace": "t"},
     "spec": {"podSelector": {"matchLabels": {"app": "b"}},
              "ingress": [{"from": [{"podSelector": {"matchLabels": {"app": "a"}}}], "ports": [{"port": 7000}]}]}}
  ]
}
"#;

/// `c` takes port 7000 of `a`: its namespace is one that no NetworkPolicy can name.
const COMPOSE: &str = "\
\u{feff}---
\u{feff}apiVersion: enforcer.dev/v1alpha1
kind: FlowPolicy
metadata: {name: c, namespace: my_yard}
spec:
  allow:
    - {from: [{namespaces: {kubernetes.io/metadata.name: t}, workloads: {app: a}}], ports: [7000/tcp]}
";

/// `d` takes nothing.
const NULL: &str = "\
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {name: d, namespace: u}
spec:
  podSelector:
  policyTypes: [Ingress]
";

const NOBODY: &str = "\
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {name: deny-all}
spec: {podSelector: {}, policyTypes: [Ingress, Egress]}
";

/// A definition of 60 levels.
fn definition() -> String {
    let (open, close) = ("{a: ".repeat(60), "}".repeat(60));
    format!("apiVersion: apiextensions.k8s.io/v1\nkind: CustomResourceDefinition\nspec: {open}{close}\n")
}

fn yard() -> Stage {
    let mut stage = Stage::new(Layout::Bridged);
    for name in ["a", "b", "c", "d"] {
        add(&mut stage, name);
    }
    let entries = [("a", "t"), ("b", "t"), ("c", "my_yard"), ("d", "u")]
        .map(|(name, namespace)| entry(&stage, name, "").replace("namespace: t", &format!("namespace: {namespace}")));
    stage.inventory(&inventory(&entries));
    for (file, text) in [("b.JSON", LIST), ("c.yaml", COMPOSE), ("d.yml", NULL), ("nobody.yaml", NOBODY)] {
        stage.policy(file, text);
    }
    stage.policy("definition.yaml", &definition());
    stage.policy("kustomization.yaml", "namespace: t\nresources: [b.JSON]\n");
    stage
}

#[test]
fn files_that_people_have_are_in_force_and_bad_ones_change_nothing() {
    let mut stage = yard();
    let (open, closed) = (Port::Tcp(7000), Port::Tcp(7001));
    let flows = [
        passes("a", "b", open),
        dropped("a", "b", closed),
        dropped("c", "b", open),
        passes("a", "c", open),
        dropped("b", "c", open),
        dropped("a", "d", open),
        passes("d", "a", open),
    ];
    control(&stage, &flows);
    stage.start();
    check(&stage, "lists, JSON, a compose namespace and a null", &flows);

    let report = |stage: &Stage, field: &str| stage.status().0["report"][field].clone();
    stage.until("the report", || !report(&stage, "no_ops").as_array().is_none_or(Vec::is_empty));
    let skipped = "3 documents of other kinds (1 CustomResourceDefinition, 1 Deployment, 1 Kustomization)";
    assert_eq!(report(&stage, "policies_skipped"), skipped);
    let nobody =
        "nobody.yaml:3: NetworkPolicy `default/deny-all` selects nobody: the namespace `default` has no workload";
    let told = report(&stage, "no_ops");
    assert_eq!(told.as_array().unwrap().len(), 1, "{told}");
    assert!(told[0].as_str().unwrap().starts_with(nobody), "{told}");
    let text = String::from_utf8(stage.command("status", &[]).stdout).unwrap();
    assert!(text.contains(&format!("note: {nobody}")) && text.contains(&format!("skipped {skipped}")), "{text}");

    // Another change of policies, with as many documents of other kinds, and one of workloads: nothing is told a second time.
    let list: String = LIST.lines().filter(|line| !line.contains("Deployment")).collect();
    let more = list.replace(r#""name": "b", "namespace""#, r#""name": "e", "namespace""#).replace("7000", "7002");
    change(&mut stage, |stage| stage.policy("more.yaml", &more));
    change(&mut stage, |stage| {
        let entries = ["a", "b"].map(|name| entry(stage, name, ""));
        stage.inventory(&inventory(&entries));
    });
    stage.until("the report", || report(&stage, "policy_count") == 5);
    assert_eq!(report(&stage, "policies_skipped"), skipped);
    let log = fs::read_to_string(&stage.options.log).unwrap();
    assert_eq!(log.matches(nobody).count(), 1, "{log}");
    assert_eq!(log.matches(skipped).count(), 1, "{log}");
}

#[test]
fn a_misspelt_kind_and_a_null_that_widens_change_nothing() {
    let mut stage = yard();
    stage.start();
    let flows =
        [passes("a", "b", Port::Tcp(7000)), dropped("a", "b", Port::Tcp(7001)), dropped("c", "b", Port::Tcp(7000))];
    check(&stage, "good files", &flows);
    let from = r#""from": [{"podSelector": {"matchLabels": {"app": "a"}}}]"#;
    for (bad, said) in [
        (LIST.replace("NetworkPolicy", "NetworkPolcy"), "unknown kind `NetworkPolcy`"),
        (LIST.replace(from, r#""from": null"#), "this field has no value"),
    ] {
        stage.policy("b.JSON", &bad);
        stage.until(said, || {
            stage.status().0["report"]["policy_error"].as_str().is_some_and(|error| error.contains(said))
        });
        check(&stage, said, &flows);
        change_back(&stage);
    }
}

fn change_back(stage: &Stage) {
    stage.policy("b.JSON", LIST);
    stage.until("the good files again", || stage.status().0["report"]["policy_error"].is_null());
}
