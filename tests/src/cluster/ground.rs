//! A cluster, and the daemon of this build in the network of its first node, with directories of its own: for tests that start
//! and end the daemon themselves. Input: options of `cluster up`. Output: the daemon, and what it says of itself.

use std::fs;
use std::ops::Deref;
use std::process::{Command, Stdio};

use serde_json::{Value, json};

use super::Cluster;
use crate::daemon::{Daemon, binary};
use crate::net::Site;

/// The node whose network the daemon is in.
pub const NODE: &str = "node1";

/// A cluster, and the post of a daemon on its first node.
#[derive(Debug)]
pub struct Ground {
    /// The cluster.
    pub cluster: Cluster,
    post: Post,
}

/// A node that has a daemon, and the directories of that daemon.
#[derive(Debug)]
pub struct Post {
    /// The daemon's directories.
    pub site: Site,
    node: &'static str,
}

impl Deref for Ground {
    type Target = Post;

    fn deref(&self) -> &Post {
        &self.post
    }
}

impl Post {
    /// Directories for a daemon on this node.
    pub fn new(node: &'static str) -> Self {
        Self { site: Site::new(), node }
    }

    /// The node.
    pub fn node(&self) -> &'static str {
        self.node
    }

    /// Starts the daemon with these options and the setting `judge_services`.
    pub fn start(&self, cluster: &Cluster, options: &[&str], judge_services: bool) -> Daemon {
        let settings = json!({"state_dir": self.site.file("state"), "judge_services": judge_services});
        fs::write(self.site.file("settings.yaml"), settings.to_string()).unwrap();
        let mut command = self.command(&["run", "--kubernetes", "--node", self.node]);
        command.arg("--kubeconfig").arg(cluster.kubeconfig()).args(options);
        command.arg("--flow-log").arg(self.site.file("flows.jsonl"));
        command.arg("--netns").arg(cluster.network(self.node));
        command.stdout(Stdio::null());
        Daemon::spawn(command, self.site.pin_dir(), &self.site.file("daemon.log"))
    }

    /// A command of `enforcer` for a daemon that was started.
    pub fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(binary());
        command.args(arguments).arg("--config").arg(self.site.file("settings.yaml"));
        command.arg("--pin-dir").arg(self.site.pin_dir());
        command.stdin(Stdio::null());
        command
    }

    /// What `enforcer status --json` reports of the daemon; null while it says nothing.
    pub fn report(&self) -> Value {
        let output = self.command(&["status", "--json"]).output().unwrap();
        let status: Value = serde_json::from_slice(&output.stdout).unwrap_or_default();
        status["report"].clone()
    }
}

impl Ground {
    /// Starts a cluster with a namespace `shop`.
    pub fn new(name: &str, options: &[&str]) -> Self {
        let ground = Self { cluster: Cluster::named(name), post: Post::new(NODE) };
        ground.cluster.up(options);
        ground.cluster.kubectl(&["create", "namespace", "shop"]);
        ground
    }

    /// Starts the daemon, with this option for a file of the site. It judges Services by their backends alone.
    pub fn daemon(&self, option: &str, file: &str) -> Daemon {
        let file = self.site.file(file);
        self.post.start(&self.cluster, &[option, file.to_str().unwrap()], true)
    }

    /// Whether a pod of `shop` answers at each of these addresses to a pod there.
    pub fn answers(&self, from: &str, to: &[String], port: u16) -> Vec<bool> {
        to.iter().map(|address| self.cluster.ask_from("shop", from, address, port).is_some()).collect()
    }
}
