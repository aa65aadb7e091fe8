//! Asks the kernel whether anybody has a file open for writing.
//!
//! Input: an open file. Output: a read lease on it, which the kernel gives only while nobody can write the file, or why there
//! is none. While the lease is held, whoever opens the file for writing waits.

#![allow(unsafe_code, reason = "no crate has the commands for leases of fcntl(2)")]

use std::fs::File;
use std::io;
use std::os::fd::AsRawFd as _;

use libc::c_int;

/// From the kernel's `fcntl.h`; the crate libc has it for few targets.
const F_SETSIG: c_int = 10;

/// Takes a read lease, which ends when the file is closed. `EAGAIN`: somebody has the file open for writing.
pub(super) fn read_lease(file: &File) -> io::Result<()> {
    // The kernel tells the holder of a lease by a signal that somebody waits. SIGIO would end the process; SIGURG is
    // ignored unless it is handled.
    fcntl(file, F_SETSIG, libc::SIGURG)?;
    fcntl(file, libc::F_SETLEASE, libc::F_RDLCK)
}

fn fcntl(file: &File, command: c_int, argument: c_int) -> io::Result<()> {
    // SAFETY: both commands take a number and touch no memory of this process; the descriptor is open.
    let result = unsafe { libc::fcntl(file.as_raw_fd(), command, argument) };
    if result == -1 { Err(io::Error::last_os_error()) } else { Ok(()) }
}
