//! Writes the `EnforcerNode` of this node.
//!
//! Input: what the agent says, each time that it has changed. Output: the object in the API, some seconds later. Of several
//! changes in this time only the last is written. What cannot be written is tried again, and nobody waits for it.

use std::time::Duration;

use serde_json::{Value, json};
use tokio::sync::watch;
use tokio::time::sleep;

use super::schema::KIND;
use super::status::NodeStatus;
use crate::kubernetes::{Cause, Cluster, GROUP, VERSION, WriteError};

/// How often the API is written to.
#[derive(Clone, Copy, Debug)]
struct Pace {
    /// Between a change and its writing: changes often come together.
    settle: Duration,
    /// Between two writings.
    between: Duration,
    /// After one that failed.
    retry: Duration,
}

const PACE: Pace =
    Pace { settle: Duration::from_secs(1), between: Duration::from_secs(10), retry: Duration::from_mins(1) };

/// Takes what the agent says. It is written for as long as this lives.
#[derive(Debug)]
pub struct Writer(watch::Sender<NodeStatus>);

impl Writer {
    /// Begins to write, in a tokio runtime.
    pub fn start(cluster: Cluster) -> Self {
        Self::with(cluster, PACE)
    }

    fn with(cluster: Cluster, pace: Pace) -> Self {
        let (to, from) = watch::channel(NodeStatus::default());
        tokio::spawn(run(cluster, from, pace));
        Self(to)
    }

    /// Says what holds now. Nothing is written if the same was said before.
    pub fn tell(&self, status: NodeStatus) {
        self.0.send_if_modified(|said| {
            let is_news = *said != status;
            *said = status;
            is_news
        });
    }
}

async fn run(cluster: Cluster, mut from: watch::Receiver<NodeStatus>, pace: Pace) {
    let (mut uid, mut trouble) = (None, None);
    while from.changed().await.is_ok() {
        sleep(pace.settle).await;
        let status = from.borrow_and_update().clone();
        match write(&cluster, &status, &mut uid).await {
            Ok(()) => {
                if trouble.take().is_some() {
                    tracing::info!("the EnforcerNode of this node is written again");
                }
                sleep(pace.between).await;
            }
            Err(error) => {
                if trouble != Some(error.cause) {
                    tell(&error);
                }
                trouble = Some(error.cause);
                sleep(pace.retry).await;
                from.mark_changed();
            }
        }
    }
}

async fn write(cluster: &Cluster, status: &NodeStatus, uid: &mut Option<String>) -> Result<(), WriteError> {
    if uid.is_none() {
        // A node that the API does not know has an object all the same; it stays when the node is gone.
        *uid = match cluster.node_uid().await {
            Err(error) if error.cause != Cause::NoSuchKind => return Err(error),
            answer => answer.unwrap_or_default(),
        };
    }
    cluster.apply(&KIND, cluster.node(), &object(cluster.node(), uid.as_deref(), status)).await
}

fn tell(error: &WriteError) {
    match error.cause {
        Cause::NoSuchKind => {
            tracing::info!(
                "the API server does not have the kind EnforcerNode, so this node has no object of it: {error}"
            );
        }
        Cause::Forbidden | Cause::Down => tracing::warn!(
            %error,
            "cannot write the EnforcerNode of this node; enforcement goes on without, and it is tried again every minute"
        ),
    }
}

/// The whole object. It belongs to its node, so that it is removed with it.
fn object(node: &str, uid: Option<&str>, status: &NodeStatus) -> Value {
    let owner = uid.map(|uid| json!({"apiVersion": "v1", "kind": "Node", "name": node, "uid": uid}));
    json!({
        "apiVersion": format!("{GROUP}/{VERSION}"),
        "kind": KIND.name,
        "metadata": {"name": node, "ownerReferences": owner.into_iter().collect::<Vec<_>>()},
        "status": status,
    })
}

#[cfg(test)]
mod tests {
    use tokio::time::{Instant, timeout};

    use super::*;
    use crate::kubernetes::tests::fake::{Fake, Reply, refused};

    const QUICK: Pace = Pace {
        settle: Duration::from_millis(20),
        between: Duration::from_millis(200),
        retry: Duration::from_millis(200),
    };

    fn status(revision: u64) -> NodeStatus {
        NodeStatus { revision, ..NodeStatus::default() }
    }

    /// Waits for so many writings, and counts them.
    async fn written(fake: &Fake, wanted: usize) -> usize {
        let count = || fake.asked().iter().filter(|path| path.contains("/enforcernodes/n1")).count();
        let reached = async {
            while count() < wanted {
                sleep(Duration::from_millis(5)).await;
            }
        };
        timeout(Duration::from_secs(10), reached).await.unwrap_or_else(|_| panic!("{:?}", fake.asked()));
        count()
    }

    fn node() -> Reply {
        Reply::Json(
            200,
            json!({"apiVersion": "meta.k8s.io/v1", "kind": "PartialObjectMetadata", "metadata": {"uid": "u"}}),
        )
    }

    #[tokio::test]
    async fn changes_are_written_once_and_not_too_often() {
        let fake = Fake::start(|_, path| {
            if path.contains("/nodes/") { node() } else { Reply::Json(200, object("n1", None, &status(0))) }
        })
        .await;
        let writer = Writer::with(fake.cluster().await, QUICK);
        for revision in 1..=20 {
            writer.tell(status(revision));
        }
        assert_eq!(written(&fake, 1).await, 1);
        let begin = Instant::now();
        writer.tell(status(20));
        sleep(QUICK.between + 2 * QUICK.settle).await;
        assert_eq!(written(&fake, 1).await, 1, "the same is not written again");
        writer.tell(status(21));
        assert_eq!(written(&fake, 2).await, 2);
        assert!(begin.elapsed() >= QUICK.between, "two writings lie apart");
        let path = &fake.asked()[1];
        assert!(path.contains("fieldManager=enforcer-agent") && path.contains("force=true"), "{path}");
    }

    #[tokio::test]
    async fn what_is_refused_is_tried_again() {
        let fake = Fake::start(|number, path| match (path.contains("/nodes/"), number) {
            (true, _) => node(),
            (false, ..4) => refused(404, "NotFound", "the server could not find the requested resource"),
            // A definition of an older version.
            (false, 4) => refused(500, "InternalError", ".status.policies: field not declared in schema"),
            (false, _) => Reply::Json(200, object("n1", None, &status(0))),
        })
        .await;
        let writer = Writer::with(fake.cluster().await, QUICK);
        writer.tell(status(1));
        assert_eq!(written(&fake, 5).await, 5);
        sleep(3 * QUICK.retry).await;
        assert_eq!(written(&fake, 5).await, 5, "it was taken at last");
    }

    #[test]
    fn the_object_belongs_to_its_node() {
        let of = |uid| object("n1", uid, &status(7));
        assert_eq!(of(None)["metadata"]["ownerReferences"], json!([]));
        assert_eq!(of(Some("u"))["metadata"]["ownerReferences"][0]["uid"], "u");
        assert_eq!((&of(None)["metadata"]["name"], &of(None)["status"]["revision"]), (&json!("n1"), &json!(7)));
    }
}
