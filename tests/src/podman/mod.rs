//! A small container host: a network namespace as the node, and a separate podman that runs in it.
//!
//! Input: commands as a user types them. Output: real containers that are named only through podman's API socket, and an
//! `enforcer` beside them. Everything is removed on drop.

#![allow(clippy::unwrap_used, reason = "a test that cannot make its host has to stop")]

pub mod container;
mod engine;
pub mod shell;
mod shims;
pub mod walk;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::thread::sleep;
use std::time::{Duration, Instant};

use enforcer::kernel::group_directory;
use enforcer::lab::{Lab, Layout, Namespace};
use enforcer_common::id::IncarnationId;
use enforcer_common::schema::Group;
use serde_json::Value;

use crate::daemon::{BOUND, Daemon};
use crate::net;
use crate::stage::log::{self, Record};

pub use self::engine::{Engine, IMAGE, Kind};

/// The host. Its parts are dropped from the first to the last.
pub struct Host {
    daemon: Option<Daemon>,
    engine: Engine,
    lab: Lab,
}

impl Host {
    /// A node with an uplink, the image, and no container yet.
    pub fn new() -> Self {
        Self::of(Engine::podman)
    }

    /// The same with Docker, which serves already.
    pub fn docker() -> Self {
        Self::of(Engine::docker)
    }

    fn of(engine: fn(&Namespace) -> Engine) -> Self {
        // Routed: the bridge is the runtime's business.
        let lab = net::lab(Layout::Routed);
        let host = Self { daemon: None, engine: engine(lab.node()), lab };
        fs::create_dir(host.policies()).unwrap();
        shims::write(&host);
        host
    }

    fn node(&self) -> &Path {
        self.lab.node().path()
    }

    fn pin_dir(&self) -> &Path {
        self.engine.site().pin_dir()
    }

    /// A file of this host.
    pub fn file(&self, name: &str) -> PathBuf {
        self.engine.site().file(name)
    }

    /// The policy directory.
    pub fn policies(&self) -> PathBuf {
        self.file("policies")
    }

    /// Replaces a policy file as a whole.
    pub fn policy(&self, file: &str, text: &str) {
        let beside = self.file(&format!("{file}.new"));
        fs::write(&beside, text).unwrap();
        fs::rename(beside, self.policies().join(file)).unwrap();
    }

    /// Path of podman's socket.
    pub fn socket(&self) -> PathBuf {
        self.engine.socket()
    }

    /// One of the commands `podman`, `enforcer`, `systemctl`, as they are on this host.
    pub fn command(&self, program: &str) -> Command {
        self.engine.command(program)
    }

    /// Runs the runtime's own command; its output.
    pub fn podman(&self, arguments: &[&str]) -> String {
        self.engine.run(arguments)
    }

    /// Starts podman's API service.
    pub fn serve(&self) {
        self.engine.serve();
    }

    /// Ends podman's API service.
    pub fn stop_serving(&self) {
        self.engine.stop_serving();
    }

    /// Makes a network.
    pub fn add_network(&mut self, name: &str, v4: &str, v6: &str) {
        self.engine.add_network(name, v4, v6);
    }

    /// Full name of a network.
    pub fn network(&self, name: &str) -> String {
        self.engine.network(name)
    }

    /// The option that puts a container on a network with these addresses.
    pub fn join(&self, network: &str, addresses: [&str; 2]) -> String {
        self.engine.join(network, addresses)
    }

    /// The options that put a container on a network with these addresses.
    pub fn attach(&self, network: &str, addresses: [&str; 2]) -> Vec<String> {
        self.engine.attach(network, addresses)
    }

    /// Runs `enforcer`.
    pub fn enforcer(&self, arguments: &[&str]) -> Output {
        self.command("enforcer").args(arguments).output().unwrap()
    }

    /// The flow log that [`Host::start`] writes.
    pub fn flow_log(&self) -> PathBuf {
        self.file("flows.json")
    }

    /// Starts the daemon as the README does, and waits until these workloads are enforced.
    pub fn start(&mut self, workloads: &[&str]) {
        let mut command = self.command("enforcer");
        command.args(["run", "--runtime", self.engine.kind().name(), "--policies"]).arg(self.policies());
        command.arg("--flow-log").arg(self.flow_log()).stdout(Stdio::null());
        self.start_by(command, workloads);
    }

    /// Starts the daemon by another command line, which has to name the paths of this host.
    pub fn start_by(&mut self, command: Command, workloads: &[&str]) {
        self.daemon = Some(Daemon::spawn(command, self.pin_dir(), &self.file("enforcer.log")));
        self.wait_for(workloads);
    }

    /// The node's network namespace, and what the `enforcer` of this host adds to a command line that runs inside it.
    pub fn inside(&self) -> (&Path, [(&'static str, PathBuf); 3]) {
        let pins = ("--pin-dir", self.pin_dir().to_owned());
        let settings = ("--config", self.file("settings.yaml"));
        (self.node(), [pins, settings, ("--runtime-socket", self.socket())])
    }

    /// Names of what is pinned in the directories of this name, those of every group.
    pub fn pins(&self, directory: &str) -> Vec<String> {
        let groups = Group::ALL.map(|group| self.pin_dir().join(group_directory(group)).join(directory));
        let entries = groups.iter().filter_map(|path| fs::read_dir(path).ok()).flatten();
        entries.map(|entry| entry.unwrap().file_name().to_string_lossy().into_owned()).collect()
    }

    /// Removes the pins by hand, without `enforcer`.
    pub fn remove_pins(&mut self) {
        self.daemon = None;
        fs::remove_dir_all(self.pin_dir()).unwrap();
    }

    /// Does something outside the node.
    pub fn outside<R: Send>(&self, work: impl FnOnce() -> R + Send) -> R {
        self.lab.outside().enter(work).unwrap()
    }

    /// Kills the daemon.
    pub fn kill_daemon(&mut self) {
        self.daemon.take().expect("a daemon runs").kill();
    }

    /// Ends the daemon and removes enforcement.
    pub fn purge(&mut self) {
        if let Some(daemon) = self.daemon.take() {
            let status = daemon.terminate();
            assert!(status.success(), "{status}");
        }
        let output = self.enforcer(&["purge"]);
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    }

    /// Waits until each of these workloads has programs and rows of its own.
    pub fn wait_for(&mut self, workloads: &[&str]) {
        let known = |host: &mut Self, wanted: &str| {
            let (status, _) = host.status();
            let named = status["report"]["workloads"].as_array().cloned().unwrap_or_default();
            let line = named.into_iter().find(|line| line["name"] == wanted)?;
            let indices: Vec<u64> = line["endpoints"].as_array()?.iter().filter_map(|pair| pair[0].as_u64()).collect();
            let view = enforcer::kernel::status::read(host.pin_dir()).ok()?;
            let ready = |index: &u64| {
                view.endpoints.iter().any(|endpoint| {
                    u64::from(endpoint.ifindex.0) == *index
                        && endpoint.is_attached()
                        && !endpoint.unknown
                        && endpoint.id != IncarnationId::NONE
                })
            };
            (!indices.is_empty() && indices.iter().all(ready)).then_some(())
        };
        for workload in workloads {
            self.until(&format!("{workload} is enforced"), |host| known(host, workload).is_some());
        }
    }

    /// `enforcer status --json` and its exit code.
    pub fn status(&self) -> (Value, i32) {
        let output = self.enforcer(&["status", "--json"]);
        let value = serde_json::from_slice(&output.stdout).unwrap_or(Value::Null);
        (value, output.status.code().unwrap())
    }

    /// Waits until something holds.
    pub fn until(&mut self, what: &str, mut holds: impl FnMut(&mut Self) -> bool) {
        let end = Instant::now() + BOUND;
        while !holds(self) {
            self.daemon.iter_mut().for_each(Daemon::assert_runs);
            if Instant::now() >= end {
                let said = fs::read_to_string(self.file("enforcer.log")).unwrap_or_default();
                panic!("not after {BOUND:?}: {what}; status: {:#}\n{said}", self.status().0);
            }
            sleep(Duration::from_millis(50));
        }
    }

    /// Waits for a line of the flow log.
    pub fn wait_record(&mut self, what: &str, wanted: impl Fn(&Record) -> bool) -> Record {
        let mut found = None;
        self.until(&format!("the flow log has {what}"), |host| {
            found = log::read(&host.flow_log()).into_iter().find(|record| wanted(record));
            found.is_some()
        });
        found.unwrap()
    }
}

impl Default for Host {
    fn default() -> Self {
        Self::new()
    }
}

impl Drop for Host {
    fn drop(&mut self) {
        self.daemon = None;
        // One that a shell has started.
        self.engine.site().end(shims::DAEMON_PID);
    }
}
