//! Says what decides a single flow, and why, for the flow log and `explain`.
//!
//! Input: a resolved policy, a workload and a flow. Output: a [`Decision`]. It agrees with the compiled tables.

use std::net::IpAddr;

use enforcer_common::decide::verdict;
use enforcer_common::id::{Address, Direction};
use enforcer_common::image::PortKey;
use enforcer_common::verdict::{Reason, Verdict};

use super::ports::port_key;
use super::rank::{Rank, deciding};
use super::resolved::ResolvedPolicy;
use crate::policy::model::{PolicyRef, RuleRef, Transport};
use crate::workload::model::WorkloadKey;

/// The port or protocol that a flow uses at its destination.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub enum Service {
    /// A protocol with ports, and the destination port.
    Transport(Transport, u16),
    /// An ICMP type.
    Icmp(u8),
    /// An ICMPv6 type.
    Icmpv6(u8),
    /// Any other IP protocol, by its number.
    Other(u8),
}

impl Service {
    /// Its key in the tables.
    pub fn port_key(self) -> PortKey {
        match self {
            Self::Transport(transport, port) => port_key(transport, port),
            Self::Icmp(kind) => PortKey::icmp(kind),
            Self::Icmpv6(kind) => PortKey::icmpv6(kind),
            Self::Other(number) => PortKey::other(number),
        }
    }
}

/// A verdict and what decided it.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Decision {
    /// The verdict of policy; the guardrails are not part of it.
    pub verdict: Verdict,
    /// What decided.
    pub by: DecidedBy,
}

/// What decided a flow.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum DecidedBy {
    /// No policy isolates the workload in this direction (N1).
    NotIsolated,
    /// The peer is the workload itself (N19).
    Itself,
    /// Of the rules that match it, the one with the highest rank; of equal ones the first in the order of
    /// [`DecidedBy::Isolated`].
    Rule(RuleRef),
    /// No rule matches it.
    Isolated {
        /// All policies that isolate the workload in this direction, sorted by namespace and name. Empty: nobody has named
        /// the workload, so no policy can say anything of it, and it is closed.
        policies: Vec<PolicyRef>,
    },
}

impl ResolvedPolicy {
    /// The decision of the policies about a flow between a workload and a peer. `direction` is the direction in which
    /// the flow was opened, and `service` is the port or protocol at its destination.
    pub fn decide(&self, workload: WorkloadKey, direction: Direction, peer: IpAddr, service: Service) -> Decision {
        let peer = Address::from(peer);
        let local = self.snapshot().local.get(&workload);
        let Some(local) = local.filter(|local| local.identity.is_some()) else {
            return Decision {
                verdict: Verdict::Deny(Reason::UnknownWorkload),
                by: DecidedBy::Isolated { policies: Vec::new() },
            };
        };
        let mut vouched = local.addresses.iter().filter(|(_, voucher)| !voucher.is_nobody());
        if vouched.any(|(own, _)| Address::from(*own) == peer) {
            return Decision { verdict: Verdict::Allow, by: DecidedBy::Itself };
        }
        let Some(isolation) = self.isolation(workload, direction) else {
            return Decision { verdict: verdict(Rank::NOT_ISOLATED.cell()), by: DecidedBy::NotIsolated };
        };
        let (group, shown, key) = (self.group_at(peer), self.is_shown(peer), service.port_key());
        let matching = isolation.clauses.iter().filter(|clause| {
            let by_number = !shown || clause.rank.denies();
            self.port_set(clause.ports).contains(key) && self.peer_set(clause.peers).contains(peer, group, by_number)
        });
        let matching = matching.map(|clause| (clause.rank, Some(clause.rule)));
        let (rank, rule) = deciding((Rank::ISOLATED, None), matching);
        let by = match rule {
            Some(rule) => DecidedBy::Rule(rule),
            None => DecidedBy::Isolated { policies: isolation.policies.clone() },
        };
        Decision { verdict: verdict(rank.cell()), by }
    }
}
