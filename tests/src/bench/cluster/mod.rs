//! Measures the shipped agent on a real cluster (README.md, "What it costs"): how long a change of the API takes until packets show
//! it, and what an agent costs beside many pods.
//!
//! Input: a number of rounds, and the archive of an image; without it the image of `cargo xtask image` is made. Output: times and
//! costs, for programs and for people.

mod delays;
mod load;
mod stream;
mod traffic;

use std::fmt;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, Result};
use serde::Serialize;
use tempfile::TempDir;

pub use self::delays::Delay;
pub use self::load::{Load, State};
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

/// What an agent costs beside pods.
#[derive(Debug, Serialize)]
pub struct Loads(Vec<Load>);

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

    /// Measures what an agent costs. Behind [`Ground::delays`], whose pods it is about; afterwards no controller runs.
    pub fn loads(&self) -> Result<Loads> {
        load::measure(self).map(Loads)
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

impl fmt::Display for Loads {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(
            formatter,
            "{:<40} {:>8} {:>6} {:>12} {:>12} {:>12}",
            "an agent", "cpu", "MiB", "B/s received", "B/s sent", "requests/min"
        )?;
        for Load { pods, at_rest, busy } in &self.0 {
            for State { events, cpu_percent, resident_mib, received, sent, requests } in [at_rest, busy] {
                let what = format!("{pods} pods elsewhere, {events:.1} events a second");
                writeln!(
                    formatter,
                    "{what:<40} {cpu_percent:>6.2} % {resident_mib:>6.0} {received:>12.0} {sent:>12.0} {requests:>12.1}"
                )?;
            }
        }
        Ok(())
    }
}

fn millis(time: Duration) -> f64 {
    1e3 * time.as_secs_f64()
}
