//! Adds names to denials. It is pure: the same denial and the same names always give the same record.
//!
//! Input: a denial as the kernel counted it, and the names of its revision. Output: a [`FlowRecord`].

use std::net::IpAddr;
use std::sync::Arc;

use enforcer_common::denial::{Denial, Way};
use enforcer_common::id::{Address, Direction, IncarnationId, Revision};
use enforcer_common::packet::{icmp, protocol, tcp};
use enforcer_common::verdict::Reason;
use jiff::Timestamp;

use super::names::{Names, Owned, Ruling, Service};
use super::record::{FlowRecord, InterfaceSeen, PacketSeen, Party, Ports, RecordedDecision, TransportSeen};

/// A denial holds the number of a reason or direction that this build does not know. Another version may have written it.
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
pub enum InvalidDenial {
    /// No such reason.
    #[error("skipped a denial record with the unknown reason {0} (written by another version?)")]
    Reason(u8),
    /// No such direction.
    #[error("skipped a denial record with the unknown direction {0} (written by another version?)")]
    Direction(u8),
}

/// Makes records, and counts where policies and kernel disagree.
pub struct Enricher {
    node: Arc<str>,
    disagreements: u64,
}

impl Enricher {
    /// For records of a node.
    pub fn new(node: &str) -> Self {
        Self { node: node.into(), disagreements: 0 }
    }

    /// Packets that the kernel denied and that the policies of the same revision allow: an error of ours.
    pub fn disagreements(&self) -> u64 {
        self.disagreements
    }

    /// The record of a denial.
    pub fn enrich(&mut self, names: &dyn Names, time: Timestamp, denial: &Denial) -> Result<FlowRecord, InvalidDenial> {
        let record = match *denial {
            Denial::Flow { ref way, count } => self.flow(names, time, way, count)?,
            Denial::Busy { workload, direction, reason, count } => {
                self.busy(names, time, workload, direction, reason, count)
            }
        };
        if matches!(record.decision, RecordedDecision::Disagreement { .. }) {
            self.disagreements += record.count;
        }
        Ok(record)
    }

    fn flow(&self, names: &dyn Names, time: Timestamp, way: &Way, count: u64) -> Result<FlowRecord, InvalidDenial> {
        let (reason, direction) = parse(way.key.reason, way.key.direction)?;
        let revision = way.key.revision;
        let owner = names.owner(Some(revision), way.key.workload);
        let packet = packet(direction, way);
        let peer = packet.addresses.map(|_| {
            if is_forged(reason, direction) {
                // The address is a local workload's, the packet is not.
                Party::World
            } else {
                names.address(revision, way.key.peer.into())
            }
        });
        let (is_reply, decision) = if reason.is_policy() {
            decide(names, direction, way, owner)
        } else {
            (false, RecordedDecision::NotPolicy)
        };
        // A guard's packet is of no workload: its destination has the name of its address.
        let judged = match way.key.workload.device() {
            Some(_) => packet.addresses.map(|(_, destination)| names.address(revision, destination)),
            None => Some(local(owner)),
        };
        let (source, destination) = sides(direction, judged, peer);
        Ok(FlowRecord {
            time,
            reason,
            direction,
            is_reply,
            count,
            packet: Some(packet),
            source,
            destination,
            workload: way.key.workload,
            interface: interface(names, Some(revision), way.key.workload, owner),
            decision,
            node: Arc::clone(&self.node),
        })
    }

    fn busy(
        &self,
        names: &dyn Names,
        time: Timestamp,
        workload: IncarnationId,
        direction: Direction,
        reason: Reason,
        count: u64,
    ) -> FlowRecord {
        let owner = names.owner(None, workload);
        let (source, destination) = sides(direction, workload.device().is_none().then(|| local(owner)), None);
        FlowRecord {
            time,
            reason,
            direction,
            is_reply: false,
            count,
            packet: None,
            source,
            destination,
            workload,
            interface: interface(names, None, workload, owner),
            decision: RecordedDecision::NotPolicy,
            node: Arc::clone(&self.node),
        }
    }
}

fn parse(reason: u8, direction: u8) -> Result<(Reason, Direction), InvalidDenial> {
    Ok((
        Reason::from_u8(reason).ok_or(InvalidDenial::Reason(reason))?,
        Direction::from_u8(direction).ok_or(InvalidDenial::Direction(direction))?,
    ))
}

/// The judged workload's side: its name, whatever address the packet shows there.
fn local(owner: Option<&Owned>) -> Party {
    owner.map_or(Party::Unknown, |owned| owned.party.clone())
}

fn sides(direction: Direction, local: Option<Party>, peer: Option<Party>) -> (Option<Party>, Option<Party>) {
    match direction {
        Direction::Egress => (local, peer),
        Direction::Ingress => (peer, local),
    }
}

/// A local workload's address, of which a packet came in where that workload is not.
fn is_forged(reason: Reason, direction: Direction) -> bool {
    match direction {
        Direction::Ingress => matches!(reason, Reason::SpoofedSource | Reason::SpoofedFromUplink),
        Direction::Egress => false,
    }
}

/// The veth of the workload that was judged, or the device whose guard dropped the packets.
fn interface(
    names: &dyn Names,
    revision: Option<Revision>,
    judged: IncarnationId,
    owner: Option<&Owned>,
) -> Option<Arc<InterfaceSeen>> {
    match judged.device() {
        Some(ifindex) => Some(names.device(revision, ifindex)),
        None => owner.and_then(|owned| owned.interface.clone()),
    }
}

fn packet(direction: Direction, way: &Way) -> PacketSeen {
    let read = way.local != Address::UNSPECIFIED || way.key.peer != Address::UNSPECIFIED;
    let (local, peer): (IpAddr, IpAddr) = (way.local.into(), way.key.peer.into());
    PacketSeen {
        ethertype: way.key.ethertype,
        addresses: read.then_some(match direction {
            Direction::Egress => (local, peer),
            Direction::Ingress => (peer, local),
        }),
        transport: transport(way),
    }
}

fn transport(way: &Way) -> TransportSeen {
    let ports = Ports { source: way.source_port, destination: way.key.destination_port };
    // A type is a byte; the kernel puts nothing else there.
    let kind = way.key.destination_port as u8;
    match way.key.protocol {
        protocol::TCP => TransportSeen::Tcp { ports, flags: way.tcp_flags },
        protocol::UDP => TransportSeen::Udp(ports),
        protocol::SCTP => TransportSeen::Sctp(ports),
        protocol::ICMP => TransportSeen::Icmpv4 { kind },
        protocol::ICMPV6 => TransportSeen::Icmpv6 { kind },
        other => TransportSeen::Other(other),
    }
}

/// Whether the packet answers a flow, and which policies denied it.
///
/// The kernel judges a packet that may belong to a live flow in the direction in which that flow was opened, and its
/// record says only which way the packet went. So where policy allows the packet as a new flow, it is asked of the flow
/// that the packet would answer: to the port that it comes from.
fn decide(names: &dyn Names, direction: Direction, way: &Way, owner: Option<&Owned>) -> (bool, RecordedDecision) {
    let revision = way.key.revision;
    let Some(policies) = names.policies(revision) else {
        return (false, RecordedDecision::EarlierRevision { revision });
    };
    let peer = way.key.peer.into();
    let ask = |direction, port| {
        let service = Service { protocol: way.key.protocol, port };
        owner.and_then(|owned| policies.rule_on(owned.key, direction, peer, service))
    };
    match ask(direction, way.key.destination_port) {
        None => (false, RecordedDecision::LaterWorkload { revision }),
        Some(Ruling::Denied(mut policies)) => {
            policies.sort();
            (false, RecordedDecision::Policies { revision, policies })
        }
        Some(Ruling::Allowed(mut policies)) => {
            let answered = answered_port(way).and_then(|port| ask(direction.opposite(), port));
            if let Some(Ruling::Denied(mut policies)) = answered {
                policies.sort();
                return (true, RecordedDecision::Policies { revision, policies });
            }
            policies.sort();
            (false, RecordedDecision::Disagreement { revision, policies })
        }
    }
}

/// The port, or the type, that the flow was opened to if the packet is an answer; `None`: it cannot be one.
fn answered_port(way: &Way) -> Option<u16> {
    let kind = way.key.destination_port;
    match way.key.protocol {
        protocol::TCP if way.tcp_flags & (tcp::SYN | tcp::ACK) == tcp::SYN => None,
        protocol::ICMP => (kind == u16::from(icmp::ECHO_REPLY)).then_some(u16::from(icmp::ECHO_REQUEST)),
        protocol::ICMPV6 => (kind == u16::from(icmp::V6_ECHO_REPLY)).then_some(u16::from(icmp::V6_ECHO_REQUEST)),
        _ => Some(way.source_port),
    }
}

#[cfg(test)]
mod tests;
