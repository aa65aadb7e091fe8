//! Builds frames for tests: Ethernet, IPv4 or IPv6, and one transport header, with correct lengths and checksums.
//!
//! Input: a [`Frame`], filled in by struct update. Output: bytes, or [`Bytes`] for the datapath in user space.

pub mod parts;

use std::net::IpAddr;

use enforcer_common::packet::{PacketBytes, protocol, tcp};

use self::parts::{Ipv4, Ipv6, Route, checksum, ethernet};

/// What a frame carries above IP.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Transport {
    /// A TCP segment.
    Tcp {
        /// Source port.
        source: u16,
        /// Destination port.
        destination: u16,
        /// Flags, of [`tcp`].
        flags: u8,
    },
    /// A UDP datagram.
    Udp {
        /// Source port.
        source: u16,
        /// Destination port.
        destination: u16,
    },
    /// An SCTP packet with one chunk.
    Sctp {
        /// Source port.
        source: u16,
        /// Destination port.
        destination: u16,
        /// Type of the chunk; 1 is INIT.
        chunk: u8,
    },
    /// ICMP over IPv4, ICMPv6 over IPv6.
    Icmp {
        /// Type.
        kind: u8,
        /// Code.
        code: u8,
        /// The four bytes behind the checksum; of an echo: id and sequence number.
        rest: [u8; 4],
    },
    /// Any other protocol, by its number: nothing but payload.
    Other(u8),
}

impl Transport {
    /// A TCP SYN.
    pub fn syn(source: u16, destination: u16) -> Self {
        Self::Tcp { source, destination, flags: tcp::SYN }
    }

    /// An echo request of the family.
    pub fn echo_request(v4: bool, id: u16) -> Self {
        let [high, low] = id.to_be_bytes();
        Self::Icmp { kind: if v4 { 8 } else { 128 }, code: 0, rest: [high, low, 0, 1] }
    }

    /// The protocol number, given the family.
    pub fn number(self, v4: bool) -> u8 {
        match self {
            Self::Tcp { .. } => protocol::TCP,
            Self::Udp { .. } => protocol::UDP,
            Self::Sctp { .. } => protocol::SCTP,
            Self::Icmp { .. } if v4 => protocol::ICMP,
            Self::Icmp { .. } => protocol::ICMPV6,
            Self::Other(number) => number,
        }
    }
}

/// A frame to be.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Frame<'a> {
    /// MAC addresses, destination first.
    pub macs: [[u8; 6]; 2],
    /// VLAN tags inside the frame: ethertype and id, outermost first.
    pub tags: &'a [(u16, u16)],
    /// Source; its family is that of the frame.
    pub source: IpAddr,
    /// Destination, of the same family.
    pub destination: IpAddr,
    /// TTL or hop limit.
    pub hop_limit: u8,
    /// IPv4 options; a multiple of four bytes.
    pub options: &'a [u8],
    /// Flags and offset of the IPv4 header, as one number.
    pub fragment: u16,
    /// IPv6 extension headers: number and whole bytes, whose first is overwritten by the number of the next header.
    pub extensions: &'a [(u8, &'a [u8])],
    /// Sequence and acknowledgement number of a TCP segment. Unless set otherwise, each segment acknowledges each other one.
    pub numbers: [u32; 2],
    /// What it carries.
    pub transport: Transport,
    /// Bytes behind the transport header.
    pub payload: &'a [u8],
}

impl Frame<'_> {
    /// A plain frame without payload.
    pub fn new(source: IpAddr, destination: IpAddr, transport: Transport) -> Self {
        Self {
            macs: [[2, 0, 0, 0, 0, 2], [2, 0, 0, 0, 0, 1]],
            tags: &[],
            source,
            destination,
            hop_limit: 64,
            options: &[],
            fragment: 0,
            extensions: &[],
            numbers: [0x0102_0304, 0x0102_0305],
            transport,
            payload: &[],
        }
    }

    /// As it lies on the wire. The families of the two addresses must be the same.
    pub fn bytes(&self) -> Vec<u8> {
        let (mut ethertype, mut body) = match (self.source, self.destination) {
            (IpAddr::V4(source), IpAddr::V4(destination)) => {
                let transport = self.transport_bytes(true, &[source.octets(), destination.octets()].concat());
                let header = Ipv4 {
                    source,
                    destination,
                    protocol: self.transport.number(true),
                    hop_limit: self.hop_limit,
                    fragment: self.fragment,
                    options: self.options,
                    ..Ipv4::PLAIN
                };
                (0x0800_u16, header.packet(&transport))
            }
            (IpAddr::V6(source), IpAddr::V6(destination)) => {
                let transport = self.transport_bytes(false, &[source.octets(), destination.octets()].concat());
                let (next, body) = self.extended(transport);
                (0x86dd, Ipv6 { source, destination, next, hop_limit: self.hop_limit }.packet(&body))
            }
            (source, destination) => panic!("{source} and {destination} are of two families"),
        };
        for (outer, id) in self.tags.iter().rev() {
            body = [&id.to_be_bytes()[..], &ethertype.to_be_bytes(), &body].concat();
            ethertype = *outer;
        }
        let [to, from] = self.macs;
        ethernet(Route { to, from }, ethertype, &body)
    }

    /// The extension headers before the transport header, and the number of the first of them all.
    fn extended(&self, transport: Vec<u8>) -> (u8, Vec<u8>) {
        self.extensions.iter().rev().fold((self.transport.number(false), transport), |(next, body), (number, bytes)| {
            (*number, [&[next], bytes.get(1..).unwrap_or_default(), &body].concat())
        })
    }

    fn transport_bytes(&self, v4: bool, addresses: &[u8]) -> Vec<u8> {
        let (mut bytes, sum_at) = match self.transport {
            Transport::Tcp { source, destination, flags } => {
                let mut segment = parts::tcp(source, destination, flags, self.payload);
                segment[4..12].copy_from_slice(&self.numbers.map(u32::to_be_bytes).concat());
                (segment, 16)
            }
            Transport::Udp { source, destination } => (parts::udp(source, destination, self.payload), 6),
            Transport::Sctp { source, destination, chunk } => {
                let mut bytes = parts::sctp_chunk(source, destination, [chunk, 0], self.payload);
                let sum = crc32c(&bytes).to_le_bytes();
                bytes[8..12].copy_from_slice(&sum);
                return bytes;
            }
            Transport::Icmp { kind, code, rest } => {
                let message = parts::icmp(kind, code, &[&rest[..], self.payload].concat());
                if v4 {
                    return message;
                }
                (message, 2)
            }
            Transport::Other(_) => return self.payload.to_vec(),
        };
        bytes[sum_at..sum_at + 2].fill(0);
        let number = u32::from(self.transport.number(v4));
        let pseudo = [addresses, &(bytes.len() as u32).to_be_bytes(), &number.to_be_bytes()].concat();
        let sum = checksum(&[pseudo, bytes.clone()].concat());
        // 0 would say that a UDP datagram has no checksum (RFC 768).
        let none = matches!(self.transport, Transport::Udp { .. }) && sum == 0;
        bytes[sum_at..sum_at + 2].copy_from_slice(&if none { 0xffff } else { sum }.to_be_bytes());
        bytes
    }
}

/// The checksum of SCTP packets (RFC 9260 appendix A).
fn crc32c(bytes: &[u8]) -> u32 {
    !bytes.iter().fold(u32::MAX, |crc, byte| {
        (0..8).fold(crc ^ u32::from(*byte), |crc, _| if crc & 1 == 1 { crc >> 1 ^ 0x82f6_3b78 } else { crc >> 1 })
    })
}

/// A frame in ordinary memory, as the datapath reads it.
#[derive(Clone, Debug)]
pub struct Bytes<'a>(pub &'a [u8]);

impl PacketBytes for Bytes<'_> {
    fn length(&self) -> u32 {
        self.0.len() as u32
    }

    fn ethertype(&self) -> Option<u16> {
        self.0.get(12..14)?.first_chunk().copied().map(u16::from_be_bytes)
    }

    fn fixed<const N: usize>(&self, offset: usize) -> Option<[u32; N]> {
        let bytes = self.0.get(offset..offset + N * 4)?;
        let mut words = [0; N];
        for (word, bytes) in words.iter_mut().zip(bytes.as_chunks::<4>().0) {
            *word = u32::from_ne_bytes(*bytes);
        }
        Some(words)
    }

    fn at<const N: usize>(&self, offset: u32) -> Option<[u32; N]> {
        self.fixed(offset as usize)
    }
}

#[cfg(test)]
mod tests {
    use enforcer_common::packet::{Frame as Parsed, Kind, Packet, parse};

    use super::*;

    fn parsed(frame: &Frame<'_>) -> enforcer_common::packet::Packet {
        let bytes = frame.bytes();
        let mut packet = Packet::EMPTY;
        match parse(&Bytes(&bytes), &mut packet) {
            Ok(Parsed::Ip) => packet,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn every_transport_parses_in_both_families() {
        for (source, destination) in [("10.0.0.1", "10.0.0.2"), ("fd00::1", "fd00::2")] {
            let (source, destination): (IpAddr, IpAddr) = (source.parse().unwrap(), destination.parse().unwrap());
            let v4 = source.is_ipv4();
            for (transport, kind, port) in [
                (Transport::syn(40_000, 80), Kind::Opening, 80),
                (Transport::Udp { source: 40_000, destination: 53 }, Kind::Following, 53),
                (Transport::Sctp { source: 40_000, destination: 81, chunk: 1 }, Kind::Opening, 81),
                (Transport::echo_request(v4, 7), Kind::Opening, 0),
                (Transport::Other(47), Kind::Following, 0),
            ] {
                let packet = parsed(&Frame::new(source, destination, transport));
                assert_eq!((packet.kind, packet.destination_port), (kind, port), "{transport:?}");
                assert_eq!(packet.protocol, transport.number(v4));
                assert_eq!(IpAddr::from(packet.source), source);
                assert_eq!(IpAddr::from(packet.destination), destination);
            }
        }
    }

    #[test]
    fn extension_headers_are_chained() {
        let frame = Frame {
            extensions: &[(0, &[0, 0, 1, 4, 0, 0, 0, 0]), (60, &[0, 0, 1, 4, 0, 0, 0, 0])],
            ..Frame::new("fd00::1".parse().unwrap(), "fd00::2".parse().unwrap(), Transport::syn(1, 80))
        };
        assert_eq!(parsed(&frame).destination_port, 80);
    }

    #[test]
    fn checksums_of_known_packets() {
        // RFC 1071 section 3, and the CRC's check value.
        assert_eq!(checksum(&[0x00, 0x01, 0xf2, 0x03, 0xf4, 0xf5, 0xf6, 0xf7]), 0x220d);
        assert_eq!(crc32c(b"123456789"), 0xe306_9283);
    }
}
