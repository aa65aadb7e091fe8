//! A container as the runtime describes it, and the statements that its labels make about its workload.

#![forbid(unsafe_code)]

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::path::PathBuf;
use std::sync::Arc;

use crate::workload::finding::Finding;
use crate::workload::model::{Labels, NamedPort};
use crate::workload::names::{is_unicast, parse_port};
use crate::workload::statement::{About, FoundBy, Statement};

/// Label that a person sets to choose the namespace.
pub const NAMESPACE_LABEL: &str = "enforcer.dev/namespace";
/// Label that docker-compose and podman-compose set; the namespace where the one above is missing.
pub const COMPOSE_PROJECT_LABEL: &str = "com.docker.compose.project";
/// Label that Enforcer sets to the name of the container.
pub const CONTAINER_LABEL: &str = "enforcer.dev/container";
/// Labels that name a port: `enforcer.dev/port.http: 8080/tcp`.
pub const PORT_LABEL_PREFIX: &str = "enforcer.dev/port.";
/// Label that declares floating addresses, with commas between them.
pub const FLOATING_LABEL: &str = "enforcer.dev/floating";

/// A pod of podman, which has an infra container for its network.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Pod {
    /// Name.
    pub name: String,
    /// Labels of the pod, which hold for all its containers.
    pub labels: Labels,
}

/// A container.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Container {
    /// Id.
    pub id: String,
    /// Name, without the slash that the API puts before it.
    pub name: String,
    /// Labels, the image's included.
    pub labels: Labels,
    /// Path of its network namespace.
    pub sandbox: Option<PathBuf>,
    /// Id or name of the container whose network namespace it shares.
    pub network_of: Option<String>,
    /// Addresses that the runtime gave it.
    pub addresses: BTreeSet<IpAddr>,
    /// The pod whose infra container it is.
    pub pod: Option<Pod>,
}

impl Container {
    /// How messages name it.
    fn title(&self) -> String {
        if let Some(pod) = &self.pod {
            return format!("pod {}", pod.name);
        }
        format!("container {} ({})", self.name, self.id.get(..12).unwrap_or(&self.id))
    }

    /// What the container says about the workload of which it is a part. `owner` says that it owns the network
    /// namespace, for which one of `paths` stands.
    fn statement(&self, owner: bool, paths: Vec<PathBuf>) -> Statement {
        let mut labels = self.labels.clone();
        match &self.pod {
            // Nobody has written this container: it stands for the pod, and has no labels of its own.
            Some(pod) => {
                labels.extend(pod.labels.clone());
                labels.remove(CONTAINER_LABEL);
            }
            // Set by us alone: a container that could set it would choose who it is taken for.
            None => _ = labels.insert(CONTAINER_LABEL.to_owned(), self.name.clone()),
        }
        let name = self.pod.as_ref().map_or(&self.name, |pod| &pod.name);
        let namespace = labels.get(NAMESPACE_LABEL).or_else(|| labels.get(COMPOSE_PROJECT_LABEL)).cloned();
        let mut remarks = Vec::new();
        Statement {
            by: self.title(),
            about: About::Part { namespace, name: owner.then(|| name.clone()), is_whole: self.pod.is_some() },
            object: format!("container {}", self.id),
            ports: self.ports(&labels, &mut remarks),
            floating: self.floating(&labels, &mut remarks),
            labels: labels.into(),
            routes: false,
            found_by: FoundBy::Netns(paths),
            addresses: self.addresses.clone(),
            remarks,
        }
    }

    /// All addresses of the label, or none if one of them is wrong.
    fn floating(&self, labels: &Labels, remarks: &mut Vec<Finding>) -> BTreeSet<IpAddr> {
        let Some(value) = labels.get(FLOATING_LABEL) else { return BTreeSet::new() };
        let address = |text: &str| text.trim().parse().ok().filter(|address| is_unicast(*address));
        let addresses: Option<BTreeSet<IpAddr>> = value.split(',').map(address).collect();
        addresses.unwrap_or_else(|| {
            remarks.push(self.ignored(FLOATING_LABEL, value, "addresses as `10.88.0.100, fd00:88::100`"));
            BTreeSet::new()
        })
    }

    fn ignored(&self, label: &str, value: &str, instead: &'static str) -> Finding {
        let (container, label, value) = (self.name.clone(), label.to_owned(), value.to_owned());
        Finding::LabelIgnored { container, label, value, instead }
    }

    fn ports(&self, labels: &Labels, remarks: &mut Vec<Finding>) -> BTreeMap<String, BTreeSet<NamedPort>> {
        let mut ports = BTreeMap::new();
        for (label, value) in labels {
            let Some(name) = label.strip_prefix(PORT_LABEL_PREFIX) else {
                continue;
            };
            let numbers: Option<BTreeSet<NamedPort>> = value.split(',').map(|port| written_port(port.trim())).collect();
            match numbers {
                Some(numbers) => _ = ports.insert(name.to_owned(), numbers),
                None => remarks.push(self.ignored(label, value, "a port as `8080/tcp`")),
            }
        }
        ports
    }
}

/// `8080/tcp`, or `8080-tcp` where a label's value may have no slash, as in a manifest of Kubernetes.
fn written_port(text: &str) -> Option<NamedPort> {
    parse_port(text).or_else(|| parse_port(&text.replacen('-', "/", 1)))
}

/// The statements of containers. Those that share a network namespace follow each other.
pub(in crate::workload) fn statements(containers: &[Container]) -> Vec<Arc<Statement>> {
    let mut statements = Vec::with_capacity(containers.len());
    for (owner, members) in by_owner(containers) {
        let paths: Vec<PathBuf> =
            [&owner].into_iter().chain(&members).filter_map(|one| containers[*one].sandbox.clone()).collect();
        let says = |member: usize| Arc::new(containers[member].statement(member == owner, paths.clone()));
        statements.extend(members.into_iter().map(says));
    }
    statements
}

/// Containers that share a network namespace, by the index of the one that owns it.
fn by_owner(containers: &[Container]) -> BTreeMap<usize, Vec<usize>> {
    let mut groups: BTreeMap<usize, Vec<usize>> = BTreeMap::new();
    for start in 0..containers.len() {
        let mut owner = start;
        // Bounded: two containers that name each other must not hang us.
        for _ in 0..containers.len() {
            let Some(next) = containers[owner].network_of.as_deref().and_then(|id| find(containers, id)) else {
                break;
            };
            owner = next;
        }
        groups.entry(owner).or_default().push(start);
    }
    groups
}

fn find(containers: &[Container], reference: &str) -> Option<usize> {
    containers
        .iter()
        .position(|container| container.id == reference)
        .or_else(|| containers.iter().position(|container| container.name == reference))
        .or_else(|| {
            // The API takes unique prefixes of ids, and so do compose files.
            let mut matching = (0..containers.len()).filter(|i| containers[*i].id.starts_with(reference));
            matching.next().filter(|_| reference.len() >= 12 && matching.next().is_none())
        })
}
