//! The named ports of a pod.
//!
//! Input: its containers. Output: for each name the number of each protocol.

#![forbid(unsafe_code)]

use std::collections::{BTreeMap, BTreeSet};

use k8s_openapi::api::core::v1;

use crate::workload::model::NamedPort;

/// Ports of containers, and of those that run beside them from the start (restartable init containers). Another init container
/// has ended before anybody may call the pod. Where two containers give one name to different numbers of a protocol, the
/// first counts, as for a Service: a rule that allows the one number must not allow the other.
pub(super) fn ports(spec: &v1::PodSpec) -> BTreeMap<String, BTreeSet<NamedPort>> {
    let beside = spec.init_containers.iter().flatten();
    let beside = beside.filter(|container| container.restart_policy.as_deref() == Some("Always"));
    let mut ports: BTreeMap<String, BTreeSet<NamedPort>> = BTreeMap::new();
    for port in spec.containers.iter().chain(beside).flat_map(|container| container.ports.iter().flatten()) {
        let (Some(name), Some(number)) = (&port.name, number(port)) else { continue };
        let numbers = ports.entry(name.clone()).or_default();
        if numbers.iter().all(|known| known.protocol != number.protocol) {
            numbers.insert(number);
        }
    }
    ports
}

fn number(port: &v1::ContainerPort) -> Option<NamedPort> {
    let protocol = match port.protocol.as_deref() {
        None | Some("TCP") => 6,
        Some("UDP") => 17,
        Some("SCTP") => 132,
        Some(_) => return None,
    };
    let port = u16::try_from(port.container_port).ok().filter(|port| *port != 0)?;
    Some(NamedPort { protocol, port })
}
