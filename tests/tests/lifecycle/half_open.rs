//! Floods of forged openings: they keep no connection out. And a workload at its quota, which `status` names.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use enforcer::lab::{Layout, UPLINK};
use enforcer_common::id::Direction;
use enforcer_common::packet::tcp;
use enforcer_common::verdict::Reason;
use enforcer_tests::net::wire::{Sender, device};
use enforcer_tests::packet::{Frame, Transport};
use enforcer_tests::stage::Stage;
use enforcer_tests::traffic::bound;
use socket2::{Protocol, Type};

use super::common::{Done, Numbers, address, open, place, policy, rule, stage};

/// Forged SYNs a second.
const RATE: u64 = 20_000;
/// Seconds that the flood lasts, unless `ENFORCER_FLOOD_SECONDS` says otherwise.
const SECONDS: u64 = 8;
/// A connection takes no longer, or it has lost a packet: shorter than the first retransmission.
const PATIENCE: Duration = Duration::from_millis(900);

/// Who connects to whom beside the flood at port 7000 of `a`.
const CONNECTIONS: [(&str, &str, u16, &str); 5] = [
    ("outside", "a", 7000, "to the same port"),
    ("outside", "a", 7001, "to another port of the same workload"),
    ("a", "outside", 7002, "of the same workload"),
    ("b", "c", 7003, "of other workloads"),
    ("outside", "c", 7004, "to another workload"),
];

/// Accepts connections and ends them, until dropped.
struct Server {
    done: std::sync::Arc<AtomicBool>,
    thread: Option<thread::JoinHandle<()>>,
}

impl Server {
    fn open(stage: &Stage, at: &str, port: u16, v4: bool) -> Self {
        let own = SocketAddr::new(address(stage, at, v4), port);
        let listener = place(stage, at).enter(|| TcpListener::bind(own).unwrap()).unwrap();
        listener.set_nonblocking(true).unwrap();
        let done = std::sync::Arc::<AtomicBool>::default();
        let end = std::sync::Arc::clone(&done);
        let thread = thread::spawn(move || {
            while !end.load(Ordering::Relaxed) {
                if listener.accept().is_err() {
                    thread::sleep(Duration::from_millis(1));
                }
            }
        });
        Self { done, thread: Some(thread) }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.done.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

/// One connection, closed at once; whether it came about in time.
fn connects(stage: &Stage, from: &str, to: &str, port: u16, v4: bool) -> bool {
    let (source, target) = (address(stage, from, v4), SocketAddr::new(address(stage, to, v4), port));
    let connect = || bound(source, Type::STREAM, Protocol::TCP).unwrap().connect_timeout(&target.into(), PATIENCE);
    place(stage, from).enter(connect).unwrap().is_ok()
}

/// Somebody who is not there.
fn nobody(v4: bool, number: u64) -> IpAddr {
    if v4 {
        Ipv4Addr::from(0xc612_0000 + (number as u32 & 0x1_ffff)).into()
    } else {
        Ipv6Addr::from(0x2001_0db8_0bad_0000_0000_0000_0000_0000_u128 + u128::from(number)).into()
    }
}

/// Forged SYNs to port 7000 of `a`, each of somebody else: as many as are half open in three seconds.
fn forged(stage: &Stage, v4: bool) -> Vec<Vec<u8>> {
    let macs = [device(stage.lab.node(), UPLINK).unwrap().mac, device(stage.lab.outside(), "eth0").unwrap().mac];
    let (mut numbers, to) = (Numbers::new(), address(stage, "a", v4));
    let frames = (0..3 * RATE).map(|_| {
        let source = 1024 + numbers.below(60_000) as u16;
        let transport = Transport::Tcp { source, destination: 7000, flags: tcp::SYN };
        let base = Frame::new(nobody(v4, numbers.below(1 << 32)), to, transport);
        Frame { macs, numbers: [numbers.below(1 << 32) as u32, 0], ..base }.bytes()
    });
    frames.collect()
}

/// Sends them until it is done, again and again; how many, and how many a second.
fn flood(stage: &Stage, frames: &[Vec<u8>], done: &AtomicBool) -> (u64, u64) {
    let sender = Sender::open(stage.lab.outside(), "eth0").unwrap();
    let (begin, mut sent) = (Instant::now(), 0);
    for frame in frames.iter().cycle() {
        while sent >= begin.elapsed().as_micros() as u64 * RATE / 1_000_000 {
            thread::sleep(Duration::from_millis(1));
        }
        if done.load(Ordering::Relaxed) {
            break;
        }
        // The device's queue may be full.
        let _ = sender.send(frame);
        sent += 1;
    }
    (sent, sent * 1000 / begin.elapsed().as_millis() as u64)
}

/// New connections of every kind for so long: how many were tried, and how many came about.
fn connect_all(stage: &Stage, v4: bool, long: Duration) -> [[u64; 2]; CONNECTIONS.len()] {
    let counts: [[AtomicU64; 2]; CONNECTIONS.len()] = std::array::from_fn(|_| Default::default());
    let end = Instant::now() + long;
    thread::scope(|scope| {
        for ((from, to, port, _), [tried, came]) in CONNECTIONS.iter().zip(&counts) {
            scope.spawn(move || {
                while Instant::now() < end {
                    tried.fetch_add(1, Ordering::Relaxed);
                    came.fetch_add(u64::from(connects(stage, from, to, *port, v4)), Ordering::Relaxed);
                    thread::sleep(Duration::from_millis(10));
                }
            });
        }
    });
    counts.map(|counts| counts.map(AtomicU64::into_inner))
}

fn keeps_nobody_out(layout: Layout, v4: bool) {
    let seconds = std::env::var("ENFORCER_FLOOD_SECONDS").ok().and_then(|text| text.parse().ok()).unwrap_or(SECONDS);
    let mut stage = stage(layout, &["a", "b", "c"]);
    stage.policy(
        "a.yaml",
        &policy(
            "a",
            "[ingress, egress]",
            &[rule("from: anywhere", "7000-7001/tcp"), rule("to: anywhere", "7002/tcp")].concat(),
        ),
    );
    stage.policy("c.yaml", &open("c", "7003-7004/tcp"));
    let _servers: Vec<Server> =
        CONNECTIONS.iter().map(|(_, to, port, _)| Server::open(&stage, to, *port, v4)).collect();
    stage.start();
    let _ = connect_all(&stage, v4, Duration::from_millis(500));
    let (done, frames) = (AtomicBool::new(false), forged(&stage, v4));
    let stage = &stage;
    let (counts, (sent, rate)) = thread::scope(|scope| {
        let _end = Done(&done);
        let flood = scope.spawn(|| flood(stage, &frames, &done));
        let counts = connect_all(stage, v4, Duration::from_secs(seconds));
        done.store(true, Ordering::Relaxed);
        (counts, flood.join().unwrap())
    });
    let view = stage.view();
    println!("{layout:?}, IPv4 {v4}: {sent} forged SYNs, {rate} a second; {:?}", view.flows);
    assert!(rate > RATE / 4, "the flood was none: {rate} a second");
    for ((from, to, port, why), [tried, came]) in CONNECTIONS.iter().zip(counts) {
        println!("{why}: {came} of {tried}");
        assert!(tried >= seconds, "{why}: too few were tried: {tried}");
        assert!(came * 100 >= tried * 99, "{why} ({from} to {to}:{port}): {came} of {tried} came about");
    }
    assert!(view.flows.half_open > 100, "the flood has reached the table: {:?}", view.flows);
    let refused = [Reason::FlowQuota, Reason::FlowTableFull].map(|reason| stage.denied(Direction::Ingress, reason));
    assert_eq!(refused, [0, 0], "nobody was kept out");
}

#[test]
fn a_flood_of_forged_syns_keeps_no_connection_out() {
    keeps_nobody_out(Layout::Bridged, true);
    keeps_nobody_out(Layout::Routed, false);
}

#[test]
#[ignore = "the same in the other two ways; ENFORCER_FLOOD_SECONDS=60 makes it the whole measurement"]
fn a_flood_of_forged_syns_keeps_no_connection_out_in_the_other_layouts() {
    keeps_nobody_out(Layout::Routed, true);
    keeps_nobody_out(Layout::Bridged, false);
}

#[test]
fn a_workload_at_its_quota_is_shown_and_still_opens_its_own() {
    for v4 in [true, false] {
        let mut stage = stage(Layout::Bridged, &["a", "b", "c"]);
        stage.settings_whole("flows: 16384\nflow_quota: 64\n");
        stage.policy("a.yaml", &open("a", "7000/tcp"));
        let _server = Server::open(&stage, "b", 7001, v4);
        let own = SocketAddr::new(address(&stage, "a", v4), 7000);
        let listener = stage.at("a").enter(|| TcpListener::bind(own).unwrap()).unwrap();
        stage.start();
        stage.until("no trouble", || stage.status().0["troubles"] == serde_json::json!([]));
        let mut held: Vec<(TcpStream, TcpStream)> = Vec::new();
        for number in 0..64 {
            // Of two, whose own shares are half full.
            let client = if number % 2 == 0 { "b" } else { "c" };
            let connect = || {
                let socket = bound(address(&stage, client, v4), Type::STREAM, Protocol::TCP).unwrap();
                socket.connect_timeout(&own.into(), PATIENCE).map(|()| socket)
            };
            let socket = stage.at(client).enter(connect).unwrap();
            let socket = socket.unwrap_or_else(|error| panic!("connection {number}: {error}"));
            held.push((socket.into(), listener.accept().unwrap().0));
        }
        assert!(!connects(&stage, "b", "a", 7000, v4), "one more than it may have");
        assert!(stage.denied(Direction::Ingress, Reason::FlowQuota) > 0);
        assert!(connects(&stage, "a", "b", 7001, v4), "what it opens itself is counted apart");
        let named = |stage: &Stage| {
            let (status, code) = stage.status();
            let lead = "a workload has as many connections as it may have: ";
            let troubles: Vec<String> = serde_json::from_value(status["troubles"].clone()).unwrap();
            troubles.iter().any(|trouble| trouble.starts_with(lead) && trouble.contains("64 that were opened to it"))
                && code == 1
        };
        stage.until("a trouble that names it", || named(&stage));
        let (_, freed) = held.pop().unwrap();
        // The server closes, then the client: the entry goes ten seconds later.
        drop(freed);
        stage.until("room again", || connects(&stage, "b", "a", 7000, v4));
    }
}
