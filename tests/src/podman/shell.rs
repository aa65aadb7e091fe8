//! One bash process for a whole walk-through, so that variables, the directory and background jobs stay between commands.
//!
//! Input: a command line. Output: what it printed, with both streams as a terminal shows them, and its exit code.

#![allow(clippy::unwrap_used, reason = "a shell that cannot be used ends the test")]

use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread::sleep;
use std::time::{Duration, Instant};

use super::Host;

/// Longest that one command may take.
const BOUND: Duration = Duration::from_mins(1);

/// The shell. Killed on drop; its background jobs are the host's to end.
pub struct Shell {
    bash: Child,
    steps: PathBuf,
    count: usize,
}

impl Shell {
    /// In an empty directory, with the host's commands first on the path, and `extra` before them.
    pub fn on(host: &Host) -> Self {
        let (home, steps) = (host.file("home"), host.file("steps"));
        fs::create_dir(&home).unwrap();
        fs::create_dir(&steps).unwrap();
        Self::start(&home, &host.file("bin"), steps)
    }

    /// In this directory, with the commands of another first on the path. The shell's own files are in the other.
    pub fn at(directory: &Path, commands: &Path) -> Self {
        Self::start(directory, commands, commands.to_owned())
    }

    fn start(directory: &Path, commands: &Path, steps: PathBuf) -> Self {
        let path = format!("{}:{}", commands.display(), std::env::var("PATH").unwrap_or_default());
        let bash = Command::new("bash")
            .args(["--noprofile", "--norc"])
            .current_dir(directory)
            .env("PATH", path)
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        Self { bash, steps, count: 0 }
    }

    /// Runs a command line; its output and exit code.
    pub fn run(&mut self, line: &str) -> (String, i32) {
        self.count += 1;
        let at = |kind: &str| self.steps.join(format!("{}.{kind}", self.count));
        let (command, output, code, done) = (at("sh"), at("out"), at("tmp"), at("code"));
        fs::write(&command, format!("{line}\n")).unwrap();
        let input = self.bash.stdin.as_mut().unwrap();
        writeln!(
            input,
            ". {} >{} 2>&1 </dev/null; echo $? >{code}; mv {code} {}",
            command.display(),
            output.display(),
            done.display(),
            code = code.display()
        )
        .unwrap();
        input.flush().unwrap();
        let end = Instant::now() + BOUND;
        while !done.exists() {
            let said = || fs::read_to_string(&output).unwrap_or_default();
            assert!(Instant::now() < end, "not after {BOUND:?}: {line}\n{}", said());
            assert!(self.bash.try_wait().unwrap().is_none(), "the shell ended at: {line}\n{}", said());
            sleep(Duration::from_millis(5));
        }
        let code = fs::read_to_string(&done).unwrap().trim().parse().unwrap();
        (String::from_utf8_lossy(&fs::read(&output).unwrap()).into_owned(), code)
    }
}

impl Drop for Shell {
    fn drop(&mut self) {
        // Both fail only if it has ended.
        let _ = self.bash.kill();
        let _ = self.bash.wait();
    }
}
