//! The parts of a frame on which a verdict depends: its headers as [`Packet`], and its bytes through [`PacketBytes`].

use crate::home::Station;
use crate::id::{Address, Direction};
use crate::image::PortKey;

mod parse;

pub(crate) use parse::{byte, clear, half, icmp_kind, is_extension, split};
pub use parse::{parse, plain};

/// Access to the bytes of a frame, from its Ethernet header on.
pub trait PacketBytes {
    /// Length of the whole frame, in bytes; segments of an offloaded packet count as one frame.
    fn length(&self) -> u32;
    /// The two bytes behind the MAC addresses, as a number.
    fn ethertype(&self) -> Option<u16>;
    /// The station that the frame is for; that of nobody if the frame is too short.
    #[inline(always)]
    fn station(&self) -> Station {
        self.at::<2>(0).map_or_else(Station::default, |[first, rest]| {
            let ([a, b, c, d], [e, f, _, _]) = (first.to_ne_bytes(), rest.to_ne_bytes());
            Station::of([a, b, c, d, e, f])
        })
    }
    /// `N` words at a constant offset, as they lie in memory. The headers up to [`HEAD`] must be reachable so if the frame
    /// has them.
    fn fixed<const N: usize>(&self, offset: usize) -> Option<[u32; N]>;
    /// `N` words anywhere in the frame.
    fn at<const N: usize>(&self, offset: u32) -> Option<[u32; N]>;
}

/// Ethernet, IPv6 and TCP header: what [`PacketBytes::fixed`] is asked for at most.
pub const HEAD: u32 = 14 + 40 + 20;

/// Bytes of an Ethernet header.
pub(crate) const ETHERNET: u32 = 14;

/// TCP flags (RFC 9293 section 3.1).
pub mod tcp {
    /// No more data from the sender.
    pub const FIN: u8 = 1;
    /// Synchronise sequence numbers.
    pub const SYN: u8 = 2;
    /// Reset the connection.
    pub const RST: u8 = 4;
    /// The acknowledgement field is significant.
    pub const ACK: u8 = 16;
}

/// SCTP chunk types (RFC 9260 section 3.2).
pub mod sctp {
    /// Asks for an association.
    pub const INIT: u8 = 1;
    /// Accepts it.
    pub const INIT_ACK: u8 = 2;
    /// Ends it at once, or refuses it.
    pub const ABORT: u8 = 6;
}

/// IGMP types (RFC 1112, RFC 2236, RFC 3376).
pub mod igmp {
    /// A router asks who is in a group.
    pub const QUERY: u8 = 0x11;
    /// Version 1: a member is there.
    pub const V1_REPORT: u8 = 0x12;
    /// Version 2: a member is there.
    pub const V2_REPORT: u8 = 0x16;
    /// Version 2: a member leaves.
    pub const LEAVE: u8 = 0x17;
    /// Version 3: all groups of a member.
    pub const V3_REPORT: u8 = 0x22;
}

/// IP protocol numbers.
pub mod protocol {
    /// IPv6 hop-by-hop options.
    pub const HOP_BY_HOP: u8 = 0;
    /// ICMP.
    pub const ICMP: u8 = 1;
    /// IGMP.
    pub const IGMP: u8 = 2;
    /// TCP.
    pub const TCP: u8 = 6;
    /// UDP.
    pub const UDP: u8 = 17;
    /// IPv6 routing header.
    pub const ROUTING: u8 = 43;
    /// IPv6 fragment header.
    pub const FRAGMENT: u8 = 44;
    /// ICMPv6.
    pub const ICMPV6: u8 = 58;
    /// IPv6 destination options.
    pub const DESTINATION_OPTIONS: u8 = 60;
    /// SCTP.
    pub const SCTP: u8 = 132;
}

/// Protocols that flow keys tell apart.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
#[repr(u8)]
pub enum ProtocolClass {
    /// Any other, by its number.
    Other = 0,
    /// TCP.
    Tcp = 1,
    /// UDP.
    Udp = 2,
    /// SCTP.
    Sctp = 3,
    /// ICMP.
    Icmp = 4,
    /// ICMPv6.
    Icmpv6 = 5,
}

impl ProtocolClass {
    /// The class with this number.
    #[inline(always)]
    pub fn from_bits(number: u8) -> Self {
        match number {
            1 => Self::Tcp,
            2 => Self::Udp,
            3 => Self::Sctp,
            4 => Self::Icmp,
            5 => Self::Icmpv6,
            _ => Self::Other,
        }
    }

    #[inline(always)]
    pub(crate) fn of(number: u8, v4: bool) -> Self {
        match number {
            protocol::TCP => Self::Tcp,
            protocol::UDP => Self::Udp,
            protocol::SCTP => Self::Sctp,
            // ICMP over IPv6 and ICMPv6 over IPv4 mean nothing to a stack: by number, like any unknown protocol.
            protocol::ICMP if v4 => Self::Icmp,
            protocol::ICMPV6 if !v4 => Self::Icmpv6,
            _ => Self::Other,
        }
    }
}

/// What a frame is.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Frame {
    /// ARP: cannot carry a flow.
    Arp,
    /// A frame by which a bridge or a station speaks to its neighbour on the cable: STP or LLDP. It cannot carry a flow.
    Neighbour,
    /// IPv4 or IPv6.
    Ip,
}

/// Whether a frame is ARP that carries nothing else: longer ones would.
#[inline(always)]
pub const fn is_arp(ethertype: u16, length: u32) -> bool {
    ethertype == 0x0806 && length <= 64
}

/// Whether a frame is for all stations of its link.
#[inline(always)]
pub(crate) fn is_to_all<B: PacketBytes>(bytes: &B) -> bool {
    matches!(bytes.at::<2>(0), Some([u32::MAX, rest]) if half::<0>(rest) == u16::MAX)
}

/// What a packet means to flow state.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
#[repr(u8)]
pub enum Kind {
    /// Anything that flow state is kept for, unless it opens a flow.
    Following,
    /// TCP SYN without ACK, SCTP INIT, ICMP echo request: judged as new before any lookup, never a reply.
    Opening,
    /// An ICMP error: passes if what it quotes belongs to a live flow.
    IcmpError,
    /// ICMP or IGMP that makes no state.
    IcmpOther,
    /// MLD or IGMP in the form in which it stays on the link: behind a router alert, and with a hop limit of 1. It makes no
    /// state.
    Membership,
}

/// The headers of a packet that a verdict depends on, and what the record of a denial shows: of a frame that is refused, as
/// much as could be read.
#[repr(C)]
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Packet {
    /// Source.
    pub source: Address,
    /// Destination.
    pub destination: Address,
    /// IP protocol number of the transport header.
    pub protocol: u8,
    /// Class of `protocol`.
    pub class: ProtocolClass,
    /// What it means to flow state.
    pub kind: Kind,
    /// TCP flags, else 0.
    pub tcp_flags: u8,
    /// A TCP segment with data.
    pub has_payload: bool,
    /// Type of the first SCTP chunk, else 0.
    pub chunk: u8,
    /// Type of ICMP or IGMP, else 0.
    pub icmp_type: u8,
    /// ICMP code, else 0.
    pub icmp_code: u8,
    /// TTL or hop limit.
    pub hop_limit: u8,
    /// 0 without ports.
    pub source_port: u16,
    /// 0 without ports.
    pub destination_port: u16,
    /// Id of an ICMP echo, else 0.
    pub echo_id: u16,
    /// Ethertype; 0: not even that.
    pub ethertype: u16,
    /// Offset of the transport header in the frame.
    pub transport_at: u32,
    /// Bytes from there to the end of the IP packet.
    pub transport_length: u32,
    /// What the other side has to show that it got, as it lies in the packet: the sequence number of TCP, the initiate tag of
    /// an SCTP INIT ACK; else 0.
    pub sequence: u32,
    /// What the sender shows that it got, as it lies in the packet: the acknowledgement number of TCP, the verification tag of
    /// SCTP; else 0.
    pub acknowledgement: u32,
}

impl Packet {
    /// Nothing was read.
    pub const EMPTY: Self = Self {
        source: Address::UNSPECIFIED,
        destination: Address::UNSPECIFIED,
        protocol: 0,
        class: ProtocolClass::Other,
        kind: Kind::Following,
        tcp_flags: 0,
        has_payload: false,
        chunk: 0,
        icmp_type: 0,
        icmp_code: 0,
        hop_limit: 0,
        source_port: 0,
        destination_port: 0,
        echo_id: 0,
        ethertype: 0,
        transport_at: 0,
        transport_length: 0,
        sequence: 0,
        acknowledgement: 0,
    };

    /// The workload's address and its peer's.
    #[inline(always)]
    pub fn sides(&self, direction: Direction) -> (&Address, &Address) {
        match direction {
            Direction::Egress => (&self.source, &self.destination),
            Direction::Ingress => (&self.destination, &self.source),
        }
    }

    /// The sender ends or refuses a connection: a TCP RST, an SCTP ABORT.
    #[inline(always)]
    pub fn is_reset(&self) -> bool {
        match self.class {
            ProtocolClass::Tcp => self.tcp_flags & tcp::RST != 0,
            ProtocolClass::Sctp => self.chunk == sctp::ABORT,
            ProtocolClass::Udp | ProtocolClass::Icmp | ProtocolClass::Icmpv6 | ProtocolClass::Other => false,
        }
    }

    /// The answer to the packet that opens a connection: a TCP SYN+ACK, an SCTP INIT ACK.
    #[inline(always)]
    pub fn is_acceptance(&self) -> bool {
        match self.class {
            ProtocolClass::Tcp => self.tcp_flags & (tcp::SYN | tcp::ACK) == tcp::SYN | tcp::ACK,
            ProtocolClass::Sctp => self.chunk == sctp::INIT_ACK,
            ProtocolClass::Udp | ProtocolClass::Icmp | ProtocolClass::Icmpv6 | ProtocolClass::Other => false,
        }
    }

    /// An ICMP or ICMPv6 echo reply.
    #[inline(always)]
    pub fn is_echo_reply(&self) -> bool {
        match self.class {
            ProtocolClass::Icmp => self.icmp_type == icmp::ECHO_REPLY,
            ProtocolClass::Icmpv6 => self.icmp_type == icmp::V6_ECHO_REPLY,
            ProtocolClass::Tcp | ProtocolClass::Udp | ProtocolClass::Sctp | ProtocolClass::Other => false,
        }
    }

    /// An ICMP or ICMPv6 message that answers another one: of an echo (RFC 792, RFC 4443), a timestamp or an address mask
    /// (RFC 792, RFC 950), a node information query (RFC 4620) or an extended echo (RFC 8335).
    #[inline(always)]
    pub fn is_icmp_reply(&self) -> bool {
        match self.class {
            ProtocolClass::Icmp => matches!(self.icmp_type, icmp::ECHO_REPLY | 14 | 16 | 18 | 43),
            ProtocolClass::Icmpv6 => matches!(self.icmp_type, icmp::V6_ECHO_REPLY | 140 | 161),
            ProtocolClass::Tcp | ProtocolClass::Udp | ProtocolClass::Sctp | ProtocolClass::Other => false,
        }
    }

    /// The port key of this very packet.
    #[inline(always)]
    pub fn port_key(&self) -> PortKey {
        port_key(self.class, self.protocol, self.destination_port, self.icmp_type)
    }
}

/// ICMP types (RFC 792, RFC 2710, RFC 3810, RFC 4443, RFC 4861).
pub mod icmp {
    /// ICMP echo reply.
    pub const ECHO_REPLY: u8 = 0;
    /// ICMP destination unreachable.
    pub const UNREACHABLE: u8 = 3;
    /// ICMP echo request.
    pub const ECHO_REQUEST: u8 = 8;
    /// ICMP time exceeded.
    pub const TIME_EXCEEDED: u8 = 11;
    /// ICMP parameter problem.
    pub const PARAMETER_PROBLEM: u8 = 12;
    /// ICMPv6 errors are 1 to this: unreachable, too big, time exceeded, parameter problem.
    pub const V6_LAST_ERROR: u8 = 4;
    /// ICMPv6 echo request.
    pub const V6_ECHO_REQUEST: u8 = 128;
    /// ICMPv6 echo reply.
    pub const V6_ECHO_REPLY: u8 = 129;
    /// A router asks who is in a group (RFC 2710, RFC 3810).
    pub const V6_GROUP_QUERY: u8 = 130;
    /// MLD version 1: a member is there.
    pub const V6_GROUP_REPORT: u8 = 131;
    /// MLD version 1: a member leaves.
    pub const V6_GROUP_DONE: u8 = 132;
    /// MLD version 2: all groups of a member.
    pub const V6_GROUPS_REPORT: u8 = 143;
    /// Router solicitation.
    pub const V6_ROUTER_SOLICITATION: u8 = 133;
    /// Router advertisement.
    pub const V6_ROUTER_ADVERTISEMENT: u8 = 134;
    /// Neighbour solicitation.
    pub const V6_NEIGHBOUR_SOLICITATION: u8 = 135;
    /// Neighbour advertisement.
    pub const V6_NEIGHBOUR_ADVERTISEMENT: u8 = 136;
    /// Redirect.
    pub const V6_REDIRECT: u8 = 137;
}

/// The port key of a flow.
#[inline(always)]
pub fn port_key(class: ProtocolClass, number: u8, port: u16, icmp_type: u8) -> PortKey {
    match class {
        ProtocolClass::Tcp => PortKey::tcp(port),
        ProtocolClass::Udp => PortKey::udp(port),
        ProtocolClass::Sctp => PortKey::sctp(port),
        ProtocolClass::Icmp => PortKey::icmp(icmp_type),
        ProtocolClass::Icmpv6 => PortKey::icmpv6(icmp_type),
        ProtocolClass::Other => PortKey::other(number),
    }
}
