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

use crate::id::PeerClass;
use crate::limits;

mod line;
mod read;

pub use line::Line;
pub use read::{ReadImage, cell, cell_of_class, port_class, range_class};

/// The first lines of an image, and zeros behind those of a shorter one: the programs reach each without a look-up.
pub type Start = [Line; limits::START_LINES as usize];

/// Value of the hash of exact addresses: peer class, and what the address is.
#[repr(transparent)]
#[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub struct AddressEntry(pub u32);

impl AddressEntry {
    const LOCAL: u32 = 1 << 31;
    const NODE: u32 = 1 << 30;
    const DISPUTED: u32 = 1 << 29;
    const SHOWN: u32 = 1 << 28;
    const SERVICE: u32 = 1 << 27;
    /// The highest peer class that fits.
    pub const MAX_CLASS: u32 = (1 << 27) - 1;

    /// An entry. `local`: a workload on this node has the address. `node`: this node has it.
    pub const fn new(class: PeerClass, local: bool, node: bool) -> Self {
        Self(class.0 | if local { Self::LOCAL } else { 0 } | if node { Self::NODE } else { 0 })
    }

    /// Peer class.
    #[inline(always)]
    pub const fn class(self) -> PeerClass {
        PeerClass(self.0 & Self::MAX_CLASS)
    }

    /// The same entry with another class.
    #[must_use]
    pub const fn with_class(self, class: PeerClass) -> Self {
        Self(self.0 & !Self::MAX_CLASS | class.0 & Self::MAX_CLASS)
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

    /// The same entry for an address of which only the workload itself says that it is its own (D11).
    #[must_use]
    pub const fn shown(self) -> Self {
        Self(self.0 | Self::SHOWN)
    }

    /// See [`AddressEntry::shown`]. Whoever else sends from the address may be its true owner, and nobody is dropped for
    /// that; but only what comes from the workload gets the rights of its labels.
    #[inline(always)]
    pub const fn is_shown(self) -> bool {
        self.0 & Self::SHOWN != 0
    }

    /// A workload on this node has the address, and somebody else says so: from elsewhere it is spoofed.
    #[inline(always)]
    pub const fn is_vouched(self) -> bool {
        self.0 & (Self::LOCAL | Self::SHOWN) == Self::LOCAL
    }

    /// Traffic of its workload with it is the workload's with itself (N19).
    #[inline(always)]
    pub const fn is_exempt(self) -> bool {
        self.0 & (Self::LOCAL | Self::SHOWN | Self::DISPUTED) == Self::LOCAL
    }

    /// This node has the address.
    #[inline(always)]
    pub const fn is_node(self) -> bool {
        self.0 & Self::NODE != 0
    }

    /// The same entry for an address of a Service, which the node translates into that of a backend.
    #[must_use]
    pub const fn service(self) -> Self {
        Self(self.0 | Self::SERVICE)
    }

    /// See [`AddressEntry::service`]. Policy judges the backend once the node has translated the packet, and nothing before
    /// (D5).
    #[inline(always)]
    pub const fn is_service(self) -> bool {
        self.0 & Self::SERVICE != 0
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
        Line::of(&[
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
        Line::of(&[
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

#[cfg(test)]
mod tests;
