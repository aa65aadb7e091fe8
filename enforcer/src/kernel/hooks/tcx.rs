//! The tcx hooks of a device, one for each side.
//!
//! Input: a program, a device and a side. Output: a link that is the first of the device's chain, and what the kernel says
//! about links and chains. Another way to attach would be another file like this one, because no other file knows what the
//! kernel calls a side.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;

use enforcer_common::id::Ifindex;
use enforcer_common::side::Side;

use crate::kernel::error::{KernelError, at, on_device};
use crate::kernel::sys::{self, LinkInfo};

/// The hook of a side, from the kernel's `enum bpf_attach_type`.
const fn attach_type(side: Side) -> u32 {
    match side {
        // What the device receives.
        Side::FromWorkload | Side::Guard => 46,
        // What the device transmits.
        Side::ToWorkload => 47,
    }
}

/// Attaches a program as the first of a device's chain.
pub(super) fn attach(program: BorrowedFd<'_>, ifindex: Ifindex, side: Side) -> Result<OwnedFd, KernelError> {
    sys::link_create(program, ifindex.0, attach_type(side)).map_err(on_device(ifindex, "attach"))
}

/// Puts another program in a link's place, in one step.
pub(super) fn replace(link: &OwnedFd, program: BorrowedFd<'_>, ifindex: Ifindex) -> Result<(), KernelError> {
    sys::link_update(link.as_fd(), program).map_err(on_device(ifindex, "replace the program"))
}

/// Detaches a link at once. Its device may be gone already.
pub(super) fn detach(link: &OwnedFd, ifindex: Ifindex) -> Result<(), KernelError> {
    sys::link_detach(link.as_fd()).map_err(on_device(ifindex, "detach"))
}

/// What a link of a device is attached to.
pub(super) fn info(link: &OwnedFd, ifindex: Ifindex) -> Result<LinkInfo, KernelError> {
    sys::link_info(link.as_fd()).map_err(on_device(ifindex, "read the link"))
}

/// The link that is pinned at a path, and what it is attached to. An object of another kind is refused as foreign.
pub(super) fn pinned(path: &Path) -> Result<(OwnedFd, LinkInfo), KernelError> {
    let link = sys::object_get(path).map_err(at(path, "open pin"))?;
    let info = sys::link_info(link.as_fd()).map_err(|_| KernelError::Foreign { path: path.to_path_buf() })?;
    Ok((link, info))
}

/// Whether a link is attached to this side of this device.
pub(super) fn is_at(info: &LinkInfo, ifindex: Ifindex, side: Side) -> bool {
    Ifindex(info.ifindex) == ifindex && info.hook == attach_type(side)
}

/// Place of a link in the chain of a device. `None`: it is not there, or the device is not.
pub(crate) fn place(link: u32, ifindex: Ifindex, side: Side) -> io::Result<Option<usize>> {
    match sys::chain(ifindex.0, attach_type(side)) {
        Ok(chain) => Ok(chain.iter().position(|attached| attached.link == link)),
        Err(error) if error.raw_os_error() == Some(libc::ENODEV) => Ok(None),
        Err(error) => Err(error),
    }
}

/// The links at the ingress of a device, 0 for a program that was attached without one. Empty: there are none, or the device is
/// gone.
pub(super) fn ingress(ifindex: Ifindex) -> io::Result<Vec<u32>> {
    match sys::chain(ifindex.0, attach_type(Side::FromWorkload)) {
        Err(error) if error.raw_os_error() == Some(libc::ENODEV) => Ok(Vec::new()),
        chain => Ok(chain?.into_iter().map(|attached| attached.link).collect()),
    }
}

/// Whether there is such a device in this network namespace.
pub(crate) fn device_exists(ifindex: Ifindex) -> Result<bool, KernelError> {
    match sys::chain(ifindex.0, attach_type(Side::FromWorkload)) {
        Ok(_) => Ok(true),
        Err(error) if error.raw_os_error() == Some(libc::ENODEV) => Ok(false),
        Err(error) => Err(on_device(ifindex, "read the chain")(error)),
    }
}
