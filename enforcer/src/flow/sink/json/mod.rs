//! Writes a record as one line of JSON in Hubble's envelope.
//!
//! Input: a [`FlowRecord`]. Output: a line that the stock `hubble observe --input-file` reads. The length of names is bounded,
//! and no character in the line steers a terminal.

use std::fmt::Write as _;

use enforcer_common::id::Direction;
use jiff::Timestamp;
use uuid::Uuid;

use crate::flow::hubble::{
    Emitter, Endpoint, EventType, Flow, GetFlowsResponse, Icmp, Ip, Layer4, LostEvent, NetworkInterface, Policy, Ports,
    Tcp, TcpFlags,
};
use crate::flow::record::{
    self, DecidingPolicy, FlowRecord, PacketSeen, Party, RecordedDecision, TransportSeen, WorkloadSeen,
};
use crate::flow::text::{cut, cut_front, json_escaped};
use crate::policy::origin::Origin;

/// The longest name; Kubernetes allows 253 bytes.
const NAME_MOST: usize = 256;
/// The longest `source:key=value`. Keys of Kubernetes have up to 317 bytes and values up to 63.
const LABEL_MOST: usize = 512;
/// The most labels of an endpoint.
const LABELS_MOST: usize = 64;
/// The longest path of a policy file.
const PATH_MOST: usize = 256;
/// The longest name of an object of an API: Kubernetes allows 63 bytes for the namespace and 253 for the name.
const OBJECT_MOST: usize = 352;
/// The most policies that a record names.
const POLICIES_MOST: usize = 4;

/// Message types of Cilium's monitor.
const EVENT_DROP: i32 = 1;
const EVENT_POLICY_VERDICT: i32 = 5;

/// Reserved identities of Cilium.
const IDENTITY_UNKNOWN: u32 = 0;
const IDENTITY_HOST: u32 = 1;
const IDENTITY_WORLD: u32 = 2;

/// The line of a record, without its line end.
pub fn flow_line(record: &FlowRecord, uuid: Uuid) -> String {
    let time = record.time.to_string();
    to_line(&GetFlowsResponse {
        flow: Some(flow(record, uuid, &time)),
        lost_events: None,
        node_name: cut(&record.node, NAME_MOST).into_owned(),
        time,
    })
}

/// The line that says how many denied packets no record of this log counts.
pub fn lost_line(node: &str, time: Timestamp, source: &str, packets: u64) -> String {
    to_line(&GetFlowsResponse {
        flow: None,
        lost_events: Some(LostEvent { source: source.to_owned(), num_events_lost: packets }),
        node_name: cut(node, NAME_MOST).into_owned(),
        time: time.to_string(),
    })
}

fn to_line(response: &GetFlowsResponse) -> String {
    // Only maps with keys that are no strings, and failing writers, make this an error.
    let json = serde_json::to_string(response).unwrap_or_default();
    json_escaped(&json).into_owned()
}

fn flow(record: &FlowRecord, uuid: Uuid, time: &str) -> Flow {
    let (drop_reason_desc, number) = record.reason.hubble();
    let denied_by = denied_by(&record.decision);
    let (egress_denied_by, ingress_denied_by) = match record.opened() {
        Direction::Egress => (denied_by, Vec::new()),
        Direction::Ingress => (Vec::new(), denied_by),
    };
    let places = places(&record.decision);
    Flow {
        time: time.to_owned(),
        uuid: uuid.to_string(),
        emitter: Emitter { name: "Enforcer".to_owned(), version: env!("CARGO_PKG_VERSION").to_owned() },
        verdict: "DROPPED".to_owned(),
        drop_reason: u32::from(number),
        drop_reason_desc: drop_reason_desc.to_owned(),
        ip: record.packet.and_then(ip),
        l4: record.packet.and_then(layer4),
        source: record.source.as_ref().map(endpoint),
        destination: record.destination.as_ref().map(endpoint),
        kind: "L3_L4".to_owned(),
        node_name: cut(&record.node, NAME_MOST).into_owned(),
        event_type: if record.reason.is_policy() {
            EventType { kind: EVENT_POLICY_VERDICT, sub_type: 0 }
        } else {
            EventType { kind: EVENT_DROP, sub_type: i32::from(number) }
        },
        traffic_direction: match record.opened() {
            Direction::Ingress => "INGRESS",
            Direction::Egress => "EGRESS",
        }
        .to_owned(),
        is_reply: Some(record.is_reply),
        interface: record.interface.as_ref().map(|interface| NetworkInterface {
            index: interface.ifindex.0,
            name: cut(&interface.name, NAME_MOST).into_owned(),
        }),
        egress_denied_by,
        ingress_denied_by,
        summary: summary(record, &places),
        policy_log: policy_log(record, places),
    }
}

fn ip(packet: PacketSeen) -> Option<Ip> {
    let (source, destination) = packet.addresses?;
    Some(Ip {
        source: source.to_string(),
        destination: destination.to_string(),
        version: if destination.is_ipv4() { "IPv4" } else { "IPv6" }.to_owned(),
    })
}

fn layer4(packet: PacketSeen) -> Option<Layer4> {
    packet.addresses?;
    let ports = |ports: record::Ports| Ports { source: ports.source, destination: ports.destination };
    let mut layer4 = Layer4::default();
    match packet.transport {
        TransportSeen::Tcp { ports: both, flags } => {
            layer4.tcp = Some(Tcp { ports: ports(both), flags: tcp_flags(flags) });
        }
        TransportSeen::Udp(both) => layer4.udp = Some(ports(both)),
        TransportSeen::Sctp(both) => layer4.sctp = Some(ports(both)),
        TransportSeen::Icmpv4 { kind } => layer4.icmpv4 = Some(Icmp { kind }),
        TransportSeen::Icmpv6 { kind } => layer4.icmpv6 = Some(Icmp { kind }),
        TransportSeen::Other(_) => return None,
    }
    Some(layer4)
}

fn tcp_flags(flags: u8) -> TcpFlags {
    let has = |bit: u8| flags & (1 << bit) != 0;
    TcpFlags { fin: has(0), syn: has(1), rst: has(2), psh: has(3), ack: has(4), urg: has(5), ece: has(6), cwr: has(7) }
}

fn endpoint(party: &Party) -> Endpoint {
    let reserved =
        |identity: u32, label: &str| Endpoint { identity, labels: vec![label.to_owned()], ..Endpoint::default() };
    match party {
        Party::Workload(workload) => Endpoint {
            identity: workload.identity,
            namespace: cut(&workload.name.namespace, NAME_MOST).into_owned(),
            labels: labels(workload),
            pod_name: cut(&workload.name.name, NAME_MOST).into_owned(),
        },
        Party::Host => reserved(IDENTITY_HOST, "reserved:host"),
        Party::World => reserved(IDENTITY_WORLD, "reserved:world"),
        Party::Unknown => reserved(IDENTITY_UNKNOWN, "reserved:unknown"),
    }
}

fn labels(workload: &WorkloadSeen) -> Vec<String> {
    let pairs = workload.labels.pairs();
    let mut labels: Vec<String> = pairs
        .iter()
        .take(LABELS_MOST)
        .map(|(key, value)| cut(&format!("k8s:{key}={value}"), LABEL_MOST).into_owned())
        .collect();
    if let Some(more) = pairs.len().checked_sub(LABELS_MOST).filter(|more| *more > 0) {
        labels.push(format!("enforcer:more-labels={more}"));
    }
    labels
}

fn denied_by(decision: &RecordedDecision) -> Vec<Policy> {
    let RecordedDecision::Policies { revision, policies } = decision else {
        return Vec::new();
    };
    policies
        .iter()
        .take(POLICIES_MOST)
        .map(|policy| Policy {
            name: cut(&policy.name, NAME_MOST).into_owned(),
            namespace: cut(&policy.namespace, NAME_MOST).into_owned(),
            revision: u64::from(revision.0),
            kind: policy.kind.to_owned(),
        })
        .collect()
}

/// Each deciding policy with its line, or why there is none.
fn places(decision: &RecordedDecision) -> Vec<String> {
    match decision {
        RecordedDecision::NotPolicy => Vec::new(),
        RecordedDecision::Policies { policies, .. } => listed(policies),
        RecordedDecision::Disagreement { revision, policies } => {
            let mut places = vec![format!("verdicts differ: revision {revision} allows it")];
            places.extend(listed(policies));
            places
        }
        RecordedDecision::EarlierRevision { revision } => vec![format!("revision {revision} of an earlier run")],
        RecordedDecision::LaterWorkload { revision } => vec![format!("workload not in revision {revision}")],
    }
}

fn listed(policies: &[DecidingPolicy]) -> Vec<String> {
    let mut places: Vec<String> = policies
        .iter()
        .take(POLICIES_MOST)
        .map(|policy| {
            let place = match &policy.at {
                Origin::File { path, line } => format!("{}:{line}", cut_front(path, PATH_MOST)),
                Origin::Object { object, field, declared } => {
                    let declared = declared.iter().map(|text| format!(" (from \"{}\")", cut(text, PATH_MOST)));
                    let declared = declared.collect::<String>();
                    format!("{} {}{declared}", cut(&object.to_string(), OBJECT_MOST), cut_front(field, PATH_MOST))
                }
            };
            format!("{}/{} {place}", cut(&policy.namespace, NAME_MOST), cut(&policy.name, NAME_MOST))
        })
        .collect();
    if policies.len() > POLICIES_MOST {
        places.push(format!("+{}", policies.len() - POLICIES_MOST));
    }
    places
}

fn policy_log(record: &FlowRecord, mut entries: Vec<String>) -> Vec<String> {
    entries.push(format!("reason={}", record.reason.name()));
    entries.push(format!("count={}", record.count));
    let side = match record.direction {
        Direction::Egress => "source",
        Direction::Ingress => "destination",
    };
    entries.push(match record.workload.device() {
        Some(ifindex) => format!("device={ifindex}"),
        None => format!("{side}={}", record.workload.0),
    });
    entries
}

fn summary(record: &FlowRecord, places: &[String]) -> String {
    let mut parts = Vec::new();
    match record.packet {
        Some(packet) => parts.extend(header(packet)),
        None => parts.push("flows not told apart".to_owned()),
    }
    if record.packet.is_none_or(|packet| packet.addresses.is_none()) {
        // Hubble's tools print no names where there are no addresses.
        parts.extend(judged(record));
    }
    parts.push(record.reason.name().to_owned());
    parts.extend_from_slice(places);
    parts.push(match record.count {
        1 => "1 packet".to_owned(),
        count => format!("{count} packets"),
    });
    parts.join("; ")
}

/// The workload that was judged.
fn judged(record: &FlowRecord) -> Option<String> {
    let (party, preposition) = match record.direction {
        Direction::Egress => (&record.source, "from"),
        Direction::Ingress => (&record.destination, "to"),
    };
    match party {
        Some(Party::Workload(workload)) => Some(format!(
            "{preposition} {}/{}",
            cut(&workload.name.namespace, NAME_MOST),
            cut(&workload.name.name, NAME_MOST)
        )),
        Some(Party::Host | Party::World | Party::Unknown) | None => None,
    }
}

fn header(packet: PacketSeen) -> Option<String> {
    if packet.addresses.is_none() {
        return (packet.ethertype != 0).then(|| format!("ethertype 0x{:04x}", packet.ethertype));
    }
    match packet.transport {
        TransportSeen::Tcp { flags: 0, .. } => Some("TCP".to_owned()),
        TransportSeen::Tcp { flags, .. } => {
            let mut text = "TCP Flags: ".to_owned();
            let names = ["FIN", "SYN", "RST", "PSH", "ACK", "URG", "ECE", "CWR"];
            let set = names.iter().enumerate().filter(|(bit, _)| flags & (1 << bit) != 0);
            for (index, (_, name)) in set.enumerate() {
                let separator = if index == 0 { "" } else { ", " };
                // Writing to a string cannot fail.
                let _ = write!(text, "{separator}{name}");
            }
            Some(text)
        }
        TransportSeen::Udp(_) => Some("UDP".to_owned()),
        TransportSeen::Sctp(_) => Some("SCTP".to_owned()),
        TransportSeen::Icmpv4 { kind } => Some(format!("ICMPv4 type {kind}")),
        TransportSeen::Icmpv6 { kind } => Some(format!("ICMPv6 type {kind}")),
        // No transport header was reached.
        TransportSeen::Other(0) => None,
        TransportSeen::Other(number) => Some(format!("protocol {number}")),
    }
}

#[cfg(test)]
mod tests;
