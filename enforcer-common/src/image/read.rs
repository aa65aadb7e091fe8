//! Reads an image, in the kernel and in user space.
//!
//! Input: the lines of an image, and an address, a port or a row. Output: the class or the cell; `None` if the tables cannot
//! answer.

use crate::id::{Address, PeerClass, PortClass, Row};
use crate::image::{AddressEntry, Cell, Header, Line, PortKey, RangeTable};
use crate::limits;

/// Where an image's lines and exact addresses come from: eBPF maps or ordinary memory.
pub trait ReadImage {
    /// The line at `index`. Past the end: `None` or a line of zeros, of which nothing is allowed.
    fn line(&self, index: u32) -> Option<&Line>;
    /// What is known of exactly this address.
    fn address(&self, address: &Address) -> Option<AddressEntry>;
}

impl<I: ReadImage> ReadImage for &I {
    #[inline(always)]
    fn line(&self, index: u32) -> Option<&Line> {
        (*self).line(index)
    }

    #[inline(always)]
    fn address(&self, address: &Address) -> Option<AddressEntry> {
        (*self).address(address)
    }
}

/// The port class of `key`; `header` is line 0.
#[inline(always)]
pub fn port_class<I: ReadImage>(image: &I, header: &Line, key: PortKey) -> Option<PortClass> {
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
pub fn range_class<I: ReadImage>(image: &I, address: &Address) -> Option<PeerClass> {
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
pub fn cell<I: ReadImage>(image: &I, row: Row, peer: PeerClass, port: PortKey) -> Option<Cell> {
    let header = image.line(0)?;
    let port = port_class(image, header, port)?;
    cell_of_class(image, header, row, peer, port)
}

/// The same for a port class; `header` is line 0.
#[inline(always)]
pub fn cell_of_class<I: ReadImage>(
    image: &I,
    header: &Line,
    row: Row,
    peer: PeerClass,
    port: PortClass,
) -> Option<Cell> {
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
