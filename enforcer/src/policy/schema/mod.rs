//! What the API server takes for a FlowPolicy.
//!
//! Input: words and fields of the parser. Output: the `CustomResourceDefinition`. The API server refuses what a schema can
//! refuse, and tells the author at once; the parser of the agents decides. Tests compare the fields here with the types
//! that the parser reads, and both with a real API server.
//!
//! An API server drops unknown fields and nulls in silence unless the client forbids it, and a rule whose `ports` are
//! misspelt would then open every port. So this schema drops nothing (`x-kubernetes-preserve-unknown-fields`,
//! `nullable`). It counts the fields of an object in place of that: what has one more than the known ones is refused.

mod parts;
pub mod rules;
pub mod status;

use serde_json::{Value, json};

use self::parts::{cidr, closed, labels, list, ports};
use super::model::PolicyKind;
use super::parse::flow_policy::{DIRECTIONS, EVERYBODY};
use crate::kubernetes::{Column, Kind};

/// FlowPolicy among the kinds of the API.
pub const KIND: Kind = Kind {
    name: "FlowPolicy",
    plural: "flowpolicies",
    singular: "flowpolicy",
    short: "flowpol",
    namespaced: true,
    has_status: true,
};

/// The definition of the kind.
pub fn definition() -> Value {
    debug_assert_eq!(KIND.name, PolicyKind::FlowPolicy.as_str());
    let column = |name, holds, path, description| Column { name, holds, path, description };
    let columns = [
        column(
            "Isolates",
            "string",
            ".spec.isolate",
            "The directions that the policy isolates; empty: those of its rules.",
        ),
        column(
            "Ready",
            "string",
            ".status.conditions[?(@.type==\"Ready\")].status",
            "Whether it is in force on all nodes.",
        ),
        column("In force", "integer", ".status.nodesProgrammed", "Nodes on which its newest version is in force."),
        column("Nodes", "integer", ".status.nodesTotal", "Nodes that have an agent."),
    ];
    KIND.definition(&columns, &object())
}

fn object() -> Value {
    // An API server that writes `status` apart takes no count of fields here, so the agents see a field beside these.
    json!({
        "type": "object",
        "description":
            "Says which network flows of the workloads of a namespace are allowed. The policies of a namespace add up.",
        "properties": {
            "apiVersion": {"type": "string"},
            "kind": {"type": "string"},
            "metadata": {"type": "object"},
            "spec": spec(),
            "status": status::schema(),
        },
        "required": ["spec"],
        "x-kubernetes-preserve-unknown-fields": true,
    })
}

fn spec() -> Value {
    let directions = json!({"type": "string", "enum": DIRECTIONS});
    let mut isolate = list(
        "The directions that are isolated: `ingress`, `egress` or both. If it is absent, those of \
         the rules in `allow` are. In an isolated direction nothing passes but what some policy allows.",
        DIRECTIONS.len(),
        directions,
    );
    isolate["nullable"] = json!(true);
    isolate["x-kubernetes-validations"] = json!([{
        "rule": "size(self) < 2 || self[0] != self[1]", "message": "`isolate` names a direction twice",
    }]);
    let mut allow = list("The rules. Each allows more; none takes back what another one allows.", RULES, rule());
    // A policy that isolates may have an empty list.
    allow["minItems"] = json!(0);
    let mut spec = closed(
        "Whom the policy is for, and what they may send and receive.",
        &[
            &["isolate"],
            &["allow"],
            &["isolate", "allow"],
            &["workloads", "isolate"],
            &["workloads", "allow"],
            &["workloads", "isolate", "allow"],
        ],
        json!({
            "workloads": labels("The workloads of this namespace that the policy is for: labels, or `matchLabels` \
                and `matchExpressions`. If it is absent or empty, all workloads of the namespace."),
            "isolate": isolate,
            "allow": allow,
        }),
    );
    spec["allOf"] = json!([{"anyOf": directions_of_rules()}]);
    spec["x-kubernetes-validations"] = json!([{
        "rule": "has(self.isolate) || (has(self.allow) && size(self.allow) > 0)",
        "message": "the policy has neither `isolate` nor a rule in `allow`",
    }]);
    spec
}

/// A rule is in a direction that the policy isolates: the other one is open anyway.
fn directions_of_rules() -> Value {
    let alone = |direction: &str, peers: &str| {
        json!({"properties": {
            "isolate": {"enum": [[direction]]},
            "allow": {"items": {"required": [peers]}},
        }})
    };
    json!([
        {"not": {"required": ["isolate"]}},
        {"properties": {"isolate": {"minItems": 2}}},
        alone("ingress", "from"),
        alone("egress", "to"),
    ])
}

fn rule() -> Value {
    closed(
        "A rule has exactly one of `from` and `to`.",
        &[&["from"], &["to"], &["from", "ports"], &["to", "ports"]],
        json!({
            "from": peers("Who may connect to the workloads of the policy"),
            "to": peers("To whom the workloads of the policy may connect"),
            "ports": ports(),
        }),
    )
}

/// The word `anywhere`, or a list. A schema without a type is the only one that takes both; each type but the two is refused
/// by a bound that no value of it is in.
fn peers(who: &str) -> Value {
    let description = format!("{who}: a list of peers, or the word `{}`, which means everybody.", EVERYBODY[0]);
    let mut peers = list(&description, PEERS, peer());
    peers["pattern"] = json!(format!("^{}$", EVERYBODY[0]));
    // Longer than the word: of a text that is too long the API server says nothing but that.
    peers["maxLength"] = json!(64);
    peers["maxProperties"] = json!(0);
    peers["required"] = json!(["a list"]);
    parts::no_scalar(peers)
}

fn peer() -> Value {
    let mut except = list("Smaller networks in `cidr` that this peer leaves out.", EXCEPT, cidr("A part of `cidr`."));
    except["nullable"] = json!(true);
    closed(
        "A peer is workloads or addresses. Workloads have to match both `workloads` and `namespaces` where both are given.",
        &[&["workloads"], &["namespaces"], &["workloads", "namespaces"], &["cidr"], &["cidr", "except"]],
        json!({
            "workloads": labels("Labels of the workloads, or `matchLabels` and `matchExpressions`. Without \
                `namespaces` they are workloads of the policy's own namespace."),
            "namespaces": labels("Labels of the workloads' namespaces, or `matchLabels` and `matchExpressions`. \
                `{}` is every namespace."),
            "cidr": cidr("A network of IPv4 or IPv6, such as 10.0.0.0/8."),
            "except": except,
        }),
    )
}

/// Rules of a policy, peers of a rule, and networks that a peer leaves out.
const RULES: usize = 256;
const PEERS: usize = 256;
const EXCEPT: usize = 256;

#[cfg(test)]
mod tests;
