//! Judges what a local workload sends once more, behind the point where the node translates destinations (D5, N16).
//!
//! Input: the tables, and the addresses of a connection before and after translation. Output: a verdict. The programs on a veth
//! see the address of a Service, and policy speaks of the backend, which nobody knows before the node has chosen it. So the
//! veth lets such a packet pass, and this is where its sender's egress policy judges it. Nothing that an isolated workload sends
//! gets past this point to the address of a Service, whatever the node's connection tracking takes the packet for, but answers to a
//! host at that address which the workload's ingress policy lets call.

use crate::decide::decide;
use crate::endpoint::Endpoint;
use crate::id::{Address, Direction, Ifindex, IncarnationId, OwnerId, Revision, Row};
use crate::image::{AddressEntry, PortKey, ReadImage};
use crate::packet::{Packet, ProtocolClass};
use crate::tables::{Devices, PolicyTables, Veths};
use crate::verdict::{Reason, Verdict};
use crate::work::{Meta, Work};

/// A packet behind the translation of destinations: its own addresses, and what the node's connection tracking tells of it.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct Connection {
    /// Who sends it. Not by the connection: an ICMP error belongs to the connection that it quotes, which is somebody else's.
    pub source: Address,
    /// Where it goes. Of an answer, the address that the sender gave it, before the node took back the translation of the source.
    pub destination: Address,
    /// IP protocol number of the connection.
    pub protocol: u8,
    /// Port of the sender; 0 without ports.
    pub source_port: u16,
    /// Port of the receiver; 0 without ports.
    pub destination_port: u16,
    /// Port that was called, behind translation; without ports the type of ICMP.
    pub called_port: u16,
    /// Which of its packets this is.
    pub way: Way,
}

/// Which packet of a connection is judged.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
#[repr(u8)]
pub enum Way {
    /// The opener's, and the node has translated its destination.
    Translated = 0,
    /// The opener's, with the destination that the opener gave it.
    Plain = 1,
    /// It goes to the opener.
    Answer = 2,
}

impl Connection {
    /// The port by which policy judges it.
    #[inline(always)]
    fn port(&self, class: ProtocolClass) -> PortKey {
        match class {
            ProtocolClass::Tcp => PortKey::tcp(self.called_port),
            ProtocolClass::Udp => PortKey::udp(self.called_port),
            ProtocolClass::Sctp => PortKey::sctp(self.called_port),
            ProtocolClass::Icmp => PortKey::icmp(self.called_port as u8),
            ProtocolClass::Icmpv6 => PortKey::icmpv6(self.called_port as u8),
            ProtocolClass::Other => PortKey::other(self.protocol),
        }
    }
}

/// Judges the packet by the egress policy of the workload that sends it; what no local workload sends passes. On a denial
/// `work` holds what the record of it needs.
///
/// A workload that reaches itself through a Service is judged as by anybody else (C14), so N19 has no say here.
#[inline(always)]
pub fn judge<T: PolicyTables + Devices + Veths>(
    tables: &T,
    connection: &Connection,
    work: &mut Work,
) -> Result<(), Reason> {
    let Connection { ref source, ref destination, .. } = *connection;
    let answers = matches!(connection.way, Way::Answer);
    let word = tables.word();
    let slot = word.slot();
    let image = tables.image(slot);
    let entry = image.as_ref().and_then(|image| image.address(destination));
    let is_service = entry.is_some_and(AddressEntry::is_service);
    if !matches!(connection.way, Way::Translated) && !is_service {
        // Judged on the veth, whoever else may have the sender's address.
        return Ok(());
    }
    let Some(veth) = tables.veth_of(source) else {
        return Ok(());
    };
    let class = ProtocolClass::of(connection.protocol, source.is_v4());
    // An address that several workloads have leads to no endpoint.
    let endpoint = if veth == Ifindex::NONE { None } else { tables.endpoint(veth) };
    let verdict = match endpoint.filter(|endpoint| endpoint.flags[slot.index()] & Endpoint::UNKNOWN == 0) {
        None => Verdict::Deny(Reason::UnknownWorkload),
        Some(_) if word.revision == Revision::NONE => Verdict::Deny(Reason::NoPolicy),
        Some(endpoint) => {
            let row = endpoint.row(slot, Direction::Egress);
            if row == Row::NOT_ISOLATED {
                return Ok(());
            }
            match image {
                // A Service may name the address of a host outside, which may open connections to the workload that policy allows.
                // Of one that policy denies there is nothing to answer: the workload itself begins here.
                Some(image) if is_service && answers => {
                    let row = endpoint.row(slot, Direction::Ingress);
                    decide(&image, row, destination, entry, connection.port(class))
                }
                // Nobody is behind it whom policy could name, and it would lead out of the node to whoever claims it.
                Some(_) if is_service => Verdict::Deny(Reason::NoRule),
                Some(image) => decide(&image, row, destination, entry, connection.port(class)),
                None => Verdict::Deny(Reason::Internal),
            }
        }
    };
    let Verdict::Deny(reason) = verdict else {
        return Ok(());
    };
    work.word = word;
    work.meta = Meta { ifindex: veth, ingress_ifindex: veth, vlan: false };
    work.direction = Direction::Egress;
    work.flow = 0;
    work.owner = OwnerId::NONE;
    work.workload = endpoint.map_or(IncarnationId::NONE, |endpoint| endpoint.id);
    work.packet = Packet {
        source: *source,
        destination: *destination,
        protocol: connection.protocol,
        class,
        source_port: connection.source_port,
        destination_port: connection.destination_port,
        ethertype: if source.is_v4() { 0x0800 } else { 0x86dd },
        ..Packet::EMPTY
    };
    Err(reason)
}

#[cfg(test)]
mod tests;
