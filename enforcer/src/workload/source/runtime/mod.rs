//! The container runtime as a source, through the Docker-compatible API of podman or Docker.
//!
//! Input: a unix socket. Output: the complete list of containers that may
//! have a network namespace, at first and after every event. While the socket
//! does not answer, the last list stays in force.

#![forbid(unsafe_code)]

mod api;
mod container;
mod http;
pub mod kind;

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::sleep;

use self::api::{Api, ApiError};
pub(in crate::workload) use self::container::statements;
pub use self::container::{
    COMPOSE_PROJECT_LABEL, CONTAINER_LABEL, Container, FLOATING_LABEL, NAMESPACE_LABEL, PORT_LABEL_PREFIX, Pod,
};
pub use self::kind::RuntimeKind;
use super::shape::{Listed, Source, SourceError, SourceState, Started};
use crate::causes::with_causes;
use crate::workload::config::Config;

/// Name of the runtime among the sources of workloads.
const NAME: &str = "runtime";
/// Pause before the socket is tried again.
const RETRY: Duration = Duration::from_millis(500);
/// A list at least so often, against events that were missed.
const RELIST: Duration = Duration::from_secs(30);
/// Events of one `podman run` come within this time.
const COALESCE: Duration = Duration::from_millis(5);

/// Watches the runtime for as long as somebody listens.
#[expect(clippy::unnecessary_wraps, reason = "all sources start in the same way, and others can fail")]
pub(super) fn start(config: &Config) -> Started {
    let Some(kind) = config.runtime.clone() else { return Ok(None) };
    let (to, state) = watch::channel(SourceState { name: kind.to_string(), ..SourceState::default() });
    let source = Source { name: NAME, state };
    tokio::spawn(async move {
        while !to.is_closed() {
            let result = tokio::select! {
                result = follow(&kind, &to) => result,
                () = to.closed() => return,
            };
            let error = match result {
                Ok(()) => "the runtime ended its stream of events".to_owned(),
                Err(error) => with_causes(&error),
            };
            let error = SourceError::Down(error);
            to.send_if_modified(|state| {
                let news = state.error.as_ref() != Some(&error);
                state.error = Some(error);
                news
            });
            sleep(RETRY).await;
        }
    });
    Ok(Some(source))
}

/// One connection: subscribe, list, and list again after every event.
async fn follow(kind: &RuntimeKind, to: &watch::Sender<SourceState>) -> Result<(), ApiError> {
    let mut api = Api::connect(kind)?;
    let mut events = api.events().await?;
    loop {
        let statements = statements(&api.containers().await?);
        to.send_if_modified(|state| {
            let is_first = state.listed == Listed::Never;
            let news = is_first || *state.statements != statements || state.error.is_some();
            state.statements = Arc::new(statements);
            state.listed = Listed::Complete;
            state.error = None;
            news
        });
        tokio::select! {
            news = events.next() => {
                if !news? {
                    return Ok(());
                }
            }
            () = sleep(RELIST) => {}
        }
        sleep(COALESCE).await;
        events.drain();
    }
}
