//! Sets up the demo's namespaces, runs the daemon, tries the connections, and removes everything, also after a failure.
//!
//! Input: the example policies and inventory. Output: a row of the demo's table for each connection.

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;
use std::fs;
use std::io::{BufRead, BufReader};
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::sleep;
use std::time::{Duration, Instant};

use anyhow::{Context, bail, ensure};
use enforcer_common::id::{Direction, Revision};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use super::table::Row;
use crate::kernel::{self, status};
use crate::lab::{Lab, Layout, Namespace};
use crate::policy::model::Transport;
use crate::policy::source::directory::load;
use crate::resolve::{DecidedBy, ResolvedPolicy, Service, resolve};
use crate::workload::inventory::{Inventory, Match};
use crate::workload::model::WorkloadName;
use crate::workload::offline;

const POLICIES: &str = include_str!("../../../../policies/shop.yaml");
const INVENTORY: &str = include_str!("../../../../policies/shop.inventory.yaml");
const OUTSIDE: [&str; 2] = ["192.0.2.7", "2001:db8::7"];
const OUTSIDE_NAME: &str = "the outside";

/// What is tried: who, whom, which TCP port.
const TRIES: [(&str, &str, u16); 7] = [
    (OUTSIDE_NAME, "shop/web", 8080),
    (OUTSIDE_NAME, "shop/db", 5432),
    ("shop/web", "shop/api", 8081),
    ("shop/web", "shop/db", 5432),
    ("shop/api", "shop/db", 5432),
    ("shop/api", "shop/db", 22),
    ("shop/db", OUTSIDE_NAME, 443),
];

/// A connection that policy denies has not come about after this long: everything is on one machine.
const PATIENCE: Duration = Duration::from_millis(400);
/// How long a connection that should come about may take, on a machine that has other work too.
const COMES: Duration = Duration::from_secs(10);
/// How long the daemon may take to have everything attached, and the log to have what was denied.
const READY: Duration = Duration::from_mins(1);

/// Everything that the demo makes.
pub(super) struct Shop {
    directory: PathBuf,
    pin_dir: PathBuf,
    lab: Option<Lab>,
    daemon: Option<Child>,
    show_log: bool,
    interrupted: Arc<AtomicBool>,
}

/// Ends the demo early.
pub(super) struct StopHandle(Arc<AtomicBool>);

impl StopHandle {
    pub(super) fn interrupt(&self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

impl Shop {
    /// Makes the directories, after removing what a killed demo left.
    pub(super) fn prepare(show_log: bool) -> anyhow::Result<Self> {
        ensure!(
            nix::unistd::geteuid().is_root(),
            "the demo makes network namespaces and loads programs, so it needs root"
        );
        remove_leftovers();
        let name = format!("enforcer-demo-{}", std::process::id());
        let shop = Self {
            directory: Path::new("/run").join(&name),
            pin_dir: Path::new("/sys/fs/bpf").join(&name),
            lab: None,
            daemon: None,
            show_log,
            interrupted: Arc::default(),
        };
        fs::create_dir(&shop.directory)?;
        fs::create_dir(shop.policies())?;
        fs::write(shop.policies().join("shop.yaml"), POLICIES)?;
        fs::write(shop.inventory(), INVENTORY)?;
        let settings =
            format!("state_dir: {}\nflows: 16384\nflow_quota: 4096\n", shop.directory.join("state").display());
        fs::write(shop.settings(), settings)?;
        Ok(shop)
    }

    pub(super) fn stop_handle(&self) -> StopHandle {
        StopHandle(Arc::clone(&self.interrupted))
    }

    fn policies(&self) -> PathBuf {
        self.directory.join("policies")
    }

    fn inventory(&self) -> PathBuf {
        self.directory.join("shop.inventory.yaml")
    }

    fn settings(&self) -> PathBuf {
        self.directory.join("settings.yaml")
    }

    fn flow_log(&self) -> PathBuf {
        self.directory.join("flows.jsonl")
    }

    /// Builds the shop, enforces, tries, and reports.
    pub(super) fn serve(&mut self) -> anyhow::Result<Vec<Row>> {
        let inventory = Inventory::load(&self.inventory())?;
        let addresses: BTreeMap<String, Vec<IpAddr>> = inventory
            .entries
            .iter()
            .map(|entry| (entry.name.to_string(), entry.addresses.iter().copied().collect()))
            .chain([(OUTSIDE_NAME.to_owned(), OUTSIDE.iter().filter_map(|text| text.parse().ok()).collect())])
            .collect();
        self.build(&inventory, &addresses)?;
        let _services = self.listen(&addresses)?;
        for (from, to, port) in TRIES {
            let connected = self.connect(from, to, port, &addresses, COMES)?;
            ensure!(
                connected == 2,
                "{from} cannot reach {to}:{port} even without enforcement, so the demo would prove nothing"
            );
        }
        self.start_daemon(inventory.entries.len())?;

        let resolved = resolve(load(&self.policies())?.set, Arc::new(offline::snapshot(&inventory)));
        let mut rows = Vec::new();
        for (from, to, port) in TRIES {
            let allowed_by = allowed_by(&resolved, from, to, port, &addresses);
            let patience = if allowed_by.is_some() { COMES } else { PATIENCE };
            let connected = self.connect(from, to, port, &addresses, patience)?;
            rows.push(Row {
                from: from.to_owned(),
                to: format!("{to}:{port}/tcp"),
                connected: (connected, 2),
                denied: (0, String::new()),
                allowed_by,
            });
        }
        self.read_log(&mut rows, &addresses)?;
        Ok(rows)
    }

    fn build(&mut self, inventory: &Inventory, addresses: &BTreeMap<String, Vec<IpAddr>>) -> anyhow::Result<()> {
        let lab = self.lab.insert(Lab::new(Layout::Bridged)?);
        for entry in &inventory.entries {
            let name = entry.name.to_string();
            let Match::Interface(host) = &entry.matches else { bail!("the demo's inventory names no veth for {name}") };
            lab.add_workload(&name, host, &addresses[&name])?;
        }
        for address in &addresses[OUTSIDE_NAME] {
            lab.add_outside(*address)?;
        }
        Ok(())
    }

    fn place(&self, name: &str) -> anyhow::Result<&Namespace> {
        let lab = self.lab.as_ref().context("the demo's namespaces do not exist")?;
        if name == OUTSIDE_NAME {
            Ok(lab.outside())
        } else {
            lab.workload(name).context("the demo has no such workload")
        }
    }

    fn listen(&self, addresses: &BTreeMap<String, Vec<IpAddr>>) -> anyhow::Result<Vec<TcpListener>> {
        let mut listeners = BTreeMap::new();
        for (_, to, port) in TRIES {
            for address in &addresses[to] {
                if let Entry::Vacant(free) = listeners.entry((address, port)) {
                    free.insert(self.place(to)?.enter(|| TcpListener::bind((*address, port)))??);
                }
            }
        }
        Ok(listeners.into_values().collect())
    }

    /// Of both families: how many connections came about. Each comes from the first address of its family.
    fn connect(
        &self,
        from: &str,
        to: &str,
        port: u16,
        addresses: &BTreeMap<String, Vec<IpAddr>>,
        patience: Duration,
    ) -> anyhow::Result<usize> {
        ensure!(!self.interrupted.load(Ordering::Relaxed), "the demo was interrupted");
        let mut connected = 0;
        for address in &addresses[to] {
            let target = SocketAddr::new(*address, port);
            connected +=
                usize::from(self.place(from)?.enter(|| TcpStream::connect_timeout(&target, patience))?.is_ok());
        }
        Ok(connected)
    }

    fn start_daemon(&mut self, workloads: usize) -> anyhow::Result<()> {
        let node = self.lab.as_ref().context("the demo's namespaces do not exist")?.node().path().to_owned();
        let mut command = Command::new(std::env::current_exe()?);
        command.arg("run");
        for (option, value) in [
            ("--policies", self.policies()),
            ("--inventory", self.inventory()),
            ("--flow-log", self.flow_log()),
            ("--config", self.settings()),
            ("--pin-dir", self.pin_dir.clone()),
            ("--netns", node),
        ] {
            command.arg(option).arg(value);
        }
        let log = self.directory.join("daemon.log");
        command.stdin(Stdio::null()).stdout(Stdio::null());
        if !self.show_log {
            command.stderr(fs::File::create(&log)?);
        }
        let daemon = self.daemon.insert(command.spawn()?);
        fs::write(self.directory.join("daemon.pid"), daemon.id().to_string())?;
        let deadline = Instant::now() + READY;
        loop {
            if let Some(status) = daemon.try_wait()? {
                bail!("the daemon ended with {status}:\n{}", fs::read_to_string(&log).unwrap_or_default());
            }
            let attached = status::read(&self.pin_dir).map_or(0, |view| {
                if view.word.revision == Revision::NONE {
                    0
                } else {
                    view.endpoints.iter().filter(|endpoint| endpoint.is_attached()).count()
                }
            });
            if attached == workloads {
                return Ok(());
            }
            ensure!(
                Instant::now() < deadline,
                "the daemon attached to {attached} of {workloads} veths within {READY:?}"
            );
            ensure!(!self.interrupted.load(Ordering::Relaxed), "the demo was interrupted");
            sleep(Duration::from_millis(10));
        }
    }

    /// Reads what was denied from the flow log, until it has as much as the connections say, or nobody writes it any more.
    fn read_log(&mut self, rows: &mut [Row], addresses: &BTreeMap<String, Vec<IpAddr>>) -> anyhow::Result<()> {
        let wanted: usize = rows.iter().map(|row| row.connected.1 - row.connected.0).sum();
        let mut deadline = Instant::now() + READY;
        loop {
            if let Some(daemon) = &mut self.daemon
                && daemon.try_wait()?.is_some()
            {
                // Not at once: an interrupt ends the daemon as well, and may be heard there first.
                deadline = deadline.min(Instant::now() + Duration::from_secs(1));
            }
            let records = records(&self.flow_log());
            for (row, (_, to, port)) in rows.iter_mut().zip(TRIES) {
                let hits: Vec<&Record> = records
                    .iter()
                    .filter(|record| {
                        record.port == port
                            && addresses[to].contains(&record.destination)
                            && addresses[row.from.as_str()].iter().any(|address| record.is_from(*address))
                    })
                    .collect();
                let families = [true, false].map(|v4| hits.iter().any(|hit| hit.destination.is_ipv4() == v4));
                let text = hits.first().map_or_else(String::new, |hit| hit.text.clone());
                row.denied = (families.iter().filter(|found| **found).count(), text);
            }
            let found: usize = rows.iter().map(|row| row.denied.0).sum();
            if found >= wanted || Instant::now() > deadline {
                return Ok(());
            }
            ensure!(!self.interrupted.load(Ordering::Relaxed), "the demo was interrupted");
            sleep(Duration::from_millis(50));
        }
    }
}

impl Drop for Shop {
    fn drop(&mut self) {
        if let Some(mut daemon) = self.daemon.take() {
            stop(&mut daemon);
        }
        for error in kernel::purge(&self.pin_dir).err().unwrap_or_default() {
            tracing::warn!(%error, "the demo could not remove a pin");
        }
        self.lab = None;
        if let Err(error) = fs::remove_dir_all(&self.directory) {
            tracing::warn!(%error, directory = %self.directory.display(), "the demo could not remove its directory");
        }
    }
}

fn stop(daemon: &mut Child) {
    if let Ok(pid) = i32::try_from(daemon.id()) {
        // Fails only if it is gone.
        let _ = kill(Pid::from_raw(pid), Signal::SIGTERM);
    }
    let deadline = Instant::now() + Duration::from_secs(5);
    while Instant::now() < deadline {
        if matches!(daemon.try_wait(), Ok(Some(_)) | Err(_)) {
            return;
        }
        sleep(Duration::from_millis(10));
    }
    let _ = daemon.kill();
    let _ = daemon.wait();
}

/// Ends the daemons of demos that were killed, and removes their pins and directories.
fn remove_leftovers() {
    let Ok(entries) = fs::read_dir("/run") else { return };
    for entry in entries.flatten() {
        let name = entry.file_name();
        let Some(owner) = name.to_str().and_then(|name| name.strip_prefix("enforcer-demo-")) else { continue };
        if owner.parse::<u32>().is_err() || Path::new("/proc").join(owner).exists() {
            continue;
        }
        let pin_dir = Path::new("/sys/fs/bpf").join(&name);
        let daemon = fs::read_to_string(entry.path().join("daemon.pid")).ok().and_then(|pid| pid.trim().parse().ok());
        if let Some(pid) = daemon {
            let arguments = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
            let ours =
                arguments.split(|byte| *byte == 0).any(|argument| argument == pin_dir.as_os_str().as_encoded_bytes());
            if ours && kill(Pid::from_raw(pid), Signal::SIGKILL).is_ok() {
                sleep(Duration::from_millis(100));
            }
        }
        // What cannot be removed now is tried again by the next demo.
        let _ = kernel::purge(&pin_dir);
        let _ = fs::remove_dir_all(entry.path());
    }
}

/// The rule that lets the flow in at its destination, or out at its source where nobody judges it there.
fn allowed_by(
    resolved: &ResolvedPolicy,
    from: &str,
    to: &str,
    port: u16,
    addresses: &BTreeMap<String, Vec<IpAddr>>,
) -> Option<String> {
    let service = Service::Transport(Transport::Tcp, port);
    let mut deciding = None;
    for (direction, own, peer) in [(Direction::Egress, from, to), (Direction::Ingress, to, from)] {
        let name = own
            .split_once('/')
            .map(|(namespace, name)| WorkloadName { namespace: namespace.to_owned(), name: name.to_owned() });
        let holder = resolved.snapshot().local.iter().find(|(_, local)| {
            name.is_some() && local.identity.as_ref().map(|identity| &identity.name) == name.as_ref()
        });
        let Some((key, _)) = holder else { continue };
        match resolved.decide(*key, direction, *addresses[peer].first()?, service).by {
            DecidedBy::Rule(rule) => {
                let policy = resolved.policies().policy(rule.policy)?;
                let line = &resolved.policies().rule(rule)?.at;
                deciding = Some(format!("{}/{} {line}", policy.namespace, policy.name));
            }
            DecidedBy::Isolated { .. } => return None,
            DecidedBy::NotIsolated | DecidedBy::Itself => {}
        }
    }
    deciding
}

/// A line of the flow log, as far as the table needs it.
struct Record {
    source: IpAddr,
    destination: IpAddr,
    port: u16,
    text: String,
}

impl Record {
    fn is_from(&self, address: IpAddr) -> bool {
        // The outside has several addresses of its own; which one it sends from is its choice.
        self.source == address
            || (OUTSIDE.iter().any(|outside| outside.parse() == Ok(address)) && is_outside(self.source))
    }
}

fn is_outside(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(v4) => v4.octets()[0] != 10,
        IpAddr::V6(v6) => v6.segments()[..2] != [0xfd00, 0x88],
    }
}

fn records(path: &Path) -> Vec<Record> {
    let Ok(file) = fs::File::open(path) else { return Vec::new() };
    BufReader::new(file).lines().map_while(Result::ok).filter_map(|line| record(&line)).collect()
}

fn record(line: &str) -> Option<Record> {
    let line: serde_json::Value = serde_json::from_str(line).ok()?;
    let flow = line.get("flow")?;
    let address = |side: &str| flow.get("IP")?.get(side)?.as_str()?.parse().ok();
    let log = flow.get("policy_log")?.as_array()?;
    let place = log.first()?.as_str()?;
    let reason = log.iter().find_map(|part| part.as_str()?.strip_prefix("reason="))?;
    Some(Record {
        source: address("source")?,
        destination: address("destination")?,
        port: u16::try_from(flow.get("l4")?.get("TCP")?.get("destination_port")?.as_u64()?).ok()?,
        text: format!("{reason}: {place}"),
    })
}
