//! Finds what policies say without an effect: a policy that selects nobody, a rule whose peers are nobody, a port by a name
//! that nobody gives to a port, an address of a Service where policy asks for who is behind it.
//!
//! Input: policies and a roster of workloads. Output: a [`NoOp`] for each, with its line. Pure, and off the way of a change: it is
//! asked after an image is in force.

use std::fmt;

use enforcer_common::id::Direction;

use super::directory::GroupId;
use super::ports::{PortNames, PortSet};
use super::roster::Roster;
use super::services::Ranges;
use crate::policy::Caution;
use crate::policy::model::{NamespaceScope, Peer, Peers, Policy, PolicySet, PortSpec, Ports, Rule};
use crate::policy::origin::Origin;
use crate::policy::service::Services;

/// Namespaces that a message lists.
const LISTED: usize = 5;

/// Something without an effect.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct NoOp {
    /// The line of the policy or of its rule.
    pub at: Origin,
    /// What has no effect.
    pub what: Caution,
}

impl fmt::Display for NoOp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { at, what } = self;
        write!(f, "{at}: {what}")?;
        what.help().map_or(Ok(()), |help| write!(f, "; {help}"))
    }
}

/// All of them, in the order of the policies. Workloads on other machines count like those on this one.
pub fn no_ops(policies: &PolicySet, roster: &Roster) -> Vec<NoOp> {
    let (known, services) = (Known(roster), Ranges::Judged(&roster.snapshot().services));
    let mut found = Vec::new();
    for policy in &policies.policies {
        known.policy(policy, &mut found);
        found.extend(services.in_vain(policy).into_iter().map(NoOp::of));
    }
    found
}

/// All rules that name addresses of these Services, of policies that name nobody who may be behind them.
pub fn for_services(policies: &PolicySet, services: &Services) -> Vec<NoOp> {
    let ranges = Ranges::Known(services);
    policies.policies.iter().flat_map(|policy| ranges.in_vain(policy)).map(NoOp::of).collect()
}

impl NoOp {
    fn of((at, what): (Origin, Caution)) -> Self {
        Self { at, what }
    }
}

struct Known<'a>(&'a Roster);

impl Known<'_> {
    fn policy(&self, policy: &Policy, found: &mut Vec<NoOp>) {
        let Policy { kind, namespace, name, at, subject, .. } = policy;
        let subjects = self.0.select(namespace, &NamespaceScope::Own, subject);
        if subjects.is_empty() {
            let is_empty = !self.0.namespaces().any(|known| known == namespace);
            let others = self.0.namespaces().take(LISTED).map(str::to_owned);
            let namespaces = is_empty.then(|| others.collect());
            let (kind, namespace, name) = (kind.as_str(), namespace.clone(), name.clone());
            return found
                .push(NoOp { at: at.clone(), what: Caution::SelectsNobody { kind, namespace, name, namespaces } });
        }
        for direction in [Direction::Ingress, Direction::Egress] {
            for rule in policy.rules(direction) {
                let whats = self.rule(namespace, direction, &subjects, rule);
                found.extend(whats.into_iter().map(|what| NoOp { at: rule.at.clone(), what }));
            }
        }
    }

    fn rule(&self, own: &str, direction: Direction, subjects: &[GroupId], rule: &Rule) -> Vec<Caution> {
        // `None`: any address, so whoever is known may be one of the peers.
        let peers = match &rule.peers {
            Peers::Any => None,
            Peers::Only(items) => self.peers(own, items),
        };
        if peers.as_ref().is_some_and(Vec::is_empty) {
            return vec![Caution::RuleForNobody];
        }
        let destinations = match direction {
            Direction::Ingress => Some(subjects),
            Direction::Egress => peers.as_deref(),
        };
        let Ports::Only(specs) = &rule.ports else { return Vec::new() };
        let unserved = specs.iter().filter(|spec| !self.is_served(spec, destinations));
        unserved
            .filter_map(|spec| match spec {
                PortSpec::Named { name, .. } => Some(Caution::PortOfNobody { name: name.clone() }),
                PortSpec::Every(_) | PortSpec::Range { .. } | PortSpec::Icmp => None,
            })
            .collect()
    }

    /// The groups that the items name; `None` if an item is an address range.
    fn peers(&self, own: &str, items: &[Peer]) -> Option<Vec<GroupId>> {
        let mut groups = Vec::new();
        for item in items {
            match item {
                Peer::Workloads { namespaces, workloads } => {
                    groups.extend(self.0.select(own, namespaces, workloads));
                }
                Peer::Cidr { .. } => return None,
            }
        }
        Some(groups)
    }

    /// Whether a port item means a port of any of these workloads, or of any at all.
    fn is_served(&self, spec: &PortSpec, groups: Option<&[GroupId]>) -> bool {
        let serves = |names: &PortNames| !PortSet::of_names(std::slice::from_ref(spec), names).is_empty();
        match (spec, groups) {
            (PortSpec::Every(_) | PortSpec::Range { .. } | PortSpec::Icmp, _) => true,
            (PortSpec::Named { .. }, None) => self.0.port_names().any(serves),
            (PortSpec::Named { .. }, Some(groups)) => groups.iter().any(|group| serves(&self.0.identity(*group).ports)),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;
    use std::sync::Arc;

    use proptest::prelude::*;

    use super::*;
    use crate::policy::load::{SourceFile, from_sources};
    use crate::resolve::resolve_with;
    use crate::workload::inventory::Inventory;
    use crate::workload::model::Snapshot;
    use crate::workload::offline;

    const INVENTORY: &str = "\
namespaces:
  ops: {labels: {team: ops}}
workloads:
  - {name: web, namespace: shop, labels: {app: web}, ports: {http: 80/tcp}, match: {netns: web}}
  - {name: db, namespace: shop, labels: {app: db}, ports: {sql: 5432/tcp}, match: {netns: db}}
  - {name: probe, namespace: ops, labels: {app: probe}, match: {address: 192.0.2.1}}
";

    fn set(text: &str) -> Arc<PolicySet> {
        let source = SourceFile { path: Arc::from("p.yaml"), text: text.into() };
        from_sources(vec![source]).unwrap_or_else(|error| panic!("{text}{error}")).set
    }

    fn snapshot(text: &str) -> Snapshot {
        offline::snapshot(&Inventory::parse(Path::new("inventory.yaml"), text).unwrap())
    }

    /// What a FlowPolicy says in vain.
    fn of(namespace: &str, spec: &str) -> Vec<String> {
        let head = "apiVersion: enforcer.dev/v1alpha1\nkind: FlowPolicy\nmetadata:";
        let policies = set(&format!("{head} {{name: a, namespace: {namespace}}}\nspec:\n{spec}\n"));
        let said = no_ops(&policies, &Roster::of(Arc::new(snapshot(INVENTORY)))).into_iter();
        said.map(|no_op| format!("{} {}", no_op.at, no_op.what)).collect()
    }

    #[test]
    fn what_has_no_effect_is_found() {
        for (namespace, spec, expected) in [
            (
                "default",
                "  isolate: [ingress]",
                "p.yaml:3 FlowPolicy `default/a` selects nobody: the namespace `default` has no workload",
            ),
            (
                "shop",
                "  workloads: {app: wbe}\n  isolate: [ingress]",
                "p.yaml:3 FlowPolicy `shop/a` selects nobody: no workload of the namespace has the labels",
            ),
            (
                "shop",
                "  allow:\n    - from: anywhere\n    - from: [{workloads: {app: probe}}]",
                "p.yaml:7 no known workload is a peer of this rule",
            ),
            (
                "shop",
                "  allow:\n    - from: [{namespaces: {team: x}}]",
                "p.yaml:6 no known workload is a peer of this rule",
            ),
            (
                "shop",
                "  workloads: {app: web}\n  allow:\n    - {from: anywhere, ports: [sql]}",
                "p.yaml:7 no workload that the rule leads to has a port named `sql`",
            ),
            (
                "shop",
                "  allow:\n    - {from: anywhere, ports: [http/udp]}",
                "p.yaml:6 no workload that the rule leads to has a port named `http`",
            ),
            (
                "shop",
                "  allow:\n    - {to: [{workloads: {app: web}}], ports: [sql]}",
                "p.yaml:6 no workload that the rule leads to has a port named `sql`",
            ),
            (
                "shop",
                "  allow:\n    - {to: anywhere, ports: [dns]}",
                "p.yaml:6 no workload that the rule leads to has a port named `dns`",
            ),
        ] {
            let said = of(namespace, spec);
            assert_eq!(said.len(), 1, "{spec}: {said:?}");
            assert!(said[0].starts_with(expected), "{spec}: {said:?}");
        }
    }

    #[test]
    fn what_has_an_effect_is_not_told() {
        for spec in [
            "  isolate: [ingress, egress]",
            "  workloads: {app: db}\n  allow:\n    - {from: [{workloads: {app: web}}, {workloads: {app: gone}}], ports: [sql, 1/tcp]}",
            "  allow:\n    - from: [{namespaces: {team: ops}}]\n    - from: [{cidr: 203.0.113.0/24}]\n    - to: anywhere",
            "  allow:\n    - {to: [{cidr: 203.0.113.0/24}], ports: [http]}\n    - {to: anywhere, ports: [sql/tcp, icmp]}",
        ] {
            assert_eq!(of("shop", spec), [""; 0], "{spec}");
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

        /// One grammar for a name: a FlowPolicy can name every namespace that a workload can be in, and ask for every name as
        /// the value of a label.
        #[test]
        fn every_workload_can_be_selected(namespace in "[A-Za-z0-9._-]{1,253}", name in "[A-Za-z0-9._-]{1,253}") {
            let inventory = format!(
                "workloads:\n  - {{name: \"{name}\", namespace: \"{namespace}\", labels: {{enforcer.dev/container: \"{name}\"}}, match: {{netns: a}}}}\n"
            );
            let policy = format!(
                "apiVersion: enforcer.dev/v1alpha1\nkind: FlowPolicy\nmetadata: {{name: a, namespace: \"{namespace}\"}}\n\
                 spec:\n  workloads: {{enforcer.dev/container: \"{name}\"}}\n  allow:\n    - from: \
                 [{{namespaces: {{kubernetes.io/metadata.name: \"{namespace}\"}}}}]\n"
            );
            let (set, snapshot) = (set(&policy), snapshot(&inventory));
            let roster = Arc::new(Roster::of(Arc::new(snapshot)));
            prop_assert_eq!(no_ops(&set, &roster), []);
            let key = *roster.snapshot().local.keys().next().unwrap();
            let resolved = resolve_with(set, roster);
            prop_assert!(resolved.isolation(key, Direction::Ingress).is_some());
        }
    }
}
