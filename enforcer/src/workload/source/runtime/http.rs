//! One GET request to the runtime's socket.
//!
//! Input: a path. Output: status and body. HTTP 1.0 has no chunks and ends with the connection, so nothing has to be parsed but
//! the first line. The typed lists of the client library know fewer states of containers than podman has, and one container in
//! such a state would make the whole list unreadable.

#![forbid(unsafe_code)]

use std::io;
use std::path::Path;
use std::time::Duration;

use serde::de::DeserializeOwned;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::UnixStream;
use tokio::time::timeout;

/// How long one call may take.
const PATIENCE: Duration = Duration::from_secs(8);
/// More than any list of containers has.
const BODY_MOST: u64 = 64 << 20;

/// Why a request has no answer.
#[derive(Debug, thiserror::Error)]
pub(super) enum CallError {
    /// The socket does not answer.
    #[error("cannot ask the runtime for {path}")]
    Socket {
        /// What was asked.
        path: String,
        /// Cause.
        #[source]
        source: io::Error,
    },
    /// The runtime says that something is wrong.
    #[error("the runtime answers {path} with status {status}")]
    Status {
        /// What was asked.
        path: String,
        /// The status.
        status: u16,
    },
    /// The answer is not what the API describes.
    #[error("the runtime's answer to {path} cannot be read")]
    Answer {
        /// What was asked.
        path: String,
        /// Cause.
        #[source]
        source: serde_json::Error,
    },
}

impl CallError {
    /// What was asked for is not there.
    pub(super) fn is_missing(&self) -> bool {
        matches!(self, Self::Status { status: 404, .. })
    }
}

/// Asks for a path, and reads the answer as JSON.
pub(super) async fn get<T: DeserializeOwned>(socket: &Path, path: &str) -> Result<T, CallError> {
    let failed = |source| CallError::Socket { path: path.to_owned(), source };
    let answer = timeout(PATIENCE, exchange(socket, path)).await;
    let answer = answer.map_err(|_| failed(io::ErrorKind::TimedOut.into()))?.map_err(failed)?;
    let (status, body) = parts(&answer).ok_or_else(|| failed(io::ErrorKind::InvalidData.into()))?;
    if status != 200 {
        return Err(CallError::Status { path: path.to_owned(), status });
    }
    serde_json::from_slice(body).map_err(|source| CallError::Answer { path: path.to_owned(), source })
}

async fn exchange(socket: &Path, path: &str) -> io::Result<Vec<u8>> {
    let mut stream = UnixStream::connect(socket).await?;
    stream.write_all(format!("GET {path} HTTP/1.0\r\nHost: runtime\r\n\r\n").as_bytes()).await?;
    let mut answer = Vec::new();
    stream.take(BODY_MOST).read_to_end(&mut answer).await?;
    if answer.len() as u64 == BODY_MOST { Err(io::ErrorKind::FileTooLarge.into()) } else { Ok(answer) }
}

/// Status and body of an answer.
fn parts(answer: &[u8]) -> Option<(u16, &[u8])> {
    let end = answer.windows(4).position(|bytes| bytes == b"\r\n\r\n")?;
    let head = std::str::from_utf8(&answer[..end]).ok()?;
    let status = head.strip_prefix("HTTP/1.")?.split(' ').nth(1)?.parse().ok()?;
    Some((status, &answer[end + 4..]))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_has_a_status_and_a_body() {
        assert_eq!(parts(b"HTTP/1.0 200 OK\r\nA: b\r\n\r\n[]"), Some((200, &b"[]"[..])));
        assert_eq!(parts(b"HTTP/1.1 404 Not Found\r\nA: b\r\n\r\n"), Some((404, &b""[..])));
        for broken in [&b""[..], b"HTTP/1.0 200 OK\r\nA: b\r\n", b"SSH-2.0\r\n\r\n", b"HTTP/1.0 \r\n\r\n"] {
            assert_eq!(parts(broken), None);
        }
    }
}
