//! ICMP errors: the flow that one quotes.
//!
//! Input: the [`World`] and the packet of an ICMP error. Output, in its [`Work`]: the key of the quoted flow of this
//! workload, and whether it is live; the state bits of one of another epoch, for `judge`.

use core::sync::atomic::Ordering::Relaxed;

use crate::datapath::{Work, World, echo_ports};
use crate::endpoint::Endpoint;
use crate::flow_state::{FlowKey, FlowWord};
use crate::id::Direction;
use crate::packet::{self, PacketBytes, ProtocolClass};

/// See the module.
#[inline(always)]
pub fn find_quoted<W: World, B: PacketBytes>(world: &W, bytes: &B, work: &mut Work) {
    let Some(endpoint) = world.endpoint(work.meta.ifindex) else {
        return;
    };
    let Some(quote) = packet::quote(bytes, &work.packet) else {
        return;
    };
    let from_workload = matches!(work.direction, Direction::Egress);
    // The workload sends an error about what it received, and receives one about what it sent.
    let (local, peer) =
        if from_workload { (&quote.destination, &quote.source) } else { (&quote.source, &quote.destination) };
    if from_workload && work.packet.destination != *peer {
        return;
    }
    let routes = endpoint.flags[work.word.slot()] & Endpoint::ROUTES != 0;
    let Some(owner) = endpoint.owner_of(local).or(routes.then_some(endpoint.id)) else {
        return;
    };
    let [source_port, destination_port] = quote.ports;
    let (local_port, peer_port) = match quote.class {
        ProtocolClass::Icmp | ProtocolClass::Icmpv6 => echo_ports(from_workload != quote.echo_request, quote.echo_id),
        ProtocolClass::Other => (u16::from(quote.protocol), 0),
        ProtocolClass::Tcp | ProtocolClass::Udp | ProtocolClass::Sctp if from_workload => {
            (destination_port, source_port)
        }
        ProtocolClass::Tcp | ProtocolClass::Udp | ProtocolClass::Sctp => (source_port, destination_port),
    };
    work.key = FlowKey::new(owner, quote.class, local_port, peer_port, peer);
    let Some(flow) = world.flow(&work.key) else {
        return;
    };
    let (current, tag) = (FlowWord(flow.word.load(Relaxed)), work.key.tag());
    if current.is_current(work.word.epoch, tag) {
        work.quotes_live_flow = true;
    } else if current.has_tag(tag) {
        work.flow = current.state();
    }
}
