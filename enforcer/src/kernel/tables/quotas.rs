//! The places of `QUOTAS`, in which the programs count the flows of each workload.
//!
//! Input: the incarnations that live. Output: a place for each of them. A place is given out again only when its last flow is
//! gone, so that the counts of two incarnations never mix.

use std::collections::BTreeSet;
use std::mem::offset_of;

use enforcer_common::endpoint::Quota;
use enforcer_common::id::{IncarnationId, QuotaPlace};
use enforcer_common::limits::map;

use crate::kernel::error::{KernelError, on_map};
use crate::kernel::pins::FlowMaps;
use crate::kernel::tables::mmap::Mapped;

const FLOWS: usize = offset_of!(Quota, flows);
const LIMIT: usize = offset_of!(Quota, limit);
const ID: usize = offset_of!(Quota, id);

/// The places.
#[derive(Debug)]
pub(crate) struct Quotas {
    array: Mapped,
    limit: u32,
}

/// How full the flow table is.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct FlowFill {
    /// Flows in the table.
    pub flows: u64,
    /// Places of workloads in use, those included that wait for their last flow.
    pub workloads: usize,
}

impl Quotas {
    /// Maps the places.
    pub(crate) fn open(maps: &FlowMaps, limit: u32, writable: bool) -> Result<Self, KernelError> {
        let array = Mapped::new(&maps.quotas, writable).map_err(on_map(map::QUOTAS, "mmap"))?;
        Ok(Self { array, limit })
    }

    /// Gives up the places of incarnations that are not among `living`, which a start that was cut short has left, and
    /// sets the limit that counts now.
    pub(crate) fn keep(&self, living: &BTreeSet<IncarnationId>) {
        for place in 0..self.array.entries() {
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

    /// How many places there are.
    pub(crate) fn room(&self) -> usize {
        self.array.entries() as usize
    }

    /// Places that no incarnation has and no flow counts for.
    pub(crate) fn free(&self) -> Vec<QuotaPlace> {
        let free = |place: &u32| self.array.read32(*place, ID) == 0 && self.array.read32(*place, FLOWS) == 0;
        (0..self.array.entries()).filter(free).map(QuotaPlace).collect()
    }

    /// Gives a free place to a new incarnation.
    pub(crate) fn give(&self, QuotaPlace(place): QuotaPlace, id: IncarnationId) {
        self.array.write32(place, LIMIT, self.limit);
        self.array.write32(place, ID, id.0);
    }

    /// The place of an incarnation that was taken over.
    pub(crate) fn place_of(&self, id: IncarnationId) -> Option<QuotaPlace> {
        (0..self.array.entries()).find(|place| self.array.read32(*place, ID) == id.0).map(QuotaPlace)
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

    /// How full it is.
    pub(crate) fn fill(&self) -> FlowFill {
        let mut fill = FlowFill::default();
        for place in 0..self.array.entries() {
            let flows = self.array.read32(place, FLOWS);
            fill.flows += u64::from(flows);
            fill.workloads += usize::from(flows != 0 || self.array.read32(place, ID) != 0);
        }
        fill
    }
}
