//! Tests of the whole way from YAML to the model.

mod files;
mod golden;
mod kinds;
mod limits;
mod meaning;
mod mutated;
mod nulls;
mod reference;

use std::sync::Arc;

use super::load::{Loaded, SourceFile, from_sources};
use super::model::Policy;

/// The set of one file.
fn loaded(text: &str) -> Loaded {
    let path = Arc::from("test.yaml");
    from_sources(vec![SourceFile { path, text: text.into() }]).unwrap_or_else(|error| panic!("{text:.2000}\n{error}"))
}

/// The one policy of a text.
fn policy(text: &str) -> Policy {
    let set = loaded(text).set;
    let [policy] = set.policies.as_slice() else { panic!("{set:?}") };
    (**policy).clone()
}

/// A NetworkPolicy with this `spec`, each line indented by two.
fn network_policy(spec: &str) -> String {
    format!("apiVersion: networking.k8s.io/v1\nkind: NetworkPolicy\nmetadata:\n  name: web\nspec:\n{spec}\n")
}

/// A FlowPolicy with this `spec`, each line indented by two.
fn flow_policy(spec: &str) -> String {
    format!("apiVersion: enforcer.dev/v1alpha1\nkind: FlowPolicy\nmetadata:\n  name: web\nspec:\n{spec}\n")
}
