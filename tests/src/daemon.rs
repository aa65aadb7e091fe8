//! Runs the real binary as a child process: starts it, waits for it, and kills it.
//!
//! Input: options. Output: a running `enforcer run`. Signals go to that child alone.

#![allow(clippy::unwrap_used, reason = "a test whose daemon cannot be handled has to stop")]

use std::fs::{File, OpenOptions};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::thread::sleep;
use std::time::{Duration, Instant};

use enforcer::kernel::status::{self, StatusView};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::cargo::program;

/// Longest wait for the daemon to do anything, on a machine that has other work too. Shorter than the 30 s after which discovery
/// looks at everything anew: what has to come by an event must not come by that.
pub const BOUND: Duration = Duration::from_secs(25);

/// The binary of this build.
pub fn binary() -> PathBuf {
    program("enforcer")
}

/// What the daemon is told.
#[derive(Clone, Debug)]
pub struct Options {
    /// `--policies`.
    pub policies: PathBuf,
    /// `--inventory`.
    pub inventory: Option<PathBuf>,
    /// `--runtime-socket` of podman.
    pub podman: Option<PathBuf>,
    /// `--unknown`.
    pub unknown: Option<&'static str>,
    /// `--flow-log`.
    pub flow_log: PathBuf,
    /// `--config`.
    pub config: PathBuf,
    /// `--pin-dir`.
    pub pin_dir: PathBuf,
    /// `--netns`.
    pub netns: PathBuf,
    /// Where stderr is appended.
    pub log: PathBuf,
}

impl Options {
    /// The command line of `enforcer run`.
    pub fn command(&self) -> Command {
        let mut command = Command::new(binary());
        command.arg("run");
        let named = [
            ("--policies", Some(&self.policies)),
            ("--inventory", self.inventory.as_ref()),
            ("--runtime-socket", self.podman.as_ref()),
            ("--flow-log", Some(&self.flow_log)),
            ("--config", Some(&self.config)),
            ("--pin-dir", Some(&self.pin_dir)),
            ("--netns", Some(&self.netns)),
        ];
        for (option, value) in named {
            if let Some(value) = value {
                command.arg(option).arg(value);
            }
        }
        if self.podman.is_some() {
            command.args(["--runtime", "podman"]);
        }
        if let Some(unknown) = self.unknown {
            command.args(["--unknown", unknown]);
        }
        command.stdin(Stdio::null()).stdout(Stdio::null());
        command
    }
}

/// A running daemon. Killed on drop.
#[derive(Debug)]
pub struct Daemon {
    child: Child,
    pin_dir: PathBuf,
    log: PathBuf,
}

impl Daemon {
    /// Starts it.
    pub fn start(options: &Options) -> Self {
        Self::spawn(options.command(), &options.pin_dir, &options.log)
    }

    /// Starts a command line of the caller's own.
    pub fn spawn(mut command: Command, pin_dir: &Path, log: &Path) -> Self {
        let file: File = OpenOptions::new().append(true).create(true).open(log).unwrap();
        let child = command.stderr(file).spawn().unwrap();
        Self { child, pin_dir: pin_dir.to_owned(), log: log.to_owned() }
    }

    /// Its process.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Fails if it has ended.
    pub fn assert_runs(&mut self) {
        if let Some(status) = self.child.try_wait().unwrap() {
            panic!("the daemon ended with {status}: {}", self.said());
        }
    }

    /// Waits until what is in force satisfies `wanted`; fails if the daemon ends before.
    pub fn wait(&mut self, what: &str, wanted: impl Fn(&StatusView) -> bool) -> StatusView {
        let end = Instant::now() + BOUND;
        loop {
            self.assert_runs();
            let view = status::read(&self.pin_dir);
            match &view {
                Ok(view) if wanted(view) => return view.clone(),
                Ok(_) | Err(_) if Instant::now() < end => sleep(Duration::from_millis(10)),
                Ok(_) | Err(_) => panic!("the daemon does not come to: {what}; there is {view:#?}; {}", self.said()),
            }
        }
    }

    /// SIGKILL.
    pub fn kill(mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }

    /// SIGTERM, and waits for the end.
    pub fn terminate(self) -> ExitStatus {
        self.signal(Signal::SIGTERM);
        self.ended()
    }

    /// Waits for the end.
    pub fn ended(mut self) -> ExitStatus {
        let end = Instant::now() + BOUND;
        loop {
            if let Some(status) = self.child.try_wait().unwrap() {
                return status;
            }
            assert!(Instant::now() < end, "the daemon does not end: {}", self.said());
            sleep(Duration::from_millis(10));
        }
    }

    /// Another signal.
    pub fn signal(&self, signal: Signal) {
        kill(Pid::from_raw(i32::try_from(self.child.id()).unwrap()), signal).unwrap();
    }

    fn said(&self) -> String {
        std::fs::read_to_string(&self.log).unwrap_or_default()
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        // Both fail only if it has ended.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
