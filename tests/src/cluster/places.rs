//! Pods, nodes and the outside as places from which this process sends. Input: the networks of a cluster. Output: messages that are
//! sent there.
//!
//! A message costs a thread and no process, so that hundreds of them are sent at once.

use std::fmt;
use std::fs::{self, File};
use std::io::{Read, Write};
use std::net::{IpAddr, SocketAddr, TcpStream, UdpSocket};
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::thread;
use std::time::Duration;

use nix::ifaddrs::getifaddrs;
use nix::sched::{CloneFlags, setns};
use nix::sys::statfs::{NSFS_MAGIC, fstatfs};

use super::Cluster;

/// How long an attempt that should arrive may take on a busy machine.
pub(super) const PATIENCE: Duration = Duration::from_secs(5);
/// How long an attempt is given that should not arrive. Shorter than TCP's first retransmission.
const DENIED: Duration = Duration::from_millis(500);
/// More than a message or an answer has.
pub(super) const LONG: usize = 128;

/// A network of a cluster, under a name.
#[derive(Debug)]
pub struct Place {
    /// Name of the pod, the node, or `control`.
    pub name: String,
    /// Its global addresses, IPv4 first.
    pub addresses: Vec<IpAddr>,
    network: File,
}

impl Place {
    /// A node, or `control`.
    pub fn member(cluster: &Cluster, name: &str) -> Self {
        Self::of(name, File::open(cluster.network(name)).unwrap())
    }

    /// A pod that has addresses.
    pub fn pod(cluster: &Cluster, node: &str, namespace: &str, name: &str) -> Self {
        let addresses = cluster.addresses(namespace, name);
        let wanted: IpAddr = addresses[0].parse().unwrap();
        let places = networks(cluster, node).into_iter().filter_map(|path| Self::at(name, &path));
        let mut found = places.filter(|place| place.addresses.contains(&wanted));
        found.next().unwrap_or_else(|| panic!("{node} has no network with {wanted} of {name}"))
    }

    /// The network that lies at a path of [`networks`], if it is one by now.
    pub fn at(name: &str, path: &Path) -> Option<Self> {
        let network = File::open(path).ok()?;
        // The runtime makes the file before it mounts the network over it.
        let is_network = fstatfs(&network).is_ok_and(|system| system.filesystem_type() == NSFS_MAGIC);
        is_network.then(|| Self::of(name, network))
    }

    fn of(name: &str, network: File) -> Self {
        let mut place = Self { name: name.to_owned(), addresses: Vec::new(), network };
        let mut addresses: Vec<IpAddr> = place.inside(|| {
            let all = getifaddrs().unwrap().filter_map(|one| one.address);
            let of = all.filter_map(|address| {
                let v4 = address.as_sockaddr_in().map(|v4| IpAddr::from(v4.ip()));
                v4.or_else(|| address.as_sockaddr_in6().map(|v6| IpAddr::from(v6.ip())))
            });
            of.filter(|address| !address.is_loopback() && !address.to_string().starts_with("fe80:")).collect()
        });
        addresses.sort();
        place.addresses = addresses;
        place
    }

    /// Runs this on a thread in the network.
    pub fn inside<T: Send>(&self, work: impl FnOnce() -> T + Send) -> T {
        thread::scope(|scope| {
            let thread = scope.spawn(|| {
                setns(self.network.as_fd(), CloneFlags::CLONE_NEWNET).unwrap();
                work()
            });
            thread.join().unwrap()
        })
    }

    /// Its address of the family.
    pub fn address(&self, v4: bool) -> IpAddr {
        *self.addresses.iter().find(|address| address.is_ipv4() == v4).unwrap()
    }
}

/// Where the networks of a node's pods lie, as the host sees them.
pub fn networks(cluster: &Cluster, node: &str) -> Vec<PathBuf> {
    let entries = fs::read_dir(cluster.root(node).join("run/netns")).unwrap();
    entries.flatten().map(|entry| entry.path()).collect()
}

/// How a message goes.
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub enum Protocol {
    /// A connection for each message.
    Tcp,
    /// A datagram.
    Udp,
}

/// Both.
pub const PROTOCOLS: [Protocol; 2] = [Protocol::Tcp, Protocol::Udp];

/// A message to be sent.
#[derive(Clone, Copy, Debug)]
pub struct Attempt<'a> {
    /// Who sends.
    pub from: &'a Place,
    /// The address that is called.
    pub to: SocketAddr,
    /// How.
    pub protocol: Protocol,
    /// Whether it should arrive, and an answer should come back.
    pub arrives: bool,
    /// What the name begins with of who may be reached, if not everybody may.
    pub at: Option<&'a str>,
}

impl fmt::Display for Attempt<'_> {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{} to {} by {:?}", self.from.name, self.to, self.protocol)
    }
}

impl Attempt<'_> {
    /// Sends a message, and tells whether an answer came back.
    pub(super) fn is_answered(&self, nonce: &str) -> bool {
        let patience = if self.arrives { PATIENCE } else { DENIED };
        // This thread is this attempt's alone.
        let network: OwnedFd = self.from.network.as_fd().try_clone_to_owned().unwrap();
        setns(network, CloneFlags::CLONE_NEWNET).unwrap();
        let mut answer = [0; LONG];
        match self.protocol {
            Protocol::Tcp => {
                let Ok(mut connection) = TcpStream::connect_timeout(&self.to, patience) else { return false };
                connection.set_read_timeout(Some(patience)).unwrap();
                connection.write_all(nonce.as_bytes()).is_ok()
                    && connection.read(&mut answer).is_ok_and(|length| length > 0)
            }
            Protocol::Udp => {
                let any: IpAddr = if self.to.is_ipv4() { [0; 4].into() } else { [0; 16].into() };
                let socket = UdpSocket::bind((any, 0)).unwrap();
                // A lost datagram is sent again by whoever expects it.
                socket.set_read_timeout(Some(patience.min(Duration::from_secs(1)))).unwrap();
                socket.send_to(nonce.as_bytes(), self.to).is_ok() && socket.recv(&mut answer).is_ok()
            }
        }
    }
}
