//! Kills the daemon at random moments under denied and allowed traffic. Denied packets are dropped without an answer (D8).

use std::collections::BTreeMap;
use std::net::{SocketAddr, UdpSocket};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use enforcer::kernel::status::StatusView;
use enforcer::lab::Layout;
use enforcer_common::id::{Direction, Ifindex};
use enforcer_common::verdict::Reason;
use enforcer_tests::cases::Port;
use enforcer_tests::net::wire::{Frame, PATIENCE, Wire};
use enforcer_tests::traffic::{Service, nonce};

use super::common::{Done, Live, Numbers, address, open, place, stage};

const KILLS: usize = 20;
const FLOWS: usize = 50;
/// Denied packets a second that are aimed at, and those that there must be.
const AIMED_AT: u128 = 2000;
const AT_LEAST: u128 = 1000;
const TCP_RST: u8 = 4;

#[test]
fn twenty_kills_let_nothing_through_and_cut_nothing() {
    let mut stage = stage(Layout::Bridged, &["a", "b", "c"]);
    stage.policy("b.yaml", &open("b", "7000/tcp"));
    let nonce = nonce();
    let senders = [("a", true), ("a", false), ("outside", true), ("outside", false)];
    let sockets: Vec<(UdpSocket, SocketAddr)> = senders
        .map(|(from, v4)| {
            let source = SocketAddr::new(address(&stage, from, v4), 0);
            let socket = place(&stage, from).enter(|| UdpSocket::bind(source).unwrap()).unwrap();
            (socket, SocketAddr::new(address(&stage, "b", v4), 9))
        })
        .into();

    let interesting = move |frame: &Frame| {
        let reset = frame.packet().and_then(|packet| packet.tcp_flags()).is_some_and(|flags| flags & TCP_RST != 0);
        reset || frame.holds(&nonce)
    };
    let taps: Vec<Wire> =
        ["b", "c", "outside"].iter().map(|name| Wire::tap(place(&stage, name), interesting).unwrap()).collect();
    for (socket, target) in &sockets {
        socket.send_to(&nonce, target).unwrap();
    }
    assert_eq!(taps[0].arrives(&nonce, sockets.len()), sockets.len(), "positive control");

    let services = [true, false].map(|v4| Service::open(stage.at("b"), address(&stage, "b", v4), Port::Tcp(7000)));
    stage.start();
    for (socket, target) in &sockets {
        // The node may still owe them an answer from before.
        while socket.send_to(&nonce, target).is_err() {}
    }
    let flows: Vec<Live> = (0..FLOWS)
        .map(|number| {
            let from = if number % 3 == 0 { "outside" } else { "c" };
            Live::open(&stage, from, "b", 7000, number % 2 == 0, Duration::from_millis(40))
        })
        .collect();
    let before = links(&stage.view());
    let endpoints = || stage.status().0["endpoints"].clone();
    let named = |endpoints: &serde_json::Value| endpoints.to_string().contains("t/b");
    stage.until("the daemon has said who is who", || named(&endpoints()));
    let status = endpoints();
    let sent = AtomicU64::new(sockets.len() as u64);
    let done = AtomicBool::new(false);
    let rate = thread::scope(|scope| {
        let sender = scope.spawn(|| {
            let (begin, mut tried, mut denied) = (Instant::now(), 0, 0_u64);
            while !done.load(Ordering::Relaxed) {
                // By the clock, not by the pauses: on a busy machine those are longer than asked for.
                while tried < begin.elapsed().as_millis() * AIMED_AT / 1000 && !done.load(Ordering::Relaxed) {
                    for (socket, target) in &sockets {
                        denied += u64::from(socket.send_to(&nonce, target).is_ok());
                    }
                    tried += sockets.len() as u128;
                }
                thread::sleep(Duration::from_millis(1));
            }
            sent.fetch_add(denied, Ordering::Relaxed);
            u128::from(denied) * 1000 / begin.elapsed().as_millis()
        });
        let end = Done(&done);
        let mut numbers = Numbers::new();
        for _ in 0..KILLS {
            thread::sleep(Duration::from_millis(numbers.below(400)));
            stage.kill();
            thread::sleep(Duration::from_millis(numbers.below(100)));
            assert_eq!(links(&stage.view()), before, "with the daemon dead");
            stage.start_only();
        }
        stage.ready();
        drop(end);
        sender.join().unwrap()
    });
    assert_eq!(links(&stage.view()), before);
    assert_eq!(stage.status().0["endpoints"], status, "links, ids and names as before");
    for flow in &flows {
        assert_eq!(flow.error(), None);
        assert!(flow.goes_on(PATIENCE), "a flow has stalled");
    }
    let longest = flows.iter().map(Live::longest).max().unwrap();
    let exchanges: u64 = flows.iter().map(Live::exchanges).sum();
    println!(
        "{} denied packets, {rate} a second, {exchanges} exchanges, the longest took {longest:?}",
        sent.load(Ordering::Relaxed)
    );
    assert!(rate >= AT_LEAST, "{rate} denied packets a second are too few to prove anything");
    assert!(longest < Duration::from_secs(3), "an exchange took {longest:?}");
    for (tap, name) in taps.iter().zip(["b", "c", "outside"]) {
        let resets = tap.count(|frame| frame.packet().and_then(|packet| packet.tcp_flags()).is_some());
        assert_eq!(resets, 0, "RST at {name}");
    }
    assert_eq!(taps[0].arrived(&nonce), sockets.len(), "only those of the control");
    let denied = || stage.denied(Direction::Ingress, Reason::NoRule);
    stage.until("each denial is counted", || denied() == sent.load(Ordering::Relaxed));
    drop(flows);
    drop(services);
}

/// Ids of the links by device.
fn links(view: &StatusView) -> BTreeMap<Ifindex, [u32; 2]> {
    view.endpoints.iter().map(|endpoint| (endpoint.ifindex, [endpoint.from.id, endpoint.to.id])).collect()
}
