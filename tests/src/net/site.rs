//! The part of the file systems that belongs to one test: a directory, pins, and the list of the test's processes.
//!
//! Input: nothing. Output: paths under one `enf-PID-NUMBER`. A site removes itself on drop. A new site first removes those
//! of dead processes, and ends what they left running.

use std::fs;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::thread::sleep;
use std::time::{Duration, Instant};

use enforcer::lab::{Name, leftovers};
use nix::mount::{MntFlags, umount2};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::daemon::BOUND;

const RUN: &str = "/run";
const BPFFS: &str = "/sys/fs/bpf";

/// A directory and a directory for pins, of the same name.
#[derive(Debug)]
pub struct Site {
    name: Name,
    directory: PathBuf,
    pin_dir: PathBuf,
}

impl Site {
    /// Below `/run`.
    pub fn new() -> Self {
        Self::below(Path::new(RUN))
    }

    /// Where programs may be started. On many machines `/run` forbids that.
    pub fn with_programs() -> Self {
        Self::below(&std::env::temp_dir())
    }

    fn below(base: &Path) -> Self {
        assert!(nix::unistd::geteuid().is_root(), "this test makes namespaces or loads programs: it needs root");
        remove_leftovers();
        let name = Name::unique();
        let directory = base.join(name.to_string());
        fs::DirBuilder::new().mode(0o700).create(&directory).unwrap();
        let pin_dir = pins_of(&directory);
        Self { name, directory, pin_dir }
    }

    /// Its name.
    pub fn name(&self) -> &Name {
        &self.name
    }

    /// The directory.
    pub fn directory(&self) -> &Path {
        &self.directory
    }

    /// A file in the directory.
    pub fn file(&self, name: &str) -> PathBuf {
        self.directory.join(name)
    }

    /// Where the daemon of this site pins. The daemon makes it.
    pub fn pin_dir(&self) -> &Path {
        &self.pin_dir
    }

    /// Ends a process whose id a command has left in a file here, if it still is that process.
    pub fn end(&self, pid_file: &str) {
        end(&self.directory, &self.file(pid_file));
    }
}

impl Default for Site {
    fn default() -> Self {
        Self::new()
    }
}

impl Drop for Site {
    fn drop(&mut self) {
        for error in remove(&self.directory) {
            eprintln!("of {} is left: {error}", self.name);
        }
    }
}

fn remove_leftovers() {
    for directory in [PathBuf::from(RUN), std::env::temp_dir()].iter().flat_map(|base| leftovers(base)) {
        // What cannot be removed now is tried again by the next site.
        let _ = remove(&directory);
    }
}

/// Removes everything of a site, and gives what could not be removed. A step that fails keeps nothing from the next.
fn remove(directory: &Path) -> Vec<String> {
    for entry in fs::read_dir(directory).into_iter().flatten().flatten() {
        if entry.path().extension().is_some_and(|extension| extension == "pid") {
            end(directory, &entry.path());
        }
    }
    let purged = enforcer::kernel::purge(&pins_of(directory));
    let mut left: Vec<String> = purged.err().unwrap_or_default().iter().map(ToString::to_string).collect();
    unmount_below(directory);
    left.extend(fs::remove_dir_all(directory).err().map(|error| format!("{}: {error}", directory.display())));
    left
}

fn pins_of(directory: &Path) -> PathBuf {
    Path::new(BPFFS).join(directory.file_name().expect("a site has a name"))
}

/// Ends the process of a file if its command line names a path of the site: the number may be another process's by now.
fn end(directory: &Path, pid_file: &Path) {
    let Ok(text) = fs::read_to_string(pid_file) else { return };
    let Ok(pid) = text.trim().parse::<i32>() else { return };
    let line = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
    let own = [directory.as_os_str().as_encoded_bytes(), b"/"].concat();
    if line.windows(own.len()).any(|window| window == own) {
        // Fails only if it has just ended.
        let _ = kill(Pid::from_raw(pid), Signal::SIGKILL);
        let gone = Instant::now() + BOUND;
        while Path::new(&format!("/proc/{pid}/ns/net")).exists() && Instant::now() < gone {
            sleep(Duration::from_millis(5));
        }
    }
}

/// podman leaves its storage mounted on itself.
fn unmount_below(directory: &Path) {
    let mounts = fs::read_to_string("/proc/self/mounts").unwrap_or_default();
    let below = mounts.lines().filter_map(|line| line.split(' ').nth(1));
    for mount in below.filter(|at| Path::new(at).starts_with(directory)).collect::<Vec<_>>().into_iter().rev() {
        // What is busy goes with its last user.
        let _ = umount2(mount, MntFlags::MNT_DETACH);
    }
}
