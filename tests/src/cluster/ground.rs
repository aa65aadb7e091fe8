//! A cluster, and the daemon of this build in the network of its first node, with directories of its own: for tests that start
//! and end the daemon themselves. Input: options of `cluster up`. Output: the daemon, and what it says of itself.

use std::fs;
use std::process::{Command, Stdio};

use serde_json::{Value, json};

use super::Cluster;
use crate::daemon::{Daemon, binary};
use crate::net::Site;

/// The node whose network the daemon is in.
pub const NODE: &str = "node1";

/// A cluster, and the directories of a daemon.
#[derive(Debug)]
pub struct Ground {
    /// The cluster.
    pub cluster: Cluster,
    /// The daemon's directories.
    pub site: Site,
}

impl Ground {
    /// Starts a cluster with a namespace `shop`.
    pub fn new(name: &str, options: &[&str]) -> Self {
        let ground = Self { cluster: Cluster::named(name), site: Site::new() };
        ground.cluster.up(options);
        ground.cluster.kubectl(&["create", "namespace", "shop"]);
        ground
    }

    /// Starts the daemon, with this option for a file of the site.
    pub fn daemon(&self, option: &str, file: &str) -> Daemon {
        let mut command = self.command(&["run", "--kubernetes", "--node", NODE]);
        command.arg("--kubeconfig").arg(self.cluster.kubeconfig());
        command.arg(option).arg(self.site.file(file));
        command.arg("--flow-log").arg(self.site.file("flows.jsonl"));
        command.arg("--netns").arg(self.cluster.network(NODE));
        command.stdout(Stdio::null());
        Daemon::spawn(command, self.site.pin_dir(), &self.site.file("daemon.log"))
    }

    /// A command of `enforcer` for this daemon.
    pub fn command(&self, arguments: &[&str]) -> Command {
        let settings = self.site.file("settings.yaml");
        fs::write(&settings, json!({"state_dir": self.site.file("state"), "judge_services": true}).to_string())
            .unwrap();
        let mut command = Command::new(binary());
        command.args(arguments).arg("--config").arg(settings).arg("--pin-dir").arg(self.site.pin_dir());
        command.stdin(Stdio::null());
        command
    }

    /// What `enforcer status --json` reports of the daemon; null while it says nothing.
    pub fn report(&self) -> Value {
        let output = self.command(&["status", "--json"]).output().unwrap();
        let status: Value = serde_json::from_slice(&output.stdout).unwrap_or_default();
        status["report"].clone()
    }

    /// Whether a pod of `shop` answers at each of these addresses to a pod there.
    pub fn answers(&self, from: &str, to: &[String], port: u16) -> Vec<bool> {
        to.iter().map(|address| self.cluster.ask_from("shop", from, address, port).is_some()).collect()
    }
}
