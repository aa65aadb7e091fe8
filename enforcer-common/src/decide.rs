//! The policy decision: one pure function, in the kernel, in the tests and in `explain`.

use crate::endpoint::Endpoint;
use crate::id::{Address, Direction, PeerClass, Row};
use crate::image::{self, AddressEntry, Cell, Image, PortKey};
use crate::tables::PolicyTables;
use crate::verdict::{Reason, Verdict};

/// A flow of a local workload, as policy sees it.
#[derive(Clone, Copy, Debug)]
pub struct Question<'a> {
    /// In which it was opened.
    pub direction: Direction,
    /// Address of the other side.
    pub peer: &'a Address,
    /// What the image in force knows of that address.
    pub entry: Option<AddressEntry>,
    /// Of its destination.
    pub port: PortKey,
}

/// The out-of-line part that asks policy: tests run [`answer`] in line, the kernel's tables call it.
pub trait AskPolicy: PolicyTables {
    /// What policy says for a workload by the image in a slot.
    #[inline(always)]
    fn ask_policy(&self, slot: usize, endpoint: &Endpoint, question: &Question<'_>) -> Verdict {
        answer(self.image(slot).as_ref(), slot, endpoint, question)
    }
}

/// What policy says for a workload by the image in a slot.
#[inline(always)]
pub fn answer<I: Image>(image: Option<&I>, slot: usize, endpoint: &Endpoint, question: &Question<'_>) -> Verdict {
    let Some(image) = image else {
        return Verdict::Deny(Reason::Internal);
    };
    // A workload cannot block access to itself (N19); from an address that another one shows too, it may be the other one.
    let disputed = question.entry.is_some_and(AddressEntry::is_disputed);
    if !disputed && endpoint.owner_of(question.peer).is_some() {
        return Verdict::Allow;
    }
    let row = endpoint.row(slot, question.direction);
    decide(image, row, question.peer, question.entry, question.port)
}

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
    let peer: PeerClass = match entry {
        Some(entry) => entry.class(),
        None => image::range_class(image, peer)?,
    };
    image::cell(image, row, peer, port)
}
