//! Finds the flow that an ICMP error quotes.
//!
//! Input: devices, flows, and the packet of an ICMP error. Output, in its [`Work`]: the key of the workload's quoted flow,
//! and whether that flow is live. If the flow is of another epoch, `judge` gets its state bits.

use core::sync::atomic::Ordering::Relaxed;

use crate::endpoint::Endpoint;
use crate::flow_key::{self, FlowKey};
use crate::flow_state::FlowWord;
use crate::id::{Address, Direction};
use crate::limits;
use crate::packet::{
    ETHERNET, Kind, Packet, PacketBytes, ProtocolClass, byte, half, icmp, icmp_kind, is_extension, split,
};
use crate::tables::{Bounds, Devices, Flows};
use crate::work::Work;

/// The out-of-line part that looks for the quoted flow: tests run [`find_quoted`] in line, the kernel's tables call it.
pub trait FindQuoted: Devices + Flows + Bounds {
    /// Finds the flow that an ICMP error quotes, as the head of this module says.
    #[inline(always)]
    fn find_quoted<B: PacketBytes>(&self, bytes: &B, work: &mut Work)
    where
        Self: Sized,
    {
        find_quoted(self, bytes, work);
    }
}

/// Finds the flow that an ICMP error quotes, as the head of this module says.
#[inline(always)]
pub fn find_quoted<T: Devices + Flows + Bounds, B: PacketBytes>(tables: &T, bytes: &B, work: &mut Work) {
    let Some(endpoint) = tables.endpoint(work.meta.ifindex) else {
        return;
    };
    if is_too_long(&work.packet, tables.error_bytes()) {
        return;
    }
    let Some(quote) = quote(bytes, &work.packet) else {
        return;
    };
    let from_workload = matches!(work.direction, Direction::Egress);
    // The workload sends an error about what it received, and receives one about what it sent.
    let (local, peer) =
        if from_workload { (&quote.destination, &quote.source) } else { (&quote.source, &quote.destination) };
    if from_workload && work.packet.destination != *peer {
        return;
    }
    let routes = endpoint.flags[work.word.slot().index()] & Endpoint::ROUTES != 0;
    let Some(owner) = tables.owner_of(endpoint, local).or(routes.then_some(endpoint.id.owner())) else {
        return;
    };
    // What is quoted went the other way.
    let quoted = work.direction.opposite();
    let (local_port, peer_port) =
        flow_key::sides(quoted, quote.class, quote.protocol, quote.ports, quote.echo_request, quote.echo_id);
    work.key = FlowKey::new(owner, quote.class, local_port, peer_port, peer);
    let Some(flow) = tables.flow(&work.key) else {
        return;
    };
    let (current, tag) = (FlowWord(flow.word.load(Relaxed)), work.key.tag());
    work.quotes_live_flow = current.is_current(work.direction, work.word.epoch, tag);
    if current.has_tag(tag) {
        work.flow = current.state();
    }
}

/// Whether an error carries more than errors need, so that whoever knows a flow could send by it what policy denies.
/// `bytes`: see [`Bounds`].
#[inline(always)]
fn is_too_long(error: &Packet, bytes: u32) -> bool {
    let most = if matches!(error.class, ProtocolClass::Icmp) { limits::ERROR_BYTES_V4 } else { limits::ERROR_BYTES };
    let limit = if bytes != 0 && bytes < most { bytes } else { most };
    error.transport_at - ETHERNET + error.transport_length > limit
}

/// The packet that an ICMP error quotes, as far as a flow key needs it.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Quote {
    /// Source of the quoted packet.
    pub source: Address,
    /// Its destination.
    pub destination: Address,
    /// Its IP protocol number.
    pub protocol: u8,
    /// Its protocol class.
    pub class: ProtocolClass,
    /// Its ports, source first; zero without ports.
    pub ports: [u16; 2],
    /// It is an echo request, or a reply.
    pub echo_request: bool,
    /// Id of the echo.
    pub echo_id: u16,
}

/// The packet that `error` quotes; `None` if it is too short to hold the ports, a fragment, or has extension headers.
#[inline(always)]
pub fn quote<B: PacketBytes>(bytes: &B, error: &Packet) -> Option<Quote> {
    let at = error.transport_at + 8;
    let end = error.transport_at + error.transport_length;
    let v4 = matches!(error.class, ProtocolClass::Icmp);
    let (source, destination, protocol, transport_at) = if v4 {
        let [first, fragment, third, source, destination] = bytes.at::<5>(at)?;
        let size = u32::from(byte::<0>(first) & 0x0f) * 4;
        if byte::<0>(first) >> 4 != 4 || size < 20 || half::<1>(fragment) & 0x1fff != 0 {
            return None;
        }
        (Address::v4(source), Address::v4(destination), byte::<1>(third), at + size)
    } else {
        let [first, second, addresses @ ..] = bytes.at::<10>(at)?;
        if byte::<0>(first) >> 4 != 6 || is_extension(byte::<2>(second)) {
            return None;
        }
        let (source, destination) = split(addresses);
        (source, destination, byte::<2>(second), at + 40)
    };
    // A mapped address would hit a flow of the other family; what lies beyond the packet is padding.
    if !v4 && (source.is_v4() || destination.is_v4()) || transport_at > end {
        return None;
    }
    let class = ProtocolClass::of(protocol, v4);
    let mut quote = Quote { source, destination, protocol, class, ports: [0; 2], echo_request: false, echo_id: 0 };
    if matches!(class, ProtocolClass::Other) {
        return Some(quote);
    }
    // Both ICMPs are obliged to quote at least eight bytes of the transport header.
    if transport_at + 8 > end {
        return None;
    }
    let [first, second] = bytes.at::<2>(transport_at)?;
    if matches!(class, ProtocolClass::Icmp | ProtocolClass::Icmpv6) {
        let kind = byte::<0>(first);
        quote.echo_request = matches!(icmp_kind(v4, kind), Kind::Opening);
        if !quote.echo_request && kind != if v4 { icmp::ECHO_REPLY } else { icmp::V6_ECHO_REPLY } {
            return None;
        }
        quote.echo_id = half::<0>(second);
    } else {
        quote.ports = [half::<0>(first), half::<1>(first)];
    }
    Some(quote)
}
