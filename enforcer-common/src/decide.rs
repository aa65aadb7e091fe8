//! The policy decision: one pure function, which the kernel, the tests and `explain` share.

use crate::endpoint::Endpoint;
use crate::id::{Address, Direction, PeerClass, Row, Slot};
use crate::image::{self, AddressEntry, Cell, PortKey, ReadImage};
use crate::tables::PolicyTables;
use crate::verdict::{Reason, Verdict};

/// A flow of a local workload, as policy sees it.
#[derive(Clone, Copy, Debug)]
pub struct Question<'a> {
    /// The direction in which the flow was opened.
    pub direction: Direction,
    /// Address of the other side.
    pub peer: &'a Address,
    /// What the image in force knows of that address.
    pub entry: Option<AddressEntry>,
    /// The port of the flow's destination.
    pub port: PortKey,
}

/// The out-of-line part that asks policy: tests run [`answer`] in line, the kernel's tables call it.
pub trait AskPolicy: PolicyTables {
    /// The verdict of policy for a workload, by the image in a slot.
    #[inline(always)]
    fn ask_policy(&self, slot: Slot, endpoint: &Endpoint, question: &Question<'_>) -> Verdict {
        answer(self.image(slot).as_ref(), slot, endpoint, question)
    }
}

/// The verdict of policy for a workload, by the image in a slot.
#[inline(always)]
pub fn answer<I: ReadImage>(image: Option<&I>, slot: Slot, endpoint: &Endpoint, question: &Question<'_>) -> Verdict {
    let Some(image) = image else {
        return Verdict::Deny(Reason::Internal);
    };
    // A workload cannot block access to itself (N19). At an address for which nobody else vouches, or to which another one
    // has an equal claim, it may be somebody else.
    let exempt = question.entry.is_some_and(AddressEntry::is_exempt);
    if exempt && endpoint.owner_of(question.peer).is_some() {
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
pub fn decide<I: ReadImage>(
    image: &I,
    row: Row,
    peer: &Address,
    entry: Option<AddressEntry>,
    port: PortKey,
) -> Verdict {
    if row == Row::NOT_ISOLATED {
        return Verdict::Allow;
    }
    match look_up(image, row, peer, entry, port) {
        Some(cell) => verdict(cell),
        None => Verdict::Deny(Reason::Internal),
    }
}

/// The verdict that a cell stands for.
#[inline(always)]
pub const fn verdict(cell: Cell) -> Verdict {
    match cell {
        Cell::Deny => Verdict::Deny(Reason::NoRule),
        Cell::Allow => Verdict::Allow,
        Cell::RuleDeny => Verdict::Deny(Reason::RuleDeny),
    }
}

#[inline(always)]
fn look_up<I: ReadImage>(
    image: &I,
    row: Row,
    peer: &Address,
    entry: Option<AddressEntry>,
    port: PortKey,
) -> Option<Cell> {
    let peer: PeerClass = match entry {
        Some(entry) => entry.class(),
        None => image::range_class(image, peer)?,
    };
    image::cell(image, row, peer, port)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::id::OwnerId;
    use crate::image::{Header, Line};

    struct Lines([Line; 3]);

    impl ReadImage for Lines {
        fn line(&self, index: u32) -> Option<&Line> {
            self.0.get(index as usize)
        }

        fn address(&self, _: &Address) -> Option<AddressEntry> {
            None
        }
    }

    /// An image with one row, one peer class, one port class and this cell.
    fn image(byte: u8) -> Lines {
        let header = Header {
            magic: Header::MAGIC,
            port_classes: 1,
            peer_classes: 1,
            rows: 1,
            vectors: 1,
            ports_at: 1,
            rows_at: 1,
            vectors_at: 2,
            ..Header::default()
        };
        let mut image = Lines([header.to_line(), Line::ZERO, Line::ZERO]);
        image.0[2].write(0, &[byte]);
        image
    }

    /// What it says.
    fn said_by(byte: u8) -> Verdict {
        let image = image(byte);
        let entry = AddressEntry::new(PeerClass(0), false, false);
        decide(&image, Row(0), &Address([0; 4]), Some(entry), PortKey::tcp(0))
    }

    /// A workload reaches itself whatever policy says (N19), unless the address may be somebody else's.
    #[test]
    fn only_an_undisputed_address_with_a_voucher_is_the_workload_itself() {
        let own = Address([1, 2, 3, 4]);
        let mut endpoint = Endpoint { owned: 1, rows: [[Row::NONE; 2]; 2], ..Endpoint::FREE };
        (endpoint.addresses[0], endpoint.owners[0]) = (own, OwnerId(7));
        let undisputed = AddressEntry::new(PeerClass(0), true, false);
        let image = Lines([Line::ZERO; 3]);
        for direction in [Direction::Ingress, Direction::Egress] {
            let asked = |peer: &Address, entry| {
                let question = Question { direction, peer, entry, port: PortKey::tcp(80) };
                answer(Some(&image), Slot::of(0), &endpoint, &question)
            };
            assert_eq!(asked(&own, Some(undisputed)), Verdict::Allow);
            // There is no such row, so policy could not answer if it were asked.
            assert_eq!(asked(&own, None), Verdict::Deny(Reason::Internal), "younger than the image");
            assert_eq!(asked(&own, Some(undisputed.disputed())), Verdict::Deny(Reason::Internal));
            assert_eq!(asked(&own, Some(undisputed.shown())), Verdict::Deny(Reason::Internal), "nobody vouches for it");
            assert_eq!(asked(&Address([9; 4]), Some(undisputed)), Verdict::Deny(Reason::Internal));
        }
    }

    #[test]
    fn each_cell_has_its_verdict_and_other_bytes_are_denied() {
        let mut known = 0;
        for byte in 0..=u8::MAX {
            let expected = match byte {
                0 => Verdict::Deny(Reason::NoRule),
                1 => Verdict::Allow,
                2 => Verdict::Deny(Reason::RuleDeny),
                _ => Verdict::Deny(Reason::Internal),
            };
            assert_eq!(said_by(byte), expected, "cell {byte}");
            if let Some(cell) = Cell::from_u8(byte) {
                assert_eq!((cell as u8, verdict(cell)), (byte, expected));
                known += 1;
            }
        }
        assert_eq!(known, 3);
    }

    #[test]
    fn a_workload_reaches_itself_but_not_who_shows_its_address_too() {
        let (own, other) = (Address([1; 4]), Address([2; 4]));
        let mut endpoint = Endpoint { rows: [[Row(0); 2]; 2], owned: 1, ..Endpoint::FREE };
        (endpoint.addresses[0], endpoint.owners[0]) = (own, OwnerId(7));
        let entry = AddressEntry::new(PeerClass(0), true, false);
        let said = |peer: &Address, entry| {
            [Direction::Ingress, Direction::Egress].map(|direction| {
                let question = Question { direction, peer, entry: Some(entry), port: PortKey::tcp(80) };
                answer(Some(&image(Cell::Deny as u8)), Slot::of(0), &endpoint, &question)
            })
        };
        let denied = [Verdict::Deny(Reason::NoRule); 2];
        assert_eq!(said(&own, entry), [Verdict::Allow; 2], "N19");
        assert_eq!(said(&own, entry.disputed()), denied, "it may be the other one's packet");
        assert_eq!(said(&other, entry), denied);
    }
}
