//! What the `status` of a FlowPolicy says.
//!
//! Input: none. Output: its types, and their schema. The controller writes it, and no agent reads it.

use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

/// Characters of the message of a condition.
pub const MESSAGE: usize = 1_000;
/// Conditions of an object.
const CONDITIONS: usize = 8;
/// Characters of a type or a reason, and of a time.
const WORD: usize = 64;

/// The `status` of a FlowPolicy.
#[derive(Clone, Debug, Default, Deserialize, Eq, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Status {
    /// The `generation` that all of this is about.
    pub observed_generation: i64,
    /// Nodes that have an agent.
    pub nodes_total: u64,
    /// Those of them on which this generation is in force.
    pub nodes_programmed: u64,
    /// `Accepted`, `Enforced`, `Ready` and `Stalled`.
    pub conditions: Vec<Condition>,
}

/// A condition, as all kinds of Kubernetes have it.
#[derive(Clone, Debug, Default, Deserialize, Eq, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Condition {
    /// What it is about.
    #[serde(rename = "type")]
    pub kind: String,
    /// `True`, `False` or `Unknown`.
    pub status: String,
    /// The `generation` that it is about.
    pub observed_generation: i64,
    /// Since when `status` is as it is.
    pub last_transition_time: String,
    /// Why, in one word.
    pub reason: String,
    /// Why, for people.
    pub message: String,
}

/// The schema of `status`.
pub(super) fn schema() -> Value {
    let text =
        |description: &str, most: usize| json!({"type": "string", "description": description, "maxLength": most});
    let number =
        |description: &str| json!({"type": "integer", "format": "int64", "description": description, "minimum": 0});
    let condition = json!({
        "type": "object",
        "description": "One thing that holds or not.",
        "required": ["type", "status", "lastTransitionTime", "reason", "message"],
        "properties": {
            "type": text("What it is about.", WORD),
            "status": {
                "type": "string", "description": "Whether it holds: True, False or Unknown.",
                "enum": ["True", "False", "Unknown"],
            },
            "observedGeneration": number("The generation of the object that it is about."),
            "lastTransitionTime": {
                "type": "string", "format": "date-time", "description": "Since when its status is as it is.", "maxLength": WORD,
            },
            "reason": text("Why, in one word.", WORD),
            "message": text("Why, for people.", MESSAGE),
        },
    });
    json!({
        "type": "object",
        "description": "What the agents say about this policy. `enforcer controller` writes it; it decides nothing.",
        "properties": {
            "observedGeneration": number("The generation of the object that all of this is about."),
            "nodesTotal": number("Nodes that have an agent."),
            "nodesProgrammed": number("Those of them on which this generation is in force."),
            "conditions": {
                "type": "array",
                "description": "Accepted: no agent refuses this generation. Enforced: it is in force on all nodes. Ready: both. \
                    Stalled: it is refused, and stays so until it is changed.",
                "maxItems": CONDITIONS, "items": condition,
                "x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": ["type"],
            },
        },
    })
}
