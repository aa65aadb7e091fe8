//! The labels of an entry as a file writes them: a map, or a list of maps.

#![forbid(unsafe_code)]

use std::fmt;

use serde::de::value::MapAccessDeserializer;
use serde::de::{MapAccess, SeqAccess, Visitor};
use serde::{Deserialize, Deserializer};

use crate::workload::model::{LabelSets, Labels};

/// `{app: web}` or `[{app: web}, {app: log}]`. Not an untagged enum: that buffers the value and loses the positions.
#[derive(Default)]
pub(super) struct WrittenLabels(pub(super) LabelSets);

impl<'de> Deserialize<'de> for WrittenLabels {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Shape;
        impl<'de> Visitor<'de> for Shape {
            type Value = WrittenLabels;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a map of labels or a list of such maps")
            }
            fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<Self::Value, A::Error> {
                Ok(WrittenLabels(Labels::deserialize(MapAccessDeserializer::new(map))?.into()))
            }
            fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<Self::Value, A::Error> {
                let mut sets = Vec::new();
                while let Some(labels) = items.next_element::<Labels>()? {
                    sets.push(labels);
                }
                Ok(WrittenLabels(LabelSets::of(sets)))
            }
        }
        deserializer.deserialize_any(Shape)
    }
}
