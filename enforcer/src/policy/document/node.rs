//! A value of any shape, each part with its place.
//!
//! Input: YAML nodes. Output: a tree for those who ask about a document by paths, as the rules of a schema do. The parser
//! reads shapes of its own instead.

use std::fmt;

use serde::de::{self, MapAccess, SeqAccess, Visitor};
use serde::{Deserialize, Deserializer};
use serde_json::Value;
use serde_yaml::Spanned;

use crate::policy::position::Position;
use crate::policy::yaml::{self, DOCUMENT_NODES, Document};

/// A document, or an item of a list, of any kind.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(in crate::policy) struct ObjectDoc {
    pub(in crate::policy) api_version: Option<String>,
    pub(in crate::policy) kind: Option<String>,
    pub(in crate::policy) metadata: Option<Node>,
    pub(in crate::policy) spec: Option<Node>,
    items: Option<Vec<ObjectDoc>>,
}

/// A value and its place.
#[derive(Debug)]
pub(in crate::policy) struct Node {
    pub(in crate::policy) at: Position,
    inside: Inside,
}

#[derive(Debug)]
enum Inside {
    Scalar(Value),
    List(Vec<Node>),
    Map(Vec<(String, Node)>),
}

/// The objects of a document: itself, or the items of a list, which may leave kind and version to the list. None if it cannot be
/// read: the parser tells of that.
pub(in crate::policy) fn objects(document: Document<'_>) -> Vec<ObjectDoc> {
    let (Ok(Some(object)), _) = yaml::read_header::<ObjectDoc>(document, DOCUMENT_NODES) else { return Vec::new() };
    let ObjectDoc { api_version, kind, items, .. } = object;
    let Some(items) = items else { return vec![ObjectDoc { api_version, kind, items: None, ..object }] };
    let of_list = kind.as_deref().and_then(|kind| kind.strip_suffix("List")).filter(|kind| !kind.is_empty());
    let of_items = |item: ObjectDoc| match of_list {
        Some(kind) if item.kind.is_none() => {
            let api_version = item.api_version.clone().or_else(|| api_version.clone());
            ObjectDoc { api_version, kind: Some(kind.to_owned()), ..item }
        }
        _ => item,
    };
    items.into_iter().map(of_items).collect()
}

impl Node {
    /// The value alone.
    pub(in crate::policy) fn value(&self) -> Value {
        match &self.inside {
            Inside::Scalar(value) => value.clone(),
            Inside::List(items) => items.iter().map(Self::value).collect(),
            Inside::Map(fields) => fields.iter().map(|(name, value)| (name.clone(), value.value())).collect(),
        }
    }

    /// The part at a path such as `allow[0].ports[1]`, or the last part on the way there.
    pub(in crate::policy) fn at_path(&self, path: &str) -> &Self {
        let steps = path.split(['.', '[']).map(|step| step.trim_end_matches(']')).filter(|step| !step.is_empty());
        steps.fold(self, |node, step| node.inside(step).unwrap_or(node))
    }

    fn inside(&self, step: &str) -> Option<&Self> {
        match &self.inside {
            Inside::Scalar(_) => None,
            Inside::List(items) => items.get(step.parse::<usize>().ok()?),
            Inside::Map(fields) => fields.iter().find(|(name, _)| name == step).map(|(_, value)| value),
        }
    }
}

impl<'de> Deserialize<'de> for Node {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let Spanned { value, referenced, .. } = Spanned::<Inside>::deserialize(deserializer)?;
        Ok(Self { at: referenced.into(), inside: value })
    }
}

impl<'de> Deserialize<'de> for Inside {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct AnyVisitor;

        impl<'de> Visitor<'de> for AnyVisitor {
            type Value = Inside;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("any value")
            }

            fn visit_unit<E: de::Error>(self) -> Result<Inside, E> {
                Ok(Inside::Scalar(Value::Null))
            }

            fn visit_bool<E: de::Error>(self, value: bool) -> Result<Inside, E> {
                Ok(Inside::Scalar(value.into()))
            }

            fn visit_i64<E: de::Error>(self, value: i64) -> Result<Inside, E> {
                Ok(Inside::Scalar(value.into()))
            }

            fn visit_u64<E: de::Error>(self, value: u64) -> Result<Inside, E> {
                Ok(Inside::Scalar(value.into()))
            }

            fn visit_f64<E: de::Error>(self, value: f64) -> Result<Inside, E> {
                Ok(Inside::Scalar(value.into()))
            }

            fn visit_str<E: de::Error>(self, value: &str) -> Result<Inside, E> {
                Ok(Inside::Scalar(value.into()))
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<Inside, A::Error> {
                let mut nodes = Vec::new();
                while let Some(node) = items.next_element()? {
                    nodes.push(node);
                }
                Ok(Inside::List(nodes))
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Inside, A::Error> {
                let mut fields = Vec::new();
                while let Some(field) = map.next_entry()? {
                    fields.push(field);
                }
                Ok(Inside::Map(fields))
            }
        }

        deserializer.deserialize_any(AnyVisitor)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> Vec<ObjectDoc> {
        yaml::documents(text).flat_map(objects).collect()
    }

    #[test]
    fn a_path_leads_to_the_place_of_its_value_or_as_near_as_it_can() {
        let text = "kind: A\nspec:\n  allow:\n    - from: anywhere\n      ports: [1, 22/tcp]\n";
        let objects = read(text);
        let spec = objects[0].spec.as_ref().unwrap();
        for (path, line, column) in [
            ("", 3, 3),
            ("allow", 4, 5),
            ("allow[0].ports[1]", 5, 18),
            ("allow[0].ports[7]", 5, 14),
            ("allow[0].gone.deeper", 4, 7),
        ] {
            let Position { line: found, column: at, .. } = spec.at_path(path).at;
            assert_eq!((found, at), (line, column), "{path}");
        }
        assert_eq!(spec.value(), serde_json::json!({"allow": [{"from": "anywhere", "ports": [1, "22/tcp"]}]}));
    }

    #[test]
    fn items_of_a_list_have_the_kind_that_it_names() {
        let kinds = |text: &str| -> Vec<String> {
            read(text).into_iter().map(|object| format!("{:?} {:?}", object.api_version, object.kind)).collect()
        };
        let typed = "apiVersion: v1\nkind: ServiceList\nitems: [{spec: {}}, {apiVersion: v2, kind: B}]\n";
        assert_eq!(kinds(typed), [r#"Some("v1") Some("Service")"#, r#"Some("v2") Some("B")"#]);
        let untyped =
            "apiVersion: v1\nkind: List\nitems: [{apiVersion: v1, kind: Service}, {}]\n---\nkind: C\n---\n- x\n";
        assert_eq!(kinds(untyped), [r#"Some("v1") Some("Service")"#, "None None", r#"None Some("C")"#]);
    }
}
