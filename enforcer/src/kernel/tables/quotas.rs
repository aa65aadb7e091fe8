//! The places of `QUOTAS`, in which the programs count the flows of each workload.
//!
//! Input: the incarnations that live. Output: a place for each of them, and the size of the pool that they share. A place is
//! given out again only when its last counted flow is gone, so that the counts of two incarnations never mix.

use std::collections::BTreeSet;
use std::mem::offset_of;

use enforcer_common::id::{Direction, IncarnationId, QuotaPlace};
use enforcer_common::limits::{self, map};
use enforcer_common::quota::Quota;

use crate::kernel::error::{KernelError, on_map};
use crate::kernel::pins::FlowMaps;
use crate::kernel::tables::mmap::Mapped;

/// By [`Direction`].
const FLOWS: [usize; 2] = [offset_of!(Quota, flows), offset_of!(Quota, flows) + 4];
const LIMIT: usize = offset_of!(Quota, limit);
const RESERVE: usize = offset_of!(Quota, reserve);
const ID: usize = offset_of!(Quota, id);

/// The places.
#[derive(Debug)]
pub(crate) struct Quotas {
    array: Mapped,
    half_open: Mapped,
    limit: u32,
    /// Flows of each direction that a workload has for itself.
    reserve: u32,
    /// Established flows that the table has room for.
    room: u32,
}

/// How full the flow table is.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct FlowFill {
    /// Flows in the table.
    pub flows: u64,
    /// How many of them are half open.
    pub half_open: u64,
    /// Flows beyond the reserves of their workloads.
    pub shared: u32,
    /// How many of those the table has room for.
    pub shared_room: u32,
    /// Places of workloads in use, those included that wait for their last flow.
    pub workloads: usize,
    /// Shares without room for one more flow.
    pub full: Vec<FullShare>,
}

/// A workload has as many flows of a direction as it may have.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct FullShare {
    /// The workload.
    pub id: IncarnationId,
    /// The direction in which its flows were opened.
    pub direction: Direction,
    /// How many there are.
    pub flows: u32,
}

impl Quotas {
    /// Maps the places.
    pub(crate) fn open(maps: &FlowMaps, limit: u32, writable: bool) -> Result<Self, KernelError> {
        let array = Mapped::new(&maps.quotas, writable).map_err(on_map(map::QUOTAS, "mmap"))?;
        let half_open = Mapped::new(&maps.half_open, false).map_err(on_map(map::HALF_OPEN, "mmap"))?;
        let flows = maps.flows.attributes().entries;
        let room = flows.saturating_sub(half_open.entries());
        Ok(Self { array, half_open, limit, reserve: limits::flow_reserve(flows), room })
    }

    fn places(&self) -> std::ops::Range<u32> {
        0..Quota::POOL.0.min(self.array.entries())
    }

    fn flows(&self, place: u32) -> [u32; 2] {
        FLOWS.map(|offset| self.array.read32(place, offset))
    }

    /// Gives up the places of incarnations that are not among `living`, which a start that was cut short has left, and
    /// sets the limit that counts now.
    pub(crate) fn keep(&self, living: &BTreeSet<IncarnationId>) {
        for place in self.places() {
            let id = self.array.read32(place, ID);
            if id == IncarnationId::NONE.0 {
                continue;
            }
            if living.contains(&IncarnationId(id)) {
                self.array.write32(place, LIMIT, self.limit);
            } else {
                self.array.write32(place, ID, IncarnationId::NONE.0);
            }
        }
    }

    /// Gives the pool what the reserves of all workloads leave of the table.
    pub(crate) fn share_out(&self) {
        let used = self.places().filter(|place| self.array.read32(*place, ID) != 0).count() as u32;
        let reserved = used.saturating_mul(self.reserve).saturating_mul(2);
        self.array.write32(Quota::POOL.0, LIMIT, self.room.saturating_sub(reserved));
    }

    /// How many places there are.
    pub(crate) fn room(&self) -> usize {
        self.places().len()
    }

    /// How many half-open flows there can be.
    pub(crate) fn half_open_room(&self) -> usize {
        self.half_open.entries() as usize
    }

    /// Places that no incarnation has and no flow counts for.
    pub(crate) fn free(&self) -> Vec<QuotaPlace> {
        let free = |place: &u32| self.array.read32(*place, ID) == 0 && self.flows(*place) == [0; 2];
        self.places().filter(free).map(QuotaPlace).collect()
    }

    /// Gives a free place to a new incarnation.
    pub(crate) fn give(&self, QuotaPlace(place): QuotaPlace, id: IncarnationId) {
        self.array.write32(place, LIMIT, self.limit);
        self.array.write32(place, RESERVE, self.reserve);
        self.array.write32(place, ID, id.0);
    }

    /// The place of an incarnation that was taken over.
    pub(crate) fn place_of(&self, id: IncarnationId) -> Option<QuotaPlace> {
        self.places().find(|place| self.array.read32(*place, ID) == id.0).map(QuotaPlace)
    }

    /// The incarnation is gone: the sweep deletes its flows.
    pub(crate) fn release(&self, QuotaPlace(place): QuotaPlace) {
        self.array.write32(place, ID, IncarnationId::NONE.0);
    }

    /// The ids of the incarnations that have a place.
    pub(crate) fn ids(&self) -> impl Iterator<Item = IncarnationId> {
        let ids = (0..self.array.entries()).map(|place| IncarnationId(self.array.read32(place, ID)));
        ids.filter(|id| *id != IncarnationId::NONE)
    }

    /// Whether a share is half full, or an eighth of the room for established flows is taken. Half-open flows do not count,
    /// because the oldest of them gives way to a new one.
    pub(crate) fn is_scarce(&self) -> bool {
        let mut all = 0;
        for place in self.places() {
            let flows = self.flows(place);
            let limit = self.array.read32(place, LIMIT);
            if flows.into_iter().any(|flows| flows != 0 && flows >= limit / 2) {
                return true;
            }
            all += flows.into_iter().map(u64::from).sum::<u64>();
        }
        all >= u64::from(self.room) / 8
    }

    /// How full it is.
    pub(crate) fn fill(&self) -> FlowFill {
        let pool = Quota::POOL.0;
        let mut fill = FlowFill {
            shared: self.array.read32(pool, FLOWS[0]),
            shared_room: self.array.read32(pool, LIMIT),
            ..FlowFill::default()
        };
        // The first word of a key is that of its owner.
        let taken = (0..self.half_open.entries()).filter(|place| self.half_open.read32(*place, 0) != 0);
        fill.half_open = taken.count() as u64;
        fill.flows = fill.half_open;
        for place in self.places() {
            let (flows, id) = (self.flows(place), self.array.read32(place, ID));
            fill.flows += flows.into_iter().map(u64::from).sum::<u64>();
            fill.workloads += usize::from(flows != [0; 2] || id != 0);
            let limit = self.array.read32(place, LIMIT);
            let full = [Direction::Ingress, Direction::Egress].into_iter().zip(flows);
            let full = full.filter(|(_, flows)| id != 0 && *flows >= limit);
            fill.full.extend(full.map(|(direction, flows)| FullShare { id: IncarnationId(id), direction, flows }));
        }
        fill
    }
}
