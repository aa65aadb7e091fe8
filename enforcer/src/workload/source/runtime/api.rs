//! The three calls of the runtime's API that Enforcer needs: list containers, inspect a container, and follow events.

#![forbid(unsafe_code)]

use std::collections::{BTreeSet, HashMap};
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use bollard::Docker;
use bollard::errors::Error;
use bollard::models::{ContainerInspectResponse, EventMessage};
use bollard::query_parameters::{EventsOptionsBuilder, ListContainersOptionsBuilder};
use futures_util::{FutureExt, Stream, StreamExt};

use super::Container;

/// Seconds that one call may take.
const CALL_TIMEOUT: u64 = 8;

/// Events so long before the subscription are sent again.
const REPLAY: Duration = Duration::from_secs(2);

/// A connection to the runtime.
#[derive(Debug)]
pub(super) struct Api {
    docker: Docker,
}

/// Events that may change the list.
pub(super) struct Events {
    stream: Pin<Box<dyn Stream<Item = Result<EventMessage, Error>> + Send>>,
}

impl Api {
    pub(super) fn connect(socket: &Path) -> Result<Self, Error> {
        let path = socket.to_string_lossy();
        Ok(Self { docker: Docker::connect_with_unix(&path, CALL_TIMEOUT, bollard::API_DEFAULT_VERSION)? })
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

    /// All running containers, and those that own the namespace of one of them.
    pub(super) async fn running(&self) -> Result<Vec<Container>, Error> {
        let docker = self.docker.clone().negotiate_version().await?;
        let options = ListContainersOptionsBuilder::new().all(false).build();
        let mut wanted: BTreeSet<String> =
            docker.list_containers(Some(options)).await?.into_iter().filter_map(|container| container.id).collect();
        let mut seen = BTreeSet::new();
        let mut containers: Vec<Container> = Vec::new();
        // podman's list leaves out the infra container of a pod, which its members refer to.
        while let Some(id) = wanted.pop_first() {
            if !seen.insert(id.clone()) {
                continue;
            }
            match docker.inspect_container(&id, None).await {
                Ok(details) => {
                    let container = container_of(details);
                    wanted.extend(container.network_of.clone().filter(|id| !seen.contains(id)));
                    if !containers.iter().any(|known| known.id == container.id) {
                        containers.push(container);
                    }
                }
                // It stopped between the list and now.
                Err(Error::DockerResponseServerError { status_code: 404, .. }) => {}
                Err(error) => return Err(error),
            }
        }
        containers.sort_by(|a, b| a.id.cmp(&b.id));
        Ok(containers)
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

/// Health checks and execs fire all the time and change nothing.
fn matters(event: &EventMessage) -> bool {
    !event.action.as_deref().is_some_and(|action| action.starts_with("exec") || action.starts_with("health"))
}

fn container_of(details: ContainerInspectResponse) -> Container {
    let network = details.network_settings.unwrap_or_default();
    let mode = details.host_config.and_then(|host| host.network_mode).unwrap_or_default();
    let networks = network.networks.unwrap_or_default();
    let addresses = networks
        .values()
        .flat_map(|network| [&network.ip_address, &network.global_ipv6_address])
        .filter_map(|address| address.as_deref()?.parse::<IpAddr>().ok())
        .filter(|address| !address.is_unspecified())
        .collect();
    Container {
        id: details.id.unwrap_or_default(),
        name: details.name.unwrap_or_default().trim_start_matches('/').to_owned(),
        labels: details.config.and_then(|config| config.labels).unwrap_or_default().into_iter().collect(),
        sandbox: network.sandbox_key.filter(|path| !path.is_empty()).map(PathBuf::from),
        network_of: mode.strip_prefix("container:").map(ToOwned::to_owned),
        addresses,
    }
}
