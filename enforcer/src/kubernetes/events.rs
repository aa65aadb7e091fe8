//! Events, which people read beside an object.
//!
//! Input: what happened to which object. Output: an Event in its namespace, if the object is what it was said to be. The name of
//! an Event tells the same for the same happening, so it is there once, whoever writes it.

use k8s_openapi::api::core::v1::{Event, EventSource, ObjectReference, Pod};
use k8s_openapi::api::networking::v1::NetworkPolicy;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, Time};
use k8s_openapi::jiff::Timestamp;
use kube::Api;
use kube::api::PostParams;

use super::client::Cluster;
use super::view::Key;
use super::write::{WriteError, answered};

/// Characters of the name of the object in that of the Event.
const NAME: usize = 200;

/// An object of a namespace, as an Event names it.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct About {
    /// Its `apiVersion`.
    pub api_version: String,
    /// Its kind.
    pub kind: &'static str,
    /// Its namespace and name.
    pub key: Key,
    /// Its uid.
    pub uid: String,
}

/// What happened.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Happening {
    /// In one word.
    pub reason: &'static str,
    /// For people.
    pub message: String,
    /// The same for what is the same happening.
    pub id: String,
}

impl Cluster {
    /// Writes a warning about an object. One with this id that is there already stays as it is.
    pub async fn warn(&self, component: &str, about: &About, what: &Happening) -> Result<(), WriteError> {
        let api = Api::<Event>::namespaced(self.client(), &about.key.namespace);
        answered_or_there(api.create(&PostParams::default(), &event(component, about, what))).await
    }

    /// The uid of a pod, and the name of its node; `None`: there is no such pod.
    pub async fn pod_of(&self, key: &Key) -> Result<Option<(String, String)>, WriteError> {
        let api = Api::<Pod>::namespaced(self.client(), &key.namespace);
        let pod = answered(api.get_opt(&key.name)).await?;
        Ok(pod.and_then(|pod| Some((pod.metadata.uid?, pod.spec?.node_name?))))
    }

    /// The uid of a NetworkPolicy; `None`: there is none of this name.
    pub async fn network_policy_uid(&self, key: &Key) -> Result<Option<String>, WriteError> {
        let api = Api::<NetworkPolicy>::namespaced(self.client(), &key.namespace);
        Ok(answered(api.get_metadata_opt(&key.name)).await?.and_then(|policy| policy.metadata.uid))
    }
}

async fn answered_or_there<T>(request: impl Future<Output = kube::Result<T>>) -> Result<(), WriteError> {
    let request = async {
        match request.await {
            Ok(_) => Ok(()),
            Err(kube::Error::Api(status)) if status.code == 409 => Ok(()),
            Err(error) => Err(error),
        }
    };
    answered(request).await
}

fn event(component: &str, about: &About, what: &Happening) -> Event {
    let About { api_version, kind, key, uid } = about;
    let now = Some(Time(Timestamp::now()));
    let name: String = key.name.chars().take(NAME).collect();
    Event {
        metadata: ObjectMeta {
            name: Some(format!("{}.{}", name.trim_end_matches(['.', '-']), what.id)),
            namespace: Some(key.namespace.to_string()),
            ..ObjectMeta::default()
        },
        involved_object: ObjectReference {
            api_version: Some(api_version.clone()),
            kind: Some((*kind).to_owned()),
            namespace: Some(key.namespace.to_string()),
            name: Some(key.name.to_string()),
            uid: Some(uid.clone()),
            ..ObjectReference::default()
        },
        reason: Some(what.reason.to_owned()),
        message: Some(what.message.clone()),
        type_: Some("Warning".to_owned()),
        source: Some(EventSource { component: Some(component.to_owned()), host: None }),
        first_timestamp: now.clone(),
        last_timestamp: now,
        count: Some(1),
        ..Event::default()
    }
}
