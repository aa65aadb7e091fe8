//! Judges one direction of a flow: the verdict of the compiled tables, and the rule that is the reason for it.
//!
//! Input: the resolved policy, its tables, and the treatment of unknown workloads. Output: a verdict with its reason. The
//! verdict comes from `enforcer_common::decide`, which the programs also call. The reason comes from the rules. If the rules
//! give another verdict, that is an error.

use std::net::IpAddr;

use enforcer_common::decide::{self, Question};
use enforcer_common::endpoint::Endpoint;
use enforcer_common::id::{Address, Direction, OwnerId, Slot};
use enforcer_common::image::{PortKey, ReadImage as _};
use enforcer_common::limits::OWN_ADDRESSES;
use enforcer_common::verdict::{Reason, Verdict};

use crate::compile::{CompileError, Image, compile};
use crate::plan::{Intent, PlannedWorkload, Unknown};
use crate::policy::model::{PolicyRef, PolicySet, RuleRef};
use crate::resolve::{DecidedBy, Decision, ResolvedPolicy, Service};
use crate::workload::model::{Identity, LocalWorkload, WorkloadKey};

/// The tables and the rules that they were compiled from give different answers.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
#[error(
    "for {service:?} with {peer}, {direction:?} of {own}, the compiled tables say {tables:?}, but the rules say \
     {rules:?}; packets get the verdict of the tables; this is a defect of Enforcer, please report it"
)]
pub(super) struct Disagreement {
    /// Address of the workload.
    pub(super) own: IpAddr,
    /// Address of its peer.
    pub(super) peer: IpAddr,
    /// Direction of the flow, seen from the workload.
    pub(super) direction: Direction,
    /// Service of the destination.
    pub(super) service: Service,
    /// What packets get.
    pub(super) tables: Verdict,
    /// What the rules say.
    pub(super) rules: Verdict,
}

/// One direction's answer.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(super) struct Answer {
    /// A line for people.
    pub(super) text: String,
    /// It passes in this direction.
    pub(super) allowed: bool,
}

/// What answers.
pub(super) struct Judge<'a> {
    resolved: &'a ResolvedPolicy,
    intent: Intent,
}

impl<'a> Judge<'a> {
    /// Compiles the policy.
    pub(super) fn new(resolved: &'a ResolvedPolicy, unknown: Unknown) -> Result<Self, CompileError> {
        Ok(Self::of(resolved, compile(resolved)?, unknown))
    }

    fn of(resolved: &'a ResolvedPolicy, image: Image, unknown: Unknown) -> Self {
        Self { resolved, intent: Intent::new(image, resolved.snapshot(), unknown, None) }
    }

    /// Verdict and reason of a flow that the workload with the address `own` sends (egress) or gets (ingress).
    pub(super) fn explain_flow(
        &self,
        direction: Direction,
        own: IpAddr,
        peer: IpAddr,
        service: Service,
    ) -> Result<Answer, Disagreement> {
        let word = match direction {
            Direction::Egress => "egress ",
            Direction::Ingress => "ingress",
        };
        if let Some(text) = self.past_the_programs(own) {
            return Ok(Answer { text: format!("{word}  not judged: {text}"), allowed: true });
        }
        let holder = self.resolved.snapshot().local.iter().find(|(_, local)| local.addresses.contains_key(&own));
        let Some((key, local)) = holder else {
            let text = format!("{word}  not judged on this node: no workload here has the address {own}");
            return Ok(Answer { text, allowed: true });
        };
        let isolated = !matches!(self.resolved.decide(*key, direction, peer, service).by, DecidedBy::NotIsolated);
        if isolated && direction == Direction::Egress && self.resolved.is_service(peer.into()) {
            let text =
                format!("{word}  not judged by this address: {peer} is a Service; ask for the address of its backend");
            return Ok(Answer { text, allowed: true });
        }
        let tables = self.verdict(*key, direction, peer, service.port_key());
        let allowed = tables == Verdict::Allow;
        let why = if local.identity.is_none() && allowed {
            // The rules know nothing of it.
            "no source names the workload, and the daemon runs with --unknown open".to_owned()
        } else {
            let Decision { verdict: rules, by } = self.resolved.decide(*key, direction, peer, service);
            if tables != rules {
                return Err(Disagreement { own, peer, direction, service, tables, rules });
            }
            self.why(by, local)
        };
        Ok(Answer { text: format!("{word}  {}: {why}", if allowed { "allowed" } else { "denied" }), allowed })
    }

    /// Why no program of ours sees the packets of an address: it is on a device of a workload that ends at none of our hooks.
    fn past_the_programs(&self, own: IpAddr) -> Option<String> {
        self.resolved.snapshot().local.values().find_map(|local| {
            let mut devices = local.foreign.iter().filter(|(_, device)| device.addresses.contains(&own));
            let (name, device) = devices.next()?;
            Some(format!(
                "{} is partly enforced: {own} is on its device {name} ({}), which passes no program",
                who(local),
                device.kind
            ))
        })
    }

    /// What else of the workload with this address no program sees.
    pub(super) fn beside(&self, own: IpAddr) -> Option<String> {
        let local = self.resolved.snapshot().local.values().find(|local| local.addresses.contains_key(&own))?;
        let devices: Vec<String> =
            local.foreign.iter().map(|(name, device)| format!("{name} ({})", device.kind)).collect();
        (!devices.is_empty()).then(|| {
            format!(
                "{} is partly enforced: this holds for its veths, and what goes over {} passes no program",
                who(local),
                devices.join(", ")
            )
        })
    }

    /// What packets get.
    fn verdict(&self, key: WorkloadKey, direction: Direction, peer: IpAddr, port: PortKey) -> Verdict {
        let plan = self.intent.plan();
        let planned = plan.workloads.iter().find(|planned| planned.key == key);
        let Some(planned) = planned.filter(|planned| !planned.unknown) else {
            // A guardrail: policy is not asked.
            return Verdict::Deny(Reason::UnknownWorkload);
        };
        let (image, peer) = (self.intent.image(), Address::from(peer));
        let question = Question { direction, peer: &peer, entry: image.address(&peer), port };
        decide::answer(Some(image), SLOT, &endpoint(planned), &question)
    }

    fn why(&self, by: DecidedBy, local: &LocalWorkload) -> String {
        let set = self.resolved.policies();
        match by {
            DecidedBy::NotIsolated => "no policy isolates the workload".to_owned(),
            DecidedBy::Itself => "a workload always reaches itself".to_owned(),
            DecidedBy::Rule(rule) => rule_text(set, rule),
            DecidedBy::Isolated { policies } if policies.is_empty() && local.disagrees => {
                "the sources that name the workload disagree, see `enforcer status`".to_owned()
            }
            DecidedBy::Isolated { policies } if policies.is_empty() && local.lost_its_name() => {
                "the workload had a name that no source gives it now, see `enforcer status`".to_owned()
            }
            DecidedBy::Isolated { policies } if policies.is_empty() => "no source names the workload".to_owned(),
            DecidedBy::Isolated { policies } => {
                let names: Vec<String> = policies.iter().map(|at| policy_text(set, *at)).collect();
                format!("no rule allows it, and it is isolated by {}", names.join(", "))
            }
        }
    }
}

fn who(local: &LocalWorkload) -> String {
    match (&local.identity, &local.past.named) {
        (Some(Identity { name, .. }), _) | (None, Some((name, _))) => name.to_string(),
        (None, None) => "an unknown workload".to_owned(),
    }
}

fn rule_text(set: &PolicySet, at: RuleRef) -> String {
    let line = set.rule(at).map(|rule| rule.at.to_string()).unwrap_or_default();
    format!("rule {line} of {}", policy_text(set, at.policy))
}

fn policy_text(set: &PolicySet, at: PolicyRef) -> String {
    match set.policy(at) {
        Some(policy) => format!("{} {}/{} ({})", policy.kind.as_str(), policy.namespace, policy.name, policy.at),
        None => "a policy that is gone".to_owned(),
    }
}

/// There is one image, and it is in this slot.
const SLOT: Slot = Slot::of(0);

/// A workload as its programs know it.
fn endpoint(planned: &PlannedWorkload) -> Endpoint {
    let mut endpoint = Endpoint { rows: [planned.rows; 2], flags: [0; 2], ..Endpoint::FREE };
    for (place, address) in planned.addresses.iter().take(OWN_ADDRESSES).enumerate() {
        endpoint.addresses[place] = *address;
        endpoint.owners[place] = OwnerId(1);
        endpoint.owned += 1;
    }
    endpoint
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;
    use std::sync::Arc;

    use super::*;
    use crate::policy::load::{SourceFile, from_sources};
    use crate::policy::model::Transport;
    use crate::resolve::resolve;
    use crate::workload::model::{LabelSets, Past, Snapshot, Vouched, WorkloadName, given_by};

    const WEB: [u8; 4] = [10, 88, 0, 10];
    const NEW: [u8; 4] = [10, 88, 0, 11];
    const OUT: [u8; 4] = [192, 0, 2, 1];
    const ANY: Service = Service::Transport(Transport::Tcp, 80);

    /// `web` with these rules, and a workload that nobody has named.
    fn resolved(allow: &str, disagrees: bool) -> ResolvedPolicy {
        let text = format!(
            "apiVersion: enforcer.dev/v1alpha1\nkind: FlowPolicy\nmetadata: {{name: p, namespace: shop}}\nspec:\n  \
             isolate: [ingress]\n  allow: [{allow}]\n"
        );
        let set = from_sources(vec![SourceFile { path: "p.yaml".into(), text: text.into() }]).unwrap().set;
        let name = WorkloadName { namespace: "shop".to_owned(), name: "web".to_owned() };
        let web = Identity { name, labels: LabelSets::default(), ports: BTreeMap::new() };
        let workload = |identity, address: [u8; 4], disagrees| LocalWorkload {
            identity,
            addresses: given_by("the inventory", [address.into()]),
            disputed: Vouched::new(),
            endpoints: BTreeMap::new(),
            routes: false,
            disagrees,
            foreign: BTreeMap::new(),
            past: Past::default(),
        };
        let local =
            [(WorkloadKey(1), workload(Some(web), WEB, false)), (WorkloadKey(2), workload(None, NEW, disagrees))];
        let snapshot = Snapshot { local: BTreeMap::from(local), ..Snapshot::default() };
        resolve(set, Arc::new(snapshot))
    }

    fn to_web(judge: &Judge<'_>, peer: [u8; 4]) -> Result<Answer, Disagreement> {
        judge.explain_flow(Direction::Ingress, WEB.into(), peer.into(), ANY)
    }

    #[test]
    fn the_verdict_is_that_of_the_tables() {
        let (open, closed) = (resolved("{from: anywhere, ports: [80/tcp]}", false), resolved("", false));
        assert!(to_web(&Judge::new(&open, Unknown::Strict).unwrap(), OUT).unwrap().allowed);
        assert!(!to_web(&Judge::new(&closed, Unknown::Strict).unwrap(), OUT).unwrap().allowed);
        let others = Judge::of(&open, compile(&closed).unwrap(), Unknown::Strict);
        let error = to_web(&others, OUT).unwrap_err();
        assert_eq!((error.tables, error.rules), (Verdict::Deny(Reason::NoRule), Verdict::Allow));
        assert!(error.to_string().contains("192.0.2.1, Ingress of 10.88.0.10"), "{error}");
        let others = Judge::of(&closed, compile(&open).unwrap(), Unknown::Strict);
        let error = to_web(&others, OUT).unwrap_err();
        assert_eq!((error.tables, error.rules), (Verdict::Allow, Verdict::Deny(Reason::NoRule)));
        // Whatever the tables hold.
        assert_eq!(to_web(&others, WEB).unwrap().text, "ingress  allowed: a workload always reaches itself");
    }

    #[test]
    fn a_service_is_not_judged_by_its_address() {
        let answer = |isolate: &str| {
            let text = format!(
                "apiVersion: enforcer.dev/v1alpha1\nkind: FlowPolicy\nmetadata: {{name: p, namespace: shop}}\nspec:\n  \
                 isolate: [{isolate}]\n"
            );
            let set = from_sources(vec![SourceFile { path: "p.yaml".into(), text: text.into() }]).unwrap().set;
            let mut snapshot = Snapshot::clone(resolved("", false).snapshot());
            snapshot.services = [OUT.into()].into();
            let resolved = resolve(set, Arc::new(snapshot));
            let judge = Judge::new(&resolved, Unknown::Strict).unwrap();
            judge.explain_flow(Direction::Egress, WEB.into(), OUT.into(), ANY).unwrap().text
        };
        assert_eq!(
            answer("egress"),
            "egress   not judged by this address: 192.0.2.1 is a Service; ask for the address of its backend"
        );
        assert_eq!(answer("ingress"), "egress   allowed: no policy isolates the workload");
    }

    #[test]
    fn an_unknown_workload_is_as_run_was_told() {
        let of = |unknown, disagrees| {
            let resolved = resolved("", disagrees);
            Judge::new(&resolved, unknown)
                .unwrap()
                .explain_flow(Direction::Egress, NEW.into(), OUT.into(), ANY)
                .unwrap()
                .text
        };
        assert_eq!(of(Unknown::Strict, false), "egress   denied: no source names the workload");
        assert_eq!(
            of(Unknown::Open, false),
            "egress   allowed: no source names the workload, and the daemon runs with --unknown open"
        );
        let contradicted = "egress   denied: the sources that name the workload disagree, see `enforcer status`";
        assert_eq!(of(Unknown::Open, true), contradicted);
        assert_eq!(of(Unknown::Strict, true), contradicted);
    }
}
