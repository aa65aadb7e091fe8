//! The API of a cluster for a test that changes many objects: `kubectl proxy` hands requests on, and one takes some milliseconds,
//! where each kubectl takes some hundred. Input: a method, a path, an object. Output: what the API server says.

use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Stdio};

use serde_json::Value;

use super::{BOUND, Cluster, until};

/// `kubectl proxy` on a socket in a directory of the test. It ends on drop.
#[derive(Debug)]
pub struct Api {
    child: Child,
    socket: PathBuf,
}

impl Api {
    /// Starts it.
    pub fn of(cluster: &Cluster, directory: &Path) -> Self {
        let socket = directory.join("api.sock");
        let mut command = cluster.kubectl_command(&["proxy", "--unix-socket", socket.to_str().unwrap()]);
        let child = command.stdout(Stdio::null()).spawn().unwrap();
        let api = Self { child, socket };
        until("kubectl proxy", || UnixStream::connect(&api.socket).is_ok(), |is_there| *is_there);
        api
    }

    /// What the API server answers. It has to be content.
    pub fn ask(&self, method: &str, path: &str, body: &Value) -> Value {
        let kind = if method == "PATCH" { "application/merge-patch+json" } else { "application/json" };
        let body = if body.is_null() { String::new() } else { body.to_string() };
        let request = format!(
            "{method} {path} HTTP/1.0\r\nHost: localhost\r\nContent-Type: {kind}\r\nContent-Length: {}\r\n\r\n{body}",
            body.len()
        );
        let mut stream = UnixStream::connect(&self.socket).unwrap();
        stream.write_all(request.as_bytes()).unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        let (head, body) = answer.split_once("\r\n\r\n").unwrap_or_default();
        let is_content = head.split(' ').nth(1).is_some_and(|status| status.starts_with('2'));
        assert!(is_content, "{method} {path}: {answer}");
        serde_json::from_str(body).unwrap()
    }

    /// What the API server tells of a collection from now on. Ends where it says nothing for a long time.
    pub fn watch(&self, path: &str) -> impl Iterator<Item = Value> + use<> {
        let mut stream = UnixStream::connect(&self.socket).unwrap();
        stream.set_read_timeout(Some(BOUND)).unwrap();
        stream.write_all(format!("GET {path} HTTP/1.0\r\nHost: localhost\r\n\r\n").as_bytes()).unwrap();
        let mut lines = BufReader::new(stream).lines().map_while(Result::ok);
        let head = lines.next().unwrap();
        assert!(head.contains(" 200 "), "{path}: {head}");
        // Of the head, only its end counts.
        let _ = lines.by_ref().find(String::is_empty);
        lines.map(|line| serde_json::from_str(&line).unwrap())
    }

    /// Makes an object in a collection, and gives its version.
    pub fn create(&self, collection: &str, object: &Value) -> String {
        let made = self.ask("POST", collection, object);
        made["metadata"]["resourceVersion"].as_str().unwrap().to_owned()
    }
}

impl Drop for Api {
    fn drop(&mut self) {
        // Both fail only if it has ended.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
