//! Reads what the kernel counts, for a thread of its own.
//!
//! Input: maps that are open already. Output: numbers of this moment. It only reads. It needs neither the daemon's loop nor a
//! lock, so a reader never holds up a plan. A reading costs the same whatever containers do: a look-up for each direction and
//! reason, and a word for each place of the mapped tables.

use std::sync::Arc;

use enforcer_common::id::Revision;
use enforcer_common::limits::map;

use crate::kernel::denials::{Totals, read_totals};
use crate::kernel::error::KernelError;
use crate::kernel::pins::Maps;
use crate::kernel::sys::Map;
use crate::kernel::tables::{FlowFill, Globals, Quotas};

/// A reader.
#[derive(Debug)]
pub struct Counters {
    denied: Arc<Map>,
    flows: Arc<Map>,
    quotas: Arc<Quotas>,
    globals: Globals,
}

/// How full a table is.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct TableFill {
    /// Name of its map.
    pub map: &'static str,
    /// Entries in use.
    pub entries: u64,
    /// Entries that it has room for.
    pub capacity: u64,
}

impl Counters {
    pub(crate) fn open(maps: &Maps, quotas: Arc<Quotas>) -> Result<Self, KernelError> {
        let globals = Globals::open(&maps.flows, false)?;
        Ok(Self { denied: Arc::clone(&maps.denials.denied), flows: Arc::clone(&maps.flows.flows), quotas, globals })
    }

    /// The revision in force.
    pub fn revision(&self) -> Revision {
        self.globals.word().revision
    }

    /// Denied packets.
    pub fn denied(&self) -> Result<Totals, KernelError> {
        read_totals(&self.denied)
    }

    /// The tables that fill with workloads and connections. The first is the flow table.
    pub fn tables(&self) -> [TableFill; 3] {
        let FlowFill { flows, half_open, workloads, .. } = self.quotas.fill();
        let fill = |map, entries, capacity: usize| TableFill { map, entries, capacity: capacity as u64 };
        [
            fill(map::FLOWS, flows, self.flows.attributes().entries as usize),
            fill(map::HALF_OPEN, half_open, self.quotas.half_open_room()),
            fill(map::QUOTAS, workloads as u64, self.quotas.room()),
        ]
    }
}
