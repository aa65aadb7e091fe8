//! Quota ABI: how many established flows a workload has, and how many it may have.
//!
//! Input: a workload's place in `QUOTAS`, and the place of the pool that all share. Output: whether one more flow finds room.
//!
//! What is opened to a workload and what it opens are counted apart, each up to the limit, so that neither can use up the
//! other's. Each of the two has a reserve: up to there a flow always finds room in the table. Beyond, it takes from the
//! pool, which is what the table has besides all reserves and the half-open flows. At any moment the pool counts, over all
//! places and both directions, what lies above the reserve.

use core::sync::atomic::Ordering::Relaxed;

use crate::atomic::AtomicU32;
use crate::id::{Direction, QuotaPlace};
use crate::limits;
use crate::opaque::opaque;
use crate::verdict::Reason;

/// Value of `QUOTAS`: the established flows of one workload. The programs and the sweep count, both atomically; user space
/// writes the rest.
#[repr(C)]
#[derive(Debug, Default)]
pub struct Quota {
    /// By the [`Direction`] in which they were opened. Of the pool: what is taken, and zero.
    pub flows: [AtomicU32; 2],
    /// How many it may have of each. Of the pool: its size.
    pub limit: AtomicU32,
    /// How many of each never take from the pool. Not changed while a flow is counted.
    pub reserve: AtomicU32,
    /// Id of the incarnation that uses the place; 0: it is gone, and the sweep deletes its flows.
    pub id: AtomicU32,
    /// Zero.
    pub pad: [u32; 3],
}
const _: () = assert!(size_of::<Quota>() == 32);

impl Quota {
    /// The place of the pool, behind those of the workloads.
    pub const POOL: QuotaPlace = QuotaPlace(limits::WORKLOADS);

    /// Flows of a share.
    #[inline(always)]
    pub fn of(&self, share: Direction) -> &AtomicU32 {
        // The mask must survive: the verifier does not know that a direction has two values.
        &self.flows[opaque(share as u64) as usize & 1]
    }

    /// Whether a share has room for one more flow. Nothing is counted.
    #[inline(always)]
    pub fn has_room(&self, share: Direction, pool: Option<&Self>) -> Result<(), Reason> {
        let flows = self.of(share).load(Relaxed);
        if flows >= self.limit.load(Relaxed) {
            return Err(Reason::FlowQuota);
        }
        if flows < self.reserve.load(Relaxed) {
            return Ok(());
        }
        let pool = pool.ok_or(Reason::Internal)?;
        if pool.of(Direction::Ingress).load(Relaxed) < pool.limit.load(Relaxed) {
            Ok(())
        } else {
            Err(Reason::FlowTableFull)
        }
    }

    /// Counts one more flow, if there is room.
    #[inline(always)]
    pub fn take(&self, share: Direction, pool: Option<&Self>) -> Result<(), Reason> {
        self.has_room(share, pool)?;
        if self.of(share).fetch_add(1, Relaxed) >= self.reserve.load(Relaxed)
            && let Some(pool) = pool
        {
            pool.of(Direction::Ingress).fetch_add(1, Relaxed);
        }
        Ok(())
    }

    /// Takes one flow off the count.
    #[inline(always)]
    pub fn give(&self, share: Direction, pool: Option<&Self>) {
        if self.of(share).fetch_sub(1, Relaxed) > self.reserve.load(Relaxed)
            && let Some(pool) = pool
        {
            pool.of(Direction::Ingress).fetch_sub(1, Relaxed);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn quota(limit: u32, reserve: u32) -> Quota {
        Quota { limit: AtomicU32::new(limit), reserve: AtomicU32::new(reserve), ..Quota::default() }
    }

    #[test]
    fn a_share_ends_at_its_limit_and_leaves_the_other_one_alone() {
        let (one, pool) = (quota(3, 1), quota(100, 0));
        for share in [Direction::Ingress, Direction::Egress] {
            for number in 0..3 {
                assert_eq!(one.take(share, Some(&pool)), Ok(()), "{share:?} {number}");
            }
            assert_eq!(one.has_room(share, Some(&pool)), Err(Reason::FlowQuota));
            assert_eq!(one.take(share, Some(&pool)), Err(Reason::FlowQuota));
        }
        assert_eq!(pool.of(Direction::Ingress).load(Relaxed), 4, "two of each lie above the reserve");
        one.give(Direction::Ingress, Some(&pool));
        assert_eq!(one.has_room(Direction::Ingress, Some(&pool)), Ok(()));
        assert_eq!(one.has_room(Direction::Egress, Some(&pool)), Err(Reason::FlowQuota));
    }

    #[test]
    fn what_is_reserved_finds_room_in_a_used_up_pool() {
        let (greedy, modest, pool) = (quota(100, 2), quota(100, 2), quota(5, 0));
        let taken = (0..100).filter(|_| greedy.take(Direction::Ingress, Some(&pool)).is_ok()).count();
        assert_eq!(taken, 2 + 5);
        assert_eq!(greedy.take(Direction::Ingress, Some(&pool)), Err(Reason::FlowTableFull));
        for share in [Direction::Ingress, Direction::Egress] {
            assert_eq!(modest.take(share, Some(&pool)), Ok(()));
            assert_eq!(modest.take(share, Some(&pool)), Ok(()));
            assert_eq!(modest.take(share, Some(&pool)), Err(Reason::FlowTableFull));
        }
        greedy.give(Direction::Ingress, Some(&pool));
        assert_eq!(modest.take(Direction::Egress, Some(&pool)), Ok(()), "given back to all");
    }

    #[test]
    fn the_pool_counts_what_lies_above_the_reserves() {
        let (places, pool) = ([quota(9, 3), quota(9, 0), quota(2, 4)], quota(8, 0));
        let mut number = 1_u32;
        for _ in 0..10_000 {
            number = number.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            let place = &places[(number >> 8) as usize % 3];
            let share = if number >> 30 & 1 == 0 { Direction::Ingress } else { Direction::Egress };
            if number >> 31 == 0 {
                let _ = place.take(share, Some(&pool));
            } else if place.of(share).load(Relaxed) > 0 {
                place.give(share, Some(&pool));
            }
            let above = places.iter().flat_map(|place| {
                place.flows.each_ref().map(|flows| flows.load(Relaxed).saturating_sub(place.reserve.load(Relaxed)))
            });
            let above: u32 = above.sum();
            assert_eq!(pool.of(Direction::Ingress).load(Relaxed), above);
            assert!(above <= 8);
        }
    }
}
