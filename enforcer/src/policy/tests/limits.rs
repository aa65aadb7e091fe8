//! The limits on one file, just inside and just outside.

use std::sync::Arc;

use super::{flow_policy, loaded};
use crate::policy::load::{SourceFile, from_sources};

fn refused(text: String) -> String {
    from_sources(vec![SourceFile { path: Arc::from("test.yaml"), text: text.into() }]).unwrap_err().to_string()
}

/// A FlowPolicy of `nodes` nodes: 18 of the document around the list, and 1 for each port.
fn with_nodes(nodes: usize) -> String {
    flow_policy(&format!("  allow: [{{from: anywhere, ports: [{}]}}]", "any/tcp, ".repeat(nodes - 18)))
}

#[test]
fn a_document_has_at_most_100_000_nodes() {
    loaded(&with_nodes(100_000));
    let message = refused(with_nodes(100_001));
    insta::assert_snapshot!(message.lines().next().unwrap(), @"error: the document has more than 100000 YAML nodes");
    insta::assert_snapshot!(message.lines().last().unwrap(), @"  = help: split the policy into several policies: the policies of a workload add up");
}

#[test]
fn a_file_has_at_most_500_000_nodes() {
    // Refused documents count as well, if they are read to their end.
    let document = |nodes: usize| format!("---\nkind: x\nmore: [{}]\n", "a, ".repeat(nodes - 5));
    let almost = document(100_000).repeat(5);
    assert!(!refused(almost.clone()).contains("more than 500000"));
    let message = refused(almost + "---\nkind: x\n");
    assert_eq!(message.matches("the field `apiVersion` is missing").count(), 5);
    assert_eq!(message.matches("error: the file has more than 500000 YAML nodes").count(), 1);
}

#[test]
fn only_so_many_errors_are_shown() {
    let message = refused("---\nkind: x\n".repeat(1_000));
    assert_eq!(message.matches("the field `apiVersion` is missing").count(), 100);
    assert_eq!(message.matches("the rest of the file was not read").count(), 1);
}
