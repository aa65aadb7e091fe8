//! The compiled form of one set of policies, in ordinary memory.

use std::collections::BTreeMap;

use enforcer_common::id::{Address, Direction, Row};
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
