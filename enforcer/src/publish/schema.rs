//! The definition of the kind `EnforcerNode`.
//!
//! Input: the bounds of its types. Output: the `CustomResourceDefinition`. A test compares the fields with the types.

use serde_json::{Value, json};

use super::status::{ERROR, MOST_PODS, MOST_POLICIES, MOST_REASONS, MOST_REFUSED, MOST_STALE, REFUSAL};
use crate::kubernetes::{Column, Kind};

/// Characters of a name, and of a version and of a time.
const NAME: usize = 253;
const SHORT: usize = 64;

/// `EnforcerNode` among the kinds of the API.
pub const KIND: Kind = Kind {
    name: "EnforcerNode",
    plural: "enforcernodes",
    singular: "enforcernode",
    short: "enfnode",
    namespaced: false,
    has_status: false,
};

/// The definition of the kind.
pub fn definition() -> Value {
    let column = |name, holds, path, description| Column { name, holds, path, description };
    let columns = [
        column("Version", "string", ".status.version", "Version of the agent."),
        column("Ready", "boolean", ".status.ready", "Whether the first full set of policies is in the kernel."),
        column("Revision", "integer", ".status.revision", "Revision of the policies in the kernel."),
        column("Policies", "integer", ".status.policyCount", "Policies in force."),
        column("Workloads", "integer", ".status.workloads.named", "Workloads of the node with a name."),
        column("Stale since", "string", ".status.staleSince", "Since when the view of the API may be out of date."),
    ];
    KIND.definition(&columns, &object())
}

fn object() -> Value {
    json!({
        "type": "object",
        "description": "What the agent of one node says about itself. The agent writes it. People read it, and the controller, which decides nothing by it.",
        "properties": {
            "apiVersion": {"type": "string"},
            "kind": {"type": "string"},
            "metadata": {"type": "object"},
            "status": status(),
        },
    })
}

fn status() -> Value {
    let policy = fields(
        "A policy of the API that is in force.",
        json!({
            "kind": text("Its kind.", SHORT),
            "namespace": text("Its namespace.", NAME),
            "name": text("Its name.", NAME),
            "resourceVersion": text("The resourceVersion of the object from which it was read. Absent: it is not known, or the generation tells it.", SHORT),
            "uid": text("The uid of the object.", SHORT),
            "generation": number("The generation of the object from which it was read."),
            "standsIn": {"type": "boolean", "description": "It isolates in the place of this version of the object, which is refused."},
        }),
    );
    let refused = fields(
        "A policy of the API of which the newest version is refused.",
        json!({
            "kind": text("Its kind.", SHORT),
            "namespace": text("Its namespace.", NAME),
            "name": text("Its name.", NAME),
            "resourceVersion": text("The resourceVersion of the refused version. Absent: it is not known, or the generation tells it.", SHORT),
            "uid": text("The uid of the object.", SHORT),
            "generation": number("The generation of the refused version."),
            "instead": text("What counts in its place: LastGood is its last good version, Isolation is a policy without rules, and Nothing is nothing.", SHORT),
            "error": text("Why it is refused.", REFUSAL),
        }),
    );
    let unmanaged = fields(
        "Pods that are not enforced for one reason.",
        json!({
            "reason": text("The reason, in one word.", SHORT),
            "count": number("How many pods."),
            "pods": list("Some of them, as NAMESPACE/NAME.", MOST_PODS, text("A pod.", 2 * NAME + 1)),
        }),
    );
    let stale = fields(
        "A source of which the last word may be out of date.",
        json!({
            "since": text("Since when.", SHORT),
            "error": text("What is in the way.", ERROR),
        }),
    );
    fields(
        "What the agent knows of its node.",
        json!({
            "version": text("Version of the agent.", SHORT),
            "ready": {"type": "boolean", "description": "Whether the first full set of policies and workloads is in the kernel."},
            "revision": number("Revision of the policies in the kernel."),
            "policyCount": number("How many policies are in force."),
            "policies": list("The policies of the API in force, FlowPolicies first, by name. Of more, the first ones.", MOST_POLICIES, policy),
            "refused": list("The policies of the API of which the newest version is refused. Of more, the first ones.", MOST_REFUSED, refused),
            "veths": fields("Veths by what holds for them.", json!({
                "enforced": number("They have their programs, and a source names their workload."),
                "unknown": number("They have their programs, and no source names their workload."),
                "failed": number("They have no place in the tables, or lack a program."),
            })),
            "workloads": fields("Workloads of this node.", json!({
                "named": number("They have a name."),
                "unknown": number("They have none."),
            })),
            "unmanagedPods": list("Pods of this node that are not enforced, by reason.", MOST_REASONS, unmanaged),
            "stale": list("Sources of which the last word may be out of date.", MOST_STALE, stale),
            "staleSince": text("Since when the first of them is.", SHORT),
            "lastError": text("Why something of the newest policies or workloads is not in force.", ERROR),
        }),
    )
}

#[expect(clippy::needless_pass_by_value, reason = "a part is made where it is given away")]
fn fields(description: &str, properties: Value) -> Value {
    json!({"type": "object", "description": description, "properties": properties})
}

#[expect(clippy::needless_pass_by_value, reason = "a part is made where it is given away")]
fn list(description: &str, most: usize, items: Value) -> Value {
    json!({"type": "array", "description": description, "maxItems": most, "items": items})
}

fn text(description: &str, most: usize) -> Value {
    json!({"type": "string", "description": description, "maxLength": most})
}

fn number(description: &str) -> Value {
    json!({"type": "integer", "format": "int64", "description": description, "minimum": 0})
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::super::status::{Applied, NodeStatus, RefusedPolicy, StaleSource, Unmanaged, Veths, Workloads};
    use super::*;
    use crate::kubernetes::tests::fields::read;

    #[test]
    fn the_schema_has_the_fields_that_an_agent_writes() {
        let status = status();
        let part = |name: &str| &status["properties"][name];
        for (schema, fields) in [
            (&status, read::<NodeStatus>()),
            (&part("policies")["items"], read::<Applied>()),
            (&part("refused")["items"], read::<RefusedPolicy>()),
            (part("veths"), read::<Veths>()),
            (part("workloads"), read::<Workloads>()),
            (&part("unmanagedPods")["items"], read::<Unmanaged>()),
            (&part("stale")["items"], read::<StaleSource>()),
        ] {
            let known: BTreeSet<String> = schema["properties"].as_object().unwrap().keys().cloned().collect();
            assert_eq!(known, fields);
        }
    }
}
