//! The rules in CEL that the schema has, asked without an API server.
//!
//! Input: the texts of policy files that the parser takes. Output: an error for each rule that a FlowPolicy of them breaks, with
//! the message that the API server has for it, and the place of the field. The parser refuses all that these rules refuse, and
//! tests hold them together; so whatever is found here is a rule that was changed for the API server alone.

use std::io;
use std::sync::Arc;

use kube_cel::{CompiledSchema, Validator, compile_schema};
use serde_json::{Value, json};

use super::{KIND, object};
use crate::kubernetes::GROUP;
use crate::policy::PolicyError;
use crate::policy::document::node::objects;
use crate::policy::error::Problem;
use crate::policy::finding::{Place, PolicyFinding};
use crate::policy::load::{SourceFile, on_stack};
use crate::policy::yaml::{documents, without_marks};

/// What policies of our kind in these files break, in the order of the files.
pub fn broken(sources: &[SourceFile]) -> Vec<PolicyError> {
    let found = on_stack(|| {
        let rules = Rules::new();
        sources.iter().flat_map(|source| rules.broken_by(source)).collect()
    });
    found.unwrap_or_else(|cause: io::Error| {
        vec![PolicyFinding { file: Arc::from("."), place: None, what: Problem::Unreadable { cause } }]
    })
}

/// All rules, compiled.
struct Rules {
    schema: CompiledSchema,
    validator: Validator,
}

/// A rule that a `spec` breaks.
#[derive(Debug, Eq, PartialEq)]
struct Broken {
    /// The field, such as `allow[0].ports[1]`.
    path: String,
    message: String,
}

impl Rules {
    fn new() -> Self {
        Self { schema: compile_schema(&object()), validator: Validator::new() }
    }

    fn broken_by(&self, source: &SourceFile) -> Vec<PolicyError> {
        let text = without_marks(&source.text);
        let mut found = Vec::new();
        for document in documents(&text) {
            let flow_policies = objects(document).into_iter().filter(|object| {
                let group = object.api_version.as_deref().and_then(|version| version.split_once('/'));
                object.kind.as_deref() == Some(KIND.name) && group.is_some_and(|(group, _)| group == GROUP)
            });
            for spec in flow_policies.filter_map(|object| object.spec) {
                found.extend(self.broken_by_spec(&spec.value()).into_iter().map(|Broken { path, message }| {
                    let place = Place::new(document.text, spec.at_path(&path).at, document.lines_before);
                    PolicyFinding { file: Arc::clone(&source.path), place, what: Problem::BrokenRule { message } }
                }));
            }
        }
        found
    }

    fn broken_by_spec(&self, spec: &Value) -> Vec<Broken> {
        let object = json!({"spec": spec});
        let errors = match self.validator.validate_compiled(&self.schema, &object, None) {
            Ok(()) => Vec::new(),
            Err(errors) => errors.into_vec(),
        };
        let path = |path: &str| path.strip_prefix("spec").unwrap_or(path).trim_start_matches('.').to_owned();
        errors.into_iter().map(|error| Broken { path: path(&error.field_path), message: error.message }).collect()
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use enforcer_tests::flow_policies::{Refuses, flow_policy, good, refused};
    use proptest::prelude::*;

    use super::*;
    use crate::policy::parse::parse;

    /// The messages of all rules.
    fn messages(schema: &Value, found: &mut BTreeSet<String>) {
        match schema {
            Value::Object(fields) => {
                let rules = fields.get("x-kubernetes-validations").and_then(Value::as_array);
                let of_rules = rules.into_iter().flatten().map(|rule| rule["message"].as_str().unwrap().to_owned());
                found.extend(of_rules);
                fields.values().for_each(|field| messages(field, found));
            }
            Value::Array(items) => items.iter().for_each(|item| messages(item, found)),
            Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => {}
        }
    }

    fn is_refused(spec: &Value) -> bool {
        !parse(&"a.json".into(), &flow_policy(spec).to_string()).errors.is_empty()
    }

    #[test]
    fn each_rule_refuses_what_a_real_api_server_refuses_by_it_and_the_parser_refuses_that_too() {
        let rules = Rules::new();
        let mut all = BTreeSet::new();
        messages(&object(), &mut all);
        assert_eq!(all.len(), 6, "{all:?}");
        let mut unused = all.clone();
        for (what, spec, who) in refused() {
            let broken: Vec<String> = rules.broken_by_spec(&spec).into_iter().map(|broken| broken.message).collect();
            match who {
                Refuses::Rule(text) => {
                    assert!(broken.iter().any(|message| message.contains(text)), "{what}: {broken:?}");
                    assert!(broken.iter().all(|message| all.contains(message)), "{what}: {broken:?}");
                    assert!(is_refused(&spec), "{what}");
                    unused.retain(|message| !broken.contains(message));
                }
                // An API server asks no rule about a null.
                Refuses::Agent => assert!(broken.iter().all(|message| !all.contains(message)), "{what}: {broken:?}"),
                // Nor about a value of the wrong shape.
                Refuses::Shape(_) => {}
            }
        }
        assert_eq!(unused, BTreeSet::new(), "a rule without an object that breaks it");
        for spec in good() {
            assert_eq!(rules.broken_by_spec(&spec), [], "{spec}");
        }
    }

    #[test]
    fn a_broken_rule_is_told_with_its_place_also_in_a_list() {
        let text = "\
kind: ConfigMap
apiVersion: v1
data: {a: b}
---
kind: List
apiVersion: v1
items:
  - {kind: Service, apiVersion: v1, spec: {ports: [0/tcp]}}
  - apiVersion: enforcer.dev/v1alpha1
    kind: FlowPolicy
    spec:
      allow:
        - from: anywhere
          ports: [80/tcp, 90-80/tcp]
---
apiVersion: enforcer.dev/v1alpha1
kind: FlowPolicy
spec: {isolate: [ingress, ingress]}
";
        let found = broken(&[SourceFile { path: "p.yaml".into(), text: text.into() }]);
        let found: Vec<String> = found.iter().map(ToString::to_string).collect();
        insta::assert_snapshot!(found.join("\n\n"));
    }

    /// What the pattern of a port lets through to the rules.
    fn has_shape(port: &str) -> bool {
        let (name, protocol) = port.split_once('/').map_or((port, None), |(name, protocol)| (name, Some(protocol)));
        (1..=15).contains(&name.len())
            && port.len() <= 20
            && protocol.is_none_or(|word| !word.is_empty() && word.bytes().all(|byte| byte.is_ascii_lowercase()))
    }

    proptest! {
        #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

        /// Of ports, the rules and the parser refuse the same.
        #[test]
        fn the_rules_and_the_parser_agree_on_ports(
            port in prop_oneof![
                "[a-z0-9/-]{1,12}",
                "[0-9]{1,6}(-[0-9]{1,6})?/(tcp|udp|sctp|gre)",
                "(any|icmp|tcp|ping|http|a--b|8a|-a|a-|9-9a)(/(tcp|udp))?",
            ]
        ) {
            let spec = json!({"allow": [{"from": "anywhere", "ports": [port]}]});
            let is_broken = !has_shape(&port) || !RULES.with(|rules| rules.broken_by_spec(&spec).is_empty());
            prop_assert_eq!(is_broken, is_refused(&spec), "{}", port);
        }
    }

    thread_local! {
        static RULES: Rules = Rules::new();
    }
}
