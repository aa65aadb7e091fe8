//! Objects as the API gives them: their meaning, their places, what stands in for refused ones, and what is kept of them.

use std::sync::Arc;
use std::time::SystemTime;

use serde_json::{Value, json};

use super::*;
use crate::kubernetes::Stale as ViewStale;
use crate::policy::load::{Loaded, SourceFile, from_sources};
use crate::policy::model::{Peers, Policy};
use crate::policy::source::from_kept;
use crate::policy::source::shape::Refusal;

/// An object with what an API server and its clients put beside `spec`.
fn given(kind: PolicyKind, name: &str, annotations: &Value, spec: &Value) -> Object {
    let object = json!({
        "apiVersion": kind.api_version(),
        "kind": kind.as_str(),
        "metadata": {
            "namespace": "shop", "name": name, "uid": "1", "resourceVersion": "7", "generation": 3,
            "annotations": annotations, "labels": {"team": "a"},
            "managedFields": [{"manager": "kubectl", "operation": "Apply", "fieldsType": "FieldsV1", "fieldsV1": {}}],
        },
        "spec": spec,
        "status": {"conditions": []},
    });
    Object::of(kind, serde_json::from_value(object).unwrap()).unwrap()
}

fn network(spec: &Value) -> Object {
    given(PolicyKind::NetworkPolicy, "db", &json!({}), spec)
}

fn flow(spec: &Value) -> Object {
    given(PolicyKind::FlowPolicy, "db", &json!({}), spec)
}

fn read(object: &Object) -> Reading {
    read_all(&[object]).unwrap().remove(0)
}

fn refusal(object: &Object) -> Refusal {
    read(object).expect_err("it is refused")
}

fn only(loaded: &Loaded) -> &Policy {
    let [policy] = &*loaded.set.policies else { panic!("{:?}", loaded.set) };
    policy
}

fn db() -> Value {
    json!({
        "podSelector": {"matchLabels": {"app": "db"}},
        "policyTypes": ["Ingress", "Egress"],
        "ingress": [
            {"from": [{"podSelector": {"matchLabels": {"app": "web"}}}], "ports": [{"protocol": "TCP", "port": 5432}]},
            {},
        ],
        "egress": [{"ports": [{"port": 53, "protocol": "UDP"}]}],
    })
}

/// A view that the test fills, and the source that sees it.
fn source() -> (watch::Sender<View<Object>>, Objects) {
    let (to, view) = watch::channel(View::default());
    let kind = PolicyKind::NetworkPolicy;
    (to, Objects { kind, server: "https://api".to_owned(), view, known: BTreeMap::new() })
}

fn listed(to: &watch::Sender<View<Object>>, objects: impl IntoIterator<Item = Arc<Object>>) {
    let key = |object: &Object| Key { namespace: "shop".into(), name: object.name.name.as_str().into() };
    let objects: BTreeMap<Key, Arc<Object>> = objects.into_iter().map(|object| (key(&object), object)).collect();
    to.send_modify(|view| (view.objects, view.listed) = (Arc::new(objects), true));
}

fn all(source: &mut Objects) -> Said {
    match source.read() {
        Word::All(said) => said,
        other => panic!("{other:?}"),
    }
}

#[test]
fn an_object_means_what_its_file_means_and_its_fields_are_the_places() {
    let object = network(&db());
    let loaded = read(&object).unwrap();
    let text = json!({"apiVersion": "networking.k8s.io/v1", "kind": "NetworkPolicy",
        "metadata": {"namespace": "shop", "name": "db"}, "spec": db()});
    let file = SourceFile { path: "db.json".into(), text: text.to_string().into() };
    let of_file = from_sources(vec![file]).unwrap();
    let (policy, other) = (only(&loaded), only(&of_file));
    assert_eq!((&policy.namespace, &policy.name, &policy.subject), (&other.namespace, &other.name, &other.subject));
    assert_eq!((policy.isolates_ingress, policy.isolates_egress), (true, true));
    let meaning = |policy: &Policy| {
        let rules = policy.ingress.iter().chain(&policy.egress);
        rules.map(|rule| (rule.action, rule.peers.clone(), rule.ports.clone())).collect::<Vec<_>>()
    };
    assert_eq!(meaning(policy), meaning(other));
    let places: Vec<String> = policy.ingress.iter().chain(&policy.egress).map(|rule| rule.at.to_string()).collect();
    assert_eq!(policy.at.to_string(), "networkpolicy/shop/db metadata.name");
    assert_eq!(
        places,
        [
            "networkpolicy/shop/db spec.ingress[0]",
            "networkpolicy/shop/db spec.ingress[1]",
            "networkpolicy/shop/db spec.egress[0]"
        ]
    );
    let flow = flow(&json!({"workloads": {"app": "db"}, "allow": [{"from": "anywhere", "ports": ["5432/tcp"]}]}));
    let loaded = read(&flow).unwrap();
    assert_eq!(only(&loaded).ingress[0].at.to_string(), "flowpolicy/shop/db spec.allow[0]");
}

#[test]
fn what_stands_beside_spec_makes_no_difference() {
    let bare = json!({
        "metadata": {"namespace": "shop", "name": "db", "uid": "1", "resourceVersion": "7", "generation": 3}, "spec": db(),
    });
    let bare = Object::of(PolicyKind::NetworkPolicy, serde_json::from_value(bare).unwrap()).unwrap();
    assert_eq!(bare, network(&db()), "an item of a list does not repeat its kind");
    assert!(!bare.text.contains("managedFields") && !bare.text.contains("status"), "{}", bare.text);
    assert_ne!(bare, network(&json!({"podSelector": {}})));
    let later = json!({"metadata": {"namespace": "shop", "name": "db", "resourceVersion": "8"}, "spec": db()});
    let later = Object::of(PolicyKind::NetworkPolicy, serde_json::from_value(later).unwrap()).unwrap();
    assert_ne!(bare, later, "people compare the version with that of the API");
    let version = |object: &Object| Object::versioned(&object.file()).unwrap().version.resource_version;
    assert_eq!([&bare, &later].map(version), ["7", "8"].map(|version| Some(version.to_owned())));
    let kept = Object::kept(&later.file()).unwrap();
    assert_eq!((&kept, version(&kept)), (&later, version(&later)), "a later daemon knows it too");
    // A field beside `spec` that no version has had so far may mean anything.
    let odd = json!({"metadata": {"namespace": "shop", "name": "db"}, "spec": db(), "exempt": ["web"]});
    let odd = Object::of(PolicyKind::NetworkPolicy, serde_json::from_value(odd).unwrap()).unwrap();
    let error = refusal(&odd).errors.to_string();
    assert!(error.contains("unknown field `exempt`") && error.contains("networkpolicy/shop/db exempt"), "{error}");
}

#[test]
fn an_error_names_the_field() {
    for (at, value, expected) in [
        ("/ingress/0/ports/0/port", json!(70_000), "networkpolicy/shop/db spec.ingress[0].ports[0].port"),
        (
            "/ingress/0/from/0/podSelector",
            json!({"matchFields": []}),
            "spec.ingress[0].from[0].podSelector.matchFields",
        ),
        ("/policyTypes/1", json!("Both"), "networkpolicy/shop/db spec.policyTypes[1]"),
        ("/podSelector/matchLabels", json!({"a/b/c": "d"}), "spec.podSelector.matchLabels[\"a/b/c\"]"),
        ("/egress/0", json!({"to": [{}]}), "networkpolicy/shop/db spec.egress[0].to[0]"),
    ] {
        let mut spec = db();
        *spec.pointer_mut(at).unwrap() = value;
        let error = refusal(&network(&spec)).errors.to_string();
        assert!(error.contains(expected), "{at}: {error}");
    }
}

/// What stands in for an object, or nothing: whether it isolates ingress and egress.
fn isolates(object: &Object) -> Option<(bool, bool)> {
    let loaded = refusal(object).stand_in?;
    let policy = only(&loaded);
    assert!(policy.ingress.is_empty() && policy.egress.is_empty(), "{policy:?}");
    assert!(loaded.stands_in && loaded.warnings.is_empty());
    let selects: Vec<_> = policy.subject.requirements.iter().map(|one| format!("{one:?}")).collect();
    assert_eq!(selects, [r#"In("app", {"db"})"#]);
    Some((policy.isolates_ingress, policy.isolates_egress))
}

#[test]
fn a_refused_object_isolates_what_it_selects_in_its_directions() {
    let selector = json!({"matchLabels": {"app": "db"}});
    for (types, rules, expected) in [
        (json!(["Ingress"]), json!({"x": 1}), (true, false)),
        (json!(["Egress"]), json!({"x": 1}), (false, true)),
        (json!(["Egress", "Ingress"]), json!({"x": 1}), (true, true)),
        (json!([]), json!({"x": 1}), (true, false)),
        (json!([]), json!({"egress": [{"x": 1}]}), (true, true)),
        (json!([]), json!({"egress": [], "x": 1}), (true, false)),
        (json!(["Ingress", "Both"]), json!({}), (true, true)),
        (json!("Ingress"), json!({}), (true, true)),
        (json!(["Ingress"]), json!({"ingress": [{"from": [{"podSelectors": {}}]}]}), (true, false)),
        // An API server takes both.
        (json!(["Ingress"]), json!({"ingress": [{"from": [{"ipBlock": {"cidr": "010.0.0.0/8"}}]}]}), (true, false)),
        (json!(["Egress"]), json!({"egress": [{"to": [{"ipBlock": {"cidr": "::ffff:10.0.0.0/104"}}]}]}), (false, true)),
    ] {
        let mut spec = rules;
        (spec["policyTypes"], spec["podSelector"]) = (types, selector.clone());
        assert_eq!(isolates(&network(&spec)), Some(expected), "{spec}");
    }
    for (spec, expected) in [
        (json!({"isolate": ["ingress"], "allow": [{"from": "somewhere"}]}), (true, false)),
        (json!({"isolate": ["egress", "sideways"]}), (true, true)),
        (json!({"allow": [{"from": "somewhere"}]}), (true, false)),
        (json!({"allow": [{"to": "anywhere", "deny": true}]}), (false, true)),
        (json!({"allow": [{"to": "anywhere"}, {"ports": []}]}), (true, true)),
        (json!({"allow": []}), (true, true)),
        (json!({"isolate": ["ingress"], "deny": []}), (true, false)),
    ] {
        let mut spec = spec;
        spec["workloads"] = json!({"app": "db"});
        assert_eq!(isolates(&flow(&spec)), Some(expected), "{spec}");
    }
}

#[test]
fn an_object_with_a_selector_that_cannot_be_read_stands_for_nothing() {
    for selector in [json!({"matchFields": {}}), json!("db"), json!({"matchLabels": {"app": {}}}), json!([{}])] {
        assert_eq!(isolates(&network(&json!({"podSelector": selector, "policyTypes": ["Ingress"]}))), None);
    }
    for spec in [
        json!({"workload": {"app": "db"}, "isolate": ["ingress"]}),
        json!({"workloads": {"matchLabel": {"app": "db"}}, "isolate": ["ingress"]}),
        json!("nonsense"),
        json!(null),
    ] {
        assert_eq!(isolates(&flow(&spec)), None, "{spec}");
    }
}

#[test]
fn a_writing_of_the_status_is_no_other_version_of_a_flow_policy() {
    let version = |uid: &str, generation: i64, resource_version: &str| {
        let object = json!({
            "metadata": {
                "namespace": "shop", "name": "db", "uid": uid, "generation": generation,
                "resourceVersion": resource_version,
            },
            "spec": {"isolate": ["ingress", "x"]}, "status": {"observedGeneration": resource_version},
        });
        Object::of(PolicyKind::FlowPolicy, serde_json::from_value(object).unwrap()).unwrap()
    };
    let first = version("1", 3, "7");
    assert_eq!(first, version("1", 3, "8"));
    assert_ne!(first, version("1", 4, "8"));
    assert_ne!(first, version("2", 3, "8"), "another object of its name");
    let Versioned { version, .. } = first.of_version();
    assert_eq!((version.uid.as_deref(), version.generation, &version.resource_version), (Some("1"), Some(3), &None));
    assert_eq!(Object::versioned(&Object::kept(&first.file()).unwrap().file()).unwrap().version, version, "it is kept");
    let refusal = refusal(&first);
    assert_eq!(refusal.object.unwrap().version, version, "who refuses it says which one");
    let stand_in = refusal.stand_in.unwrap();
    let stands_in = Object::versioned(&stand_in.sources[0]).unwrap();
    assert!(stands_in.stands_in && stands_in.version == version);
}

#[test]
fn an_annotation_is_shown_with_every_place_and_changes_nothing_else() {
    let hostile = "\u{1b}[2J\n--- \"\nkind: NetworkPolicy\u{202e}".repeat(400);
    assert!(hostile.len() > 10_000);
    let origin = "path: apps/db.yaml\nrepo: https://git.example/shop\n";
    for (name, text, shown) in [
        ("config.kubernetes.io/origin", origin, "(from \"apps/db.yaml in https://git.example/shop\")"),
        ("enforcer.dev/source", &hostile, "(from \"\\u{1b}[2J\\u{a}--- '\\u{a}kind: NetworkPolicy\\u{202e}"),
    ] {
        let annotations = json!({name: text, "enforcer.dev/stand-in": "true", "other": text});
        let object = given(PolicyKind::NetworkPolicy, "db", &annotations, &db());
        assert!(object.text.len() < 3_000 && !object.stands_in, "{}", object.text);
        let loaded = read(&object).unwrap();
        let place = only(&loaded).ingress[0].at.to_string();
        assert!(place.starts_with("networkpolicy/shop/db spec.ingress[0] (from "), "{place}");
        assert!(place.contains(shown) && place.chars().count() < 250 && !place.contains(char::is_control), "{place}");
        assert!(matches!(only(&loaded).ingress[1].peers, Peers::Any), "the rest is as it was");
        let refused = given(PolicyKind::NetworkPolicy, "db", &annotations, &json!({"x": 1}));
        let error = refusal(&refused).errors.to_string();
        assert!(error.contains("networkpolicy/shop/db spec.x (from ") && error.lines().count() < 8, "{error}");
        let again = restore(vec![object.file()]).remove(&Unit::Object((*object.name).clone())).unwrap().unwrap();
        assert_eq!((&again.set, &again.sources), (&loaded.set, &loaded.sources), "it is kept");
    }
}

#[test]
fn kept_texts_say_the_same_again_and_damaged_ones_say_nothing() {
    let good = read(&network(&db())).unwrap();
    let stand_in = refusal(&flow(&json!({"workloads": {"app": "db"}, "allow": [{"from": "x"}]}))).stand_in.unwrap();
    let files = |loaded: &Loaded| loaded.sources.to_vec();
    let kept = [files(&good), files(&stand_in)].concat();
    let said = restore(kept.clone());
    let sets: Vec<_> = said.values().map(|one| one.as_ref().unwrap()).collect();
    assert_eq!(sets.iter().map(|one| one.stands_in).collect::<Vec<_>>(), [true, false]);
    assert_eq!((&sets[0].set, &sets[1].set), (&stand_in.set, &good.set));
    let set = from_kept(&BTreeMap::from([("networkpolicies".to_owned(), vec![Arc::from(kept)])])).unwrap();
    assert_eq!(set.policies.len(), 2);
    // Two versions that stand in for one object are both kept.
    let wider = refusal(&flow(&json!({"isolate": ["ingress", "x"]}))).stand_in.unwrap();
    let said = restore([files(&stand_in), files(&wider)].concat());
    assert_eq!(said.into_values().next().unwrap().unwrap().set.policies.len(), 2);
    for damage in ["", "{}", "kind: NetworkPolicy", r#"{"kind": "NetworkPolicy", "metadata": {"name": "a"}}"#] {
        let file = SourceFile { path: "networkpolicy/shop/db".into(), text: damage.into() };
        let mut said = restore(vec![good.sources[0].clone(), file.clone()]);
        assert!(said.len() == 1 && said.remove(&Unit::Whole).unwrap().is_err(), "{damage}");
        assert!(from_kept(&BTreeMap::from([("networkpolicies".to_owned(), vec![Arc::from([file])])])).is_err());
    }
}

#[test]
fn nothing_is_said_before_the_first_list_and_a_missing_kind_has_nothing_to_say() {
    let (to, mut source) = source();
    assert!(matches!(source.read(), Word::Awaited));
    let stale = |cause| ViewStale { since: SystemTime::UNIX_EPOCH, cause, error: "no".into() };
    to.send_modify(|view| view.stale = Some(stale(Cause::Down)));
    assert!(matches!(source.read(), Word::Awaited));
    to.send_modify(|view| view.stale = Some(stale(Cause::NoSuchKind)));
    assert!(matches!(source.read(), Word::AsBefore));
    assert!(source.stale().unwrap().is_missing);
    listed(&to, [Arc::new(network(&db()))]);
    assert_eq!(all(&mut source).len(), 1, "what was listed stays, though the kind is gone");
    let shown = source.stale().unwrap();
    assert!(!shown.is_missing && shown.error.contains("install its CRD"), "{shown:?}");
    to.send_modify(|view| view.stale = Some(stale(Cause::Forbidden)));
    assert!(source.stale().unwrap().error.contains("`list` and `watch`"));
    listed(&to, []);
    assert!(all(&mut source).is_empty());
}

#[test]
fn of_a_thousand_policies_only_those_are_read_again_that_have_changed() {
    let (to, mut source) = source();
    let name = |number: usize| format!("p{number}");
    let object =
        |number: usize, spec: &Value| Arc::new(given(PolicyKind::NetworkPolicy, &name(number), &json!({}), spec));
    let mut objects: Vec<_> = (0..1_000).map(|number| object(number, &db())).collect();
    listed(&to, objects.clone());
    let first = all(&mut source);
    assert_eq!(first.len(), 1_000);
    objects[3] = object(3, &json!({"podSelector": {}}));
    objects[4] = object(4, &json!({"podSelector": {}, "x": 1}));
    objects.remove(9);
    listed(&to, objects.clone());
    let second = all(&mut source);
    assert_eq!(second.len(), 999);
    for (unit, loaded) in &second {
        let Unit::Object(object) = unit else { panic!("{unit:?}") };
        match (loaded, first[unit].as_ref().unwrap()) {
            (Ok(loaded), before) => {
                assert_eq!(Arc::ptr_eq(&loaded.set, &before.set), object.name != name(3), "{unit:?}");
            }
            (Err(_), _) => assert_eq!(object.name, name(4)),
        }
    }
}

#[test]
fn an_object_of_a_million_values_costs_little_and_isolates() {
    let mut nested = json!([]);
    for _ in 0..100 {
        nested = json!([nested]);
    }
    let many: Vec<&Value> = vec![&nested; 10_000];
    let selector = json!({"matchLabels": {"app": "db"}});
    let spec = json!({"podSelector": selector, "policyTypes": ["Egress"], "egress": many, "more": many});
    let object = network(&spec);
    assert!(object.text.len() < 10_000, "{}", object.text.len());
    assert_eq!(isolates(&object), Some((false, true)));
    let error = refusal(&object).errors.to_string();
    assert!(error.contains("more than 100000 YAML nodes") && error.contains("networkpolicy/shop/db"), "{error}");
    // A selector of that size cannot be read.
    let object = network(&json!({"podSelector": many}));
    assert!(object.text.len() < 10_000 && refusal(&object).stand_in.is_none());
}
