//! The calls of bpf(2) that aya does not offer: maps with exact attributes, pins with information about them, tcx links by
//! ifindex, the chain of a device, netfilter links, and programs of type syscall and netfilter.
//!
//! Input and output: plain data and file descriptors. Unsafe code is here and in `mmap`.
#![allow(
    unsafe_code,
    reason = "bpf(2) takes structs of pointers; each call is checked against the sizes of the map that it touches"
)]

mod hook;
mod map;
mod program;

use std::ffi::{CString, c_long};
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use nix::errno::Errno;

pub(crate) use hook::{
    LinkInfo, NETFILTER, NetfilterHook, chain, link_create, link_detach, link_info, link_update, netfilter_create,
    netfilter_info, program_id,
};
pub(crate) use map::{Map, MapAttributes, kind};
pub(crate) use program::{NewProgram, ProgramType, btf_load, program_load, syscall_run};

/// Commands of bpf(2), from the kernel's `enum bpf_cmd`.
mod command {
    pub(super) const MAP_CREATE: i32 = 0;
    pub(super) const MAP_LOOKUP_ELEM: i32 = 1;
    pub(super) const MAP_UPDATE_ELEM: i32 = 2;
    pub(super) const MAP_DELETE_ELEM: i32 = 3;
    pub(super) const MAP_GET_NEXT_KEY: i32 = 4;
    pub(super) const PROG_LOAD: i32 = 5;
    pub(super) const OBJ_PIN: i32 = 6;
    pub(super) const OBJ_GET: i32 = 7;
    pub(super) const PROG_TEST_RUN: i32 = 10;
    pub(super) const OBJ_GET_INFO_BY_FD: i32 = 15;
    pub(super) const PROG_QUERY: i32 = 16;
    pub(super) const BTF_LOAD: i32 = 18;
    pub(super) const MAP_FREEZE: i32 = 22;
    pub(super) const MAP_UPDATE_BATCH: i32 = 26;
    pub(super) const LINK_CREATE: i32 = 28;
    pub(super) const LINK_UPDATE: i32 = 29;
    pub(super) const LINK_DETACH: i32 = 34;
}

/// How often a call is made that the kernel asks to repeat.
const ATTEMPTS: u32 = 8;

/// Number of CPUs that may ever be there: per-CPU values and slices have one part for each.
pub(crate) fn possible_cpus() -> io::Result<usize> {
    aya::util::nr_cpus().map_err(|(_, error)| error)
}

/// Pins an object; EEXIST if the path is taken.
pub(crate) fn object_pin(fd: BorrowedFd<'_>, path: &Path) -> io::Result<()> {
    object(command::OBJ_PIN, fd.as_raw_fd(), path).map(|_| ())
}

/// The object that is pinned at a path.
pub(crate) fn object_get(path: &Path) -> io::Result<OwnedFd> {
    Ok(owned(object(command::OBJ_GET, 0, path)?))
}

fn object(command: i32, fd: i32, path: &Path) -> io::Result<c_long> {
    #[repr(C)]
    struct Object {
        pathname: u64,
        bpf_fd: i32,
        file_flags: u32,
    }
    let path = CString::new(path.as_os_str().as_bytes())?;
    let mut object = Object { pathname: address(path.as_ptr().cast()), bpf_fd: fd, file_flags: 0 };
    // SAFETY: the layout is this command's; the path ends with a zero byte and outlives the call.
    unsafe { bpf(command, &mut object) }
}

/// Waits until every program run that has begun is over. `false` means that this kernel refuses the call.
pub(crate) fn membarrier() -> bool {
    const MEMBARRIER_CMD_GLOBAL: i32 = 1;
    // SAFETY: takes three numbers.
    let done = unsafe { libc::syscall(libc::SYS_membarrier, MEMBARRIER_CMD_GLOBAL, 0, 0) };
    done == 0
}

/// The first words of an object's information.
fn info<const N: usize>(fd: BorrowedFd<'_>) -> io::Result<[u32; N]> {
    // The kernel writes u64s.
    #[repr(C, align(8))]
    struct Words<const N: usize>([u32; N]);
    #[repr(C)]
    struct Info {
        bpf_fd: i32,
        size: u32,
        words: u64,
    }
    let mut words = Words([0; N]);
    let mut info =
        Info { bpf_fd: fd.as_raw_fd(), size: size_of::<[u32; N]>() as u32, words: address((&raw mut words).cast()) };
    // SAFETY: the layout is this command's; the kernel writes at most `size` bytes there, and since all of them are
    // zero now it finds no pointer in them to write through.
    unsafe { bpf(command::OBJ_GET_INFO_BY_FD, &mut info) }?;
    Ok(words.0)
}

/// # Safety
/// `attributes` must have the layout of the command's part of `union bpf_attr`, padding zeroed, with valid pointers.
unsafe fn bpf<A>(command: i32, attributes: &mut A) -> io::Result<c_long> {
    let mut attempts = 1;
    loop {
        // SAFETY: pointer and size are those of `attributes`; the caller vouches for what it holds.
        let result = unsafe { libc::syscall(libc::SYS_bpf, command, &raw mut *attributes, size_of::<A>()) };
        match Errno::result(result) {
            Ok(result) => return Ok(result),
            // A signal came between.
            Err(Errno::EINTR | Errno::EAGAIN) if attempts < ATTEMPTS => attempts += 1,
            Err(error) => return Err(error.into()),
        }
    }
}

fn owned(fd: c_long) -> OwnedFd {
    // SAFETY: the kernel has just made this descriptor for this call, and nobody else knows it.
    unsafe { OwnedFd::from_raw_fd(fd as i32) }
}

fn address(pointer: *const u8) -> u64 {
    pointer.expose_provenance() as u64
}

/// The cookie of the network namespace that a socket is in.
pub(crate) fn namespace_cookie(socket: BorrowedFd<'_>) -> io::Result<u64> {
    let mut cookie = 0_u64;
    let mut size = size_of::<u64>() as libc::socklen_t;
    // SAFETY: the kernel writes the eight bytes of `cookie` and the size.
    let result = unsafe {
        libc::getsockopt(
            socket.as_raw_fd(),
            libc::SOL_SOCKET,
            libc::SO_NETNS_COOKIE,
            (&raw mut cookie).cast(),
            &raw mut size,
        )
    };
    Errno::result(result)?;
    Ok(cookie)
}
