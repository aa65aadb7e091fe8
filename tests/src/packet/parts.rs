//! Builds the parts of a frame: link, network and transport headers, both correct and broken ones. Pure.
//!
//! Input: fields. Output: bytes. A transport header has no checksum if no socket will receive it.

use std::net::IpAddr;

pub use enforcer_common::packet::protocol;

/// Hardware addresses of a frame.
#[derive(Clone, Copy, Debug)]
pub struct Route {
    /// Next hop.
    pub to: [u8; 6],
    /// Sender.
    pub from: [u8; 6],
}

/// An Ethernet frame.
pub fn ethernet(route: Route, ethertype: u16, body: &[u8]) -> Vec<u8> {
    [&route.to[..], &route.from, &ethertype.to_be_bytes(), body].concat()
}

/// A frame with an IP packet of either family.
pub fn ip(route: Route, source: IpAddr, destination: IpAddr, protocol: u8, body: &[u8]) -> Vec<u8> {
    match (source, destination) {
        (IpAddr::V4(source), IpAddr::V4(destination)) => {
            ethernet(route, 0x0800, &Ipv4 { source, destination, protocol, ..Ipv4::PLAIN }.packet(body))
        }
        (IpAddr::V6(source), IpAddr::V6(destination)) => {
            ethernet(route, 0x86dd, &Ipv6 { source, destination, next: protocol, hop_limit: 64 }.packet(body))
        }
        _ => panic!("{source} and {destination} are of two families"),
    }
}

/// An IPv4 header.
#[derive(Clone, Copy, Debug)]
pub struct Ipv4<'a> {
    /// Source.
    pub source: std::net::Ipv4Addr,
    /// Destination.
    pub destination: std::net::Ipv4Addr,
    /// Protocol.
    pub protocol: u8,
    /// Time to live.
    pub hop_limit: u8,
    /// Flags and fragment offset.
    pub fragment: u16,
    /// Options; a multiple of four bytes.
    pub options: &'a [u8],
    /// Version and header length, where they are to be wrong.
    pub first_byte: Option<u8>,
    /// Total length, where it is to be wrong.
    pub total: Option<u16>,
}

impl Ipv4<'_> {
    /// Nothing special.
    pub const PLAIN: Self = Self {
        source: std::net::Ipv4Addr::UNSPECIFIED,
        destination: std::net::Ipv4Addr::UNSPECIFIED,
        protocol: protocol::UDP,
        hop_limit: 64,
        fragment: 0,
        options: &[],
        first_byte: None,
        total: None,
    };

    /// The header with its checksum, and the body.
    pub fn packet(&self, body: &[u8]) -> Vec<u8> {
        let length = 20 + self.options.len();
        let mut header = vec![0; 20];
        header[0] = self.first_byte.unwrap_or(0x40 | (length / 4) as u8);
        header[2..4].copy_from_slice(&self.total.unwrap_or((length + body.len()) as u16).to_be_bytes());
        header[4..6].copy_from_slice(&0x1234_u16.to_be_bytes());
        header[6..8].copy_from_slice(&self.fragment.to_be_bytes());
        header[8] = self.hop_limit;
        header[9] = self.protocol;
        header[12..16].copy_from_slice(&self.source.octets());
        header[16..20].copy_from_slice(&self.destination.octets());
        header.extend(self.options);
        let sum = checksum(&header);
        header[10..12].copy_from_slice(&sum.to_be_bytes());
        [&header, body].concat()
    }
}

/// An IPv6 header.
#[derive(Clone, Copy, Debug)]
pub struct Ipv6 {
    /// Source.
    pub source: std::net::Ipv6Addr,
    /// Destination.
    pub destination: std::net::Ipv6Addr,
    /// Next header.
    pub next: u8,
    /// Hop limit.
    pub hop_limit: u8,
}

impl Ipv6 {
    /// The header and the body.
    pub fn packet(&self, body: &[u8]) -> Vec<u8> {
        let mut header = vec![0x60, 0, 0, 0];
        header.extend((body.len() as u16).to_be_bytes());
        header.extend([self.next, self.hop_limit]);
        header.extend(self.source.octets());
        header.extend(self.destination.octets());
        [&header, body].concat()
    }
}

/// The Internet checksum (RFC 1071).
pub fn checksum(bytes: &[u8]) -> u16 {
    let words = bytes.chunks(2).map(|pair| u32::from(pair[0]) << 8 | u32::from(pair.get(1).copied().unwrap_or(0)));
    let mut sum: u32 = words.sum();
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    !(sum as u16)
}

/// A UDP datagram, without a checksum: no socket is to take it.
pub fn udp(source: u16, destination: u16, payload: &[u8]) -> Vec<u8> {
    let length = (8 + payload.len()) as u16;
    [&source.to_be_bytes()[..], &destination.to_be_bytes(), &length.to_be_bytes(), &[0, 0], payload].concat()
}

/// A TCP segment, without a checksum.
pub fn tcp(source: u16, destination: u16, flags: u8, payload: &[u8]) -> Vec<u8> {
    let mut header = [&source.to_be_bytes()[..], &destination.to_be_bytes()].concat();
    header.extend(0x0102_0304_u32.to_be_bytes());
    header.extend([0; 4]);
    header.extend([0x50, flags, 0xff, 0xff, 0, 0, 0, 0]);
    [&header, payload].concat()
}

/// An SCTP INIT whose initiate tag and padding hold the nonce.
pub fn sctp_init(source: u16, destination: u16, nonce: &[u8]) -> Vec<u8> {
    let mut packet = [&source.to_be_bytes()[..], &destination.to_be_bytes(), &[0; 8]].concat();
    let length = (20 + 4 + nonce.len()) as u16;
    packet
        .extend([&[1, 0][..], &length.to_be_bytes(), &[0, 0, 0, 1, 0, 0, 0xff, 0xff, 0, 1, 0, 1, 0, 0, 0, 1]].concat());
    // An unknown parameter that the receiver may skip.
    packet.extend([&[0xc0, 0x99][..], &((4 + nonce.len()) as u16).to_be_bytes(), nonce].concat());
    packet
}

/// An SCTP packet of one chunk that is not INIT; the chunk's body holds the nonce.
pub fn sctp(source: u16, destination: u16, chunk: u8, nonce: &[u8]) -> Vec<u8> {
    /// Of a DATA chunk: the first and the last fragment of its message.
    const WHOLE: u8 = 3;
    sctp_chunk(source, destination, [chunk, WHOLE], nonce)
}

/// An SCTP packet of one chunk: its type and flags, its body. Without a checksum.
pub fn sctp_chunk(source: u16, destination: u16, chunk: [u8; 2], body: &[u8]) -> Vec<u8> {
    let length = (4 + body.len()) as u16;
    [&source.to_be_bytes()[..], &destination.to_be_bytes(), &[0; 8], &chunk, &length.to_be_bytes(), body].concat()
}

/// An ICMP or ICMPv6 message; the checksum is right for ICMP, and missing for ICMPv6 unless the kernel fills it in.
pub fn icmp(kind: u8, code: u8, rest: &[u8]) -> Vec<u8> {
    let mut message = [&[kind, code, 0, 0][..], rest].concat();
    let sum = checksum(&message);
    message[2..4].copy_from_slice(&sum.to_be_bytes());
    message
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_checksum_of_a_header_with_its_checksum_is_zero() {
        let packet = Ipv4 { options: &[1, 1, 1, 1], ..Ipv4::PLAIN }.packet(b"body");
        assert_eq!(packet[0], 0x46);
        assert_eq!(checksum(&packet[..24]), 0);
        assert_eq!(checksum(&[0xff]), 0x00ff);
    }
}
