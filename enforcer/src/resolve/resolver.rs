//! Policies x snapshot -> [`ResolvedPolicy`].
//!
//! Only policies that isolate a workload on this node are looked into: the others cost nothing.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use enforcer_common::id::{Address, Direction};

use super::directory::{Directory, GroupId, Groups};
use super::peers::{Block, PeerSet, PeerSetId};
use super::ports::{PortNames, PortSet, PortSetId};
use super::resolved::{Grant, Isolation, ResolvedPolicy};
use super::selector::Index;
use crate::policy::model::{Peer, Peers, Policy, PolicySet, PortSpec, Ports, Rule};
use crate::workload::model::{Identity, Snapshot};

/// Joins policies with workloads.
pub fn resolve(policies: Arc<PolicySet>, snapshot: Arc<Snapshot>) -> ResolvedPolicy {
    let groups = Groups::of(&snapshot);
    let directory = Directory::of(&snapshot, &groups);
    let mut resolver = Resolver {
        policies: &policies.policies,
        by_namespace: by_namespace(&policies.policies),
        index: Index::of(&snapshot, &groups.identities),
        groups: &groups,
        directory: &directory,
        peer_sets: Interned::default(),
        port_sets: Interned::default(),
        rules: HashMap::new(),
        isolations: Vec::new(),
        known: HashMap::new(),
    };
    let mut subjects = BTreeMap::new();
    for (key, workload) in &snapshot.local {
        if let Some(identity) = &workload.identity {
            let of = |direction| resolver.isolation(identity, direction);
            subjects.insert(*key, [Direction::Ingress, Direction::Egress].map(of));
        }
    }
    let Resolver { peer_sets, port_sets, isolations, .. } = resolver;
    let (peer_sets, port_sets) = (peer_sets.values, port_sets.values);
    ResolvedPolicy { policies, snapshot, directory, peer_sets, port_sets, isolations, subjects }
}

struct Resolver<'a> {
    policies: &'a [Policy],
    by_namespace: HashMap<&'a str, Vec<usize>>,
    index: Index<'a>,
    groups: &'a Groups<'a>,
    directory: &'a Directory,
    peer_sets: Interned<PeerSet>,
    port_sets: Interned<PortSet>,
    /// Peers by policy, direction and rule: resolved once, whoever is selected.
    rules: HashMap<(usize, Direction, usize), PeerSetId>,
    isolations: Vec<Isolation>,
    known: HashMap<(Direction, Vec<usize>, Option<&'a PortNames>), usize>,
}

impl<'a> Resolver<'a> {
    fn isolation(&mut self, identity: &'a Identity, direction: Direction) -> Option<usize> {
        let policies: Vec<usize> = self
            .by_namespace
            .get(identity.name.namespace.as_str())?
            .iter()
            .copied()
            .filter(|place| {
                let policy = &self.policies[*place];
                isolates(policy, direction) && policy.subject.matches(&identity.labels)
            })
            .collect();
        if policies.is_empty() {
            return None;
        }
        let named = direction == Direction::Ingress
            && policies
                .iter()
                .any(|place| rules_of(&self.policies[*place], direction).iter().any(|rule| has_names(&rule.ports)));
        let key = (direction, policies, named.then_some(&identity.ports));
        if let Some(known) = self.known.get(&key) {
            return Some(*known);
        }
        let mut grants = Vec::new();
        for policy in &key.1 {
            for (rule, _) in rules_of(&self.policies[*policy], direction).iter().enumerate() {
                self.grant(*policy, direction, rule, &identity.ports, &mut grants);
            }
        }
        let place = self.isolations.len();
        self.isolations.push(Isolation { policies: key.1.clone(), grants });
        self.known.insert(key, place);
        Some(place)
    }

    fn grant(&mut self, policy: usize, direction: Direction, rule: usize, own: &PortNames, grants: &mut Vec<Grant>) {
        let declared = &rules_of(&self.policies[policy], direction)[rule];
        let peers = self.peers(policy, direction, rule, declared);
        let specs = match &declared.ports {
            Ports::Any => {
                let ports = self.port_sets.intern(PortSet::every());
                return self.push(grants, policy, rule, peers, PortSetId(ports));
            }
            Ports::Only(specs) => specs,
        };
        let numbers = PortSet::of_numbers(specs);
        match direction {
            Direction::Ingress => {
                // The destination is the workload itself: its names are numbers.
                let ports = self.port_sets.intern(numbers.union(&PortSet::of_names(specs, own)));
                self.push(grants, policy, rule, peers, PortSetId(ports));
            }
            Direction::Egress => {
                let ports = self.port_sets.intern(numbers);
                self.push(grants, policy, rule, peers, PortSetId(ports));
                if has_names(&declared.ports) {
                    for (ports, set) in self.named_destinations(peers, specs) {
                        let (set, ports) = (self.peer_sets.intern(set), self.port_sets.intern(ports));
                        self.push(grants, policy, rule, PeerSetId(set), PortSetId(ports));
                    }
                }
            }
        }
    }

    fn push(&self, grants: &mut Vec<Grant>, policy: usize, rule: usize, peers: PeerSetId, ports: PortSetId) {
        // A rule whose selectors match nobody, or whose names nobody has, grants nothing.
        if !self.peer_sets.values[peers.0 as usize].is_empty() && !self.port_sets.values[ports.0 as usize].is_empty() {
            grants.push(Grant { policy, rule, peers, ports });
        }
    }

    fn peers(&mut self, policy: usize, direction: Direction, rule: usize, declared: &Rule) -> PeerSetId {
        if let Some(known) = self.rules.get(&(policy, direction, rule)) {
            return *known;
        }
        let set = match &declared.peers {
            Peers::Any => PeerSet::everybody(),
            Peers::Only(items) => self.union(&self.policies[policy].namespace, items),
        };
        let id = PeerSetId(self.peer_sets.intern(set));
        self.rules.insert((policy, direction, rule), id);
        id
    }

    fn union(&self, own: &str, items: &[Peer]) -> PeerSet {
        let mut set = PeerSet::default();
        for item in items {
            match item {
                Peer::Workloads { namespaces, workloads } => {
                    set.groups.extend(self.index.select(own, namespaces, workloads));
                }
                Peer::Cidr { cidr, except } => set.blocks.push(Block::new(*cidr, except)),
            }
        }
        set.groups.sort_unstable();
        set.groups.dedup();
        set.blocks.sort_unstable();
        set.blocks.dedup();
        set
    }

    /// The peers that have some of the named ports, by what the names stand for there (N10). A destination that is no
    /// known workload has no names.
    fn named_destinations(&self, peers: PeerSetId, specs: &[PortSpec]) -> Vec<(PortSet, PeerSet)> {
        let peers = &self.peer_sets.values[peers.0 as usize];
        let mut found: BTreeMap<&PortSet, PeerSet> = BTreeMap::new();
        let names = self.groups.names.iter();
        let served: Vec<PortSet> = names.map(|names| PortSet::of_names(specs, names)).collect();
        for (place, names) in self.groups.names_of.iter().enumerate() {
            let ports = &served[*names];
            if ports.is_empty() {
                continue;
            }
            let group = GroupId(place as u32);
            if peers.any || peers.groups.binary_search(&group).is_ok() {
                found.entry(ports).or_default().groups.push(group);
                continue;
            }
            let covered = |address: &Address| peers.blocks.iter().any(|block| block.contains((*address).into()));
            let members = self.directory.members[place].iter().copied();
            let covered: Vec<Address> = members.filter(covered).collect();
            if !covered.is_empty() {
                found.entry(ports).or_default().addresses.extend(covered);
            }
        }
        let sorted = |(ports, mut set): (&PortSet, PeerSet)| {
            set.addresses.sort_unstable();
            (ports.clone(), set)
        };
        found.into_iter().map(sorted).collect()
    }
}

fn by_namespace(policies: &[Policy]) -> HashMap<&str, Vec<usize>> {
    let mut by_namespace: HashMap<&str, Vec<usize>> = HashMap::new();
    for (place, policy) in policies.iter().enumerate() {
        by_namespace.entry(&policy.namespace).or_default().push(place);
    }
    for places in by_namespace.values_mut() {
        places.sort_by_key(|place| (&policies[*place].name, policies[*place].kind, *place));
    }
    by_namespace
}

fn isolates(policy: &Policy, direction: Direction) -> bool {
    match direction {
        Direction::Ingress => policy.isolates_ingress,
        Direction::Egress => policy.isolates_egress,
    }
}

fn rules_of(policy: &Policy, direction: Direction) -> &[Rule] {
    match direction {
        Direction::Ingress => &policy.ingress,
        Direction::Egress => &policy.egress,
    }
}

fn has_names(ports: &Ports) -> bool {
    match ports {
        Ports::Any => false,
        Ports::Only(specs) => specs.iter().any(|spec| matches!(spec, PortSpec::Named { .. })),
    }
}

/// Equal values stored once.
struct Interned<T> {
    values: Vec<T>,
    places: HashMap<T, u32>,
}

impl<T> Default for Interned<T> {
    fn default() -> Self {
        Self { values: Vec::new(), places: HashMap::new() }
    }
}

impl<T: Clone + Eq + std::hash::Hash> Interned<T> {
    fn intern(&mut self, value: T) -> u32 {
        if let Some(place) = self.places.get(&value) {
            return *place;
        }
        let place = self.values.len() as u32;
        self.values.push(value.clone());
        self.places.insert(value, place);
        place
    }
}
