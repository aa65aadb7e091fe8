//! Records every frame on the devices of a namespace. A packet socket copies each frame before anything there can drop it.
//! The tests use these frames as evidence, because a connection that fails proves nothing.

use std::collections::BTreeSet;
use std::io;
use std::mem::{MaybeUninit, size_of};
use std::net::{IpAddr, SocketAddr};
use std::os::fd::{AsRawFd, OwnedFd};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use enforcer::lab::Namespace;
use nix::ifaddrs::getifaddrs;
use socket2::{Domain, Protocol, SockAddr, SockRef, Socket, Type};

use crate::packet::parts::{self, Route, protocol};

/// Time that a frame may take from a sender to the tap.
const SETTLE: Duration = Duration::from_millis(120);
/// How long a frame that should arrive is waited for, on a machine that has other work too.
pub const PATIENCE: Duration = Duration::from_secs(15);
/// Room for frames that the tap's thread has not read yet: a tap that loses frames proves nothing.
const ROOM: libc::c_int = 64 << 20;
const OUTGOING: u8 = 4;

/// A copied frame.
#[derive(Clone, Debug)]
pub struct Frame {
    /// When it was read.
    pub at: Instant,
    /// The namespace sent it; else it came in.
    pub outgoing: bool,
    /// From the Ethernet header on. A tag is not part of it.
    pub bytes: Vec<u8>,
}

/// The IP packet of a frame, read independently of the code under test.
#[derive(Clone, Copy, Debug)]
pub struct Packet<'a> {
    /// Source.
    pub source: IpAddr,
    /// Destination.
    pub destination: IpAddr,
    /// Protocol number. Extension headers are not walked.
    pub protocol: u8,
    /// What follows the IP header.
    pub body: &'a [u8],
}

impl Frame {
    /// Its IP packet, if it has one.
    pub fn packet(&self) -> Option<Packet<'_>> {
        let body = self.bytes.get(14..)?;
        let version = body.first()? >> 4;
        match (u16::from_be_bytes([self.bytes[12], self.bytes[13]]), version) {
            (0x0800, 4) => Some(Packet {
                source: IpAddr::from(<[u8; 4]>::try_from(body.get(12..16)?).ok()?),
                destination: IpAddr::from(<[u8; 4]>::try_from(body.get(16..20)?).ok()?),
                protocol: *body.get(9)?,
                body: body.get(usize::from(body[0] & 15) * 4..)?,
            }),
            (0x86dd, 6) => Some(Packet {
                source: IpAddr::from(<[u8; 16]>::try_from(body.get(8..24)?).ok()?),
                destination: IpAddr::from(<[u8; 16]>::try_from(body.get(24..40)?).ok()?),
                protocol: *body.get(6)?,
                body: body.get(40..)?,
            }),
            _ => None,
        }
    }

    /// It has these bytes somewhere.
    pub fn holds(&self, nonce: &[u8]) -> bool {
        self.bytes.windows(nonce.len()).any(|window| window == nonce)
    }
}

impl Packet<'_> {
    /// Source and destination port.
    pub fn ports(&self) -> Option<[u16; 2]> {
        let bytes: [u8; 4] = self.body.get(..4)?.try_into().ok()?;
        Some([u16::from_be_bytes([bytes[0], bytes[1]]), u16::from_be_bytes([bytes[2], bytes[3]])])
    }

    /// TCP flags, if it is TCP.
    pub fn tcp_flags(&self) -> Option<u8> {
        (self.protocol == 6).then(|| self.body.get(13).copied())?
    }
}

/// A tap on all devices of a namespace.
pub struct Wire {
    frames: Arc<Mutex<Vec<Frame>>>,
    done: Arc<AtomicBool>,
    socket: OwnedFd,
    reader: Option<JoinHandle<()>>,
}

impl Wire {
    /// Starts to copy the frames that `keep` takes.
    pub fn tap(namespace: &Namespace, keep: impl Fn(&Frame) -> bool + Send + 'static) -> io::Result<Self> {
        let socket = namespace.enter(|| packet_socket(0)).map_err(io::Error::other)??;
        Self::read(socket, move |bytes, from| {
            // SAFETY: the address of a packet socket is a `sockaddr_ll`, for which the storage has room.
            let kind = unsafe { (*from.as_ptr().cast::<libc::sockaddr_ll>()).sll_pkttype };
            let frame = Frame { at: Instant::now(), outgoing: kind == OUTGOING, bytes };
            keep(&frame).then_some(frame)
        })
    }

    fn read(
        socket: Socket,
        frame_of: impl Fn(Vec<u8>, &SockAddr) -> Option<Frame> + Send + 'static,
    ) -> io::Result<Self> {
        socket.set_read_timeout(Some(Duration::from_millis(50)))?;
        set_option(&socket, libc::SOL_SOCKET, libc::SO_RCVBUFFORCE, &ROOM)?;
        let (frames, done) = (Arc::<Mutex<Vec<Frame>>>::default(), Arc::<AtomicBool>::default());
        let (kept, end, reading) = (Arc::clone(&frames), Arc::clone(&done), socket.try_clone()?);
        let reader = thread::spawn(move || {
            let mut buffer = vec![MaybeUninit::new(0_u8); 1 << 17];
            while !end.load(Ordering::Relaxed) {
                let Ok((length, from)) = reading.recv_from(&mut buffer) else { continue };
                if let Some(frame) = frame_of(initialized(&buffer[..length]), &from) {
                    kept.lock().unwrap_or_else(std::sync::PoisonError::into_inner).push(frame);
                }
            }
        });
        Ok(Self { frames, done, socket: socket.into(), reader: Some(reader) })
    }

    /// Frames so far that `wanted` takes, after those on their way have come. Fails if the tap has lost any.
    pub fn count(&self, wanted: impl Fn(&Frame) -> bool) -> usize {
        self.settle();
        self.peek(wanted)
    }

    /// Waits until frames on their way have come and are read. Fails if the tap has lost any.
    pub fn settle(&self) {
        thread::sleep(SETTLE);
        self.drain();
        assert_eq!(self.lost(), 0, "the tap has lost frames and proves nothing");
    }

    /// Waits until all frames that have come are read.
    pub fn drain(&self) {
        let (socket, mut byte) = (SockRef::from(&self.socket), [MaybeUninit::uninit()]);
        let end = Instant::now() + PATIENCE;
        while socket.recv_with_flags(&mut byte, libc::MSG_PEEK | libc::MSG_DONTWAIT).is_ok() && Instant::now() < end {
            thread::sleep(Duration::from_millis(3));
        }
        // The last one is read, and may not be among the frames yet.
        thread::sleep(Duration::from_millis(3));
    }

    /// Frames so far that `wanted` takes.
    pub fn peek(&self, wanted: impl Fn(&Frame) -> bool) -> usize {
        self.frames().iter().filter(|frame| wanted(frame)).count()
    }

    /// Frames that came in so far and hold this nonce.
    pub fn arrived(&self, nonce: &[u8]) -> usize {
        self.count(|frame| !frame.outgoing && frame.holds(nonce))
    }

    /// The same of what should arrive so often: it is waited for. More than that are counted too.
    pub fn arrives(&self, nonce: &[u8], hoped: usize) -> usize {
        let end = Instant::now() + PATIENCE;
        while self.peek(|frame| !frame.outgoing && frame.holds(nonce)) < hoped && Instant::now() < end {
            thread::sleep(Duration::from_millis(3));
        }
        self.arrived(nonce)
    }

    /// Waits until a frame that `wanted` takes is there, or time is up.
    pub fn wait(&self, patience: Duration, wanted: impl Fn(&Frame) -> bool) -> bool {
        let end = Instant::now() + patience;
        loop {
            if self.frames().iter().any(&wanted) {
                return true;
            }
            if Instant::now() >= end {
                return false;
            }
            thread::sleep(Duration::from_millis(3));
        }
    }

    /// The frames so far.
    pub fn frames(&self) -> std::sync::MutexGuard<'_, Vec<Frame>> {
        self.frames.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }

    fn lost(&self) -> u32 {
        let mut statistics = [0_u32; 2];
        let mut length = size_of_val(&statistics) as libc::socklen_t;
        // SAFETY: the kernel writes a `tpacket_stats` of two words.
        let result = unsafe {
            libc::getsockopt(
                self.socket.as_raw_fd(),
                libc::SOL_PACKET,
                libc::PACKET_STATISTICS,
                statistics.as_mut_ptr().cast(),
                &raw mut length,
            )
        };
        if result == 0 { statistics[1] } else { u32::MAX }
    }
}

impl Drop for Wire {
    fn drop(&mut self) {
        self.done.store(true, Ordering::Relaxed);
        if let Some(reader) = self.reader.take() {
            // Its panic has been printed.
            let _ = reader.join();
        }
    }
}

/// What the stack behind a namespace's devices takes in for some of its addresses. For a victim whose own devices carry the
/// enforcement, like the node: a [`Wire`] there sees frames before they are judged.
pub struct Stack {
    taps: Vec<Wire>,
}

impl Stack {
    /// Starts to copy TCP, UDP, SCTP and ICMP packets to these addresses.
    pub fn tap(namespace: &Namespace, addresses: &BTreeSet<IpAddr>) -> io::Result<Self> {
        let mut taps = Vec::new();
        for address in addresses {
            let icmp = if address.is_ipv4() { protocol::ICMP } else { protocol::ICMPV6 };
            for protocol in [protocol::TCP, protocol::UDP, protocol::SCTP, icmp] {
                taps.push(Wire::stack(namespace, *address, protocol)?);
            }
        }
        Ok(Self { taps })
    }

    /// Frames so far that `wanted` takes.
    pub fn peek(&self, wanted: impl Fn(&Frame) -> bool) -> usize {
        self.taps.iter().map(|tap| tap.peek(&wanted)).sum()
    }
}

impl Wire {
    /// A tap behind the IP layer. Its frames have headers of our making, as far as the socket leaves them out.
    fn stack(namespace: &Namespace, own: IpAddr, protocol: u8) -> io::Result<Self> {
        let domain = if own.is_ipv4() { Domain::IPV4 } else { Domain::IPV6 };
        let open = || -> io::Result<Socket> {
            let socket = Socket::new(domain, Type::RAW, Some(Protocol::from(i32::from(protocol))))?;
            socket.bind(&SocketAddr::new(own, 0).into())?;
            Ok(socket)
        };
        let socket = namespace.enter(open).map_err(io::Error::other)??;
        let route = Route { to: [0; 6], from: [0; 6] };
        Self::read(socket, move |bytes, from| {
            let source = from.as_socket().map_or(own, |from| from.ip());
            let bytes = match own {
                IpAddr::V4(_) => parts::ethernet(route, 0x0800, &bytes),
                IpAddr::V6(_) => parts::ip(route, source, own, protocol, &bytes),
            };
            Some(Frame { at: Instant::now(), outgoing: false, bytes })
        })
    }
}

/// A device of a namespace.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Device {
    /// Its index.
    pub index: u32,
    /// Its hardware address.
    pub mac: [u8; 6],
}

/// Finds a device by name.
pub fn device(namespace: &Namespace, name: &str) -> io::Result<Device> {
    let find = || {
        let found = getifaddrs()?.find_map(|entry| {
            let link = *entry.address.as_ref().filter(|_| entry.interface_name == name)?.as_link_addr()?;
            Some(Device { index: u32::try_from(link.ifindex()).ok()?, mac: link.addr()? })
        });
        found.ok_or_else(|| io::Error::new(io::ErrorKind::NotFound, format!("no device {name}")))
    };
    namespace.enter(find).map_err(io::Error::other)?
}

/// Whatever puts raw frames on a wire.
pub trait Inject {
    /// Sends a frame as it is.
    fn inject(&self, frame: &[u8]) -> io::Result<()>;
}

impl Inject for Sender {
    fn inject(&self, frame: &[u8]) -> io::Result<()> {
        self.send(frame)
    }
}

/// Sends raw frames by one device.
pub struct Sender {
    socket: Socket,
}

impl Sender {
    /// Opens a device of a namespace for sending.
    pub fn open(namespace: &Namespace, name: &str) -> io::Result<Self> {
        let index = device(namespace, name)?.index;
        Ok(Self { socket: namespace.enter(|| packet_socket(index)).map_err(io::Error::other)?? })
    }

    /// Sends a frame as it is.
    pub fn send(&self, frame: &[u8]) -> io::Result<()> {
        self.socket.send(frame).map(|_| ())
    }

    /// The socket.
    pub fn socket(&self) -> &Socket {
        &self.socket
    }
}

/// A packet socket for one device, or for all (0). It receives only in the latter case.
fn packet_socket(index: u32) -> io::Result<Socket> {
    let protocol = if index == 0 { (libc::ETH_P_ALL as u16).to_be() } else { 0 };
    let socket = Socket::new(Domain::PACKET, Type::RAW, Some(Protocol::from(i32::from(protocol))))?;
    if index != 0 {
        // SAFETY: all zero is a valid `sockaddr_ll`.
        let mut address: libc::sockaddr_ll = unsafe { std::mem::zeroed() };
        address.sll_family = libc::AF_PACKET as u16;
        address.sll_ifindex = index.cast_signed();
        // SAFETY: the address and its length belong together.
        let result = unsafe {
            libc::bind(
                socket.as_raw_fd(),
                (&raw const address).cast(),
                size_of::<libc::sockaddr_ll>() as libc::socklen_t,
            )
        };
        if result != 0 {
            return Err(io::Error::last_os_error());
        }
    }
    Ok(socket)
}

/// A part of a receive buffer.
pub(crate) fn initialized(bytes: &[MaybeUninit<u8>]) -> Vec<u8> {
    // SAFETY: every receive buffer here begins as zeroes.
    bytes.iter().map(|byte| unsafe { byte.assume_init() }).collect()
}

/// Sets a socket option that is a plain value.
pub(super) fn set_option<T>(socket: &Socket, level: libc::c_int, name: libc::c_int, value: &T) -> io::Result<()> {
    let length = size_of::<T>() as libc::socklen_t;
    // SAFETY: the value and its length belong together.
    let result = unsafe { libc::setsockopt(socket.as_raw_fd(), level, name, std::ptr::from_ref(value).cast(), length) };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}
