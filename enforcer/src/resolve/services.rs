//! Finds rules for the address of a Service. The node translates such an address, and policy asks for who is behind it (D5).
//!
//! Input: a policy, and what is known of Services. Output: a caution for each peer that names nothing but such addresses. Pure.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use enforcer_common::id::Direction;
use ipnetwork::IpNetwork;

use crate::policy::Caution;
use crate::policy::model::{LabelSelector, NamespaceScope, Peer, Peers, Policy};
use crate::policy::origin::Origin;
use crate::policy::service::{Service, Services};

/// The label that every namespace has with its own name (N13).
const NAMESPACE: &str = "kubernetes.io/metadata.name";

/// Addresses of Services.
pub(super) enum Ranges<'a> {
    /// Those that are judged by their backends alone, so that no rule for them has an effect.
    Judged(&'a BTreeSet<IpAddr>),
    /// Those of files. Whether the node judges Services by their backends alone is not known, so a policy that names the
    /// backends too is in order.
    Known(&'a Services),
}

/// Whose address it is.
enum Whose<'a> {
    One(&'a Service),
    Some,
}

impl Ranges<'_> {
    /// What one policy says of them in vain, with the line of the rule.
    pub(super) fn in_vain(&self, policy: &Policy) -> Vec<(Origin, Caution)> {
        let mut found = Vec::new();
        for direction in [Direction::Ingress, Direction::Egress] {
            for rule in policy.rules(direction) {
                let Peers::Only(peers) = &rule.peers else { continue };
                for peer in peers {
                    let Peer::Cidr { cidr, except: _ } = peer else { continue };
                    let Some(whose) = self.whose(*cidr) else { continue };
                    let service = match whose {
                        Whose::One(Service { namespace, name, .. }) => Some(format!("{namespace}/{name}")),
                        Whose::Some => None,
                    };
                    let cidr = *cidr;
                    let what = match direction {
                        Direction::Ingress => Caution::FromService { cidr, service },
                        Direction::Egress if self.has_backends(policy, &whose) => continue,
                        Direction::Egress => Caution::ToService { cidr, service },
                    };
                    found.push((rule.at.clone(), what));
                }
            }
        }
        found
    }

    /// Whose addresses these are, if they are all of Services.
    fn whose(&self, cidr: IpNetwork) -> Option<Whose<'_>> {
        let is_one = cidr.prefix() == if cidr.is_ipv4() { 32 } else { 128 };
        match self {
            Self::Judged(addresses) => (is_one && addresses.contains(&cidr.ip())).then_some(Whose::Some),
            Self::Known(Services { all, ranges }) => {
                let one = all.iter().find(|service| is_one && service.addresses.contains(&cidr.ip()));
                let is_in = |range: &IpNetwork| {
                    range.is_ipv4() == cidr.is_ipv4() && range.prefix() <= cidr.prefix() && range.contains(cidr.ip())
                };
                one.map(Whose::One).or_else(|| ranges.iter().any(is_in).then_some(Whose::Some))
            }
        }
    }

    /// Whether the policy also allows who may be behind the Service.
    fn has_backends(&self, policy: &Policy, whose: &Whose<'_>) -> bool {
        if matches!(self, Self::Judged(_)) {
            return false;
        }
        policy.egress.iter().any(|rule| match &rule.peers {
            Peers::Any => true,
            Peers::Only(peers) => peers.iter().any(|peer| match (peer, whose) {
                (Peer::Cidr { cidr, .. }, _) => self.whose(*cidr).is_none(),
                (Peer::Workloads { namespaces, workloads }, Whose::One(service)) if !service.selector.is_empty() => {
                    workloads.matches(&service.selector) && may_be_in(policy, namespaces, &service.namespace)
                }
                (Peer::Workloads { .. }, Whose::One(_) | Whose::Some) => true,
            }),
        })
    }
}

/// Whether peers of a policy may be in a namespace of which only the name is known.
fn may_be_in(policy: &Policy, peers: &NamespaceScope, namespace: &str) -> bool {
    match peers {
        NamespaceScope::Own => policy.namespace == namespace,
        NamespaceScope::Matching(selector) => {
            let labels = BTreeMap::from([(NAMESPACE.to_owned(), namespace.to_owned())]);
            let of_name = selector.requirements.iter().filter(|requirement| requirement.key() == NAMESPACE).cloned();
            LabelSelector { requirements: of_name.collect() }.matches(&labels)
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::policy::load::{SourceFile, from_sources};
    use crate::policy::model::PolicySet;
    use crate::policy::service::services;

    const SERVICES: &str = "
apiVersion: v1
kind: Service
metadata: {name: db, namespace: shop}
spec: {clusterIP: 10.96.0.11, selector: {app: db}}
---
apiVersion: v1
kind: Service
metadata: {name: by-hand, namespace: shop}
spec: {clusterIP: 10.96.0.12}
---
apiVersion: networking.k8s.io/v1
kind: ServiceCIDR
metadata: {name: kubernetes}
spec: {cidrs: [10.97.0.0/16, \"fd00:97::/112\"]}
";

    /// The policy of a `spec`, and the Services beside it.
    fn set(spec: &str) -> (SourceFile, Arc<PolicySet>) {
        let head = "apiVersion: enforcer.dev/v1alpha1\nkind: FlowPolicy\nmetadata: {name: web, namespace: shop}\nspec:";
        let file = SourceFile { path: "p.yaml".into(), text: format!("{head}\n{spec}\n---{SERVICES}").into() };
        let set = from_sources(vec![file.clone()]).unwrap_or_else(|error| panic!("{error}")).set;
        (file, set)
    }

    fn told(spec: &str) -> Vec<String> {
        let (file, set) = set(spec);
        let found = Ranges::Known(&services(&[file])).in_vain(&set.policies[0]);
        found.iter().map(|(at, what)| format!("{at} {what}")).collect()
    }

    #[test]
    fn d5_a_rule_for_a_service_without_its_backends_is_told() {
        for (peer, expected) in [
            ("{cidr: 10.96.0.11/32}", "p.yaml:6 `10.96.0.11/32` is the address of Service `shop/db`"),
            ("{cidr: 10.97.3.0/24}", "p.yaml:6 `10.97.3.0/24` holds addresses of Services only"),
            ("{cidr: \"fd00:97::a/128\"}", "p.yaml:6 `fd00:97::a/128` holds addresses of Services only"),
        ] {
            let told = told(&format!("  allow:\n    - {{to: [{peer}], ports: [5432/tcp]}}"));
            assert_eq!(told.len(), 1, "{peer}: {told:?}");
            assert!(told[0].starts_with(expected), "{peer}: {told:?}");
        }
        // Who is named beside it is not behind it.
        for beside in
            ["{workloads: {app: dns}}", "{namespaces: {kubernetes.io/metadata.name: ops}, workloads: {app: db}}"]
        {
            assert_eq!(told(&format!("  allow:\n    - to: [{{cidr: 10.96.0.11/32}}]\n    - to: [{beside}]")).len(), 1);
        }
    }

    #[test]
    fn d5_a_rule_for_a_service_and_for_who_may_be_behind_it_is_in_order() {
        for beside in [
            "[{workloads: {app: db}}]",
            "[{namespaces: {team: shop}, workloads: {}}]",
            "[{namespaces: {kubernetes.io/metadata.name: shop}, workloads: {app: db}}]",
            "[{cidr: 10.244.0.0/16}]",
            "anywhere",
        ] {
            let spec = format!("  allow:\n    - to: [{{cidr: 10.96.0.11/32}}]\n    - to: {beside}");
            assert_eq!(told(&spec), [""; 0], "{beside}");
        }
        // Nobody knows who is behind these.
        for service in ["10.96.0.12/32", "10.97.0.1/32"] {
            let spec = format!("  allow:\n    - to: [{{cidr: {service}}}, {{workloads: {{app: any}}}}]");
            assert_eq!(told(&spec), [""; 0], "{service}");
        }
        for wide in ["10.96.0.0/16", "10.96.0.0/15", "10.96.0.12/31", "\"fd00::/16\"", "10.96.0.99/32"] {
            assert_eq!(told(&format!("  allow:\n    - to: [{{cidr: {wide}}}]")), [""; 0], "{wide}");
        }
    }

    #[test]
    fn d5_nothing_comes_from_the_address_of_a_service() {
        let told = told("  allow:\n    - from: [{cidr: 10.96.0.11/32}, {workloads: {app: db}}]");
        assert_eq!(told.len(), 1);
        assert!(told[0].starts_with("p.yaml:6 no packet comes from `10.96.0.11/32`"), "{told:?}");
    }

    #[test]
    fn d5_where_services_are_judged_by_their_backends_alone_every_rule_for_one_is_told() {
        let (_, set) = set("  allow:\n    - to: [{cidr: 10.96.0.11/32}, {workloads: {app: db}}]");
        let told = |addresses: &BTreeSet<IpAddr>| Ranges::Judged(addresses).in_vain(&set.policies[0]).len();
        assert_eq!(told(&BTreeSet::new()), 0);
        assert_eq!(told(&["10.96.0.11".parse().unwrap()].into()), 1);
    }
}
