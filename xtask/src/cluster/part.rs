//! A part of a cluster: one program that runs in a member, such as `node1/kubelet`.
//!
//! Input: the member and a command line. Output: a process that outlives this program, with a log, and a record by which it
//! is found again.

use std::{
    fs::File,
    path::{Path, PathBuf},
    process::Stdio,
};

use anyhow::{Context, Result};
use serde::{Deserialize, Serialize};

use crate::cluster::{directory::Directory, member::Member, process};

/// A program that was started, as the state file keeps it.
#[derive(Clone, Debug, Deserialize, Serialize)]
pub(crate) struct Part {
    /// `MEMBER/PROGRAM`.
    pub(crate) name: String,
    pub(crate) pid: u32,
    /// When it started, in ticks since boot.
    pub(crate) started: u64,
    pub(crate) log: PathBuf,
    /// The command line inside the member.
    pub(crate) command: Vec<String>,
}

impl Part {
    /// Starts the program. Its log goes on where an earlier run ended.
    pub(crate) fn start(directory: &Directory, member: &Member, command: Vec<String>) -> Result<Self> {
        let (program, arguments) = command.split_first().context("a part without a program")?;
        let name = format!("{}/{}", member.name, Path::new(program).file_name().unwrap_or_default().to_string_lossy());
        let log = directory.log(&name);
        let output = File::options().create(true).append(true).open(&log)?;
        let mut run = member.command("setsid");
        run.arg(program).args(arguments).stdin(Stdio::null()).stdout(output.try_clone()?).stderr(output);
        let child = run.spawn().with_context(|| format!("cannot start {name}"))?;
        // Nobody has waited for it, so it has an entry. One that is over already counts as gone from now on.
        let started = process::started(child.id()).unwrap_or_default();
        Ok(Self { name, pid: child.id(), started, log, command })
    }

    pub(crate) fn is_alive(&self) -> bool {
        process::started(self.pid) == Some(self.started)
    }

    /// The member that it runs in.
    pub(crate) fn member(&self) -> &str {
        self.name.split('/').next().unwrap_or_default()
    }
}
