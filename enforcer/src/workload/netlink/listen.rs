//! The one socket that receives netlink events, of this namespace and of the containers' namespaces.
//!
//! netlink-sys drops the control message that carries the nsid, so this module makes the two system calls that need it.
//! Input: a netlink socket. Output: datagrams, each with the nsid of the namespace that sent it.

#![allow(unsafe_code, reason = "an option that nix does not know, and tokio's registration of a descriptor")]

use std::io;
use std::os::fd::{AsRawFd, OwnedFd};

use nix::cmsg_space;
use nix::errno::Errno;
use nix::sys::socket::{
    AddressFamily, ControlMessageOwned, MsgFlags, NetlinkAddr, SockFlag, SockProtocol, SockType, bind, recvmsg,
    setsockopt, socket, sockopt,
};
use tokio::io::unix::AsyncFd;

/// Link, address and route changes of both families, and namespaces that go.
const GROUPS: u32 = group(libc::RTNLGRP_LINK)
    | group(libc::RTNLGRP_IPV4_IFADDR)
    | group(libc::RTNLGRP_IPV6_IFADDR)
    | group(libc::RTNLGRP_IPV4_ROUTE)
    | group(libc::RTNLGRP_IPV6_ROUTE)
    | group(libc::RTNLGRP_NSID);
/// Changes of qdiscs and their filters.
const FILTERS: u32 = group(libc::RTNLGRP_TC);

/// Room for bursts: 4,096 link events of about 1.4 KB.
const RECEIVE_BUFFER: usize = 8 << 20;

const fn group(number: libc::c_uint) -> u32 {
    1 << (number - 1)
}

/// What one `recvmsg` gave.
#[derive(Debug)]
pub(super) enum Heard {
    /// A datagram of the node's own namespace (`None`) or of the one with this nsid.
    Datagram(Option<i32>, Vec<u8>),
    /// The kernel dropped events; nothing short of a full resync helps.
    Overrun,
}

/// Socket that is subscribed to the groups above.
#[derive(Debug)]
pub(super) struct Listener {
    socket: AsyncFd<OwnedFd>,
    /// Events of other namespaces arrive too.
    pub(super) hears_all: bool,
}

impl Listener {
    /// Opens the socket in the namespace of the calling thread. `filters`: it hears of qdiscs, too.
    pub(super) fn open(filters: bool) -> io::Result<Self> {
        let fd = socket(
            AddressFamily::Netlink,
            SockType::Raw,
            SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK,
            SockProtocol::NetlinkRoute,
        )?;
        // The forced size passes rmem_max but needs CAP_NET_ADMIN; what is refused only makes overruns likelier.
        if setsockopt(&fd, sockopt::RcvBufForce, &RECEIVE_BUFFER).is_err() {
            setsockopt(&fd, sockopt::RcvBuf, &RECEIVE_BUFFER)?;
        }
        let hears_all = match listen_to_all(&fd) {
            Ok(()) => true,
            Err(error) if error.raw_os_error() == Some(libc::EPERM) => false,
            Err(error) => return Err(error),
        };
        bind(fd.as_raw_fd(), &NetlinkAddr::new(0, if filters { GROUPS | FILTERS } else { GROUPS }))?;
        // SAFETY: an OwnedFd returns the same open descriptor until it is dropped, and `AsyncFd` owns it till then.
        let socket = unsafe { AsyncFd::register(fd)? };
        Ok(Self { socket, hears_all })
    }

    /// Waits for the next datagram. Cancel safe.
    pub(super) async fn next(&self) -> io::Result<Heard> {
        loop {
            let mut ready = self.socket.readable().await?;
            if let Ok(heard) = ready.try_io(|socket| receive(socket.get_ref())) {
                return heard;
            }
        }
    }

    /// Takes what is already there, without waiting.
    pub(super) fn pending(&self) -> io::Result<Option<Heard>> {
        match receive(self.socket.get_ref()) {
            Ok(heard) => Ok(Some(heard)),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(None),
            Err(error) => Err(error),
        }
    }
}

fn receive(fd: &OwnedFd) -> io::Result<Heard> {
    let mut buffer = vec![0_u8; 32 << 10];
    let mut control = cmsg_space!(i32);
    let mut slices = [io::IoSliceMut::new(&mut buffer)];
    let (length, nsid) = loop {
        match recvmsg::<NetlinkAddr>(fd.as_raw_fd(), &mut slices, Some(&mut control), MsgFlags::MSG_DONTWAIT) {
            // A datagram that did not fit is as good as lost.
            Ok(message) if message.flags.contains(MsgFlags::MSG_TRUNC) => return Ok(Heard::Overrun),
            // Only the kernel sends from port 0; others may write to our port.
            Ok(message) if message.address.is_some_and(|from| from.pid() != 0) => {}
            Ok(message) => break (message.bytes, message.cmsgs()?.find_map(|control| nsid_of(&control))),
            Err(Errno::ENOBUFS) => return Ok(Heard::Overrun),
            Err(Errno::EINTR) => {}
            Err(error) => return Err(error.into()),
        }
    };
    buffer.truncate(length);
    Ok(Heard::Datagram(nsid, buffer))
}

fn nsid_of(control: &ControlMessageOwned) -> Option<i32> {
    match control {
        ControlMessageOwned::Unknown(unknown)
            if unknown.cmsg_header.cmsg_level == libc::SOL_NETLINK
                && unknown.cmsg_header.cmsg_type == libc::NETLINK_LISTEN_ALL_NSID =>
        {
            unknown.data_bytes.first_chunk::<4>().map(|bytes| i32::from_ne_bytes(*bytes))
        }
        _ => None,
    }
}

fn listen_to_all(fd: &OwnedFd) -> io::Result<()> {
    let on: libc::c_int = 1;
    // SAFETY: the descriptor is open for the length of the call, and `on` is a live c_int of the size passed.
    let result = unsafe {
        libc::setsockopt(
            fd.as_raw_fd(),
            libc::SOL_NETLINK,
            libc::NETLINK_LISTEN_ALL_NSID,
            (&raw const on).cast(),
            size_of_val(&on) as libc::socklen_t,
        )
    };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}
