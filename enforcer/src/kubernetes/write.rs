//! Writes objects of our own kinds.
//!
//! Input: an object. Output: the API server has it, or why not. Server-side apply creates the object where it is missing, and
//! changes no field that somebody else owns and we do not name.

use std::time::Duration;

use k8s_openapi::api::core::v1::Node;
use kube::Api;
use kube::api::{ApiResource, DynamicObject, GroupVersionKind, Patch, PatchParams};
use serde_json::Value;
use tokio::time::timeout;

use super::client::Cluster;
use super::crd::{GROUP, Kind, VERSION};
use super::fault::Fault;
use super::view::Cause;

/// Who owns the fields that an agent writes.
const MANAGER: &str = "enforcer-agent";
/// For how long an answer is waited for.
const ANSWER: Duration = Duration::from_secs(15);

/// Why something was not written.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
#[error("{text}")]
pub struct WriteError {
    /// What kind of trouble it is.
    pub cause: Cause,
    text: String,
}

impl From<Fault> for WriteError {
    fn from(fault: Fault) -> Self {
        Self { cause: fault.cause(), text: fault.to_string() }
    }
}

impl Cluster {
    /// Applies an object of a kind without namespaces.
    pub async fn apply(&self, kind: &Kind, name: &str, object: &Value) -> Result<(), WriteError> {
        let named = GroupVersionKind::gvk(GROUP, VERSION, kind.name);
        let resource = ApiResource::from_gvk_with_plural(&named, kind.plural);
        let api = Api::<DynamicObject>::all_with(self.client(), &resource);
        let params = PatchParams::apply(MANAGER).force();
        answered(api.patch(name, &params, &Patch::Apply(object))).await.map(drop)
    }

    /// Applies the `status` of an object in a namespace, which has to be there. `manager` owns the fields.
    pub async fn apply_status(
        &self,
        kind: &Kind,
        namespace: &str,
        name: &str,
        manager: &str,
        object: &Value,
    ) -> Result<(), WriteError> {
        let named = GroupVersionKind::gvk(GROUP, VERSION, kind.name);
        let resource = ApiResource::from_gvk_with_plural(&named, kind.plural);
        let api = Api::<DynamicObject>::namespaced_with(self.client(), namespace, &resource);
        let params = PatchParams::apply(manager).force();
        answered(api.patch_status(name, &params, &Patch::Apply(object))).await.map(drop)
    }

    /// The uid of the node object of this node.
    pub async fn node_uid(&self) -> Result<Option<String>, WriteError> {
        let api = Api::<Node>::all(self.client());
        Ok(answered(api.get_metadata(self.node())).await?.metadata.uid)
    }
}

pub(super) async fn answered<T>(request: impl Future<Output = kube::Result<T>>) -> Result<T, WriteError> {
    match timeout(ANSWER, request).await {
        Ok(answer) => answer.map_err(|error| Fault::of(&error).into()),
        Err(_) => Err(Fault::Silent(ANSWER.as_secs()).into()),
    }
}
