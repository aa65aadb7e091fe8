//! Tests that the sweep frees idle flows and flows of workloads that are gone, and nothing else.

use std::{
    sync::atomic::{AtomicBool, Ordering},
    thread,
};

use enforcer_common::{
    flow_key::FlowKey,
    flow_state::{FlowWord, Home, Role, state},
    id::Direction,
    packet::{ProtocolClass, tcp},
    sweep::SweepArguments,
};
use enforcer_tests::{
    bytecode::{
        node::{Flow, SWEEP},
        scene::{LO, OWNERS, PLACE, Scene, WORKLOAD, ip, who},
    },
    packet::{Frame, Transport},
};

use crate::Both;

/// A tick is 1,024 ms at 250 Hz; the tests' object keeps its defaults, so ticks are jiffies >> 8 whatever the kernel's HZ.
fn now(both: &Both) -> u32 {
    // The only clock that both sides share is the one in a flow that has just been written.
    let frame = Frame::new(ip(who::WORKLOAD[0]), ip(who::FRIEND[0]), Transport::syn(1, 80)).bytes();
    assert!(both.node.run(Direction::Egress, LO, &frame, 1).unwrap().0);
    both.node.flows().unwrap()[0].1.last_seen
}

/// A flow of the workload's place.
const NONE: Flow =
    Flow { word: FlowWord(0), last_seen: 0, ingress: 0, home: Home(PLACE.0), mark: 0, acknowledged: [0; 2] };

fn key(port: u16, class: ProtocolClass) -> FlowKey {
    FlowKey::new(OWNERS[0], class, port, 80, &ip(who::FRIEND[0]).into())
}

#[test]
fn idle_flows_go_by_their_own_limit() {
    let Some(mut both) = Both::new(&Scene::default()) else {
        return;
    };
    let now = now(&both);
    both.forget_flows();
    let opened = Role::WorkloadOpened as u8;
    let live = opened | state::REPLIED | state::ESTABLISHED;
    let table = [
        ("an established TCP flow lives two hours", ProtocolClass::Tcp, live, 7000, true),
        ("and not three", ProtocolClass::Tcp, live, 10_000, false),
        ("one that is half open a minute", ProtocolClass::Tcp, opened | state::REPLIED, 70, false),
        ("and not less", ProtocolClass::Tcp, opened | state::REPLIED, 50, true),
        ("one that nobody answers a minute", ProtocolClass::Tcp, opened, 70, false),
        ("after an RST ten seconds", ProtocolClass::Tcp, live | state::ENDED, 15, false),
        ("but ten", ProtocolClass::Tcp, live | state::ENDED, 5, true),
        ("after one that nobody believes two hours", ProtocolClass::Tcp, live | state::ASKED_LOCAL, 7000, true),
        ("after both FINs ten seconds", ProtocolClass::Tcp, live | state::FIN_LOCAL | state::FIN_PEER, 15, false),
        ("UDP that was answered three minutes", ProtocolClass::Udp, opened | state::REPLIED, 150, true),
        ("and half a minute if not", ProtocolClass::Udp, opened, 40, false),
        ("a packet of this tick", ProtocolClass::Icmp, opened, 0, true),
    ];
    for (port, (_, class, bits, idle, _)) in (1..).zip(table) {
        let key = key(port, class);
        let flow = Flow { word: FlowWord::new(5, key.tag(), bits), last_seen: now.wrapping_sub(idle), ..NONE };
        both.node.set_flow(&key, flow).unwrap();
    }
    let counted = |bits: u8| bits & state::ESTABLISHED != 0;
    let all = table.iter().filter(|(_, _, bits, ..)| counted(*bits)).count();
    both.node.set_quota(all as u32, 1000, WORKLOAD.0).unwrap();
    let deleted = both.node.sweep(SWEEP).unwrap();
    let left: Vec<u16> = both.node.flows().unwrap().iter().map(|(key, _)| key.local_port()).collect();
    for (port, (why, _, _, _, stays)) in (1..).zip(table) {
        assert_eq!(left.contains(&port), stays, "{why}");
    }
    assert_eq!(deleted as usize, table.len() - left.len());
    let live = table.iter().filter(|(_, _, bits, _, stays)| *stays && counted(*bits)).count();
    assert_eq!(both.node.quota().unwrap().0 as usize, live, "the quota follows");
    assert_eq!(both.node.sweep(SWEEP).unwrap(), 0, "and a second run finds nothing");
}

#[test]
fn a_run_tells_when_the_next_flow_may_be_over() {
    let Some(mut both) = Both::new(&Scene::default()) else {
        return;
    };
    let now = now(&both);
    both.forget_flows();
    assert_eq!(both.node.time_left(SWEEP).unwrap(), None, "no flow is there");
    let opened = Role::WorkloadOpened as u8;
    let live = opened | state::REPLIED | state::ESTABLISHED;
    // Ticks of idleness; milliseconds that are left of the limit. Each is sooner over than those before it.
    for (port, (class, bits, idle, left)) in (1..).zip([
        (ProtocolClass::Tcp, live, 100, 7_800_000 - 102_400),
        (ProtocolClass::Udp, opened | state::REPLIED, 10, 180_000 - 10_240),
        (ProtocolClass::Udp, opened, 10, 30_000 - 10_240),
        // A reset may come at any time.
        (ProtocolClass::Tcp, opened, 2, 10_000 - 2_048),
        (ProtocolClass::Tcp, live | state::ENDED, 5, 10_000 - 5_120),
        (ProtocolClass::Tcp, opened | state::REPLIED, 30, 0),
    ]) {
        let key = key(port, class);
        let flow = Flow { word: FlowWord::new(5, key.tag(), bits), last_seen: now.wrapping_sub(idle), ..NONE };
        both.node.set_flow(&key, flow).unwrap();
        let found = both.node.time_left(SWEEP).unwrap().expect("a flow is left").as_millis();
        // Ticks may have gone by.
        assert!((left - found) % 1024 == 0 && left - found <= 10 * 1024 || left == found, "{port}: {found} of {left}");
    }
    both.node.retire().unwrap();
    assert_eq!(both.node.time_left(SWEEP).unwrap(), None, "all are gone");
}

#[test]
fn flows_of_a_workload_that_is_gone_go_at_once() {
    let Some(mut both) = Both::new(&Scene::default()) else {
        return;
    };
    now(&both);
    assert_eq!(both.node.sweep(SWEEP).unwrap(), 0, "it is live");
    both.node.retire().unwrap();
    assert_eq!(both.node.sweep(SWEEP).unwrap(), 1);
    assert_eq!(both.node.quota().unwrap().0, 0);
    assert!(both.node.flows().unwrap().is_empty());
}

#[test]
fn a_run_stops_at_its_cap() {
    let Some(mut both) = Both::new(&Scene::default()) else {
        return;
    };
    for port in 0..10 {
        let key = key(port, ProtocolClass::Udp);
        let bits = Role::WorkloadOpened as u8 | state::ESTABLISHED;
        both.node.set_flow(&key, Flow { word: FlowWord::new(5, key.tag(), bits), ..NONE }).unwrap();
    }
    both.node.set_quota(10, 1000, 0).unwrap();
    for (deleted, left) in [(4, 6), (4, 2), (2, 0), (0, 0)] {
        assert_eq!(both.node.sweep(SweepArguments { cap: 4, ..SWEEP }).unwrap(), deleted);
        assert_eq!(both.node.flows().unwrap().len(), left);
        assert_eq!(both.node.quota().unwrap().0 as usize, left, "the quota follows");
    }
}

#[test]
fn the_count_of_flows_is_exact_whatever_runs_beside_whatever() {
    let Some(both) = Both::new(&Scene { quota: u32::MAX, ..Scene::default() }) else {
        return;
    };
    let node = &both.node;
    // Every flow is idle: ticks of a jiffy are far ahead of those in the flows.
    let all = SweepArguments { tick_shift: 0, ..SWEEP };
    let done = AtomicBool::new(false);
    let deleted: u32 = thread::scope(|scope| {
        // Two, as a daemon never does: both want to delete the same flows.
        let sweeps: Vec<_> = (0..2)
            .map(|_| {
                scope.spawn(|| {
                    let mut deleted = 0;
                    while !done.load(Ordering::Relaxed) {
                        deleted += node.sweep(all).unwrap();
                    }
                    deleted
                })
            })
            .collect();
        let (own, friend) = (ip(who::WORKLOAD[0]), ip(who::FRIEND[0]));
        for port in 1..15_000 {
            let (ack, syn_ack) = (tcp::ACK, tcp::SYN | tcp::ACK);
            for (direction, from, to, ports, flags) in [
                (Direction::Egress, own, friend, [port, 80], tcp::SYN),
                (Direction::Ingress, friend, own, [80, port], syn_ack),
                (Direction::Egress, own, friend, [port, 80], ack),
            ] {
                let transport = Transport::Tcp { source: ports[0], destination: ports[1], flags };
                node.run(direction, LO, &Frame::new(from, to, transport).bytes(), 1).unwrap();
            }
        }
        done.store(true, Ordering::Relaxed);
        sweeps.into_iter().map(|sweep| sweep.join().unwrap()).sum()
    });
    assert!(deleted > 1000, "they did not meet: {deleted} deleted");
    let flows = node.flows().unwrap();
    let established = flows.iter().filter(|(_, flow)| flow.word.share().is_some()).count();
    assert_eq!(node.quota().unwrap().0 as usize, established);
}
