//! Measures the daemon itself: its start, its cost while nothing happens, and the time from a changed file to the kernel
//! (README.md, "What it costs").
//!
//! Input: how many workloads, policy files and inventory entries a node has. Output: times and sizes of a real daemon on a
//! network of its own. Time of a change is counted from the new file's name to the line in which the daemon says that the change
//! is in force. It includes the tenth of a second for which the daemon waits for further changes.

use std::fmt::Write as _;
use std::fs;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::path::Path;
use std::thread::sleep;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use enforcer::lab::Layout;
use nix::time::{ClockId, clock_gettime};
use nix::unistd::Pid;
use serde::Serialize;

use crate::daemon::binary;
use crate::stage::Stage;

/// How long a daemon at rest is measured.
const REST: Duration = Duration::from_mins(1);
/// What the daemon does after its start goes on for so long: addresses settle after ten seconds.
const SETTLED: Duration = Duration::from_secs(15);
/// Changes of one kind that are timed.
const TIMED: u32 = 10;
/// Longest wait for anything.
const BOUND: Duration = Duration::from_mins(1);
/// What the daemon says when a change is in force.
const IN_FORCE: &str = "are in force";
/// A port on which each app is reached; a changed policy names one of those behind it.
const PORT: usize = 8080;

/// What a node has.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct Scale {
    /// Workloads on the node.
    pub workloads: usize,
    /// Policy files, each with one policy.
    pub policies: usize,
    /// Entries of the inventory, the workloads of the node among them.
    pub entries: usize,
}

impl Scale {
    /// A small node, one of a large cluster, and one with many workloads.
    pub const ALL: [Self; 3] = [
        Self { workloads: 30, policies: 10, entries: 30 },
        Self { workloads: 30, policies: 1_000, entries: 10_000 },
        Self { workloads: 250, policies: 1_000, entries: 10_000 },
    ];
}

/// What was measured.
#[derive(Debug, Serialize)]
pub struct Control {
    /// The node.
    pub scale: Scale,
    /// From the command to the first image in force.
    pub start_ms: f64,
    /// Resident memory after the start.
    pub start_mib: f64,
    /// Share of one processor while nothing happens, in percent.
    pub at_rest_percent: f64,
    /// One policy file replaced.
    pub policy: Change,
    /// One entry of the inventory changed.
    pub entry: Change,
    /// Start of the next daemon over what is in force.
    pub restart_ms: f64,
    /// Resident memory after a tenth of the changes, and after all of them.
    pub changes: usize,
    /// After a tenth of them.
    pub early_mib: f64,
    /// After all.
    pub late_mib: f64,
}

/// The cost of one change.
#[derive(Debug, Serialize)]
pub struct Change {
    /// Median time until it is in force.
    pub median_ms: f64,
    /// The longest.
    pub worst_ms: f64,
    /// Processor time of one, with all that comes behind it.
    pub cpu_ms: f64,
}

/// A stage, and how much of the daemon's log has been read.
struct Measured {
    stage: Stage,
    scale: Scale,
    read: usize,
}

/// Measures a node. `changes`: how many changes follow each other before the memory is read last.
pub fn control(scale: Scale, changes: usize) -> Result<Control> {
    let mut measured = Measured::new(scale)?;
    let start = measured.start("")?;
    sleep(SETTLED);
    let start_mib = measured.resident_mib()?;
    let before = measured.cpu()?;
    sleep(REST);
    let at_rest = measured.cpu()?.saturating_sub(before).as_secs_f64() / REST.as_secs_f64();
    let policy = measured.changes(Duration::from_secs(4), |measured, step| measured.policy(7, PORT + 1 + step % 2))?;
    let entry = measured.changes(Duration::from_secs(1), |measured, step| measured.inventory(step + 1))?;
    measured.stage.terminate();
    // What a change opens is in force at once here, so that each change is one.
    let restart = measured.start("opening_wait_seconds: 0\n")?;
    let mut early_mib = 0.0;
    for step in 0..changes {
        measured.change(|measured| {
            if step % 2 == 0 { measured.policy(7, PORT + 1 + step / 2 % 2) } else { measured.inventory(step) }
        })?;
        if step == changes / 10 {
            early_mib = measured.resident_mib()?;
        }
    }
    let late_mib = measured.resident_mib()?;
    measured.stage.terminate();
    Ok(Control {
        scale,
        start_ms: millis(start),
        start_mib,
        at_rest_percent: 100.0 * at_rest,
        policy,
        entry,
        restart_ms: millis(restart),
        changes,
        early_mib,
        late_mib,
    })
}

impl Measured {
    fn new(scale: Scale) -> Result<Self> {
        // Building it is no part of its start.
        binary();
        let mut stage = Stage::new(Layout::Bridged);
        for number in 0..scale.workloads {
            let [v4, v6] = addresses(number)?.map(|address| address.to_string());
            stage.add(&format!("w{number}"), &[&v4, &v6]);
        }
        let measured = Self { stage, scale, read: 0 };
        for number in 0..scale.policies {
            measured.policy(number, PORT);
        }
        measured.inventory(0);
        Ok(measured)
    }

    /// Starts the daemon; `settings` are those of this run.
    fn start(&mut self, settings: &str) -> Result<Duration> {
        let waits = if settings.is_empty() { "opening_wait_seconds: 3\n" } else { settings };
        self.stage.settings_whole(waits);
        let begin = Instant::now();
        self.stage.start_only();
        self.in_force()?;
        Ok(begin.elapsed())
    }

    /// One policy lets the next app come in on a port.
    fn policy(&self, number: usize, port: usize) {
        let (from, to) = ((number + 1) % self.scale.policies, (number + 2) % self.scale.policies);
        let text = format!(
            "apiVersion: networking.k8s.io/v1\nkind: NetworkPolicy\nmetadata:\n  name: app-{number}\nspec:\n  podSelector:\n    \
             matchLabels:\n      app: a{number}\n  policyTypes: [Ingress, Egress]\n  ingress:\n    - from:\n        - \
             podSelector: {{matchLabels: {{app: a{from}}}}}\n      ports: [{{port: {port}}}]\n  egress:\n    - to:\n        - \
             podSelector: {{matchLabels: {{app: a{to}}}}}\n      ports: [{{port: {port}}}]\n"
        );
        self.stage.policy(&format!("app-{number}.yaml"), &text);
    }

    /// The inventory after so many changes: each moves the last entry to another app that a workload of the node may reach.
    fn inventory(&self, step: usize) {
        let mut text = "workloads:\n".to_owned();
        for number in 0..self.scale.entries {
            let app = if number + 1 == self.scale.entries { step % 5 } else { number % self.scale.policies };
            let found = if number < self.scale.workloads {
                let at = self.stage.at(&format!("w{number}")).path();
                format!("netns: {}", at.display())
            } else {
                let [v4, v6] = addresses(number).unwrap_or([IpAddr::V4(Ipv4Addr::UNSPECIFIED); 2]);
                format!("address: [{v4}, \"{v6}\"]")
            };
            // Cannot fail: it writes to memory.
            let _ = writeln!(text, "  - name: w{number}\n    labels: {{app: a{app}}}\n    match: {{{found}}}");
        }
        self.stage.inventory(&text);
    }

    /// Makes changes of one kind, with pauses behind them.
    fn changes(&mut self, pause: Duration, mut change: impl FnMut(&Self, usize)) -> Result<Change> {
        let mut times = Vec::new();
        let before = self.cpu()?;
        for step in 0..TIMED as usize {
            times.push(millis(self.change(|measured| change(measured, step))?));
            sleep(pause);
            self.skip()?;
        }
        let cpu = self.cpu()?.saturating_sub(before);
        times.sort_by(f64::total_cmp);
        Ok(Change { median_ms: times[times.len() / 2], worst_ms: times[times.len() - 1], cpu_ms: millis(cpu / TIMED) })
    }

    /// The time until a change is in force.
    fn change(&mut self, change: impl FnOnce(&Self)) -> Result<Duration> {
        change(self);
        // The file has its name now; writing it costs the writer.
        let begin = Instant::now();
        self.in_force()?;
        Ok(begin.elapsed())
    }

    /// Waits until the daemon says once more that something is in force.
    fn in_force(&mut self) -> Result<()> {
        let end = Instant::now() + BOUND;
        loop {
            let log = self.log()?;
            if let Some(at) = log[self.read..].find(IN_FORCE) {
                self.read += at + IN_FORCE.len();
                return Ok(());
            }
            ensure!(Instant::now() < end, "the daemon does not bring a change in force: {log}");
            sleep(Duration::from_millis(2));
        }
    }

    /// Leaves out what the daemon has said up to now.
    fn skip(&mut self) -> Result<()> {
        self.read = self.log()?.len();
        Ok(())
    }

    fn log(&self) -> Result<String> {
        Ok(fs::read_to_string(&self.stage.options.log)?)
    }

    /// Processor time of the daemon so far.
    fn cpu(&self) -> Result<Duration> {
        let pid = Pid::from_raw(i32::try_from(self.stage.daemon().pid())?);
        Ok(clock_gettime(ClockId::pid_cpu_clock_id(pid)?)?.into())
    }

    fn resident_mib(&self) -> Result<f64> {
        let status = fs::read_to_string(Path::new("/proc").join(self.stage.daemon().pid().to_string()).join("status"))?;
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).context("VmRSS")?;
        let kib: f64 = line.trim().trim_end_matches(" kB").parse()?;
        Ok(kib / 1024.0)
    }
}

/// Addresses of an entry: those of the workloads lie on the bridge.
fn addresses(number: usize) -> Result<[IpAddr; 2]> {
    let number = u32::try_from(number)? + 256;
    let (v4, v6) = (u32::from(Ipv4Addr::new(10, 88, 0, 0)), u128::from(Ipv6Addr::new(0xfd00, 0x88, 0, 0, 0, 0, 0, 0)));
    Ok([Ipv4Addr::from(v4 + number).into(), Ipv6Addr::from(v6 + u128::from(number)).into()])
}

fn millis(time: Duration) -> f64 {
    1e3 * time.as_secs_f64()
}
