//! What discovery noticed but did not act on: refused claims to addresses, sources that disagree, and unclear uplinks.
//!
//! Output: findings for `status` and the log. They are typed, so that a test can name the one that it expects.

#![forbid(unsafe_code)]

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::net::IpAddr;

use enforcer_common::id::Ifindex;
use enforcer_common::limits::OWN_ADDRESSES;

use super::model::WorkloadName;
use super::station::Detour;

/// A workload as a finding names it: what is certain about it, even if it is unknown.
#[derive(Clone, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub struct Subject {
    /// Its name, if it has one.
    pub name: Option<WorkloadName>,
    /// Ifindex of its first veth's host side.
    pub ifindex: Ifindex,
    /// Name of that veth.
    pub interface: String,
    /// The kernel's id for its network namespace.
    pub nsid: Option<i32>,
}

impl fmt::Display for Subject {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.name {
            Some(name) => write!(f, "{name} ({}, ifindex {})", self.interface, self.ifindex),
            None => write!(f, "unknown workload behind {} (ifindex {})", self.interface, self.ifindex),
        }
    }
}

/// Something that a person should know about.
#[derive(Clone, Debug, Eq, Ord, PartialEq, PartialOrd)]
#[non_exhaustive]
pub enum Finding {
    /// `ADDRESS_CONFLICT`: a workload shows an address that is not its own.
    AddressRefused {
        /// Who shows it.
        claimant: Subject,
        /// The address.
        address: IpAddr,
        /// Why it is not believed.
        because: Refusal,
    },
    /// `ADDRESS_CONFLICT`: a workload shows more addresses than one can have. One finding for all of them, because the
    /// container chooses their number.
    TooManyAddresses {
        /// Who shows them.
        claimant: Subject,
        /// How many are refused beside those that have a finding of their own.
        count: usize,
    },
    /// `ADDRESS_CONFLICT`: nobody can tell who was first, or two holders show a floating address. No selector matches it.
    AddressDisputed {
        /// The address.
        address: IpAddr,
        /// Who show it.
        between: BTreeSet<Subject>,
    },
    /// `ADDRESS_CONFLICT`: an address is given to several workloads. No selector matches it.
    AddressOfTwo {
        /// The address.
        address: IpAddr,
        /// To whom it is given.
        workloads: BTreeSet<WorkloadName>,
    },
    /// A pod of this node is not enforced, because no veth can be said to be its own.
    PodNotJoined {
        /// The pod.
        pod: WorkloadName,
        /// Why.
        because: NotJoined,
    },
    /// The far side of a veth has left the network namespace in which a source named it (D13).
    Strayed {
        /// The veth, with the name that it had.
        workload: Subject,
    },
    /// A source gives a veth that had a name the name of something else (D13).
    Renamed {
        /// The veth, with the name that it had.
        workload: Subject,
        /// The name that it does not get.
        to: WorkloadName,
    },
    /// The workload stays unknown because what names it contradicts itself.
    SourcesDisagree {
        /// Which workload.
        workload: Subject,
        /// The contradiction.
        disagreement: Disagreement,
    },
    /// A default route leads over a bridge or bond with several veths that nobody names; none is taken for an uplink.
    UplinkUnclear {
        /// The device of the default route.
        device: String,
        /// The veths.
        candidates: BTreeSet<String>,
    },
    /// A device named by `--uplink` does not exist.
    UplinkMissing {
        /// The name.
        name: String,
    },
    /// A label that asks for something it cannot have is ignored.
    LabelIgnored {
        /// Container.
        container: String,
        /// Label.
        label: String,
        /// Its value.
        value: String,
        /// What to write instead.
        instead: &'static str,
    },
    /// The addresses in a namespace cannot be read, because it belongs to another user namespace.
    CannotLookInside {
        /// Which workload.
        workload: Subject,
    },
    /// The workload has devices that end at none of our hooks.
    PartlyEnforced {
        /// Which workload.
        workload: Subject,
        /// The devices and their kinds. The container chooses the names.
        devices: BTreeMap<String, String>,
    },
    /// The workload is closed, because it has a device whose lower device lies in the node's namespace.
    ReachesNode {
        /// Which workload.
        workload: Subject,
        /// Its devices. The container chooses their names.
        devices: BTreeSet<String>,
    },
    /// What workloads send to Services by a device is denied, because it may not reach the node's stack (D5). One finding for
    /// all of them.
    NoStation {
        /// The device.
        device: String,
        /// What is there.
        because: Detour,
    },
    /// A source could not be read just now; what it said last stays in force.
    SourceDown {
        /// Name of the source.
        source: String,
        /// Its error.
        error: String,
    },
}

impl Finding {
    /// Whether it is why a workload is closed that somebody else may still speak for.
    pub fn closes(&self) -> bool {
        matches!(self, Self::ReachesNode { .. })
    }

    /// The workload of which more passes than the hooks see, if it is about one.
    pub fn partly_enforced(&self) -> Option<&Subject> {
        match self {
            Self::PartlyEnforced { workload, .. } => Some(workload),
            _ => None,
        }
    }

    /// How many claims to addresses it stands for.
    pub fn claims(&self) -> usize {
        match self {
            Self::AddressRefused { .. } | Self::AddressDisputed { .. } | Self::AddressOfTwo { .. } => 1,
            Self::TooManyAddresses { count, .. } => *count,
            Self::PodNotJoined { .. }
            | Self::Strayed { .. }
            | Self::Renamed { .. }
            | Self::SourcesDisagree { .. }
            | Self::UplinkUnclear { .. }
            | Self::UplinkMissing { .. }
            | Self::LabelIgnored { .. }
            | Self::CannotLookInside { .. }
            | Self::PartlyEnforced { .. }
            | Self::ReachesNode { .. }
            | Self::NoStation { .. }
            | Self::SourceDown { .. } => 0,
        }
    }
}

/// Why a pod has no veth.
#[derive(Clone, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub enum NotJoined {
    /// None shows its addresses, and no host route leads to one: the pod is on a macvlan, ipvlan or SR-IOV device.
    NoVeth,
    /// These could be its own, but they could be others', or are.
    Conflict(BTreeSet<String>),
    /// Only this older veth itself shows the pod's address, and some pod of the node is without a veth.
    Doubtful(BTreeSet<String>),
    /// The evidence has not stood long enough yet.
    Confirming,
}

/// Why an address inside a container is not the container's own.
#[derive(Clone, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub enum Refusal {
    /// It is the node's.
    Node,
    /// It is an address of a node of the cluster.
    OfNode {
        /// Which node.
        name: String,
    },
    /// It is a next hop of the node's routes.
    Gateway,
    /// A source gives it to another workload.
    Declared {
        /// Which source.
        source: String,
        /// To which workload.
        name: WorkloadName,
    },
    /// Another workload has it.
    Owned {
        /// Which.
        owner: Subject,
    },
    /// A source gives the workload other addresses of its family, and so says which are its own.
    NotGiven {
        /// Which source.
        source: String,
    },
    /// It was not there in time to be pinned, and nobody else gives it to the workload.
    Late,
    /// It is declared floating, and this workload is none of its holders.
    Floating {
        /// Who declares it.
        by: String,
    },
    /// The host routes it neither to this veth nor to its bridge.
    OffSubnet,
    /// No workload can have it: multicast, broadcast, loopback, IPv4 link-local.
    Reserved,
}

/// How sources contradict each other.
#[derive(Clone, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub enum Disagreement {
    /// Two namespaces.
    Namespace {
        /// First source and what it says.
        first: (String, String),
        /// Second source and what it says.
        second: (String, String),
    },
    /// Two names.
    Name {
        /// First source and what it says.
        first: (String, String),
        /// Second source and what it says.
        second: (String, String),
    },
    /// One label with two values.
    Label {
        /// The label.
        key: String,
        /// First source and its value.
        first: (String, String),
        /// Second source and its value.
        second: (String, String),
    },
    /// One name of a port with two numbers.
    Port {
        /// The name.
        name: String,
        /// First source and its number.
        first: (String, String),
        /// Second source and its number.
        second: (String, String),
    },
    /// A namespace or workload name that cannot be one.
    InvalidName {
        /// Who has it.
        by: String,
        /// The text.
        name: String,
    },
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Node => f.write_str("it is an address of this node"),
            Self::OfNode { name } => write!(f, "it is an address of the node {name}"),
            Self::Gateway => f.write_str("it is a gateway of this node"),
            Self::Declared { source, name } => write!(f, "{source} gives it to {name}"),
            Self::Owned { owner } => write!(f, "it belongs to {owner}"),
            Self::NotGiven { source } => {
                write!(f, "{source} gives the workload its addresses of this family, and this is none of them")
            }
            Self::Floating { by } => write!(f, "{by} declares it floating, and this workload is none of its holders"),
            Self::Late => f.write_str("it appeared after the settling time, and no source gives it to the workload"),
            Self::OffSubnet => f.write_str("the node routes it neither to this veth nor to its bridge"),
            Self::Reserved => f.write_str("an address of this kind cannot belong to a workload"),
        }
    }
}

impl fmt::Display for NotJoined {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let list = |veths: &BTreeSet<String>| veths.iter().map(String::as_str).collect::<Vec<_>>().join(", ");
        match self {
            Self::NoVeth => {
                f.write_str("it has no veth here, as with macvlan, ipvlan and SR-IOV; peers know it by its address")
            }
            Self::Conflict(veths) => {
                write!(f, "{} could be its veth and another pod's, so it is unknown; ", list(veths))?;
                f.write_str("delete the pod that shows the other's address, or start the pod again")
            }
            Self::Doubtful(veths) => {
                write!(f, "its address is shown by {}, which is older than the daemon, and ", list(veths))?;
                f.write_str("some pod of the node has no veth; start the pod again")
            }
            Self::Confirming => f.write_str("the API says nothing new about it, so its veth is not certain yet"),
        }
    }
}

impl fmt::Display for Disagreement {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Namespace { first, second } => {
                write!(
                    f,
                    "{} puts it in namespace `{}`, but {} puts it in `{}`",
                    first.0, first.1, second.0, second.1
                )?;
                f.write_str(
                    "; name the same namespace in both, for a container with the label `enforcer.dev/namespace`",
                )
            }
            Self::Name { first, second } => {
                write!(f, "{} calls it `{}`, but {} calls it `{}`", first.0, first.1, second.0, second.1)?;
                f.write_str(
                    "; use the same name in both, or remove one of the two; a container that shares the network of ",
                )?;
                f.write_str("another must be started with `--network container:NAME`")
            }
            Self::Label { key, first, second } => {
                write!(
                    f,
                    "{} gives the label `{key}` the value `{}`, but {} gives it `{}`",
                    first.0, first.1, second.0, second.1
                )?;
                write!(
                    f,
                    "; change the entry of the inventory or the label of the pod, or give the container the same value by "
                )?;
                write!(f, "`--label {key}=VALUE`, which replaces the value of its image")
            }
            Self::Port { name, first, second } => {
                write!(
                    f,
                    "{} gives the port name `{name}` to {}, but {} gives it to {}",
                    first.0, first.1, second.0, second.1
                )?;
                write!(f, "; rename one of the two or give both one number, for a container by the label ")?;
                write!(f, "`enforcer.dev/port.{name}`, which replaces the label of its image")
            }
            Self::InvalidName { by, name } => {
                write!(f, "{by} names it `{name}`, but a name has at most 253 letters, digits, `-`, `_` and `.`")
            }
        }
    }
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::AddressRefused { claimant, address, because } => {
                write!(f, "ADDRESS_CONFLICT: {claimant} shows {address}, which is not accepted as its own: {because}")
            }
            Self::TooManyAddresses { claimant, count } => write!(
                f,
                "ADDRESS_CONFLICT: {claimant} shows {count} more addresses, which are not accepted: a workload can \
                 have at most {OWN_ADDRESSES}"
            ),
            Self::AddressDisputed { address, between } => {
                write!(f, "ADDRESS_CONFLICT: the address {address} is shown by ")?;
                for (i, subject) in between.iter().enumerate() {
                    write!(f, "{}{subject}", if i == 0 { "" } else { " and " })?;
                }
                f.write_str(
                    ", and none of them has a better right to it; until only one is left, no selector matches it",
                )
            }
            Self::AddressOfTwo { address, workloads } => {
                write!(f, "ADDRESS_CONFLICT: the address {address} is given to ")?;
                for (i, name) in workloads.iter().enumerate() {
                    write!(f, "{}{name}", if i == 0 { "" } else { " and " })?;
                }
                f.write_str("; until only one of them has it, no selector matches it")
            }
            Self::PodNotJoined { pod, because } => write!(f, "the pod {pod} is not enforced on this node: {because}"),
            Self::Strayed { workload } => {
                write!(f, "{workload} is closed: its far side has left the network namespace in which it was named; ")?;
                f.write_str("start the workload again with a new veth")
            }
            Self::Renamed { workload, to } => {
                write!(f, "{workload} is closed: its veth cannot become {to}, because that is another object; ")?;
                f.write_str("start the workload again with a new veth")
            }
            Self::SourcesDisagree { workload, disagreement } => {
                write!(f, "{workload} stays unknown: {disagreement}")
            }
            Self::UplinkUnclear { device, candidates } => {
                let candidates: Vec<&str> = candidates.iter().map(String::as_str).collect();
                write!(
                    f,
                    "the default route leads over {device}, but it is not clear which of {} leads out of the node; ",
                    candidates.join(", ")
                )?;
                f.write_str("all of them are treated as unknown workloads until `--uplink` names the right one")
            }
            Self::UplinkMissing { name } => write!(f, "`--uplink` names {name}, but there is no such device"),
            Self::LabelIgnored { container, label, value, instead } => {
                write!(f, "the label `{label}: {value}` of container {container} is ignored; write {instead}")
            }
            Self::CannotLookInside { workload } => {
                write!(
                    f,
                    "the addresses of {workload} cannot be read, because it belongs to another user namespace; "
                )?;
                f.write_str("give its addresses in the inventory")
            }
            Self::PartlyEnforced { workload, devices } => {
                let devices: Vec<String> =
                    devices.iter().map(|(name, kind)| format!("{} ({kind})", name.escape_debug())).collect();
                write!(f, "{workload} is partly enforced: what its devices send and get passes no program: ")?;
                write!(f, "{}; remove them, or do not count on policy for what goes over them", devices.join(", "))
            }
            Self::ReachesNode { workload, devices } => {
                let devices: Vec<String> = devices.iter().map(|name| name.escape_debug().to_string()).collect();
                write!(
                    f,
                    "{workload} is closed, because its device {} lies on a device of the node, past its programs; ",
                    devices.join(", ")
                )?;
                f.write_str("take the container off its macvlan or ipvlan network, or remove the device and run the ")?;
                f.write_str("container without CAP_NET_ADMIN of the node")
            }
            Self::NoStation { device, because } => {
                write!(f, "what isolated workloads send to Services by {device} is denied: {because}, ")?;
                f.write_str("or set `judge_services: false`")
            }
            Self::SourceDown { source, error } => {
                write!(f, "{source} cannot be read, so what it said last stays in force: {error}")
            }
        }
    }
}
