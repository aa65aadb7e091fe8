//! Runs the server on a thread of its own, with a runtime of its own.
//!
//! Input: where to listen. Output: a server that may fail or hang without an effect on the daemon, which neither waits for it nor
//! shares a thread with it. A server that panics is started again.

use std::io;
use std::net::SocketAddr;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use tokio::runtime::Builder;
use tokio::sync::watch;

use super::board::Board;
use super::http::{self, Shared};
use super::metrics::Numbers;

/// Before a server that has failed is started again.
const PAUSE: Duration = Duration::from_secs(5);

/// A running server. Dropping it closes the port.
#[derive(Debug)]
pub struct Server(
    /// Closed by the drop.
    #[expect(dead_code, reason = "it is there to be dropped")]
    watch::Sender<()>,
);

/// Starts a server. An error says that no thread could be made; a port that cannot be opened is tried again.
pub fn start(listen: SocketAddr, board: Arc<Board>, numbers: Arc<dyn Numbers>) -> io::Result<Server> {
    let (open, closed) = watch::channel(());
    let shared = Shared { board, numbers };
    thread::Builder::new().name("http".to_owned()).spawn(move || {
        // The other side's drop is the only error.
        while closed.has_changed().is_ok() {
            match catch_unwind(AssertUnwindSafe(|| run(listen, &shared, closed.clone()))) {
                Ok(Ok(())) => return,
                Ok(Err(error)) => tracing::warn!(%error, "cannot start the HTTP server; trying again"),
                Err(_) => tracing::error!("the HTTP server has panicked; it is started again"),
            }
            thread::sleep(PAUSE);
        }
    })?;
    Ok(Server(open))
}

/// Until the other side of `closed` is dropped.
fn run(listen: SocketAddr, shared: &Shared, mut closed: watch::Receiver<()>) -> io::Result<()> {
    let runtime = Builder::new_current_thread().enable_io().enable_time().build()?;
    runtime.block_on(async {
        tokio::select! {
            () = http::serve(listen, shared.clone()) => {}
            _ = closed.changed() => {}
        }
    });
    Ok(())
}

#[cfg(test)]
mod tests;
