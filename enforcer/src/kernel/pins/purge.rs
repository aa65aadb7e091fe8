//! Removes enforcement. Nothing else in the program does so.
//!
//! Input: the pin directory. Output: no pin of Enforcer is left, even if an earlier start or purge was cut short. Every error
//! is reported, and none of them stops the rest.

use std::fs;
use std::io;
use std::os::fd::AsFd;
use std::path::Path;

use enforcer_common::id::Ifindex;

use crate::kernel::error::{KernelError, at, on_device};
use crate::kernel::pins::layout::{check_owner, is_version, names};
use crate::kernel::pins::lock::lock;
use crate::kernel::preflight;
use crate::kernel::sys;

/// Removes the pins of every version. Files that Enforcer did not make stay, and are reported. While a daemon runs
/// this is refused, because the daemon would make everything again.
pub fn purge(pin_dir: &Path) -> Result<(), Vec<KernelError>> {
    preflight::check(pin_dir).map_err(|error| vec![error])?;
    let found = match fs::symlink_metadata(pin_dir) {
        Ok(found) => found,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(vec![at(pin_dir, "stat")(error)]),
    };
    check_owner(pin_dir, &found).map_err(|error| vec![error])?;
    let _lock = lock(pin_dir).map_err(|error| vec![error])?;
    let mut errors = Vec::new();
    match names(pin_dir) {
        Ok(found) => {
            let (ours, strange): (Vec<_>, Vec<_>) = found.into_iter().partition(|name| is_version(name));
            let ours: Vec<_> = ours.iter().map(|name| pin_dir.join(name)).collect();
            // Links first: half removed maps must not be enforced with.
            for links in ours.iter().map(|path| path.join("links")) {
                release_all(&links, &mut errors);
                remove(&links, &mut errors);
            }
            for path in &ours {
                remove(path, &mut errors);
            }
            errors.extend(strange.iter().map(|name| KernelError::Foreign { path: pin_dir.join(name) }));
        }
        Err(error) => errors.push(error),
    }
    if errors.is_empty() {
        match fs::remove_dir(pin_dir) {
            // The file system itself may be mounted there.
            Err(error) if error.raw_os_error() == Some(libc::EBUSY) => {}
            Err(error) => errors.push(at(pin_dir, "remove")(error)),
            Ok(()) => {}
        }
    }
    if errors.is_empty() { Ok(()) } else { Err(errors) }
}

/// Detaches every link below, so that nothing is enforced any more when this returns.
fn release_all(links: &Path, errors: &mut Vec<KernelError>) {
    for name in names(links).unwrap_or_default() {
        let path = links.join(&name);
        let ifindex = name.split('-').next().and_then(|number| number.parse().ok()).unwrap_or(0);
        let released = match sys::object_get(&path) {
            Ok(link) => sys::link_detach(link.as_fd()).map_err(on_device(Ifindex(ifindex), "detach")),
            Err(error) => Err(at(&path, "open pin")(error)),
        };
        errors.extend(released.err());
    }
}

fn remove(path: &Path, errors: &mut Vec<KernelError>) {
    let found = match fs::symlink_metadata(path) {
        Ok(found) => found,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return,
        Err(error) => return errors.push(at(path, "stat")(error)),
    };
    if !found.is_dir() {
        if let Err(error) = fs::remove_file(path) {
            errors.push(at(path, "unpin")(error));
        }
        return;
    }
    match names(path) {
        Ok(found) => found.iter().for_each(|name| remove(&path.join(name), errors)),
        Err(error) => errors.push(error),
    }
    if let Err(error) = fs::remove_dir(path) {
        errors.push(at(path, "remove")(error));
    }
}
