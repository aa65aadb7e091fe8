//! Tests of what the objects say together, and over time.

use std::sync::Arc;

use serde_json::json;

use super::super::kept;
use super::{Api, NODE, pod, shown};
use crate::workload::source::Listed;

/// A selector that matches where a label is missing must not see the pod before its namespace has its labels.
#[test]
fn a_pod_is_known_once_its_namespace_is() {
    let mut api = Api::new();
    let mut early = pod("web", NODE, &["10.0.1.2"]);
    early["metadata"]["namespace"] = json!("new");
    api.apply(&early);
    assert_eq!(shown(&api.state()), Vec::<String>::new());
    api.namespace("new", &[("env", "dev")]);
    let state = api.state();
    assert_eq!(shown(&state), ["new/web {10.0.1.2} here"]);
    assert_eq!(state.namespaces["new"]["env"], "dev");
}

/// The watch of namespaces may be ahead of that of pods. What selectors would see of such a pod is not the truth.
#[test]
fn a_pod_is_unknown_once_its_namespace_is_gone() {
    let mut api = Api::new();
    api.namespace("old", &[("env", "prod")]);
    for (name, node) in [("web", NODE), ("db", "node2")] {
        let mut pod = pod(name, node, &[if node == NODE { "10.0.1.2" } else { "10.0.2.2" }]);
        pod["metadata"]["namespace"] = json!("old");
        pod["metadata"]["deletionTimestamp"] = json!("2026-01-01T00:00:00Z");
        api.apply(&pod);
    }
    assert_eq!(shown(&api.state()), ["old/web {10.0.1.2} here, leaving", "old/db {10.0.2.2} elsewhere"]);
    api.forget_namespace("old");
    let state = api.state();
    assert_eq!(shown(&state), Vec::<String>::new());
    assert!(!state.namespaces.contains_key("old"));
}

/// N26.
#[test]
fn labels_of_pods_and_namespaces_change_in_place() {
    let mut api = Api::new();
    let mut web = pod("web", NODE, &["10.0.1.2"]);
    api.apply(&web);
    api.apply(&pod("db", "node2", &["10.0.2.2"]));
    let before = api.state();
    web["metadata"]["labels"]["app"] = json!("other");
    api.apply(&web);
    let after = api.state();
    assert_eq!(after.statements[0].labels.single().unwrap()["app"], "other");
    assert_eq!(after.statements[0].object, before.statements[0].object);
    assert!(Arc::ptr_eq(&after.statements[1], &before.statements[1]), "what has not changed is shared");
    assert!(Arc::ptr_eq(&after.namespaces, &before.namespaces));
    api.namespace("shop", &[("team", "b")]);
    let last = api.state();
    assert_eq!(last.namespaces["shop"]["team"], "b");
    assert!(Arc::ptr_eq(&last.statements[1], &before.statements[1]));
    assert!(Arc::ptr_eq(&api.state().statements, &last.statements), "nothing is made twice");
}

#[test]
fn of_two_pods_with_one_address_the_one_that_does_not_leave_has_it() {
    for new_first in [true, false] {
        let mut api = Api::new();
        let mut old = pod("old", "node2", &["10.0.2.2", "fd00::2"]);
        let new = pod("new", "node2", &["10.0.2.2"]);
        api.apply(&old);
        if new_first {
            api.apply(&new);
            assert_eq!(api.state().statements[0].addresses.len(), 1, "{:?}", api.state());
            // Both say so, and neither leaves: the store sees that.
            assert_eq!(
                shown(&api.state()),
                ["shop/new {10.0.2.2} elsewhere", "shop/old {10.0.2.2, fd00::2} elsewhere"]
            );
        }
        old["metadata"]["deletionTimestamp"] = json!("2026-01-01T00:00:00Z");
        api.apply(&old);
        api.apply(&new);
        assert_eq!(shown(&api.state()), ["shop/new {10.0.2.2} elsewhere", "shop/old {fd00::2} elsewhere"]);
        api.delete("new");
        assert_eq!(shown(&api.state()), ["shop/old {10.0.2.2, fd00::2} elsewhere"], "it still has it");
        api.delete("old");
        api.apply(&new);
        assert_eq!(shown(&api.state()), ["shop/new {10.0.2.2} elsewhere"]);
    }
}

/// A pod of a `StatefulSet` that comes back on another node.
#[test]
fn a_pod_that_comes_back_under_its_name_is_another_object() {
    let mut api = Api::new();
    let mut db = pod("db-0", NODE, &["10.0.1.2"]);
    api.apply(&db);
    let before = api.said();
    db["metadata"]["uid"] = json!("second");
    db["spec"]["nodeName"] = json!("node2");
    db["status"]["podIPs"] = json!([{"ip": "10.0.2.2"}]);
    db["status"]["podIP"] = json!("10.0.2.2");
    api.apply(&db);
    assert_eq!(shown(&api.state()), ["shop/db-0 {10.0.2.2} elsewhere"]);
    assert_ne!(api.said().object, before.object);
}

#[test]
fn what_is_kept_says_the_same_again() {
    let mut api = Api::new();
    api.namespace("ops", &[]);
    api.node("node2", &json!([{"type": "InternalIP", "address": "192.0.2.2"}]));
    let mut web = pod("web", NODE, &["10.0.1.2", "fd00::2"]);
    web["spec"]["containers"][0]["ports"] = json!([{"name": "http", "containerPort": 8080}]);
    web["metadata"]["deletionTimestamp"] = json!("2026-01-01T00:00:00Z");
    api.apply(&web);
    let mut twin = pod("twin", "node2", &["10.0.2.3"]);
    twin["metadata"]["labels"] = json!({"app": "web"});
    api.apply(&twin);
    let mut host = pod("proxy", "node2", &["192.0.2.9"]);
    host["spec"]["hostNetwork"] = json!(true);
    api.apply(&host);
    let said = api.state();
    let text = said.kept.clone().unwrap();
    assert_eq!(text.matches(r#""app":"web""#).count(), 1, "equal labels are written once: {text}");
    let again = kept::read(&text).unwrap().state(kept::text);
    assert_eq!(again.statements, said.statements);
    assert_eq!((&again.namespaces, &again.nodes, &again.kept), (&said.namespaces, &said.nodes, &said.kept));
    assert_eq!(again.listed, Listed::Complete);
    for bad in
        ["", "{}", "[]", &text.replace("\"version\":1", "\"version\":2"), &text.replace("\"labels\":0", "\"labels\":9")]
    {
        assert!(kept::read(bad).is_err(), "{bad}");
    }
}
