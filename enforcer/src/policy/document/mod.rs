//! The serde types of the documents, as they are written and before anything is checked.
//!
//! Input: YAML nodes. Output: `*Doc` types whose every leaf knows its place. An unknown field in `spec` is an error. `metadata`
//! and `status` may have any fields, because other tools keep their own fields there.

pub(super) mod flow_policy;
pub(super) mod header;
pub(super) mod list;
pub(super) mod network_policy;
pub(super) mod node;
pub(super) mod port;
pub(super) mod selector;

use serde::Deserialize;
use serde::de::IgnoredAny;

use super::position::{At, Field, given};

/// A whole document of a known kind.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(super) struct PolicyDoc<Spec> {
    // The header was read before, and the list may say both for its items.
    #[serde(default, rename = "apiVersion")]
    _api_version: Option<IgnoredAny>,
    #[serde(default, rename = "kind")]
    _kind: Option<IgnoredAny>,
    pub(super) metadata: At<MetadataDoc>,
    pub(super) spec: At<Spec>,
    #[serde(default, rename = "status")]
    _status: Option<IgnoredAny>,
}

/// `metadata`; labels, annotations and what else there is are not ours to judge.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct MetadataDoc {
    #[serde(default, deserialize_with = "given")]
    pub(super) name: Option<At<String>>,
    #[serde(default)]
    pub(super) generate_name: Field<IgnoredAny>,
    #[serde(default, deserialize_with = "given")]
    pub(super) namespace: Option<At<String>>,
}
