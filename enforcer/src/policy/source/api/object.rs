//! One object, trimmed to what makes its policy.
//!
//! Input: an object as the API gives it, or the text that an earlier daemon has kept of it. Output: its name, and a text
//! with its `spec` as it came, and with its version for people. What the API server and other tools keep beside it (`status`,
//! `managedFields`, labels) changes no policy and is left out.

use std::collections::BTreeMap;
use std::sync::Arc;

use kube::core::DynamicObject;
use serde::Deserialize;
use serde_json::{Map, Value, json};

use super::declared::{SOURCE, declared};
use crate::policy::load::SourceFile;
use crate::policy::model::PolicyKind;
use crate::policy::origin::ObjectName;
use crate::policy::source::shape::{Version, Versioned};
use crate::policy::yaml::DOCUMENT_NODES;

/// Marks the text of a policy that stands in for a refused one. An object of the API cannot have the mark here, because
/// its annotations are left out.
const STAND_IN: &str = "enforcer.dev/stand-in";
/// Fields of an object that its header has, or that change no policy.
const NOT_KEPT: [&str; 4] = ["apiVersion", "kind", "metadata", "status"];

/// Fields of `spec` whose number of items has no natural bound.
const RULES: [&str; 3] = ["ingress", "egress", "allow"];

/// An object without what makes no difference.
#[derive(Debug)]
pub(super) struct Object {
    pub(super) kind: PolicyKind,
    pub(super) name: Arc<ObjectName>,
    /// Where it says that it was taken from.
    pub(super) declared: Option<Arc<str>>,
    /// Which version of it this is.
    version: Version,
    /// Whether it is refused for its size. Then it has no rules here, so that its text stays small.
    pub(super) too_large: bool,
    /// Whether it stands in for a refused one.
    pub(super) stands_in: bool,
    pub(super) value: Value,
    /// The whole value, one field or item a line.
    pub(super) text: Arc<str>,
}

/// The name and version of a kept text, without its `spec`.
#[derive(Deserialize)]
struct HeaderOnly {
    kind: String,
    metadata: MetadataOnly,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct MetadataOnly {
    namespace: String,
    name: String,
    #[serde(default)]
    resource_version: Option<String>,
    #[serde(default)]
    uid: Option<String>,
    #[serde(default)]
    generation: Option<i64>,
    #[serde(default)]
    annotations: BTreeMap<String, String>,
}

/// The text holds all that there is.
impl PartialEq for Object {
    fn eq(&self, other: &Self) -> bool {
        self.text == other.text
    }
}

impl Object {
    /// What is kept of an object of the API; `None`: it has no name, which no API server allows.
    pub(super) fn of(kind: PolicyKind, object: DynamicObject) -> Option<Self> {
        let DynamicObject { types: _, metadata, data } = object;
        let name = ObjectName { kind: kind.as_str(), namespace: metadata.namespace?, name: metadata.name? };
        let declared = metadata.annotations.as_ref().and_then(declared);
        let (uid, generation) = (metadata.uid, metadata.generation);
        // A writing of `status` changes the resourceVersion, and is no other version of the policy.
        let has_status = kind == PolicyKind::FlowPolicy && generation.is_some();
        let resource_version = metadata.resource_version.filter(|_| !has_status);
        let version = Version { resource_version, uid, generation };
        let mut rest = Map::new();
        if let Value::Object(data) = data {
            // Whatever else stands beside `spec` is refused by its name.
            rest.extend(data.into_iter().filter(|(field, _)| !NOT_KEPT.contains(&field.as_str())));
        }
        let too_large = nodes(rest.values()) > DOCUMENT_NODES;
        if too_large {
            rest.retain(|field, _| field == "spec");
            if let Some(Value::Object(spec)) = rest.get_mut("spec") {
                spec.retain(|field, value| !RULES.contains(&field.as_str()) && nodes([&*value]) <= DOCUMENT_NODES / 10);
            }
            rest.retain(|_, spec| nodes([&*spec]) <= DOCUMENT_NODES);
        }
        Some(Self { too_large, ..Self::with(kind, name.into(), declared, version, false, rest) })
    }

    /// The object with another `spec`, as what stands in for it.
    pub(super) fn standing_in(&self, spec: Value) -> Self {
        let rest = Map::from_iter([("spec".to_owned(), spec)]);
        Self::with(self.kind, Arc::clone(&self.name), self.declared.clone(), self.version.clone(), true, rest)
    }

    /// The object of a kept text; `None`: it is no such text.
    pub(super) fn kept(file: &SourceFile) -> Option<Self> {
        let value: Value = serde_json::from_str(&file.text).ok()?;
        let field = |path: &str| value.pointer(path).and_then(Value::as_str);
        let kinds = [PolicyKind::NetworkPolicy, PolicyKind::FlowPolicy];
        let kind = kinds.into_iter().find(|kind| field("/kind") == Some(kind.as_str()))?;
        let (namespace, name) = (field("/metadata/namespace")?.to_owned(), field("/metadata/name")?.to_owned());
        let annotations: BTreeMap<String, String> = match value.pointer("/metadata/annotations") {
            Some(annotations) => serde_json::from_value(annotations.clone()).ok()?,
            None => BTreeMap::new(),
        };
        let name = ObjectName { kind: kind.as_str(), namespace, name };
        let version = Version {
            resource_version: field("/metadata/resourceVersion").map(str::to_owned),
            uid: field("/metadata/uid").map(str::to_owned),
            generation: value.pointer("/metadata/generation").and_then(Value::as_i64),
        };
        let Value::Object(mut rest) = value else { return None };
        rest.retain(|field, _| !NOT_KEPT.contains(&field.as_str()));
        Some(Self::with(kind, name.into(), declared(&annotations), version, annotations.contains_key(STAND_IN), rest))
    }

    fn with(
        kind: PolicyKind,
        name: Arc<ObjectName>,
        declared: Option<Arc<str>>,
        version: Version,
        stands_in: bool,
        rest: Map<String, Value>,
    ) -> Self {
        let mut annotations = Map::new();
        if let Some(declared) = &declared {
            annotations.insert(SOURCE.to_owned(), json!(declared));
        }
        if stands_in {
            annotations.insert(STAND_IN.to_owned(), json!("true"));
        }
        let mut metadata =
            Map::from_iter([("namespace".to_owned(), json!(name.namespace)), ("name".to_owned(), json!(name.name))]);
        let Version { resource_version, uid, generation } = &version;
        let told = [
            ("resourceVersion", resource_version.as_ref().map(|version| json!(version))),
            ("uid", uid.as_ref().map(|uid| json!(uid))),
            ("generation", generation.map(|generation| json!(generation))),
        ];
        metadata.extend(told.into_iter().filter_map(|(field, value)| Some((field.to_owned(), value?))));
        if !annotations.is_empty() {
            metadata.insert("annotations".to_owned(), Value::Object(annotations));
        }
        let mut value = rest;
        value.insert("apiVersion".to_owned(), json!(kind.api_version()));
        value.insert("kind".to_owned(), json!(kind.as_str()));
        value.insert("metadata".to_owned(), Value::Object(metadata));
        let value = Value::Object(value);
        // `Value` has text keys only, so it can always be written; `{:#}` writes one field or item a line.
        let text = format!("{value:#}").into();
        Self { kind, name, declared, version, too_large: false, stands_in, value, text }
    }

    /// What counts by a kept text; `None`: it is no such text.
    pub(super) fn versioned(file: &SourceFile) -> Option<Versioned> {
        let HeaderOnly { kind, metadata } = serde_json::from_str(&file.text).ok()?;
        let MetadataOnly { namespace, name, resource_version, uid, generation, annotations } = metadata;
        let version = Version { resource_version, uid, generation };
        Some(Versioned { kind, namespace, name, version, stands_in: annotations.contains_key(STAND_IN) })
    }

    /// The name of the object, and which version this is.
    pub(super) fn of_version(&self) -> Versioned {
        let ObjectName { kind, namespace, name } = (*self.name).clone();
        Versioned { kind: kind.to_owned(), namespace, name, version: self.version.clone(), stands_in: self.stands_in }
    }

    /// The text as a source keeps it.
    pub(super) fn file(&self) -> SourceFile {
        SourceFile { path: self.name.to_string().into(), text: Arc::clone(&self.text) }
    }
}

/// How many values and names of fields there are, nested ones included.
fn nodes<'a>(values: impl IntoIterator<Item = &'a Value>) -> usize {
    let inside = |value: &Value| match value {
        Value::Object(fields) => fields.len() + nodes(fields.values()),
        Value::Array(items) => nodes(items),
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => 0,
    };
    values.into_iter().map(|value| 1 + inside(value)).sum()
}
