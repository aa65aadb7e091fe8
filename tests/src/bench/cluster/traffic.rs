//! Bytes between an agent and the API server, as the kernel counts them for each TCP connection. Input: a process. Output: the bytes
//! from a start to an end.
//!
//! A connection that ends takes its counts with it, so they are read every second, and those of its last second are missed.

use std::collections::BTreeMap;
use std::process::Command;
use std::sync::mpsc::{Sender, channel};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use anyhow::{Context, Result, ensure};

use crate::cluster::Cluster;

const TICK: Duration = Duration::from_secs(1);

/// Bytes of all connections, with what TLS adds.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub(super) struct Bytes {
    pub(super) received: u64,
    pub(super) sent: u64,
}

/// Connections by the addresses of both ends.
type Connections = BTreeMap<String, Bytes>;

/// A measurement that goes on.
pub(super) struct Traffic {
    end: Sender<()>,
    thread: JoinHandle<Result<Bytes>>,
}

impl Traffic {
    /// Begins to count what a process of the node sends and receives.
    pub(super) fn start(cluster: &Cluster, node: &str, pid: u32) -> Result<Self> {
        let mut command =
            cluster.on(node, &["ss", "--tcp", "--info", "--numeric", "--processes", "--no-header", "--oneline"]);
        let begin = read(&mut command, pid)?;
        ensure!(!begin.is_empty(), "process {pid} of {node} has no connection with the API server");
        let (end, ended) = channel();
        let thread = thread::spawn(move || {
            let mut all = begin.clone();
            loop {
                let is_last = ended.recv_timeout(TICK).is_ok();
                all.extend(read(&mut command, pid)?);
                if is_last {
                    return Ok(since(&begin, &all));
                }
            }
        });
        Ok(Self { end, thread })
    }

    /// The bytes since the start.
    pub(super) fn end(self) -> Result<Bytes> {
        // Fails only if the thread has ended, which then says why.
        let _ = self.end.send(());
        self.thread.join().ok().context("the bytes could not be counted")?
    }
}

fn read(command: &mut Command, pid: u32) -> Result<Connections> {
    let output = command.output().context("cannot run ss")?;
    ensure!(output.status.success(), "ss: {}", String::from_utf8_lossy(&output.stderr));
    parse(&String::from_utf8(output.stdout)?, pid)
}

/// Connections of a process with others than its own host.
fn parse(text: &str, pid: u32) -> Result<Connections> {
    let own = format!("pid={pid},");
    let mut connections = Connections::new();
    for line in text.lines().filter(|line| line.contains(&own)) {
        let words: Vec<&str> = line.split_whitespace().collect();
        let [_, _, _, local, peer, rest @ ..] = &words[..] else { continue };
        if peer.starts_with("127.") || peer.starts_with("[::1]") {
            continue;
        }
        // A count that is not there is zero.
        let count = |name: &str| rest.iter().find_map(|word| word.strip_prefix(name)).map_or(Ok(0), str::parse);
        let bytes = Bytes { received: count("bytes_received:")?, sent: count("bytes_sent:")? };
        connections.insert(format!("{local} {peer}"), bytes);
    }
    Ok(connections)
}

fn since(begin: &Connections, all: &Connections) -> Bytes {
    let mut sum = Bytes::default();
    for (name, now) in all {
        let before = begin.get(name).copied().unwrap_or_default();
        sum.received += now.received.saturating_sub(before.received);
        sum.sent += now.sent.saturating_sub(before.sent);
    }
    sum
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_are_those_of_the_process_and_of_the_time() {
        let text = |received: u32| {
            format!(
                "ESTAB 0 0 10.77.0.12:40000 10.79.0.1:443 users:((\"enforcer\",pid=12,fd=9)) cubic bytes_sent:50 \
                 bytes_acked:51 bytes_received:{received} segs_out:3\n\
                 ESTAB 0 0 127.0.0.1:9847 127.0.0.1:33000 users:((\"enforcer\",pid=12,fd=10)) cubic bytes_received:9\n\
                 ESTAB 0 0 10.77.0.12:40001 10.77.0.1:6443 users:((\"kubelet\",pid=123,fd=9)) bytes_received:7\n"
            )
        };
        let (begin, mut all) = (parse(&text(1_000), 12).unwrap(), parse(&text(1_700), 12).unwrap());
        assert_eq!(begin.len(), 1, "neither the probe nor the kubelet counts");
        assert_eq!(since(&begin, &all), Bytes { received: 700, sent: 0 });
        all.insert("new".into(), Bytes { received: 30, sent: 20 });
        assert_eq!(since(&begin, &all), Bytes { received: 730, sent: 20 });
    }
}
