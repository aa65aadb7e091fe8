//! `cargo xtask cluster down`: nothing of the cluster is left. Input: its name, which is enough: its cgroups say which
//! processes are its own, its mounts and network end with them, and its files are in one directory.

use std::{
    thread::sleep,
    time::{Duration, Instant},
};

use anyhow::{Result, bail};

use crate::cluster::{cgroup::Cgroups, directory::Directory};

/// How long an `up` may take to notice that its cluster is gone.
const PATIENCE: Duration = Duration::from_mins(1);

/// Removes the cluster, also one whose start goes on. Does nothing where there is none.
pub(crate) fn run(directory: &Directory) -> Result<()> {
    let cgroups = Cgroups::of(directory.name())?;
    if !directory.exists() {
        return clear(directory, &cgroups);
    }
    let end = Instant::now() + PATIENCE;
    let _lock = loop {
        // A start that goes on fails with the next thing that it asks of its cluster, and gives the lock back.
        cgroups.kill()?;
        // The other command may have removed the directory meanwhile.
        if !directory.exists() {
            break None;
        }
        match directory.try_lock() {
            Ok(Some(lock)) => break Some(lock),
            Err(error) if directory.exists() => return Err(error),
            _ if Instant::now() >= end => {
                bail!("another command is changing the cluster {}; end it, and try again", directory.name())
            }
            _ => sleep(Duration::from_millis(50)),
        }
    };
    clear(directory, &cgroups)
}

/// Removes everything. The caller has the lock, or nobody has.
pub(crate) fn clear(directory: &Directory, cgroups: &Cgroups) -> Result<()> {
    cgroups.kill()?;
    cgroups.remove()?;
    directory.remove()
}
