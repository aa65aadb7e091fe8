//! Where everything is pinned, and the lock that keeps a second daemon away (ADR 0006).
//!
//! Input: the pin directory. Output: paths of pins whose directories exist. What no enforcer has made is refused by name,
//! before anything is changed.
//!
//! ```text
//! PIN_DIR/abi-2/maps/NAME              a map of the contract
//!               image/SLOT             lines of an image
//!               addresses/SLOT         its exact addresses
//!               links/IFINDEX-from     what the workload behind the device sends
//!               links/IFINDEX-to       what it gets
//!               programs/OBJECT/NAME   programs of an object, by a hash of its bytes
//!               namespace-COOKIE       an empty directory: the network namespace in which the links are
//! ```
//! A name that ends in `-new` is a pin on its way to the name without it; names cannot hold dots on a bpf file system.

use std::fs::{self, DirBuilder, File};
use std::io;
use std::os::unix::fs::{DirBuilderExt, MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use enforcer_common::id::Slot;
use enforcer_common::limits::ABI;
use nix::fcntl::{Flock, FlockArg};

use crate::kernel::error::{KernelError, at};

/// Ends the name of a pin that is about to replace another.
pub(crate) const NEW: &str = "-new";

/// How long the lock is waited for.
const PATIENCE: Duration = Duration::from_secs(1);

/// Name of the directory of this build's pins.
pub(crate) fn abi_directory() -> String {
    format!("abi-{ABI}")
}

/// Paths below one pin directory.
#[derive(Clone, Debug)]
pub(crate) struct Layout {
    abi: PathBuf,
}

/// The lock on a pin directory; held until it is dropped, or the process ends in any way.
#[derive(Debug)]
pub(crate) struct Lock {
    _directory: Flock<File>,
}

impl Layout {
    /// The paths, whether they are there or not.
    pub(crate) fn of(pin_dir: &Path) -> Self {
        Self { abi: pin_dir.join(abi_directory()) }
    }

    /// Takes the lock, refuses what is not ours and makes the directories.
    pub(crate) fn open(pin_dir: &Path, namespace: u64) -> Result<(Self, Lock), KernelError> {
        make(pin_dir, true)?;
        let lock = lock(pin_dir)?;
        for name in names(pin_dir)? {
            if name == abi_directory() {
                continue;
            }
            return Err(if is_abi(&name) {
                KernelError::OtherAbi { path: pin_dir.to_path_buf(), found: name, expected: abi_directory() }
            } else {
                KernelError::Foreign { path: pin_dir.join(name) }
            });
        }
        let layout = Self::of(pin_dir);
        make(&layout.abi, false)?;
        layout.check_namespace(pin_dir, namespace)?;
        for directory in [layout.maps(), layout.images(), layout.addresses(), layout.links(), layout.programs()] {
            make(&directory, false)?;
        }
        Ok((layout, lock))
    }

    /// The marker is made before the first link, so links without one were never made by us alone.
    fn check_namespace(&self, pin_dir: &Path, cookie: u64) -> Result<(), KernelError> {
        const KNOWN: [&str; 5] = ["maps", "image", "addresses", "links", "programs"];
        let own = format!("namespace-{cookie}");
        let mut marked = false;
        for name in names(&self.abi)? {
            if name == own {
                marked = true;
            } else if name.starts_with("namespace-") {
                return Err(KernelError::OtherNamespace { path: pin_dir.to_path_buf() });
            } else if !KNOWN.contains(&name.as_str()) {
                return Err(KernelError::Foreign { path: self.abi.join(name) });
            }
        }
        if marked { Ok(()) } else { make(&self.abi.join(own), false) }
    }

    /// Whether an enforcer has made anything here.
    pub(crate) fn exists(&self) -> bool {
        self.abi.is_dir()
    }

    pub(crate) fn maps(&self) -> PathBuf {
        self.abi.join("maps")
    }

    pub(crate) fn map(&self, name: &str) -> PathBuf {
        self.maps().join(name)
    }

    pub(crate) fn images(&self) -> PathBuf {
        self.abi.join("image")
    }

    pub(crate) fn image(&self, slot: Slot) -> PathBuf {
        self.images().join(slot.to_string())
    }

    pub(crate) fn addresses(&self) -> PathBuf {
        self.abi.join("addresses")
    }

    pub(crate) fn addresses_of(&self, slot: Slot) -> PathBuf {
        self.addresses().join(slot.to_string())
    }

    pub(crate) fn links(&self) -> PathBuf {
        self.abi.join("links")
    }

    pub(crate) fn programs(&self) -> PathBuf {
        self.abi.join("programs")
    }
}

/// Whether a name is that of some version's directory.
pub(crate) fn is_abi(name: &str) -> bool {
    name.strip_prefix("abi-")
        .is_some_and(|number| !number.is_empty() && number.bytes().all(|byte| byte.is_ascii_digit()))
}

/// The same pin on its way in.
pub(crate) fn incoming(path: &Path) -> PathBuf {
    let mut name = path.file_name().unwrap_or_default().to_owned();
    name.push(NEW);
    path.with_file_name(name)
}

/// Names in a directory, sorted.
pub(crate) fn names(directory: &Path) -> Result<Vec<String>, KernelError> {
    let entries = fs::read_dir(directory).map_err(at(directory, "read"))?;
    let mut names = Vec::new();
    for entry in entries {
        let entry = entry.map_err(at(directory, "read"))?;
        names.push(entry.file_name().to_string_lossy().into_owned());
    }
    names.sort();
    Ok(names)
}

/// Removes a pin. No such pin is no error.
pub(crate) fn unpin(path: &Path) -> Result<(), KernelError> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(at(path, "unpin")(error)),
        _ => Ok(()),
    }
}

/// Moves a pin over another, in one step.
pub(crate) fn replace(from: &Path, to: &Path) -> Result<(), KernelError> {
    fs::rename(from, to).map_err(at(to, "rename"))
}

fn make(directory: &Path, with_parents: bool) -> Result<(), KernelError> {
    let made = DirBuilder::new().recursive(with_parents).mode(0o700).create(directory);
    match made {
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists => return Err(at(directory, "create")(error)),
        _ => {}
    }
    let found = fs::symlink_metadata(directory).map_err(at(directory, "stat"))?;
    if !found.is_dir() {
        return Err(KernelError::Foreign { path: directory.to_path_buf() });
    }
    if found.uid() != nix::unistd::geteuid().as_raw() {
        return Err(KernelError::ForeignOwner { path: directory.to_path_buf(), owner: found.uid() });
    }
    if found.permissions().mode() & 0o077 != 0 {
        fs::set_permissions(directory, fs::Permissions::from_mode(0o700)).map_err(at(directory, "chmod"))?;
    }
    Ok(())
}

/// The lock of a daemon or a purge, on the directory itself: bpf file systems hold no plain files. `status` shares it for an
/// instant to see whether there is a daemon, and that must not end a start: so a lock that somebody has is waited for.
pub(crate) fn lock(pin_dir: &Path) -> Result<Lock, KernelError> {
    let end = Instant::now() + PATIENCE;
    loop {
        match take(pin_dir, FlockArg::LockExclusiveNonblock) {
            Err(KernelError::Busy { .. }) if Instant::now() < end => std::thread::sleep(Duration::from_millis(20)),
            other => return other,
        }
    }
}

/// Whether a daemon, or a purge, has the directory. Those who only ask do not see each other.
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

    #[test]
    fn only_numbered_directories_are_a_version() {
        for (name, is) in
            [("abi-1", true), ("abi-20", true), ("abi-", false), ("abi-x", false), ("abi-2x", false), ("maps", false)]
        {
            assert_eq!(is_abi(name), is, "{name}");
        }
    }

    #[test]
    fn an_incoming_pin_lies_beside_the_one_it_replaces() {
        let layout = Layout::of(Path::new("/pins"));
        assert_eq!(incoming(&layout.image(Slot::of(1))), Path::new("/pins/abi-2/image/1-new"));
    }

    #[test]
    fn a_second_lock_and_what_is_not_ours_are_refused() {
        let directory = tempfile::tempdir().unwrap();
        let pins = directory.path().join("pins");
        let (layout, lock) = Layout::open(&pins, 7).unwrap();
        assert!(matches!(Layout::open(&pins, 7), Err(KernelError::Busy { .. })));
        drop(lock);
        let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
        assert_eq!((mode(&pins), mode(&layout.links())), (0o700, 0o700));

        assert!(matches!(Layout::open(&pins, 8), Err(KernelError::OtherNamespace { .. })));
        Layout::open(&pins, 7).unwrap();
        fs::create_dir(pins.join("abi-2/stranger")).unwrap();
        let error = Layout::open(&pins, 7).unwrap_err();
        assert!(error.to_string().contains("stranger"), "{error}");
        fs::remove_dir(pins.join("abi-2/stranger")).unwrap();
        fs::create_dir(pins.join("abi-999")).unwrap();
        let error = Layout::open(&pins, 7).unwrap_err();
        assert!(matches!(&error, KernelError::OtherAbi { found, .. } if found == "abi-999"), "{error}");
    }

    #[test]
    fn who_only_asks_for_the_lock_neither_ends_a_start_nor_looks_like_a_daemon() {
        let directory = tempfile::tempdir().unwrap();
        let pins = directory.path().join("pins");
        drop(Layout::open(&pins, 7).unwrap());
        let asked = take(&pins, FlockArg::LockSharedNonblock).unwrap();
        assert!(!is_locked(&pins), "two who ask at once");
        std::thread::scope(|scope| {
            let start = scope.spawn(|| Layout::open(&pins, 7).map(|(_, lock)| lock));
            std::thread::sleep(PATIENCE / 4);
            assert!(!start.is_finished(), "it waits");
            drop(asked);
            let _lock = start.join().unwrap().unwrap();
            assert!(is_locked(&pins));
        });
        assert!(!is_locked(&pins));
    }
}
