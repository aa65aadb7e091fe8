//! One network namespace. It has a name under `/run/netns`, so that `ip netns exec` finds it, too.

use std::fs;
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::thread;

use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::sched::{CloneFlags, setns, unshare};

use super::links::LabError;
use super::name::{Name, leftovers};

const DIRECTORY: &str = "/run/netns";

/// A network namespace that lives as long as this value.
#[derive(Debug)]
pub struct Namespace {
    path: PathBuf,
}

impl Namespace {
    /// Makes the namespace `enf-PID-NUMBER-PART`, without links and without settings.
    pub fn create(name: &Name, part: &str) -> Result<Self, LabError> {
        let name = name.of(part);
        let failed = |source| LabError::Namespace { name: name.clone(), source };
        fs::create_dir_all(DIRECTORY).map_err(failed)?;
        let path = Path::new(DIRECTORY).join(&name);
        fs::File::create_new(&path).map_err(failed)?;
        let namespace = Self { path };
        let path = &namespace.path;
        let bound = thread::scope(|scope| {
            scope
                .spawn(|| {
                    unshare(CloneFlags::CLONE_NEWNET)?;
                    mount(Some("/proc/thread-self/ns/net"), path, None::<&str>, MsFlags::MS_BIND, None::<&str>)
                })
                .join()
        });
        match bound {
            Ok(Ok(())) => Ok(namespace),
            Ok(Err(errno)) => Err(failed(errno.into())),
            Err(_) => Err(failed(std::io::Error::other("the thread that makes it panicked"))),
        }
    }

    /// Removes the namespaces of processes that are gone.
    pub fn remove_leftovers() {
        for path in leftovers(Path::new(DIRECTORY)) {
            remove(&path);
        }
    }

    /// A path that `setns` takes.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Runs `work` on a thread inside the namespace. A socket that it opens stays in the namespace.
    pub fn enter<R: Send>(&self, work: impl FnOnce() -> R + Send) -> Result<R, LabError> {
        let failed = |source| LabError::Namespace { name: self.path.display().to_string(), source };
        let file = fs::File::open(&self.path).map_err(failed)?;
        thread::scope(|scope| {
            scope
                .spawn(|| {
                    setns(file.as_fd(), CloneFlags::CLONE_NEWNET).map_err(|errno| failed(errno.into()))?;
                    Ok(work())
                })
                .join()
                .unwrap_or_else(|_| Err(failed(std::io::Error::other("the thread inside panicked"))))
        })
    }
}

impl Drop for Namespace {
    fn drop(&mut self) {
        remove(&self.path);
    }
}

fn remove(path: &Path) {
    // Both fail only if the name is gone already; the namespace itself goes with its last user.
    let _ = umount2(path, MntFlags::MNT_DETACH);
    let _ = fs::remove_file(path);
}
