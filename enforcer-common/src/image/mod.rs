//! Layout of the compiled tables: an array of 64-byte lines, and how to read it (docs/architecture.md, "The image").
//!
//! Written by `compile::image` as a whole, never edited. Read by `decide`, in the kernel and in user space. All numbers are
//! in the byte order of the host. Line 0 is the header, line 1 and 2 the range tables of IPv4 and IPv6, then the sections
//! that they name; a section starts on a line.
//!
//! | section | element | index |
//! |---|---|---|
//! | ports | u8, or u16 with [`Header::WIDE_PORTS`]: port class | [`PortKey`] |
//! | rows | u16, or u32 with [`Header::WIDE_VECTORS`]: vector | row * peer classes + peer class |
//! | vectors | u8: [`Cell`] | vector * port classes + port class |
//! | range index | u32: first range of the bucket | bucket; one more than there are buckets |
//! | range starts | u32 (IPv4) or two u64, high half first (IPv6) | range |
//! | range classes | u32: peer class | range |

use crate::id::{Address, PeerClass, PortClass, Row};
use crate::limits;

/// 64 bytes of an image.
///
/// The kernel rounds array values up to 8 bytes, so packing small values into lines saves up to seven of eight; an
/// offset masked to the line needs no bounds check.
#[repr(C, align(8))]
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Line([u32; 16]);
const _: () = assert!(size_of::<Line>() == 64);

impl Line {
    /// All zero.
    pub const ZERO: Self = Self([0; 16]);

    /// From its bytes as they lie in memory.
    pub fn from_bytes(bytes: &[u8; 64]) -> Self {
        let mut words = [0; 16];
        for (word, bytes) in words.iter_mut().zip(bytes.as_chunks::<4>().0) {
            *word = u32::from_ne_bytes(*bytes);
        }
        Self(words)
    }

    /// Word `n`, modulo 16.
    pub fn word(&self, n: usize) -> u32 {
        self.0[n % 16]
    }

    /// Overwrites bytes from `at` on.
    pub fn write(&mut self, at: usize, part: &[u8]) {
        let mut bytes = self.to_bytes();
        bytes[at..at + part.len()].copy_from_slice(part);
        *self = Self::from_bytes(&bytes);
    }

    /// Its bytes as they lie in memory.
    pub fn to_bytes(&self) -> [u8; 64] {
        let mut bytes = [0; 64];
        for (place, word) in bytes.as_chunks_mut::<4>().0.iter_mut().zip(self.0) {
            *place = word.to_ne_bytes();
        }
        bytes
    }

    // By words and shifts: the bpf target reads what may be unaligned byte by byte.

    #[inline(always)]
    fn u8(&self, at: u32) -> u8 {
        let place = if cfg!(target_endian = "little") { at } else { 3 - (at & 3) };
        (self.u32(at) >> (8 * (place & 3))) as u8
    }

    #[inline(always)]
    fn u16(&self, at: u32) -> u16 {
        let place = if cfg!(target_endian = "little") { at } else { at ^ 2 };
        (self.u32(at) >> (8 * (place & 2))) as u16
    }

    #[inline(always)]
    fn u32(&self, at: u32) -> u32 {
        self.0[(at as usize / 4) % 16]
    }

    #[inline(always)]
    fn u64(&self, at: u32) -> u64 {
        let [low, high] = if cfg!(target_endian = "little") { [at, at + 4] } else { [at + 4, at] };
        u64::from(self.u32(high)) << 32 | u64::from(self.u32(low))
    }
}

/// The first lines of an image, and zeros behind those of a shorter one: the programs reach each without a look-up.
pub type Start = [Line; limits::START_LINES as usize];

/// Where an image's lines and exact addresses come from: eBPF maps or ordinary memory.
pub trait Image {
    /// The line at `index`. Past the end: `None` or a line of zeros, of which nothing is allowed.
    fn line(&self, index: u32) -> Option<&Line>;
    /// What is known of exactly this address.
    fn address(&self, address: &Address) -> Option<AddressEntry>;
}

impl<I: Image> Image for &I {
    #[inline(always)]
    fn line(&self, index: u32) -> Option<&Line> {
        (*self).line(index)
    }

    #[inline(always)]
    fn address(&self, address: &Address) -> Option<AddressEntry> {
        (*self).address(address)
    }
}

/// Value of the hash of exact addresses: peer class, and what the address is.
#[repr(transparent)]
#[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub struct AddressEntry(pub u32);

impl AddressEntry {
    const LOCAL: u32 = 1 << 31;
    const NODE: u32 = 1 << 30;
    const DISPUTED: u32 = 1 << 29;
    /// The highest peer class that fits.
    pub const MAX_CLASS: u32 = (1 << 28) - 1;

    /// An entry. `local`: a workload on this node has the address. `node`: this node has it.
    pub const fn new(class: PeerClass, local: bool, node: bool) -> Self {
        Self(class.0 | if local { Self::LOCAL } else { 0 } | if node { Self::NODE } else { 0 })
    }

    /// Peer class.
    #[inline(always)]
    pub const fn class(self) -> PeerClass {
        PeerClass(self.0 & Self::MAX_CLASS)
    }

    /// A workload on this node has the address.
    #[inline(always)]
    pub const fn is_local(self) -> bool {
        self.0 & Self::LOCAL != 0
    }

    /// The same entry for an address that two local workloads show: nobody can tell whose a packet from it is.
    #[must_use]
    pub const fn disputed(self) -> Self {
        Self(self.0 | Self::DISPUTED)
    }

    /// See [`AddressEntry::disputed`].
    #[inline(always)]
    pub const fn is_disputed(self) -> bool {
        self.0 & Self::DISPUTED != 0
    }

    /// This node has the address.
    #[inline(always)]
    pub const fn is_node(self) -> bool {
        self.0 & Self::NODE != 0
    }
}

/// The verdict of a cell, after all tiers. The numbers are part of the layout: append only, never reuse.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
#[repr(u8)]
pub enum Cell {
    /// No rule allows it.
    Deny = 0,
    /// A rule allows it.
    Allow = 1,
    /// A rule denies it.
    RuleDeny = 2,
}

impl Cell {
    /// The cell that a byte of the vectors section stands for; `None` if this build knows no such cell.
    #[inline(always)]
    pub const fn from_u8(byte: u8) -> Option<Self> {
        match byte {
            0 => Some(Self::Deny),
            1 => Some(Self::Allow),
            2 => Some(Self::RuleDeny),
            _ => None,
        }
    }
}

/// Index of the ports section: protocol and destination port, or ICMP type, or IP protocol number.
#[repr(transparent)]
#[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub struct PortKey(u32);

impl PortKey {
    /// Number of keys.
    pub const COUNT: u32 = 3 * 65536 + 3 * 256;

    /// A TCP destination port.
    #[inline(always)]
    pub const fn tcp(port: u16) -> Self {
        Self(port as u32)
    }

    /// A UDP destination port.
    #[inline(always)]
    pub const fn udp(port: u16) -> Self {
        Self(65536 + port as u32)
    }

    /// An SCTP destination port.
    #[inline(always)]
    pub const fn sctp(port: u16) -> Self {
        Self(2 * 65536 + port as u32)
    }

    /// An ICMP type.
    #[inline(always)]
    pub const fn icmp(kind: u8) -> Self {
        Self(3 * 65536 + kind as u32)
    }

    /// An ICMPv6 type.
    #[inline(always)]
    pub const fn icmpv6(kind: u8) -> Self {
        Self(3 * 65536 + 256 + kind as u32)
    }

    /// Any other IP protocol, by its number.
    #[inline(always)]
    pub const fn other(protocol: u8) -> Self {
        Self(3 * 65536 + 512 + protocol as u32)
    }

    /// The key of a place in the ports section; places beyond it have no class.
    #[inline(always)]
    pub const fn from_index(index: u32) -> Self {
        Self(index)
    }

    /// The place in the ports section.
    #[inline(always)]
    pub const fn index(self) -> u32 {
        self.0
    }
}

/// Line 0.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct Header {
    /// [`Header::MAGIC`].
    pub magic: u32,
    /// Lines of the image, this one included.
    pub lines: u32,
    /// [`Header::WIDE_PORTS`], [`Header::WIDE_VECTORS`].
    pub flags: u32,
    /// Number of port classes: the length of a vector.
    pub port_classes: u32,
    /// Number of peer classes: the length of a row.
    pub peer_classes: u32,
    /// Number of rows.
    pub rows: u32,
    /// Number of vectors.
    pub vectors: u32,
    /// First line of the ports section.
    pub ports_at: u32,
    /// First line of the rows section.
    pub rows_at: u32,
    /// First line of the vectors section.
    pub vectors_at: u32,
    /// Entries of the exact address hash.
    pub addresses: u32,
}

impl Header {
    /// First word of an image of this layout.
    pub const MAGIC: u32 = 0x454e_4601;
    /// Port classes are two bytes wide.
    pub const WIDE_PORTS: u32 = 1;
    /// Vector numbers are four bytes wide.
    pub const WIDE_VECTORS: u32 = 2;
    /// First line of the range tables: IPv4, then IPv6.
    pub const RANGES_AT: u32 = 1;

    /// As line 0.
    pub fn to_line(self) -> Line {
        let Self {
            magic,
            lines,
            flags,
            port_classes,
            peer_classes,
            rows,
            vectors,
            ports_at,
            rows_at,
            vectors_at,
            addresses,
        } = self;
        line_of(&[
            magic,
            lines,
            flags,
            port_classes,
            peer_classes,
            rows,
            vectors,
            ports_at,
            rows_at,
            vectors_at,
            addresses,
        ])
    }

    /// From line 0; `None` if it is of another layout.
    pub fn from_line(line: &Line) -> Option<Self> {
        let word = |n: u32| line.u32(n * 4);
        (word(0) == Self::MAGIC).then(|| Self {
            magic: word(0),
            lines: word(1),
            flags: word(2),
            port_classes: word(3),
            peer_classes: word(4),
            rows: word(5),
            vectors: word(6),
            ports_at: word(7),
            rows_at: word(8),
            vectors_at: word(9),
            addresses: word(10),
        })
    }
}

/// Line 1 (IPv4) or 2 (IPv6): address ranges, sorted by start. The first starts at the family's lowest address, each ends
/// where the next starts, so every address lies in exactly one.
///
/// The bucket of an address is `(max(x, base) - base) >> shift`, at most `buckets - 1`, where x is the IPv4 address or the
/// upper half of the IPv6 address: monotone, so a bucket is a run of ranges. `index[bucket]` is the first range whose start
/// lies in the bucket or in a later one.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct RangeTable {
    /// See above.
    pub base: u64,
    /// See above.
    pub shift: u32,
    /// Number of buckets, at least 1.
    pub buckets: u32,
    /// Number of ranges, at least 1.
    pub count: u32,
    /// First line of the index.
    pub index_at: u32,
    /// First line of the starts.
    pub starts_at: u32,
    /// First line of the classes.
    pub classes_at: u32,
}

impl RangeTable {
    /// As a line.
    pub fn to_line(self) -> Line {
        let Self { base, shift, buckets, count, index_at, starts_at, classes_at } = self;
        let [a, b, c, d, e, f, g, h] = base.to_ne_bytes();
        line_of(&[
            u32::from_ne_bytes([a, b, c, d]),
            u32::from_ne_bytes([e, f, g, h]),
            shift,
            buckets,
            count,
            index_at,
            starts_at,
            classes_at,
        ])
    }

    /// The bucket of `x`.
    #[inline(always)]
    pub fn bucket(base: u64, shift: u32, buckets: u32, x: u64) -> u32 {
        let above = x.saturating_sub(base) >> (shift & 63);
        let last = u64::from(buckets).saturating_sub(1);
        (if above > last { last } else { above }) as u32
    }
}

fn line_of(words: &[u32]) -> Line {
    let mut line = [0; 16];
    line[..words.len()].copy_from_slice(words);
    Line(line)
}

/// The port class of `key`; `header` is line 0.
#[inline(always)]
pub fn port_class<I: Image>(image: &I, header: &Line, key: PortKey) -> Option<PortClass> {
    let flags = header.u32(8);
    let at = header.u32(28);
    let index = key.index();
    if flags & Header::WIDE_PORTS == 0 {
        Some(PortClass(u16::from(image.line(at + index / 64)?.u8(index))))
    } else {
        Some(PortClass(image.line(at + index / 32)?.u16(index * 2)))
    }
}

/// The class of an address that is not known exactly.
#[inline(always)]
pub fn range_class<I: Image>(image: &I, address: &Address) -> Option<PeerClass> {
    let v4 = address.is_v4();
    let [high, low] = address.halves();
    let table = image.line(if v4 { Header::RANGES_AT } else { Header::RANGES_AT + 1 })?;
    let x = if v4 { low & 0xffff_ffff } else { high };
    let bucket = RangeTable::bucket(table.u64(0), table.u32(8), table.u32(12), x);
    let (index_at, starts_at, classes_at) = (table.u32(20), table.u32(24), table.u32(28));
    let next = bucket + 1;
    let line = image.line(index_at + bucket / 16)?;
    let first = line.u32(bucket * 4);
    // Mostly of the same line, and a lookup is the better part of the cost.
    let line = if next.is_multiple_of(16) { image.line(index_at + next / 16)? } else { line };
    // The range before the bucket's first may reach into the bucket.
    let mut found = first.saturating_sub(1);
    // A length that is halved, not an end: both ways through a step leave the verifier one state to follow, not two.
    let mut length = line.u32(next * 4).wrapping_sub(found);
    for _ in 0..limits::SEARCH_STEPS {
        if length <= 1 {
            break;
        }
        let half = length / 2;
        let middle = found.wrapping_add(half);
        let reached = if v4 {
            u64::from(image.line(starts_at + middle / 16)?.u32(middle * 4)) <= x
        } else {
            let line = image.line(starts_at + middle / 4)?;
            let start = [line.u64(middle * 16), line.u64(middle * 16 + 8)];
            start[0] < high || (start[0] == high && start[1] <= low)
        };
        if reached {
            found = middle;
        }
        length -= half;
    }
    Some(PeerClass(image.line(classes_at + found / 16)?.u32(found * 4)))
}

/// The cell of a flow; `port` is of its destination.
#[inline(always)]
pub fn cell<I: Image>(image: &I, row: Row, peer: PeerClass, port: PortKey) -> Option<Cell> {
    let header = image.line(0)?;
    let port = port_class(image, header, port)?;
    cell_of_class(image, header, row, peer, port)
}

/// The same for a port class; `header` is line 0.
#[inline(always)]
pub fn cell_of_class<I: Image>(image: &I, header: &Line, row: Row, peer: PeerClass, port: PortClass) -> Option<Cell> {
    let flags = header.u32(8);
    let (port_classes, peer_classes) = (header.u32(12), header.u32(16));
    // Rows and classes beyond the image would alias others' cells.
    if row.0 >= header.u32(20) || peer.0 >= peer_classes || u32::from(port.0) >= port_classes {
        return None;
    }
    let place = row.0.wrapping_mul(peer_classes).wrapping_add(peer.0);
    let rows_at = header.u32(32);
    let vector = if flags & Header::WIDE_VECTORS == 0 {
        u32::from(image.line(rows_at + place / 32)?.u16(place * 2))
    } else {
        image.line(rows_at + place / 16)?.u32(place * 4)
    };
    let place = vector.wrapping_mul(port_classes).wrapping_add(u32::from(port.0));
    Cell::from_u8(image.line(header.u32(36) + place / 64)?.u8(place))
}

#[cfg(test)]
mod tests;
