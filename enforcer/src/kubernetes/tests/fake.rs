//! An API server that answers as a test wants it to.
//!
//! Input: a script, which gives the reply to each request. Output: its address, and the requests that it was asked. Each
//! connection serves one request.

use std::future::pending;
use std::net::TcpListener as Bound;
use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use serde_json::{Value, json};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Notify, mpsc};
use tokio::task::JoinHandle;
use tokio::time::{sleep, timeout};

use crate::kubernetes::{Cluster, Config};

const SOON: Duration = Duration::from_secs(10);

/// What the server answers.
pub(crate) enum Reply {
    /// A status and a body.
    Json(u16, Value),
    /// Lines as they come, until the sender is dropped.
    Stream(mpsc::UnboundedReceiver<Value>),
    /// A body that breaks off in its middle.
    Cut,
    /// Nothing, for ever.
    Silent,
    /// A reply that waits for a sign.
    After(Arc<Notify>, Box<Reply>),
}

/// A running server. It ends on drop.
pub(crate) struct Fake {
    port: u16,
    asked: Arc<Mutex<Vec<String>>>,
    task: JoinHandle<()>,
}

impl Fake {
    /// Starts a server; `script` gets the number of each request and its path with the query.
    pub(crate) async fn start(script: impl Fn(usize, &str) -> Reply + Send + Sync + 'static) -> Self {
        Self::start_at(0, script).await
    }

    pub(crate) async fn start_at(port: u16, script: impl Fn(usize, &str) -> Reply + Send + Sync + 'static) -> Self {
        let listener = TcpListener::bind(("127.0.0.1", port)).await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let asked = Arc::new(Mutex::new(Vec::new()));
        let (log, script) = (Arc::clone(&asked), Arc::new(script));
        let task = tokio::spawn(async move {
            loop {
                let Ok((mut connection, _)) = listener.accept().await else { return };
                let (log, script) = (Arc::clone(&log), Arc::clone(&script));
                tokio::spawn(async move {
                    let Some(path) = request(&mut connection).await else { return };
                    let number = {
                        let mut log = log.lock().unwrap();
                        log.push(path.clone());
                        log.len() - 1
                    };
                    answer(&mut connection, script(number, &path)).await;
                });
            }
        });
        Self { port, asked, task }
    }

    /// A client of it, for the node `n1`.
    pub(crate) async fn cluster(&self) -> Cluster {
        cluster_at(self.port).await
    }

    /// Path and query of each request.
    pub(crate) fn asked(&self) -> Vec<String> {
        self.asked.lock().unwrap().clone()
    }

    /// Waits for a request with this text.
    pub(crate) async fn until_asked(&self, text: &str) {
        let asked = async {
            while !self.asked().iter().any(|path| path.contains(text)) {
                sleep(Duration::from_millis(10)).await;
            }
        };
        timeout(SOON, asked).await.unwrap_or_else(|_| panic!("{text} was not asked: {:?}", self.asked()));
    }
}

impl Drop for Fake {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn request(connection: &mut TcpStream) -> Option<String> {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        head.push(connection.read_u8().await.ok()?);
    }
    String::from_utf8(head).unwrap().split(' ').nth(1).map(str::to_owned)
}

/// The client may be gone at any moment, which is no failure.
async fn answer(connection: &mut TcpStream, mut reply: Reply) {
    while let Reply::After(sign, then) = reply {
        sign.notified().await;
        reply = *then;
    }
    let head = |code: u16, more: &str| {
        format!("HTTP/1.1 {code} X\r\ncontent-type: application/json\r\nconnection: close\r\n{more}\r\n")
    };
    match reply {
        Reply::Json(code, body) => {
            let body = body.to_string();
            let head = head(code, &format!("content-length: {}\r\n", body.len()));
            let _ = connection.write_all((head + &body).as_bytes()).await;
        }
        Reply::Cut => {
            let head = head(200, "content-length: 1000\r\n");
            let _ = connection.write_all((head + r#"{"kind":"List","metadata":{"#).as_bytes()).await;
        }
        Reply::Stream(mut lines) => {
            let _ = connection.write_all(head(200, "").as_bytes()).await;
            while let Some(line) = lines.recv().await {
                if connection.write_all(format!("{line}\n").as_bytes()).await.is_err() {
                    return;
                }
            }
        }
        Reply::Silent => pending().await,
        Reply::After(..) => unreachable!("it was waited for"),
    }
}

/// A port on which nobody listens now.
pub(crate) fn free_port() -> u16 {
    Bound::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
}

/// A client of a server at this port, which need not be there.
pub(crate) async fn cluster_at(port: u16) -> Cluster {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("kubeconfig");
    write_kubeconfig(&path, port);
    Cluster::open(&Config { kubeconfig: Some(path), node: "n1".to_owned() }).await.unwrap()
}

pub(crate) fn write_kubeconfig(path: &Path, port: u16) {
    let text = json!({
        "apiVersion": "v1",
        "kind": "Config",
        "current-context": "a",
        "contexts": [{"name": "a", "context": {"cluster": "a", "user": "a"}}],
        "clusters": [{"name": "a", "cluster": {"server": format!("http://127.0.0.1:{port}")}}],
        "users": [{"name": "a", "user": {}}],
    });
    std::fs::write(path, text.to_string()).unwrap();
}

/// A stream whose lines the test gives one by one.
pub(crate) fn stream() -> (mpsc::UnboundedSender<Value>, mpsc::UnboundedReceiver<Value>) {
    mpsc::unbounded_channel()
}

/// A script with one reply to the first request, and nothing for the others.
pub(crate) fn once(reply: Reply) -> impl Fn(usize, &str) -> Reply + Send + Sync + 'static {
    let reply = Mutex::new(Some(reply));
    move |_, _| reply.lock().unwrap().take().unwrap_or(Reply::Silent)
}

/// A stream that ends after these lines.
pub(crate) fn ended(lines: &[Value]) -> Reply {
    let (say, script) = stream();
    for line in lines {
        say.send(line.clone()).unwrap();
    }
    Reply::Stream(script)
}

pub(crate) fn object(api_version: &str, kind: &str, namespace: &str, name: &str, version: u32, spec: &Value) -> Value {
    let metadata = json!({"namespace": namespace, "name": name, "resourceVersion": version.to_string()});
    json!({"apiVersion": api_version, "kind": kind, "metadata": metadata, "spec": spec})
}

pub(crate) fn event(kind: &str, object: &Value) -> Value {
    json!({"type": kind, "object": object})
}

/// A bookmark; `is_end`: that of a list's end.
pub(crate) fn bookmark(version: &str, is_end: bool) -> Value {
    let annotations = if is_end { json!({"k8s.io/initial-events-end": "true"}) } else { json!({}) };
    let metadata = json!({"resourceVersion": version, "annotations": annotations});
    event("BOOKMARK", &json!({"apiVersion": "v1", "kind": "Thing", "metadata": metadata}))
}

/// One page of a list; `version` is empty where another page follows.
pub(crate) fn page(version: &str, more: &str, items: &[Value]) -> Reply {
    let metadata = json!({"resourceVersion": version, "continue": more});
    Reply::Json(200, json!({"apiVersion": "v1", "kind": "List", "metadata": metadata, "items": items}))
}

fn status(code: u16, reason: &str, message: &str) -> Value {
    json!({
        "apiVersion": "v1", "kind": "Status", "metadata": {}, "status": "Failure",
        "code": code, "reason": reason, "message": message,
    })
}

pub(crate) fn refused(code: u16, reason: &str, message: &str) -> Reply {
    Reply::Json(code, status(code, reason, message))
}

/// The answer of a server that knows no streaming lists.
pub(crate) fn unsupported() -> Reply {
    refused(422, "Invalid", "sendInitialEvents: Forbidden: not supported")
}

/// The event by which a watch ends whose version is too old.
pub(crate) fn expired() -> Value {
    event("ERROR", &status(410, "Expired", "too old resource version"))
}
