//! A port as it is written: a number or a text.

use std::fmt;

use serde::de::{self, Visitor};
use serde::{Deserialize, Deserializer};

/// A number or a text; which of them is legal depends on the field.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(in crate::policy) enum PortValueDoc {
    /// A YAML integer.
    Number(i64),
    /// Anything that YAML reads as text: quoted digits and `080` too.
    Text(String),
}

impl<'de> Deserialize<'de> for PortValueDoc {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct PortVisitor;

        impl Visitor<'_> for PortVisitor {
            type Value = PortValueDoc;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a port")
            }

            fn visit_i64<E: de::Error>(self, number: i64) -> Result<PortValueDoc, E> {
                Ok(PortValueDoc::Number(number))
            }

            fn visit_u64<E: de::Error>(self, number: u64) -> Result<PortValueDoc, E> {
                Ok(PortValueDoc::Number(i64::try_from(number).unwrap_or(i64::MAX)))
            }

            fn visit_f64<E: de::Error>(self, number: f64) -> Result<PortValueDoc, E> {
                // No port, and neither is an integer of more than 64 bits; as a text it is refused at its own place.
                Ok(PortValueDoc::Text(format!("{number:?}")))
            }

            fn visit_str<E: de::Error>(self, text: &str) -> Result<PortValueDoc, E> {
                Ok(PortValueDoc::Text(text.to_owned()))
            }
        }

        deserializer.deserialize_any(PortVisitor)
    }
}
