//! Keeps what was reported of each way, and computes what is new. Pure over its marks.
//!
//! The ring carries the first packet of a way, and its final total before the way is reused. The slices show the totals in
//! between. A slice may be ahead of the ring, so a new generation in a slice counts only when it is seen twice: by then the
//! event about the old generation was read. So each packet is reported once, whatever is lost in the ring.

use enforcer_common::denial::{Denial, Way};
use enforcer_common::event::DenialEvent;

use crate::kernel::denials::slice::way_number;

/// What was reported of a way.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub(super) struct Mark {
    pub(super) generation: u32,
    pub(super) total: u32,
}

impl Mark {
    pub(super) fn from_u64(word: u64) -> Self {
        Self { generation: (word >> 32) as u32, total: word as u32 }
    }

    pub(super) fn to_u64(self) -> u64 {
        u64::from(self.generation) << 32 | u64::from(self.total)
    }
}

/// Where the marks are kept.
pub(super) trait Marks {
    fn count(&self) -> u32;
    fn get(&self, way: u32) -> Mark;
    fn set(&mut self, way: u32, mark: Mark);
}

/// The marks, and the generations of the last look at the slices.
#[derive(Debug)]
pub(super) struct Tracker<M> {
    marks: M,
    last_look: Vec<u32>,
}

impl<M: Marks> Tracker<M> {
    pub(super) fn new(marks: M) -> Self {
        let last_look = vec![0; marks.count() as usize];
        Self { marks, last_look }
    }

    /// A way as it is found at the start. Marks of a later generation belong to slices that are gone.
    pub(super) fn adopt(&mut self, way: u32, found: &Way) {
        if way < self.marks.count() && is_ahead(self.marks.get(way).generation, found.generation) {
            self.marks.set(way, Mark::default());
        }
    }

    /// What an event adds.
    pub(super) fn event(&mut self, event: &DenialEvent) -> Option<Denial> {
        let way = way_number(event).filter(|way| *way < self.marks.count())?;
        let generation = event.way.generation;
        let mark = self.marks.get(way);
        if generation != mark.generation && !is_ahead(generation, mark.generation) {
            return None;
        }
        self.report(way, mark, &event.way)
    }

    /// Whether a look at a way would tell something, by its first words alone.
    pub(super) fn is_news(&self, way: u32, generation: u32, total: u32) -> bool {
        if way >= self.marks.count() {
            return false;
        }
        let mark = self.marks.get(way);
        generation != mark.generation || total != mark.total
    }

    /// What a look at a way adds.
    pub(super) fn seen(&mut self, way: u32, found: &Way) -> Option<Denial> {
        let mark = self.marks.get(way);
        let before = std::mem::replace(&mut self.last_look[way as usize], found.generation);
        let believed = found.generation == mark.generation
            || is_ahead(found.generation, mark.generation) && before == found.generation;
        believed.then(|| self.report(way, mark, found)).flatten()
    }

    fn report(&mut self, way: u32, mark: Mark, found: &Way) -> Option<Denial> {
        let reported = if found.generation == mark.generation { mark.total } else { 0 };
        let count = found.total.wrapping_sub(reported);
        // An older look at the same way.
        if count.cast_signed() <= 0 {
            return None;
        }
        let mark = Mark { generation: found.generation, total: found.total };
        self.marks.set(way, mark);
        Some(Denial::Flow { way: *found, count: count.into() })
    }
}

/// Whether a generation comes after another; they wrap.
fn is_ahead(generation: u32, other: u32) -> bool {
    other == 0 || generation.wrapping_sub(other).cast_signed() > 0
}

#[cfg(test)]
mod tests {
    use std::cell::RefCell;
    use std::collections::{BTreeMap, VecDeque};

    use enforcer_common::denial::{Class, DenialKey, Events, WaySet, count};
    use enforcer_common::id::IncarnationId;
    use proptest::prelude::*;

    use super::*;

    struct Memory(Vec<Mark>);

    impl Marks for Memory {
        fn count(&self) -> u32 {
            self.0.len() as u32
        }

        fn get(&self, way: u32) -> Mark {
            self.0[way as usize]
        }

        fn set(&mut self, way: u32, mark: Mark) {
            self.0[way as usize] = mark;
        }
    }

    /// A ring of a few records.
    struct Ring {
        records: RefCell<VecDeque<DenialEvent>>,
        room: usize,
    }

    impl Ring {
        fn send(&self, kind: u16, place: u32, way: &Way) -> bool {
            let mut records = self.records.borrow_mut();
            if records.len() >= self.room {
                return false;
            }
            records.push_back(DenialEvent { version: DenialEvent::VERSION, kind, cpu: 0, set: 0, place, way: *way });
            true
        }
    }

    impl Events for Ring {
        fn opened(&self, place: u32, way: &Way) -> bool {
            self.send(DenialEvent::OPENED, place, way)
        }

        fn closed(&self, place: u32, way: &Way) -> bool {
            self.send(DenialEvent::CLOSED, place, way)
        }
    }

    #[derive(Clone, Debug)]
    enum Step {
        /// Packets of a flow.
        Packets(u16, u8),
        Tick,
        Drain(usize),
        /// Packets of a flow come between the drain and the look.
        Look(u16, u8, bool),
        Restart,
    }

    fn a_step() -> impl Strategy<Value = Step> {
        prop_oneof![
            6 => (0_u16..8, 1_u8..5).prop_map(|(flow, packets)| Step::Packets(flow, packets)),
            2 => Just(Step::Tick),
            2 => (1_usize..6).prop_map(Step::Drain),
            2 => (0_u16..8, 0_u8..3, any::<bool>()).prop_map(|(flow, packets, tick)| Step::Look(flow, packets, tick)),
            1 => Just(Step::Restart),
        ]
    }

    struct Rig {
        set: WaySet,
        tick: u32,
        denied: BTreeMap<u16, u64>,
        ring: Ring,
        tracker: Tracker<Memory>,
        reported: BTreeMap<u16, u64>,
    }

    impl Rig {
        fn take(&mut self, denial: Option<Denial>) {
            if let Some(Denial::Flow { way, count }) = denial {
                *self.reported.entry(way.key.destination_port).or_default() += count;
            }
        }

        fn packets(&mut self, flow: u16, packets: u8) {
            for _ in 0..packets {
                let mut first = Way { tick: self.tick, ..Way::FREE };
                first.key = DenialKey { workload: IncarnationId(1), destination_port: flow, ..Way::FREE.key };
                match count(&mut self.set, &first, &self.ring) {
                    Class::Logged | Class::Suppressed => *self.denied.entry(flow).or_default() += 1,
                    Class::Lost | Class::Busy => {}
                }
            }
        }

        fn drain(&mut self, most: usize) -> bool {
            for _ in 0..most {
                let Some(event) = self.ring.records.borrow_mut().pop_front() else {
                    return true;
                };
                let denial = self.tracker.event(&event);
                self.take(denial);
            }
            self.ring.records.borrow().is_empty()
        }

        fn look(&mut self) {
            for way in 0..4 {
                let found = self.set.0[way as usize];
                if found.generation != 0 && self.tracker.is_news(way, found.generation, found.total) {
                    let denial = self.tracker.seen(way, &found);
                    self.take(denial);
                }
            }
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(500))]
        #[test]
        fn each_packet_that_was_not_lost_is_reported_once(
            steps in proptest::collection::vec(a_step(), 1..120),
            room in 1_usize..6,
        ) {
            let mut rig = Rig {
                set: WaySet([Way::FREE; 4]),
                tick: 1,
                denied: BTreeMap::new(),
                ring: Ring { records: RefCell::default(), room },
                tracker: Tracker::new(Memory(vec![Mark::default(); 4])),
                reported: BTreeMap::new(),
            };
            for step in steps {
                match step {
                    Step::Packets(flow, packets) => rig.packets(flow, packets),
                    Step::Tick => rig.tick += 1,
                    Step::Drain(most) => { rig.drain(most); }
                    Step::Look(flow, packets, tick) => {
                        rig.drain(usize::MAX);
                        rig.tick += u32::from(tick);
                        rig.packets(flow, packets);
                        rig.look();
                    }
                    Step::Restart => {
                        let marks = std::mem::replace(&mut rig.tracker, Tracker::new(Memory(Vec::new()))).marks;
                        rig.tracker = Tracker::new(marks);
                        for way in 0..4 {
                            rig.tracker.adopt(way, &rig.set.0[way as usize]);
                        }
                    }
                }
            }
            for _ in 0..2 {
                rig.drain(usize::MAX);
                rig.look();
            }
            prop_assert_eq!(rig.reported, rig.denied);
        }
    }

    #[test]
    fn packets_that_an_event_told_of_are_not_told_of_again() {
        let mut tracker = Tracker::new(Memory(vec![Mark::default(); 4]));
        let mut way = Way { generation: 2, total: 1, ..Way::FREE };
        let event = |way: &Way, kind| DenialEvent { version: 1, kind, cpu: 0, set: 0, place: 0, way: *way };
        let first = tracker.event(&event(&way, DenialEvent::OPENED));
        assert_eq!(first, Some(Denial::Flow { way, count: 1 }));
        way.total = 5;
        assert_eq!(tracker.seen(0, &way), Some(Denial::Flow { way, count: 4 }));
        assert_eq!(tracker.event(&event(&way, DenialEvent::CLOSED)), None);
    }

    #[test]
    fn an_event_about_a_way_that_does_not_exist_is_left_aside() {
        let mut tracker = Tracker::new(Memory(vec![Mark::default(); 4]));
        let way = Way { generation: 2, total: 1, ..Way::FREE };
        for (cpu, set, place) in [(1, 0, 0), (0, 1, 0), (0, 0, 4), (u32::MAX, 0, 0)] {
            let event = DenialEvent { version: 1, kind: DenialEvent::OPENED, cpu, set, place, way };
            assert_eq!(tracker.event(&event), None, "{cpu} {set} {place}");
        }
    }
}
