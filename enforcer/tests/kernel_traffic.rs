//! The kernel side under real packets: what a plan does to them, and what is told of those that were denied.

#![allow(clippy::unwrap_used, clippy::print_stdout, reason = "part of tests, though the lint cannot tell")]

mod kernel_support;

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use aya::maps::{HashMap, Map, MapData, PerCpuHashMap, PerCpuValues};
use enforcer::kernel::{Denials, Kernel, KernelConfig, KernelError, NewDenials, status};
use enforcer::plan::WorkloadKey;
use enforcer_common::denial::{Denial, Way};
use enforcer_common::id::{Direction, Revision, Row};
use enforcer_common::image::Cell;
use enforcer_common::limits;
use enforcer_common::schema::Group;
use enforcer_common::verdict::Reason;
use enforcer_tests::net::sh;
use kernel_support::{
    A, B, B_ADDRESS, ISOLATED, KEY_A, KEY_B, TestImage, address, apply, flush, poll, with_rig, workload,
};

/// Packets of a reading, those of busy sets included.
fn packets(reading: &NewDenials) -> u64 {
    let counts = reading.denials.iter().map(|denial| match denial {
        Denial::Flow { count, .. } | Denial::Busy { count, .. } => *count,
    });
    counts.sum()
}

/// The flows of a reading.
fn flows(reading: &NewDenials) -> Vec<Way> {
    let ways = reading.denials.iter().filter_map(|denial| match denial {
        Denial::Flow { way, .. } => Some(*way),
        Denial::Busy { .. } => None,
    });
    ways.collect()
}

fn logged_and_suppressed(denials: &Denials) -> u64 {
    let totals = denials.totals().unwrap();
    totals.values().map(|counts| counts.logged + counts.suppressed).sum()
}

#[test]
fn a_plan_decides_and_the_next_one_decides_anew() {
    with_rig(|rig| {
        assert_eq!(rig.arrive(80, 3), 3, "before: nothing is enforced");
        let mut kernel = rig.open();
        let mut denials = kernel.denials().unwrap();
        let (deny, allow) = (TestImage::new(Cell::Deny), TestImage::new(Cell::Allow));
        let first = apply(&mut kernel, &deny.plan(ISOLATED));
        assert_eq!(rig.arrive(80, 3), 0);
        let reading = flush(&mut denials);
        let flow = *flows(&reading).first().expect("a denied flow is told");
        assert_eq!(flow.key.workload, first.ids[&KEY_B]);
        assert_eq!(flow.key.reason, Reason::NoRule as u8);
        assert_eq!(flow.key.peer, address("10.0.1.2"));
        assert_eq!((flow.key.destination_port, flow.key.revision), (80, first.word.revision));
        assert_eq!(packets(&reading), 3);

        let second = apply(&mut kernel, &allow.plan(ISOLATED));
        assert_eq!(second.ids, first.ids);
        assert_eq!(second.word.revision, Revision(first.word.revision.0 + 1));
        assert_eq!(rig.arrive(80, 3), 3);
        let _ = apply(&mut kernel, &deny.plan(Row::NOT_ISOLATED));
        assert_eq!(rig.arrive(80, 3), 3);
        // A live flow is judged again.
        let _ = apply(&mut kernel, &deny.plan(ISOLATED));
        assert_eq!(rig.arrive(80, 3), 0);
        assert_eq!(kernel.verify().unwrap(), []);
    });
}

#[test]
fn a_veth_is_closed_until_a_plan_names_it() {
    with_rig(|rig| {
        let mut kernel = rig.open();
        let allow = TestImage::new(Cell::Allow);
        kernel.attach_unknown(A).unwrap();
        kernel.attach_unknown(A).unwrap();
        assert_eq!(rig.arrive(80, 2), 0);
        let mut denials = kernel.denials().unwrap();
        let reading = flush(&mut denials);
        let closed = flows(&reading);
        assert!(closed.iter().any(|flow| flow.key.reason == Reason::UnknownWorkload as u8), "{reading:?}");
        let id = closed[0].key.workload;
        let applied = apply(&mut kernel, &allow.plan(ISOLATED));
        assert_eq!(applied.ids[&KEY_A], id, "the veth's incarnation became the workload's");
        assert_eq!(rig.arrive(80, 2), 2);

        // Gone from the plan, still there: closed.
        let mut without = allow.plan(ISOLATED);
        without.workloads.retain(|workload| workload.key != KEY_A);
        let _ = apply(&mut kernel, &without);
        assert_eq!(rig.arrive(80, 2), 0);
    });
}

#[test]
fn two_veths_that_share_a_place_are_both_enforced_whoever_leaves() {
    with_rig(|rig| {
        let mut kernel = rig.open();
        let deny = TestImage::new(Cell::Deny);
        let _ = apply(&mut kernel, &deny.plan(ISOLATED));
        assert_eq!(rig.arrive(80, 2), 0);
        let _ = apply(&mut kernel, &deny.plan(Row::NOT_ISOLATED));
        assert_eq!(rig.arrive(80, 2), 2);
        // B lies in the hash and is found there, though nobody has its place in the array any more.
        kernel.detach(A).unwrap();
        assert_eq!(rig.arrive(80, 2), 2);
        let _ = apply(&mut kernel, &deny.plan(ISOLATED));
        assert_eq!(rig.arrive(80, 2), 0);
        assert_eq!(kernel.endpoints(), [A, B].into());
        assert_eq!(kernel.verify().unwrap(), []);
    });
}

#[test]
fn no_packet_sees_a_mixture_of_two_images() {
    with_rig(|rig| {
        let mut kernel = rig.open();
        let mut denials = kernel.denials().unwrap();
        let images = [TestImage::new(Cell::Deny), TestImage::new(Cell::Allow)];
        let mut parity = None;
        let stop = AtomicBool::new(false);
        std::thread::scope(|scope| {
            for _ in 0..2 {
                scope.spawn(|| {
                    let socket = rig.sender();
                    let mut port = 1000;
                    while !stop.load(Ordering::Relaxed) {
                        // Refused by an ICMP error now and then, since nobody listens.
                        let _ = socket.send_to(b"x", (B_ADDRESS, port));
                        port = if port == 9000 { 1000 } else { port + 1 };
                    }
                });
            }
            let mut times = Vec::new();
            // On a busy machine the senders come late: more turns until enough was denied.
            let enough = || denials.totals().unwrap().values().map(|counts| counts.logged).sum::<u64>() > 200;
            for turn in 0..1000 {
                if turn >= 40 && enough() {
                    break;
                }
                let begin = Instant::now();
                let applied = apply(&mut kernel, &images[turn & 1].plan(ISOLATED));
                times.push(begin.elapsed());
                parity.get_or_insert(applied.word.slot());
            }
            times.sort();
            println!("a plan: p50 {:?}, longest {:?}", times[times.len() / 2], times[times.len() - 1]);
            stop.store(true, Ordering::Relaxed);
        });
        let reading = flush(&mut denials);
        let mut denied = flows(&reading);
        denied.retain(|flow| flow.key.reason == Reason::NoRule as u8);
        assert!(denied.len() > 100, "the sender ran: {}", denied.len());
        for flow in denied {
            assert_eq!(Some(flow.key.revision.slot()), parity, "denied by a revision that allows: {flow:?}");
        }
        let internal = denials.totals().unwrap().keys().any(|(_, reason)| *reason == Reason::Internal);
        assert!(!internal, "a table was missing for a moment");
    });
}

#[test]
fn reported_packets_add_up_to_what_was_not_lost() {
    with_rig(|rig| {
        let mut kernel = rig.open();
        let deny = TestImage::new(Cell::Deny);
        let _ = apply(&mut kernel, &deny.plan(ISOLATED));
        let mut denials = kernel.denials().unwrap();
        let end = Instant::now() + Duration::from_secs(3);
        let socket = rig.sender();
        let (mut sent, mut reported) = (0_u32, 0);
        while Instant::now() < end {
            for _ in 0..500 {
                let port = (sent.wrapping_mul(2_654_435_761) >> 16) as u16;
                let _ = socket.send_to(b"x", (B_ADDRESS, port.max(1)));
                sent += 1;
            }
            reported += packets(&poll(&mut denials));
        }
        // A restart in between: nothing is told twice.
        drop(denials);
        let mut denials = kernel.denials().unwrap();
        reported += packets(&flush(&mut denials));
        assert_eq!(packets(&flush(&mut denials)), 0);
        assert_eq!(reported, logged_and_suppressed(&denials));
        let all: u64 = denials.totals().unwrap()[&(Direction::Ingress, Reason::NoRule)].lost + reported;
        assert_eq!(all, u64::from(sent));
        assert_eq!(status::read(&rig.config.pin_dir).unwrap().denied, denials.totals().unwrap());
    });
}

#[test]
fn a_workload_that_is_gone_leaves_no_flows_and_its_successor_has_another_id() {
    with_rig(|rig| {
        let mut kernel = rig.open();
        let allow = TestImage::new(Cell::Allow);
        let first = apply(&mut kernel, &allow.plan(ISOLATED));
        assert_eq!(rig.arrive(80, 2), 2);
        assert_eq!(kernel.flow_fill().flows, 2, "one flow of each workload");
        sh("ip link del va");
        kernel.detach_gone(&BTreeSet::from([B])).unwrap();
        assert_eq!(kernel.endpoints(), [B].into());
        assert_eq!(kernel.sweep().unwrap().deleted, 1);
        assert_eq!(kernel.flow_fill().flows, 1);

        // Another container with the same number and address.
        rig.plug_a();
        let mut plan = allow.plan(ISOLATED);
        plan.workloads[0] = workload(WorkloadKey(77), A, "10.0.1.2", Row::NOT_ISOLATED);
        let second = apply(&mut kernel, &plan);
        assert_ne!(second.ids[&WorkloadKey(77)], first.ids[&KEY_A]);
        assert_eq!(second.ids[&KEY_B], first.ids[&KEY_B]);
        assert_eq!(rig.arrive(80, 2), 2);
        assert_eq!(kernel.verify().unwrap(), []);
    });
}

#[test]
fn flows_are_scarce_from_half_of_a_share_on() {
    with_rig(|rig| {
        let config = KernelConfig { flow_quota: 4, ..rig.config.clone() };
        let mut kernel = Kernel::open(&config).unwrap();
        let _ = apply(&mut kernel, &TestImage::new(Cell::Allow).plan(ISOLATED));
        let scarce = [80, 81].map(|port| {
            let (receiver, sender) = (rig.receiver(port), rig.sender());
            let mut buffer = [0; 8];
            sender.send_to(b"x", (B_ADDRESS, port)).unwrap();
            let (_, from) = receiver.recv_from(&mut buffer).unwrap();
            // A flow counts in its share once its opener goes on after an answer.
            receiver.send_to(b"x", from).unwrap();
            sender.recv(&mut buffer).unwrap();
            sender.send_to(b"x", (B_ADDRESS, port)).unwrap();
            receiver.recv(&mut buffer).unwrap();
            kernel.flows_are_scarce()
        });
        assert_eq!(scarce, [false, true], "{:?}", kernel.flow_fill());
    });
}

#[test]
fn a_poll_takes_a_part_of_a_flood_and_says_that_more_waits() {
    const PART: usize = 4096;
    with_rig(|rig| {
        let mut kernel = rig.open();
        let deny = TestImage::new(Cell::Deny);
        let _ = apply(&mut kernel, &deny.plan(ISOLATED));
        let mut denials = kernel.denials().unwrap();
        let end = Instant::now() + Duration::from_secs(30);
        let socket = rig.sender();
        let mut port = 0_u16;
        let logged = |denials: &Denials| denials.totals().unwrap().values().map(|counts| counts.logged).sum::<u64>();
        while logged(&denials) <= PART as u64 {
            assert!(Instant::now() < end, "not enough flows are kept apart");
            for _ in 0..500 {
                port = port.wrapping_add(1);
                let _ = socket.send_to(b"x", (B_ADDRESS, port.max(1)));
            }
        }
        let first = poll(&mut denials);
        assert!(first.more);
        let told = flows(&first).len();
        assert!((1..=PART).contains(&told), "{told}");
        let mut reported = packets(&first);
        for _ in 0..100 {
            let reading = poll(&mut denials);
            reported += packets(&reading);
            if !reading.more {
                break;
            }
        }
        reported += packets(&flush(&mut denials));
        assert_eq!(reported, logged_and_suppressed(&denials));
    });
}

#[test]
fn what_was_drained_is_reported_though_the_look_at_the_counters_fails() {
    with_rig(|rig| {
        let mut kernel = rig.open();
        let deny = TestImage::new(Cell::Deny);
        let applied = apply(&mut kernel, &deny.plan(ISOLATED));
        let mut denials = kernel.denials().unwrap();
        // One counter has something to report, and there is no room to keep what was.
        let maps = rig.group(Group::Denials).join("maps");
        let mut busy = PerCpuHashMap::<_, [u8; 8], u64>::try_from(Map::PerCpuHashMap(
            MapData::from_pin(maps.join("BUSY")).unwrap(),
        ))
        .unwrap();
        let mut key = [0; 8];
        key[..4].copy_from_slice(&applied.ids[&KEY_B].0.to_ne_bytes());
        key[5] = Reason::NoRule as u8;
        let each = vec![1; aya::util::nr_cpus().unwrap()];
        busy.insert(key, PerCpuValues::try_from(each.clone()).unwrap(), 0).unwrap();
        let mut reported =
            HashMap::<_, [u8; 8], u64>::try_from(Map::HashMap(MapData::from_pin(maps.join("REPORTED_BUSY")).unwrap()))
                .unwrap();
        let full = (1..=u64::from(limits::BUSY)).map(|number| (number << 48 | number).to_ne_bytes());
        full.clone().for_each(|other| reported.insert(other, 1, 0).unwrap());

        assert_eq!(rig.arrive(80, 2), 0);
        let (reading, failure) = denials.poll();
        assert_eq!(packets(&reading), 2);
        assert!(matches!(&failure, Some(KernelError::MapCall { name, .. }) if name == "REPORTED_BUSY"), "{failure:?}");

        // Nobody living has the counter, but what it counts was not reported: it stays until it was.
        denials.forget(&BTreeSet::new()).unwrap();
        full.clone().for_each(|other| reported.remove(&other).unwrap());
        assert_eq!(packets(&flush(&mut denials)), each.len() as u64);
        denials.forget(&kernel.living_ids()).unwrap();
        assert!(busy.get(&key, 0).is_ok());
        denials.forget(&BTreeSet::new()).unwrap();
        assert!(busy.get(&key, 0).is_err());
    });
}
