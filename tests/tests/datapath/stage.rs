//! One node with a few workloads, which all tables of these tests use.

use std::cell::RefCell;
use std::collections::{BTreeMap, HashMap};
use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;

use enforcer::compile::{Image, compile};
use enforcer::policy::load::{SourceFile, from_sources};
use enforcer::resolve::resolve;
use enforcer::workload::model::{
    Identity, Interface, Labels, LocalWorkload, Past, Snapshot, Vouched, Voucher, WorkloadKey, WorkloadName, given_by,
};
use enforcer_common::flow_key::FlowKey;
use enforcer_common::flow_state::{FlowWord, Role};
use enforcer_common::id::{Direction, Ifindex, PolicyWord};
use enforcer_common::packet::tcp;
use enforcer_common::tables::Flows;
use enforcer_common::verdict::{Reason, Verdict};
use enforcer_common::work::{Meta, Work};
use enforcer_tests::packet::{Frame, Transport};
use enforcer_tests::world::{MemoryWorld, Unknown};

use crate::refusing::Refusing;

/// Workload `a`, about which most tests are; also the device of its veth.
pub(crate) const A: u32 = 11;
/// Its neighbour `b`.
pub(crate) const B: u32 = 12;
/// `r`, with `routes: true`.
pub(crate) const R: u32 = 13;
/// A workload that no source has named.
pub(crate) const U: u32 = 14;
/// The device towards the outside, a port of the bridge.
pub(crate) const UPLINK: u32 = 2;
/// The bridge above the veths of all workloads.
pub(crate) const OTHER: u32 = 3;
/// A device that leads to no workload and is no uplink.
pub(crate) const TAP: u32 = 4;
/// As `ingress_ifindex`: this node made the packet.
pub(crate) const NODE: u32 = 0;

/// The broadcast address of the subnet of all veths but `r`'s.
pub(crate) const BROADCAST: Ipv4Addr = Ipv4Addr::new(10, 0, 0, 255);

/// The node's hardware address on the links of all veths, to which frames go unless a test says otherwise.
pub(crate) const STATION: [u8; 6] = [2, 0, 0, 0, 0, 2];

/// Both families.
pub(crate) const FAMILIES: [bool; 2] = [true, false];

pub(crate) fn address(text: &str) -> IpAddr {
    text.parse().expect("an address")
}

/// The address of a workload, by its device.
pub(crate) fn host(v4: bool, device: u32) -> IpAddr {
    address(&if v4 { format!("10.0.0.{device}") } else { format!("fd00::{device}") })
}

/// The node's address.
pub(crate) fn node(v4: bool) -> IpAddr {
    address(if v4 { "10.0.0.254" } else { "fd00::fe" })
}

/// X, a peer outside.
pub(crate) fn peer(v4: bool) -> IpAddr {
    address(if v4 { "198.51.100.7" } else { "2001:db8::7" })
}

/// A Service.
pub(crate) fn service(v4: bool) -> IpAddr {
    address(if v4 { "10.96.0.1" } else { "fd00:96::1" })
}

/// Somebody else outside.
pub(crate) fn stranger(v4: bool) -> IpAddr {
    address(if v4 { "203.0.113.9" } else { "2001:db8:113::9" })
}

pub(crate) fn denied(reason: Reason) -> Verdict {
    Verdict::Deny(reason)
}

/// What policy says without a rule.
pub(crate) const NO_RULE: Verdict = Verdict::Deny(Reason::NoRule);
pub(crate) const ALLOW: Verdict = Verdict::Allow;

/// A node under a policy.
pub(crate) struct Stage {
    pub(crate) world: MemoryWorld,
    pub(crate) unknown: Unknown,
    snapshot: Snapshot,
}

/// What is known of a flow.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) struct Entry {
    pub(crate) role: Role,
    pub(crate) state: u8,
    pub(crate) epoch: u32,
    pub(crate) behind: bool,
    pub(crate) last_seen: u32,
    pub(crate) ingress: u32,
}

impl Stage {
    /// Under policies: the workload's name and the rest of its spec, as one line of YAML each.
    pub(crate) fn new(policies: &[(&str, &str)]) -> Self {
        Self::with(policies, Unknown::Strict)
    }

    pub(crate) fn with(policies: &[(&str, &str)], unknown: Unknown) -> Self {
        let mut stage = Self { world: MemoryWorld::new([OTHER]), unknown, snapshot: snapshot() };
        stage.apply(policies);
        stage
    }

    /// Workload `b` also shows these addresses, and nobody vouches for them.
    pub(crate) fn with_shown(policies: &[(&str, &str)], shown: &[IpAddr]) -> Self {
        let mut stage = Self { world: MemoryWorld::new([OTHER]), unknown: Unknown::Strict, snapshot: snapshot() };
        let b = stage.snapshot.local.get_mut(&WorkloadKey(u64::from(B))).expect("b is there");
        b.addresses.extend(shown.iter().map(|address| (*address, Voucher::Pinned)));
        stage.apply(policies);
        stage
    }

    /// `a` closed but for these rules of its `allow`.
    pub(crate) fn closed_but(rules: &str) -> Self {
        Self::new(&[("a", &but(rules))])
    }

    /// Swaps the policy.
    pub(crate) fn apply(&mut self, policies: &[(&str, &str)]) {
        let documents = policies.iter().enumerate().map(|(number, (workload, spec))| {
            format!(
                "---\napiVersion: enforcer.dev/v1alpha1\nkind: FlowPolicy\nmetadata: {{ name: p{number}, namespace: t }}\n\
                 spec: {{ workloads: {{ app: {workload} }}, {spec} }}\n"
            )
        });
        let image = image(&self.snapshot, &documents.collect::<String>());
        self.world.install(&self.snapshot, image, self.unknown);
    }

    /// Judges a frame and gives what was found on the way, too.
    pub(crate) fn verdict_of(&self, device: u32, from: Option<u32>, frame: &[u8]) -> (Verdict, Work) {
        let direction = if from.is_some() { Direction::Ingress } else { Direction::Egress };
        let meta = Meta { ifindex: Ifindex(device), ingress_ifindex: Ifindex(from.unwrap_or(device)), vlan: false };
        self.world.verdict_of(direction, &meta, frame)
    }

    pub(crate) fn sends(&self, device: u32, frame: &Frame<'_>) -> Verdict {
        self.world.sends(Ifindex(device), &frame.bytes())
    }

    pub(crate) fn receives(&self, device: u32, from: u32, frame: &Frame<'_>) -> Verdict {
        self.world.receives(Ifindex(device), Ifindex(from), &frame.bytes())
    }

    /// The flow of a frame that the device sends (`from` is `None`) or receives; it is only looked at.
    pub(crate) fn key(&self, device: u32, from: Option<u32>, frame: &Frame<'_>) -> FlowKey {
        Refusing::blind(&self.world).look(device, from, frame).1.key
    }

    pub(crate) fn entry(&self, key: &FlowKey) -> Option<Entry> {
        let tables = &self.world;
        let value = Flows::flow(&tables, key)?;
        let word = FlowWord(value.word.load(Relaxed));
        Some(Entry {
            role: word.role().expect("a role"),
            state: word.state(),
            epoch: (word.0 >> 32) as u32 & PolicyWord::EPOCHS,
            behind: word.is_behind(),
            last_seen: value.last_seen.load(Relaxed),
            ingress: value.ingress.load(Relaxed),
        })
    }
}

/// Most stages have the same snapshot, and most of them one of a few policies.
fn image(snapshot: &Snapshot, text: &str) -> Image {
    thread_local!(static COMPILED: RefCell<HashMap<String, Image>> = RefCell::default());
    let new = || {
        let source = SourceFile { path: "stage.yaml".into(), text: text.into() };
        let loaded = from_sources(vec![source]).unwrap_or_else(|errors| panic!("{errors}"));
        compile(&resolve(loaded.set, Arc::new(snapshot.clone()))).expect("it fits")
    };
    if *snapshot != self::snapshot() {
        return new();
    }
    COMPILED.with_borrow_mut(|compiled| compiled.entry(text.to_owned()).or_insert_with(new).clone())
}

/// The rest of a spec: isolated in both directions, with these rules.
pub(crate) fn but(rules: &str) -> String {
    format!("isolate: [ingress, egress], allow: [{rules}]")
}

pub(crate) const CLOSED: &str = "isolate: [ingress, egress]";
pub(crate) const INGRESS_CLOSED: &str = "isolate: [ingress]";
pub(crate) const EGRESS_CLOSED: &str = "isolate: [egress]";

fn snapshot() -> Snapshot {
    let mut snapshot = Snapshot::default();
    let labels = Labels::from([("kubernetes.io/metadata.name".to_owned(), "t".to_owned())]);
    snapshot.namespaces.insert("t".to_owned(), labels);
    for (device, name) in [(A, Some("a")), (B, Some("b")), (R, Some("r")), (U, None)] {
        let interface = Interface { name: format!("veth{device}"), peer_mac: None, existed_at_start: true };
        let identity = name.map(|name| Identity {
            name: WorkloadName { namespace: "t".to_owned(), name: name.to_owned() },
            labels: Labels::from([("app".to_owned(), name.to_owned())]).into(),
            ports: BTreeMap::new(),
        });
        let workload = LocalWorkload {
            identity,
            addresses: given_by("the inventory", FAMILIES.map(|v4| host(v4, device))),
            disputed: Vouched::new(),
            endpoints: BTreeMap::from([(Ifindex(device), interface)]),
            routes: device == R,
            disagrees: false,
            foreign: BTreeMap::new(),
            past: Past::default(),
        };
        snapshot.local.insert(WorkloadKey(u64::from(device)), workload);
    }
    snapshot.node = FAMILIES.map(node).into();
    // A Service that claims somebody's addresses has nothing of it.
    snapshot.services = FAMILIES.into_iter().flat_map(|v4| [service(v4), host(v4, B), node(v4)]).collect();
    snapshot.uplinks.insert(Ifindex(UPLINK), "uplink".to_owned());
    snapshot.beside.uplinks.insert(Ifindex(UPLINK));
    snapshot.beside.stations = [A, B, R, U].map(|veth| (Ifindex(veth), STATION)).into();
    snapshot.beside.broadcasts = [A, B, U].map(|veth| (Ifindex(veth), [BROADCAST].into())).into();
    snapshot
}

/// A segment.
pub(crate) fn segment<'a>(source: (IpAddr, u16), destination: (IpAddr, u16), flags: u8) -> Frame<'a> {
    let transport = Transport::Tcp { source: source.1, destination: destination.1, flags };
    Frame::new(source.0, destination.0, transport)
}

/// A segment with data.
pub(crate) fn data<'a>(source: (IpAddr, u16), destination: (IpAddr, u16)) -> Frame<'a> {
    Frame { payload: b"data", ..segment(source, destination, tcp::ACK) }
}

/// A datagram.
pub(crate) fn datagram<'a>(source: (IpAddr, u16), destination: (IpAddr, u16)) -> Frame<'a> {
    let transport = Transport::Udp { source: source.1, destination: destination.1 };
    Frame::new(source.0, destination.0, transport)
}

/// An echo request or its reply.
pub(crate) fn echo<'a>(source: IpAddr, destination: IpAddr, request: bool, id: u16) -> Frame<'a> {
    let kind = match (source.is_ipv4(), request) {
        (true, true) => 8,
        (true, false) => 0,
        (false, true) => 128,
        (false, false) => 129,
    };
    let [high, low] = id.to_be_bytes();
    Frame::new(source, destination, Transport::Icmp { kind, code: 0, rest: [high, low, 0, 1] })
}

/// Both ways of a connection between two ends, ports included.
pub(crate) type Ends = ((IpAddr, u16), (IpAddr, u16));

pub(crate) fn syn<'a>((from, to): Ends) -> Frame<'a> {
    segment(from, to, tcp::SYN)
}

pub(crate) fn ack<'a>((from, to): Ends) -> Frame<'a> {
    segment(from, to, tcp::ACK)
}

pub(crate) fn syn_ack<'a>((from, to): Ends) -> Frame<'a> {
    segment(from, to, tcp::SYN | tcp::ACK)
}
