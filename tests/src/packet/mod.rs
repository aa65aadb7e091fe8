//! Frames for tests: Ethernet, IPv4 or IPv6, and one transport header, with lengths and checksums that are right.
//!
//! Input: a [`Frame`], filled in by struct update. Output: bytes, or [`Bytes`] for the datapath in user space.

pub mod parts;

use std::net::IpAddr;

use enforcer_common::packet::{PacketBytes, protocol, tcp};

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
            transport,
            payload: &[],
        }
    }

    /// As it lies on the wire. The families of the two addresses must be the same.
    pub fn bytes(&self) -> Vec<u8> {
        let mut frame = Vec::with_capacity(128);
        for mac in self.macs {
            frame.extend(mac);
        }
        for (ethertype, id) in self.tags {
            frame.extend(ethertype.to_be_bytes());
            frame.extend(id.to_be_bytes());
        }
        let (v4, pseudo) = match (self.source, self.destination) {
            (IpAddr::V4(source), IpAddr::V4(destination)) => (true, [source.octets(), destination.octets()].concat()),
            (IpAddr::V6(source), IpAddr::V6(destination)) => (false, [source.octets(), destination.octets()].concat()),
            (source, destination) => panic!("{source} and {destination} are of two families"),
        };
        let transport = self.transport_bytes(v4, &pseudo);
        if v4 {
            self.v4_header(&mut frame, transport.len(), &pseudo);
        } else {
            self.v6_headers(&mut frame, transport.len(), &pseudo);
        }
        frame.extend(transport);
        frame
    }

    fn v4_header(&self, frame: &mut Vec<u8>, transport: usize, addresses: &[u8]) {
        frame.extend([0x08, 0x00]);
        let size = 20 + self.options.len();
        let mut header = vec![0x40 | (size / 4) as u8, 0];
        header.extend(((size + transport) as u16).to_be_bytes());
        header.extend([0, 1]);
        header.extend(self.fragment.to_be_bytes());
        header.extend([self.hop_limit, self.transport.number(true), 0, 0]);
        header.extend(addresses);
        header.extend(self.options);
        let sum = checksum(&[&header]);
        header[10..12].copy_from_slice(&sum);
        frame.extend(header);
    }

    fn v6_headers(&self, frame: &mut Vec<u8>, transport: usize, addresses: &[u8]) {
        frame.extend([0x86, 0xdd, 0x60, 0, 0, 0]);
        let extensions: usize = self.extensions.iter().map(|(_, bytes)| bytes.len()).sum();
        frame.extend(((extensions + transport) as u16).to_be_bytes());
        let last = self.transport.number(false);
        let mut numbers = self.extensions.iter().map(|(number, _)| *number).chain([last]);
        frame.extend([numbers.next().unwrap_or(last), self.hop_limit]);
        frame.extend(addresses);
        for ((_, bytes), next) in self.extensions.iter().zip(numbers) {
            frame.push(next);
            frame.extend(bytes.iter().skip(1));
        }
    }

    fn transport_bytes(&self, v4: bool, addresses: &[u8]) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(64);
        let mut sum_at = None;
        match self.transport {
            Transport::Tcp { source, destination, flags } => {
                bytes.extend(source.to_be_bytes());
                bytes.extend(destination.to_be_bytes());
                bytes.extend([0, 0, 0, 1, 0, 0, 0, 0, 0x50, flags, 0xff, 0xff, 0, 0, 0, 0]);
                sum_at = Some(16);
            }
            Transport::Udp { source, destination } => {
                bytes.extend(source.to_be_bytes());
                bytes.extend(destination.to_be_bytes());
                bytes.extend(((8 + self.payload.len()) as u16).to_be_bytes());
                bytes.extend([0, 0]);
                sum_at = Some(6);
            }
            Transport::Sctp { source, destination, chunk } => {
                bytes.extend(source.to_be_bytes());
                bytes.extend(destination.to_be_bytes());
                bytes.extend([0; 8]);
                bytes.extend([chunk, 0]);
                bytes.extend(((4 + self.payload.len()) as u16).to_be_bytes());
            }
            Transport::Icmp { kind, code, rest } => {
                bytes.extend([kind, code, 0, 0]);
                bytes.extend(rest);
                sum_at = Some(2);
            }
            Transport::Other(_) => {}
        }
        bytes.extend(self.payload);
        if let Transport::Sctp { .. } = self.transport {
            let sum = crc32c(&bytes).to_le_bytes();
            bytes[8..12].copy_from_slice(&sum);
        } else if let Some(at) = sum_at {
            let number = u32::from(self.transport.number(v4));
            let pseudo = [&(bytes.len() as u32).to_be_bytes()[..], &number.to_be_bytes()].concat();
            let plain = v4 && matches!(self.transport, Transport::Icmp { .. });
            let sum = if plain { checksum(&[&bytes]) } else { checksum(&[addresses, &pseudo, &bytes]) };
            // 0 would say that a UDP datagram has no checksum (RFC 768).
            let none = matches!(self.transport, Transport::Udp { .. }) && sum == [0, 0];
            bytes[at..at + 2].copy_from_slice(if none { &[0xff, 0xff] } else { &sum });
        }
        bytes
    }
}

/// The Internet checksum (RFC 1071) over parts, of which all but the last have an even length.
fn checksum(parts: &[&[u8]]) -> [u8; 2] {
    let words = parts.iter().flat_map(|part| part.chunks(2));
    let mut sum: u32 = words.map(|word| u32::from(word[0]) << 8 | word.get(1).map_or(0, |low| u32::from(*low))).sum();
    while sum >> 16 != 0 {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    (!(sum as u16)).to_be_bytes()
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
        assert_eq!(checksum(&[&[0x00, 0x01, 0xf2, 0x03, 0xf4, 0xf5, 0xf6, 0xf7]]), [0x22, 0x0d]);
        assert_eq!(crc32c(b"123456789"), 0xe306_9283);
    }
}
