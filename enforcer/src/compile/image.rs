//! The compiled form of one set of policies, in ordinary memory.

use std::collections::BTreeMap;

use enforcer_common::id::{Address, Direction, PeerClass, Row};
use enforcer_common::image::{self, AddressEntry, Header, Line};

use super::budget::Sizes;
use crate::workload::model::WorkloadKey;

/// The tables of one policy set. The kernel gets them, and user space can read them with the same decision.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Image {
    /// The lines, as `enforcer_common::image` lays them out.
    pub lines: Vec<Line>,
    /// The exact addresses. Sorted by address.
    pub addresses: Vec<(Address, AddressEntry)>,
    /// Rows of each named local workload, by [`Direction`]. A workload without a name has no rows, because policy
    /// does not decide about it.
    pub rows: BTreeMap<WorkloadKey, [Row; 2]>,
    /// What the lines hold.
    pub sizes: Sizes,
}

impl Image {
    /// The header.
    pub fn header(&self) -> Option<Header> {
        self.lines.first().and_then(Header::from_line)
    }

    /// The ranges of a family: first address and class, in order.
    pub(super) fn ranges(&self, v4: bool) -> Vec<(u128, PeerClass)> {
        let table = Header::RANGES_AT + u32::from(!v4);
        let (count, starts, classes) = (self.word(table, 4), self.word(table, 6), self.word(table, 7));
        (0..count)
            .map(|range| {
                let part = |of: u32, n: u32| u64::from(self.word(starts, range * of + n));
                let whole = |at: u32| {
                    let [low, high] = if cfg!(target_endian = "little") { [at, at + 1] } else { [at + 1, at] };
                    part(4, high) << 32 | part(4, low)
                };
                let start = if v4 { u128::from(part(1, 0)) } else { u128::from(whole(0)) << 64 | u128::from(whole(2)) };
                (start, PeerClass(self.word(classes, range)))
            })
            .collect()
    }

    /// Word `n` of a section.
    fn word(&self, section: u32, n: u32) -> u32 {
        self.lines.get((section + n / 16) as usize).map_or(0, |line| line.word(n as usize % 16))
    }

    /// The row of a workload in a direction.
    pub fn row(&self, workload: WorkloadKey, direction: Direction) -> Row {
        self.rows.get(&workload).map_or(Row::NONE, |rows| rows[direction as usize])
    }
}

impl image::ReadImage for Image {
    fn line(&self, index: u32) -> Option<&Line> {
        self.lines.get(index as usize)
    }

    fn address(&self, address: &Address) -> Option<AddressEntry> {
        let place = self.addresses.binary_search_by_key(address, |(known, _)| *known).ok()?;
        self.addresses.get(place).map(|(_, entry)| *entry)
    }
}
