//! Documents of other kinds, and lists: what is read, what is skipped, and what is never skipped (D9).

use std::sync::Arc;

use proptest::prelude::*;

use super::{loaded, network_policy};
use crate::policy::load::{Loaded, PolicyErrors, SourceFile, from_sources};

fn read(path: &str, text: &str) -> Result<Loaded, PolicyErrors> {
    from_sources(vec![SourceFile { path: Arc::from(path), text: text.into() }])
}

/// The first line of what is said of a text that is refused.
fn refused(text: &str) -> String {
    let errors = read("test.yaml", text).expect_err(text).to_string();
    errors.lines().next().unwrap().to_owned()
}

fn object(version: &str, kind: &str, rest: &str) -> String {
    format!("apiVersion: {version}\nkind: {kind}\n{rest}\n")
}

fn item(text: &str) -> String {
    format!("- {}\n", text.trim_end().replace('\n', "\n  "))
}

const SPEC: &str = "  podSelector: {matchLabels: {app: db}}";

#[test]
fn d9_documents_of_other_kinds_are_skipped_and_counted() {
    let foreign = [
        object("v1", "Namespace", "metadata: {name: yard}"),
        object("apps/v1", "Deployment", "spec: {selector: {matchLabels: {app: db}}, 1: x, true: y}"),
        object("networking.k8s.io/v1", "Ingress", "spec: {ingressClassName: a, rules: []}"),
        object("networking.istio.io/v1", "VirtualService", "spec: [a, {b: c}]"),
        object("policy/v1", "PodDisruptionBudget", "spec: text"),
        object("v1", "ConfigMap", "data: {a: &a {b: c}, d: {<<: *a}}"),
    ];
    let text = format!("{}---\n{}", foreign.join("---\n"), network_policy(SPEC));
    let loaded = loaded(&text);
    assert_eq!(loaded.set.policies.len(), 1);
    assert_eq!(
        loaded.skipped.to_string(),
        "6 documents of other kinds (1 ConfigMap, 1 Deployment, 1 Ingress, 1 Namespace, 1 PodDisruptionBudget, \
         1 VirtualService)"
    );
}

#[test]
fn d9_what_may_be_meant_as_a_policy_is_never_skipped() {
    let spec = format!("metadata: {{name: a}}\nspec:\n{SPEC}");
    for (version, kind, said) in [
        ("networking.k8s.io/v1", "NetworkPolcy", "unknown kind `NetworkPolcy`"),
        ("networking.k8s.io/v1", "networkpolicies", "unknown kind `networkpolicies`"),
        ("networking.k8s.io/v1", "Netz", "unknown kind `Netz`, expected"),
        ("Networking.K8s.io/v1", "Netz", "unknown kind `Netz`, expected"),
        ("enforcer.dev/v1alpha1", "Flow", "unknown kind `Flow`, expected"),
        ("example.org/v1", "FlowPolicyOfTheWholeHouse", "unknown kind `FlowPolicyOfTheWholeHouse`, expected"),
        ("v1", "Lst", "unknown kind `Lst`, expected"),
        ("extensions/v1beta1", "NetworkPolicy", "NetworkPolicy has the version"),
        ("projectcalico.org/v3", "NetworkPolicy", "NetworkPolicy has the version"),
        ("v1beta1", "List", "List has the version"),
        ("cilium.io/v2", "CiliumClusterwideNetworkPolicy", "Enforcer does not read policies of the kind"),
        ("policy.networking.k8s.io/v1alpha1", "AdminNetworkPolicy", "Enforcer does not read policies of the kind"),
        ("example.org/v1", "Rule", "unknown kind `Rule`, but its `spec` has the field `podSelector` like a policy"),
    ] {
        let message = refused(&object(version, kind, &spec));
        assert!(message.contains(said), "{version} {kind}: {message}");
        let list = format!("apiVersion: v1\nkind: List\nitems:\n{}", item(&object(version, kind, &spec)));
        let message = refused(&list);
        assert!(message.contains(said) || kind.ends_with("List"), "in a list: {version} {kind}: {message}");
    }
    for (text, said) in [
        ("metadata: {name: a}\nspec: {}\n", "the field `kind` is missing"),
        ("kind: Deployment\n", "the field `apiVersion` is missing"),
        ("apiVersion: v1\nkind: Things\nitems: []\n", "unknown kind `Things`"),
        ("apiVersion: v1\nkind: List\n", "the field `items` is missing"),
        ("apiVersion: v1\nkind: List\nitems:\n", "this field has no value"),
        ("apiVersion: v1\nkind: List\nitems: [~]\n", "this field has no value"),
        ("apiVersion: v1\nkind: List\nitems: []\nitem: []\n", "unknown field `item`"),
        ("apiVersion: v1\nkind: List\nitems: [{kind: Pod}]\n", "the field `apiVersion` is missing"),
        ("apiVersion: v1\nkind: List\nitems: [{apiVersion: v1, kind: List, items: []}]\n", "a list cannot be an item"),
        ("apiVersion: v1\nkind: List\nitems: [{apiVersion: v1, kind: PodList, items: []}]\n", "a list cannot be"),
        (
            "apiVersion: v1\nkind: PodList\nitems: [{apiVersion: networking.k8s.io/v1, kind: NetworkPolicy}]\n",
            "this list holds objects of the kind `Pod`, but the item is of the kind `NetworkPolicy`",
        ),
        (
            "apiVersion: cilium.io/v2\nkind: CiliumNetworkPolicyList\nitems: []\n",
            "Enforcer does not read policies of the kind `CiliumNetworkPolicyList`",
        ),
        ("apiVersion: v1\nkind: NetworkPolcyList\nitems: []\n", "unknown kind `NetworkPolcyList`, expected"),
        ("apiVersion: apps/v1\nkind: DeploymentList\nitems: [{spec: {podSelector: {}}}]\n", "but its `spec` has"),
        ("kind: Pod\nkind: NetworkPolicy\napiVersion: v1\n", "the field `kind` appears here a second time"),
        ("apiVersion: v1\nkind: \"\"\n", "this field has no value"),
        ("apiVersion: \" \"\nkind: Deployment\n", "this field has no value"),
    ] {
        let message = refused(text);
        assert!(message.contains(said), "{text}{message}");
    }
}

#[test]
fn d9_the_items_of_a_list_count_as_documents() {
    let policy = network_policy(SPEC);
    let deployment = object("apps/v1", "Deployment", "metadata: {name: web}");
    let other = policy.replace("name: web", "name: other");
    let list = format!("apiVersion: v1\nkind: List\nitems:\n{}{}{}", item(&policy), item(&deployment), item(&other));
    let whole = loaded(&list);
    let places: Vec<String> =
        whole.set.policies.iter().map(|policy| format!("{} {}", policy.at, policy.name)).collect();
    assert_eq!(places, ["test.yaml:7 web", "test.yaml:16 other"]);
    assert_eq!(whole.skipped.to_string(), "1 document of another kind (1 Deployment)");
    // What the API server gives: the items of a typed list do not say what they are.
    let bare = policy.replace("apiVersion: networking.k8s.io/v1\nkind: NetworkPolicy\n", "");
    let typed = format!("apiVersion: networking.k8s.io/v1\nkind: NetworkPolicyList\nitems:\n{}", item(&bare));
    assert_eq!(loaded(&typed).set.policies[0].subject, whole.set.policies[0].subject);
    assert_eq!(
        loaded("apiVersion: v1\nkind: PodList\nitems: [{}, {}]\n").skipped.to_string(),
        "2 documents of other kinds (2 Pod)"
    );
    assert!(loaded("apiVersion: v1\nkind: List\nitems: []\n").set.policies.is_empty());
    // One bad item refuses the list, and each error has its place.
    let bad = list.replace("name: other", "name: Other").replace("app: db", "app: -db");
    let errors = read("test.yaml", &bad).unwrap_err();
    let places: Vec<u32> = errors.errors().iter().map(|error| error.place.as_ref().unwrap().line).collect();
    assert_eq!(places, [9, 16, 18]);
    // One name twice in a list, too.
    let twice = format!("apiVersion: v1\nkind: List\nitems:\n{}{}", item(&policy), item(&policy));
    assert!(refused(&twice).contains("is already declared at test.yaml:7"), "{}", refused(&twice));
}

#[test]
fn a_kustomization_may_leave_out_its_kind_and_only_under_its_own_name() {
    let text = "namespace: yard\nresources: [web.yaml]\n";
    assert_eq!(
        read("base/kustomization.yaml", text).unwrap().skipped.to_string(),
        "1 document of another kind (1 Kustomization)"
    );
    assert!(read("base/my-kustomization.yaml", text).is_err());
    let policy = network_policy(SPEC).replace("kind: NetworkPolicy\n", "");
    assert!(read("kustomization.yaml", &policy).is_err(), "a policy that lost its kind");
    assert!(read("kustomization.yaml", &policy.replace("apiVersion: networking.k8s.io/v1\n", "")).is_err());
}

#[test]
fn a_deep_document_of_another_kind_is_read_and_a_bottomless_one_is_refused() {
    // The reader has another limit for brackets, which comes first if nothing is between them.
    for (open, close) in [("{a: ", "}"), ("[", "]")] {
        let deep = |levels: usize| {
            let spec = format!("{}{}", open.repeat(levels), close.repeat(levels));
            object("apiextensions.k8s.io/v1", "CustomResourceDefinition", &format!("spec: {spec}"))
        };
        assert_eq!(loaded(&deep(120)).set.policies.len(), 0);
        for levels in [130, 300, 100_000] {
            assert!(refused(&deep(levels)).contains("nested more than 128 levels deep"), "{open} {levels}");
        }
    }
}

/// A text with a few characters changed, as a person mistypes it.
fn mistyped(text: &'static str) -> impl Strategy<Value = String> {
    let slip = (0..text.len(), 0..2_usize, prop::sample::select(vec!["", "a", "E", "-", "1", " ", "ss", "Policy"]));
    prop::collection::vec(slip, 1..4).prop_map(move |slips| {
        let mut text = text.to_owned();
        for (at, removed, put) in slips {
            let at = at.min(text.len());
            text.replace_range(at..(at + removed).min(text.len()), put);
        }
        text
    })
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 2_000, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn d9_no_slip_of_the_pen_makes_a_policy_be_skipped(
        network in mistyped("apiVersion: networking.k8s.io/v1\nkind: NetworkPolicy\n"),
        flow in mistyped("apiVersion: enforcer.dev/v1alpha1\nkind: FlowPolicy\n"),
    ) {
        for (header, spec) in [(network, "spec: {podSelector: {}}\n"), (flow, "spec: {isolate: [ingress]}\n")] {
            let text = format!("{header}metadata: {{name: a}}\n{spec}");
            if let Ok(loaded) = read("test.yaml", &text) {
                prop_assert!(loaded.skipped.is_empty() && loaded.set.policies.len() == 1, "{}", text);
            }
        }
    }
}
