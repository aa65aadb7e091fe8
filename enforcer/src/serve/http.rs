//! Answers HTTP requests from whoever reaches the port.
//!
//! Input: connections, which nobody has vouched for. Output: the answers of three paths. Everything that a client can make grow
//! is bounded: the connections, the time of each, and the size of a request. A connection carries one request, and its body is
//! not read.

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::extract::State;
use axum::http::StatusCode;
use axum::http::header::CONTENT_TYPE;
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use hyper::server::conn::http1;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use tokio::net::{TcpListener, TcpStream};
use tokio::task::AbortHandle;
use tokio::time::{sleep, timeout};

use super::board::Board;
use super::metrics::{self, Numbers};

/// Connections at once. One more ends the oldest of them, so slow clients keep nobody out.
const CONNECTIONS: usize = 32;
/// For how long a connection may last.
const LONGEST: Duration = Duration::from_secs(10);
/// For how long a client may take to send the head of its request.
const HEAD: Duration = Duration::from_secs(5);
/// Size of a request's head, in bytes.
const HEAD_BYTES: usize = 8 << 10;
/// Lines of a request's head.
const HEAD_LINES: usize = 64;
/// Between two attempts to open the port, at first and at most.
const PAUSE: [Duration; 2] = [Duration::from_secs(1), Duration::from_mins(1)];
/// After a connection could not be accepted, for want of descriptors for example.
const BREATH: Duration = Duration::from_secs(1);

const OPENMETRICS: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// What the answers are made of.
#[derive(Clone)]
pub(super) struct Shared {
    pub(super) board: Arc<Board>,
    pub(super) numbers: Arc<dyn Numbers>,
}

/// Opens the port, as soon as that is possible, and answers. Never returns.
pub(super) async fn serve(listen: SocketAddr, shared: Shared) {
    let listener = open(listen).await;
    let routes = routes(shared);
    let mut connections = VecDeque::<AbortHandle>::new();
    loop {
        let stream = match listener.accept().await {
            Ok((stream, _)) => stream,
            Err(error) => {
                tracing::warn!(%error, "cannot accept an HTTP connection; trying again");
                sleep(BREATH).await;
                continue;
            }
        };
        connections.retain(|connection| !connection.is_finished());
        if connections.len() >= CONNECTIONS
            && let Some(oldest) = connections.pop_front()
        {
            oldest.abort();
        }
        connections.push_back(tokio::spawn(timeout(LONGEST, answer(stream, routes.clone()))).abort_handle());
    }
}

async fn open(listen: SocketAddr) -> TcpListener {
    let [mut pause, longest] = PAUSE;
    let mut told = None;
    loop {
        match TcpListener::bind(listen).await {
            Ok(listener) => {
                tracing::info!(%listen, "the daemon answers HTTP requests");
                return listener;
            }
            Err(error) => {
                // Once for each kind of error: it may last for as long as the daemon does.
                if told.replace(error.kind()) != Some(error.kind()) {
                    tracing::warn!(%listen, %error, "cannot listen for HTTP requests; enforcement goes on without, and the daemon tries again");
                }
                sleep(pause).await;
                pause = (2 * pause).min(longest);
            }
        }
    }
}

async fn answer(stream: TcpStream, routes: Router) {
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .keep_alive(false)
        .header_read_timeout(HEAD)
        .max_headers(HEAD_LINES)
        .max_header_size(HEAD_BYTES)
        .max_buf_size(2 * HEAD_BYTES)
        .serve_connection(TokioIo::new(stream), TowerToHyperService::new(routes));
    // A client that is wrong or gone has its answer, or needs none.
    let _ = connection.await;
}

fn routes(shared: Shared) -> Router {
    Router::new()
        .route("/livez", get(livez))
        .route("/readyz", get(readyz))
        .route("/metrics", get(numbers))
        .with_state(shared)
}

async fn livez(State(shared): State<Shared>) -> Response {
    match shared.board.is_live() {
        Ok(()) => "ok\n".into_response(),
        Err(still) => {
            unavailable(&format!("the daemon's loop has stood still for {} s; restart the daemon", still.as_secs()))
        }
    }
}

async fn readyz(State(shared): State<Shared>) -> Response {
    match shared.board.is_ready() {
        Ok(()) => "ok\n".into_response(),
        Err(waits) => unavailable(&waits.to_string()),
    }
}

async fn numbers(State(shared): State<Shared>) -> Response {
    match metrics::text(&shared.board, &*shared.numbers) {
        Ok(text) => ([(CONTENT_TYPE, OPENMETRICS)], text).into_response(),
        Err(error) => {
            tracing::warn!(%error, "cannot read the kernel's counters for /metrics");
            (StatusCode::INTERNAL_SERVER_ERROR, "cannot read the kernel's counters; the daemon's log says why\n")
                .into_response()
        }
    }
}

fn unavailable(why: &str) -> Response {
    (StatusCode::SERVICE_UNAVAILABLE, format!("{why}\n")).into_response()
}
