//! Parses the bytes of a frame into headers. A header that is not complete and valid is an error, and every error is a
//! denial.
//!
//! Input: an Ethernet frame behind [`PacketBytes`]. Output: its [`Packet`], or the reason for which it is dropped.

use super::{ETHERNET, Frame, Kind, Packet, PacketBytes, ProtocolClass, icmp, protocol, sctp, tcp};
use crate::id::Address;
use crate::limits::{EXTENSION_HEADERS, MEMBERSHIP_BYTES, NEIGHBOUR_BYTES};
use crate::opaque::opaque;
use crate::verdict::Reason;

/// Parses a frame into `out`, which gets what could be read even if the frame is refused.
///
/// Each field is stored as soon as it is known: values that meet behind a branch would all have to be kept on the stack.
#[inline(always)]
pub fn parse<B: PacketBytes>(bytes: &B, out: &mut Packet) -> Result<Frame, Reason> {
    clear(out);
    let Some(ethertype) = bytes.ethertype() else {
        return Err(Reason::Ethertype);
    };
    out.ethertype = ethertype;
    match ethertype {
        0x0800 => match header_v4(bytes, out) {
            Ok(()) => transport::<B, true>(bytes, out, true),
            Err(Reason::IpOptions) => membership_v4(bytes, out),
            Err(reason) => Err(reason),
        },
        0x86dd => {
            header_v6(bytes, out)?;
            if is_extension(out.protocol) {
                let hop_by_hop = out.protocol == protocol::HOP_BY_HOP;
                walk(bytes, out)?;
                let frame = transport::<B, false>(bytes, out, false)?;
                if hop_by_hop && is_membership_v6(bytes, out) {
                    out.kind = Kind::Membership;
                }
                Ok(frame)
            } else {
                transport::<B, true>(bytes, out, false)
            }
        }
        0x0806 => Ok(Frame::Arp),
        0x8100 | 0x88a8 | 0x9100 => Err(Reason::Vlan),
        _ if is_neighbourly(bytes, ethertype) => Ok(Frame::Neighbour),
        _ => Err(Reason::Ethertype),
    }
}

/// As [`Packet::EMPTY`], field by field: a constant would be copied, and zeros of which the compiler knows would become a
/// call of `memset`.
#[inline(always)]
pub(crate) fn clear(out: &mut Packet) {
    // Of two kinds, since the compiler makes such a call for a run of the same byte too.
    let (zero, other) = (opaque(0) as u32, opaque(0) as u32);
    out.source = Address([zero; 4]);
    out.destination = Address([zero; 4]);
    out.protocol = zero as u8;
    out.class = ProtocolClass::Other;
    out.kind = Kind::Following;
    out.tcp_flags = zero as u8;
    out.has_payload = false;
    out.chunk = zero as u8;
    out.icmp_type = other as u8;
    out.icmp_code = zero as u8;
    out.hop_limit = other as u8;
    out.source_port = zero as u16;
    out.destination_port = zero as u16;
    out.echo_id = zero as u16;
    out.ethertype = zero as u16;
    out.transport_at = zero;
    out.transport_length = zero;
    out.sequence = zero;
    out.acknowledgement = zero;
}

/// Headers of TCP or UDP over IP without options, fragment or extension header, if the frame holds that and they can
/// be read at once. After `None`, [`parse`] has to say what the frame is.
#[inline(always)]
pub fn plain<B: PacketBytes>(bytes: &B, v4: bool) -> Option<Packet> {
    let mut packet = Packet::EMPTY;
    if v4 { header_v4(bytes, &mut packet) } else { header_v6(bytes, &mut packet) }.ok()?;
    packet.class = ProtocolClass::of(packet.protocol, v4);
    match packet.class {
        ProtocolClass::Tcp => tcp_header::<B, true>(bytes, &mut packet)?,
        ProtocolClass::Udp => udp_header::<B, true>(bytes, &mut packet)?,
        ProtocolClass::Sctp | ProtocolClass::Icmp | ProtocolClass::Icmpv6 | ProtocolClass::Other => return None,
    }
    Some(packet)
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

const V4_TRANSPORT: u32 = ETHERNET + 20;
const V6_TRANSPORT: u32 = ETHERNET + 40;

#[inline(always)]
fn header_v4<B: PacketBytes>(bytes: &B, out: &mut Packet) -> Result<(), Reason> {
    let Some([first, fragment, third, source, destination]) = bytes.fixed::<5>(ETHERNET as usize) else {
        return Err(Reason::IpMalformed);
    };
    let mut total = u32::from(half::<1>(first));
    if total == 0 && bytes.length() > 0xffff {
        // An offloaded packet of over 64 KiB has no room for its length (kernel: BIG TCP, `iph_totlen`).
        total = bytes.length() - ETHERNET;
    }
    out.source = Address::v4(source);
    out.destination = Address::v4(destination);
    out.protocol = byte::<1>(third);
    out.hop_limit = byte::<0>(third);
    out.transport_at = V4_TRANSPORT;
    out.transport_length = total.wrapping_sub(20);
    if byte::<0>(first) != 0x45 {
        let options = byte::<0>(first) > 0x45 && byte::<0>(first) <= 0x4f;
        return Err(if options { Reason::IpOptions } else { Reason::IpMalformed });
    }
    if total < 20 || ETHERNET + total > bytes.length() {
        return Err(Reason::IpMalformed);
    }
    // More fragments, or an offset.
    if half::<1>(fragment) & 0x3fff != 0 { Err(Reason::Fragment) } else { Ok(()) }
}

#[inline(always)]
fn header_v6<B: PacketBytes>(bytes: &B, out: &mut Packet) -> Result<(), Reason> {
    let Some([first, second, addresses @ ..]) = bytes.fixed::<10>(ETHERNET as usize) else {
        return Err(Reason::IpMalformed);
    };
    let (source, destination) = split(addresses);
    let mut length = u32::from(half::<0>(second));
    if length == 0 && bytes.length() > 0xffff {
        length = bytes.length() - V6_TRANSPORT;
    }
    out.source = source;
    out.destination = destination;
    out.protocol = byte::<2>(second);
    out.hop_limit = byte::<3>(second);
    out.transport_at = V6_TRANSPORT;
    out.transport_length = length;
    let malformed =
        byte::<0>(first) >> 4 != 6 || V6_TRANSPORT + length > bytes.length() || source.is_v4() || destination.is_v4();
    if malformed { Err(Reason::IpMalformed) } else { Ok(()) }
}

#[inline(always)]
pub(crate) fn split([a, b, c, d, e, f, g, h]: [u32; 8]) -> (Address, Address) {
    (Address([a, b, c, d]), Address([e, f, g, h]))
}

#[inline(always)]
pub(crate) fn is_extension(next: u8) -> bool {
    matches!(next, protocol::HOP_BY_HOP | protocol::ROUTING | protocol::FRAGMENT | protocol::DESTINATION_OPTIONS)
}

/// Walks the extension headers (RFC 8200 section 4) to the transport's protocol, offset and length.
#[inline(always)]
fn walk<B: PacketBytes>(bytes: &B, out: &mut Packet) -> Result<(), Reason> {
    let (mut next, mut at, mut left) = (out.protocol, V6_TRANSPORT, out.transport_length);
    for place in 0..EXTENSION_HEADERS {
        if !is_extension(next) {
            break;
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
    if is_extension(next) {
        return Err(Reason::ExtensionHeader);
    }
    out.protocol = next;
    out.transport_at = at;
    out.transport_length = left;
    Ok(())
}

/// `FIXED`: the transport header is at a constant offset, which direct access to the packet needs.
#[inline(always)]
fn read<const N: usize, const FIXED: bool, B: PacketBytes>(bytes: &B, packet: &Packet) -> Option<[u32; N]> {
    if FIXED { bytes.fixed::<N>(packet.transport_at as usize) } else { bytes.at::<N>(packet.transport_at) }
}

#[inline(always)]
fn transport<B: PacketBytes, const FIXED: bool>(bytes: &B, out: &mut Packet, v4: bool) -> Result<Frame, Reason> {
    out.class = ProtocolClass::of(out.protocol, v4);
    let whole = match out.class {
        ProtocolClass::Tcp => tcp_header::<B, FIXED>(bytes, out),
        ProtocolClass::Udp => udp_header::<B, FIXED>(bytes, out),
        ProtocolClass::Sctp => sctp_header::<B, FIXED>(bytes, out),
        ProtocolClass::Icmp | ProtocolClass::Icmpv6 => icmp_header::<B, FIXED>(bytes, out, v4),
        ProtocolClass::Other if v4 && out.protocol == protocol::IGMP => igmp_header::<B, FIXED>(bytes, out),
        ProtocolClass::Other => Some(()),
    };
    whole.map(|()| Frame::Ip).ok_or(Reason::L4Short)
}

#[inline(always)]
fn tcp_header<B: PacketBytes, const FIXED: bool>(bytes: &B, packet: &mut Packet) -> Option<()> {
    let [ports, sequence, acknowledgement, fourth, _] = read::<5, FIXED, B>(bytes, packet)?;
    let offset = u32::from(byte::<0>(fourth) >> 4) * 4;
    // Both together: there are 20 bytes.
    if offset < 20 || offset > packet.transport_length {
        return None;
    }
    packet.tcp_flags = byte::<1>(fourth);
    packet.has_payload = offset < packet.transport_length;
    packet.sequence = sequence;
    packet.acknowledgement = acknowledgement;
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
    let [ports, tag, _, chunk] = read::<4, FIXED, B>(bytes, packet)?;
    if packet.transport_length < 16 {
        return None;
    }
    packet.source_port = half::<0>(ports);
    packet.destination_port = half::<1>(ports);
    packet.chunk = byte::<0>(chunk);
    packet.acknowledgement = tag;
    if packet.chunk == sctp::INIT {
        packet.kind = Kind::Opening;
    }
    if packet.chunk == sctp::INIT_ACK && packet.transport_length >= 20 {
        packet.sequence = bytes.at::<1>(packet.transport_at + 16)?[0];
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

/// Every message of IGMP has eight bytes at least (RFC 3376 section 4).
#[inline(always)]
fn igmp_header<B: PacketBytes, const FIXED: bool>(bytes: &B, packet: &mut Packet) -> Option<()> {
    let [first, _] = read::<2, FIXED, B>(bytes, packet)?;
    if packet.transport_length < 8 {
        return None;
    }
    packet.icmp_type = byte::<0>(first);
    packet.kind = Kind::IcmpOther;
    Some(())
}

/// The router alert of IPv4 (RFC 2113), as it lies in memory.
const ALERT_V4: u32 = u32::from_ne_bytes([0x94, 4, 0, 0]);
/// The header of hop-by-hop options before MLD that begins with a router alert for it (RFC 2711): its first word, and the two
/// forms of its second, which end in one long or two short pads.
const ALERT_V6: u32 = u32::from_ne_bytes([protocol::ICMPV6, 0, 5, 2]);
const PADS: [u32; 2] = [u32::from_ne_bytes([0, 0, 1, 0]), 0];

/// IGMP as every message of it has to be (RFC 3376 section 4): from one station to a group, with a TTL of 1, and with the router alert as its
/// only option. All else with options is refused.
#[inline(always)]
fn membership_v4<B: PacketBytes>(bytes: &B, out: &mut Packet) -> Result<Frame, Reason> {
    let Some([first, fragment]) = bytes.fixed::<2>(ETHERNET as usize) else {
        return Err(Reason::IpOptions);
    };
    let Some([alert, message, _]) = bytes.fixed::<3>(V4_TRANSPORT as usize) else {
        return Err(Reason::IpOptions);
    };
    let total = u32::from(half::<1>(first));
    let to_group = out.destination.is_group() && out.destination != Address::v4(u32::MAX);
    if byte::<0>(first) != 0x46
        || alert != ALERT_V4
        || out.protocol != protocol::IGMP
        || out.hop_limit != 1
        || !to_group
        || out.source.is_group()
        || half::<1>(fragment) & 0x3fff != 0
        || !(24 + 8..=24 + MEMBERSHIP_BYTES).contains(&total)
        || ETHERNET + total > bytes.length()
    {
        return Err(Reason::IpOptions);
    }
    out.transport_at = V4_TRANSPORT + 4;
    out.transport_length = total - 24;
    out.icmp_type = byte::<0>(message);
    out.kind = Kind::Membership;
    Ok(Frame::Ip)
}

/// MLD as every message of it has to be (RFC 3810 section 5): from an address of the link or from none, to a group, with a hop
/// limit of 1, and with the router alert as its only option.
#[inline(always)]
fn is_membership_v6<B: PacketBytes>(bytes: &B, packet: &Packet) -> bool {
    matches!(packet.class, ProtocolClass::Icmpv6)
        && matches!(
            packet.icmp_type,
            icmp::V6_GROUP_QUERY | icmp::V6_GROUP_REPORT | icmp::V6_GROUP_DONE | icmp::V6_GROUPS_REPORT
        )
        && packet.icmp_code == 0
        && packet.transport_at == V6_TRANSPORT + 8
        && packet.hop_limit == 1
        && packet.transport_length >= 24
        && packet.transport_length <= MEMBERSHIP_BYTES
        && (packet.source.is_v6_link_local() || packet.source == Address::UNSPECIFIED)
        && packet.destination.is_group()
        && matches!(bytes.at::<2>(V6_TRANSPORT), Some([ALERT_V6, pads]) if pads == PADS[0] || pads == PADS[1])
}

/// STP, behind a length and the header of its service (IEEE 802.1D), and LLDP (IEEE 802.1AB): to a group that no bridge of
/// the standard forwards.
#[inline(always)]
fn is_neighbourly<B: PacketBytes>(bytes: &B, ethertype: u16) -> bool {
    let Some([first, second]) = bytes.at::<2>(0) else {
        return false;
    };
    if first != u32::from_ne_bytes([1, 0x80, 0xc2, 0]) || bytes.length() > NEIGHBOUR_BYTES {
        return false;
    }
    match (half::<0>(second), ethertype) {
        (0, 0..=0x05dc) => {
            let service = bytes.at::<1>(ETHERNET);
            service.is_some_and(|[word]| word & MASK_SERVICE == u32::from_ne_bytes([0x42, 0x42, 3, 0]))
        }
        (0 | 3 | 0x0e, 0x88cc) => true,
        _ => false,
    }
}

const MASK_SERVICE: u32 = u32::from_ne_bytes([0xff, 0xff, 0xff, 0]);

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
