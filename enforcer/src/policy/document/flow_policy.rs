//! Shapes of an `enforcer.dev/v1alpha1` FlowPolicy.

use std::fmt;

use serde::de::{self, SeqAccess, Visitor};
use serde::{Deserialize, Deserializer};

use super::port::PortValueDoc;
use super::selector::LabelsDoc;
use crate::policy::position::{At, given};

/// `spec`.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(in crate::policy) struct SpecDoc {
    #[serde(default, deserialize_with = "given")]
    pub(in crate::policy) workloads: Option<At<LabelsDoc>>,
    #[serde(default, deserialize_with = "given")]
    pub(in crate::policy) isolate: Option<At<Vec<At<String>>>>,
    #[serde(default, deserialize_with = "given")]
    pub(in crate::policy) allow: Option<At<Vec<At<AllowDoc>>>>,
}

/// An item of `allow`.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(in crate::policy) struct AllowDoc {
    #[serde(default, deserialize_with = "given")]
    pub(in crate::policy) from: Option<At<PeersDoc>>,
    #[serde(default, deserialize_with = "given")]
    pub(in crate::policy) to: Option<At<PeersDoc>>,
    #[serde(default, deserialize_with = "given")]
    pub(in crate::policy) ports: Option<At<Vec<At<PortValueDoc>>>>,
}

/// The value of `from` or `to`: a list, or one word.
#[derive(Debug)]
pub(in crate::policy) enum PeersDoc {
    /// A word; only `anywhere` has a meaning.
    Word(String),
    /// Peer items.
    Items(Vec<At<PeerDoc>>),
}

/// An item of `from` or `to`. The boxes keep the lists of a hostile file small.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(in crate::policy) struct PeerDoc {
    #[serde(default, deserialize_with = "given")]
    pub(in crate::policy) workloads: Option<Box<At<LabelsDoc>>>,
    #[serde(default, deserialize_with = "given")]
    pub(in crate::policy) namespaces: Option<Box<At<LabelsDoc>>>,
    #[serde(default, deserialize_with = "given")]
    pub(in crate::policy) cidr: Option<At<String>>,
    #[serde(default, deserialize_with = "given")]
    pub(in crate::policy) except: Option<At<Vec<At<String>>>>,
}

impl<'de> Deserialize<'de> for PeersDoc {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct PeersVisitor;

        impl<'de> Visitor<'de> for PeersVisitor {
            type Value = PeersDoc;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a list of peers or the word `anywhere`")
            }

            fn visit_str<E: de::Error>(self, word: &str) -> Result<PeersDoc, E> {
                Ok(PeersDoc::Word(word.to_owned()))
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<PeersDoc, A::Error> {
                let mut peers = Vec::new();
                while let Some(peer) = items.next_element()? {
                    peers.push(peer);
                }
                Ok(PeersDoc::Items(peers))
            }
        }

        deserializer.deserialize_any(PeersVisitor)
    }
}
