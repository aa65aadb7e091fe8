//! A copy of the workspace with a target directory of its own, in which sources may be changed.
//!
//! Input: the workspace. Output: whether the suites notice a change there. A run that is interrupted leaves the sources of the
//! workspace as they are, and the next run copies them anew.

use std::{
    fs,
    os::unix::process::CommandExt as _,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    thread::sleep,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail};

use crate::workspace::Workspace;

/// Files that cargo needs, and tests read.
const COPIED: [&str; 10] = [
    "Cargo.toml",
    "Cargo.lock",
    "README.md",
    ".cargo",
    "docs",
    "enforcer",
    "enforcer-common",
    "policies",
    "tests",
    "xtask",
];

/// Optimised less than for a real run: nearly all of the time is the compiler's.
const PROFILE: [&str; 4] = [
    "profile.test.package.enforcer.opt-level=0",
    "profile.test.package.enforcer-tests.opt-level=1",
    "profile.test.package.enforcer-common.opt-level=1",
    "profile.test.debug=0",
];

/// Pairs of the oracle: a fiftieth of a real run.
const ORACLE_PAIRS: &str = "20000";

/// A part of the fast tests: arguments of `cargo test`, and filters of the test binaries.
pub(crate) struct Suite {
    pub(crate) name: &'static str,
    cargo: &'static [&'static str],
    filters: &'static [&'static str],
}

/// What judges a change of `enforcer-common`, the fastest first.
pub(crate) const OF_COMMON: &[Suite] = &[COMMON, WHOLE, STAGES];
/// What judges a change of `resolve` or `compile`.
pub(crate) const OF_STAGES: &[Suite] = &[STAGES, WHOLE];

const COMMON: Suite =
    Suite { name: "enforcer-common", cargo: &["--package", "enforcer-common", "--lib"], filters: &[] };
const STAGES: Suite = Suite {
    name: "enforcer",
    cargo: &["--package", "enforcer", "--lib"],
    filters: &["compile::", "resolve::", "plan::", "cli::explain", "flow::resolved", "flow::enrich"],
};
const WHOLE: Suite = Suite {
    name: "enforcer-tests",
    cargo: &[
        "--package",
        "enforcer-tests",
        "--test",
        "datapath",
        "--test",
        "golden",
        "--test",
        "conformance",
        "--test",
        "oracle",
    ],
    filters: &[],
};

/// What the suites say of a change.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Outcome {
    /// This suite failed.
    Killed(&'static str),
    /// This suite did not end.
    Hung(&'static str),
    /// All passed.
    Survived,
    /// It does not compile.
    NotViable,
}

/// The copy.
pub(crate) struct Scratch {
    tree: PathBuf,
    target: PathBuf,
}

impl Scratch {
    /// Copies the workspace as it is now. Files that are the same keep their time, so cargo does not build them again.
    pub(crate) fn make(workspace: &Workspace) -> Result<Self> {
        let directory = workspace.target().join("mutants");
        let scratch = Self { tree: directory.join("tree"), target: directory.join("target") };
        fs::create_dir_all(&scratch.tree).with_context(|| format!("cannot make {}", scratch.tree.display()))?;
        for name in COPIED {
            copy(&workspace.root().join(name), &scratch.tree.join(name))?;
        }
        scratch.leave_out_the_programs()?;
        Ok(scratch)
    }

    /// The bpf programs have a target of their own; the copy has no need of them.
    fn leave_out_the_programs(&self) -> Result<()> {
        let manifest = self.tree.join("Cargo.toml");
        let text = fs::read_to_string(&manifest)?.replace("\"enforcer-ebpf\", ", "");
        fs::write(&manifest, text).context("cannot write the copy's Cargo.toml")
    }

    /// Builds and runs the suites on the unchanged copy; how long the slowest took.
    pub(crate) fn rehearse(&self) -> Result<Duration> {
        let mut slowest = Duration::ZERO;
        for suite in [COMMON, STAGES, WHOLE] {
            let begin = Instant::now();
            if !self.cargo(&suite, &["--no-run"]).stderr(Stdio::inherit()).status()?.success() {
                bail!("the copy does not build: {}", suite.name);
            }
            let built = Instant::now();
            if !self.test(&suite).stdout(Stdio::inherit()).stderr(Stdio::inherit()).status()?.success() {
                bail!("the suite {} fails on the unchanged sources", suite.name);
            }
            println!("{}: built in {:?}, run in {:?}", suite.name, built - begin, built.elapsed());
            slowest = slowest.max(built.elapsed());
        }
        Ok(slowest)
    }

    /// Writes a file of the copy, asks the suites, and writes it back.
    pub(crate) fn judge(
        &self,
        path: &Path,
        [changed, original]: [&str; 2],
        suites: &[Suite],
        patience: Duration,
    ) -> Result<Outcome> {
        let path = self.tree.join(path);
        fs::write(&path, changed)?;
        let outcome = self.ask(suites, patience);
        fs::write(&path, original)?;
        outcome
    }

    fn ask(&self, suites: &[Suite], patience: Duration) -> Result<Outcome> {
        for suite in suites {
            if !self.cargo(suite, &["--no-run"]).status()?.success() {
                return Ok(Outcome::NotViable);
            }
            let mut child = self.test(suite).process_group(0).spawn()?;
            match wait(&mut child, patience)? {
                Some(true) => {}
                Some(false) => return Ok(Outcome::Killed(suite.name)),
                None => return Ok(Outcome::Hung(suite.name)),
            }
        }
        Ok(Outcome::Survived)
    }

    fn cargo(&self, suite: &Suite, more: &[&str]) -> Command {
        let mut command = Command::new("cargo");
        command.args(["test", "--offline", "--quiet"]).args(suite.cargo);
        for setting in PROFILE {
            command.args(["--config", setting]);
        }
        command.args(more);
        command.current_dir(&self.tree).env("CARGO_TARGET_DIR", &self.target);
        command.env("ENFORCER_ORACLE_PAIRS", ORACLE_PAIRS).env("ENFORCER_ORACLE_SEED", "1").env("INSTA_UPDATE", "no");
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        command
    }

    fn test(&self, suite: &Suite) -> Command {
        let mut command = self.cargo(suite, &["--"]);
        command.args(suite.filters);
        command
    }
}

/// Whether the child succeeded; `None`: it did not end in time, and has been ended with its children.
fn wait(child: &mut Child, patience: Duration) -> Result<Option<bool>> {
    let end = Instant::now() + patience;
    loop {
        if let Some(status) = child.try_wait()? {
            return Ok(Some(status.success()));
        }
        if Instant::now() >= end {
            // Its group is its own.
            Command::new("kill").args(["-KILL", "--", &format!("-{}", child.id())]).status()?;
            child.wait()?;
            return Ok(None);
        }
        sleep(Duration::from_millis(50));
    }
}

/// Copies what differs, and removes what is there no more.
fn copy(from: &Path, to: &Path) -> Result<()> {
    if from.is_dir() {
        fs::create_dir_all(to)?;
        let names = |directory: &Path| -> Result<Vec<_>> {
            fs::read_dir(directory)?.map(|entry| Ok(entry?.file_name())).collect()
        };
        let wanted = names(from)?;
        for name in names(to)?.into_iter().filter(|name| !wanted.contains(name)) {
            let old = to.join(name);
            if old.is_dir() { fs::remove_dir_all(old)? } else { fs::remove_file(old)? }
        }
        return wanted.iter().try_for_each(|name| copy(&from.join(name), &to.join(name)));
    }
    if !from.exists() {
        return Ok(());
    }
    let new = fs::read(from).with_context(|| format!("cannot read {}", from.display()))?;
    if fs::read(to).is_ok_and(|old| old == new) {
        return Ok(());
    }
    fs::write(to, new).with_context(|| format!("cannot write {}", to.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_copy_keeps_what_is_the_same_and_removes_what_is_gone() {
        let directory = tempfile::tempdir().unwrap();
        let [from, to] = ["from", "to"].map(|name| directory.path().join(name));
        fs::create_dir_all(from.join("sub")).unwrap();
        fs::write(from.join("sub/a"), "1").unwrap();
        copy(&from, &to).unwrap();
        let time = || fs::metadata(to.join("sub/a")).unwrap().modified().unwrap();
        let before = time();
        fs::write(to.join("sub/old"), "x").unwrap();
        fs::create_dir(to.join("gone")).unwrap();
        copy(&from, &to).unwrap();
        assert_eq!(time(), before);
        assert!(!to.join("sub/old").exists() && !to.join("gone").exists());
        fs::write(from.join("sub/a"), "2").unwrap();
        copy(&from, &to).unwrap();
        assert_eq!(fs::read_to_string(to.join("sub/a")).unwrap(), "2");
    }

    #[test]
    fn what_does_not_end_is_ended() {
        let start = |line: &str| Command::new("sh").args(["-c", line]).process_group(0).spawn().unwrap();
        let patience = Duration::from_millis(200);
        assert_eq!(wait(&mut start("exit 0"), Duration::from_secs(9)).unwrap(), Some(true));
        assert_eq!(wait(&mut start("exit 1"), Duration::from_secs(9)).unwrap(), Some(false));
        assert_eq!(wait(&mut start("sleep 60 & wait"), patience).unwrap(), None);
    }
}
