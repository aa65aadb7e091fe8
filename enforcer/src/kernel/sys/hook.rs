//! The calls for the hooks of a device: tcx links, the chain, and information about a program behind a descriptor. A hook
//! is a number of the kernel's `enum bpf_attach_type`.

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, OwnedFd};

use nix::errno::Errno;

use super::{address, bpf, command, info, owned};

/// Put before every other program of the chain.
const BPF_F_BEFORE: u32 = 1 << 3;
/// `BPF_LINK_TYPE_TCX`.
const LINK_TYPE_TCX: u32 = 11;
/// Programs of one hook that a query can tell of: the kernel's own limit for a chain (`BPF_MPROG_MAX`).
const CHAIN: usize = 64;

/// A tcx link.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) struct LinkInfo {
    pub(crate) id: u32,
    pub(crate) program: u32,
    /// 0: its device is gone.
    pub(crate) ifindex: u32,
    pub(crate) hook: u32,
}

/// One place of a device's chain, first to last.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) struct Attached {
    pub(crate) program: u32,
    /// 0: attached without a link.
    pub(crate) link: u32,
}

/// `BPF_NETFILTER`.
pub(crate) const NETFILTER: u32 = 45;
/// `BPF_LINK_TYPE_NETFILTER`.
const LINK_TYPE_NETFILTER: u32 = 10;

/// A place in netfilter.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) struct NetfilterHook {
    /// `NFPROTO_IPV4` or `NFPROTO_IPV6`.
    pub(crate) family: u32,
    /// From the kernel's `enum nf_inet_hooks`.
    pub(crate) hook: u32,
    /// Lower ones come first. The kernel takes one program for each.
    pub(crate) priority: i32,
}

/// Attaches a program in this network namespace. EBUSY: another program has this priority.
pub(crate) fn netfilter_create(program: BorrowedFd<'_>, at: NetfilterHook) -> io::Result<OwnedFd> {
    #[repr(C)]
    struct Create {
        prog_fd: i32,
        target_fd: u32,
        attach_type: u32,
        flags: u32,
        family: u32,
        hook: u32,
        priority: i32,
        netfilter_flags: u32,
    }
    let NetfilterHook { family, hook, priority } = at;
    let mut create = Create {
        prog_fd: program.as_raw_fd(),
        target_fd: 0,
        attach_type: NETFILTER,
        flags: 0,
        family,
        hook,
        priority,
        netfilter_flags: 0,
    };
    // SAFETY: the layout is this command's; no pointers in it.
    Ok(owned(unsafe { bpf(command::LINK_CREATE, &mut create) }?))
}

/// Where a netfilter link is attached, and the id of its program.
pub(crate) fn netfilter_info(fd: BorrowedFd<'_>) -> io::Result<(NetfilterHook, u32)> {
    // Type, id, program and padding of `struct bpf_link_info`, then the part for netfilter.
    let [kind, _, program, _, family, hook, priority] = info(fd)?;
    if kind != LINK_TYPE_NETFILTER {
        return Err(Errno::EMEDIUMTYPE.into());
    }
    Ok((NetfilterHook { family, hook, priority: priority.cast_signed() }, program))
}

/// What a link is attached to.
pub(crate) fn link_info(fd: BorrowedFd<'_>) -> io::Result<LinkInfo> {
    // Type, id, program and padding of `struct bpf_link_info`, then the part for tcx: ifindex and hook.
    let [kind, id, program, _, ifindex, hook] = info(fd)?;
    if kind != LINK_TYPE_TCX {
        return Err(Errno::EMEDIUMTYPE.into());
    }
    Ok(LinkInfo { id, program, ifindex, hook })
}

/// Id of a program.
pub(crate) fn program_id(fd: BorrowedFd<'_>) -> io::Result<u32> {
    let [_, id] = info(fd)?;
    Ok(id)
}

/// Attaches a program as the first of a device's chain.
pub(crate) fn link_create(program: BorrowedFd<'_>, ifindex: u32, hook: u32) -> io::Result<OwnedFd> {
    #[repr(C)]
    struct Create {
        prog_fd: i32,
        ifindex: u32,
        hook: u32,
        flags: u32,
        relative_fd: u32,
        pad: u32,
        expected_revision: u64,
    }
    let mut create = Create {
        prog_fd: program.as_raw_fd(),
        ifindex,
        hook,
        flags: BPF_F_BEFORE,
        relative_fd: 0,
        pad: 0,
        expected_revision: 0,
    };
    // SAFETY: the layout is this command's; no pointers in it.
    Ok(owned(unsafe { bpf(command::LINK_CREATE, &mut create) }?))
}

/// Puts another program in a link's place, in one step.
pub(crate) fn link_update(link: BorrowedFd<'_>, program: BorrowedFd<'_>) -> io::Result<()> {
    let mut update = [link.as_raw_fd(), program.as_raw_fd(), 0, 0];
    // SAFETY: link, program, flags, old program: this command's layout; no pointers in it.
    unsafe { bpf(command::LINK_UPDATE, &mut update) }.map(|_| ())
}

/// Detaches a link at once: letting go of its last pin or descriptor does so some time later. Its device may be gone
/// already.
pub(crate) fn link_detach(link: BorrowedFd<'_>) -> io::Result<()> {
    let mut detach = [link.as_raw_fd()];
    // SAFETY: the link: this command's layout; no pointers in it.
    match unsafe { bpf(command::LINK_DETACH, &mut detach) } {
        Err(error) if error.raw_os_error() != Some(libc::ENOLINK) => Err(error),
        _ => Ok(()),
    }
}

/// The chain of a device in this network namespace. ENODEV: no such device here.
pub(crate) fn chain(ifindex: u32, hook: u32) -> io::Result<Vec<Attached>> {
    #[repr(C)]
    struct Query {
        ifindex: u32,
        hook: u32,
        flags: [u32; 2],
        prog_ids: u64,
        count: u32,
        pad: u32,
        prog_attach_flags: u64,
        link_ids: u64,
        link_attach_flags: u64,
        revision: u64,
    }
    let (mut programs, mut links) = ([0_u32; CHAIN], [0_u32; CHAIN]);
    let mut query = Query {
        ifindex,
        hook,
        flags: [0; 2],
        prog_ids: address(programs.as_mut_ptr().cast()),
        count: CHAIN as u32,
        pad: 0,
        prog_attach_flags: 0,
        link_ids: address(links.as_mut_ptr().cast()),
        link_attach_flags: 0,
        revision: 0,
    };
    // SAFETY: the layout is this command's; both arrays hold `count` ids and outlive the call.
    match unsafe { bpf(command::PROG_QUERY, &mut query) } {
        Ok(_) => {}
        // Nothing was ever attached there.
        Err(error) if error.raw_os_error() == Some(libc::ENOENT) => return Ok(Vec::new()),
        Err(error) => return Err(error),
    }
    let places = programs.into_iter().zip(links).take(query.count as usize);
    Ok(places.map(|(program, link)| Attached { program, link }).collect())
}
