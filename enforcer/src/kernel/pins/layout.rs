//! The paths of everything that is pinned (ADR 0006).
//!
//! Input: the pin directory. Output: the paths of pins, whose directories exist, and the directories of other versions that
//! this build replaces. A file that Enforcer did not make, or pins that this build cannot use, are refused by name before
//! anything is changed.
//!
//! ```text
//! PIN_DIR/flows-3/maps/NAME              a map of the group; the same below
//!                 links/IFINDEX-from     what the workload behind the device sends
//!                 links/IFINDEX-to       what that workload receives
//!                 links/IFINDEX-guard    what a device receives that leads to no workload
//!                 programs/OBJECT/NAME   programs of an object, by a hash of its bytes
//!                 namespace-COOKIE       an empty directory: the network namespace in which the links are
//!         policy-3/maps/NAME
//!                  image/SLOT            lines of an image
//!                  addresses/SLOT        its exact addresses
//!         denials-1/maps/NAME
//! ```
//! A pin whose name ends in `-new` is about to be renamed to the name without it. Names on a bpf file system cannot have dots.

use std::fs::{self, DirBuilder, Metadata};
use std::io;
use std::os::unix::fs::{DirBuilderExt, MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};

use enforcer_common::id::Slot;
use enforcer_common::schema::{Group, MapRow};

use crate::kernel::error::{KernelError, at};
use crate::kernel::pins::lock::{Lock, lock};

/// Ends the name of a pin that is about to replace another.
pub(crate) const NEW: &str = "-new";

/// First part of the only directory of versions that had no groups yet.
const BEFORE_GROUPS: &str = "abi";

/// Name of the directory of a group in this build.
pub fn group_directory(group: Group) -> String {
    format!("{}-{}", group.name(), group.abi())
}

/// Paths below one pin directory.
#[derive(Clone, Debug)]
pub(crate) struct Layout {
    pin_dir: PathBuf,
}

/// Directories of other versions, to be removed once nothing uses their maps any more.
#[derive(Debug, Default)]
pub(crate) struct Others {
    pub(super) directories: Vec<PathBuf>,
    /// Whether one of the directories holds an image of another layout.
    pub(super) policy: bool,
}

impl Layout {
    /// The paths, whether they are there or not.
    pub(crate) fn of(pin_dir: &Path) -> Self {
        Self { pin_dir: pin_dir.to_path_buf() }
    }

    /// Takes the lock, refuses what is not ours and makes the directories.
    pub(crate) fn open(pin_dir: &Path, namespace: u64) -> Result<(Self, Others, Lock), KernelError> {
        make(pin_dir, true)?;
        let lock = lock(pin_dir)?;
        let others = others(pin_dir)?;
        let layout = Self::of(pin_dir);
        make(&layout.group(Group::Flows), false)?;
        layout.check_namespace(namespace)?;
        for group in Group::ALL {
            make(&layout.group(group), false)?;
            make(&layout.maps(group), false)?;
        }
        layout.refuse_strangers(Group::Policy, &["maps", "image", "addresses"])?;
        layout.refuse_strangers(Group::Denials, &["maps"])?;
        for directory in [layout.images(), layout.addresses(), layout.links(), layout.programs()] {
            make(&directory, false)?;
        }
        Ok((layout, others, lock))
    }

    /// The marker is made before the first link, so links without one were never made by us alone.
    fn check_namespace(&self, cookie: u64) -> Result<(), KernelError> {
        let own = format!("namespace-{cookie}");
        let directory = self.group(Group::Flows);
        if names(&directory)?.iter().any(|name| name.starts_with("namespace-") && *name != own) {
            return Err(KernelError::OtherNamespace { path: self.pin_dir.clone() });
        }
        self.refuse_strangers(Group::Flows, &["maps", "links", "programs", &own])?;
        make(&directory.join(own), false)
    }

    fn refuse_strangers(&self, group: Group, known: &[&str]) -> Result<(), KernelError> {
        let directory = self.group(group);
        match names(&directory)?.into_iter().find(|name| !known.contains(&name.as_str())) {
            Some(name) => Err(KernelError::Foreign { path: directory.join(name) }),
            None => Ok(()),
        }
    }

    /// Whether an enforcer with the same flows has made anything here.
    pub(crate) fn exists(&self) -> bool {
        self.has(Group::Flows)
    }

    /// Whether this build's directory of a group is there.
    pub(crate) fn has(&self, group: Group) -> bool {
        self.group(group).is_dir()
    }

    /// Whether an image of another layout is there.
    pub(crate) fn has_other_policy(&self) -> bool {
        others(&self.pin_dir).is_ok_and(|others| others.policy)
    }

    fn group(&self, group: Group) -> PathBuf {
        self.pin_dir.join(group_directory(group))
    }

    fn maps(&self, group: Group) -> PathBuf {
        self.group(group).join("maps")
    }

    pub(crate) fn map(&self, row: &MapRow) -> PathBuf {
        self.maps(row.group).join(row.name)
    }

    fn images(&self) -> PathBuf {
        self.group(Group::Policy).join("image")
    }

    pub(crate) fn image(&self, slot: Slot) -> PathBuf {
        self.images().join(slot.to_string())
    }

    fn addresses(&self) -> PathBuf {
        self.group(Group::Policy).join("addresses")
    }

    pub(crate) fn addresses_of(&self, slot: Slot) -> PathBuf {
        self.addresses().join(slot.to_string())
    }

    pub(crate) fn links(&self) -> PathBuf {
        self.group(Group::Flows).join("links")
    }

    pub(crate) fn programs(&self) -> PathBuf {
        self.group(Group::Flows).join("programs")
    }
}

/// Directories of other versions that this build replaces. It fails if the flows have another layout, or if a name is not
/// ours.
fn others(pin_dir: &Path) -> Result<Others, KernelError> {
    let mut others = Others::default();
    for name in names(pin_dir)? {
        if Group::ALL.into_iter().any(|group| name == group_directory(group)) {
            continue;
        }
        let is_policy = is_version_of(&name, Group::Policy.name());
        if is_policy || is_version_of(&name, Group::Denials.name()) {
            others.policy |= is_policy;
            others.directories.push(pin_dir.join(name));
        } else if is_version(&name) {
            let expected = group_directory(Group::Flows);
            return Err(KernelError::OtherAbi { path: pin_dir.to_path_buf(), found: name, expected });
        } else {
            return Err(KernelError::Foreign { path: pin_dir.join(name) });
        }
    }
    Ok(others)
}

/// Whether a name is that of a directory of some version.
pub(crate) fn is_version(name: &str) -> bool {
    let groups = Group::ALL.map(Group::name);
    groups.into_iter().chain([BEFORE_GROUPS]).any(|first| is_version_of(name, first))
}

fn is_version_of(name: &str, first: &str) -> bool {
    let number = name.strip_prefix(first).and_then(|rest| rest.strip_prefix('-'));
    number.is_some_and(|number| !number.is_empty() && number.bytes().all(|byte| byte.is_ascii_digit()))
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
    check_owner(directory, &found)?;
    if found.permissions().mode() & 0o077 != 0 {
        fs::set_permissions(directory, fs::Permissions::from_mode(0o700)).map_err(at(directory, "chmod"))?;
    }
    Ok(())
}

/// Refuses what another user has made: it can hold anything, and its owner can change it at any time.
pub(crate) fn check_owner(directory: &Path, found: &Metadata) -> Result<(), KernelError> {
    let owner = found.uid();
    if owner == nix::unistd::geteuid().as_raw() {
        return Ok(());
    }
    Err(KernelError::ForeignOwner { path: directory.to_path_buf(), owner })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_numbered_directories_are_a_version() {
        for (name, is) in [
            ("abi-1", true),
            ("flows-3", true),
            ("policy-20", true),
            ("denials-3", true),
            ("flows-", false),
            ("flows-x", false),
            ("flows-3x", false),
            ("flows", false),
            ("maps-1", false),
        ] {
            assert_eq!(is_version(name), is, "{name}");
        }
    }

    #[test]
    fn an_incoming_pin_lies_beside_the_one_it_replaces() {
        let layout = Layout::of(Path::new("/pins"));
        assert_eq!(incoming(&layout.image(Slot::of(1))), layout.images().join("1-new"));
    }

    #[test]
    fn a_second_lock_and_what_is_not_ours_are_refused() {
        let directory = tempfile::tempdir().unwrap();
        let pins = directory.path().join("pins");
        let (layout, _, lock) = Layout::open(&pins, 7).unwrap();
        assert!(matches!(Layout::open(&pins, 7), Err(KernelError::Busy { .. })));
        drop(lock);
        let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
        assert_eq!((mode(&pins), mode(&layout.links())), (0o700, 0o700));

        assert!(matches!(Layout::open(&pins, 8), Err(KernelError::OtherNamespace { .. })));
        Layout::open(&pins, 7).unwrap();
        for group in Group::ALL {
            let stranger = layout.group(group).join("stranger");
            fs::create_dir(&stranger).unwrap();
            let error = Layout::open(&pins, 7).unwrap_err();
            assert!(matches!(&error, KernelError::Foreign { path } if *path == stranger), "{error}");
            fs::remove_dir(stranger).unwrap();
        }
        for other in ["abi-2", "flows-999"] {
            fs::create_dir(pins.join(other)).unwrap();
            let error = Layout::open(&pins, 7).unwrap_err();
            assert!(matches!(&error, KernelError::OtherAbi { found, .. } if found == other), "{error}");
            fs::remove_dir(pins.join(other)).unwrap();
        }
    }

    #[test]
    fn other_layouts_of_policy_and_denials_are_found_and_left() {
        let directory = tempfile::tempdir().unwrap();
        let pins = directory.path().join("pins");
        for (name, policy) in [("denials-998", false), ("policy-999", true)] {
            fs::create_dir_all(pins.join(name)).unwrap();
            let (_, others, _) = Layout::open(&pins, 7).unwrap();
            assert_eq!(others.policy, policy, "{name}");
            assert!(others.directories.contains(&pins.join(name)), "{others:?}");
        }
        assert!(pins.join("denials-998").is_dir() && pins.join("policy-999").is_dir());
    }
}
