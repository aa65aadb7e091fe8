use super::*;
use crate::id::{Direction, PolicyWord};
use crate::packet::Packet;
use crate::verdict::Reason;
use core::cell::{Cell, RefCell};
use proptest::prelude::*;

/// A ring buffer that has room when told so, and keeps what went out.
struct Ring {
    room_for: Cell<[bool; 2]>,
    opened: RefCell<Vec<(u32, Way)>>,
    closed: RefCell<Vec<(u32, Way)>>,
}

impl Ring {
    fn new() -> Self {
        Self { room_for: Cell::new([true; 2]), opened: RefCell::default(), closed: RefCell::default() }
    }

    fn keep(place: u32, way: &Way, room: bool, kept: &RefCell<Vec<(u32, Way)>>) -> bool {
        if room {
            kept.borrow_mut().push((place, *way));
        }
        room
    }
}

impl Events for Ring {
    fn opened(&self, place: u32, way: &Way) -> bool {
        Self::keep(place, way, self.room_for.get()[0], &self.opened)
    }

    fn closed(&self, place: u32, way: &Way) -> bool {
        Self::keep(place, way, self.room_for.get()[1], &self.closed)
    }
}

fn first(port: u16, tick: u32) -> Way {
    Way { tick, source_port: 40_000, key: DenialKey { destination_port: port, ..Way::FREE.key }, ..Way::FREE }
}

#[derive(Debug, Default, PartialEq)]
struct Classes {
    logged: u64,
    suppressed: u64,
    lost: u64,
    busy: u64,
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn whatever_is_denied_is_counted_once(
        start in prop_oneof![Just(1u32), Just(u32::MAX - 5)],
        packets in proptest::collection::vec((0..9u16, 0..3u32, any::<bool>(), any::<bool>()), 0..300),
    ) {
        let (ring, mut set, mut count_of) = (Ring::new(), WaySet([Way::FREE; DENIAL_WAYS]), Classes::default());
        let mut tick = start;
        let denied = packets.len() as u64;
        for (port, later, opened, closed) in packets {
            tick = tick.wrapping_add(u32::from(later == 2));
            ring.room_for.set([opened, closed]);
            let before = set;
            let class = count(&mut set, &first(port, tick), &ring);
            match class {
                Class::Logged => count_of.logged += 1,
                Class::Suppressed => count_of.suppressed += 1,
                Class::Lost => count_of.lost += 1,
                Class::Busy => count_of.busy += 1,
            }
            prop_assert!(class != Class::Busy || set == before, "a busy packet changes no way");
            prop_assert!(set.0.iter().all(|way| way.generation % 2 == 0), "no way is left half written");
        }
        let Classes { logged, suppressed, lost, busy } = count_of;
        prop_assert_eq!(denied, logged + suppressed + lost + busy);
        let total = |way: &Way| u64::from(way.total);
        let open: u64 = set.0.iter().map(total).sum();
        let closed: u64 = ring.closed.borrow().iter().map(|(_, way)| total(way)).sum();
        prop_assert_eq!(open + closed, logged + suppressed, "the ways hold what was not lost");
        prop_assert_eq!(ring.opened.borrow().len() as u64, logged);
        // What user space is told of a way: a generation that only rises, and one last word about each.
        for place in 0..DENIAL_WAYS as u32 {
            let told = |events: &RefCell<Vec<(u32, Way)>>| -> Vec<u32> {
                let events = events.borrow();
                events.iter().filter(|(at, _)| *at == place).map(|(_, way)| way.generation).collect()
            };
            for generations in [told(&ring.opened), told(&ring.closed)] {
                prop_assert!(generations.is_sorted_by(|one, next| one < next), "{:?}", generations);
            }
        }
    }
}

#[test]
fn repeats_add_to_the_first() {
    let (ring, mut set) = (Ring::new(), WaySet([Way::FREE; DENIAL_WAYS]));
    assert_eq!(count(&mut set, &first(80, 1), &ring), Class::Logged);
    let opened = ring.opened.borrow()[0].1;
    assert_eq!((opened.total, opened.generation), (1, 2), "its event shows the way as it will be");
    for tick in 1..=4 {
        let repeat = Way { source_port: 50_000, tcp_flags: 16, ..first(80, tick) };
        assert_eq!(count(&mut set, &repeat, &ring), Class::Suppressed);
    }
    let way = set.0[0];
    assert_eq!((way.total, way.tick, way.source_port, way.tcp_flags), (5, 4, 40_000, 0), "of the first packet");
    assert_eq!(set.0[1..], [Way::FREE; 3]);
}

#[test]
fn a_way_is_reused_in_a_later_tick_after_its_last_word() {
    let (ring, mut set) = (Ring::new(), WaySet([Way::FREE; DENIAL_WAYS]));
    for port in 0..4 {
        assert_eq!(count(&mut set, &first(port, 7), &ring), Class::Logged);
    }
    assert_eq!(count(&mut set, &first(4, 7), &ring), Class::Busy, "in the same tick");
    assert_eq!(count(&mut set, &first(0, 8), &ring), Class::Suppressed);
    assert_eq!(count(&mut set, &first(2, 9), &ring), Class::Suppressed);
    ring.room_for.set([true, false]);
    assert_eq!(count(&mut set, &first(4, 9), &ring), Class::Busy, "no room for the last word: the way stays");
    assert_eq!(set.0[1].key.destination_port, 1);
    ring.room_for.set([true, true]);
    assert_eq!(count(&mut set, &first(4, 9), &ring), Class::Logged);
    let (place, last) = ring.closed.borrow()[0];
    assert_eq!((place, last.key.destination_port, last.total), (1, 1, 1), "the oldest went");
    assert_eq!((set.0[1].key.destination_port, set.0[1].total, set.0[1].generation), (4, 1, 4));
    assert_eq!(count(&mut set, &first(5, 9), &ring), Class::Logged);
    assert_eq!(ring.closed.borrow()[1].1.key.destination_port, 3, "the oldest of those that are left");
    assert_eq!(count(&mut set, &first(6, 9), &ring), Class::Logged);
    assert_eq!(ring.closed.borrow()[2].1.total, 2, "with all that it counted");
}

#[test]
fn a_lost_packet_is_no_part_of_its_ways_total() {
    let (ring, mut set) = (Ring::new(), WaySet([Way::FREE; DENIAL_WAYS]));
    ring.room_for.set([false, true]);
    assert_eq!(count(&mut set, &first(80, 1), &ring), Class::Lost);
    assert_eq!((set.0[0].total, set.0[0].generation), (0, 2));
    assert_eq!(count(&mut set, &first(80, 1), &ring), Class::Suppressed);
    assert_eq!(set.0[0].total, 1);
}

#[test]
fn ticks_and_generations_wrap() {
    let (ring, mut set) = (Ring::new(), WaySet([Way::FREE; DENIAL_WAYS]));
    for (port, tick) in [(0, u32::MAX), (1, u32::MAX - 2), (2, u32::MAX - 1), (3, 0)] {
        assert_eq!(count(&mut set, &first(port, tick), &ring), Class::Logged);
    }
    set.0[1].generation = u32::MAX - 1;
    assert_eq!(count(&mut set, &first(4, 1), &ring), Class::Logged);
    assert_eq!(ring.closed.borrow()[0].0, 1, "the oldest, across the wrap");
    assert_eq!(set.0[1].generation, 2, "0 stands for a free way");
}

#[test]
fn flows_that_differ_in_one_field_are_two() {
    let key = DenialKey {
        workload: IncarnationId(1),
        revision: Revision(2),
        peer: Address([3, 4, 5, 6]),
        destination_port: 7,
        ethertype: 8,
        protocol: 9,
        direction: 1,
        reason: 10,
        pad: 0,
    };
    assert!(key.same(&key));
    for other in [
        DenialKey { workload: IncarnationId(2), ..key },
        DenialKey { revision: Revision(3), ..key },
        DenialKey { peer: Address([0, 4, 5, 6]), ..key },
        DenialKey { peer: Address([3, 0, 5, 6]), ..key },
        DenialKey { peer: Address([3, 4, 0, 6]), ..key },
        DenialKey { peer: Address([3, 4, 5, 0]), ..key },
        DenialKey { destination_port: 8, ..key },
        DenialKey { ethertype: 7, ..key },
        DenialKey { protocol: 10, ..key },
        DenialKey { direction: 0, ..key },
        DenialKey { reason: 9, ..key },
    ] {
        assert!(!key.same(&other) && !other.same(&key), "{other:?}");
    }
}

#[test]
fn sets_are_spread_and_depend_on_the_seed() {
    let sets = |seed| -> Vec<u32> { (0..4096).map(|port| first(port, 0).key.set(seed, 1024)).collect() };
    let mut used = sets(1);
    assert!(used.iter().all(|set| *set < 1024));
    let same = used.iter().zip(sets(2)).filter(|(one, other)| **one == *other).count();
    assert!(same < 40, "{same} of 4096 flows are in the same set under another seed");
    used.sort_unstable();
    used.dedup();
    assert!(used.len() > 950, "{} of 1024 sets are used", used.len());
}

#[test]
fn a_way_says_what_was_denied() {
    let packet = Packet {
        source: Address([1; 4]),
        destination: Address([2; 4]),
        source_port: 40_000,
        destination_port: 80,
        tcp_flags: 2,
        protocol: 6,
        ethertype: 0x0800,
        ..Packet::EMPTY
    };
    let word = PolicyWord { revision: Revision(5), epoch: 6 };
    for (direction, local, peer) in [(Direction::Egress, 1, 2), (Direction::Ingress, 2, 1)] {
        let work = Work { word, direction, workload: IncarnationId(9), packet, ..Work::EMPTY };
        let way = way_of(&work, Reason::NoRule as u8, 77);
        assert_eq!((way.local, way.key.peer), (Address([local; 4]), Address([peer; 4])));
        assert_eq!(
            (way.key.workload, way.key.revision, way.key.reason),
            (IncarnationId(9), Revision(5), Reason::NoRule as u8)
        );
        assert_eq!((way.key.protocol, way.key.destination_port, way.key.ethertype), (6, 80, 0x0800));
        assert_eq!((way.source_port, way.tcp_flags, way.tick), (40_000, 2, 77));
        assert_eq!((way.key.direction, way.total, way.generation), (direction as u8, 0, 0));
    }
    let icmp = Packet { icmp_type: 8, protocol: 1, ..Packet::EMPTY };
    let way = way_of(&Work { packet: icmp, ..Work::EMPTY }, 1, 0);
    assert_eq!(way.key.destination_port, 8, "the type stands for the port");
}
