//! Reads denied packets back from the kernel (docs/architecture.md, "How denials are counted").
//!
//! Input: the ring of events, the slices of ways, and the counters. Output: for each denied flow, the number of packets that
//! were not reported yet. Nothing in the kernel is reset. A pinned map of the daemon holds what was reported of each way, and
//! it is stored when a reading is handed over. A daemon that is killed before its log is written loses those counts, and a
//! restarted daemon reports nothing twice.

mod slice;
mod tracker;

use std::collections::{BTreeMap, BTreeSet};
use std::mem::offset_of;
use std::sync::Arc;
use std::time::{Duration, Instant};

use aya::maps::{MapData, RingBuf};
use enforcer_common::denial::{BusyKey, Counts, Denial, Way};
use enforcer_common::event::DenialEvent;
use enforcer_common::id::{Direction, IncarnationId};
use enforcer_common::limits::{BUSY, EVENTS, map};
use enforcer_common::schema;
use enforcer_common::verdict::{REASON_COUNT, REASONS, Reason};

use crate::kernel::error::{KernelError, on_map};
use crate::kernel::pins::Maps;
use crate::kernel::pins::layout::Layout;
use crate::kernel::sys::Map;
use crate::kernel::tables::Globals;
use crate::kernel::tables::Mapped;

use slice::{place, read_way, ways};
use tracker::{Mark, Marks, Tracker};

/// How often the slices are read.
const PERIOD: Duration = Duration::from_secs(1);
/// Records of one poll: a flood must not keep its caller for long.
const RECORDS: u32 = 4096;
/// Records of one drain of the last look, twice what the ring holds: a flood must not keep it for ever.
const LAST_RECORDS: u32 = 2 * EVENTS / (size_of::<DenialEvent>() as u32 + 8);

/// What one reading found.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct NewDenials {
    /// Denied packets that were not reported before.
    pub denials: Vec<Denial>,
    /// Packets of which no record can be made any more, because their event was lost.
    pub lost: u64,
    /// The ring holds more, so the next reading should come soon.
    pub more: bool,
}

/// Counts by direction and reason, those of reasons without a packet left out.
pub type Totals = BTreeMap<(Direction, Reason), Counts>;

/// Reads denied packets.
pub struct Denials {
    ring: RingBuf<MapData>,
    slices: Mapped,
    tracker: Tracker<Pinned>,
    busy: Arc<Map>,
    reported_busy: Arc<Map>,
    denied: Arc<Map>,
    globals: Globals,
    next_pass: Instant,
    calm: Calm,
}

/// Looks at the slices that follow each other with nothing denied in between. A packet is counted in `DENIED` and in its way at
/// about the same time, and a way may count only when it is seen twice, so two such looks see everything.
#[derive(Debug, Default)]
struct Calm {
    totals: Option<Totals>,
    looks: u32,
}

impl Calm {
    const ENOUGH: u32 = 2;

    /// Whether a look could see something that the looks before it have not, now that the totals are these.
    fn is_over(&mut self, totals: Totals) -> bool {
        if self.totals.as_ref() != Some(&totals) {
            *self = Self { totals: Some(totals), looks: 0 };
        }
        self.looks < Self::ENOUGH
    }

    fn looked(&mut self) {
        self.looks += 1;
    }
}

/// Marks in the pinned array.
#[derive(Debug)]
struct Pinned(Mapped);

impl Marks for Pinned {
    fn count(&self) -> u32 {
        self.0.entries()
    }

    fn get(&self, way: u32) -> Mark {
        Mark::from_u64(self.0.read64(way, 0))
    }

    fn set(&mut self, way: u32, mark: Mark) {
        self.0.write64(way, 0, mark.to_u64());
    }
}

impl Denials {
    pub(crate) fn open(layout: &Layout, maps: &Maps) -> Result<Self, KernelError> {
        let failed = |source| KernelError::Map { name: map::EVENTS, source: Box::new(source) };
        let events = MapData::from_pin(layout.map(&schema::EVENTS)).map_err(failed)?;
        let ring = RingBuf::try_from(aya::maps::Map::RingBuf(events)).map_err(failed)?;
        let slices = Mapped::new(&maps.denials.denials, false).map_err(on_map(map::DENIALS, "mmap"))?;
        let marks = Mapped::new(&maps.denials.reported, true).map_err(on_map(map::REPORTED, "mmap"))?;
        let mut tracker = Tracker::new(Pinned(marks));
        for way in 0..ways(&slices) {
            if let Some(found) = read_way(&slices, way) {
                tracker.adopt(way, &found);
            }
        }
        Ok(Self {
            ring,
            slices,
            tracker,
            busy: Arc::clone(&maps.denials.busy),
            reported_busy: Arc::clone(&maps.denials.reported_busy),
            denied: Arc::clone(&maps.denials.denied),
            globals: Globals::open(&maps.flows, true)?,
            next_pass: Instant::now(),
            calm: Calm::default(),
        })
    }

    /// Drains a part of the ring. Once a second, when the ring is empty, it also reads the slices, unless nothing was denied
    /// since. Whatever it returns counts as reported, even if it also returns an error.
    pub fn poll(&mut self) -> (NewDenials, Option<KernelError>) {
        let mut reading = NewDenials::default();
        let mut failure = None;
        reading.more = !self.drain(&mut reading, RECORDS);
        let now = Instant::now();
        // Events that still wait may be about the ways that a pass would see: they must come first.
        if !reading.more && now >= self.next_pass {
            self.next_pass = now + PERIOD;
            failure = self.look(&mut reading).err();
        }
        (reading, failure)
    }

    /// Returns everything up to now, which is exact if no more packets come. Whatever it returns counts as reported,
    /// as with [`Self::poll`].
    pub fn flush(&mut self) -> (NewDenials, Option<KernelError>) {
        let mut reading = NewDenials::default();
        let mut failure = None;
        // A way whose first event was lost is believed when it is seen the second time.
        for _ in 0..2 {
            reading.more = !self.drain(&mut reading, LAST_RECORDS);
            if !reading.more {
                failure = self.pass(&mut reading).err().or(failure);
            }
        }
        failure = self.totals().map(|totals| self.tell_lost(&totals, &mut reading)).err().or(failure);
        (reading, failure)
    }

    /// Counts of all CPUs together.
    pub fn totals(&self) -> Result<Totals, KernelError> {
        read_totals(&self.denied)
    }

    /// Notes the lost packets that neither this daemon nor an earlier one has reported.
    fn tell_lost(&self, totals: &Totals, reading: &mut NewDenials) {
        reading.lost += self.globals.tell_lost(totals.values().map(|counts| counts.lost).sum());
    }

    /// Removes the counters of workloads that are gone, except those that count packets which were not reported yet.
    pub fn forget(&mut self, living: &BTreeSet<IncarnationId>) -> Result<(), KernelError> {
        for key in self.busy_keys()? {
            let known =
                from_key(&key).is_some_and(|key| key.workload == IncarnationId::NONE || living.contains(&key.workload));
            if !known && self.unreported(&key)?.is_none_or(|(_, packets)| packets == 0) {
                self.busy.delete(&key).map_err(on_map(map::BUSY, "delete"))?;
                self.reported_busy.delete(&key).map_err(on_map(map::REPORTED_BUSY, "delete"))?;
            }
        }
        Ok(())
    }

    /// True: nothing is left in the ring.
    fn drain(&mut self, reading: &mut NewDenials, most: u32) -> bool {
        for _ in 0..most {
            let Some(record) = self.ring.next() else { return true };
            let Some(event) = DenialEvent::from_bytes(&record) else {
                tracing::error!(
                    bytes = record.len(),
                    "skipped a record of the ring with an unknown layout (written by another version?)"
                );
                continue;
            };
            reading.denials.extend(self.tracker.event(&event));
        }
        false
    }

    fn look(&mut self, reading: &mut NewDenials) -> Result<(), KernelError> {
        let totals = self.totals()?;
        self.tell_lost(&totals, reading);
        if self.calm.is_over(totals) {
            self.pass(reading)?;
            self.calm.looked();
        }
        Ok(())
    }

    fn pass(&mut self, reading: &mut NewDenials) -> Result<(), KernelError> {
        for way in 0..ways(&self.slices) {
            let (index, at) = place(way);
            let generation = self.slices.read32(index, at + offset_of!(Way, generation));
            let total = self.slices.read32(index, at + offset_of!(Way, total));
            if self.tracker.is_news(way, generation, total)
                && let Some(found) = read_way(&self.slices, way)
            {
                reading.denials.extend(self.tracker.seen(way, &found));
            }
        }
        self.busy_pass(reading)
    }

    fn busy_pass(&mut self, reading: &mut NewDenials) -> Result<(), KernelError> {
        for key in self.busy_keys()? {
            let Some((now, packets)) = self.unreported(&key)? else {
                continue;
            };
            let busy = from_key(&key).and_then(|key| busy(key, packets));
            if let Some(busy) = busy.filter(|_| packets != 0) {
                self.reported_busy.update(&key, &now.to_ne_bytes()).map_err(on_map(map::REPORTED_BUSY, "update"))?;
                reading.denials.push(busy);
            }
        }
        Ok(())
    }

    /// Packets of a counter, and how many of them were not reported yet. `None`: there is no such counter.
    fn unreported(&self, key: &[u8]) -> Result<Option<(u64, u64)>, KernelError> {
        let Some(now) = sum_per_cpu(&self.busy, key, map::BUSY)? else {
            return Ok(None);
        };
        let mut reported = [0; 8];
        let before = self.reported_busy.lookup(key, &mut reported);
        before.map_err(on_map(map::REPORTED_BUSY, "lookup"))?;
        Ok(Some((now, now.saturating_sub(u64::from_ne_bytes(reported)))))
    }

    fn busy_keys(&self) -> Result<Vec<Vec<u8>>, KernelError> {
        let mut keys: Vec<Vec<u8>> = Vec::new();
        // Bounded: the walk may begin anew where an element goes meanwhile.
        while keys.len() < BUSY as usize {
            let next = self.busy.next_key(keys.last().map(Vec::as_slice));
            let Some(key) = next.map_err(on_map(map::BUSY, "next key"))? else {
                break;
            };
            keys.push(key);
        }
        keys.sort();
        keys.dedup();
        Ok(keys)
    }
}

/// Counts by direction and reason.
pub(crate) fn read_totals(denied: &Map) -> Result<Totals, KernelError> {
    let mut totals = Totals::new();
    for direction in [Direction::Ingress, Direction::Egress] {
        for (reason, ..) in REASONS {
            let index = direction as u32 * REASON_COUNT as u32 + reason as u32;
            let mut bytes = per_cpu_buffer(denied)?;
            let found = denied.lookup(&index.to_ne_bytes(), &mut bytes);
            found.map_err(on_map(map::DENIED, "lookup"))?;
            let mut counts = Counts::default();
            for cpu in bytes.as_chunks::<24>().0 {
                let [logged, suppressed, lost] = [0, 8, 16].map(|at| double_word(cpu, at));
                counts.logged += logged;
                counts.suppressed += suppressed;
                counts.lost += lost;
            }
            if counts != Counts::default() {
                totals.insert((direction, reason), counts);
            }
        }
    }
    Ok(totals)
}

fn sum_per_cpu(map: &Map, key: &[u8], name: &'static str) -> Result<Option<u64>, KernelError> {
    let mut bytes = per_cpu_buffer(map)?;
    let found = map.lookup(key, &mut bytes).map_err(on_map(name, "lookup"))?;
    Ok(found.map(|()| bytes.as_chunks::<8>().0.iter().map(|cpu| u64::from_ne_bytes(*cpu)).sum()))
}

fn per_cpu_buffer(map: &Map) -> Result<Vec<u8>, KernelError> {
    let size = (map.attributes().value_size as usize).next_multiple_of(8);
    Ok(vec![0; size * crate::kernel::pins::possible_cpus()? as usize])
}

fn double_word(bytes: &[u8; 24], at: usize) -> u64 {
    let part = bytes[at..].first_chunk().copied();
    u64::from_ne_bytes(part.unwrap_or_default())
}

fn from_key(key: &[u8]) -> Option<BusyKey> {
    let [a, b, c, d, direction, reason, ..] = *key.first_chunk::<8>()?;
    Some(BusyKey { workload: IncarnationId(u32::from_ne_bytes([a, b, c, d])), direction, reason, pad: 0 })
}

fn busy(key: BusyKey, count: u64) -> Option<Denial> {
    Some(Denial::Busy {
        workload: key.workload,
        direction: Direction::from_u8(key.direction)?,
        reason: Reason::from_u8(key.reason)?,
        count,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn totals(logged: u64) -> Totals {
        let counts = Counts { logged, ..Counts::default() };
        Totals::from([((Direction::Ingress, Reason::NoRule), counts)])
    }

    #[test]
    fn after_the_last_denied_packet_the_slices_are_looked_at_twice_and_then_left() {
        let mut calm = Calm::default();
        let mut look = |logged| {
            let looks = calm.is_over(totals(logged));
            if looks {
                calm.looked();
            }
            looks
        };
        assert_eq!([look(0), look(0), look(0), look(0)], [true, true, false, false], "at the start");
        assert_eq!([look(1), look(1), look(1)], [true, true, false]);
        assert_eq!([look(2), look(3), look(3), look(3)], [true, true, true, false]);
        let mut calm = Calm::default();
        assert!((0..9).all(|_| calm.is_over(totals(0))), "a look that failed is none");
    }
}
