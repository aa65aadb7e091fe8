//! The policy decision: one pure function, in the kernel, in the tests and in `explain`.

use crate::id::{Address, PeerClass, Row};
use crate::image::{self, AddressEntry, Cell, Image, PortKey};
use crate::verdict::{Reason, Verdict};

/// What policy says of a flow of the workload with `row`: from its peer's side (ingress row) or towards it (egress row).
///
/// `entry` is what `image.address(peer)` gave; it is an argument because the guardrails need it too. `port` is of the
/// flow's destination. Whatever the tables cannot answer is denied.
#[inline(always)]
pub fn decide<I: Image>(image: &I, row: Row, peer: &Address, entry: Option<AddressEntry>, port: PortKey) -> Verdict {
    if row == Row::NOT_ISOLATED {
        return Verdict::Allow;
    }
    match look_up(image, row, peer, entry, port) {
        Some(cell) if cell == Cell::Allow as u8 => Verdict::Allow,
        Some(cell) if cell == Cell::Deny as u8 => Verdict::Deny(Reason::NoRule),
        _ => Verdict::Deny(Reason::Internal),
    }
}

#[inline(always)]
fn look_up<I: Image>(image: &I, row: Row, peer: &Address, entry: Option<AddressEntry>, port: PortKey) -> Option<u8> {
    let header = image.line(0)?;
    let port = image::port_class(image, header, port)?;
    let peer: PeerClass = match entry {
        Some(entry) => entry.class(),
        None => image::range_class(image, peer)?,
    };
    image::cell(image, header, row, peer, port)
}
