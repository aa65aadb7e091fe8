//! Hubble's envelope: the JSON form of `observer.GetFlowsResponse`, limited to the fields that this log writes or reads.
//!
//! The field names are those of Cilium's proto. A field with its default value is left out, as in the proto's JSON mapping. The
//! types write the log. They also read logs of other programs, because unknown fields are ignored.

use serde::{Deserialize, Serialize};

/// One line of the log.
#[derive(Clone, Debug, Default, Deserialize, PartialEq, Serialize)]
#[serde(default)]
pub struct GetFlowsResponse {
    /// A flow.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub flow: Option<Flow>,
    /// How much is missing before this line.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub lost_events: Option<LostEvent>,
    /// Node that wrote the line.
    pub node_name: String,
    /// RFC 3339, UTC.
    pub time: String,
}

/// Something is missing in the log.
#[derive(Clone, Debug, Default, Deserialize, PartialEq, Serialize)]
#[serde(default)]
pub struct LostEvent {
    /// Where it was lost.
    pub source: String,
    /// How much; a 64-bit number is a string in proto's JSON.
    #[serde(with = "number")]
    pub num_events_lost: u64,
}

/// A flow.
#[derive(Clone, Debug, Default, Deserialize, PartialEq, Serialize)]
#[serde(default)]
pub struct Flow {
    /// As in the envelope.
    pub time: String,
    /// UUID of this record.
    pub uuid: String,
    /// The program that wrote it.
    pub emitter: Emitter,
    /// `FORWARDED`, `DROPPED`, ..
    pub verdict: String,
    /// Number of `drop_reason_desc`.
    #[serde(skip_serializing_if = "is_default")]
    pub drop_reason: u32,
    /// Name in Cilium's `DropReason`.
    #[serde(skip_serializing_if = "is_default")]
    pub drop_reason_desc: String,
    /// Addresses.
    #[serde(rename = "IP", skip_serializing_if = "Option::is_none")]
    pub ip: Option<Ip>,
    /// Transport header.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub l4: Option<Layer4>,
    /// Who sent it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub source: Option<Endpoint>,
    /// To whom.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub destination: Option<Endpoint>,
    /// `L3_L4`.
    #[serde(rename = "Type", skip_serializing_if = "is_default")]
    pub kind: String,
    /// As in the envelope.
    pub node_name: String,
    /// What made the record.
    pub event_type: EventType,
    /// `INGRESS` or `EGRESS`, seen from the workload.
    pub traffic_direction: String,
    /// Whether it answers another flow.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub is_reply: Option<bool>,
    /// Where it was seen.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub interface: Option<NetworkInterface>,
    /// Policies that denied what the workload sends.
    #[serde(skip_serializing_if = "is_default")]
    pub egress_denied_by: Vec<Policy>,
    /// Policies that denied what the workload receives.
    #[serde(skip_serializing_if = "is_default")]
    pub ingress_denied_by: Vec<Policy>,
    /// Where in which file, and what has no field of its own.
    #[serde(skip_serializing_if = "is_default")]
    pub policy_log: Vec<String>,
    /// What people read.
    #[serde(rename = "Summary", skip_serializing_if = "is_default")]
    pub summary: String,
}

/// Who wrote a record.
#[derive(Clone, Debug, Default, Deserialize, PartialEq, Serialize)]
#[serde(default)]
pub struct Emitter {
    /// Program.
    pub name: String,
    /// Version, without `v`.
    pub version: String,
}

/// Addresses of a packet.
#[derive(Clone, Debug, Default, Deserialize, PartialEq, Serialize)]
#[serde(default)]
pub struct Ip {
    /// Source.
    pub source: String,
    /// Destination.
    pub destination: String,
    /// `IPv4` or `IPv6`.
    #[serde(rename = "ipVersion")]
    pub version: String,
}

/// Transport header: at most one of these.
#[derive(Clone, Copy, Debug, Default, Deserialize, PartialEq, Serialize)]
#[serde(default)]
pub struct Layer4 {
    /// TCP.
    #[serde(rename = "TCP", skip_serializing_if = "Option::is_none")]
    pub tcp: Option<Tcp>,
    /// UDP.
    #[serde(rename = "UDP", skip_serializing_if = "Option::is_none")]
    pub udp: Option<Ports>,
    /// ICMP.
    #[serde(rename = "ICMPv4", skip_serializing_if = "Option::is_none")]
    pub icmpv4: Option<Icmp>,
    /// ICMPv6.
    #[serde(rename = "ICMPv6", skip_serializing_if = "Option::is_none")]
    pub icmpv6: Option<Icmp>,
    /// SCTP.
    #[serde(rename = "SCTP", skip_serializing_if = "Option::is_none")]
    pub sctp: Option<Ports>,
}

/// TCP header.
#[derive(Clone, Copy, Debug, Default, Deserialize, PartialEq, Serialize)]
#[serde(default)]
pub struct Tcp {
    /// Ports.
    #[serde(flatten)]
    pub ports: Ports,
    /// Flags.
    #[serde(skip_serializing_if = "is_default")]
    pub flags: TcpFlags,
}

/// Ports of a transport header.
#[derive(Clone, Copy, Debug, Default, Deserialize, PartialEq, Serialize)]
#[serde(default)]
pub struct Ports {
    /// Source.
    #[serde(rename = "source_port", skip_serializing_if = "is_default")]
    pub source: u16,
    /// Destination.
    #[serde(rename = "destination_port", skip_serializing_if = "is_default")]
    pub destination: u16,
}

/// TCP flags that are set.
#[derive(Clone, Copy, Debug, Default, Deserialize, PartialEq, Serialize)]
#[serde(default, rename_all = "UPPERCASE")]
#[allow(clippy::struct_excessive_bools, reason = "they are eight bools in the proto")]
#[allow(missing_docs, reason = "the flags of RFC 9293 by their names")]
pub struct TcpFlags {
    #[serde(skip_serializing_if = "is_default")]
    pub fin: bool,
    #[serde(skip_serializing_if = "is_default")]
    pub syn: bool,
    #[serde(skip_serializing_if = "is_default")]
    pub rst: bool,
    #[serde(skip_serializing_if = "is_default")]
    pub psh: bool,
    #[serde(skip_serializing_if = "is_default")]
    pub ack: bool,
    #[serde(skip_serializing_if = "is_default")]
    pub urg: bool,
    #[serde(skip_serializing_if = "is_default")]
    pub ece: bool,
    #[serde(skip_serializing_if = "is_default")]
    pub cwr: bool,
}

/// ICMP header.
#[derive(Clone, Copy, Debug, Default, Deserialize, PartialEq, Serialize)]
#[serde(default)]
pub struct Icmp {
    /// Type.
    #[serde(rename = "type", skip_serializing_if = "is_default")]
    pub kind: u8,
}

/// One side of a flow.
#[derive(Clone, Debug, Default, Deserialize, PartialEq, Serialize)]
#[serde(default)]
pub struct Endpoint {
    /// 0 is unknown, below 256 is reserved.
    #[serde(skip_serializing_if = "is_default")]
    pub identity: u32,
    /// Namespace.
    #[serde(skip_serializing_if = "is_default")]
    pub namespace: String,
    /// `source:key=value`.
    #[serde(skip_serializing_if = "is_default")]
    pub labels: Vec<String>,
    /// Name of the workload.
    #[serde(skip_serializing_if = "is_default")]
    pub pod_name: String,
}

/// What made a record.
#[derive(Clone, Copy, Debug, Default, Deserialize, PartialEq, Serialize)]
#[serde(default)]
pub struct EventType {
    /// 1 is a drop, 5 a policy verdict.
    #[serde(rename = "type", skip_serializing_if = "is_default")]
    pub kind: i32,
    /// For a drop, the number of its reason.
    #[serde(skip_serializing_if = "is_default")]
    pub sub_type: i32,
}

/// A device.
#[derive(Clone, Debug, Default, Deserialize, PartialEq, Serialize)]
#[serde(default)]
pub struct NetworkInterface {
    /// Index.
    pub index: u32,
    /// Name.
    pub name: String,
}

/// A policy.
#[derive(Clone, Debug, Default, Deserialize, PartialEq, Serialize)]
#[serde(default)]
pub struct Policy {
    /// Name.
    pub name: String,
    /// Namespace.
    pub namespace: String,
    /// Revision of the policy set that the policy was part of; a 64-bit number is a string in proto's JSON.
    #[serde(with = "number")]
    pub revision: u64,
    /// Kind of document.
    pub kind: String,
}

/// Where the kernel's ring had no room.
pub const LOST_IN_RING: &str = "PERF_EVENT_RING_BUFFER";

fn is_default<T: Default + PartialEq>(value: &T) -> bool {
    *value == T::default()
}

/// A 64-bit number: written as a string, read as either.
mod number {
    use serde::{Deserialize, Deserializer, Serializer, de};

    #[derive(Deserialize)]
    #[serde(untagged)]
    enum Either {
        Number(u64),
        Text(String),
    }

    #[allow(clippy::trivially_copy_pass_by_ref, reason = "the signature that serde's attribute calls")]
    pub(super) fn serialize<S: Serializer>(value: &u64, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(value)
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<u64, D::Error> {
        match Either::deserialize(deserializer)? {
            Either::Number(value) => Ok(value),
            Either::Text(text) => text.parse().map_err(de::Error::custom),
        }
    }
}
