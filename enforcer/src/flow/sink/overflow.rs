//! Merges the records that the queue has no room for. Every packet is still counted, in bounded memory.
//!
//! Input: entries that the queue refused. Output: one record for each workload, direction and reason, without a flow. The kernel
//! does the same if it cannot keep flows apart.

use std::collections::BTreeMap;
use std::collections::btree_map::Entry as Place;

use enforcer_common::id::{Direction, IncarnationId};
use enforcer_common::verdict::Reason;
use jiff::Timestamp;

use super::Entry;
use crate::flow::record::{FlowRecord, Party, RecordedDecision};

/// Workloads, directions and reasons that are kept apart; the kernel keeps as many. The rest is counted by direction and
/// reason alone.
const APART: usize = 8192;

#[derive(Debug, Default)]
pub(super) struct Overflow {
    records: BTreeMap<(IncarnationId, Direction, Reason), FlowRecord>,
    lost_in_ring: Option<(Timestamp, u64)>,
}

impl Overflow {
    pub(super) fn add(&mut self, entry: Entry) {
        match entry {
            Entry::Record(record) => self.add_record(record),
            Entry::LostInRing { time, packets } => {
                let before = self.lost_in_ring.map_or(0, |(_, packets)| packets);
                self.lost_in_ring = Some((time, before + packets));
            }
        }
    }

    fn add_record(&mut self, record: FlowRecord) {
        let mut record = without_flow(record);
        let known = self.records.contains_key(&(record.workload, record.direction, record.reason));
        if !known && self.records.len() >= APART {
            record = without_workload(record);
        }
        match self.records.entry((record.workload, record.direction, record.reason)) {
            Place::Occupied(mut place) => {
                record.count += place.get().count;
                place.insert(record);
            }
            Place::Vacant(place) => {
                place.insert(record);
            }
        }
    }

    /// Everything, which is forgotten here.
    pub(super) fn take(&mut self) -> impl Iterator<Item = Entry> + use<> {
        let Self { records, lost_in_ring } = std::mem::take(self);
        let lost = lost_in_ring.map(|(time, packets)| Entry::LostInRing { time, packets });
        records.into_values().map(Entry::Record).chain(lost)
    }
}

fn without_flow(record: FlowRecord) -> FlowRecord {
    let (source, destination) = match record.direction {
        Direction::Egress => (record.source, None),
        Direction::Ingress => (None, record.destination),
    };
    FlowRecord { packet: None, is_reply: false, source, destination, decision: RecordedDecision::NotPolicy, ..record }
}

fn without_workload(record: FlowRecord) -> FlowRecord {
    let unknown = |party: Option<Party>| party.map(|_| Party::Unknown);
    FlowRecord {
        workload: IncarnationId::NONE,
        interface: None,
        source: unknown(record.source),
        destination: unknown(record.destination),
        ..record
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::record;
    use super::*;
    use crate::flow::fixture::WEB;

    fn records(overflow: &mut Overflow) -> Vec<FlowRecord> {
        let records = overflow.take().filter_map(|entry| match entry {
            Entry::Record(record) => Some(record),
            Entry::LostInRing { .. } => None,
        });
        records.collect()
    }

    #[test]
    fn flows_of_a_workload_become_one_record_for_each_direction_and_reason() {
        let mut overflow = Overflow::default();
        let denied = record(3);
        let side = denied.source.clone();
        for count in 1..=100 {
            overflow.add(Entry::Record(FlowRecord { count, ..denied.clone() }));
            overflow.add(Entry::Record(FlowRecord { count, reason: Reason::RuleDeny, ..denied.clone() }));
        }
        let told = records(&mut overflow);
        assert_eq!(
            told.iter().map(|record| (record.reason, record.count)).collect::<Vec<_>>(),
            [(Reason::NoRule, 5050), (Reason::RuleDeny, 5050)]
        );
        for record in told {
            assert_eq!((record.workload, record.direction), (WEB, Direction::Egress));
            assert_eq!((record.packet, record.source, record.destination), (None, side.clone(), None));
            assert_eq!(
                record.decision,
                RecordedDecision::NotPolicy,
                "the policies of one flow say nothing about another"
            );
        }
        assert_eq!(records(&mut overflow), [], "nothing is told twice");
    }

    #[test]
    fn more_workloads_than_there_is_room_for_are_counted_without_names() {
        let mut overflow = Overflow::default();
        let many = APART as u32 + 1000;
        for round in 1..=2 {
            for workload in 1..=many {
                overflow.add(Entry::Record(FlowRecord { workload: IncarnationId(workload), ..record(round) }));
            }
        }
        let told = records(&mut overflow);
        assert_eq!(told.iter().map(|record| record.count).sum::<u64>(), u64::from(many) * 3);
        assert_eq!(told.len(), APART + 1);
        let nameless: Vec<_> = told.iter().filter(|record| record.workload == IncarnationId::NONE).collect();
        assert_eq!(nameless.iter().map(|record| record.count).collect::<Vec<_>>(), [3000]);
        assert_eq!((&nameless[0].source, &nameless[0].interface), (&Some(Party::Unknown), &None));
    }

    #[test]
    fn losses_of_the_ring_add_up() {
        let mut overflow = Overflow::default();
        for packets in [5, 7] {
            overflow.add(Entry::LostInRing { time: Timestamp::UNIX_EPOCH, packets });
        }
        assert_eq!(overflow.take().map(|entry| entry.packets()).collect::<Vec<_>>(), [12]);
        assert_eq!(overflow.take().count(), 0);
    }
}
