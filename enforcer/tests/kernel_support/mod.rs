//! A host and two containers, a bpf file system of the test's own, and images that decide everything alike.
#![allow(dead_code, reason = "each test binary uses its own part")]
#![allow(clippy::unwrap_used, reason = "part of tests, though the lint cannot tell")]

use std::collections::BTreeMap;
use std::fs;
use std::net::UdpSocket;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use enforcer::kernel::{Denials, Kernel, KernelConfig, KernelError, NewDenials, group_directory};
use enforcer::lab::Namespace;
use enforcer::plan::{Plan, PlannedWorkload, WorkloadKey};
use enforcer::workload::model::Beside;
use enforcer_common::id::{Address, Ifindex, PeerClass, Row};
use enforcer_common::image::{AddressEntry, Cell, Header, Line, PortKey, RangeTable};
use enforcer_common::schema::Group;
use enforcer_tests::net::{Node, Site, inside, is_privileged, own_bpf_file_system, sh};

/// Host sides of the veths.
pub(crate) const A: Ifindex = Ifindex(100);
/// Shares A's place in the endpoint array.
pub(crate) const B: Ifindex = Ifindex(100 + 4096);
/// Key of the workload behind A.
pub(crate) const KEY_A: WorkloadKey = WorkloadKey(1);
/// Key of the workload behind B.
pub(crate) const KEY_B: WorkloadKey = WorkloadKey(2);
/// Address of B.
pub(crate) const B_ADDRESS: &str = "10.0.2.2";
/// Row of the test images that isolates.
pub(crate) const ISOLATED: Row = Row(0);

/// The host's namespace is that of the test's thread.
pub(crate) struct Rig {
    pub(crate) config: KernelConfig,
    pub(crate) a: Arc<Namespace>,
    pub(crate) b: Arc<Namespace>,
    node: Node,
    site: Site,
}

/// Runs a test in namespaces of its own.
pub(crate) fn with_rig(test: impl FnOnce(&Rig) + Send) {
    if !is_privileged() {
        return;
    }
    let rig = Rig::new();
    rig.node.run(|| {
        rig.prepare();
        test(&rig);
    });
}

impl Rig {
    fn new() -> Self {
        let (node, site) = (Node::new(), Site::new());
        let pin_dir = site.file("bpf/enforcer");
        fs::create_dir(site.file("bpf")).unwrap();
        Self {
            config: KernelConfig {
                pin_dir,
                flows: 4096,
                flow_quota: 1024,
                icmp_error_bytes: 1280,
                judge_services: false,
                object: None,
            },
            a: node.add_space("a"),
            b: node.add_space("b"),
            node,
            site,
        }
    }

    /// To be called inside the host's namespace.
    fn prepare(&self) {
        own_bpf_file_system(&self.site.file("bpf"));
        fs::write("/proc/sys/net/ipv4/ip_forward", "1").unwrap();
        quiet();
        for space in [&self.a, &self.b] {
            inside(space, quiet);
        }
        self.plug_a();
        self.plug("b", "vb", B, "10.0.2");
        // Devices come up late; and without enforcement packets do arrive.
        assert!((0..50).any(|_| self.arrive(9, 1) == 1), "no way from A to B");
    }

    pub(crate) fn plug_a(&self) {
        self.plug("a", "va", A, "10.0.1");
    }

    /// A veth between the host and a container.
    fn plug(&self, space: &str, name: &str, ifindex: Ifindex, subnet: &str) {
        self.node.add_veth(space, &format!("{name} index {ifindex}"), "eth0");
        sh(&format!("ip addr add {subnet}.1/24 dev {name}"));
        self.node.ip(space, "link set lo up");
        self.node.ip(space, &format!("addr add {subnet}.2/24 dev eth0"));
        self.node.ip(space, &format!("route add default via {subnet}.1"));
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
        let sender = self.sender();
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

    pub(crate) fn sender(&self) -> UdpSocket {
        inside(&self.a, || UdpSocket::bind("0.0.0.0:0").unwrap())
    }

    pub(crate) fn receiver(&self, port: u16) -> UdpSocket {
        inside(&self.b, || UdpSocket::bind(("0.0.0.0", port)).unwrap())
    }
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
    fs::write("/proc/sys/net/ipv6/conf/default/disable_ipv6", "1").unwrap();
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

    /// The same image without what it says of an address.
    pub(crate) fn without(mut self, own: &str) -> Self {
        self.addresses.retain(|(known, _)| *known != address(own));
        let header = Header::from_line(&self.lines[0]).unwrap();
        self.lines[0] = Header { addresses: self.addresses.len() as u32, ..header }.to_line();
        self
    }

    /// A is not isolated, B has the row in both directions.
    pub(crate) fn plan(&self, row: Row) -> Plan<'_> {
        Plan {
            lines: &self.lines,
            addresses: &self.addresses,
            workloads: vec![workload(KEY_A, A, "10.0.1.2", Row::NOT_ISOLATED), workload(KEY_B, B, B_ADDRESS, row)],
            uplinks: Vec::new(),
            above: BTreeMap::new(),
            beside: Beside::default(),
        }
    }
}

pub(crate) fn workload(key: WorkloadKey, ifindex: Ifindex, own: &str, row: Row) -> PlannedWorkload {
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
pub(crate) fn poll(denials: &mut Denials) -> NewDenials {
    taken(denials.poll())
}

/// Reads everything and takes no failure.
pub(crate) fn flush(denials: &mut Denials) -> NewDenials {
    taken(denials.flush())
}

fn taken((reading, failure): (NewDenials, Option<KernelError>)) -> NewDenials {
    if let Some(failure) = failure {
        panic!("{}", chain(&failure));
    }
    reading
}

/// Every pin below a directory, sorted.
pub(crate) fn tree(directory: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    let Ok(entries) = fs::read_dir(directory) else {
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
