//! What decides one flow, and why: for the flow log and `explain`.
//!
//! Input: a resolved policy, a workload and a flow. Output: [`Decision`]. It agrees with the compiled tables.

use std::net::IpAddr;

use enforcer_common::id::{Address, Direction};
use enforcer_common::image::PortKey;
use enforcer_common::verdict::{Reason, Verdict};

use super::ports::port_key;
use super::resolved::ResolvedPolicy;
use crate::policy::model::Transport;
use crate::workload::model::WorkloadKey;

/// What a flow wants of its destination.
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
    /// How the tables spell it.
    pub fn port_key(self) -> PortKey {
        match self {
            Self::Transport(transport, port) => port_key(transport, port),
            Self::Icmp(kind) => PortKey::icmp(kind),
            Self::Icmpv6(kind) => PortKey::icmpv6(kind),
            Self::Other(number) => PortKey::other(number),
        }
    }
}

/// A verdict and what gave it.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Decision {
    /// The verdict of policy; the guardrails are not part of it.
    pub verdict: Verdict,
    /// What decided.
    pub by: DecidedBy,
}

/// What decided a flow. Numbers are places in the policy set and in the list of the direction's rules.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum DecidedBy {
    /// No policy isolates the workload in this direction (N1).
    NotIsolated,
    /// The peer is the workload itself (N19).
    Itself,
    /// The first rule that allows it, in the order of [`DecidedBy::Isolated`].
    Rule {
        /// Place of the policy.
        policy: usize,
        /// Place of the rule in its list.
        rule: usize,
    },
    /// No rule allows it.
    Isolated {
        /// All policies that isolate the workload in this direction, sorted by namespace and name. Empty: nobody has named
        /// the workload, so no policy can say anything of it, and it is closed.
        policies: Vec<usize>,
    },
}

impl ResolvedPolicy {
    /// What policy says of a flow between a workload and a peer. `direction` is that in which the flow was opened, and
    /// `service` is what it wants of its destination.
    pub fn decide(&self, workload: WorkloadKey, direction: Direction, peer: IpAddr, service: Service) -> Decision {
        let peer = Address::from(peer);
        let local = self.snapshot().local.get(&workload);
        let Some(local) = local.filter(|local| local.identity.is_some()) else {
            return Decision {
                verdict: Verdict::Deny(Reason::UnknownWorkload),
                by: DecidedBy::Isolated { policies: Vec::new() },
            };
        };
        if local.addresses.iter().any(|own| Address::from(*own) == peer) {
            return Decision { verdict: Verdict::Allow, by: DecidedBy::Itself };
        }
        let Some(isolation) = self.isolation(workload, direction) else {
            return Decision { verdict: Verdict::Allow, by: DecidedBy::NotIsolated };
        };
        let (group, key) = (self.group_at(peer), service.port_key());
        let grant = isolation
            .grants
            .iter()
            .find(|grant| self.port_set(grant.ports).contains(key) && self.peer_set(grant.peers).contains(peer, group));
        match grant {
            Some(grant) => {
                Decision { verdict: Verdict::Allow, by: DecidedBy::Rule { policy: grant.policy, rule: grant.rule } }
            }
            None => Decision {
                verdict: Verdict::Deny(Reason::NoRule),
                by: DecidedBy::Isolated { policies: isolation.policies.clone() },
            },
        }
    }
}
