//! The merged view of all sources: each workload with its identity, addresses and veths. `resolve` and the agent read it.
//!
//! Input: what `store` merged from netlink, the inventory and the runtime. The types are pure data without I/O.

#![forbid(unsafe_code)]

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;

use enforcer_common::id::Ifindex;

use serde::{Deserialize, Serialize};

pub use super::labels::{LabelSets, Labels};

/// Namespace and name of a workload, as policies and the flow log write it: `shop/web`.
#[derive(Clone, Debug, Deserialize, Eq, Hash, Ord, PartialEq, PartialOrd, Serialize)]
pub struct WorkloadName {
    /// Namespace.
    pub namespace: String,
    /// Name within the namespace.
    pub name: String,
}

impl fmt::Display for WorkloadName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.namespace, self.name)
    }
}

/// One incarnation of a network namespace on this node. Never reused within a run of the daemon; a namespace that is
/// torn down and made again gets another one, even if the kernel gives it the same nsid and addresses.
#[derive(Clone, Copy, Debug, Deserialize, Eq, Hash, Ord, PartialEq, PartialOrd, Serialize)]
pub struct WorkloadKey(pub u64);

/// All that is known at one moment. Equal inputs give equal snapshots: everything is sorted.
#[derive(Clone, Debug, Default, Deserialize, Eq, PartialEq, Serialize)]
pub struct Snapshot {
    /// Labels of each namespace that a workload is in or that a source names. Always with
    /// `kubernetes.io/metadata.name` (N13).
    pub namespaces: BTreeMap<String, Labels>,
    /// Workloads with a veth on this node, by key.
    pub local: BTreeMap<WorkloadKey, LocalWorkload>,
    /// Workloads that a source names and no local veth has: peers only. Sorted by name. Snapshots share those that have not
    /// changed.
    pub remote: Vec<Arc<RemoteWorkload>>,
    /// Addresses of this node, on any device of its namespace.
    pub node: BTreeSet<IpAddr>,
    /// Addresses of Services: the node translates what is sent to them, and policy speaks of who gets it (D5).
    #[serde(default)]
    pub services: BTreeSet<IpAddr>,
    /// Devices towards the outside (docs/inventory-reference.md, "Uplinks"), by ifindex.
    pub uplinks: BTreeMap<Ifindex, String>,
    /// Devices of the node that lead to no workload, by ifindex: whatever comes in by one of them is from elsewhere. Without
    /// the loopback device.
    #[serde(default)]
    pub others: BTreeMap<Ifindex, String>,
    /// What lies above the veths of workloads on the way to the stack: by which devices else their packets come in.
    #[serde(default)]
    pub above: BTreeMap<Ifindex, BTreeSet<Ifindex>>,
    /// What else is on the links of workloads.
    #[serde(default)]
    pub beside: Beside,
}

/// What else is on the links of workloads, beside their veths.
#[derive(Clone, Debug, Default, Deserialize, Eq, PartialEq, Serialize)]
pub struct Beside {
    /// Uplinks that are ports of a workload's bridge: routers and DHCP servers of the link may be behind them (D16).
    pub uplinks: BTreeSet<Ifindex>,
    /// By veth, the broadcast addresses of the node's subnets on its bridge (N1).
    pub broadcasts: BTreeMap<Ifindex, BTreeSet<Ipv4Addr>>,
    /// By veth, the hardware address of the node's own station on its link (D5).
    pub stations: BTreeMap<Ifindex, [u8; 6]>,
}

/// Who says of each address that it is the workload's (D11).
pub type Vouched = BTreeMap<IpAddr, Voucher>;

/// Addresses that a source gives.
pub fn given_by(source: &str, addresses: impl IntoIterator<Item = IpAddr>) -> Vouched {
    addresses.into_iter().map(|address| (address, Voucher::Source(source.to_owned()))).collect()
}

/// A workload with at least one veth on this node.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub struct LocalWorkload {
    /// Name, labels and ports; `None`: no source has named it, or sources disagree.
    pub identity: Option<Identity>,
    /// Addresses that are its own by the rules of docs/inventory-reference.md, "Which addresses count".
    pub addresses: Vouched,
    /// Addresses to which another workload has an equal claim: no selector matches them.
    pub disputed: Vouched,
    /// Its veths, by ifindex of the host side.
    pub endpoints: BTreeMap<Ifindex, Interface>,
    /// It forwards for others: may send from any address that no local workload and no node has.
    pub routes: bool,
    /// It has no identity because what names it contradicts itself, or because it has a device that lies on one of the
    /// node's, and not because nobody named it.
    #[serde(default)]
    pub disagrees: bool,
    /// Its devices that end at none of our hooks, by name: what they send and get passes no program.
    #[serde(default)]
    pub foreign: BTreeMap<String, ForeignDevice>,
    /// What a later daemon has to know of it.
    #[serde(default)]
    pub past: Past,
}

impl LocalWorkload {
    /// It had a name that nobody gives it now, so it is closed (D13).
    pub fn lost_its_name(&self) -> bool {
        self.identity.is_none() && self.past.named.is_some()
    }
}

/// A device inside a workload's namespace that ends at none of our hooks.
#[derive(Clone, Debug, Deserialize, Eq, Ord, PartialEq, PartialOrd, Serialize)]
pub struct ForeignDevice {
    /// What kind of device it is: `macvlan`, `tun`, `physical`.
    pub kind: String,
    /// Addresses that are configured on it.
    pub addresses: BTreeSet<IpAddr>,
    /// It lies on a device of the node.
    pub over_node: bool,
}

/// Who says that an address is a workload's own. Only the first three are somebody else than the workload.
#[derive(Clone, Debug, Deserialize, Eq, Ord, PartialEq, PartialOrd, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Voucher {
    /// A source gives it to the workload.
    Source(String),
    /// A host route of the node leads to the workload's veth.
    HostRoute,
    /// A source declares it floating, and the workload is the one of its holders that shows it.
    Floating(String),
    /// The workload showed it within the settling time.
    Pinned,
    /// The workload shows it, and it is good for the link only.
    LinkLocal,
}

impl Voucher {
    /// Nobody but the workload says so: it satisfies no `ipBlock`, and no guardrail protects it.
    pub fn is_nobody(&self) -> bool {
        match self {
            Self::Source(_) | Self::HostRoute | Self::Floating(_) => false,
            Self::Pinned | Self::LinkLocal => true,
        }
    }

    /// In a word or two, for a table.
    pub fn short(&self) -> String {
        // "the inventory", "podman at /run/podman/podman.sock"
        let first = |source: &str| source.trim_start_matches("the ").split(' ').next().unwrap_or_default().to_owned();
        match self {
            Self::Source(source) => first(source),
            Self::HostRoute => "route".to_owned(),
            Self::Floating(source) => format!("floating, {}", first(source)),
            Self::Pinned => "pinned".to_owned(),
            Self::LinkLocal => "link-local".to_owned(),
        }
    }
}

impl fmt::Display for Voucher {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Source(source) => write!(f, "{source} gives it to the workload"),
            Self::HostRoute => f.write_str("a host route of the node leads to the workload's veth"),
            Self::Floating(source) => write!(f, "{source} declares it floating, and the workload shows it"),
            Self::Pinned => {
                f.write_str("nobody else: the workload showed it when it was new, so no `ipBlock` allows it")
            }
            Self::LinkLocal => f.write_str("nobody else: it is link-local, so no `ipBlock` allows it"),
        }
    }
}

/// What is remembered of a workload for as long as its veths are there (D11, D13).
#[derive(Clone, Debug, Default, Deserialize, Eq, PartialEq, Serialize)]
#[serde(default)]
pub struct Past {
    /// The kernel's id for its network namespace.
    pub nsid: Option<i32>,
    /// The last name that its veths had, and the object that a source named.
    pub named: Option<(WorkloadName, String)>,
    /// The far side of its veth has left the namespace in which it was named.
    pub strayed: bool,
    /// Its settling time is over.
    pub settled: bool,
    /// What it showed within its settling time.
    pub pinned: BTreeSet<IpAddr>,
    /// The first addresses of each family that its namespace showed, if its veth was new then.
    pub first: BTreeSet<IpAddr>,
}

/// Who a workload is.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub struct Identity {
    /// Namespace and name.
    pub name: WorkloadName,
    /// Labels, a set for each container.
    pub labels: LabelSets,
    /// Named ports: name -> (protocol, port). A name may stand for several ports of different protocols.
    pub ports: BTreeMap<String, BTreeSet<NamedPort>>,
}

/// What a port name stands for on one workload.
#[derive(Clone, Copy, Debug, Deserialize, Eq, Hash, Ord, PartialEq, PartialOrd, Serialize)]
pub struct NamedPort {
    /// IP protocol number: 6 TCP, 17 UDP, 132 SCTP.
    pub protocol: u8,
    /// Port, 1 to 65535.
    pub port: u16,
}

/// A workload elsewhere, or one whose veth has not been seen yet.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub struct RemoteWorkload {
    /// Name, labels and ports.
    pub identity: Identity,
    /// Its addresses.
    pub addresses: BTreeSet<IpAddr>,
}

/// The host side of a veth whose peer is in another network namespace.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub struct Interface {
    /// Name of the host side at the moment.
    pub name: String,
    /// MAC address of the container side, where netlink shows it.
    pub peer_mac: Option<[u8; 6]>,
    /// The veth was there when the daemon started to look.
    pub existed_at_start: bool,
}
