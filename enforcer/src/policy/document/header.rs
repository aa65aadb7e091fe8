//! Shapes of what tells documents apart, before any of them is read as a policy.

use std::fmt;

use serde::de::{self, IgnoredAny, MapAccess, SeqAccess, Visitor};
use serde::{Deserialize, Deserializer};

use crate::policy::position::{At, given};

/// The header of a document or of an item of a list. Everything else is left for the second reading.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(in crate::policy) struct HeaderDoc {
    #[serde(default, deserialize_with = "given")]
    pub(in crate::policy) api_version: Option<At<String>>,
    #[serde(default, deserialize_with = "given")]
    pub(in crate::policy) kind: Option<At<String>>,
    #[serde(default)]
    pub(in crate::policy) metadata: Option<IgnoredAny>,
    #[serde(default)]
    pub(in crate::policy) spec: Option<SpecDoc>,
    /// Of a list.
    #[serde(default, deserialize_with = "given")]
    pub(in crate::policy) items: Option<At<Vec<At<HeaderDoc>>>>,
}

/// Fields of `spec` that policies have and hardly any other kind.
const MARKS: [&str; 4] = ["podSelector", "policyTypes", "isolate", "allow"];

/// Anything that stands in `spec`.
#[derive(Debug)]
pub(in crate::policy) struct SpecDoc {
    /// The first field of it that policies have.
    pub(in crate::policy) mark: Option<&'static str>,
}

impl<'de> Deserialize<'de> for SpecDoc {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct SpecVisitor;

        impl<'de> Visitor<'de> for SpecVisitor {
            type Value = SpecDoc;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("anything")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<SpecDoc, A::Error> {
                let mut mark = None;
                while let Some(Key(known)) = map.next_key()? {
                    mark = mark.or(known);
                    map.next_value::<IgnoredAny>()?;
                }
                Ok(SpecDoc { mark })
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<SpecDoc, A::Error> {
                while items.next_element::<IgnoredAny>()?.is_some() {}
                Ok(SpecDoc { mark: None })
            }

            fn visit_bool<E: de::Error>(self, _: bool) -> Result<SpecDoc, E> {
                Ok(SpecDoc { mark: None })
            }

            fn visit_i64<E: de::Error>(self, _: i64) -> Result<SpecDoc, E> {
                Ok(SpecDoc { mark: None })
            }

            fn visit_u64<E: de::Error>(self, _: u64) -> Result<SpecDoc, E> {
                Ok(SpecDoc { mark: None })
            }

            fn visit_f64<E: de::Error>(self, _: f64) -> Result<SpecDoc, E> {
                Ok(SpecDoc { mark: None })
            }

            fn visit_str<E: de::Error>(self, _: &str) -> Result<SpecDoc, E> {
                Ok(SpecDoc { mark: None })
            }

            fn visit_unit<E: de::Error>(self) -> Result<SpecDoc, E> {
                Ok(SpecDoc { mark: None })
            }
        }

        deserializer.deserialize_any(SpecVisitor)
    }
}

/// A field name of any type: a foreign map may have numbers and truth values as keys.
struct Key(Option<&'static str>);

impl<'de> Deserialize<'de> for Key {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct KeyVisitor;

        impl Visitor<'_> for KeyVisitor {
            type Value = Key;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a field name")
            }

            fn visit_str<E: de::Error>(self, name: &str) -> Result<Key, E> {
                Ok(Key(MARKS.into_iter().find(|mark| *mark == name)))
            }

            fn visit_bool<E: de::Error>(self, _: bool) -> Result<Key, E> {
                Ok(Key(None))
            }

            fn visit_i64<E: de::Error>(self, _: i64) -> Result<Key, E> {
                Ok(Key(None))
            }

            fn visit_u64<E: de::Error>(self, _: u64) -> Result<Key, E> {
                Ok(Key(None))
            }

            fn visit_f64<E: de::Error>(self, _: f64) -> Result<Key, E> {
                Ok(Key(None))
            }

            fn visit_unit<E: de::Error>(self) -> Result<Key, E> {
                Ok(Key(None))
            }
        }

        deserializer.deserialize_any(KeyVisitor)
    }
}
