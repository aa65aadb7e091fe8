//! One leader among processes that could all do the same work.
//!
//! Input: the name of a Lease, and who this is. Output: whether this process leads. Each writing of the Lease has to meet
//! the version that was read, so two never win at once. A leader that cannot renew stops leading before others may take over.
//! Times are those of this process alone: others' clocks do not count.

use std::time::Duration;

use k8s_openapi::api::coordination::v1::{Lease as Object, LeaseSpec};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{MicroTime, ObjectMeta};
use k8s_openapi::jiff::Timestamp;
use kube::Api;
use kube::api::PostParams;
use tokio::time::{Instant, sleep, timeout, timeout_at};

use super::client::Cluster;
use super::fault::Fault;

/// How long each step takes.
#[derive(Clone, Copy, Debug)]
struct Pace {
    /// A leader that has not renewed for so long is replaced.
    lasts: Duration,
    /// A leader that could not renew for so long stops. It is shorter, so that two never lead.
    deadline: Duration,
    /// Between two attempts.
    retry: Duration,
}

const PACE: Pace =
    Pace { lasts: Duration::from_secs(15), deadline: Duration::from_secs(10), retry: Duration::from_secs(2) };
/// For how long an answer is waited for.
const ANSWER: Duration = Duration::from_secs(5);

/// The Lease, as one process sees it.
#[derive(Debug)]
pub struct Lease {
    api: Api<Object>,
    name: &'static str,
    holder: String,
    pace: Pace,
    /// The version that was last seen, and since when.
    seen: (Option<String>, Instant),
}

impl Cluster {
    /// The Lease of this name. `holder` has to be another one for each process.
    pub fn lease(&self, namespace: Option<&str>, name: &'static str, holder: String) -> Lease {
        let client = self.client();
        let namespace = namespace.map_or_else(|| client.default_namespace().to_owned(), str::to_owned);
        Lease { api: Api::namespaced(client, &namespace), name, holder, pace: PACE, seen: (None, Instant::now()) }
    }
}

impl Lease {
    /// Waits until this process leads, and gives the moment from which it does.
    pub async fn win(&mut self) -> Instant {
        let mut told = false;
        loop {
            let begin = Instant::now();
            match self.attempt().await {
                Ok(true) => return begin,
                Ok(false) => told = false,
                Err(fault) => {
                    if !told {
                        tracing::warn!(error = %fault, lease = self.name, "cannot ask for the Lease; trying again");
                    }
                    told = true;
                }
            }
            sleep(self.pace.retry).await;
        }
    }

    /// Renews until this process no longer leads. `since`: when it was last known to lead.
    pub async fn keep(&mut self, mut since: Instant) {
        loop {
            sleep(self.pace.retry).await;
            let (begin, end) = (Instant::now(), since + self.pace.deadline);
            match timeout_at(end, self.attempt()).await {
                Ok(Ok(true)) => since = begin,
                Ok(Ok(false)) => return,
                Ok(Err(_)) | Err(_) if Instant::now() >= end => return,
                Ok(Err(_)) | Err(_) => {}
            }
        }
    }

    /// Lets the next one lead at once, if this process leads.
    pub async fn give_up(&mut self) {
        let release = async {
            let found = self.api.get_opt(self.name).await.ok()??;
            let spec = found.spec.clone().filter(|spec| spec.holder_identity.as_deref() == Some(&self.holder))?;
            let free = Object { spec: Some(LeaseSpec { holder_identity: None, ..spec }), ..found };
            self.api.replace(self.name, &PostParams::default(), &free).await.ok()
        };
        // If it fails, the others wait until the Lease has run out.
        let _ = timeout(ANSWER, release).await;
    }

    /// Takes or renews the Lease; false: somebody else has it.
    async fn attempt(&mut self) -> Result<bool, Fault> {
        timeout(ANSWER, self.ask()).await.unwrap_or(Err(Fault::Silent(ANSWER.as_secs())))
    }

    async fn ask(&mut self) -> Result<bool, Fault> {
        let params = PostParams::default();
        let found = self.api.get_opt(self.name).await.map_err(|error| Fault::of(&error))?;
        let written = match found {
            None => {
                let metadata = ObjectMeta { name: Some(self.name.to_owned()), ..ObjectMeta::default() };
                let lease = Object { metadata, spec: Some(self.spec(&LeaseSpec::default())) };
                self.api.create(&params, &lease).await
            }
            Some(found) => {
                let spec = found.spec.clone().unwrap_or_default();
                if self.seen.0 != found.metadata.resource_version {
                    self.seen = (found.metadata.resource_version.clone(), Instant::now());
                }
                let holder = spec.holder_identity.as_deref().unwrap_or_default();
                if !holder.is_empty() && holder != self.holder && self.seen.1.elapsed() < self.pace.lasts {
                    return Ok(false);
                }
                let lease = Object { spec: Some(self.spec(&spec)), ..found };
                self.api.replace(self.name, &params, &lease).await
            }
        };
        match written {
            Ok(_) => Ok(true),
            // Somebody else was quicker.
            Err(kube::Error::Api(status)) if status.code == 409 => Ok(false),
            Err(error) => Err(Fault::of(&error)),
        }
    }

    /// What this process writes in the place of `before`.
    fn spec(&self, before: &LeaseSpec) -> LeaseSpec {
        let now = Some(MicroTime(Timestamp::now()));
        let is_own = before.holder_identity.as_deref() == Some(&self.holder);
        let changes = before.lease_transitions.unwrap_or_default();
        LeaseSpec {
            holder_identity: Some(self.holder.clone()),
            lease_duration_seconds: i32::try_from(self.pace.lasts.as_secs()).ok(),
            acquire_time: if is_own { before.acquire_time.clone() } else { now.clone() },
            renew_time: now,
            lease_transitions: Some(if is_own { changes } else { changes.saturating_add(1) }),
            ..LeaseSpec::default()
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::{Arc, Mutex};

    use serde_json::{Value, json};

    use super::*;
    use crate::kubernetes::tests::fake::{Fake, Reply, cluster_at, free_port, refused};

    /// Times that a busy machine keeps.
    const QUICK: Pace =
        Pace { lasts: Duration::from_mins(1), deadline: Duration::from_secs(2), retry: Duration::from_millis(20) };

    fn lease(holder: &str, version: u32) -> Value {
        json!({
            "apiVersion": "coordination.k8s.io/v1", "kind": "Lease",
            "metadata": {"name": "a", "namespace": "default", "resourceVersion": version.to_string()},
            "spec": {"holderIdentity": holder, "leaseTransitions": 3},
        })
    }

    async fn seen_by(fake: &Fake) -> Lease {
        let mut lease = fake.cluster().await.lease(None, "a", "me".to_owned());
        lease.pace = QUICK;
        lease
    }

    /// A server that answers what the test has set: a GET and a PUT of the same path differ by their order alone.
    async fn server(reply: impl Fn(usize) -> Reply + Send + Sync + 'static) -> Fake {
        Fake::start(move |number, _| reply(number)).await
    }

    #[tokio::test]
    async fn fake_a_lease_that_somebody_renews_is_not_taken_and_one_that_ran_out_is() {
        let version = Arc::new(Mutex::new(0));
        let renewed = Arc::clone(&version);
        let fake = server(move |_| Reply::Json(200, lease("other", *renewed.lock().unwrap()))).await;
        let mut own = seen_by(&fake).await;
        let long_ago = || Instant::now().checked_sub(QUICK.lasts).unwrap();
        for _ in 0..3 {
            *version.lock().unwrap() += 1;
            own.seen.1 = long_ago();
            assert!(!own.attempt().await.unwrap(), "somebody has renewed it since it was last seen");
            assert!(!own.attempt().await.unwrap(), "this was just now");
        }
        own.seen.1 = long_ago();
        assert!(own.attempt().await.unwrap(), "nobody has renewed it for so long");
    }

    #[tokio::test]
    async fn fake_a_lease_that_nobody_holds_or_that_is_missing_is_taken_at_once() {
        let free = server(|_| Reply::Json(200, lease("", 1))).await;
        assert!(seen_by(&free).await.attempt().await.unwrap());
        let missing = server(|number| match number {
            0 => refused(404, "NotFound", "leases \"a\" not found"),
            _ => Reply::Json(201, lease("me", 1)),
        })
        .await;
        assert!(seen_by(&missing).await.attempt().await.unwrap());
    }

    #[tokio::test]
    async fn fake_who_is_too_late_does_not_lead() {
        let fake = server(|number| match number % 2 {
            0 => Reply::Json(200, lease("", 1)),
            _ => refused(409, "Conflict", "the object has been modified"),
        })
        .await;
        assert!(!seen_by(&fake).await.attempt().await.unwrap());
    }

    #[tokio::test]
    async fn fake_a_leader_that_cannot_renew_stops_before_another_may_begin() {
        let fake = server(|_| Reply::Silent).await;
        let mut own = seen_by(&fake).await;
        let begin = Instant::now();
        timeout(Duration::from_mins(1), own.keep(begin)).await.unwrap();
        assert!((QUICK.deadline..ANSWER).contains(&begin.elapsed()), "{:?}", begin.elapsed());
        // One that renews goes on.
        let fake = server(|_| Reply::Json(200, lease("me", 1))).await;
        let mut own = seen_by(&fake).await;
        timeout(2 * QUICK.deadline, own.keep(Instant::now())).await.expect_err("it leads");
        // And one whose Lease has another holder stops at once.
        let fake = server(|_| Reply::Json(200, lease("other", 1))).await;
        let mut own = seen_by(&fake).await;
        let begin = Instant::now();
        own.keep(begin).await;
        assert!(begin.elapsed() < QUICK.deadline, "{:?}", begin.elapsed());
    }

    #[tokio::test]
    async fn times_and_changes_are_those_of_who_holds_it() {
        let cluster = cluster_at(free_port()).await;
        let lease = |holder: &str| cluster.lease(None, "a", holder.to_owned());
        let first = lease("a").spec(&LeaseSpec::default());
        sleep(Duration::from_millis(2)).await;
        let renewed = lease("a").spec(&first);
        sleep(Duration::from_millis(2)).await;
        let taken = lease("b").spec(&renewed);
        assert_eq!((&renewed.acquire_time, renewed.lease_transitions), (&first.acquire_time, Some(1)));
        assert_eq!((taken.holder_identity.as_deref(), taken.lease_transitions), (Some("b"), Some(2)));
        assert!(taken.acquire_time > first.acquire_time && renewed.renew_time > first.renew_time);
        assert_eq!(taken.lease_duration_seconds, Some(15));
    }
}
