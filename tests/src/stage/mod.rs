//! The stage of a test: a lab, the directories of a daemon, and the daemon.
//!
//! Input: a layout and workloads. Output: a [`Stage`] that removes everything on drop, also while a test fails. The next
//! stage removes what a killed run left.

#![allow(clippy::unwrap_used, reason = "a test that cannot prepare its stage has to stop")]

pub mod log;

use std::collections::BTreeMap;
use std::fs;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::thread::sleep;
use std::time::{Duration, Instant};

use enforcer::kernel::status::{self, StatusView};
use enforcer::lab::{Lab, Layout, Namespace};
use enforcer::workload::inventory::{Inventory, Match};
use enforcer_common::id::{Direction, Revision};
use enforcer_common::verdict::Reason;

use self::log::Record;
use crate::cases::Example;
use crate::daemon::{BOUND, Daemon, Options, binary};
use crate::net::wire::{Wire, device};
use crate::net::{Site, ip, lab};
use crate::packet::parts::Route;

/// Lab, directories, daemon.
pub struct Stage {
    /// Removed while the network is still there.
    site: Site,
    /// The network.
    pub lab: Lab,
    /// What the daemon is told; may be changed before it starts.
    pub options: Options,
    layout: Layout,
    hosts: BTreeMap<String, String>,
    addresses: BTreeMap<String, Vec<IpAddr>>,
    veths: usize,
    daemon: Option<Daemon>,
}

impl Stage {
    /// An empty node and outside.
    pub fn new(layout: Layout) -> Self {
        let site = Site::new();
        let policies = site.file("policies");
        fs::create_dir(&policies).unwrap();
        let lab = lab(layout);
        let options = Options {
            policies,
            inventory: Some(site.file("workloads.inventory.yaml")),
            podman: None,
            unknown: None,
            flow_log: site.file("flows.jsonl"),
            config: site.file("settings.yaml"),
            pin_dir: site.pin_dir().to_owned(),
            netns: lab.node().path().to_owned(),
            log: site.file("daemon.log"),
        };
        let stage = Self {
            lab,
            options,
            layout,
            site,
            hosts: BTreeMap::new(),
            addresses: BTreeMap::new(),
            veths: 0,
            daemon: None,
        };
        stage.settings("older_connections_seconds: 60\n");
        stage.inventory("workloads: []\n");
        stage
    }

    /// The workloads and policies of an example, and its outside addresses.
    pub fn of(layout: Layout, example: &Example) -> Self {
        let mut stage = Self::new(layout);
        for entry in Inventory::load(&example.inventory).unwrap().entries {
            let addresses: Vec<String> = entry.addresses.iter().map(ToString::to_string).collect();
            let Match::Interface(host) = &entry.matches else { panic!("{}: an example names its veths", entry.name) };
            stage.add_behind(&entry.name.to_string(), host, &addresses.iter().map(String::as_str).collect::<Vec<_>>());
        }
        stage.inventory(&fs::read_to_string(&example.inventory).unwrap());
        stage.policy(&format!("{}.yaml", example.name), &fs::read_to_string(&example.policy).unwrap());
        stage
    }

    /// Starts a workload.
    pub fn add(&mut self, name: &str, addresses: &[&str]) {
        let host = format!("veth{}", self.veths);
        self.veths += 1;
        self.add_behind(name, &host, addresses);
    }

    /// Starts a workload behind a veth of this name.
    fn add_behind(&mut self, name: &str, host: &str, addresses: &[&str]) {
        let addresses: Vec<IpAddr> = addresses.iter().map(|address| address.parse().unwrap()).collect();
        self.lab.add_workload(name, host, &addresses).unwrap();
        self.hosts.insert(name.to_owned(), host.to_owned());
        self.addresses.insert(name.to_owned(), addresses);
    }

    /// Stops a workload.
    pub fn remove(&mut self, name: &str) {
        self.lab.remove_workload(name);
        self.hosts.remove(name);
        self.addresses.remove(name);
    }

    /// Adds addresses to the outside.
    pub fn outside(&self, addresses: &[&str]) {
        for address in addresses {
            self.lab.add_outside(address.parse().unwrap()).unwrap();
        }
    }

    /// The namespace of a workload.
    pub fn at(&self, name: &str) -> &Namespace {
        self.lab.workload(name).unwrap_or_else(|| panic!("there is no workload {name}"))
    }

    /// A workload's address of a family.
    pub fn address(&self, name: &str, v4: bool) -> IpAddr {
        *self.addresses[name].iter().find(|own| own.is_ipv4() == v4).unwrap()
    }

    /// The node's end of a workload's veth.
    pub fn host(&self, name: &str) -> &str {
        &self.hosts[name]
    }

    /// Runs `ip` in a namespace.
    pub fn ip(&self, namespace: &Namespace, arguments: &str) {
        ip(namespace, arguments);
    }

    /// Hardware addresses for a frame from a workload to another, or to the node and beyond.
    pub fn route(&self, from: &str, to: Option<&str>) -> Route {
        let own = device(self.at(from), "eth0").unwrap().mac;
        let next = match (self.layout, to) {
            (Layout::Bridged, Some(to)) => device(self.at(to), "eth0"),
            (Layout::Bridged, None) => device(self.lab.node(), "br0"),
            (Layout::Routed, _) => device(self.lab.node(), self.host(from)),
        };
        Route { to: next.unwrap().mac, from: own }
    }

    /// Makes a workload's neighbours permanent, so that a claimant cannot take its traffic by answering for it.
    pub fn pin_neighbour(&self, name: &str, asking: &Namespace, device_name: &str) {
        let mac: Vec<String> =
            device(self.at(name), "eth0").unwrap().mac.iter().map(|byte| format!("{byte:02x}")).collect();
        for address in &self.addresses[name] {
            self.ip(
                asking,
                &format!("neigh replace {address} lladdr {} dev {device_name} nud permanent", mac.join(":")),
            );
        }
    }

    /// Puts a file into the policy directory, as a whole.
    pub fn policy(&self, file: &str, text: &str) {
        let path = self.options.policies.join(file);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        replace(&path, text);
    }

    /// Takes a file out of the policy directory.
    pub fn remove_policy(&self, file: &str) {
        fs::remove_file(self.options.policies.join(file)).unwrap();
    }

    /// Replaces the inventory.
    pub fn inventory(&self, text: &str) {
        if let Some(path) = &self.options.inventory {
            replace(path, text);
        }
    }

    /// Replaces the settings, apart from the state directory and the size of the flow table.
    pub fn settings(&self, text: &str) {
        self.settings_whole(&format!("flows: 16384\nflow_quota: 8192\n{text}"));
    }

    /// Replaces the settings, apart from the state directory. Nothing that opens waits unless the text says so.
    pub fn settings_whole(&self, text: &str) {
        let state = self.site.file("state");
        let waits = if text.contains("opening_wait_seconds") { "" } else { "opening_wait_seconds: 0\n" };
        replace(&self.options.config, &format!("state_dir: {}\n{waits}{text}", state.display()));
    }

    /// A file of this stage.
    pub fn file(&self, name: &str) -> PathBuf {
        self.site.file(name)
    }

    /// Starts the daemon and waits until it has everything attached.
    pub fn start(&mut self) {
        self.start_only();
        self.ready();
    }

    /// Starts the daemon.
    pub fn start_only(&mut self) {
        assert!(self.daemon.is_none(), "there is a daemon");
        let daemon = Daemon::start(&self.options);
        fs::write(self.file("daemon.pid"), daemon.pid().to_string()).unwrap();
        self.daemon = Some(daemon);
    }

    /// Waits until every workload of the lab is attached, and no other.
    pub fn ready(&mut self) {
        let count = self.hosts.len();
        self.wait("every workload attached", |view| {
            view.daemon
                && view.word.revision > Revision::NONE
                && view.endpoints.len() == count
                && view.endpoints.iter().all(status::EndpointView::is_attached)
        });
        // The report that names them comes within a second; records are named at once.
    }

    /// Waits until what is in force is as wanted.
    pub fn wait(&mut self, what: &str, wanted: impl Fn(&StatusView) -> bool) -> StatusView {
        self.daemon.as_mut().expect("there is a daemon").wait(what, wanted)
    }

    /// Waits until a condition of the test holds.
    pub fn until(&self, what: &str, mut holds: impl FnMut() -> bool) {
        let end = Instant::now() + BOUND;
        while !holds() {
            assert!(Instant::now() < end, "it does not come to: {what}");
            sleep(Duration::from_millis(10));
        }
    }

    /// The daemon.
    pub fn daemon(&self) -> &Daemon {
        self.daemon.as_ref().expect("there is a daemon")
    }

    /// SIGKILL.
    pub fn kill(&mut self) {
        self.daemon.take().expect("there is a daemon").kill();
    }

    /// SIGTERM.
    pub fn terminate(&mut self) {
        let status = self.daemon.take().expect("there is a daemon").terminate();
        assert!(status.success(), "told to stop it ended with {status}");
    }

    /// Waits until the daemon ends by itself, and gives its exit code.
    pub fn ended(&mut self) -> Option<i32> {
        self.daemon.take().expect("there is a daemon").ended().code()
    }

    /// What is in force, read from the pins.
    pub fn view(&self) -> StatusView {
        status::read(&self.options.pin_dir).unwrap()
    }

    /// Denied packets of a direction and reason so far.
    pub fn denied(&self, direction: Direction, reason: Reason) -> u64 {
        let counts = self.view().denied.get(&(direction, reason)).copied().unwrap_or_default();
        counts.logged + counts.suppressed + counts.lost
    }

    /// The host side's index of a workload's veth.
    pub fn ifindex(&self, name: &str) -> u32 {
        device(self.lab.node(), self.host(name)).unwrap().index
    }

    /// Another command of the binary on this stage's pins.
    pub fn command(&self, name: &str, arguments: &[&str]) -> Output {
        let mut command = Command::new(binary());
        command.arg(name).arg("--pin-dir").arg(&self.options.pin_dir).arg("--config").arg(&self.options.config);
        command.args(arguments).output().unwrap()
    }

    /// `status --json`: the object and the exit code.
    pub fn status(&self) -> (serde_json::Value, i32) {
        let output = self.command("status", &["--json"]);
        let value = serde_json::from_slice(&output.stdout)
            .unwrap_or_else(|error| panic!("status: {error}: {}", String::from_utf8_lossy(&output.stderr)));
        (value, output.status.code().unwrap())
    }

    /// The flow log so far.
    pub fn log(&self) -> Vec<Record> {
        log::read(&self.options.flow_log)
    }

    /// Waits for a record.
    pub fn wait_record(&self, what: &str, wanted: impl Fn(&Record) -> bool) -> Record {
        let end = Instant::now() + BOUND;
        loop {
            if let Some(found) = self.log().into_iter().find(&wanted) {
                return found;
            }
            assert!(Instant::now() < end, "no record of {what} in {:#?}", self.log());
            sleep(Duration::from_millis(20));
        }
    }

    /// A tap on a workload.
    pub fn tap(&self, name: &str) -> Wire {
        Wire::tap(self.at(name), |_| true).unwrap()
    }
}

impl Drop for Stage {
    fn drop(&mut self) {
        self.daemon = None;
        if std::thread::panicking() {
            let said = fs::read_to_string(&self.options.log).unwrap_or_default();
            eprintln!("the daemon said:\n{said}");
        }
    }
}

fn replace(path: &Path, text: &str) {
    let beside = path.with_extension("new");
    fs::write(&beside, text).unwrap();
    fs::rename(&beside, path).unwrap();
}
