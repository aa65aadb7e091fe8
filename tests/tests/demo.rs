//! Runs `enforcer demo` as a user does. It must show what it promises and leave nothing behind, however it ends.

#![allow(clippy::unwrap_used, reason = "a failed step ends the test")]
#![allow(clippy::print_stdout, reason = "the time that the demo takes is for whoever reads the log")]

use std::fs;
use std::io::Read;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::thread::sleep;
use std::time::{Duration, Instant};

use enforcer_tests::daemon::{BOUND, binary};
use nix::sys::signal::{Signal, kill, killpg};
use nix::unistd::Pid;

/// A demo in a process group of its own, as a terminal makes one. Killed on drop.
struct Demo {
    child: Child,
}

impl Demo {
    fn start() -> Self {
        let mut command = Command::new(binary());
        command.arg("demo").stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        Self { child: command.process_group(0).spawn().unwrap() }
    }

    fn pid(&self) -> Pid {
        Pid::from_raw(i32::try_from(self.child.id()).unwrap())
    }

    fn directory(&self) -> PathBuf {
        Path::new("/run").join(format!("enforcer-demo-{}", self.child.id()))
    }

    fn pins(&self) -> PathBuf {
        Path::new("/sys/fs/bpf").join(format!("enforcer-demo-{}", self.child.id()))
    }

    /// Waits for a moment in its life.
    fn until(&mut self, moment: Moment) {
        let end = Instant::now() + BOUND;
        while !moment.has_come(self) {
            assert!(self.child.try_wait().unwrap().is_none(), "the demo ended before {moment:?}");
            assert!(Instant::now() < end, "{moment:?} does not come");
            sleep(Duration::from_millis(1));
        }
    }

    /// Waits for its end: status, stdout, stderr.
    fn end(&mut self) -> (ExitStatus, String, String) {
        let end = Instant::now() + 3 * BOUND;
        let status = loop {
            if let Some(status) = self.child.try_wait().unwrap() {
                break status;
            }
            assert!(Instant::now() < end, "the demo does not end");
            sleep(Duration::from_millis(10));
        };
        let mut texts = [String::new(), String::new()];
        self.child.stdout.take().unwrap().read_to_string(&mut texts[0]).unwrap();
        self.child.stderr.take().unwrap().read_to_string(&mut texts[1]).unwrap();
        let [out, err] = texts;
        (status, out, err)
    }

    /// Everything on this machine that bears its process id: directories, pins, namespaces, processes.
    fn left(&self) -> Vec<String> {
        let mut left: Vec<String> = [self.directory(), self.pins()]
            .iter()
            .filter(|path| path.exists())
            .map(|path| path.display().to_string())
            .collect();
        let prefix = format!("enf-{}-", self.child.id());
        let namespaces = fs::read_dir("/run/netns").into_iter().flatten().flatten();
        left.extend(
            namespaces.map(|entry| entry.file_name().to_string_lossy().into_owned()).filter(|n| n.starts_with(&prefix)),
        );
        left.extend(self.daemons().iter().map(|pid| format!("process {pid}")));
        left
    }

    /// Its daemon: the child that was told its pin directory.
    fn daemon(&self) -> Pid {
        let own = format!("PPid:\t{}", self.child.id());
        let is_child = |pid: &String| {
            let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
            status.lines().any(|line| line == own)
        };
        let end = Instant::now() + BOUND;
        loop {
            if let Some(pid) = self.daemons().into_iter().find(is_child) {
                return Pid::from_raw(pid.parse().unwrap());
            }
            assert!(Instant::now() < end, "the demo has no daemon");
            sleep(Duration::from_millis(1));
        }
    }

    /// Processes that were told its pin directory.
    fn daemons(&self) -> Vec<String> {
        let pins = self.pins();
        let processes = fs::read_dir("/proc").unwrap().flatten();
        let pids = processes.map(|entry| entry.file_name().to_string_lossy().into_owned());
        pids.filter(|pid| {
            let line = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
            line.split(|byte| *byte == 0).any(|part| part == pins.as_os_str().as_encoded_bytes())
        })
        .collect()
    }
}

impl Drop for Demo {
    fn drop(&mut self) {
        // Both fail only if it has ended. Not the group: that is gone by then, and its number may be another's.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// When a signal comes.
#[derive(Clone, Copy, Debug)]
enum Moment {
    /// Its directory is made, its network is not.
    Prepared,
    /// Its network is being built.
    Building,
    /// Its daemon is starting.
    Starting,
    /// Connections are denied.
    Denying,
}

const MOMENTS: [Moment; 4] = [Moment::Prepared, Moment::Building, Moment::Starting, Moment::Denying];

impl Moment {
    fn has_come(self, demo: &Demo) -> bool {
        match self {
            Self::Prepared => demo.directory().join("settings.yaml").exists(),
            Self::Building => demo.left().iter().any(|name| name.starts_with("enf-")),
            Self::Starting => demo.pins().exists(),
            Self::Denying => {
                fs::metadata(demo.directory().join("flows.jsonl")).is_ok_and(|metadata| metadata.len() > 0)
            }
        }
    }
}

#[test]
fn it_shows_what_was_allowed_and_denied_by_which_line_and_leaves_nothing() {
    let start = Instant::now();
    let mut demo = Demo::start();
    let (status, out, err) = demo.end();
    println!("the demo took {:.1} s", start.elapsed().as_secs_f32());
    assert_eq!(status.code(), Some(0), "{out}{err}");
    let rows = |verdict: &str| {
        let lines = out.lines().filter(|line| line.contains(verdict));
        lines.map(str::to_owned).collect::<Vec<_>>()
    };
    let (allowed, denied) = (rows(" allowed "), rows(" DENIED "));
    assert_eq!((allowed.len(), denied.len()), (3, 4), "{out}");
    for line in allowed.iter().chain(&denied) {
        let place = line.split_whitespace().last().unwrap();
        let number = place.strip_prefix("shop.yaml:").unwrap_or_default().parse::<u32>();
        assert!(number.is_ok(), "{line}");
    }
    assert!(denied.iter().all(|line| line.contains(" no-rule: shop/")), "{denied:#?}");
    assert!(out.contains("7 of 7 as the policies say") && !out.contains("MISMATCH"), "{out}");
    assert_eq!(demo.left(), [""; 0]);
}

#[test]
fn an_interrupt_at_any_moment_leaves_nothing() {
    for moment in MOMENTS {
        let mut demo = Demo::start();
        demo.until(moment);
        // As Ctrl-C does it: to everybody in the terminal, the daemon too.
        killpg(demo.pid(), Signal::SIGINT).unwrap();
        ended_early(&mut demo, moment);
    }
}

#[test]
fn a_termination_at_any_moment_leaves_nothing() {
    for moment in MOMENTS {
        let mut demo = Demo::start();
        demo.until(moment);
        kill(demo.pid(), Signal::SIGTERM).unwrap();
        ended_early(&mut demo, moment);
    }
}

fn ended_early(demo: &mut Demo, moment: Moment) {
    let (status, out, err) = demo.end();
    assert_eq!(status.code(), Some(2), "{moment:?}: {out}{err}");
    assert!(err.contains("everything that it made is removed"), "{moment:?}: {err}");
    assert_eq!(demo.left(), [""; 0], "{moment:?}");
}

#[test]
fn a_daemon_that_is_killed_ends_it_with_an_error_and_leaves_nothing() {
    for moment in [Moment::Starting, Moment::Denying] {
        let mut demo = Demo::start();
        demo.until(moment);
        let daemon = demo.daemon();
        kill(daemon, Signal::SIGKILL).unwrap();
        let (status, out, err) = demo.end();
        assert!(status.code().is_some_and(|code| code != 0), "{moment:?}: {status}: {out}{err}");
        // Without its daemon it cannot begin, or its connections and the flow log do not say what they should.
        let told = err.contains("everything that it made is removed") || out.contains("MISMATCH");
        assert!(told && !out.contains("7 of 7"), "{moment:?}: {out}{err}");
        assert_eq!(demo.left(), [""; 0], "{moment:?}");
    }
}

#[test]
fn a_demo_removes_what_a_killed_one_has_left() {
    let mut killed = Demo::start();
    killed.until(Moment::Denying);
    killed.child.kill().unwrap();
    killed.child.wait().unwrap();
    let left = killed.left();
    for kind in ["/run/", "/sys/fs/bpf/", "enf-", "process"] {
        assert!(left.iter().any(|name| name.starts_with(kind)), "there is nothing to remove: {left:?}");
    }

    let mut next = Demo::start();
    let (status, out, err) = next.end();
    assert_eq!(status.code(), Some(0), "{out}{err}");
    assert_eq!(next.left(), [""; 0]);
    assert_eq!(killed.left(), [""; 0], "what the killed one left");
}
