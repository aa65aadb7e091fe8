//! Warns of policies and pods, where people look first when something does not work.
//!
//! Input: what the API says of `FlowPolicies` and `EnforcerNodes`. Output: Events on policies that are refused or lag, and on pods
//! that are not enforced. Each is written once in an hour, which is how long an API server keeps it, and not many at a time.
//! A node that somebody has taken over could name any object, so an Event on a pod needs that the pod is on this node, and one on
//! a NetworkPolicy that the object is there.

use std::collections::BTreeMap;
use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use sha2::{Digest as _, Sha256};
use tokio::time::{Instant, sleep};

use super::told::{NETWORK_POLICY, Node, Policy};
use super::writer::{MANAGER, Moment, Views};
use crate::flow::text::{cut, printable};
use crate::kubernetes::{About, Cluster, GROUP, Happening, Key, VERSION, WriteError};
use crate::policy::schema;

/// For how long an Event is there.
const LASTS: Duration = Duration::from_hours(1);
/// How long a policy may be on its way to all nodes.
const LAGS: SignedDuration = SignedDuration::from_mins(2);
/// Characters of a message.
const MESSAGE: usize = 1_000;

/// How often Events are written.
#[derive(Clone, Copy, Debug)]
pub(super) struct Pace {
    /// Between two looks.
    pub(super) look: Duration,
    /// Events that may be written at once, and the time in which one more may.
    pub(super) burst: u32,
    pub(super) each: Duration,
}

pub(super) const PACE: Pace = Pace { look: Duration::from_secs(5), burst: 25, each: Duration::from_secs(5) };

/// An Event that should be there.
#[derive(Debug, PartialEq)]
struct Wanted {
    kind: Kind,
    key: Key,
    /// What makes another happening of it: the version of a policy, or the reason for a pod.
    version: String,
    reason: &'static str,
    message: String,
}

/// What it is about, and what is known of it.
#[derive(Debug, PartialEq)]
enum Kind {
    FlowPolicy {
        uid: String,
    },
    NetworkPolicy {
        uid: String,
    },
    /// It has to be on this node.
    Pod {
        node: String,
    },
}

/// Writes for as long as it is polled.
pub(super) async fn tell(cluster: &Cluster, views: Views, pace: Pace) {
    let mut teller = Teller { cluster, told: BTreeMap::new(), room: Room::new(pace), trouble: false };
    loop {
        if let Some(moment) = views.now() {
            for wanted in wanted(&moment, Timestamp::now()) {
                teller.one(&wanted).await;
            }
        }
        sleep(pace.look).await;
    }
}

struct Teller<'a> {
    cluster: &'a Cluster,
    /// What was told or cannot be, and when.
    told: BTreeMap<String, Instant>,
    room: Room,
    trouble: bool,
}

impl Teller<'_> {
    async fn one(&mut self, wanted: &Wanted) {
        let now = Instant::now();
        self.told.retain(|_, at| now.duration_since(*at) < LASTS);
        let id = wanted.id();
        if self.told.contains_key(&id) || !self.room.take(now) {
            return;
        }
        self.told.insert(id.clone(), now);
        let told = self.write(wanted, id).await;
        if let Err(error) = &told
            && !self.trouble
        {
            tracing::warn!(%error, "cannot write an Event; enforcement and the status of FlowPolicies go on without");
        }
        self.trouble = told.is_err();
    }

    async fn write(&self, wanted: &Wanted, id: String) -> Result<(), WriteError> {
        let (api_version, kind, uid) = match &wanted.kind {
            // It was listed with this uid.
            Kind::FlowPolicy { uid } => (format!("{GROUP}/{VERSION}"), schema::KIND.name, uid.clone()),
            Kind::NetworkPolicy { uid } => {
                if self.cluster.network_policy_uid(&wanted.key).await?.as_ref() != Some(uid) {
                    return Ok(());
                }
                ("networking.k8s.io/v1".to_owned(), NETWORK_POLICY, uid.clone())
            }
            Kind::Pod { node } => match self.cluster.pod_of(&wanted.key).await? {
                Some((uid, on)) if on == *node => ("v1".to_owned(), "Pod", uid),
                Some(_) | None => return Ok(()),
            },
        };
        let about = About { api_version, kind, key: wanted.key.clone(), uid };
        let what = Happening { reason: wanted.reason, message: wanted.message.clone(), id };
        self.cluster.warn(MANAGER, &about, &what).await
    }
}

impl Wanted {
    /// The same for what is the same happening, in every controller.
    fn id(&self) -> String {
        let mut hash = Sha256::new();
        for part in [&format!("{:?}", self.kind), &*self.key.namespace, &*self.key.name, &self.version, self.reason] {
            hash.update(part);
            hash.update([0]);
        }
        let mut first = [0; 8];
        first.copy_from_slice(&hash.finalize()[..8]);
        format!("{:016x}", u64::from_be_bytes(first))
    }
}

/// Room for so many Events, which comes back with time.
struct Room {
    pace: Pace,
    left: u32,
    since: Instant,
}

impl Room {
    fn new(pace: Pace) -> Self {
        Self { pace, left: pace.burst, since: Instant::now() }
    }

    fn take(&mut self, now: Instant) -> bool {
        while self.left < self.pace.burst && now.duration_since(self.since) >= self.pace.each {
            self.left += 1;
            self.since += self.pace.each;
        }
        if self.left == self.pace.burst {
            self.since = now;
        }
        let is_room = self.left > 0;
        self.left -= u32::from(is_room);
        is_room
    }
}

/// All Events that should be there.
fn wanted(moment: &Moment, now: Timestamp) -> Vec<Wanted> {
    let mut all: Vec<Wanted> =
        moment.policies.iter().filter_map(|(key, policy)| of_flow_policy(key, policy, now)).collect();
    all.extend(of_network_policies(moment));
    for (key, node) in &*moment.nodes {
        all.extend(of_pods(&key.name, node));
    }
    all
}

/// By the status that is there, so that the Event never says anything else.
fn of_flow_policy(key: &Key, policy: &Policy, now: Timestamp) -> Option<Wanted> {
    let status = policy.status.as_ref().filter(|status| status.observed_generation == policy.generation)?;
    let failed = |kind: &str| {
        let mut conditions = status.conditions.iter();
        conditions.find(|condition| condition.kind == kind && condition.status == "False")
    };
    let (reason, condition) = match (failed("Accepted"), failed("Enforced")) {
        (Some(accepted), _) => ("Refused", accepted),
        (None, Some(enforced)) => {
            let since: Timestamp = enforced.last_transition_time.parse().ok()?;
            if now.duration_since(since) < LAGS {
                return None;
            }
            ("NotEnforced", enforced)
        }
        (None, None) => return None,
    };
    Some(Wanted {
        kind: Kind::FlowPolicy { uid: policy.uid.clone() },
        key: key.clone(),
        version: policy.generation.to_string(),
        reason,
        message: condition.message.clone(),
    })
}

fn of_network_policies(moment: &Moment) -> impl Iterator<Item = Wanted> + '_ {
    let mut refused = BTreeMap::new();
    for (node, report) in &*moment.nodes {
        for policy in report.refused_networks() {
            let (key, uid, generation, error) = policy;
            refused.entry((key, uid, generation)).or_insert_with(|| (error, Vec::new())).1.push(&*node.name);
        }
    }
    refused.into_iter().map(|((key, uid, generation), (error, nodes))| {
        let more = match nodes.len() - 1 {
            0 => String::new(),
            more => format!(" and {more} more"),
        };
        Wanted {
            kind: Kind::NetworkPolicy { uid: uid.to_owned() },
            key: key.clone(),
            version: generation.to_string(),
            reason: "Refused",
            message: plain(&format!("refused on {}{more}: {error}", nodes[0])),
        }
    })
}

fn of_pods<'a>(name: &'a str, node: &'a Node) -> impl Iterator<Item = Wanted> + 'a {
    node.unmanaged().filter_map(move |(reason, key)| {
        let why = match reason {
            "NoVeth" => "no veth of the node has its addresses",
            "Conflict" => "another pod or veth claims the same",
            "Doubtful" => "its veth is older than the agent, and its evidence is not enough; start the pod again",
            "Strayed" => "its veth is closed, because its far side has left the pod; start the pod again",
            "Renamed" | "SourcesDisagree" => "its veth is closed, because what names it contradicts itself",
            "ReachesNode" => "its veth is closed, because a device of it reaches the node past the programs",
            // Of a later agent, or of somebody who has taken over the node.
            _ => return None,
        };
        Some(Wanted {
            kind: Kind::Pod { node: name.to_owned() },
            key: key.clone(),
            version: reason.to_owned(),
            reason: "NotEnforced",
            message: plain(&format!("the agent of {name} does not enforce policies on this pod: {why}")),
        })
    })
}

/// One printable line of bounded length.
fn plain(text: &str) -> String {
    let line = text.split_whitespace().collect::<Vec<_>>().join(" ");
    cut(&printable(&line), MESSAGE).into_owned()
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use serde_json::{Value, json};

    use super::*;
    use crate::controller::told::tests::node;
    use crate::policy::schema::status::{Condition, Status};

    const SINCE: &str = "2026-01-02T03:04:05Z";

    fn key(namespace: &str, name: &str) -> Key {
        Key { namespace: namespace.into(), name: name.into() }
    }

    fn policy(generation: i64, conditions: &[(&str, &str)]) -> Policy {
        let conditions = conditions.iter().map(|(kind, status)| Condition {
            kind: (*kind).to_owned(),
            status: (*status).to_owned(),
            last_transition_time: SINCE.to_owned(),
            message: format!("of {kind}"),
            ..Condition::default()
        });
        let status = Status { observed_generation: 2, conditions: conditions.collect(), ..Status::default() };
        Policy { uid: "u1".to_owned(), generation, status: Some(status) }
    }

    fn moment(policies: Vec<Policy>, reports: &[Value]) -> Moment {
        let policies =
            policies.into_iter().enumerate().map(|(number, one)| (key("shop", &format!("p{number}")), Arc::new(one)));
        let nodes = reports
            .iter()
            .enumerate()
            .map(|(number, report)| (key("", &format!("n{}", number + 1)), Arc::new(node(report))));
        Moment { policies: Arc::new(policies.collect()), nodes: Arc::new(nodes.collect()) }
    }

    fn report(unmanaged: &Value, refused: &Value) -> Value {
        json!({
            "version": "1", "ready": true, "revision": 7, "policyCount": 0, "policies": [], "refused": refused,
            "veths": {"enforced": 0, "unknown": 0, "failed": 0}, "workloads": {"named": 0, "unknown": 0},
            "unmanagedPods": unmanaged, "stale": [],
        })
    }

    /// Each Event in short, so many seconds after the conditions have changed.
    fn told(moment: &Moment, seconds: i64) -> Vec<String> {
        let now = SINCE.parse::<Timestamp>().unwrap() + SignedDuration::from_secs(seconds);
        let line = |one: &Wanted| format!("{} {}: {}", one.key, one.reason, one.message);
        wanted(moment, now).iter().map(line).collect()
    }

    #[test]
    fn refused_policies_are_told_at_once_and_those_that_lag_after_two_minutes() {
        let policies = || {
            vec![
                policy(2, &[("Accepted", "False"), ("Enforced", "False")]),
                policy(2, &[("Accepted", "True"), ("Enforced", "False")]),
                policy(2, &[("Accepted", "True"), ("Enforced", "True")]),
                policy(2, &[("Accepted", "Unknown"), ("Enforced", "Unknown")]),
                // The status is about an earlier version.
                policy(3, &[("Accepted", "False"), ("Enforced", "False")]),
            ]
        };
        let refused = "shop/p0 Refused: of Accepted";
        assert_eq!(told(&moment(policies(), &[]), 119), [refused]);
        assert_eq!(told(&moment(policies(), &[]), 120), [refused, "shop/p1 NotEnforced: of Enforced"]);
    }

    #[test]
    fn a_network_policy_is_told_once_for_all_nodes_and_a_flow_policy_not_by_reports() {
        let refused = |kind: &str, generation: i64| {
            json!({
                "kind": kind, "namespace": "shop", "name": "db", "uid": "u2", "generation": generation,
                "instead": "LastGood", "error": "no\n  port\u{1b}",
            })
        };
        let both = report(&json!([]), &json!([refused("FlowPolicy", 2), refused("NetworkPolicy", 2)]));
        let later = report(&json!([]), &json!([refused("NetworkPolicy", 3)]));
        let moment = moment(vec![], &[both.clone(), both, later]);
        let expected = ["refused on n1 and 1 more: no port\\u{1b}", "refused on n3: no port\\u{1b}"];
        assert_eq!(told(&moment, 0), expected.map(|text| format!("shop/db Refused: {text}")));
        let ids: Vec<String> = wanted(&moment, Timestamp::now()).iter().map(Wanted::id).collect();
        assert!(ids[0] != ids[1] && ids[0].len() == 16, "each version has an Event of its own: {ids:?}");
        let again: Vec<String> = wanted(&moment, Timestamp::now()).iter().map(Wanted::id).collect();
        assert_eq!(ids, again);
    }

    #[test]
    fn pods_are_told_of_for_reasons_that_are_known_and_on_their_own_node() {
        let unmanaged = json!([
            {"reason": "NoVeth", "count": 2, "pods": ["shop/a", "shop/b"]},
            {"reason": "Free text", "count": 1, "pods": ["shop/c"]},
            {"reason": "Conflict", "count": 1, "pods": ["no-namespace"]},
        ]);
        let moment = moment(vec![], &[report(&unmanaged, &json!([]))]);
        let why =
            "NotEnforced: the agent of n1 does not enforce policies on this pod: no veth of the node has its addresses";
        assert_eq!(told(&moment, 0), [format!("shop/a {why}"), format!("shop/b {why}")]);
        let all = wanted(&moment, Timestamp::now());
        assert!(all.iter().all(|one| one.kind == Kind::Pod { node: "n1".to_owned() }));
    }

    #[test]
    fn there_is_room_for_some_at_once_and_for_few_afterwards() {
        let pace = Pace { burst: 3, ..PACE };
        let mut room = Room::new(pace);
        let begin = Instant::now();
        let mut taken = |after: Duration| (0..10).filter(|_| room.take(begin + after)).count();
        assert_eq!(taken(Duration::ZERO), 3);
        assert_eq!(taken(pace.each), 1);
        assert_eq!(taken(3 * pace.each), 2);
        assert_eq!(taken(100 * pace.each), 3, "no more than at first");
    }
}
