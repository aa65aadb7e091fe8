//! Hands out owner ids, each of them to one at a time, and places of `QUOTAS`, each of them to one incarnation at a time.
//!
//! Input: the state of the counter, the ids that are in use, and the places that are free. Output: ids and places, and a record
//! of what was given out. The kernel side stores that record before anything uses an id or a place.
//!
//! Behind the last id the counter begins again, and passes over the ids that are in use. An id that is given again finds no
//! flow of its earlier owner: all 2^29 others were given in between. At the highest rate that a node has reached (a few hundred
//! a second) that takes weeks, and a flow without a packet lives for [two hours](enforcer_common::flow_state::idle_limit).

use std::collections::BTreeSet;

use enforcer_common::id::{IncarnationId, OwnerId, QuotaPlace};

use super::Impossible;

/// The counter and the free places, with what was given of both.
#[derive(Clone, Debug)]
pub(crate) struct Supply {
    next_owner: u64,
    used: BTreeSet<OwnerId>,
    /// The place that is given next comes last.
    free: Vec<QuotaPlace>,
    room: usize,
    given: Vec<(QuotaPlace, IncarnationId)>,
}

impl Supply {
    /// `next_owner`: the counter, 0 before the first id. `used`: ids that somebody has. `free`: places in the order in which
    /// they are given. `room`: how many places there are in all.
    pub(crate) fn new(
        next_owner: u64,
        used: BTreeSet<OwnerId>,
        free: impl DoubleEndedIterator<Item = QuotaPlace>,
        room: usize,
    ) -> Self {
        Self { next_owner, used, free: free.rev().collect(), room, given: Vec::new() }
    }

    /// An owner id that nobody has.
    pub(super) fn owner(&mut self) -> OwnerId {
        // It ends: no more ids are in use than places and endpoints hold, and there are far more.
        loop {
            let id = u32::try_from(self.next_owner).map_or(OwnerId::MAX.0 + 1, |next| next.max(1));
            let id = if id > OwnerId::MAX.0 { OwnerId(1) } else { OwnerId(id) };
            self.next_owner = u64::from(id.0) + 1;
            if !self.used.contains(&id) {
                return id;
            }
        }
    }

    /// The id of a new incarnation.
    pub(super) fn incarnation(&mut self) -> IncarnationId {
        IncarnationId(self.owner().0)
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
        let mut supply = Supply::new(0, BTreeSet::new(), [4, 2].map(QuotaPlace).into_iter(), 8);
        assert_eq!((supply.owner(), supply.owner()), (OwnerId(1), OwnerId(2)));
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
    fn behind_the_last_id_come_those_that_nobody_has() {
        let last = OwnerId::MAX.0;
        let used = [1, 2, 4, last - 1].map(OwnerId).into();
        let mut supply = Supply::new(u64::from(last) - 2, used, [].into_iter(), 0);
        let given: Vec<u32> = (0..4).map(|_| supply.owner().0).collect();
        assert_eq!(given, [last - 2, last, 3, 5]);
        assert_eq!(supply.next_owner(), 6);
        for counter in [u64::from(last) + 1, u64::from(u32::MAX) + 7, u64::MAX] {
            let mut supply = Supply::new(counter, BTreeSet::new(), [].into_iter(), 0);
            assert_eq!((supply.owner(), supply.next_owner()), (OwnerId(1), 2), "whatever the counter holds");
        }
    }

    #[test]
    fn an_id_comes_back_long_after_the_last_flow_of_its_earlier_owner() {
        use enforcer_common::flow_state::{idle_limit, state};
        use enforcer_common::packet::ProtocolClass;

        /// Ids a second that no node comes near: each is an edit of the tables with two waits for all processors.
        const MOST: u64 = 10_000;
        let longest = idle_limit(ProtocolClass::Tcp, state::REPLIED);
        assert!(u64::from(OwnerId::MAX.0) / MOST > 6 * u64::from(longest));
    }
}
