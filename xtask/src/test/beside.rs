//! Work beside the tests in sight. Input: a command and a file for what it says. Output: the command's end, for which somebody
//! waits.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Child,
    time::Instant,
};

use anyhow::{Context, Result, bail};

use crate::run::Run;

/// A command that goes on.
#[derive(Debug)]
pub(crate) struct Beside {
    child: Child,
    line: String,
    log: PathBuf,
}

impl Beside {
    /// Starts it. What it says goes into the file, since it would stand between the lines of the tests.
    pub(crate) fn start(run: Run, log: &Path) -> Result<Self> {
        let line = run.line();
        Ok(Self { child: run.start(log)?, line, log: log.to_owned() })
    }

    /// Waits for its end, and fails when it has failed.
    pub(crate) fn end(&mut self) -> Result<()> {
        let begun = Instant::now();
        let status = self.child.wait().with_context(|| format!("cannot wait for: {}", self.line))?;
        println!("{status} after {} s more: {}", begun.elapsed().as_secs(), self.line);
        if !status.success() {
            bail!("{status}: {}", self.line);
        }
        Ok(())
    }

    /// What it has said.
    pub(crate) fn said(&self) -> Result<String> {
        let bytes = fs::read(&self.log).with_context(|| format!("cannot read {}", self.log.display()))?;
        Ok(String::from_utf8_lossy(&bytes).into_owned())
    }
}

/// The same command, which gets a processor only while nothing else wants it, so that tests which wait more than they work do
/// not notice it.
pub(crate) fn idle(program: &str) -> Run {
    Run::new("chrt").args(["--idle", "0", program])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_gets_what_others_leave_and_so_does_what_it_starts() {
        let place = tempfile::tempdir().unwrap();
        let own = "chrt --pid $$; sh -c 'chrt --pid $$' 1>&2; exit 3";
        let mut beside = Beside::start(idle("sh").args(["-c", own]), &place.path().join("log")).unwrap();
        let error = beside.end().unwrap_err().to_string();
        assert!(error.starts_with("exit status: 3: chrt --idle 0 sh"), "{error}");
        assert_eq!(beside.said().unwrap().matches("SCHED_IDLE").count(), 2);
    }
}
