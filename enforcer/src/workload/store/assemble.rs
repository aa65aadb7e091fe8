//! The last step of an update: it puts identities, remote peers and namespaces together into a `Snapshot`.

#![forbid(unsafe_code)]

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;

use enforcer_common::id::Ifindex;

use super::claims::Verdicts;
use super::{Inputs, Said, Space, Store};
use crate::workload::finding::{Finding, Subject};
use crate::workload::model::{
    Identity, Interface, Labels, LocalWorkload, RemoteWorkload, Snapshot, WorkloadKey, WorkloadName,
};
use crate::workload::names::NAMESPACE_NAME_LABEL;
use crate::workload::source::SourceState;
use crate::workload::statement::{Statement, unite};

impl Store {
    pub(super) fn snapshot(
        &mut self,
        inputs: &Inputs<'_>,
        said: &Said<'_>,
        verdicts: &Verdicts,
        uplinks: BTreeMap<Ifindex, String>,
        findings: &mut BTreeSet<Finding>,
    ) -> Snapshot {
        let identities = self.identities(inputs, said, findings);
        let identity_of = |key: &WorkloadKey| identities.get(key).cloned().flatten();
        let subject_of = |key: WorkloadKey| {
            let name = identities.get(&key).and_then(Option::as_ref).map(|identity| identity.name.clone());
            subject(inputs, self.known.get(&key).unwrap_or(&Space::default()), name)
        };
        findings.extend(verdicts.findings(&subject_of));
        findings.extend(said.contested.iter().map(|(address, names)| Finding::AddressOfTwo {
            address: *address,
            workloads: names.iter().map(|name| (*name).clone()).collect(),
        }));
        let heard = said.statements.values().flatten();
        findings.extend(heard.flat_map(|statement| statement.remarks.iter().cloned()));
        for (key, space) in &self.known {
            if space.nsid.is_some_and(|nsid| inputs.view.unreadable.contains(&nsid)) {
                findings.insert(Finding::CannotLookInside { workload: subject_of(*key) });
            }
        }
        let foreign = |space: &Space| space.nsid.and_then(|nsid| inputs.view.foreign.get(&nsid));
        for (key, space) in &self.known {
            let Some(devices) = foreign(space) else { continue };
            let named = devices.iter().map(|(name, device)| (name.clone(), device.kind.clone())).collect();
            findings.insert(Finding::PartlyEnforced { workload: subject_of(*key), devices: named });
            let over: BTreeSet<String> =
                devices.iter().filter(|(_, device)| device.over_node).map(|(name, _)| name.clone()).collect();
            if !over.is_empty() {
                findings.insert(Finding::ReachesNode { workload: subject_of(*key), devices: over });
            }
        }
        // What such a device sends comes in as the node's, so nothing of the workload is believed.
        let reaches = |space: &Space| foreign(space).is_some_and(|all| all.values().any(|device| device.over_node));
        let mut addresses = verdicts.by_workload();
        let local: BTreeMap<WorkloadKey, LocalWorkload> = self
            .known
            .iter()
            .map(|(key, space)| {
                let addresses = addresses.remove(key).unwrap_or_default();
                let workload = LocalWorkload {
                    identity: identity_of(key).filter(|_| !reaches(space)),
                    addresses: addresses.own,
                    disputed: addresses.disputed,
                    endpoints: space
                        .veths
                        .iter()
                        .filter_map(|veth| Some((*veth, self.interface(inputs, *veth)?)))
                        .collect(),
                    disagrees: !identities.contains_key(key) || reaches(space),
                    foreign: foreign(space).cloned().unwrap_or_default(),
                    past: self.memory.of(
                        *key,
                        space,
                        self.memory.settles(space, inputs.settling, inputs.now).is_none(),
                    ),
                    routes: said.statements.get(key).is_some_and(|all| all.iter().any(|one| one.routes)),
                };
                (*key, workload)
            })
            .collect();
        let remote = remote(inputs, said, verdicts, &self.remote);
        self.remote.clone_from(&remote);
        let named = local.values().filter_map(|workload| workload.identity.as_ref());
        let namespaces = namespaces(inputs.sources, said, named);
        let veths: BTreeSet<Ifindex> = local.values().flat_map(|workload| workload.endpoints.keys().copied()).collect();
        let others =
            inputs.view.links.iter().filter(|(index, _)| **index != Ifindex::LOOPBACK && !veths.contains(index));
        let others = others.map(|(index, link)| (*index, link.name.clone())).collect();
        let mut beside = inputs.view.beside(veths.iter().copied(), uplinks.keys());
        if inputs.judges_backends {
            let (stations, without) = inputs.view.stations(veths.iter().copied(), inputs.chained);
            beside.stations = stations;
            findings.extend(without);
        }
        let above = inputs.view.above(veths.into_iter());
        let services = inputs.sources.iter().filter(|_| inputs.judges_backends);
        let is_nodes = |address: &IpAddr| inputs.sources.iter().any(|source| source.nodes.contains_key(address));
        let services = services.flat_map(|source| source.services.iter().copied());
        let services = services.filter(|address| !is_nodes(address)).collect();
        let node = inputs.view.node.clone();
        Snapshot { namespaces, local, remote, node, services, uplinks, others, above, beside }
    }

    /// The identity of each namespace whose sources agree. A veth that had a name gets another one only as the same object.
    fn identities(
        &mut self,
        inputs: &Inputs<'_>,
        said: &Said<'_>,
        findings: &mut BTreeSet<Finding>,
    ) -> BTreeMap<WorkloadKey, Option<Identity>> {
        let mut identities = BTreeMap::new();
        for (key, space) in &self.known {
            let was = self.memory.name(space).cloned();
            let workload = || subject(inputs, space, was.clone());
            match unite(said.statements.get(key).map_or(&[][..], Vec::as_slice)) {
                Ok(None) => {
                    if space.strayed {
                        findings.insert(Finding::Strayed { workload: workload() });
                    }
                    identities.insert(*key, None);
                }
                Ok(Some((identity, object))) => {
                    let named = self.memory.call(space, &identity.name, &object);
                    if !named {
                        findings.insert(Finding::Renamed { workload: workload(), to: identity.name.clone() });
                    }
                    identities.insert(*key, named.then_some(identity));
                }
                Err(disagreement) => {
                    findings.insert(Finding::SourcesDisagree { workload: subject(inputs, space, None), disagreement });
                }
            }
        }
        identities
    }

    fn interface(&self, inputs: &Inputs<'_>, veth: Ifindex) -> Option<Interface> {
        let link = inputs.view.links.get(&veth)?;
        Some(Interface {
            name: link.name.clone(),
            peer_mac: link.peer.and_then(|peer| peer.mac),
            existed_at_start: self.at_start.contains(&veth),
        })
    }
}

fn subject(inputs: &Inputs<'_>, space: &Space, name: Option<WorkloadName>) -> Subject {
    let ifindex = space.veths.first().copied().unwrap_or_default();
    let interface = inputs.view.links.get(&ifindex).map(|link| link.name.clone()).unwrap_or_default();
    Subject { name, ifindex, interface, nsid: space.nsid }
}

/// Entries that no local namespace is. An address that is local or the node's is not theirs. `before`: those of the last
/// snapshot, sorted by name, of which those that have not changed are taken again.
fn remote(
    inputs: &Inputs<'_>,
    said: &Said<'_>,
    verdicts: &Verdicts,
    before: &[Arc<RemoteWorkload>],
) -> Vec<Arc<RemoteWorkload>> {
    let mut entries: Vec<(&WorkloadName, &Statement)> = said
        .declared()
        .filter(|(index, ..)| !said.found.contains_key(index) && !said.withheld.contains(index))
        .map(|(_, entry, name)| (name, entry))
        .collect();
    entries.sort_by_key(|(name, _)| *name);
    let is_nodes = |address: &IpAddr| {
        inputs.view.node.contains(address) || inputs.sources.iter().any(|source| source.nodes.contains_key(address))
    };
    let is_theirs =
        |address: &IpAddr| !verdicts.is_local(*address) && !said.contested.contains_key(address) && !is_nodes(address);
    let mut before = before.iter().peekable();
    let mut remote = Vec::with_capacity(entries.len());
    for (name, entry) in entries {
        let addresses = || entry.addresses.iter().copied().filter(is_theirs);
        if addresses().next().is_none() {
            continue;
        }
        while before.next_if(|known| known.identity.name < *name).is_some() {}
        let is_same = |known: &&&Arc<RemoteWorkload>| {
            let Identity { name: known_name, labels, ports } = &known.identity;
            (known_name, labels, ports) == (name, &entry.labels, &entry.ports)
                && known.addresses.iter().copied().eq(addresses())
        };
        remote.push(before.peek().filter(is_same).map_or_else(
            || {
                let (name, labels, ports) = (name.clone(), entry.labels.clone(), entry.ports.clone());
                let identity = Identity { name, labels, ports };
                Arc::new(RemoteWorkload { identity, addresses: addresses().collect() })
            },
            |known| Arc::clone(known),
        ));
    }
    remote
}

fn namespaces<'a>(
    sources: &[SourceState],
    said: &Said<'a>,
    named: impl Iterator<Item = &'a Identity>,
) -> BTreeMap<String, Labels> {
    let mut namespaces: BTreeMap<String, Labels> = BTreeMap::new();
    for (name, labels) in sources.iter().flat_map(|source| source.namespaces.iter()) {
        namespaces.entry(name.clone()).or_default().extend(labels.clone());
    }
    let entries = said.declared().map(|(_, _, name)| &name.namespace);
    for namespace in named.map(|identity| &identity.name.namespace).chain(entries) {
        namespaces.entry(namespace.clone()).or_default();
    }
    for (name, labels) in &mut namespaces {
        labels.insert(NAMESPACE_NAME_LABEL.to_owned(), name.clone());
    }
    namespaces
}
