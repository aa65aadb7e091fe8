//! Tells the Kubernetes API what holds on this node.
//!
//! Input: what the report shows. Output: the status of the node's `EnforcerNode`, within the bounds of its kind. Without
//! the Kubernetes API nothing is told.

use std::collections::BTreeMap;

use enforcer_common::id::Revision;

use super::reporter::{Shown, time};
use crate::kubernetes::Cluster;
use crate::policy::model::PolicyKind;
use crate::policy::source::{Version, Versioned};
use crate::policy::store::Instead;
use crate::publish::{
    Applied, ERROR, MOST_PODS, MOST_POLICIES, MOST_REASONS, MOST_STALE, NodeStatus, REFUSAL, RefusedPolicy,
    StaleSource, Unmanaged, Veths, Workloads, Writer,
};
use crate::serve::Endpoints;
use crate::workload::Published;
use crate::workload::finding::{Finding, NotJoined, Subject};
use crate::workload::model::WorkloadName;

/// The agent's side of the writer.
#[derive(Debug, Default)]
pub(super) struct Publisher(Option<Writer>);

impl Publisher {
    pub(super) fn to(cluster: &Cluster) -> Self {
        Self(Some(Writer::start(cluster.clone())))
    }

    /// `ready`: the first full set is in the kernel.
    pub(super) fn tell(&self, now: &Shown, ready: bool, revision: Revision, endpoints: Endpoints) {
        if let Some(writer) = &self.0 {
            writer.tell(status(now, ready, revision, endpoints));
        }
    }
}

fn status(now: &Shown, ready: bool, revision: Revision, endpoints: Endpoints) -> NodeStatus {
    let findings = now.published.get().into_iter().flat_map(Published::findings);
    let local = || now.snapshot.get().into_iter().flat_map(|snapshot| snapshot.local.values());
    let named = local().filter(|workload| workload.identity.is_some()).count() as u64;
    let stale = || now.stale.iter().filter(|stale| !stale.is_missing);
    let error = now.policy_error.as_ref().or(now.own.apply_error.as_ref()).or(now.own.unfinished.first());
    NodeStatus {
        version: env!("CARGO_PKG_VERSION").to_owned(),
        ready,
        revision: revision.0.into(),
        policy_count: now.own.policy_count as u64,
        policies: listed(&now.own.versions).take(MOST_POLICIES).map(applied).collect(),
        refused: now.refused.iter().map(refused).collect(),
        veths: Veths { enforced: endpoints.enforced, unknown: endpoints.unmanaged, failed: endpoints.failed },
        workloads: Workloads { named, unknown: local().count() as u64 - named },
        unmanaged_pods: unmanaged(findings),
        stale: stale()
            .take(MOST_STALE)
            .map(|stale| StaleSource { since: time(stale.since), error: short(&stale.error, ERROR) })
            .collect(),
        stale_since: stale().map(|stale| stale.since).min().map(time),
        last_error: error.map(|error| short(error, ERROR)),
    }
}

/// `FlowPolicies` first: the controller tells their authors what this list says of them.
fn listed(policies: &[Versioned]) -> impl Iterator<Item = &Versioned> {
    let is_flow = |policy: &&Versioned| policy.kind == PolicyKind::FlowPolicy.as_str();
    policies.iter().filter(is_flow).chain(policies.iter().filter(move |policy| !is_flow(policy)))
}

fn applied(policy: &Versioned) -> Applied {
    let Versioned { kind, namespace, name, version, stands_in } = policy.clone();
    let Version { resource_version, uid, generation } = version;
    Applied { kind, namespace, name, resource_version, uid, generation, stands_in }
}

fn refused((policy, instead, error): &(Versioned, Instead, String)) -> RefusedPolicy {
    let Versioned { kind, namespace, name, version, stands_in: _ } = policy.clone();
    let Version { resource_version, uid, generation } = version;
    let instead = match instead {
        Instead::LastGood => "LastGood",
        Instead::Isolation => "Isolation",
        Instead::Nothing => "Nothing",
    };
    let (instead, error) = (instead.to_owned(), short(error, REFUSAL));
    RefusedPolicy { kind, namespace, name, resource_version, uid, generation, instead, error }
}

fn short(text: &str, most: usize) -> String {
    text.chars().take(most).collect()
}

/// Pods without enforcement, by reason.
fn unmanaged<'a>(findings: impl Iterator<Item = &'a Finding>) -> Vec<Unmanaged> {
    let mut reasons = BTreeMap::<&'static str, Unmanaged>::new();
    for (reason, pod) in findings.filter_map(reason) {
        let entry = reasons.entry(reason).or_default();
        reason.clone_into(&mut entry.reason);
        entry.count += 1;
        if entry.pods.len() < MOST_PODS {
            entry.pods.push(pod.to_string());
        }
    }
    reasons.into_values().take(MOST_REASONS).collect()
}

/// Why a pod is not enforced, in one word; `None`: the finding is about something else, or about a moment.
fn reason(finding: &Finding) -> Option<(&'static str, &WorkloadName)> {
    match finding {
        Finding::PodNotJoined { pod, because } => {
            let reason = match because {
                NotJoined::NoVeth => "NoVeth",
                NotJoined::Conflict(_) => "Conflict",
                NotJoined::Doubtful(_) => "Doubtful",
                NotJoined::Confirming => return None,
            };
            Some((reason, pod))
        }
        Finding::Strayed { workload } => named("Strayed", workload),
        Finding::Renamed { workload, .. } => named("Renamed", workload),
        Finding::SourcesDisagree { workload, .. } => named("SourcesDisagree", workload),
        Finding::ReachesNode { workload, .. } => named("ReachesNode", workload),
        _ => None,
    }
}

/// What has no name is counted among the unknown workloads.
fn named<'a>(reason: &'static str, workload: &'a Subject) -> Option<(&'static str, &'a WorkloadName)> {
    Some((reason, workload.name.as_ref()?))
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;
    use std::sync::Arc;
    use std::time::{Duration, SystemTime};

    use super::super::reporter::tests::shown;
    use super::*;
    use crate::policy::source::Stale;
    use crate::publish::MOST_REFUSED;

    fn pod(number: usize, because: NotJoined) -> Finding {
        let pod = WorkloadName { namespace: "shop".to_owned(), name: format!("p{number}") };
        Finding::PodNotJoined { pod, because }
    }

    #[test]
    fn pods_are_counted_by_reason_and_a_moment_is_none() {
        let mut findings: Vec<Finding> = (0..30).map(|number| pod(number, NotJoined::NoVeth)).collect();
        findings.push(pod(30, NotJoined::Conflict(BTreeSet::new())));
        findings.push(pod(31, NotJoined::Confirming));
        findings.push(Finding::UplinkMissing { name: "eth9".to_owned() });
        let reasons = unmanaged(findings.iter());
        let counts: Vec<_> =
            reasons.iter().map(|reason| (reason.reason.as_str(), reason.count, reason.pods.len())).collect();
        assert_eq!(counts, [("Conflict", 1, 1), ("NoVeth", 30, MOST_PODS)]);
        assert_eq!(reasons[0].pods, ["shop/p30"]);
    }

    #[test]
    fn the_status_keeps_to_the_bounds_of_its_kind() {
        let mut now = shown(None, 0);
        let version = |number: usize| Versioned { name: format!("p{number}"), ..Versioned::default() };
        let mut versions: Vec<Versioned> = (0..2_000).map(version).collect();
        versions.push(Versioned { kind: "FlowPolicy".to_owned(), name: "last".to_owned(), ..Versioned::default() });
        now.own.versions = Arc::new(versions);
        now.refused = vec![(Versioned::default(), Instead::Nothing, "y".repeat(10_000)); MOST_REFUSED];
        now.own.policy_count = 2_000;
        now.policy_error = Some("\u{e4}".repeat(10_000));
        let long = |is_missing| Stale { since: SystemTime::UNIX_EPOCH, error: "x".repeat(10_000), is_missing };
        now.stale = vec![long(true); 40];
        assert_eq!(status(&now, true, Revision(7), Endpoints::default()).stale_since, None, "nobody has to miss it");
        now.stale.extend(vec![long(false); 40]);
        now.stale[50].since += Duration::from_mins(1);
        let status = status(&now, true, Revision(7), Endpoints::default());
        assert_eq!((status.policies.len(), status.policy_count), (MOST_POLICIES, 2_000));
        assert_eq!(status.policies[0].name, "last", "the controller misses no FlowPolicy");
        assert_eq!((status.refused[0].error.len(), status.refused[0].instead.as_str()), (REFUSAL, "Nothing"));
        assert_eq!(status.last_error.unwrap().chars().count(), ERROR);
        assert_eq!((status.stale.len(), status.stale[0].error.len()), (MOST_STALE, ERROR));
        assert_eq!(status.stale_since.as_deref(), Some("1970-01-01T00:00:00Z"));
        assert_eq!((status.ready, status.revision), (true, 7));
    }
}
