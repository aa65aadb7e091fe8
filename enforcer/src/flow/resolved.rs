//! Asks the resolved policies about a flow of a record.
//!
//! Input: a flow. Output: the verdict, and the policies and lines that decided it.

use std::net::IpAddr;

use enforcer_common::id::Direction;
use enforcer_common::packet::protocol;
use enforcer_common::verdict::Verdict;

use super::names::{Policies, Ruling, Service};
use super::record::DecidingPolicy;
use crate::policy::model::{Policy, Transport};
use crate::policy::origin::Origin;
use crate::resolve::{self, DecidedBy, ResolvedPolicy};
use crate::workload::model::WorkloadKey;

impl Policies for ResolvedPolicy {
    fn rule_on(&self, workload: WorkloadKey, direction: Direction, peer: IpAddr, service: Service) -> Option<Ruling> {
        let decision = self.decide(workload, direction, peer, service.into());
        let set = self.policies();
        let deciding = match decision.by {
            DecidedBy::NotIsolated | DecidedBy::Itself => Vec::new(),
            DecidedBy::Rule(rule) => vec![named(set.policy(rule.policy)?, &set.rule(rule)?.at)],
            // Nobody has named the workload in that revision.
            DecidedBy::Isolated { policies } if policies.is_empty() => return None,
            DecidedBy::Isolated { policies } => {
                let policies = policies.into_iter().filter_map(|at| set.policy(at));
                policies.map(|policy| named(policy, &policy.at)).collect()
            }
        };
        Some(match decision.verdict {
            Verdict::Allow => Ruling::Allowed(deciding),
            Verdict::Deny(_) => Ruling::Denied(deciding),
        })
    }
}

fn named(policy: &Policy, at: &Origin) -> DecidingPolicy {
    DecidingPolicy::new(policy.kind, &policy.namespace, &policy.name, at)
}

impl From<Service> for resolve::Service {
    fn from(service: Service) -> Self {
        match service.protocol {
            protocol::TCP => Self::Transport(Transport::Tcp, service.port),
            protocol::UDP => Self::Transport(Transport::Udp, service.port),
            protocol::SCTP => Self::Transport(Transport::Sctp, service.port),
            // A type is a byte; the kernel puts nothing else there.
            protocol::ICMP => Self::Icmp(service.port as u8),
            protocol::ICMPV6 => Self::Icmpv6(service.port as u8),
            other => Self::Other(other),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;
    use std::sync::Arc;

    use enforcer_common::denial::{Denial, Way};
    use enforcer_common::verdict::Reason;
    use jiff::Timestamp;

    use super::super::enrich::Enricher;
    use super::super::fixture::{self, DB, REVISION, UNNAMED, WEB, way};
    use super::super::names::NameTable;
    use super::super::record::{FlowRecord, RecordedDecision};
    use super::*;
    use crate::policy::model::{
        Action, LabelSelector, NamespaceScope, Peer, Peers, PolicyKind, PolicySet, PortSpec, Ports, Priority,
        Requirement, Rule, Tier,
    };

    fn labelled(key: &str, value: &str) -> LabelSelector {
        let values = BTreeSet::from([value.to_owned()]);
        LabelSelector { requirements: vec![Requirement::In(key.to_owned(), values)] }
    }

    fn at(line: u32) -> Origin {
        Origin::line("shop.yaml", line)
    }

    /// Isolates db; web may reach it on 5432/tcp.
    fn policies() -> PolicySet {
        let web = Peer::Workloads { namespaces: NamespaceScope::Own, workloads: labelled("app", "web") };
        let port = PortSpec::Range { transport: Transport::Tcp, first: 5432, last: 5432 };
        let policy = Policy {
            kind: PolicyKind::FlowPolicy,
            namespace: "shop".to_owned(),
            name: "db".to_owned(),
            at: at(4),
            tier: Tier::NetworkPolicy,
            priority: Priority::HIGHEST,
            subject: labelled("app", "db"),
            isolates_ingress: true,
            isolates_egress: false,
            ingress: vec![Rule {
                at: at(9),
                action: Action::Allow,
                peers: Peers::Only(vec![web]),
                ports: Ports::Only(vec![port]),
            }],
            egress: Vec::new(),
        };
        PolicySet::from_iter(vec![policy])
    }

    fn record(way: Way) -> FlowRecord {
        let snapshot = Arc::new(fixture::snapshot());
        let resolved = resolve::resolve(Arc::new(policies()), Arc::clone(&snapshot));
        let mut names = NameTable::default();
        names.install(REVISION, &snapshot, &fixture::owners(), Arc::new(resolved));
        let denial = Denial::Flow { way, count: 1 };
        Enricher::new("n1").enrich(&names, Timestamp::UNIX_EPOCH, &denial).unwrap()
    }

    fn lines(decision: &RecordedDecision) -> Vec<u32> {
        match decision {
            RecordedDecision::Policies { policies, .. } | RecordedDecision::Disagreement { policies, .. } => {
                let line = |policy: &DecidingPolicy| match policy.at {
                    Origin::File { line, .. } => Some(line),
                    Origin::Object { .. } => None,
                };
                policies.iter().filter_map(line).collect()
            }
            RecordedDecision::NotPolicy
            | RecordedDecision::EarlierRevision { .. }
            | RecordedDecision::LaterWorkload { .. } => Vec::new(),
        }
    }

    #[test]
    fn a_default_deny_names_the_line_of_the_policy() {
        let mut denied = way(Reason::NoRule, Direction::Ingress, DB, "10.88.0.3", "10.88.0.2");
        denied.key.destination_port = 22;
        let record = record(denied);
        assert!(matches!(record.decision, RecordedDecision::Policies { .. }), "{record:?}");
        assert_eq!(lines(&record.decision), [4]);
    }

    #[test]
    fn every_protocol_is_asked_for_as_itself() {
        for (protocol, port) in [(6, 22), (17, 5432), (132, 5432), (1, 8), (58, 128), (47, 0)] {
            let mut denied = way(Reason::NoRule, Direction::Ingress, DB, "10.88.0.3", "10.88.0.2");
            (denied.key.protocol, denied.key.destination_port) = (protocol, port);
            assert_eq!(lines(&record(denied).decision), [4], "{protocol}");
        }
    }

    #[test]
    fn what_a_rule_allows_names_the_line_of_the_rule() {
        let allowed = record(way(Reason::NoRule, Direction::Ingress, DB, "10.88.0.3", "10.88.0.2"));
        assert!(matches!(allowed.decision, RecordedDecision::Disagreement { .. }), "{allowed:?}");
        assert_eq!(lines(&allowed.decision), [9]);
        let free = record(way(Reason::NoRule, Direction::Egress, WEB, "10.88.0.2", "192.0.2.1"));
        assert!(matches!(free.decision, RecordedDecision::Disagreement { .. }), "{free:?}");
        assert_eq!(lines(&free.decision), [0; 0]);
    }

    #[test]
    fn an_answer_of_a_closed_flow_is_denied_by_the_policy_of_its_direction() {
        let mut answer = way(Reason::NoRule, Direction::Egress, DB, "10.88.0.3", "10.88.0.2");
        (answer.source_port, answer.key.destination_port, answer.tcp_flags) = (22, 40122, 0x10);
        let record = record(answer);
        assert!(record.is_reply);
        assert_eq!(lines(&record.decision), [4]);
    }

    #[test]
    fn of_a_workload_that_nobody_has_named_policies_say_nothing() {
        let unnamed = record(way(Reason::NoRule, Direction::Egress, UNNAMED, "10.88.0.9", "10.88.0.2"));
        assert_eq!(unnamed.decision, RecordedDecision::LaterWorkload { revision: REVISION });
    }
}
