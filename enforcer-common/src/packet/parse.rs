//! Bytes of a frame -> headers. Every way out that is not a whole header is an error, and every error is a denial.
//!
//! Input: an Ethernet frame behind [`PacketBytes`]. Output: its [`Packet`], or the reason for which it is dropped.

use super::{Frame, Kind, Packet, PacketBytes, ProtocolClass, icmp, protocol, tcp};
use crate::id::Address;
use crate::limits::EXTENSION_HEADERS;
use crate::verdict::Reason;

/// How many bytes of this frame [`PacketBytes::fixed`] will be asked for, from what of it can be read so far. `None`: that
/// cannot be told; [`super::HEAD`] is always enough.
#[inline(always)]
pub fn linear_need<B: PacketBytes>(bytes: &B) -> Option<u32> {
    let (at, protocol) = match bytes.ethertype()? {
        0x0800 => (V4_TRANSPORT, byte::<1>(bytes.fixed::<1>(ETHERNET as usize + 8)?[0])),
        0x86dd => (V6_TRANSPORT, byte::<2>(bytes.fixed::<1>(ETHERNET as usize + 4)?[0])),
        _ => return Some(ETHERNET),
    };
    Some(match protocol {
        protocol::TCP => at + 20,
        protocol::SCTP => at + 16,
        _ => at + 8,
    })
}

/// Parses a frame into `out`, which gets what could be read even if the frame is refused.
///
/// Each way out writes `out` itself: values that meet behind the parser would all have to be kept on the stack.
#[inline(always)]
pub fn parse<B: PacketBytes>(bytes: &B, out: &mut Packet) -> Result<Frame, Reason> {
    let Some(ethertype) = bytes.ethertype() else {
        return refuse_unread(out, 0, Reason::Ethertype);
    };
    match ethertype {
        0x0800 => parse_v4(bytes, out),
        0x86dd => parse_v6(bytes, out),
        0x0806 => Ok(Frame::Arp),
        0x8100 | 0x88a8 | 0x9100 => refuse_unread(out, ethertype, Reason::Vlan),
        _ => refuse_unread(out, ethertype, Reason::Ethertype),
    }
}

#[inline(always)]
fn refuse(out: &mut Packet, packet: &Packet, reason: Reason) -> Result<Frame, Reason> {
    *out = *packet;
    Err(reason)
}

/// Not where the packet of every frame is made: a constant of this size would be copied into each.
#[inline(always)]
fn refuse_unread(out: &mut Packet, ethertype: u16, reason: Reason) -> Result<Frame, Reason> {
    *out = Packet::EMPTY;
    out.ethertype = ethertype;
    Err(reason)
}

/// Byte `N` of the four that lie in memory as `word`.
#[inline(always)]
pub(crate) const fn byte<const N: usize>(word: u32) -> u8 {
    word.to_ne_bytes()[N]
}

/// Half `N` of the four bytes that lie in memory as `word`, as a number.
#[inline(always)]
pub(crate) const fn half<const N: usize>(word: u32) -> u16 {
    (u32::from_be(word) >> (16 * (1 - N))) as u16
}

const ETHERNET: u32 = 14;
const V4_TRANSPORT: u32 = ETHERNET + 20;
const V6_TRANSPORT: u32 = ETHERNET + 40;

#[inline(always)]
fn parse_v4<B: PacketBytes>(bytes: &B, out: &mut Packet) -> Result<Frame, Reason> {
    let Some([first, fragment, third, source, destination]) = bytes.fixed::<5>(ETHERNET as usize) else {
        return refuse_unread(out, 0x0800, Reason::IpMalformed);
    };
    let mut total = u32::from(half::<1>(first));
    if total == 0 && bytes.length() > 0xffff {
        // An offloaded packet of over 64 KiB has no room for its length (kernel: BIG TCP, `iph_totlen`).
        total = bytes.length() - ETHERNET;
    }
    let packet = Packet {
        source: Address::v4(source),
        destination: Address::v4(destination),
        protocol: byte::<1>(third),
        hop_limit: byte::<0>(third),
        transport_at: V4_TRANSPORT,
        transport_length: total.wrapping_sub(20),
        ethertype: 0x0800,
        class: ProtocolClass::Other,
        kind: Kind::Following,
        tcp_flags: 0,
        has_payload: false,
        icmp_type: 0,
        icmp_code: 0,
        source_port: 0,
        destination_port: 0,
        echo_id: 0,
    };
    if byte::<0>(first) != 0x45 {
        let options = byte::<0>(first) > 0x45 && byte::<0>(first) <= 0x4f;
        return refuse(out, &packet, if options { Reason::IpOptions } else { Reason::IpMalformed });
    }
    if total < 20 || total > bytes.length().saturating_sub(ETHERNET) {
        return refuse(out, &packet, Reason::IpMalformed);
    }
    // More fragments, or an offset.
    if half::<1>(fragment) & 0x3fff != 0 {
        return refuse(out, &packet, Reason::Fragment);
    }
    transport::<B, true>(bytes, out, packet, true)
}

#[inline(always)]
fn parse_v6<B: PacketBytes>(bytes: &B, out: &mut Packet) -> Result<Frame, Reason> {
    let Some([first, second, addresses @ ..]) = bytes.fixed::<10>(ETHERNET as usize) else {
        return refuse_unread(out, 0x86dd, Reason::IpMalformed);
    };
    let (source, destination) = split(addresses);
    let mut length = u32::from(half::<0>(second));
    if length == 0 && bytes.length() > 0xffff {
        length = bytes.length() - V6_TRANSPORT;
    }
    let mut packet = Packet {
        source,
        destination,
        protocol: byte::<2>(second),
        hop_limit: byte::<3>(second),
        transport_at: V6_TRANSPORT,
        transport_length: length,
        ethertype: 0x86dd,
        class: ProtocolClass::Other,
        kind: Kind::Following,
        tcp_flags: 0,
        has_payload: false,
        icmp_type: 0,
        icmp_code: 0,
        source_port: 0,
        destination_port: 0,
        echo_id: 0,
    };
    let malformed = byte::<0>(first) >> 4 != 6
        || length > bytes.length().saturating_sub(V6_TRANSPORT)
        || source.is_v4()
        || destination.is_v4();
    if malformed {
        return refuse(out, &packet, Reason::IpMalformed);
    }
    if !is_extension(packet.protocol) {
        return transport::<B, true>(bytes, out, packet, false);
    }
    match walk(bytes, packet.protocol, length) {
        Ok((protocol, at, length)) => {
            packet.protocol = protocol;
            packet.transport_at = at;
            packet.transport_length = length;
            transport::<B, false>(bytes, out, packet, false)
        }
        Err(reason) => refuse(out, &packet, reason),
    }
}

#[inline(always)]
pub(crate) fn split([a, b, c, d, e, f, g, h]: [u32; 8]) -> (Address, Address) {
    (Address([a, b, c, d]), Address([e, f, g, h]))
}

#[inline(always)]
pub(crate) fn is_extension(next: u8) -> bool {
    matches!(next, protocol::HOP_BY_HOP | protocol::ROUTING | protocol::FRAGMENT | protocol::DESTINATION_OPTIONS)
}

/// Walks the extension headers (RFC 8200 section 4): the transport's protocol, offset and length.
#[inline(always)]
fn walk<B: PacketBytes>(bytes: &B, first: u8, length: u32) -> Result<(u8, u32, u32), Reason> {
    let (mut next, mut at, mut left) = (first, V6_TRANSPORT, length);
    for place in 0..EXTENSION_HEADERS {
        if !is_extension(next) {
            return Ok((next, at, left));
        }
        // Hop-by-hop options stand first or not at all; a routing header moves the destination.
        if next == protocol::ROUTING || (next == protocol::HOP_BY_HOP && place != 0) {
            return Err(Reason::ExtensionHeader);
        }
        let Some([header]) = bytes.at::<1>(at) else {
            return Err(Reason::ExtensionHeader);
        };
        let size = if next == protocol::FRAGMENT {
            // Atomic fragments (RFC 6946) are whole packets; offset and the M flag tell.
            if half::<1>(header) & 0xfff9 != 0 {
                return Err(Reason::Fragment);
            }
            8
        } else {
            (u32::from(byte::<1>(header)) + 1) * 8
        };
        if size > left {
            return Err(Reason::ExtensionHeader);
        }
        next = byte::<0>(header);
        at += size;
        left -= size;
    }
    if is_extension(next) { Err(Reason::ExtensionHeader) } else { Ok((next, at, left)) }
}

/// `FIXED`: the transport header is at a constant offset, which direct access to the packet needs.
#[inline(always)]
fn read<const N: usize, const FIXED: bool, B: PacketBytes>(bytes: &B, packet: &Packet) -> Option<[u32; N]> {
    if FIXED { bytes.fixed::<N>(packet.transport_at as usize) } else { bytes.at::<N>(packet.transport_at) }
}

#[inline(always)]
fn transport<B: PacketBytes, const FIXED: bool>(
    bytes: &B,
    out: &mut Packet,
    mut packet: Packet,
    v4: bool,
) -> Result<Frame, Reason> {
    packet.class = ProtocolClass::of(packet.protocol, v4);
    let whole = match packet.class {
        ProtocolClass::Tcp => tcp_header::<B, FIXED>(bytes, &mut packet),
        ProtocolClass::Udp => udp_header::<B, FIXED>(bytes, &mut packet),
        ProtocolClass::Sctp => sctp_header::<B, FIXED>(bytes, &mut packet),
        ProtocolClass::Icmp | ProtocolClass::Icmpv6 => icmp_header::<B, FIXED>(bytes, &mut packet, v4),
        ProtocolClass::Other => Some(()),
    };
    *out = packet;
    whole.map(|()| Frame::Ip).ok_or(Reason::L4Short)
}

#[inline(always)]
fn tcp_header<B: PacketBytes, const FIXED: bool>(bytes: &B, packet: &mut Packet) -> Option<()> {
    let [ports, _, _, fourth, _] = read::<5, FIXED, B>(bytes, packet)?;
    let offset = u32::from(byte::<0>(fourth) >> 4) * 4;
    if packet.transport_length < 20 || offset < 20 || offset > packet.transport_length {
        return None;
    }
    packet.tcp_flags = byte::<1>(fourth);
    packet.has_payload = offset < packet.transport_length;
    packet.source_port = half::<0>(ports);
    packet.destination_port = half::<1>(ports);
    if byte::<1>(fourth) & (tcp::SYN | tcp::ACK) == tcp::SYN {
        packet.kind = Kind::Opening;
    }
    Some(())
}

#[inline(always)]
fn udp_header<B: PacketBytes, const FIXED: bool>(bytes: &B, packet: &mut Packet) -> Option<()> {
    let [ports, second] = read::<2, FIXED, B>(bytes, packet)?;
    let length = u32::from(half::<0>(second));
    let jumbo = length == 0 && packet.transport_length > 0xffff;
    if packet.transport_length < 8 || !jumbo && (length < 8 || length > packet.transport_length) {
        return None;
    }
    packet.source_port = half::<0>(ports);
    packet.destination_port = half::<1>(ports);
    Some(())
}

/// Common header (RFC 9260 section 3.1) and the type of the first chunk: there is no packet without one.
#[inline(always)]
fn sctp_header<B: PacketBytes, const FIXED: bool>(bytes: &B, packet: &mut Packet) -> Option<()> {
    let [ports, _, _, chunk] = read::<4, FIXED, B>(bytes, packet)?;
    if packet.transport_length < 16 {
        return None;
    }
    packet.source_port = half::<0>(ports);
    packet.destination_port = half::<1>(ports);
    if byte::<0>(chunk) == 1 {
        packet.kind = Kind::Opening;
    }
    Some(())
}

#[inline(always)]
fn icmp_header<B: PacketBytes, const FIXED: bool>(bytes: &B, packet: &mut Packet, v4: bool) -> Option<()> {
    let [first, second] = read::<2, FIXED, B>(bytes, packet)?;
    if packet.transport_length < 8 {
        return None;
    }
    packet.icmp_type = byte::<0>(first);
    packet.icmp_code = byte::<1>(first);
    packet.kind = icmp_kind(v4, byte::<0>(first));
    if matches!(packet.kind, Kind::Opening) || packet.is_echo_reply() {
        packet.echo_id = half::<0>(second);
    }
    Some(())
}

#[inline(always)]
pub(crate) fn icmp_kind(v4: bool, kind: u8) -> Kind {
    if v4 {
        match kind {
            icmp::ECHO_REQUEST => Kind::Opening,
            icmp::ECHO_REPLY => Kind::Following,
            icmp::UNREACHABLE | icmp::TIME_EXCEEDED | icmp::PARAMETER_PROBLEM => Kind::IcmpError,
            _ => Kind::IcmpOther,
        }
    } else {
        match kind {
            icmp::V6_ECHO_REQUEST => Kind::Opening,
            icmp::V6_ECHO_REPLY => Kind::Following,
            1..=icmp::V6_LAST_ERROR => Kind::IcmpError,
            _ => Kind::IcmpOther,
        }
    }
}
