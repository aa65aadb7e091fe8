//! Resolves the policies and a snapshot into a [`ResolvedPolicy`].
//!
//! Only policies that isolate a workload on this node are resolved; all others cost nothing.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use enforcer_common::id::{Address, Direction};

use super::peers::{Block, PeerSet, PeerSetId};
use super::ports::{PortNames, PortSet, PortSetId};
use super::rank::Rank;
use super::resolved::{Clause, Isolation, ResolvedPolicy};
use super::roster::Roster;
use crate::policy::model::{Peer, Peers, Policy, PolicyRef, PolicySet, PortSpec, Ports, Rule, RuleRef};
use crate::workload::model::{Identity, Snapshot};

/// Joins policies with workloads.
pub fn resolve(policies: Arc<PolicySet>, snapshot: Arc<Snapshot>) -> ResolvedPolicy {
    resolve_with(policies, Arc::new(Roster::of(snapshot)))
}

/// Joins policies with workloads that are arranged already.
pub fn resolve_with(policies: Arc<PolicySet>, roster: Arc<Roster>) -> ResolvedPolicy {
    let mut resolver = Resolver {
        policies: &policies.policies,
        by_namespace: by_namespace(&policies.policies),
        roster: &roster,
        peer_sets: Interned::default(),
        port_sets: Interned::default(),
        rules: HashMap::new(),
        isolations: Vec::new(),
        known: HashMap::new(),
    };
    let mut subjects = BTreeMap::new();
    for (key, workload) in &roster.snapshot().local {
        if let Some(identity) = &workload.identity {
            let of = |direction| resolver.isolation(identity, direction);
            subjects.insert(*key, [Direction::Ingress, Direction::Egress].map(of));
        }
    }
    let Resolver { peer_sets, port_sets, isolations, .. } = resolver;
    let (peer_sets, port_sets) = (peer_sets.values, port_sets.values);
    ResolvedPolicy { policies, roster, peer_sets, port_sets, isolations, subjects }
}

struct Resolver<'a> {
    policies: &'a [Arc<Policy>],
    by_namespace: HashMap<&'a str, Vec<PolicyRef>>,
    roster: &'a Roster,
    peer_sets: Interned<PeerSet>,
    port_sets: Interned<PortSet>,
    /// Peers by rule: resolved once, whoever is selected.
    rules: HashMap<RuleRef, PeerSetId>,
    isolations: Vec<Isolation>,
    known: HashMap<(Direction, Vec<PolicyRef>, Option<&'a PortNames>), usize>,
}

impl<'a> Resolver<'a> {
    fn isolation(&mut self, identity: &'a Identity, direction: Direction) -> Option<usize> {
        let policies: Vec<PolicyRef> = self
            .by_namespace
            .get(identity.name.namespace.as_str())?
            .iter()
            .copied()
            .filter(|at| {
                let policy = self.policy(*at);
                policy.isolates(direction) && identity.labels.any(|set| policy.subject.matches(set))
            })
            .collect();
        if policies.is_empty() {
            return None;
        }
        let named = direction == Direction::Ingress
            && policies.iter().any(|at| self.policy(*at).rules(direction).iter().any(|rule| has_names(&rule.ports)));
        let key = (direction, policies, named.then_some(&identity.ports));
        if let Some(known) = self.known.get(&key) {
            return Some(*known);
        }
        let mut clauses = Vec::new();
        for policy in &key.1 {
            for place in 0..self.policy(*policy).rules(direction).len() {
                let rule = RuleRef { policy: *policy, direction, place: place as u32 };
                self.add_rule(rule, &identity.ports, &mut clauses);
            }
        }
        let place = self.isolations.len();
        self.isolations.push(Isolation { policies: key.1.clone(), clauses });
        self.known.insert(key, place);
        Some(place)
    }

    fn policy(&self, at: PolicyRef) -> &'a Policy {
        &self.policies[at.0 as usize]
    }

    /// Adds what a rule says. `own`: the names of the workload's ports.
    fn add_rule(&mut self, at: RuleRef, own: &PortNames, clauses: &mut Vec<Clause>) {
        let policy = self.policy(at.policy);
        let rule = &policy.rules(at.direction)[at.place as usize];
        let rank = Rank::of_rule(policy.tier, policy.priority, rule.action);
        let peers = self.peers(at, &policy.namespace, rule);
        let clause = |peers, ports| Clause { rule: at, rank, peers, ports: PortSetId(ports) };
        let specs = match &rule.ports {
            Ports::Any => {
                let ports = self.port_sets.intern(PortSet::every());
                return self.push(clauses, clause(peers, ports));
            }
            Ports::Only(specs) => specs,
        };
        let numbers = PortSet::of_numbers(specs);
        match at.direction {
            Direction::Ingress => {
                // The destination is the workload itself: its names are numbers.
                let ports = self.port_sets.intern(numbers.union(&PortSet::of_names(specs, own)));
                self.push(clauses, clause(peers, ports));
            }
            Direction::Egress => {
                let ports = self.port_sets.intern(numbers);
                self.push(clauses, clause(peers, ports));
                if has_names(&rule.ports) {
                    for (ports, set) in self.named_destinations(peers, specs, rank.denies()) {
                        let (set, ports) = (self.peer_sets.intern(set), self.port_sets.intern(ports));
                        self.push(clauses, clause(PeerSetId(set), ports));
                    }
                }
            }
        }
    }

    fn push(&self, clauses: &mut Vec<Clause>, clause: Clause) {
        let (peers, ports) = (clause.peers.0 as usize, clause.ports.0 as usize);
        // A rule whose selectors match nobody, or whose names nobody has, says nothing.
        if !self.peer_sets.values[peers].is_empty() && !self.port_sets.values[ports].is_empty() {
            clauses.push(clause);
        }
    }

    /// `own`: the namespace of the rule's policy.
    fn peers(&mut self, at: RuleRef, own: &str, rule: &Rule) -> PeerSetId {
        if let Some(known) = self.rules.get(&at) {
            return *known;
        }
        let set = match &rule.peers {
            Peers::Any => PeerSet::everybody(),
            Peers::Only(items) => self.union(own, items),
        };
        let id = PeerSetId(self.peer_sets.intern(set));
        self.rules.insert(at, id);
        id
    }

    fn union(&self, own: &str, items: &[Peer]) -> PeerSet {
        let mut set = PeerSet::default();
        for item in items {
            match item {
                Peer::Workloads { namespaces, workloads } => {
                    set.groups.extend(self.roster.select(own, namespaces, workloads));
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
    /// known workload has no names. A block holds an address that is merely shown only for a rule that `denies` (D11).
    fn named_destinations(&self, peers: PeerSetId, specs: &[PortSpec], denies: bool) -> Vec<(PortSet, PeerSet)> {
        let peers = &self.peer_sets.values[peers.0 as usize];
        let mut found: BTreeMap<&PortSet, PeerSet> = BTreeMap::new();
        let directory = self.roster.directory();
        let served: Vec<PortSet> = self.roster.port_names().map(|names| PortSet::of_names(specs, names)).collect();
        for (group, names) in self.roster.names_of_groups() {
            let ports = &served[names];
            if ports.is_empty() {
                continue;
            }
            if peers.any || peers.groups.binary_search(&group).is_ok() {
                found.entry(ports).or_default().groups.push(group);
                continue;
            }
            let counts = |address: &Address| denies || directory.at(*address).is_none_or(|entry| !entry.shown);
            let covered = |address: &Address| {
                counts(address) && peers.blocks.iter().any(|block| block.contains((*address).into()))
            };
            let members = directory.members[group.0 as usize].iter().copied();
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

/// The policies of each namespace by name: rules of one rank are named in this order (D2).
fn by_namespace(policies: &[Arc<Policy>]) -> HashMap<&str, Vec<PolicyRef>> {
    let mut by_namespace: HashMap<&str, Vec<(&Policy, PolicyRef)>> = HashMap::new();
    for (place, policy) in policies.iter().enumerate() {
        by_namespace.entry(&policy.namespace).or_default().push((policy, PolicyRef(place as u32)));
    }
    let sorted = |mut listed: Vec<(&Policy, PolicyRef)>| {
        listed.sort_by_key(|(policy, at)| (&policy.name, policy.kind, *at));
        listed.into_iter().map(|(_, at)| at).collect()
    };
    by_namespace.into_iter().map(|(namespace, listed)| (namespace, sorted(listed))).collect()
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
