//! Sends real traffic of one flow from one namespace to another, and collects evidence of what happened to it.
//!
//! Input: both ends, a port, and whether an answer is expected. Output: an [`Outcome`], judged by the frames at the victim.

#![allow(clippy::unwrap_used, reason = "a test that cannot open its sockets has to stop")]

use std::collections::BTreeMap;
use std::io::{self, Read, Write};
use std::mem::MaybeUninit;
use std::net::{IpAddr, SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use enforcer::lab::Namespace;
use socket2::{Domain, Protocol, Socket, Type};

use crate::cases::Port;
use crate::net::wire::{Frame, PATIENCE, Stack, Wire, initialized};
use crate::packet::parts::{self, protocol};

/// How long a denied flow is waited for. Shorter than TCP's first retransmission.
const DENIED: Duration = Duration::from_millis(500);

static NONCES: AtomicU64 = AtomicU64::new(1);

/// Bytes that nothing else on this machine sends.
pub fn nonce() -> [u8; 24] {
    let text = format!("enf{:08x}-{:012x}", std::process::id(), NONCES.fetch_add(1, Ordering::Relaxed));
    text.as_bytes().try_into().unwrap()
}

/// One flow to be tried.
#[derive(Clone, Copy)]
pub struct Attempt<'a> {
    /// Namespace of the sender.
    pub from: &'a Namespace,
    /// Its address.
    pub source: IpAddr,
    /// Namespace of the victim.
    pub to: &'a Namespace,
    /// Its address.
    pub destination: IpAddr,
    /// What is asked for.
    pub port: Port,
    /// Whether it should arrive: how long it is waited for.
    pub hoped: bool,
    /// Where to look for it.
    pub evidence: Tap,
}

/// Where frames are counted.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Tap {
    /// On the victim's devices.
    Wire,
    /// Behind them: they carry the enforcement themselves.
    Stack,
}

/// What became of it.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Outcome {
    /// Frames of the flow that came in at the victim.
    pub arrived: usize,
    /// The answer came back. SCTP has none here: the kernel has no SCTP sockets.
    pub answered: bool,
}

/// Taps and answering services of a set of tries.
pub struct Ground {
    wires: BTreeMap<PathBuf, Wire>,
    stacks: BTreeMap<PathBuf, Stack>,
    _services: Vec<Service>,
}

impl Ground {
    /// Opens a tap on every victim, and a service for every port that is asked for.
    pub fn prepare(attempts: &[Attempt<'_>]) -> Self {
        let (mut wires, mut stacks) = (BTreeMap::new(), BTreeMap::new());
        let mut services: BTreeMap<(&Path, IpAddr, Port), Service> = BTreeMap::new();
        for attempt in attempts {
            let path = attempt.to.path();
            if attempt.evidence == Tap::Wire {
                wires.entry(path.to_owned()).or_insert_with(|| Wire::tap(attempt.to, |_| true).unwrap());
            } else {
                stacks.entry(path.to_owned()).or_insert_with(|| {
                    let same = attempts.iter().filter(|other| other.to.path() == path);
                    Stack::tap(attempt.to, &same.map(|other| other.destination).collect()).unwrap()
                });
            }
            if matches!(attempt.port, Port::Tcp(_) | Port::Udp(_)) {
                let key = (path, attempt.destination, attempt.port);
                services.entry(key).or_insert_with(|| Service::open(attempt.to, attempt.destination, attempt.port));
            }
        }
        Self { wires, stacks, _services: services.into_values().collect() }
    }

    /// Tries them all at once.
    pub fn run(&self, attempts: &[Attempt<'_>]) -> Vec<Outcome> {
        let tries: Vec<(Evidence, bool)> = thread::scope(|scope| {
            let running: Vec<_> = attempts.iter().map(|attempt| scope.spawn(|| attempt.make())).collect();
            running.into_iter().map(|one| one.join().expect("a try does not panic")).collect()
        });
        thread::sleep(Duration::from_millis(100));
        let judged = attempts.iter().zip(tries);
        judged
            .map(|(attempt, (evidence, answered))| {
                let wanted = |frame: &Frame| !frame.outgoing && evidence.is_in(frame);
                let count = || match attempt.evidence {
                    Tap::Wire => self.wires[attempt.to.path()].peek(wanted),
                    Tap::Stack => self.stacks[attempt.to.path()].peek(wanted),
                };
                let end = Instant::now() + PATIENCE;
                while attempt.hoped && count() == 0 && Instant::now() < end {
                    thread::sleep(Duration::from_millis(5));
                }
                Outcome { arrived: count(), answered }
            })
            .collect()
    }
}

/// How a frame of the flow is told from all others.
enum Evidence {
    Nonce([u8; 24]),
    Ports { source: SocketAddr, destination: SocketAddr },
}

impl Evidence {
    fn is_in(&self, frame: &Frame) -> bool {
        match self {
            Self::Nonce(nonce) => frame.holds(nonce),
            Self::Ports { source, destination } => frame.packet().is_some_and(|packet| {
                packet.protocol == protocol::TCP
                    && (packet.source, packet.destination) == (source.ip(), destination.ip())
                    && packet.ports() == Some([source.port(), destination.port()])
            }),
        }
    }
}

impl Attempt<'_> {
    /// Sends, and waits for the answer.
    fn make(&self) -> (Evidence, bool) {
        let patience = if self.hoped { PATIENCE } else { DENIED };
        let tried = self.from.enter(|| match self.port {
            Port::Tcp(port) => self.connect(port, patience),
            Port::Udp(port) => self.datagram(port, patience),
            Port::Sctp(port) => self.sctp_init(port),
            Port::Icmp => self.ping(patience),
        });
        tried.unwrap().unwrap()
    }

    fn connect(&self, port: u16, patience: Duration) -> io::Result<(Evidence, bool)> {
        let socket = bound(self.source, Type::STREAM, Protocol::TCP)?;
        let (source, destination) = (local(&socket)?, SocketAddr::new(self.destination, port));
        let connected = socket.connect_timeout(&destination.into(), patience).is_ok();
        socket.set_read_timeout(Some(patience))?;
        let mut stream = TcpStream::from(socket);
        let answered = connected && exchange(&mut stream, &nonce()).is_ok();
        Ok((Evidence::Ports { source, destination }, answered))
    }

    fn datagram(&self, port: u16, patience: Duration) -> io::Result<(Evidence, bool)> {
        let socket = bound(self.source, Type::DGRAM, Protocol::UDP)?;
        let nonce = nonce();
        send(&socket, &nonce, SocketAddr::new(self.destination, port));
        Ok((Evidence::Nonce(nonce), hears(&socket, &nonce, patience, |_| true)))
    }

    fn sctp_init(&self, port: u16) -> io::Result<(Evidence, bool)> {
        let socket = bound(self.source, Type::RAW, Protocol::from(i32::from(protocol::SCTP)))?;
        let nonce = nonce();
        let packet = parts::sctp_init(40_000, port, &nonce);
        send(&socket, &packet, SocketAddr::new(self.destination, 0));
        Ok((Evidence::Nonce(nonce), true))
    }

    fn ping(&self, patience: Duration) -> io::Result<(Evidence, bool)> {
        let v4 = self.source.is_ipv4();
        let (number, request, reply) = if v4 { (protocol::ICMP, 8, 0) } else { (protocol::ICMPV6, 128, 129) };
        let socket = bound(self.source, Type::RAW, Protocol::from(i32::from(number)))?;
        let nonce = nonce();
        let echo = parts::icmp(request, 0, &[&nonce[11..15], &nonce[..]].concat());
        send(&socket, &echo, SocketAddr::new(self.destination, 0));
        // A raw IPv4 socket gives the IP header too.
        let kind_at = if v4 { 20 } else { 0 };
        let answered = hears(&socket, &nonce, patience, |bytes| bytes.get(kind_at) == Some(&reply));
        Ok((Evidence::Nonce(nonce), answered))
    }
}

/// Sends once. Where the packet is dropped on a device of this namespace the kernel may say so; what counts is what arrives.
fn send(socket: &Socket, bytes: &[u8], to: SocketAddr) {
    let _ = socket.send_to(bytes, &to.into());
}

/// Whether a packet with the nonce comes back in time.
fn hears(socket: &Socket, nonce: &[u8], patience: Duration, wanted: impl Fn(&[u8]) -> bool) -> bool {
    let end = Instant::now() + patience;
    let mut buffer = [MaybeUninit::new(0_u8); 2048];
    while let Some(left) = end.checked_duration_since(Instant::now()).filter(|left| !left.is_zero()) {
        let _ = socket.set_read_timeout(Some(left));
        let Ok((length, _)) = socket.recv_from(&mut buffer) else { return false };
        let bytes = initialized(&buffer[..length]);
        if wanted(&bytes) && bytes.windows(nonce.len()).any(|window| window == nonce) {
            return true;
        }
    }
    false
}

/// A socket with an address of the sender's choice.
pub fn bound(source: IpAddr, kind: Type, protocol: Protocol) -> io::Result<Socket> {
    let domain = if source.is_ipv4() { Domain::IPV4 } else { Domain::IPV6 };
    let socket = Socket::new(domain, kind, Some(protocol))?;
    socket.bind(&SocketAddr::new(source, 0).into())?;
    Ok(socket)
}

fn local(socket: &Socket) -> io::Result<SocketAddr> {
    socket.local_addr()?.as_socket().ok_or_else(|| io::Error::other("no IP socket"))
}

/// Sends bytes and reads them back.
pub fn exchange(stream: &mut TcpStream, bytes: &[u8]) -> io::Result<()> {
    stream.write_all(bytes)?;
    let mut back = vec![0; bytes.len()];
    stream.read_exact(&mut back)?;
    if back == bytes { Ok(()) } else { Err(io::Error::other("another answer")) }
}

/// A server that gives back what it gets.
pub struct Service {
    socket: Arc<Socket>,
    done: Arc<AtomicBool>,
    server: Option<JoinHandle<()>>,
}

impl Service {
    /// Opens it at a TCP or UDP port of a namespace.
    pub fn open(namespace: &Namespace, address: IpAddr, port: Port) -> Self {
        let (kind, protocol) = match port {
            Port::Tcp(_) => (Type::STREAM, Protocol::TCP),
            Port::Udp(_) => (Type::DGRAM, Protocol::UDP),
            Port::Sctp(_) | Port::Icmp => panic!("{port:?} has no service"),
        };
        let open = || -> io::Result<Socket> {
            let domain = if address.is_ipv4() { Domain::IPV4 } else { Domain::IPV6 };
            let socket = Socket::new(domain, kind, Some(protocol))?;
            socket.set_reuse_address(true)?;
            socket.bind(&SocketAddr::new(address, port.number()).into())?;
            if kind == Type::STREAM {
                socket.listen(128)?;
            }
            Ok(socket)
        };
        let socket = Arc::new(namespace.enter(open).unwrap().unwrap());
        let done = Arc::<AtomicBool>::default();
        let (serving, end) = (Arc::clone(&socket), Arc::clone(&done));
        let server =
            thread::spawn(move || if kind == Type::STREAM { accept(&serving, &end) } else { echo(&serving, &end) });
        Self { socket, done, server: Some(server) }
    }
}

impl Drop for Service {
    fn drop(&mut self) {
        self.done.store(true, Ordering::Relaxed);
        // Wakes the server; says ENOTCONN for UDP and does so all the same.
        let _ = self.socket.shutdown(std::net::Shutdown::Both);
        if let Some(server) = self.server.take() {
            // Its panic has been printed.
            let _ = server.join();
        }
    }
}

fn accept(socket: &Socket, done: &AtomicBool) {
    while !done.load(Ordering::Relaxed) {
        let Ok((stream, _)) = socket.accept() else { continue };
        // Ends with its client.
        thread::spawn(move || {
            let mut stream = TcpStream::from(stream);
            let mut buffer = [0; 4096];
            while let Ok(length @ 1..) = stream.read(&mut buffer) {
                if stream.write_all(&buffer[..length]).is_err() {
                    return;
                }
            }
        });
    }
}

fn echo(socket: &Socket, done: &AtomicBool) {
    let mut buffer = [MaybeUninit::new(0_u8); 2048];
    while !done.load(Ordering::Relaxed) {
        let Ok((length, from)) = socket.recv_from(&mut buffer) else { continue };
        let bytes = initialized(&buffer[..length]);
        if from.as_socket().is_some_and(|from| from.port() != 0) {
            // The client may be gone.
            let _ = socket.send_to(&bytes, &from);
        }
    }
}
