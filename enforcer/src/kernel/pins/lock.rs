//! The lock that keeps a second daemon out. Input: the pin directory. Output: the lock, or an error if another process holds
//! it.

use std::fs::{self, File};
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::time::{Duration, Instant};

use nix::fcntl::{Flock, FlockArg};

use crate::kernel::error::{KernelError, at};

/// How long the lock is waited for.
const PATIENCE: Duration = Duration::from_secs(1);

/// The lock on a pin directory; held until it is dropped, or the process ends in any way.
#[derive(Debug)]
pub(crate) struct Lock {
    _directory: Flock<File>,
}

/// Takes the lock for a daemon or a purge. The lock is on the directory itself, because bpf file systems hold no
/// plain files. `status` shares it for an instant to see whether there is a daemon. That must not end a start, so
/// this waits for a while if somebody holds the lock.
pub(crate) fn lock(pin_dir: &Path) -> Result<Lock, KernelError> {
    let end = Instant::now() + PATIENCE;
    loop {
        match take(pin_dir, FlockArg::LockExclusiveNonblock) {
            Err(KernelError::Busy { .. }) if Instant::now() < end => std::thread::sleep(Duration::from_millis(20)),
            other => return other,
        }
    }
}

/// Whether a daemon or a purge holds the lock. Callers that only ask do not disturb each other.
pub(crate) fn is_locked(pin_dir: &Path) -> bool {
    matches!(take(pin_dir, FlockArg::LockSharedNonblock), Err(KernelError::Busy { .. }))
}

fn take(pin_dir: &Path, how: FlockArg) -> Result<Lock, KernelError> {
    let directory = File::open(pin_dir).map_err(at(pin_dir, "open"))?;
    let opened = directory.metadata().map_err(at(pin_dir, "stat"))?;
    let directory = match Flock::lock(directory, how) {
        Ok(directory) => directory,
        Err((_, nix::errno::Errno::EWOULDBLOCK)) => {
            return Err(KernelError::Busy { path: pin_dir.to_path_buf() });
        }
        Err((_, error)) => return Err(at(pin_dir, "lock")(error.into())),
    };
    // A purge may have removed the directory between the two calls: that lock would keep nobody away.
    match fs::metadata(pin_dir) {
        Ok(now) if now.ino() == opened.ino() => Ok(Lock { _directory: directory }),
        _ => Err(KernelError::Busy { path: pin_dir.to_path_buf() }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kernel::pins::layout::Layout;

    #[test]
    fn who_only_asks_for_the_lock_neither_ends_a_start_nor_looks_like_a_daemon() {
        let directory = tempfile::tempdir().unwrap();
        let pins = directory.path().join("pins");
        drop(Layout::open(&pins, 7).unwrap());
        let asked = take(&pins, FlockArg::LockSharedNonblock).unwrap();
        assert!(!is_locked(&pins), "two who ask at once");
        std::thread::scope(|scope| {
            let start = scope.spawn(|| Layout::open(&pins, 7).map(|(_, _, lock)| lock));
            std::thread::sleep(PATIENCE / 4);
            assert!(!start.is_finished(), "it waits");
            drop(asked);
            let _lock = start.join().unwrap().unwrap();
            assert!(is_locked(&pins));
        });
        assert!(!is_locked(&pins));
    }
}
