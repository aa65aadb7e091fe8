//! The record of denied packets with names. Every output format is a pure mapping of this record.
//!
//! Input: what `enrich` joined. Output: what the sinks write.

use std::net::IpAddr;
use std::sync::Arc;

use enforcer_common::id::{Direction, Ifindex, IncarnationId, Revision};
use enforcer_common::verdict::Reason;
use jiff::Timestamp;

use crate::policy::model::PolicyKind;
use crate::policy::origin::Origin;
use crate::workload::model::{LabelSets, WorkloadName};

/// Denied packets of one flow, or of one workload where flows could not be told apart.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct FlowRecord {
    /// When they were reported.
    pub time: Timestamp,
    /// Why they were denied.
    pub reason: Reason,
    /// Which way the packets went, seen from the workload that was judged.
    pub direction: Direction,
    /// They answer a flow that was opened the other way, and policy denies that flow.
    pub is_reply: bool,
    /// How many packets this record stands for. The counts of a flow's records add up.
    pub count: u64,
    /// Headers of the first packet; `None`: the packets of several flows, counted together.
    pub packet: Option<PacketSeen>,
    /// Who sent them. `None`: not known, since there is no packet.
    pub source: Option<Party>,
    /// To whom. `None`: not known, since there is no packet.
    pub destination: Option<Party>,
    /// The incarnation of the workload that was judged, or the device whose guard dropped the packets.
    pub workload: IncarnationId,
    /// Its veth, or that device; `None`: it has none or several, or is not known.
    pub interface: Option<Arc<InterfaceSeen>>,
    /// Which policies decided.
    pub decision: RecordedDecision,
    /// Name of this node.
    pub node: Arc<str>,
}

/// What was read of a packet.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct PacketSeen {
    /// Ethertype; 0: not even that.
    pub ethertype: u16,
    /// Source and destination as in the packet; `None`: not read.
    pub addresses: Option<(IpAddr, IpAddr)>,
    /// The transport header. Ports are 0 where it was not read.
    pub transport: TransportSeen,
}

/// What was read of a transport header.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum TransportSeen {
    /// TCP.
    Tcp {
        /// Source and destination.
        ports: Ports,
        /// Flags as in the header.
        flags: u8,
    },
    /// UDP.
    Udp(Ports),
    /// SCTP.
    Sctp(Ports),
    /// ICMP.
    Icmpv4 {
        /// Type.
        kind: u8,
    },
    /// ICMPv6.
    Icmpv6 {
        /// Type.
        kind: u8,
    },
    /// Another IP protocol; 0 if none was read.
    Other(u8),
}

/// The ports of a packet.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Ports {
    /// Source.
    pub source: u16,
    /// Destination.
    pub destination: u16,
}

/// Who is on a side of a flow.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Party {
    /// A workload that a source has named, here or elsewhere.
    Workload(Arc<WorkloadSeen>),
    /// This node.
    Host,
    /// Nobody that is known: outside.
    World,
    /// A workload of this node that no source has named, or an address that two workloads show.
    Unknown,
}

/// A named workload as records show it.
#[derive(Debug, Eq, PartialEq)]
pub struct WorkloadSeen {
    /// Namespace and name.
    pub name: WorkloadName,
    /// Labels, a set for each container.
    pub labels: LabelSets,
    /// Number that stands for namespace and name: the same on every node and after every restart.
    pub identity: u32,
}

impl FlowRecord {
    /// In which direction the flow was opened, seen from the workload: whose policies decide.
    pub fn opened(&self) -> Direction {
        match (self.direction, self.is_reply) {
            (Direction::Ingress, false) | (Direction::Egress, true) => Direction::Ingress,
            (Direction::Egress, false) | (Direction::Ingress, true) => Direction::Egress,
        }
    }
}

impl WorkloadSeen {
    /// With the identity that its name gives.
    pub fn new(name: WorkloadName, labels: LabelSets) -> Self {
        let identity = identity(&name);
        Self { name, labels, identity }
    }
}

/// The highest of the identities that are reserved in Hubble's world, plus one.
const FIRST_IDENTITY: u32 = 256;

/// FNV-1a over namespace and name: tools group by it, so it must not depend on the node that writes the record.
fn identity(name: &WorkloadName) -> u32 {
    let bytes = name.namespace.bytes().chain([0]).chain(name.name.bytes());
    let hash =
        bytes.fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3));
    FIRST_IDENTITY + ((hash ^ (hash >> 32)) % u64::from(u32::MAX - FIRST_IDENTITY)) as u32
}

/// The host side of a veth, or a device that leads to no workload.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct InterfaceSeen {
    /// Index.
    pub ifindex: Ifindex,
    /// Name when the revision was made.
    pub name: String,
}

/// Which policies decided.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum RecordedDecision {
    /// No policy decided: the shape of the packet, its sender or a limit did, or its flow is not known.
    NotPolicy,
    /// These policies decided, sorted: that of the rule that denies, or each that isolates the workload in this direction.
    Policies {
        /// Revision of the policy set.
        revision: Revision,
        /// The policies, at least one.
        policies: Vec<DecidingPolicy>,
    },
    /// The policies of that revision give another verdict than the kernel gave. An error of ours, counted.
    Disagreement {
        /// Revision of the policy set.
        revision: Revision,
        /// Policies whose rules allow the flow. The list is empty if no policy isolates the workload.
        policies: Vec<DecidingPolicy>,
    },
    /// The revision is none of those that are kept.
    EarlierRevision {
        /// Revision of the policy set.
        revision: Revision,
    },
    /// The workload was not there when that revision was made.
    LaterWorkload {
        /// Revision of the policy set.
        revision: Revision,
    },
}

/// A policy and the line of it that decided.
#[derive(Clone, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub struct DecidingPolicy {
    /// Namespace.
    pub namespace: String,
    /// Name.
    pub name: String,
    /// Kind.
    pub kind: &'static str,
    /// The rule, or `metadata.name` where the absence of a rule decided.
    pub at: Origin,
}

impl DecidingPolicy {
    /// From the fields of a policy.
    pub fn new(kind: PolicyKind, namespace: &str, name: &str, at: &Origin) -> Self {
        Self { namespace: namespace.to_owned(), name: name.to_owned(), kind: kind.as_str(), at: at.clone() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn name(namespace: &str, name: &str) -> WorkloadName {
        WorkloadName { namespace: namespace.to_owned(), name: name.to_owned() }
    }

    #[test]
    fn an_identity_is_pinned_and_never_a_reserved_one() {
        assert_eq!(identity(&name("shop", "web")), identity(&name("shop", "web")));
        assert_ne!(identity(&name("a-b", "c")), identity(&name("a", "b-c")), "A57");
        for index in 0..10_000 {
            assert!(identity(&name("shop", &index.to_string())) >= FIRST_IDENTITY);
        }
    }
}
