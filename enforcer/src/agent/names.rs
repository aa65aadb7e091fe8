//! What the flow log asks of the policies that were in force.

use std::net::IpAddr;
use std::sync::Arc;

use enforcer_common::id::Direction;
use enforcer_common::packet::protocol;
use enforcer_common::verdict::Verdict;

use crate::flow::names::{Policies, Ruling, Service as Asked};
use crate::flow::record::DecidingPolicy;
use crate::policy::model::Transport;
use crate::resolve::{DecidedBy, ResolvedPolicy, Service};
use crate::workload::model::WorkloadKey;

/// The resolved policies of one revision.
pub(super) struct Rulings(pub(super) Arc<ResolvedPolicy>);

impl Policies for Rulings {
    fn rule_on(&self, workload: WorkloadKey, direction: Direction, peer: IpAddr, asked: Asked) -> Option<Ruling> {
        let Self(resolved) = self;
        resolved.snapshot().local.get(&workload)?;
        let named = |place: &usize| {
            let policy = resolved.policies().policies.get(*place)?;
            Some(DecidingPolicy::new(policy.kind, &policy.namespace, &policy.name, &policy.at))
        };
        let decision = resolved.decide(workload, direction, peer, service(asked, peer));
        let deciding = match &decision.by {
            DecidedBy::Rule { policy, .. } => named(policy).into_iter().collect(),
            DecidedBy::Isolated { policies } => policies.iter().filter_map(named).collect(),
            DecidedBy::NotIsolated | DecidedBy::Itself => Vec::new(),
        };
        Some(match decision.verdict {
            Verdict::Allow => Ruling::Allowed(deciding),
            Verdict::Deny(_) => Ruling::Denied(deciding),
        })
    }
}

fn service(asked: Asked, peer: IpAddr) -> Service {
    let low = asked.port.to_be_bytes()[1];
    match asked.protocol {
        protocol::TCP => Service::Transport(Transport::Tcp, asked.port),
        protocol::UDP => Service::Transport(Transport::Udp, asked.port),
        protocol::SCTP => Service::Transport(Transport::Sctp, asked.port),
        protocol::ICMP if peer.is_ipv4() => Service::Icmp(low),
        protocol::ICMPV6 if peer.is_ipv6() => Service::Icmpv6(low),
        number => Service::Other(number),
    }
}
