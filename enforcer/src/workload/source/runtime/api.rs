//! What Enforcer asks of the runtime's API: the containers that may have a network namespace, the pods of podman, and events.

#![forbid(unsafe_code)]

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use bollard::Docker;
use bollard::errors::Error;
use bollard::models::EventMessage;
use bollard::query_parameters::EventsOptionsBuilder;
use futures_util::{FutureExt, Stream, StreamExt};
use serde::Deserialize;

use super::http::{CallError, get};
use super::{Container, Pod, RuntimeKind};
use crate::workload::model::Labels;

/// Seconds that one call may take.
const CALL_TIMEOUT: u64 = 8;

/// Events so long before the subscription are sent again.
const REPLAY: Duration = Duration::from_secs(2);

/// Why the runtime could not be asked.
#[derive(Debug, thiserror::Error)]
pub(super) enum ApiError {
    /// A list or a container.
    #[error(transparent)]
    Call(#[from] CallError),
    /// The events.
    #[error(transparent)]
    Events(#[from] Error),
}

/// A connection to the runtime.
#[derive(Debug)]
pub(super) struct Api {
    docker: Docker,
    socket: PathBuf,
    /// It has pods.
    is_podman: bool,
    /// What the last list gave, by id.
    known: BTreeMap<String, Container>,
}

/// Events that may change the list.
pub(super) struct Events {
    stream: Pin<Box<dyn Stream<Item = Result<EventMessage, Error>> + Send>>,
}

/// An item of the list of containers.
#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Listed {
    id: String,
    /// Not an enum: the runtimes have more states than their API names.
    #[serde(default)]
    state: String,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Details {
    id: String,
    name: String,
    #[serde(default)]
    config: Config,
    #[serde(default)]
    host_config: HostConfig,
    #[serde(default)]
    network_settings: NetworkSettings,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Config {
    labels: Option<Labels>,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "PascalCase")]
struct HostConfig {
    #[serde(default)]
    network_mode: String,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "PascalCase")]
struct NetworkSettings {
    #[serde(default)]
    sandbox_key: String,
    networks: Option<BTreeMap<String, Network>>,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Network {
    #[serde(rename = "IPAddress", default)]
    v4: String,
    #[serde(rename = "GlobalIPv6Address", default)]
    v6: String,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct PodDetails {
    name: String,
    #[serde(default)]
    infra_id: String,
    labels: Option<Labels>,
}

impl Api {
    pub(super) fn connect(kind: &RuntimeKind) -> Result<Self, Error> {
        let path = kind.socket().to_string_lossy();
        let docker = Docker::connect_with_unix(&path, CALL_TIMEOUT, bollard::API_DEFAULT_VERSION)?;
        let is_podman = matches!(kind, RuntimeKind::Podman(_));
        Ok(Self { docker, socket: kind.socket().to_owned(), is_podman, known: BTreeMap::new() })
    }

    /// Subscribes to what happens to containers.
    pub(super) async fn events(&self) -> Result<Events, Error> {
        // Both runtimes speak older versions of the API than the client asks for by default.
        let docker = self.docker.clone().negotiate_version().await?;
        let filters = HashMap::from([("type", vec!["container"])]);
        // The request goes out when the stream is first polled, after the list; the replay closes the gap between them.
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let since = now.saturating_sub(REPLAY).as_secs().to_string();
        let options = EventsOptionsBuilder::new().since(&since).filters(&filters).build();
        Ok(Events { stream: Box::pin(docker.events(Some(options))) })
    }

    /// All containers that may have a network namespace, whatever their state, and those that own the namespace of one of
    /// them. A container of the last list stays while its namespace is there, even if the runtime lists it no more: it stops,
    /// or it is being removed.
    pub(super) async fn containers(&mut self) -> Result<Vec<Container>, CallError> {
        let pods = self.pods().await?;
        let listed: Vec<Listed> = get(&self.socket, "/containers/json?all=1").await?;
        let wanted = listed.into_iter().filter(|listed| may_have_namespace(&listed.state));
        let mut wanted: BTreeSet<String> = wanted.map(|listed| listed.id).collect();
        // podman's list leaves out the infra container of a pod in some versions.
        wanted.extend(pods.keys().cloned());
        let mut seen = BTreeSet::new();
        let mut containers: BTreeMap<String, Container> = BTreeMap::new();
        while let Some(id) = wanted.pop_first() {
            if !is_reference(&id) || !seen.insert(id.clone()) {
                continue;
            }
            match get::<Details>(&self.socket, &format!("/containers/{id}/json")).await {
                Ok(details) => {
                    let container = container_of(details, &pods);
                    wanted.extend(container.network_of.clone().filter(|id| !seen.contains(id)));
                    containers.insert(container.id.clone(), container);
                }
                // It was removed between the list and now.
                Err(error) if error.is_missing() => {}
                Err(error) => return Err(error),
            }
        }
        for (id, container) in std::mem::take(&mut self.known) {
            if container.sandbox.as_deref().is_some_and(Path::exists) {
                // One that stops has lost its namespace in the answer before it has lost it in the kernel.
                let now = containers.entry(id).or_insert_with(|| container.clone());
                if now.sandbox.is_none() && now.network_of == container.network_of {
                    now.sandbox = container.sandbox;
                    now.addresses = container.addresses;
                }
            }
        }
        self.known.clone_from(&containers);
        Ok(containers.into_values().collect())
    }

    /// The pods of podman, by the id of their infra container.
    async fn pods(&self) -> Result<BTreeMap<String, Pod>, CallError> {
        if !self.is_podman {
            return Ok(BTreeMap::new());
        }
        let pods: Vec<PodDetails> = match get(&self.socket, "/v4.0.0/libpod/pods/json").await {
            // A runtime that speaks Docker's API alone, or another version, has no pods that we could name.
            Err(CallError::Status { status: 400..=499, .. }) => return Ok(BTreeMap::new()),
            pods => pods?,
        };
        let pods = pods.into_iter().filter(|pod| !pod.infra_id.is_empty());
        Ok(pods.map(|pod| (pod.infra_id, Pod { name: pod.name, labels: pod.labels.unwrap_or_default() })).collect())
    }
}

impl Events {
    /// Waits for an event; false if the stream has ended.
    pub(super) async fn next(&mut self) -> Result<bool, Error> {
        loop {
            match self.stream.next().await {
                None => return Ok(false),
                Some(Err(error)) => return Err(error),
                Some(Ok(event)) if matters(&event) => return Ok(true),
                Some(Ok(_)) => {}
            }
        }
    }

    /// Drops what is already there; the list that follows is newer.
    pub(super) fn drain(&mut self) {
        while let Some(Some(Ok(_))) = self.stream.next().now_or_never() {}
    }
}

/// Whether a container in this state may have a network namespace. Only what has ended for good has none, and a state of which
/// nobody has heard is not one of those.
fn may_have_namespace(state: &str) -> bool {
    !matches!(state, "exited" | "dead" | "removing")
}

/// Health checks and execs fire all the time and change nothing.
fn matters(event: &EventMessage) -> bool {
    !event.action.as_deref().is_some_and(|action| action.starts_with("exec") || action.starts_with("health"))
}

/// An id or a name, and nothing else that could stand in a path.
fn is_reference(text: &str) -> bool {
    !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.'))
}

fn container_of(details: Details, pods: &BTreeMap<String, Pod>) -> Container {
    let Details { id, name, config, host_config, network_settings } = details;
    let networks = network_settings.networks.unwrap_or_default();
    let addresses = networks
        .values()
        .flat_map(|network| [&network.v4, &network.v6])
        .filter_map(|address| address.parse::<IpAddr>().ok())
        .filter(|address| !address.is_unspecified())
        .collect();
    Container {
        pod: pods.get(&id).cloned(),
        id,
        name: name.trim_start_matches('/').to_owned(),
        labels: config.labels.unwrap_or_default(),
        // In the host's network it is the node, and the path is there for ever.
        sandbox: Some(network_settings.sandbox_key)
            .filter(|path| !path.is_empty() && host_config.network_mode != "host")
            .map(PathBuf::from),
        network_of: host_config.network_mode.strip_prefix("container:").map(ToOwned::to_owned),
        addresses,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answers_with_null_and_unknown_states_are_read() {
        let listed: Vec<Listed> =
            serde_json::from_str(r#"[{"Id": "a", "State": "initialized"}, {"Id": "b"}]"#).unwrap();
        assert_eq!((listed[0].state.as_str(), listed[1].state.as_str()), ("initialized", ""));
        let details = r#"{"Id": "a", "Name": "/web", "State": {"Status": "initialized"}, "Config": {"Labels": null},
            "NetworkSettings": {"SandboxKey": "", "Networks": null}}"#;
        let container = container_of(serde_json::from_str(details).unwrap(), &BTreeMap::new());
        assert_eq!((container.name.as_str(), container.sandbox), ("web", None));
    }

    #[test]
    fn a_container_in_every_state_but_the_last_ones_is_asked_about() {
        let of_podman = ["created", "configured", "initialized", "running", "paused", "stopping", "stopped", "unknown"];
        let of_docker = ["created", "running", "paused", "restarting"];
        for state in of_podman.iter().chain(&of_docker).chain(&["restoring", "checkpointed", "", "Exited"]) {
            assert!(may_have_namespace(state), "{state}");
        }
        for state in ["exited", "dead", "removing"] {
            assert!(!may_have_namespace(state), "{state}");
        }
    }

    #[test]
    fn only_a_name_goes_into_a_path() {
        assert!(is_reference("0123abcdef") && is_reference("my_web-1.2"));
        assert!(!is_reference("") && !is_reference("../pods") && !is_reference("a b") && !is_reference("a?x"));
    }
}
