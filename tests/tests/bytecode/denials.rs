//! Tests that every denied packet is counted exactly, whatever overflows.

use std::collections::HashMap;

use enforcer_common::{
    denial::Counts,
    event::DenialEvent,
    id::{Direction, Revision},
    verdict::{Reason, Verdict},
};
use enforcer_tests::{
    bytecode::scene::{LO, Scene, WORKLOAD, ip, who},
    packet::{Frame, Transport},
};

use crate::Both;

fn syn(port: u16) -> Vec<u8> {
    Frame::new(ip(who::WORKLOAD[0]), ip(who::STRANGER[0]), Transport::syn(40_000, port)).bytes()
}

#[test]
fn a_repeated_flow_is_one_event_and_a_count() {
    let Some(mut both) = Both::new(&Scene::default()) else {
        return;
    };
    let (_, _) = both.node.run(Direction::Egress, LO, &syn(23), 1000).unwrap();
    let counts = both.node.counts(Direction::Egress, Reason::NoRule).unwrap();
    // A long run may change the CPU, whose slice then sees the flow for the first time.
    assert_eq!(counts.logged + counts.suppressed, 1000);
    assert_eq!(counts.lost, 0);
    let events = both.node.events().unwrap();
    assert_eq!(events.len() as u64, counts.logged);
    let event = events[0];
    assert_eq!(event.kind, DenialEvent::OPENED);
    let key = event.way.key;
    assert_eq!((key.workload, key.revision), (WORKLOAD, Revision(2)));
    assert_eq!((key.direction, key.reason), (Direction::Egress as u8, Reason::NoRule as u8));
    assert_eq!((key.protocol, key.destination_port, key.ethertype), (6, 23, 0x0800));
    assert_eq!((event.way.source_port, event.way.tcp_flags), (40_000, 2));
    assert_eq!(key.peer, ip(who::STRANGER[0]).into());
    assert_eq!(event.way.local, ip(who::WORKLOAD[0]).into());
    let total: u64 = both.node.sets().unwrap().iter().flat_map(|set| set.0).map(|way| u64::from(way.total)).sum();
    assert_eq!(total, 1000, "and the ways hold every packet");
}

/// What the records and the slices say together, for packets that were not lost.
fn reported(both: &mut Both) -> u64 {
    let mut last: HashMap<(u32, u32, u32, u32), u64> = HashMap::new();
    for event in both.node.events().unwrap() {
        let way = (event.cpu, event.set, event.place, event.way.generation);
        last.insert(way, u64::from(event.way.total));
    }
    for (index, set) in both.node.sets().unwrap().iter().enumerate() {
        for (place, way) in set.0.iter().enumerate().filter(|(_, way)| way.generation != 0) {
            let sets = enforcer_common::limits::DENIAL_SETS;
            let at = (index as u32 / sets, index as u32 % sets, place as u32, way.generation);
            last.insert(at, u64::from(way.total));
        }
    }
    last.values().sum::<u64>() + both.node.busy().unwrap()
}

#[test]
fn the_equation_holds_after_a_flood_that_overflows_the_ring() {
    let Some(mut both) = Both::new(&Scene::default()) else {
        return;
    };
    let mut sent = 0;
    // More flows than the ring has room for (4 MiB / 88) and the slice has ways (4,096 a CPU).
    for round in 0..60_000u32 {
        let frame = Frame::new(
            ip(who::WORKLOAD[0]),
            std::net::Ipv4Addr::from(0xc633_0000 + (round >> 8)).into(),
            Transport::syn(40_000, (round & 0xff) as u16 + 1000),
        )
        .bytes();
        let (allowed, _) = both.node.run(Direction::Egress, LO, &frame, 2).unwrap();
        assert!(!allowed);
        sent += 2;
    }
    let counts = both.node.all_counts().unwrap();
    let Counts { logged, suppressed, lost } = counts;
    assert_eq!(logged + suppressed + lost, sent, "{counts:?}");
    assert!(logged > 4000 && suppressed > 4000, "{counts:?}");
    assert_eq!(reported(&mut both), sent - lost, "{counts:?}");
}

#[test]
fn a_full_ring_loses_packets_and_says_so() {
    let Some(both) = Both::new(&Scene::default()) else {
        return;
    };
    let capacity = u64::from(enforcer_common::limits::EVENTS) / 88;
    let mut flows = 0u32;
    // New ticks free ways, so that events go on until the ring is full. Bounded: some 20 ticks at most.
    let lost = loop {
        for port in 0..4096u32 {
            let frame = Frame::new(
                ip(who::WORKLOAD[0]),
                std::net::Ipv4Addr::from(0xc633_0000 + (flows >> 12)).into(),
                Transport::syn(40_000, port as u16 + 1000),
            )
            .bytes();
            both.node.run(Direction::Egress, LO, &frame, 1).unwrap();
        }
        flows += 4096;
        let counts = both.node.all_counts().unwrap();
        assert_eq!(counts.logged + counts.suppressed + counts.lost, u64::from(flows));
        if counts.lost > 0 || flows > 40 * 4096 {
            break counts.lost;
        }
        std::thread::sleep(std::time::Duration::from_millis(1050));
    };
    let counts = both.node.all_counts().unwrap();
    assert!(counts.logged <= capacity, "{counts:?}");
    let verdict = both.node.verdict_of(Direction::Egress, LO, &syn(9)).unwrap();
    assert_eq!(verdict, Verdict::Deny(Reason::NoRule), "a full ring allows nothing");
    assert!(lost > 0 || counts.suppressed > 0, "{counts:?}");
}
