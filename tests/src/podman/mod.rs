//! A container host in miniature: a network namespace as the node, and a podman with storage, networks and socket of its
//! own that runs in it.
//!
//! Input: commands as a user types them. Output: real containers, named only through podman's API socket, and an
//! `enforcer` beside them. Everything is removed on drop.

#![allow(clippy::unwrap_used, reason = "a test that cannot make its host has to stop")]

pub mod container;
pub mod shell;
mod shims;
pub mod walk;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::thread::sleep;
use std::time::{Duration, Instant};

use enforcer::kernel::group_directory;
use enforcer::lab::{Lab, Layout};
use enforcer_common::id::OwnerId;
use enforcer_common::schema::Group;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::Value;

use crate::daemon::{BOUND, Daemon};
use crate::stage::log::{self, Record};

/// What the image is called. It holds busybox alone; nothing is pulled.
pub const IMAGE: &str = "docker.io/library/busybox";

const NAME: &str = "enf-podman-";
static HOSTS: AtomicU32 = AtomicU32::new(0);

/// The host.
pub struct Host {
    /// Removed after everything that is in it.
    _lab: Lab,
    node: PathBuf,
    directory: tempfile::TempDir,
    pin_dir: PathBuf,
    name: String,
    networks: Vec<String>,
    daemon: Option<Daemon>,
}

impl Host {
    /// A node with an uplink, the image, and no container yet.
    pub fn new() -> Self {
        assert!(nix::unistd::geteuid().is_root(), "this test makes network namespaces and containers: it needs root");
        let name = format!("{NAME}{}-{}", std::process::id(), HOSTS.fetch_add(1, Ordering::Relaxed));
        let directory = tempfile::Builder::new().prefix(&format!("{name}-")).tempdir().unwrap();
        // Routed: the bridge is podman's business.
        let lab = Lab::new(Layout::Routed).unwrap();
        let host = Self {
            node: lab.node().path().to_owned(),
            _lab: lab,
            pin_dir: Path::new("/sys/fs/bpf").join(&name),
            directory,
            name,
            networks: Vec::new(),
            daemon: None,
        };
        fs::create_dir(host.policies()).unwrap();
        shims::write(&host);
        host.import();
        host
    }

    fn import(&self) {
        let rootfs = self.file("rootfs");
        for directory in ["bin", "etc", "tmp", "www"] {
            fs::create_dir_all(rootfs.join(directory)).unwrap();
        }
        fs::copy("/bin/busybox", rootfs.join("bin/busybox")).expect("busybox-static is installed");
        let applets = ["httpd", "nc", "sh", "sleep", "timeout", "wget", "mkdir", "hostname", "echo", "cat"];
        for applet in applets {
            std::os::unix::fs::symlink("busybox", rootfs.join("bin").join(applet)).unwrap();
        }
        let tar = self.file("rootfs.tar");
        let packed = Command::new("tar").arg("-C").arg(&rootfs).arg("-cf").arg(&tar).arg(".").status();
        assert!(packed.unwrap().success());
        self.podman(&["import", tar.to_str().unwrap(), &format!("{IMAGE}:latest")]);
    }

    /// A file of this host.
    pub fn file(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
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
        self.file("podman.sock")
    }

    /// One of the commands `podman`, `enforcer`, `systemctl`, as they are on this host.
    pub fn command(&self, program: &str) -> Command {
        let mut command = Command::new(self.file("bin").join(program));
        command.stdin(Stdio::null()).current_dir(self.directory.path());
        command
    }

    /// Runs podman; its output.
    pub fn podman(&self, arguments: &[&str]) -> String {
        let output = self.command("podman").args(arguments).output().unwrap();
        assert!(output.status.success(), "podman {arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8_lossy(&output.stdout).trim().to_owned()
    }

    /// Starts podman's API service.
    pub fn serve(&self) {
        let status = self.command("systemctl").args(["enable", "--now", "podman.socket"]).status().unwrap();
        assert!(status.success(), "podman's service does not come up");
    }

    /// Makes a network; its name is this host's own, since podman hands out addresses from one file a machine.
    pub fn add_network(&mut self, name: &str, v4: &str, v6: &str) {
        let full = self.network(name);
        self.podman(&["network", "create", "--disable-dns", "--subnet", v4, "--subnet", v6, &full]);
        self.networks.push(full);
    }

    /// Full name of a network.
    pub fn network(&self, name: &str) -> String {
        format!("{}-{name}", self.name)
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
        command.args(["run", "--runtime", "podman", "--policies"]).arg(self.policies());
        command.arg("--flow-log").arg(self.flow_log()).stdout(Stdio::null());
        self.start_by(command, workloads);
    }

    /// Starts the daemon by another command line, which has to name the paths of this host.
    pub fn start_by(&mut self, command: Command, workloads: &[&str]) {
        self.daemon = Some(Daemon::spawn(command, &self.pin_dir, &self.file("enforcer.log")));
        self.wait_for(workloads);
    }

    /// The node's network namespace, and what the `enforcer` of this host adds to a command line that runs inside it.
    pub fn inside(&self) -> (&Path, [(&'static str, PathBuf); 3]) {
        let pins = ("--pin-dir", self.pin_dir.clone());
        let settings = ("--config", self.file("settings.yaml"));
        (&self.node, [pins, settings, ("--runtime-socket", self.socket())])
    }

    /// Names of what is pinned in the directories of this name, those of every group.
    pub fn pins(&self, directory: &str) -> Vec<String> {
        let groups = Group::ALL.map(|group| self.pin_dir.join(group_directory(group)).join(directory));
        let entries = groups.iter().filter_map(|path| fs::read_dir(path).ok()).flatten();
        entries.map(|entry| entry.unwrap().file_name().to_string_lossy().into_owned()).collect()
    }

    /// Removes the pins by hand, without `enforcer`.
    pub fn remove_pins(&mut self) {
        self.daemon = None;
        fs::remove_dir_all(&self.pin_dir).unwrap();
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
            let view = enforcer::kernel::status::read(&host.pin_dir).ok()?;
            let ready = |index: &u64| {
                view.endpoints.iter().any(|endpoint| {
                    u64::from(endpoint.ifindex) == *index
                        && endpoint.is_attached()
                        && !endpoint.unknown
                        && endpoint.id != OwnerId::NONE
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

    /// Ends a process that a command on this host has left in a file, if it still is that process.
    fn end(&self, pid_file: &str) {
        let Ok(text) = fs::read_to_string(self.file(pid_file)) else { return };
        let Ok(pid) = text.trim().parse::<i32>() else { return };
        let line = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
        let own = self.directory.path().as_os_str().as_encoded_bytes();
        if line.windows(own.len()).any(|window| window == own) {
            // Fails only if it has just ended.
            let _ = kill(Pid::from_raw(pid), Signal::SIGKILL);
            let gone = Instant::now() + BOUND;
            while Path::new(&format!("/proc/{pid}/ns")).exists() && Instant::now() < gone {
                sleep(Duration::from_millis(5));
            }
        }
    }

    /// Ends podman's API service.
    pub fn stop_serving(&self) {
        self.end(shims::SERVICE_PID);
        let _ = fs::remove_file(self.socket());
    }
}

impl Default for Host {
    fn default() -> Self {
        Self::new()
    }
}

impl Drop for Host {
    /// Goes on after every failure: what is left of one step must not keep the rest.
    fn drop(&mut self) {
        self.daemon = None;
        self.end(shims::DAEMON_PID);
        let _ = enforcer::kernel::purge(&self.pin_dir);
        let mut steps = vec![vec!["pod", "rm", "-fa", "-t", "0"], vec!["rm", "-fa", "-t", "0"]];
        steps.extend(self.networks.iter().map(|name| vec!["network", "rm", "-f", name.as_str()]));
        for step in steps {
            let mut command = self.command("podman");
            let _ = command.args(&step).stdout(Stdio::null()).stderr(Stdio::null()).status();
        }
        self.stop_serving();
        unmount_below(self.directory.path());
    }
}

/// podman leaves its storage mounted on itself.
fn unmount_below(directory: &Path) {
    let mounts = fs::read_to_string("/proc/self/mounts").unwrap_or_default();
    let below = mounts.lines().filter_map(|line| line.split(' ').nth(1));
    for mount in below.filter(|at| Path::new(at).starts_with(directory)).collect::<Vec<_>>().into_iter().rev() {
        // What is busy goes with its last user.
        let _ = nix::mount::umount2(mount, nix::mount::MntFlags::MNT_DETACH);
    }
}
