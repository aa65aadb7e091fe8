//! Writes the status of `FlowPolicies` while this process leads.
//!
//! Input: what the API says of `FlowPolicies` and `EnforcerNodes`. Output: the status of each policy, where it is not what the
//! nodes say. Whatever the status says comes from the API, so a controller that starts needs no memory of an earlier one.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use serde_json::{Value, json};
use tokio::sync::watch;
use tokio::time::{Instant, sleep};

use super::fold::fold;
use super::told::{Node, Policy};
use crate::kubernetes::{Cause, Cluster, GROUP, Key, VERSION, View, WriteError};
use crate::policy::schema::KIND;
use crate::policy::schema::status::Status;

/// Who owns the fields of the status.
pub(super) const MANAGER: &str = "enforcer-controller";

/// How often the API is written to.
#[derive(Clone, Copy, Debug)]
pub(super) struct Pace {
    /// Between a change and its writing: changes often come together.
    pub(super) settle: Duration,
    /// Between two writings.
    pub(super) between: Duration,
    /// Before a policy is tried again whose status was not taken, and after several that were not.
    pub(super) retry: Duration,
}

pub(super) const PACE: Pace =
    Pace { settle: Duration::from_secs(1), between: Duration::from_millis(50), retry: Duration::from_secs(10) };
/// Failures in a row after which nothing is tried for a while.
const FAILURES: u32 = 3;

/// What the controller follows.
#[derive(Clone, Debug)]
pub(super) struct Views {
    pub(super) policies: watch::Receiver<View<Policy>>,
    pub(super) nodes: watch::Receiver<View<Node>>,
}

/// One moment of them.
pub(super) struct Moment {
    pub(super) policies: Arc<BTreeMap<Key, Arc<Policy>>>,
    pub(super) nodes: Arc<BTreeMap<Key, Arc<Node>>>,
}

impl Views {
    /// What they say, whether it was seen before or not; `None`: nothing is known before both are listed, and nothing new
    /// while one is not heard.
    pub(super) fn now(&self) -> Option<Moment> {
        let (policies, nodes) = (self.policies.borrow(), self.nodes.borrow());
        let is_heard = policies.listed && nodes.listed && policies.stale.is_none() && nodes.stale.is_none();
        is_heard.then(|| Moment { policies: Arc::clone(&policies.objects), nodes: Arc::clone(&nodes.objects) })
    }

    async fn changed(&mut self) {
        // Both are published for as long as somebody listens.
        tokio::select! {
            _ = self.policies.changed() => {}
            _ = self.nodes.changed() => {}
        }
    }
}

/// Writes for as long as it is polled.
pub(super) async fn write(cluster: &Cluster, mut views: Views, pace: Pace) {
    let mut writer = Writer { cluster, pace, resting: BTreeMap::new(), failures: 0, trouble: None };
    // What was seen before this process led was not written.
    views.policies.mark_changed();
    loop {
        let wait = writer.resting.values().min().map(|end| end.saturating_duration_since(Instant::now()));
        tokio::select! {
            () = views.changed() => sleep(pace.settle).await,
            () = sleep(wait.unwrap_or(Duration::MAX)) => {}
        }
        // What comes from here on makes another round.
        views.policies.mark_unchanged();
        views.nodes.mark_unchanged();
        writer.round(&views).await;
    }
}

struct Writer<'a> {
    cluster: &'a Cluster,
    pace: Pace,
    /// Policies whose status was not taken, and until when they are left alone.
    resting: BTreeMap<Key, Instant>,
    /// Failures in a row.
    failures: u32,
    trouble: Option<Cause>,
}

impl Writer<'_> {
    async fn round(&mut self, views: &Views) {
        let Some(Moment { policies, .. }) = views.now() else { return };
        let begin = Instant::now();
        self.resting.retain(|key, end| *end > begin && policies.contains_key(key));
        let keys: Vec<Key> = policies.keys().filter(|key| !self.resting.contains_key(*key)).cloned().collect();
        // Held no longer: a change would have to copy all of them.
        drop(policies);
        for key in keys {
            // A round of many policies takes a while, so each gets what holds by then.
            let Some(Moment { policies, nodes }) = views.now() else { return };
            let Some(policy) = policies.get(&key) else { continue };
            let status = fold(policy, &nodes, &now());
            if policy.status.as_ref() == Some(&status) {
                continue;
            }
            let result = apply(self.cluster, &key, policy, &status).await;
            let is_down = self.note(&key, result);
            sleep(if is_down { self.pace.retry } else { self.pace.between }).await;
        }
    }

    /// Takes the answer of the API server. True: it takes nothing for now.
    fn note(&mut self, key: &Key, result: Result<(), WriteError>) -> bool {
        let Err(error) = result else {
            self.failures = 0;
            if self.trouble.take().is_some() {
                tracing::info!("the status of FlowPolicies is written again");
            }
            return false;
        };
        self.resting.insert(key.clone(), Instant::now() + self.pace.retry);
        self.failures += 1;
        if self.trouble != Some(error.cause) && error.cause != Cause::NoSuchKind {
            tracing::warn!(policy = %key, %error, "cannot write the status of a FlowPolicy; trying again every 10 seconds");
            self.trouble = Some(error.cause);
        } else {
            // A policy that is gone has no status either.
            tracing::debug!(policy = %key, %error, "the status of a FlowPolicy was not taken");
        }
        self.failures.is_multiple_of(FAILURES)
    }
}

async fn apply(cluster: &Cluster, key: &Key, policy: &Policy, status: &Status) -> Result<(), WriteError> {
    cluster.apply_status(&KIND, &key.namespace, &key.name, MANAGER, &object(key, policy, status)).await
}

/// What is applied. With the uid it is refused by a later object of the same name.
fn object(key: &Key, policy: &Policy, status: &Status) -> Value {
    json!({
        "apiVersion": format!("{GROUP}/{VERSION}"),
        "kind": KIND.name,
        "metadata": {"namespace": &*key.namespace, "name": &*key.name, "uid": policy.uid},
        "status": status,
    })
}

fn now() -> String {
    format!("{:.0}", Timestamp::now())
}

#[cfg(test)]
mod tests {
    use serde_json::json;
    use tokio::time::timeout;

    use super::*;
    use crate::controller::told::tests::node;
    use crate::kubernetes::Stale;
    use crate::kubernetes::tests::fake::{Fake, Reply, refused};

    const QUICK: Pace = Pace {
        settle: Duration::from_millis(20),
        between: Duration::from_millis(1),
        retry: Duration::from_millis(300),
    };

    fn key(namespace: &str, name: &str) -> Key {
        Key { namespace: namespace.into(), name: name.into() }
    }

    fn policy(status: Option<Status>) -> Arc<Policy> {
        Arc::new(Policy { uid: "u1".to_owned(), generation: 2, status })
    }

    fn reports(generation: i64) -> BTreeMap<Key, Arc<Node>> {
        let listed =
            json!({"kind": "FlowPolicy", "namespace": "shop", "name": "a", "uid": "u1", "generation": generation});
        let status = json!({
            "version": "1", "ready": true, "revision": 7, "policyCount": 1, "policies": [listed],
            "veths": {"enforced": 0, "unknown": 0, "failed": 0}, "workloads": {"named": 0, "unknown": 0},
            "unmanagedPods": [], "stale": [],
        });
        BTreeMap::from([(key("", "n1"), Arc::new(node(&status)))])
    }

    /// What the API says, and a writer of it at a server.
    struct Scene {
        fake: Fake,
        policies: watch::Sender<View<Policy>>,
        nodes: watch::Sender<View<Node>>,
    }

    impl Scene {
        async fn new(script: impl Fn(usize, &str) -> Reply + Send + Sync + 'static) -> Self {
            let fake = Fake::start(script).await;
            let (policies, seen_policies) = watch::channel(View::default());
            let (nodes, seen_nodes) = watch::channel(View::default());
            let (cluster, views) = (fake.cluster().await, Views { policies: seen_policies, nodes: seen_nodes });
            tokio::spawn(async move { write(&cluster, views, QUICK).await });
            Self { fake, policies, nodes }
        }

        fn list_policies(&self, names: &[&str], status: Option<&Status>) {
            let objects = names.iter().map(|name| (key("shop", name), policy(status.cloned()))).collect();
            self.policies.send_replace(View { objects: Arc::new(objects), listed: true, stale: None });
        }

        fn list_nodes(&self, generation: i64) {
            self.nodes.send_replace(View { objects: Arc::new(reports(generation)), listed: true, stale: None });
        }

        /// How often a status was written, after time for one more.
        async fn written(&self, name: &str, wanted: usize) -> usize {
            let path = format!("/namespaces/shop/flowpolicies/{name}/status?");
            let count = || self.fake.asked().iter().filter(|asked| asked.contains(&path)).count();
            let reached = async {
                while count() < wanted {
                    sleep(Duration::from_millis(5)).await;
                }
            };
            timeout(Duration::from_secs(10), reached).await.unwrap_or_else(|_| panic!("{:?}", self.fake.asked()));
            sleep(4 * QUICK.settle).await;
            count()
        }
    }

    fn taken() -> Reply {
        let metadata = json!({"name": "a", "namespace": "shop"});
        Reply::Json(200, json!({"apiVersion": "enforcer.dev/v1alpha1", "kind": "FlowPolicy", "metadata": metadata}))
    }

    #[tokio::test]
    async fn fake_a_status_is_written_when_it_is_another_and_not_before_all_is_known() {
        let scene = Scene::new(|_, _| taken()).await;
        scene.list_policies(&["a"], None);
        assert_eq!(scene.written("a", 0).await, 0, "no node is listed yet, which is not the same as none");
        scene.list_nodes(1);
        assert_eq!(scene.written("a", 1).await, 1);
        let says = |generation| fold(&policy(None), &reports(generation), "2026-01-02T03:04:05Z");
        scene.list_policies(&["a"], Some(&says(1)));
        assert_eq!(scene.written("a", 1).await, 1, "it says that already");
        scene.list_nodes(2);
        assert_eq!(scene.written("a", 2).await, 2);
        scene.list_policies(&["a"], Some(&says(2)));
        // Somebody else has written into it.
        scene.list_policies(&["a"], Some(&says(1)));
        assert_eq!(scene.written("a", 3).await, 3);
        let asked = scene.fake.asked();
        assert!(asked[0].contains("fieldManager=enforcer-controller") && asked[0].contains("force=true"), "{asked:?}");
    }

    #[tokio::test]
    async fn fake_nothing_is_written_while_the_api_is_not_heard() {
        let scene = Scene::new(|_, _| taken()).await;
        let stale = Stale { since: std::time::SystemTime::UNIX_EPOCH, cause: Cause::Down, error: "no".into() };
        scene.list_nodes(2);
        scene.nodes.send_modify(|view| view.stale = Some(stale));
        scene.list_policies(&["a"], None);
        assert_eq!(scene.written("a", 0).await, 0);
        scene.nodes.send_modify(|view| view.stale = None);
        assert_eq!(scene.written("a", 1).await, 1);
    }

    #[tokio::test]
    async fn fake_a_status_that_is_not_taken_is_tried_again_and_holds_up_no_other() {
        let scene = Scene::new(|number, path| match (path.contains("/a/"), number) {
            (true, ..3) => refused(422, "Invalid", "no"),
            _ => taken(),
        })
        .await;
        scene.list_nodes(2);
        scene.list_policies(&["a", "b"], None);
        assert_eq!(scene.written("b", 1).await, 1);
        assert_eq!(scene.written("a", 1).await, 1, "it rests for a while");
        assert!(scene.written("a", 2).await >= 2);
    }

    #[test]
    fn only_the_status_is_applied_and_only_to_this_object() {
        let status = fold(&policy(None), &reports(2), "2026-01-02T03:04:05Z");
        let object = object(&key("shop", "a"), &policy(None), &status);
        let fields: Vec<&String> = object.as_object().unwrap().keys().collect();
        assert_eq!(fields, ["apiVersion", "kind", "metadata", "status"]);
        assert_eq!(object["metadata"], json!({"namespace": "shop", "name": "a", "uid": "u1"}));
        assert_eq!(serde_json::from_value::<Status>(object["status"].clone()).unwrap(), status);
    }
}
