//! The shape of a list of objects, each item of its own kind.
//!
//! Input: YAML nodes, and which kind each item has. Output: the items that are policies. A list is read in one pass, however
//! many items it has.

use std::fmt;

use serde::de::{self, DeserializeSeed, IgnoredAny, MapAccess, SeqAccess, Visitor};
use serde::{Deserialize, Deserializer};

use super::{PolicyDoc, flow_policy, network_policy};
use crate::policy::model::PolicyKind;

/// An item that is a policy.
#[derive(Debug)]
pub(in crate::policy) enum ItemDoc {
    NetworkPolicy(Box<PolicyDoc<network_policy::SpecDoc>>),
    FlowPolicy(Box<PolicyDoc<flow_policy::SpecDoc>>),
}

/// Reads a list whose items have these kinds; `None`: an item that is no policy.
pub(in crate::policy) struct ListOf<'a>(pub(in crate::policy) &'a [Option<PolicyKind>]);

const FIELDS: &[&str] = &["apiVersion", "kind", "metadata", "items"];

impl<'de> DeserializeSeed<'de> for ListOf<'_> {
    type Value = Vec<ItemDoc>;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Vec<ItemDoc>, D::Error> {
        deserializer.deserialize_map(self)
    }
}

impl<'de> Visitor<'de> for ListOf<'_> {
    type Value = Vec<ItemDoc>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a list of objects")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Vec<ItemDoc>, A::Error> {
        let mut items = Vec::new();
        while let Some(field) = map.next_key::<String>()? {
            match field.as_str() {
                "items" => items = map.next_value_seed(Items(self.0))?,
                "apiVersion" | "kind" | "metadata" => _ = map.next_value::<IgnoredAny>()?,
                unknown => return Err(de::Error::unknown_field(unknown, FIELDS)),
            }
        }
        Ok(items)
    }
}

struct Items<'a>(&'a [Option<PolicyKind>]);

impl<'de> DeserializeSeed<'de> for Items<'_> {
    type Value = Vec<ItemDoc>;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Vec<ItemDoc>, D::Error> {
        deserializer.deserialize_seq(self)
    }
}

impl<'de> Visitor<'de> for Items<'_> {
    type Value = Vec<ItemDoc>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a list")
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<Vec<ItemDoc>, A::Error> {
        let mut policies = Vec::new();
        for kind in self.0 {
            // The header pass has read the same items.
            let Some(item) = items.next_element_seed(Item(*kind))? else { break };
            policies.extend(item);
        }
        Ok(policies)
    }
}

struct Item(Option<PolicyKind>);

impl<'de> DeserializeSeed<'de> for Item {
    type Value = Option<ItemDoc>;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Option<ItemDoc>, D::Error> {
        match self.0 {
            Some(PolicyKind::NetworkPolicy) => {
                Deserialize::deserialize(deserializer).map(|doc| Some(ItemDoc::NetworkPolicy(Box::new(doc))))
            }
            Some(PolicyKind::FlowPolicy) => {
                Deserialize::deserialize(deserializer).map(|doc| Some(ItemDoc::FlowPolicy(Box::new(doc))))
            }
            None => IgnoredAny::deserialize(deserializer).map(|_| None),
        }
    }
}
