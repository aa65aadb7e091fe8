//! Merges netlink, inventory and runtime into one `Snapshot`. Pure: the same inputs in the same order give the same
//! result, and nothing here waits or reads.
//!
//! What is configured inside a container is a claim; `claims` decides which claims are believed.

#![forbid(unsafe_code)]

mod binding;
mod claims;
#[cfg(test)]
mod tests;
mod uplinks;

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::path::PathBuf;

use self::claims::{Claims, Verdicts};
use self::uplinks::Uplinks;
use super::finding::{Finding, Subject};
use super::inventory::{Entry, Inventory, Match, NAMESPACE_NAME_LABEL};
use super::model::{Identity, Interface, Labels, LocalWorkload, RemoteWorkload, Snapshot, WorkloadKey, WorkloadName};
use super::runtime::{Container, by_owner};
use super::statement::{Statement, unite};
use super::view::NetworkView;

/// Everything that the store merges, at one moment.
#[derive(Clone, Copy, Debug)]
pub struct Inputs<'a> {
    /// What netlink shows.
    pub view: &'a NetworkView,
    /// Ids of namespaces that went away since the last update; they may already stand for others in `view`.
    pub gone: &'a BTreeSet<i32>,
    /// The inventory; empty if there is none.
    pub inventory: &'a Inventory,
    /// Running containers; empty if there is no runtime.
    pub containers: &'a [Container],
    /// The nsid of each namespace path that inventory or runtime name, where a veth of ours leads there.
    pub netns: &'a BTreeMap<PathBuf, i32>,
    /// Devices named by `--uplink`.
    pub uplinks: &'a [String],
}

/// What an update gives.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Outcome {
    /// The merged view.
    pub snapshot: Snapshot,
    /// What a person should know about it.
    pub findings: BTreeSet<Finding>,
}

/// Keeps what the order of events decides: who had an address first, which namespace an entry was bound to first.
#[derive(Debug, Default)]
pub struct Store {
    updated: bool,
    keys: u64,
    known: BTreeMap<WorkloadKey, Space>,
    at_start: BTreeSet<u32>,
    owners: BTreeMap<IpAddr, WorkloadKey>,
    bound: BTreeMap<WorkloadName, WorkloadKey>,
    uplinks: Uplinks,
    restored: BTreeMap<IpAddr, u32>,
    last_findings: BTreeSet<Finding>,
    refused: u64,
}

/// One incarnation of a network namespace.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
struct Space {
    nsid: Option<i32>,
    veths: BTreeSet<u32>,
}

/// What the sources say about the workloads of one moment.
#[derive(Debug, Default)]
struct Said {
    statements: BTreeMap<WorkloadKey, Vec<Statement>>,
    /// Addresses that a source or a host route gives to a workload.
    given: BTreeMap<WorkloadKey, BTreeSet<IpAddr>>,
    /// Which workload an inventory entry turned out to be, by the entry's index.
    entries: BTreeMap<usize, WorkloadKey>,
}

impl Said {
    fn given_to(&self, key: WorkloadKey, address: IpAddr) -> bool {
        self.given
            .get(&key)
            .is_some_and(|addresses| addresses.contains(&address))
    }

    fn enter(&mut self, index: usize, entry: &Entry, key: WorkloadKey) {
        self.statements.entry(key).or_default().push(Statement::of_entry(entry));
        self.given.entry(key).or_default().extend(&entry.addresses);
        self.entries.insert(index, key);
    }
}

impl Store {
    /// An empty store; the first update decides without an order of events.
    pub fn new() -> Self {
        Self::default()
    }

    /// Takes over from an earlier run who had which address (by the ifindex of a veth) and which veths were workloads'.
    /// Before the first update.
    pub fn restore(&mut self, owners: BTreeMap<IpAddr, u32>, endpoints: BTreeSet<u32>) {
        self.uplinks.restore(endpoints);
        self.restored = owners;
    }

    /// How many address claims have been refused so far, counting a claim once while it stands.
    pub fn refused(&self) -> u64 {
        self.refused
    }

    /// Merges the inputs of one moment.
    pub fn update(&mut self, inputs: &Inputs<'_>) -> Outcome {
        let mut findings = BTreeSet::new();
        self.regroup(inputs);
        let mut said = self.gather(inputs, &mut findings);
        let named: BTreeSet<u32> = self.veths_of(said.statements.keys());
        let uplinks = self.uplinks.judge(inputs, &named, !self.updated, &mut findings);
        for space in self.known.values_mut() {
            space.veths.retain(|veth| !uplinks.contains_key(veth));
        }
        self.known.retain(|_, space| !space.veths.is_empty());
        let restored = self.restored_owners();
        binding::bind(self, inputs, &restored, &mut said);
        let verdicts = Claims {
            inputs,
            known: &self.known,
            said: &said,
        }
        .decide(&self.owners, &restored);
        self.owners.clone_from(&verdicts.owners);
        self.restored.clear();
        self.updated = true;
        let snapshot = self.snapshot(inputs, &said, &verdicts, uplinks, &mut findings);
        self.refused += findings
            .iter()
            .filter(|f| is_refusal(f) && !self.last_findings.contains(f))
            .count() as u64;
        self.last_findings.clone_from(&findings);
        Outcome { snapshot, findings }
    }

    /// Finds the namespace of each veth, known or new.
    fn regroup(&mut self, inputs: &Inputs<'_>) {
        let mut spaces: BTreeMap<i32, BTreeSet<u32>> = BTreeMap::new();
        let mut next: BTreeMap<WorkloadKey, Space> = BTreeMap::new();
        let mut seen = BTreeSet::new();
        for (index, _, peer) in inputs.view.veths() {
            seen.insert(index);
            match peer.nsid {
                Some(nsid) => _ = spaces.entry(nsid).or_default().insert(index),
                // Its namespace is being torn down and has lost its id: it stays whose it was.
                None => {
                    let was = self
                        .known
                        .iter()
                        .find(|(_, space)| space.veths.contains(&index))
                        .map(|(key, _)| *key);
                    let (key, nsid) = match was {
                        Some(key) => (key, self.known[&key].nsid),
                        None => (self.new_key(), None),
                    };
                    next.entry(key)
                        .or_insert_with(|| Space {
                            nsid,
                            ..Space::default()
                        })
                        .veths
                        .insert(index);
                }
            }
        }
        for (nsid, veths) in spaces {
            let same = |space: &Space| {
                space.nsid == Some(nsid) && !inputs.gone.contains(&nsid) && !space.veths.is_disjoint(&veths)
            };
            let known = self.known.iter().find(|(_, space)| same(space)).map(|(key, _)| *key);
            let key = known.unwrap_or_else(|| self.new_key());
            let space = next.entry(key).or_default();
            space.nsid = Some(nsid);
            space.veths.extend(veths);
        }
        self.known = next;
        if self.updated {
            self.at_start.retain(|veth| seen.contains(veth));
        } else {
            self.at_start = seen;
        }
        self.owners.retain(|_, key| self.known.contains_key(key));
        self.bound.retain(|_, key| self.known.contains_key(key));
    }

    fn new_key(&mut self) -> WorkloadKey {
        self.keys += 1;
        WorkloadKey(self.keys)
    }

    /// What sources say about namespaces, by namespace alone; entries that go by address come later.
    fn gather(&self, inputs: &Inputs<'_>, findings: &mut BTreeSet<Finding>) -> Said {
        let mut said = Said::default();
        let by_nsid: BTreeMap<i32, WorkloadKey> = self
            .known
            .iter()
            .filter_map(|(key, space)| Some((space.nsid?, *key)))
            .collect();
        let at = |path: &PathBuf| inputs.netns.get(path).and_then(|nsid| by_nsid.get(nsid)).copied();
        for (owner, members) in by_owner(inputs.containers) {
            let key = inputs.containers[owner].sandbox.as_ref().and_then(at);
            let Some(key) = key.or_else(|| members.iter().find_map(|m| at(inputs.containers[*m].sandbox.as_ref()?)))
            else {
                continue;
            };
            for member in members {
                let container = &inputs.containers[member];
                said.statements
                    .entry(key)
                    .or_default()
                    .push(container.statement(member == owner, findings));
                said.given.entry(key).or_default().extend(&container.addresses);
            }
        }
        for (index, entry) in inputs.inventory.entries.iter().enumerate() {
            let key = match &entry.matches {
                Match::Netns(path) => at(path),
                Match::Interface(name) => inputs
                    .view
                    .veths()
                    .find(|(_, link, _)| link.name == *name)
                    .and_then(|(veth, _, _)| self.key_of(veth)),
                Match::Address => None,
            };
            if let Some(key) = key {
                said.enter(index, entry, key);
            }
        }
        for route in inputs.view.routes.iter().filter(|route| route.is_host()) {
            if let Some(key) = self.key_of(route.device) {
                said.given.entry(key).or_default().insert(route.to.ip());
            }
        }
        said
    }

    fn key_of(&self, veth: u32) -> Option<WorkloadKey> {
        self.known
            .iter()
            .find(|(_, space)| space.veths.contains(&veth))
            .map(|(key, _)| *key)
    }

    fn veths_of<'a>(&self, keys: impl Iterator<Item = &'a WorkloadKey>) -> BTreeSet<u32> {
        keys.filter_map(|key| self.known.get(key))
            .flat_map(|space| space.veths.iter().copied())
            .collect()
    }

    fn restored_owners(&self) -> BTreeMap<IpAddr, WorkloadKey> {
        self.restored
            .iter()
            .filter_map(|(address, veth)| Some((*address, self.key_of(*veth)?)))
            .collect()
    }

    fn snapshot(
        &self,
        inputs: &Inputs<'_>,
        said: &Said,
        verdicts: &Verdicts,
        uplinks: BTreeMap<u32, String>,
        findings: &mut BTreeSet<Finding>,
    ) -> Snapshot {
        let mut identities = BTreeMap::new();
        for (key, space) in &self.known {
            match unite(said.statements.get(key).map_or(&[][..], Vec::as_slice)) {
                Ok(identity) => _ = identities.insert(*key, identity),
                Err(disagreement) => {
                    let workload = subject(inputs, space, None);
                    findings.insert(Finding::SourcesDisagree { workload, disagreement });
                }
            }
        }
        let identity_of = |key: &WorkloadKey| identities.get(key).cloned().flatten();
        let subject_of = |key: WorkloadKey| {
            let name = identity_of(&key).map(|identity| identity.name);
            subject(inputs, self.known.get(&key).unwrap_or(&Space::default()), name)
        };
        findings.extend(verdicts.findings(&subject_of));
        for (key, space) in &self.known {
            if space.nsid.is_some_and(|nsid| inputs.view.unreadable.contains(&nsid)) {
                findings.insert(Finding::CannotLookInside {
                    workload: subject_of(*key),
                });
            }
        }
        let local: BTreeMap<WorkloadKey, LocalWorkload> = self
            .known
            .iter()
            .map(|(key, space)| {
                let workload = LocalWorkload {
                    identity: identity_of(key),
                    addresses: verdicts.owned_by(*key),
                    disputed: verdicts.disputed_by(*key),
                    endpoints: space
                        .veths
                        .iter()
                        .filter_map(|veth| Some((*veth, self.interface(inputs, *veth)?)))
                        .collect(),
                    routes: said
                        .statements
                        .get(key)
                        .is_some_and(|all| all.iter().any(|one| one.routes)),
                };
                (*key, workload)
            })
            .collect();
        let remote = remote(inputs, said, verdicts);
        let named = local.values().filter_map(|workload| workload.identity.as_ref());
        let namespaces = namespaces(inputs.inventory, named);
        Snapshot {
            namespaces,
            local,
            remote,
            node: inputs.view.node.clone(),
            uplinks,
        }
    }

    fn interface(&self, inputs: &Inputs<'_>, veth: u32) -> Option<Interface> {
        let link = inputs.view.links.get(&veth)?;
        Some(Interface {
            name: link.name.clone(),
            peer_mac: link.peer.and_then(|peer| peer.mac),
            existed_at_start: self.at_start.contains(&veth),
        })
    }
}

fn is_refusal(finding: &Finding) -> bool {
    matches!(
        finding,
        Finding::AddressRefused { .. } | Finding::AddressDisputed { .. }
    )
}

fn subject(inputs: &Inputs<'_>, space: &Space, name: Option<WorkloadName>) -> Subject {
    let ifindex = space.veths.first().copied().unwrap_or_default();
    let interface = inputs
        .view
        .links
        .get(&ifindex)
        .map(|link| link.name.clone())
        .unwrap_or_default();
    Subject {
        name,
        ifindex,
        interface,
        nsid: space.nsid,
    }
}

/// Entries that no local namespace is. An address that is local or the node's is not theirs.
fn remote(inputs: &Inputs<'_>, said: &Said, verdicts: &Verdicts) -> Vec<RemoteWorkload> {
    let mut remote: Vec<RemoteWorkload> = inputs
        .inventory
        .entries
        .iter()
        .enumerate()
        .filter(|(index, _)| !said.entries.contains_key(index))
        .map(|(_, entry)| RemoteWorkload {
            identity: Identity {
                name: entry.name.clone(),
                labels: entry.labels.clone(),
                ports: entry.ports.clone(),
            },
            addresses: entry
                .addresses
                .iter()
                .copied()
                .filter(|address| !verdicts.is_local(*address) && !inputs.view.node.contains(address))
                .collect(),
        })
        .filter(|workload| !workload.addresses.is_empty())
        .collect();
    remote.sort_by(|a, b| a.identity.name.cmp(&b.identity.name));
    remote
}

fn namespaces<'a>(inventory: &Inventory, named: impl Iterator<Item = &'a Identity>) -> BTreeMap<String, Labels> {
    let mut namespaces = inventory.namespaces.clone();
    let entries = inventory.entries.iter().map(|entry| &entry.name.namespace);
    for namespace in named.map(|identity| &identity.name.namespace).chain(entries) {
        namespaces.entry(namespace.clone()).or_default();
    }
    for (name, labels) in &mut namespaces {
        labels.insert(NAMESPACE_NAME_LABEL.to_owned(), name.clone());
    }
    namespaces
}
