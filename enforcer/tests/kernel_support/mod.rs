//! A host and two containers in network namespaces without names, and a bpf file system of the test's own. Everything
//! goes with the thread that made it, whatever happens to the test.
#![allow(dead_code, reason = "each test binary uses its own part")]
#![allow(clippy::unwrap_used, clippy::print_stdout, reason = "part of tests, though the lint cannot tell")]

use std::fs::File;
use std::net::UdpSocket;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use enforcer::kernel::{Denials, Kernel, KernelConfig, KernelError, Report, group_directory};
use enforcer::plan::{Plan, PlannedWorkload};
use enforcer_common::id::{Address, PeerClass, Row};
use enforcer_common::image::{AddressEntry, Cell, Header, Line, PortKey, RangeTable};
use enforcer_common::schema::Group;
use nix::mount::{MsFlags, mount};
use nix::sched::{CloneFlags, setns, unshare};

/// Host sides of the veths.
pub(crate) const A: u32 = 100;
/// Shares A's place in the endpoint array.
pub(crate) const B: u32 = 100 + 4096;
/// Key of the workload behind A.
pub(crate) const KEY_A: u64 = 1;
/// Key of the workload behind B.
pub(crate) const KEY_B: u64 = 2;
/// Address of B.
pub(crate) const B_ADDRESS: &str = "10.0.2.2";
/// Row of the test images that isolates.
pub(crate) const ISOLATED: Row = Row(0);

/// The host's namespace is that of the test's thread.
pub(crate) struct Rig {
    pub(crate) config: KernelConfig,
    pub(crate) a: File,
    pub(crate) b: File,
    _directory: tempfile::TempDir,
}

/// Runs a test in namespaces of its own.
pub(crate) fn with_rig(test: impl FnOnce(&Rig) + Send) {
    if std::env::var_os("ENFORCER_SKIP_PRIV").is_some_and(|value| value == "1") {
        println!("skipped: ENFORCER_SKIP_PRIV=1");
        return;
    }
    assert!(nix::unistd::geteuid().is_root(), "needs root: sudo, or ENFORCER_SKIP_PRIV=1");
    std::thread::scope(|scope| {
        let run = scope.spawn(|| {
            unshare(CloneFlags::CLONE_NEWNET | CloneFlags::CLONE_NEWNS).unwrap();
            let rig = Rig::new();
            test(&rig);
        });
        if let Err(panic) = run.join() {
            std::panic::resume_unwind(panic);
        }
    });
}

impl Rig {
    fn new() -> Self {
        let private = MsFlags::MS_REC | MsFlags::MS_PRIVATE;
        mount(None::<&str>, "/", None::<&str>, private, None::<&str>).unwrap();
        let directory = tempfile::tempdir().unwrap();
        mount(Some("bpf"), directory.path(), Some("bpf"), MsFlags::empty(), None::<&str>).unwrap();
        std::fs::write("/proc/sys/net/ipv4/ip_forward", "1").unwrap();
        quiet();
        ip(&["link", "set", "lo", "up"]);
        let rig = Self {
            config: KernelConfig {
                pin_dir: directory.path().join("enforcer"),
                flows: 4096,
                flow_quota: 1024,
                object: None,
            },
            a: namespace(),
            b: namespace(),
            _directory: directory,
        };
        rig.plug_a();
        plug("vb", B, &rig.b, "10.0.2");
        // Devices come up late; and without enforcement packets do arrive.
        assert!((0..50).any(|_| rig.arrive(9, 1) == 1), "no way from A to B");
        rig
    }

    pub(crate) fn plug_a(&self) {
        plug("va", A, &self.a, "10.0.1");
    }

    pub(crate) fn open(&self) -> Kernel {
        Kernel::open(&self.config).unwrap_or_else(|error| panic!("{}", chain(&error)))
    }

    /// Where links, programs and the maps of live flows are pinned.
    pub(crate) fn pins(&self) -> PathBuf {
        self.group(Group::Flows)
    }

    pub(crate) fn group(&self, group: Group) -> PathBuf {
        self.config.pin_dir.join(group_directory(group))
    }

    /// Sends datagrams from A to B and gives how many arrive.
    pub(crate) fn arrive(&self, port: u16, datagrams: usize) -> usize {
        let receiver = self.receiver(port);
        receiver.set_read_timeout(Some(Duration::from_millis(200))).unwrap();
        let sender = inside(&self.a, || UdpSocket::bind("0.0.0.0:0").unwrap());
        let mut arrived = 0;
        for _ in 0..datagrams {
            sender.send_to(b"x", (B_ADDRESS, port)).unwrap();
            let mut buffer = [0; 8];
            if receiver.recv(&mut buffer).is_ok() {
                arrived += 1;
            }
        }
        arrived
    }

    pub(crate) fn receiver(&self, port: u16) -> UdpSocket {
        inside(&self.b, || UdpSocket::bind(("0.0.0.0", port)).unwrap())
    }
}

/// A veth between the host and a container.
fn plug(name: &str, ifindex: u32, container: &File, subnet: &str) {
    let index = ifindex.to_string();
    ip(&["link", "add", name, "index", &index, "type", "veth", "peer", "name", "eth0"]);
    ip(&["link", "set", "eth0", "netns", &path_of(container)]);
    ip(&["addr", "add", &format!("{subnet}.1/24"), "dev", name]);
    ip(&["link", "set", name, "up"]);
    inside(container, || {
        ip(&["link", "set", "lo", "up"]);
        ip(&["addr", "add", &format!("{subnet}.2/24"), "dev", "eth0"]);
        ip(&["link", "set", "eth0", "up"]);
        ip(&["route", "add", "default", "via", &format!("{subnet}.1")]);
    });
}

/// All causes of an error in one line.
pub(crate) fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        text = format!("{text}: {error}");
        cause = error.source();
    }
    text
}

/// Without IPv6 nobody sends what no test has asked for.
fn quiet() {
    std::fs::write("/proc/sys/net/ipv6/conf/default/disable_ipv6", "1").unwrap();
}

/// A namespace that lives as long as the file.
fn namespace() -> File {
    std::thread::spawn(|| {
        unshare(CloneFlags::CLONE_NEWNET).unwrap();
        quiet();
        File::open("/proc/thread-self/ns/net").unwrap()
    })
    .join()
    .unwrap()
}

/// Runs something in another namespace; sockets that it makes stay there.
pub(crate) fn inside<T: Send>(namespace: &File, work: impl FnOnce() -> T + Send) -> T {
    std::thread::scope(|scope| {
        scope
            .spawn(|| {
                setns(namespace, CloneFlags::CLONE_NEWNET).unwrap();
                work()
            })
            .join()
            .unwrap()
    })
}

fn path_of(namespace: &File) -> String {
    use std::os::fd::AsRawFd;
    format!("/proc/{}/fd/{}", std::process::id(), namespace.as_raw_fd())
}

pub(crate) fn ip(arguments: &[&str]) {
    let output = Command::new("ip").args(arguments).output().unwrap();
    let error = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "ip {}: {error}", arguments.join(" "));
}

pub(crate) fn address(text: &str) -> Address {
    Address::from(text.parse::<std::net::IpAddr>().unwrap())
}

/// An image with one row, one peer class and one port class: row 0 gives the same answer to everything.
pub(crate) struct TestImage {
    pub(crate) lines: Vec<Line>,
    pub(crate) addresses: Vec<(Address, AddressEntry)>,
}

impl TestImage {
    pub(crate) fn new(answer: Cell) -> Self {
        let ports = PortKey::COUNT.div_ceil(64);
        let (index, zeros, ports_at) = (3, 4, 5);
        let (rows_at, vectors_at) = (ports_at + ports, ports_at + ports + 1);
        let addresses = vec![
            (address("10.0.1.1"), AddressEntry::new(PeerClass(0), false, true)),
            (address("10.0.1.2"), AddressEntry::new(PeerClass(0), true, false)),
            (address("10.0.2.1"), AddressEntry::new(PeerClass(0), false, true)),
            (address(B_ADDRESS), AddressEntry::new(PeerClass(0), true, false)),
        ];
        let mut lines = vec![Line::ZERO; vectors_at as usize + 1];
        lines[0] = Header {
            magic: Header::MAGIC,
            lines: lines.len() as u32,
            flags: 0,
            port_classes: 1,
            peer_classes: 1,
            rows: 1,
            vectors: 1,
            ports_at,
            rows_at,
            vectors_at,
            addresses: addresses.len() as u32,
        }
        .to_line();
        let ranges = RangeTable {
            base: 0,
            shift: 32,
            buckets: 1,
            count: 1,
            index_at: index,
            starts_at: zeros,
            classes_at: zeros,
        };
        lines[1] = ranges.to_line();
        lines[2] = ranges.to_line();
        lines[index as usize].write(4, &1_u32.to_ne_bytes());
        lines[vectors_at as usize].write(0, &[answer as u8]);
        Self { lines, addresses }
    }

    /// A is not isolated, B has the row in both directions.
    pub(crate) fn plan(&self, row: Row) -> Plan<'_> {
        Plan {
            lines: &self.lines,
            addresses: &self.addresses,
            workloads: vec![workload(KEY_A, A, "10.0.1.2", Row::NOT_ISOLATED), workload(KEY_B, B, B_ADDRESS, row)],
            uplinks: Vec::new(),
        }
    }
}

pub(crate) fn workload(key: u64, ifindex: u32, own: &str, row: Row) -> PlannedWorkload {
    PlannedWorkload {
        key,
        endpoints: vec![ifindex],
        addresses: vec![address(own)],
        unknown: false,
        routes: false,
        rows: [row; 2],
        window: None,
    }
}

/// Applies a plan and takes no failure.
pub(crate) fn apply(kernel: &mut Kernel, plan: &Plan<'_>) -> enforcer::kernel::Applied {
    let applied = kernel.apply(plan).unwrap_or_else(|error| panic!("{}", chain(&error)));
    if let Some(failure) = applied.failures.first() {
        panic!("{}", chain(failure));
    }
    applied
}

/// Polls and takes no failure.
pub(crate) fn poll(denials: &mut Denials) -> Report {
    taken(denials.poll())
}

/// Reads everything and takes no failure.
pub(crate) fn flush(denials: &mut Denials) -> Report {
    taken(denials.flush())
}

fn taken((report, failure): (Report, Option<KernelError>)) -> Report {
    if let Some(failure) = failure {
        panic!("{}", chain(&failure));
    }
    report
}

/// Every pin below a directory, sorted.
pub(crate) fn tree(directory: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    let Ok(entries) = std::fs::read_dir(directory) else {
        return found;
    };
    for entry in entries {
        let path = entry.unwrap().path();
        if path.is_dir() {
            found.extend(tree(&path));
        }
        found.push(path);
    }
    found.sort();
    found
}
