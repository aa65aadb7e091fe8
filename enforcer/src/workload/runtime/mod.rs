//! Containers by the Docker-compatible API of podman or Docker.
//!
//! Input: a unix socket. Output: the list of running containers, whole, again after every event. What was heard last
//! stays in force while the socket is down.

#![forbid(unsafe_code)]

mod api;
mod container;

use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{Notify, watch};
use tokio::time::{Instant, sleep, sleep_until};

use self::api::Api;
pub(in crate::workload) use self::container::by_owner;
pub use self::container::{COMPOSE_PROJECT_LABEL, CONTAINER_LABEL, Container, NAMESPACE_LABEL, PORT_LABEL_PREFIX};

/// Pause before the socket is tried again.
const RETRY: Duration = Duration::from_millis(500);
/// A list at least so often, against events that were missed.
const RELIST: Duration = Duration::from_secs(30);
/// Events of one `podman run` come within this time.
const COALESCE: Duration = Duration::from_millis(5);

/// A process in a container runs for a moment before the runtime lists the container. A list that is asked for so long
/// after the process was first noticed names it.
pub const LISTED_WITHIN: Duration = Duration::from_secs(1);

/// Which runtime, and where its API listens.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum RuntimeKind {
    /// podman, at `/run/podman/podman.sock` or the given path.
    Podman(Option<PathBuf>),
    /// Docker, at `/var/run/docker.sock` or the given path.
    Docker(Option<PathBuf>),
}

impl RuntimeKind {
    /// Path of the API's socket.
    pub fn socket(&self) -> &Path {
        match self {
            Self::Podman(Some(path)) | Self::Docker(Some(path)) => path,
            Self::Podman(None) => Path::new("/run/podman/podman.sock"),
            Self::Docker(None) => Path::new("/var/run/docker.sock"),
        }
    }
}

impl fmt::Display for RuntimeKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let name = match self {
            Self::Podman(_) => "podman",
            Self::Docker(_) => "docker",
        };
        write!(f, "{name} at {}", self.socket().display())
    }
}

/// What is known from the runtime.
#[derive(Clone, Debug, Default)]
pub(in crate::workload) struct RuntimeState {
    /// Name of the source.
    pub(in crate::workload) name: String,
    /// Running containers; `None` before the first complete list.
    pub(in crate::workload) list: Option<Arc<Vec<Container>>>,
    /// When the newest list was asked for.
    pub(in crate::workload) listed: Option<Instant>,
    /// Set while the API cannot be read.
    pub(in crate::workload) error: Option<String>,
}

/// Watches the runtime for as long as somebody listens. A call of `again` asks for a list `LISTED_WITHIN` from then.
pub(in crate::workload) fn watch(kind: RuntimeKind, again: Arc<Notify>) -> watch::Receiver<RuntimeState> {
    let (to, from) = watch::channel(RuntimeState { name: kind.to_string(), ..RuntimeState::default() });
    tokio::spawn(async move {
        while !to.is_closed() {
            let result = tokio::select! {
                result = follow(&kind, &to, &again) => result,
                () = to.closed() => return,
            };
            let error = match result {
                Ok(()) => "the event stream ended".to_owned(),
                Err(error) => error_chain(&error),
            };
            to.send_if_modified(|state| {
                let news = state.error.as_ref() != Some(&error);
                state.error = Some(error);
                news
            });
            sleep(RETRY).await;
        }
    });
    from
}

/// One connection: subscribe, list, and list again after every event.
async fn follow(
    kind: &RuntimeKind,
    to: &watch::Sender<RuntimeState>,
    again: &Notify,
) -> Result<(), bollard::errors::Error> {
    let api = Api::connect(kind.socket())?;
    let mut events = api.events().await?;
    let mut wanted: Option<Instant> = None;
    loop {
        let asked = Instant::now();
        let list = Arc::new(api.running().await?);
        // Somebody waits for a list of this time, even if it says nothing new.
        let answers = wanted.take_if(|at| *at <= asked).is_some();
        to.send_if_modified(|state| {
            let news = state.list.as_ref() != Some(&list) || state.error.is_some() || answers;
            state.list = Some(Arc::clone(&list));
            state.listed = Some(asked);
            state.error = None;
            news
        });
        let relist = Instant::now() + RELIST;
        loop {
            tokio::select! {
                news = events.next() => {
                    if !news? {
                        return Ok(());
                    }
                    break;
                }
                () = sleep_until(wanted.unwrap_or(relist).min(relist)) => break,
                // The latest wish covers those before it.
                () = again.notified() => wanted = Some(Instant::now() + LISTED_WITHIN),
            }
        }
        sleep(COALESCE).await;
        events.drain();
    }
}

fn error_chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut next = error.source();
    while let Some(cause) = next {
        let cause_text = cause.to_string();
        if !text.contains(&cause_text) {
            text = format!("{text}: {cause_text}");
        }
        next = cause.source();
    }
    text
}
