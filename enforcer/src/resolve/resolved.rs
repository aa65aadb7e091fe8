//! The result of `resolve`, which `compile`, the flow log and `explain` read.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;

use enforcer_common::id::{Address, Direction};

use super::directory::{GroupId, Holder, KnownAddress};
use super::peers::{PeerSet, PeerSetId};
use super::ports::{PortSet, PortSetId};
use super::rank::Rank;
use super::roster::Roster;
use crate::policy::model::{PolicyRef, PolicySet, RuleRef};
use crate::workload::model::{Identity, Snapshot, WorkloadKey};

/// The policies in force joined with the workloads of one moment.
#[derive(Clone, Debug)]
pub struct ResolvedPolicy {
    pub(super) policies: Arc<PolicySet>,
    pub(super) roster: Arc<Roster>,
    pub(super) peer_sets: Vec<PeerSet>,
    pub(super) port_sets: Vec<PortSet>,
    pub(super) isolations: Vec<Isolation>,
    /// Per named local workload and direction; `None`: not isolated.
    pub(super) subjects: BTreeMap<WorkloadKey, [Option<usize>; 2]>,
}

/// Why and how far a workload is isolated in one direction (N2).
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Isolation {
    /// The policies that isolate it, sorted by namespace and name.
    pub policies: Vec<PolicyRef>,
    /// The clauses of their rules, in the same order. This is not the order of ranks.
    pub clauses: Vec<Clause>,
}

/// A rule, or the part of it whose ports are the same for all peers.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Clause {
    /// The rule.
    pub rule: RuleRef,
    /// The rank of the rule, which includes its action.
    pub rank: Rank,
    /// The peers that the rule names.
    pub peers: PeerSetId,
    /// Ports of the destination.
    pub ports: PortSetId,
}

impl ResolvedPolicy {
    /// The policies that were resolved.
    pub fn policies(&self) -> &Arc<PolicySet> {
        &self.policies
    }

    /// The workloads that they were joined with.
    pub fn snapshot(&self) -> &Arc<Snapshot> {
        self.roster.snapshot()
    }

    /// The same workloads, as they are arranged for policies.
    pub fn roster(&self) -> &Arc<Roster> {
        &self.roster
    }

    /// The isolation of a workload; `None` if it is not isolated, or has no name.
    pub fn isolation(&self, workload: WorkloadKey, direction: Direction) -> Option<&Isolation> {
        self.isolation_of(workload, direction).map(|(_, isolation)| isolation)
    }

    /// Who has an address.
    pub fn holder(&self, address: IpAddr) -> Option<Holder> {
        self.roster.directory().at(address.into()).map(|entry| entry.holder)
    }

    /// Name, labels and ports of the workload that has an address; `None` if no selector can match the address.
    pub fn identity_at(&self, address: IpAddr) -> Option<&Identity> {
        let entry = self.roster.directory().at(address.into())?;
        entry.group?;
        match entry.holder {
            Holder::Local(key) => self.snapshot().local.get(&key)?.identity.as_ref(),
            Holder::Remote(place) => self.snapshot().remote.get(place).map(|workload| &workload.identity),
            Holder::Node | Holder::Service | Holder::Disputed => None,
        }
    }

    /// A set of peers.
    pub fn peer_set(&self, id: PeerSetId) -> &PeerSet {
        &self.peer_sets[id.0 as usize]
    }

    /// A set of ports.
    pub fn port_set(&self, id: PortSetId) -> &PortSet {
        &self.port_sets[id.0 as usize]
    }

    /// The named workloads on this node.
    pub fn subjects(&self) -> impl Iterator<Item = WorkloadKey> {
        self.subjects.keys().copied()
    }

    /// As [`Self::isolation`], with a number that workloads with the same isolation share.
    pub fn isolation_of(&self, workload: WorkloadKey, direction: Direction) -> Option<(usize, &Isolation)> {
        let place = self.subjects.get(&workload)?[direction as usize]?;
        Some((place, self.isolations.get(place)?))
    }

    /// Every known address, sorted.
    pub fn known_addresses(&self) -> impl Iterator<Item = &KnownAddress> {
        self.roster.directory().entries.iter()
    }

    /// Number of groups.
    pub fn group_count(&self) -> usize {
        self.roster.directory().members.len()
    }

    /// The group by which selectors see an address.
    pub fn group_at(&self, address: Address) -> Option<GroupId> {
        self.roster.directory().at(address)?.group
    }

    /// Whether an address is that of a Service, and of nobody else.
    pub fn is_service(&self, address: Address) -> bool {
        self.roster.directory().at(address).is_some_and(|entry| entry.holder == Holder::Service)
    }

    /// Whether nobody but a workload itself says that it has this address.
    pub fn is_shown(&self, address: Address) -> bool {
        self.roster.directory().at(address).is_some_and(|entry| entry.shown)
    }
}
