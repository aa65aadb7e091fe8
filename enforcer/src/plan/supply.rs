//! Hands out owner ids, each of them only once, and places of `QUOTAS`, each of them to one incarnation at a time.
//!
//! Input: the state of the counter, and the places that are free. Output: ids and places, and a record of what was given
//! out. The kernel side stores that record before anything uses an id or a place, so nothing is given out twice.

use enforcer_common::id::{IncarnationId, OwnerId, QuotaPlace};

use super::Impossible;

/// The counter and the free places, with what was given of both.
#[derive(Clone, Debug)]
pub(crate) struct Supply {
    next_owner: u64,
    /// The place that is given next comes last.
    free: Vec<QuotaPlace>,
    room: usize,
    given: Vec<(QuotaPlace, IncarnationId)>,
}

impl Supply {
    /// `next_owner`: the counter, 0 before the first id. `free`: places in the order in which they are given. `room`: how many
    /// places there are in all.
    pub(crate) fn new(next_owner: u64, free: impl DoubleEndedIterator<Item = QuotaPlace>, room: usize) -> Self {
        Self { next_owner: next_owner.max(1), free: free.rev().collect(), room, given: Vec::new() }
    }

    /// A new owner id.
    pub(super) fn owner(&mut self) -> Result<OwnerId, Impossible> {
        let id = u32::try_from(self.next_owner).ok().filter(|id| *id <= OwnerId::MAX.0);
        let id = id.ok_or(Impossible::OwnersExhausted)?;
        self.next_owner += 1;
        Ok(OwnerId(id))
    }

    /// The id of a new incarnation.
    pub(super) fn incarnation(&mut self) -> Result<IncarnationId, Impossible> {
        self.owner().map(|id| IncarnationId(id.0))
    }

    /// A place for an incarnation.
    pub(super) fn place(&mut self, id: IncarnationId) -> Result<QuotaPlace, Impossible> {
        let none = Impossible::NoRoom { what: "workloads", needed: self.room + 1, room: self.room };
        let place = self.free.pop().ok_or(none)?;
        self.given.push((place, id));
        Ok(place)
    }

    /// The present value of the counter.
    pub(crate) fn next_owner(&self) -> u64 {
        self.next_owner
    }

    /// The places that were given, with the incarnations that have them.
    pub(crate) fn given(&self) -> &[(QuotaPlace, IncarnationId)] {
        &self.given
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_and_places_are_given_once_and_recorded() {
        let mut supply = Supply::new(0, [4, 2].map(QuotaPlace).into_iter(), 8);
        assert_eq!((supply.owner().unwrap(), supply.owner().unwrap()), (OwnerId(1), OwnerId(2)));
        assert_eq!(
            (supply.place(IncarnationId(1)).unwrap(), supply.place(IncarnationId(2)).unwrap()),
            (QuotaPlace(4), QuotaPlace(2))
        );
        assert_eq!(supply.place(IncarnationId(3)), Err(Impossible::NoRoom { what: "workloads", needed: 9, room: 8 }));
        assert_eq!(
            (supply.next_owner(), supply.given()),
            (3, &[(QuotaPlace(4), IncarnationId(1)), (QuotaPlace(2), IncarnationId(2))][..])
        );
    }

    #[test]
    fn no_id_is_given_beyond_the_last() {
        let mut supply = Supply::new(u64::from(OwnerId::MAX.0), [].into_iter(), 0);
        assert_eq!(supply.owner().unwrap(), OwnerId::MAX);
        assert_eq!(supply.owner(), Err(Impossible::OwnersExhausted));
    }
}
