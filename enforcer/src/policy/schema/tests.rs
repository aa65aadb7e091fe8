//! The schema beside the types of the parser.

use std::collections::BTreeSet;

use serde_json::Value;

use super::*;
use crate::kubernetes::tests::fields::read;
use crate::policy::document::PolicyDoc;
use crate::policy::document::flow_policy::{AllowDoc, PeerDoc, SpecDoc};
use crate::policy::document::selector::{ExpressionDoc, SELECTOR_FIELDS};
use crate::policy::parse::parse;

fn known(schema: &Value) -> BTreeSet<String> {
    schema["properties"].as_object().unwrap().keys().cloned().collect()
}

/// All fields of the sets that an object may have.
fn counted(schema: &Value) -> BTreeSet<String> {
    let sets = schema["anyOf"].as_array().unwrap().iter();
    sets.flat_map(|set| set["required"].as_array().unwrap()).map(|name| name.as_str().unwrap().to_owned()).collect()
}

#[test]
fn the_schema_has_the_fields_that_the_parser_reads() {
    let object = object();
    let spec = &object["properties"]["spec"];
    let rule = &spec["properties"]["allow"]["items"];
    let peer = &rule["properties"]["from"]["items"];
    let selector = &spec["properties"]["workloads"];
    let expression = &selector["additionalProperties"]["items"];
    assert_eq!(known(&object), read::<PolicyDoc<SpecDoc>>());
    assert_eq!(object["x-kubernetes-preserve-unknown-fields"], true, "nothing beside `spec` is dropped");
    for (schema, fields) in [
        (spec, read::<SpecDoc>()),
        (rule, read::<AllowDoc>()),
        (peer, read::<PeerDoc>()),
        (expression, read::<ExpressionDoc>()),
    ] {
        assert_eq!(known(schema), fields);
        assert_eq!(counted(schema), fields, "every field is in a set");
        assert_eq!(schema["x-kubernetes-preserve-unknown-fields"], true, "{fields:?}: nothing is dropped");
        for set in schema["anyOf"].as_array().unwrap() {
            assert_eq!(set["maxProperties"], set["required"].as_array().unwrap().len(), "{fields:?}: nothing is added");
        }
    }
    assert_eq!(rule["properties"]["to"]["items"], *peer);
    assert_eq!(counted_selector(selector), SELECTOR_FIELDS.map(str::to_owned).into());
}

#[test]
fn the_status_has_the_fields_that_the_controller_writes() {
    let status = status::schema();
    assert_eq!(known(&status), read::<status::Status>());
    assert_eq!(known(&status["properties"]["conditions"]["items"]), read::<status::Condition>());
}

fn counted_selector(selector: &Value) -> BTreeSet<String> {
    let sets = selector["anyOf"].as_array().unwrap().iter();
    let names = sets.filter_map(|set| set["required"].as_array()).flatten();
    names.map(|name| name.as_str().unwrap().to_owned()).collect()
}

#[test]
fn the_parser_refuses_the_words_that_the_schema_refuses_as_ports() {
    let errors = |port: &str| {
        let spec = json!({"allow": [{"from": "anywhere", "ports": [port]}]});
        let kind = PolicyKind::FlowPolicy;
        let object =
            json!({"apiVersion": kind.api_version(), "kind": kind.as_str(), "metadata": {"name": "a"}, "spec": spec});
        parse(&"a.yaml".into(), &object.to_string()).errors.len()
    };
    for word in parts::RESERVED {
        assert_eq!(errors(word), 1, "{word}");
    }
    assert_eq!(errors("http"), 0);
}

/// Every text, list and map has a bound, and every field a description.
#[test]
fn every_part_of_the_schema_is_bounded_and_described() {
    fn walk(path: &str, schema: &Value, parts: &mut usize) {
        *parts += 1;
        let has = |field: &str| schema.get(field).is_some();
        let kind = schema["type"].as_str().unwrap_or("any");
        let is_header = ["apiVersion", "kind", "metadata"].map(|name| format!(".{name}")).contains(&path.to_owned());
        let is_word = path.ends_with(".isolate[]");
        assert!(is_header || is_word || path.ends_with("{}") || has("description"), "{path} has no description");
        if ["string", "any"].contains(&kind) && !is_header {
            assert!(has("maxLength") || has("enum"), "{path}: a text without a bound");
        }
        if ["array", "any"].contains(&kind) {
            assert!(has("maxItems"), "{path}: a list without a bound");
        }
        if kind == "object" && has("additionalProperties") || kind == "any" {
            assert!(has("maxProperties"), "{path}: a map without a bound");
        }
        for (name, field) in schema["properties"].as_object().into_iter().flatten() {
            walk(&format!("{path}.{name}"), field, parts);
        }
        for (mark, field) in [("[]", "items"), ("{}", "additionalProperties")] {
            if let Some(inside) = schema.get(field) {
                walk(&format!("{path}{mark}"), inside, parts);
            }
        }
    }
    let mut parts = 0;
    walk("", &object(), &mut parts);
    assert!(parts > 50, "{parts}");
}
