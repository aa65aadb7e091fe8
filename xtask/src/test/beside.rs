//! Work beside the tests. Input: a command and a file for what it says. Output: the command's end, for which somebody waits.
//!
//! It gets a processor only while nothing else wants it, so that tests which wait more than they work do not notice it.

use std::{
    fs::File,
    path::Path,
    process::{Child, Command, ExitStatus, Stdio},
    time::Instant,
};

use anyhow::{Context, Result};

/// A command that goes on.
#[derive(Debug)]
pub(crate) struct Beside {
    child: Child,
    what: String,
}

impl Beside {
    /// Starts it. What it says goes into the file, since it would stand between the lines of the tests.
    pub(crate) fn start(words: &[&str], log: &Path) -> Result<Self> {
        let what = words.join(" ");
        let log_file = File::create(log).with_context(|| format!("cannot make {}", log.display()))?;
        let mut command = Command::new("chrt");
        command.args(["--idle", "0"]).args(words).stdin(Stdio::null());
        command.stdout(log_file.try_clone().context("cannot share the log")?).stderr(log_file);
        let child = command.spawn().with_context(|| format!("cannot start: chrt --idle 0 {what}"))?;
        println!("$ chrt --idle 0 {what} >{} 2>&1 &", log.display());
        Ok(Self { child, what })
    }

    /// Waits for its end.
    pub(crate) fn end(mut self) -> Result<ExitStatus> {
        let begun = Instant::now();
        let status = self.child.wait().with_context(|| format!("cannot wait for: {}", self.what))?;
        println!("{status} after {} s more: {}", begun.elapsed().as_secs(), self.what);
        Ok(status)
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    #[test]
    fn it_gets_what_others_leave_and_so_does_what_it_starts() {
        let place = tempfile::tempdir().unwrap();
        let log = place.path().join("log");
        let own = "chrt --pid $$; sh -c 'chrt --pid $$' 1>&2; exit 3";
        let status = Beside::start(&["sh", "-c", own], &log).unwrap().end().unwrap();
        assert_eq!(status.code(), Some(3));
        assert_eq!(fs::read_to_string(&log).unwrap().matches("SCHED_IDLE").count(), 2);
    }
}
