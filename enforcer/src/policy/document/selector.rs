//! Shapes of label selectors: Kubernetes' own, and the shorter one of FlowPolicy.

use std::fmt;

use serde::de::{IgnoredAny, MapAccess, Visitor};
use serde::{Deserialize, Deserializer};

use crate::policy::help::near_name;
use crate::policy::position::{At, Field, given};

/// A `LabelSelector`.
#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(in crate::policy) struct LabelSelectorDoc {
    #[serde(default)]
    pub(in crate::policy) match_labels: Field<LabelMapDoc>,
    #[serde(default)]
    pub(in crate::policy) match_expressions: Field<Vec<At<ExpressionDoc>>>,
}

/// An item of `matchExpressions`.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(in crate::policy) struct ExpressionDoc {
    pub(in crate::policy) key: At<String>,
    pub(in crate::policy) operator: At<String>,
    #[serde(default, deserialize_with = "given")]
    pub(in crate::policy) values: Option<At<Vec<At<String>>>>,
}

/// One label of a selector, with the places of both halves.
pub(in crate::policy) type LabelDoc = (At<String>, At<String>);

/// Labels in the order in which they are written, each half with its place.
#[derive(Debug, Default)]
pub(in crate::policy) struct LabelMapDoc(pub(in crate::policy) Vec<LabelDoc>);

/// `workloads` and `namespaces` of a FlowPolicy: labels, or a `LabelSelector`.
#[derive(Debug, Default)]
pub(in crate::policy) struct LabelsDoc {
    /// Plain labels. A selector is a selector as soon as it has one of the two fields of a `LabelSelector`.
    pub(in crate::policy) labels: Vec<LabelDoc>,
    pub(in crate::policy) selector: LabelSelectorDoc,
    /// A key that looks like a misspelt field of a `LabelSelector`.
    pub(in crate::policy) misspelt: Option<At<String>>,
}

/// The fields of a `LabelSelector`.
pub(in crate::policy) const SELECTOR_FIELDS: [&str; 2] = ["matchLabels", "matchExpressions"];

impl<'de> Deserialize<'de> for LabelMapDoc {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct MapVisitor;

        impl<'de> Visitor<'de> for MapVisitor {
            type Value = LabelMapDoc;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a map of labels")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<LabelMapDoc, A::Error> {
                let mut labels = Vec::new();
                while let Some(label) = map.next_entry()? {
                    labels.push(label);
                }
                Ok(LabelMapDoc(labels))
            }
        }

        deserializer.deserialize_map(MapVisitor)
    }
}

impl<'de> Deserialize<'de> for LabelsDoc {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct LabelsVisitor;

        impl<'de> Visitor<'de> for LabelsVisitor {
            type Value = LabelsDoc;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a map of labels or a LabelSelector")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<LabelsDoc, A::Error> {
                let mut doc = LabelsDoc::default();
                while let Some(key) = map.next_key::<At<String>>()? {
                    match key.value.as_str() {
                        "matchLabels" => doc.selector.match_labels = map.next_value()?,
                        "matchExpressions" => doc.selector.match_expressions = map.next_value()?,
                        name if near_name(name, SELECTOR_FIELDS).is_some() => {
                            map.next_value::<IgnoredAny>()?;
                            doc.misspelt.get_or_insert(key);
                        }
                        _ => doc.labels.push((key, map.next_value()?)),
                    }
                }
                Ok(doc)
            }
        }

        deserializer.deserialize_map(LabelsVisitor)
    }
}
