//! A member of a cluster: a machine made of namespaces, the control plane or a node.
//!
//! Input: a directory and cgroups of its own. Output: commands that run in it. `sandbox.sh` furnishes it. All of its mounts
//! are in its own mount namespace, and no name is bound outside, so all of it ends with its last process.

use std::{
    fs::{self, File},
    io::{BufRead, BufReader},
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use anyhow::{Context, Result, bail};
use serde::{Deserialize, Serialize};

use crate::cluster::{cgroup::Cgroups, directory::Directory, log::tail, process};

/// The member that runs the control plane.
pub(crate) const CONTROL: &str = "control";

const FURNISH: &str = include_str!("../../cluster/sandbox.sh");

/// Enters cgroups, then becomes the command after `--`. It fails where they are gone: a cluster that has ended takes in
/// nobody.
const ENTER: &str = r#"while [ "$1" != -- ]; do echo $$ >"$1/cgroup.procs" || exit 125; shift; done; shift; exec "$@""#;

/// What a member has of its own: see `sandbox.sh`.
const DIRECTORIES: &[&str] =
    &["etc", "work-etc", "opt", "work-opt", "kubernetes", "etc-cni/net.d", "opt-cni/bin", "log", "lib"];

/// A running member, as the state file keeps it.
#[derive(Clone, Debug, Deserialize, Serialize)]
pub(crate) struct Member {
    /// `control`, `node1`, and so on.
    pub(crate) name: String,
    /// The process that keeps the namespaces.
    pub(crate) pid: u32,
    /// When that process started, in ticks since boot.
    pub(crate) started: u64,
    /// Its network namespace, for as long as the process lives.
    pub(crate) network: PathBuf,
    /// Its files as it sees them, from outside.
    pub(crate) root: PathBuf,
    /// The words that run a command inside, in front of the command.
    pub(crate) enter: Vec<String>,
    /// Addresses in the network that joins the members.
    pub(crate) addresses: Vec<String>,
    /// Where its pods are.
    pub(crate) pods: Vec<String>,
    /// Cgroups of its processes, the first of cgroup2.
    pub(crate) cgroups: Vec<PathBuf>,
    /// Its directory on the host.
    pub(crate) directory: PathBuf,
}

impl Member {
    /// Makes the member and furnishes it.
    pub(crate) fn start(
        directory: &Directory,
        cgroups: &Cgroups,
        name: &str,
        addresses: Vec<String>,
        pods: Vec<String>,
    ) -> Result<Self> {
        let own = directory.member(name);
        for inner in DIRECTORIES {
            let inner = own.join(inner);
            fs::create_dir_all(&inner).with_context(|| format!("cannot make {}", inner.display()))?;
        }
        let entered = cgroups.create(name)?;
        let log = directory.log(&format!("{name}/sandbox"));
        let mut command = join(&entered, "unshare");
        command.args("--mount --net --uts --ipc --cgroup -- setsid sh -c".split(' ')).args([FURNISH, "sandbox.sh"]);
        command.arg(&own).arg(name).args(cgroups.mounts());
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(File::create(&log)?);
        let mut child = command.spawn().context("cannot run sh")?;
        let mut answer = String::new();
        BufReader::new(child.stdout.take().context("no output")?).read_line(&mut answer)?;
        let (pid, started) = (child.id(), process::started(child.id()));
        let (Some(started), "ready") = (started, answer.trim()) else {
            bail!("the namespaces of {name} cannot be made; {}", tail(&log));
        };
        let mut member = Self {
            name: name.to_owned(),
            pid,
            started,
            network: format!("/proc/{pid}/ns/net").into(),
            root: format!("/proc/{pid}/root").into(),
            enter: Vec::new(),
            addresses,
            pods,
            cgroups: entered,
            directory: own,
        };
        member.keep_apart()?;
        member.enter = words(&member.command("COMMAND"));
        member.enter.pop();
        Ok(member)
    }

    /// Moves its processes one level down: a cgroup of version 2 has either processes or groups that use controllers, and
    /// the containers' groups stand beside this one.
    fn keep_apart(&mut self) -> Result<()> {
        let Some(first) = self.cgroups.first_mut() else { return Ok(()) };
        first.push("parts");
        fs::create_dir(&first)?;
        fs::write(first.join("cgroup.procs"), self.pid.to_string()).context("cannot move the member's first process")
    }

    pub(crate) fn is_alive(&self) -> bool {
        process::started(self.pid) == Some(self.started)
    }

    /// A command inside the member: in all of its namespaces and cgroups, with the environment of a machine.
    pub(crate) fn command(&self, program: impl AsRef<Path>) -> Command {
        let mut command = self.nsenter(&["--mount", "--net", "--uts", "--ipc", "--cgroup"]);
        command.arg(program.as_ref());
        command.env_clear();
        command.env("PATH", "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin");
        command.env("HOME", "/root").env("TMPDIR", "/run");
        command
    }

    /// A command that has the member's network, and the host's files.
    pub(crate) fn in_network(&self, program: impl AsRef<Path>) -> Command {
        let mut command = self.nsenter(&["--net"]);
        command.arg(program.as_ref());
        command
    }

    fn nsenter(&self, namespaces: &[&str]) -> Command {
        let mut command = join(&self.cgroups, "nsenter");
        command.arg(format!("--target={}", self.pid)).args(namespaces).arg("--");
        command
    }
}

fn join(cgroups: &[PathBuf], program: &str) -> Command {
    let mut command = Command::new("sh");
    command.args(["-c", ENTER, "enter"]).args(cgroups).arg("--").arg(program);
    command
}

fn words(command: &Command) -> Vec<String> {
    let words = std::iter::once(command.get_program()).chain(command.get_args());
    words.map(|word| word.to_string_lossy().into_owned()).collect()
}

/// Runs a command to its end, and returns what it printed.
pub(crate) fn output(mut command: Command) -> Result<String> {
    let output = command.stdin(Stdio::null()).output().with_context(|| format!("cannot run {}", shown(&command)))?;
    if !output.status.success() {
        let said = String::from_utf8_lossy(&output.stderr);
        bail!("{}: {}\n{}", output.status, shown(&command), said.trim());
    }
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

/// The command without what leads into the member.
fn shown(command: &Command) -> String {
    let words = words(command);
    let after = words.iter().rposition(|word| word == "--").map_or(0, |at| at + 1);
    words[after..].join(" ")
}
