//! Measures the shipped agent on a real cluster (README.md, "What it costs"): how long a change of the API takes until packets show
//! it.
//!
//! Input: a number of rounds, and the archive of an image; without it the image of `cargo xtask image` is made. Output: times, for
//! programs and for people.

mod delays;
mod stream;

use std::fmt;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, Result};
use serde::Serialize;
use tempfile::TempDir;

pub use self::delays::Delay;
use crate::cluster::api::Api;
use crate::cluster::{Cluster, agents};

/// The nodes.
const NODES: [&str; 2] = ["node1", "node2"];

/// A cluster whose nodes have agents. It is removed on drop.
pub struct Ground {
    /// Before the cluster, because it ends first.
    api: Api,
    cluster: Cluster,
    /// Where `api` has its socket.
    _directory: TempDir,
}

/// How long changes take.
#[derive(Debug, Serialize)]
pub struct Delays(Vec<Delay>);

impl Ground {
    /// Starts a cluster, and installs the agents.
    pub fn new(archive: Option<PathBuf>) -> Result<Self> {
        let directory = tempfile::tempdir().context("cannot make a directory")?;
        let archive = archive.unwrap_or_else(|| {
            let made = directory.path().join("enforcer.tar");
            agents::image(&made, &[]);
            made
        });
        let cluster = Cluster::named("bench");
        cluster.up(&["--nodes", "2", "--cni", "ptp", "--family", "dual", "--proxy", "nftables"]);
        agents::install(&cluster, &archive);
        let api = Api::of(&cluster, directory.path());
        Ok(Self { api, cluster, _directory: directory })
    }

    /// Measures how long changes take, with so many rounds of each kind.
    pub fn delays(&self, rounds: usize) -> Result<Delays> {
        delays::measure(self, rounds).map(Delays)
    }
}

impl fmt::Display for Delays {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(formatter, "{:<64} {:>6} {:>8} {:>8} {:>8}", "milliseconds", "rounds", "p50", "p99", "worst")?;
        for Delay { what, rounds, p50_ms, p99_ms, worst_ms } in &self.0 {
            writeln!(formatter, "{what:<64} {rounds:>6} {p50_ms:>8.0} {p99_ms:>8.0} {worst_ms:>8.0}")?;
        }
        Ok(())
    }
}

fn millis(time: Duration) -> f64 {
    1e3 * time.as_secs_f64()
}
