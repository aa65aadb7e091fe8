//! The owner ids that one incarnation has spent on addresses. Pure.
//!
//! Input: an address that the incarnation has now, and the time. Output: the id that the address had before in this
//! incarnation, or a new one while there are any left for it. So an address that comes and goes costs one id, and a workload
//! that shows ever new addresses gets few.

use std::collections::BTreeMap;

use enforcer_common::id::{Address, OwnerId};

/// Addresses whose id is remembered, those that the incarnation has now included. Four times what an endpoint holds.
const REMEMBERED: usize = 64;
/// New ids that an incarnation may spend at once.
const BURST: u64 = 64;
/// Nanoseconds until it may spend one more.
const PERIOD: u64 = 60_000_000_000;

/// See the module.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub(super) struct SpentIds {
    /// By address, with the turn in which the address was last there.
    known: BTreeMap<Address, (OwnerId, u64)>,
    turn: u64,
    /// New ids that count against the burst, as of `since`.
    new: u64,
    since: u64,
}

impl SpentIds {
    /// Takes over an id that the incarnation has already.
    pub(super) fn remember(&mut self, address: Address, owner: OwnerId) {
        self.known.insert(address, (owner, self.turn));
    }

    /// The id of an address that the incarnation has now. `None`: it has spent its new ids for now.
    pub(super) fn id_of(&mut self, address: Address, boot_time: u64, new: impl FnOnce() -> OwnerId) -> Option<OwnerId> {
        if let Some((owner, turn)) = self.known.get_mut(&address) {
            *turn = self.turn;
            return Some(*owner);
        }
        let passed = boot_time.saturating_sub(self.since) / PERIOD;
        self.new = self.new.saturating_sub(passed);
        self.since = if self.new == 0 { boot_time } else { self.since + passed * PERIOD };
        if self.new >= BURST {
            return None;
        }
        self.new += 1;
        let owner = new();
        self.remember(address, owner);
        Some(owner)
    }

    /// Ends a turn: of the addresses that are not there, those that went first are forgotten if there are too many.
    pub(super) fn forget_beyond(&mut self, there: impl Fn(&Address) -> bool) {
        self.turn += 1;
        while self.known.len() > REMEMBERED {
            let gone = self.known.iter().filter(|(address, _)| !there(address));
            let Some(oldest) = gone.min_by_key(|(_, (_, turn))| *turn).map(|(address, _)| *address) else { return };
            self.known.remove(&oldest);
        }
    }

    /// The ids of all addresses that are remembered.
    pub(super) fn ids(&self) -> impl Iterator<Item = OwnerId> {
        self.known.values().map(|(owner, _)| *owner)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use enforcer_common::limits::OWN_ADDRESSES;
    use proptest::prelude::*;

    use super::*;

    fn address(n: u32) -> Address {
        Address::v4(n.to_be())
    }

    /// Shows sets of addresses one after the other; gives how many ids that cost.
    fn cost(shown: &[(u64, BTreeSet<u32>)]) -> u64 {
        let (mut spent, mut given) = (SpentIds::default(), 0);
        for (time, addresses) in shown {
            for number in addresses.iter().take(OWN_ADDRESSES) {
                spent.id_of(address(*number), *time, || {
                    given += 1;
                    OwnerId(given)
                });
            }
            let there: BTreeSet<Address> =
                addresses.iter().take(OWN_ADDRESSES).map(|number| address(*number)).collect();
            spent.forget_beyond(|address| there.contains(address));
        }
        u64::from(given)
    }

    #[test]
    fn an_address_that_flaps_costs_one_id_however_often() {
        let flapping: Vec<_> =
            (0..100_000).map(|turn| (turn, if turn % 2 == 0 { [7].into() } else { [].into() })).collect();
        assert_eq!(cost(&flapping), 1);
        let many: Vec<_> = (0..10_000_u64).map(|turn| (turn, [turn as u32 % REMEMBERED as u32].into())).collect();
        assert_eq!(cost(&many), REMEMBERED as u64, "as many as are remembered");
    }

    #[test]
    fn ever_new_addresses_get_a_burst_and_then_one_a_minute() {
        let hour = 60 * PERIOD;
        // Hundred new ones a second for an hour.
        let flood: Vec<_> = (0..360_000_u64).map(|turn| (turn * (hour / 360_000), [turn as u32].into())).collect();
        assert_eq!(cost(&flood), BURST + 59);
        let slow: Vec<_> = (0..500_u64).map(|turn| (turn * PERIOD, [turn as u32].into())).collect();
        assert_eq!(cost(&slow), 500, "one a minute is never refused");
    }

    #[test]
    fn what_is_there_is_never_forgotten() {
        let mut spent = SpentIds::default();
        let mut next = 0;
        let mut id = |spent: &mut SpentIds, number, time| {
            spent.id_of(address(number), time, || {
                next += 1;
                OwnerId(next)
            })
        };
        let first = id(&mut spent, 1, 0);
        for turn in 1..200_u32 {
            id(&mut spent, 1000 + turn, u64::from(turn) * PERIOD);
            spent.forget_beyond(|there| *there == address(1));
            assert_eq!(id(&mut spent, 1, u64::from(turn) * PERIOD), first);
        }
        assert_eq!(spent.known.len(), REMEMBERED);
    }

    proptest! {
        #[test]
        fn no_way_of_showing_addresses_costs_more(
            shown in proptest::collection::vec((0..PERIOD, proptest::collection::btree_set(0_u32..400, 0..20)), 0..300),
        ) {
            let mut time = 0;
            let shown: Vec<_> = shown.into_iter().map(|(step, addresses)| { time += step; (time, addresses) }).collect();
            prop_assert!(cost(&shown) <= BURST + time / PERIOD);
        }
    }
}
