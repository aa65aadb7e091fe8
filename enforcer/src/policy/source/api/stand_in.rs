//! What counts in the place of an object that is refused.
//!
//! Input: the object. Output: an object that isolates what its selector selects, in the directions that it names, and
//! allows nothing; `None` if its selector is missing or cannot be meant as one.

use std::collections::BTreeSet;

use serde_json::{Map, Value, json};

use super::object::Object;
use crate::policy::model::PolicyKind;

impl Object {
    /// What stands in for it. Whether its selector can be read is for the parser to say.
    pub(super) fn stand_in(&self) -> Option<Self> {
        let spec = self.value.get("spec")?.as_object()?;
        let selector = match self.kind {
            PolicyKind::NetworkPolicy => "podSelector",
            PolicyKind::FlowPolicy => "workloads",
        };
        // It may have been left out for its size.
        if self.too_large && !spec.contains_key(selector) {
            return None;
        }
        let spec = match self.kind {
            PolicyKind::NetworkPolicy => network_policy(spec),
            PolicyKind::FlowPolicy => flow_policy(spec)?,
        };
        Some(self.standing_in(Value::Object(spec)))
    }
}

/// An API server fills in an absent `podSelector`, and the empty one selects every pod.
fn network_policy(spec: &Map<String, Value>) -> Map<String, Value> {
    let has_egress = match spec.get("egress") {
        None | Some(Value::Null) => false,
        Some(Value::Array(rules)) => !rules.is_empty(),
        Some(_) => true,
    };
    let types = words(spec.get("policyTypes"), ["Ingress", "Egress"]).unwrap_or_else(|stated| {
        // What is there and cannot be read may mean either.
        if stated || has_egress { vec!["Ingress", "Egress"] } else { vec!["Ingress"] }
    });
    let mut isolating = Map::from_iter([("policyTypes".to_owned(), json!(types))]);
    isolating.extend(spec.get("podSelector").map(|selector| ("podSelector".to_owned(), selector.clone())));
    isolating
}

/// An absent `workloads` selects everybody, but not beside a field that may be a misspelt one.
fn flow_policy(spec: &Map<String, Value>) -> Option<Map<String, Value>> {
    const FIELDS: [&str; 3] = ["workloads", "isolate", "allow"];
    if !spec.contains_key("workloads") && spec.keys().any(|field| !FIELDS.contains(&field.as_str())) {
        return None;
    }
    let isolate = words(spec.get("isolate"), ["ingress", "egress"]).unwrap_or_else(|stated| {
        let both = vec!["ingress", "egress"];
        if stated { both } else { allowed(spec.get("allow")).unwrap_or(both) }
    });
    let mut isolating = Map::from_iter([("isolate".to_owned(), json!(isolate))]);
    isolating.extend(spec.get("workloads").map(|selector| ("workloads".to_owned(), selector.clone())));
    Some(isolating)
}

/// The directions of rules; `None`: some cannot be read, or there are none.
fn allowed(rules: Option<&Value>) -> Option<Vec<&'static str>> {
    let mut directions = BTreeSet::new();
    for rule in rules?.as_array()? {
        let direction = match (rule.get("from"), rule.get("to")) {
            (Some(_), None) => "ingress",
            (None, Some(_)) => "egress",
            (Some(_), Some(_)) | (None, None) => return None,
        };
        directions.insert(direction);
    }
    (!directions.is_empty()).then(|| directions.into_iter().collect())
}

/// The words of a list, each once; `Err`: there are none, and whether something else is there.
fn words(list: Option<&Value>, known: [&'static str; 2]) -> Result<Vec<&'static str>, bool> {
    let items = match list {
        None | Some(Value::Null) => return Err(false),
        Some(Value::Array(items)) if items.is_empty() => return Err(false),
        Some(Value::Array(items)) => items,
        Some(_) => return Err(true),
    };
    let word = |item: &Value| known.into_iter().find(|word| item.as_str() == Some(word));
    let found: Option<BTreeSet<&str>> = items.iter().map(word).collect();
    found.map(|found| found.into_iter().collect()).ok_or(true)
}
