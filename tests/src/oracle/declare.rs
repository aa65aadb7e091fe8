//! Policies as documents declare them, before the defaults of `policyTypes` (N3) are filled in.

use enforcer::policy::model::{LabelSelector, Policy, PolicyKind, PolicySet, Priority, Rule, Tier};
use enforcer::policy::origin::Origin;

/// A NetworkPolicy as written.
#[derive(Clone, Debug)]
pub struct Declared {
    /// Namespace.
    pub namespace: String,
    /// Name.
    pub name: String,
    /// `podSelector`.
    pub subject: LabelSelector,
    /// `policyTypes`: whether it lists Ingress and Egress. `None`: absent.
    pub types: Option<[bool; 2]>,
    /// `ingress`.
    pub ingress: Vec<Rule>,
    /// `egress`.
    pub egress: Vec<Rule>,
}

/// How absent `policyTypes` are read.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Defaults {
    /// Ingress always, Egress only if there are egress rules (N3).
    Standard,
    /// Both, always: what N3 is not.
    Both,
}

/// The model of some declared policies.
pub fn model(declared: &[Declared], defaults: Defaults) -> PolicySet {
    let policy = |declared: &Declared| {
        let Declared { namespace, name, subject, types, ingress, egress } = declared.clone();
        let [isolates_ingress, isolates_egress] = types.unwrap_or(match defaults {
            Defaults::Standard => [true, !egress.is_empty()],
            Defaults::Both => [true, true],
        });
        Policy {
            kind: PolicyKind::NetworkPolicy,
            namespace,
            at: at(),
            name,
            tier: Tier::NetworkPolicy,
            priority: Priority::HIGHEST,
            subject,
            isolates_ingress,
            isolates_egress,
            ingress: if isolates_ingress { ingress } else { Vec::new() },
            egress: if isolates_egress { egress } else { Vec::new() },
        }
    };
    declared.iter().map(policy).collect()
}

/// A place for what no file declared.
pub fn at() -> Origin {
    Origin::line("random.yaml", 1)
}
