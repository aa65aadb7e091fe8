//! The errors between the daemon and the kernel. Each text says what to do, if something can be done.

use std::io;
use std::path::PathBuf;

use enforcer_common::id::{Ifindex, Revision, Slot};

use crate::plan::Impossible;

/// An operation on the kernel failed. The failure has not opened anything.
#[derive(Debug, thiserror::Error)]
pub enum KernelError {
    /// The process may not use bpf(2).
    #[error("the capabilities {} are missing; run as root, or grant them", missing.join(" and "))]
    MissingCapabilities {
        /// Names of the capabilities.
        missing: Vec<&'static str>,
    },
    /// tcx came with 6.6.
    #[error("kernel {release} has no tcx hooks; Linux 6.6 or later is needed")]
    KernelTooOld {
        /// As uname says.
        release: String,
    },
    /// The pin directory is not on a bpf file system.
    #[error(
        "{} is not on a bpf file system; run `mount -t bpf -o mode=0700 bpf /sys/fs/bpf`, or choose another --pin-dir",
        path.display()
    )]
    NoBpffs {
        /// The pin directory.
        path: PathBuf,
    },
    /// The binary was built without the bpf compiler.
    #[error("this build holds no bpf programs; run `cargo xtask setup`, then build again")]
    NoObject,
    /// Another process holds the lock on the pin directory.
    #[error("another enforcer is at work on {}; only one process at a time can use a pin directory", path.display())]
    Busy {
        /// The pin directory.
        path: PathBuf,
    },
    /// Another version has pinned something there.
    #[error("{} holds pins of {found}, but this build makes {expected}; run the version that made them, or remove \
             enforcement with `enforcer purge`", path.display())]
    OtherAbi {
        /// The pin directory.
        path: PathBuf,
        /// The directory that was found.
        found: String,
        /// The directory of this build.
        expected: String,
    },
    /// Something that no enforcer has made.
    #[error(
        "{} is not the enforcer's, but lies in its pin directory; remove it, or choose another --pin-dir",
        path.display()
    )]
    Foreign {
        /// What was found.
        path: PathBuf,
    },
    /// Somebody else has made the directory.
    #[error(
        "the directory {} belongs to {}; remove it with `rm -r`, let nobody but root write to {}, and start again, or \
             choose another --pin-dir",
        path.display(), user(*owner), path.parent().unwrap_or(path).display()
    )]
    ForeignOwner {
        /// The directory.
        path: PathBuf,
        /// Its owner's id.
        owner: u32,
    },
    /// The pins enforce in another network namespace.
    #[error(
        "{} enforces in another network namespace; start the daemon there, or choose another --pin-dir",
        path.display()
    )]
    OtherNamespace {
        /// The pin directory.
        path: PathBuf,
    },
    /// A pinned map is not what this build makes.
    #[error(
        "pinned map {name}: {what} is {found}, expected {expected}; run the version that made the map, or remove \
             enforcement with `enforcer purge`"
    )]
    MapMismatch {
        /// Map.
        name: String,
        /// Attribute.
        what: &'static str,
        /// As pinned.
        found: u64,
        /// As this build makes it.
        expected: u64,
    },
    /// The image in force cannot be read back.
    #[error(
        "the image of revision {revision} in slot {slot} is damaged: {what}; `enforcer purge` removes it together with \
             enforcement"
    )]
    DamagedImage {
        /// Revision in force.
        revision: Revision,
        /// Slot.
        slot: Slot,
        /// What is wrong.
        what: &'static str,
    },
    /// Nothing is pinned there.
    #[error(
        "nothing is enforced by {}, because it holds no pins; start `enforcer run`, or give its --pin-dir",
        path.display()
    )]
    NothingPinned {
        /// The pin directory.
        path: PathBuf,
    },
    /// The tables do not agree with their header.
    #[error("the compiled image is not valid, which is a defect of Enforcer: {what}")]
    InvalidImage {
        /// What is wrong.
        what: &'static str,
    },
    /// The tables need too much memory.
    #[error(
        "the compiled image needs {needed} bytes, but at most {budget} are allowed; the last good image stays in force"
    )]
    ImageTooLarge {
        /// Bytes it needs.
        needed: u64,
        /// The budget.
        budget: u64,
    },
    /// More of something than there are places.
    #[error("{needed} {what} are needed, but there is room for {room}; the last good image stays in force")]
    NoRoom {
        /// What there is too much of.
        what: &'static str,
        /// How many.
        needed: usize,
        /// How many fit.
        room: usize,
    },
    /// The object cannot be loaded.
    #[error("the bpf object of this build cannot be loaded")]
    Object(#[from] Box<aya::EbpfError>),
    /// A program was refused.
    #[error("the kernel refuses to load the program {name}: {}", log.join("; "))]
    Program {
        /// Program.
        name: &'static str,
        /// The last lines of what the verifier says.
        log: Vec<String>,
        /// Why.
        source: io::Error,
    },
    /// A structure of the kernel is not as the program behind translation reads it.
    #[error("the kernel does not say that its structure {name} is as this build knows it")]
    UnknownStructure {
        /// Structure.
        name: &'static str,
    },
    /// The object lacks a program, or it is of another kind.
    #[error("the bpf object does not have the program {name} in the form that this build needs")]
    MissingProgram {
        /// Program.
        name: &'static str,
    },
    /// A map's own error.
    #[error("a call on the map {name} failed")]
    Map {
        /// Map.
        name: &'static str,
        /// Why.
        source: Box<aya::maps::MapError>,
    },
    /// A device cannot be attached to.
    #[error("device {ifindex}: the step `{call}` failed")]
    Device {
        /// Device.
        ifindex: Ifindex,
        /// What failed.
        call: &'static str,
        /// Why.
        source: io::Error,
    },
    /// Another program came before ours.
    #[error("device {ifindex}: another program runs before the enforcer's and can pass packets by it; remove it")]
    NotFirst {
        /// Device.
        ifindex: Ifindex,
    },
    /// A call on a map failed.
    #[error("map {name}: the step `{call}` failed")]
    MapCall {
        /// Map.
        name: String,
        /// What failed.
        call: &'static str,
        /// Why.
        source: io::Error,
    },
    /// A file operation failed.
    #[error("{}: the step `{call}` failed", path.display())]
    Path {
        /// Path.
        path: PathBuf,
        /// What failed.
        call: &'static str,
        /// Why.
        source: io::Error,
    },
    /// A system call failed.
    #[error("the step `{call}` failed")]
    System {
        /// What failed.
        call: &'static str,
        /// Why.
        source: io::Error,
    },
}

/// A user by id, and by name if there is one.
fn user(id: u32) -> String {
    match nix::unistd::User::from_uid(id.into()) {
        Ok(Some(user)) => format!("user {id} ({})", user.name),
        Ok(None) | Err(_) => format!("user {id}"),
    }
}

impl From<Impossible> for KernelError {
    fn from(reason: Impossible) -> Self {
        match reason {
            Impossible::Invalid { what } => Self::InvalidImage { what },
            Impossible::ImageTooLarge { needed, budget } => Self::ImageTooLarge { needed, budget },
            Impossible::NoRoom { what, needed, room } => Self::NoRoom { what, needed, room },
        }
    }
}

/// Names the path in an I/O error.
pub(crate) fn at(path: &std::path::Path, call: &'static str) -> impl FnOnce(io::Error) -> KernelError {
    let path = path.to_path_buf();
    move |source| KernelError::Path { path, call, source }
}

/// Names the map in an I/O error.
pub(crate) fn on_map(name: &str, call: &'static str) -> impl FnOnce(io::Error) -> KernelError {
    let name = name.to_owned();
    move |source| KernelError::MapCall { name, call, source }
}

/// Names the device in an I/O error.
pub(crate) fn on_device(ifindex: Ifindex, call: &'static str) -> impl FnOnce(io::Error) -> KernelError {
    move |source| KernelError::Device { ifindex, call, source }
}
