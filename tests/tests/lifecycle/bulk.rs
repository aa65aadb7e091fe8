//! Connections at full speed with offloads, so that the programs get packets of 64 KiB and more.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use enforcer::lab::{Layout, Namespace};
use enforcer_tests::net::wire::Wire;
use enforcer_tests::stage::Stage;

use super::common::{Numbers, address, change, connect, policy, rule, stage};

const MIB: usize = 1 << 20;
const BOUND: Duration = Duration::from_secs(20);
/// More than a packet that was not offloaded.
const LARGE: usize = 16 << 10;

/// Bytes that do not repeat.
pub(crate) fn random(length: usize) -> Vec<u8> {
    let mut numbers = Numbers::new();
    let mut bytes = Vec::with_capacity(length + 8);
    while bytes.len() < length {
        bytes.extend(numbers.below(u64::MAX).to_le_bytes());
    }
    bytes.truncate(length);
    bytes
}

/// One side's bytes on their way to the other side.
pub(crate) struct Transfer {
    received: Arc<AtomicUsize>,
    done: Arc<AtomicBool>,
    streams: [TcpStream; 2],
    sender: Option<JoinHandle<()>>,
    reader: Option<JoinHandle<Vec<u8>>>,
}

impl Transfer {
    /// Connects, and begins to send. `pause`: after each 512 KiB.
    pub(crate) fn begin(
        stage: &Stage,
        from: &str,
        to: &Namespace,
        target: SocketAddr,
        content: &[u8],
        pause: Duration,
    ) -> Self {
        let listener = to.enter(|| TcpListener::bind(target).unwrap()).unwrap();
        let client = connect(stage, from, target, target.is_ipv4());
        let (server, _) = listener.accept().unwrap();
        Self::over([client, server], content, pause)
    }

    /// Sends from the first of two ends of a connection to the second.
    fn over(ends: [TcpStream; 2], content: &[u8], pause: Duration) -> Self {
        let streams = ends.each_ref().map(|end| end.try_clone().unwrap());
        let [mut from, mut to] = ends;
        let (received, done) = (Arc::<AtomicUsize>::default(), Arc::<AtomicBool>::default());
        let (content, count, end) = (content.to_vec(), Arc::clone(&received), Arc::clone(&done));
        let length = content.len();
        let sender = thread::spawn(move || {
            for part in content.chunks(MIB / 2) {
                // It fails only if the test has ended it.
                if from.write_all(part).is_err() {
                    return;
                }
                thread::sleep(pause);
            }
        });
        let reader = thread::spawn(move || {
            to.set_read_timeout(Some(Duration::from_millis(50))).unwrap();
            let (mut bytes, mut buffer) = (Vec::with_capacity(length), vec![0; 256 << 10]);
            while bytes.len() < length && !end.load(Ordering::Relaxed) {
                match to.read(&mut buffer) {
                    Ok(0) => break,
                    Ok(more) => bytes.extend(&buffer[..more]),
                    Err(error) => assert_eq!(error.kind(), std::io::ErrorKind::WouldBlock),
                }
                count.store(bytes.len(), Ordering::Relaxed);
            }
            bytes
        });
        Self { received, done, streams, sender: Some(sender), reader: Some(reader) }
    }

    /// How many bytes have come.
    pub(crate) fn received(&self) -> usize {
        self.received.load(Ordering::Relaxed)
    }

    /// Whether so many bytes come in time.
    fn reaches(&self, count: usize) -> bool {
        let end = Instant::now() + BOUND;
        while self.received() < count {
            if Instant::now() > end {
                return false;
            }
            thread::sleep(Duration::from_millis(2));
        }
        true
    }

    /// What has come, once all of it has.
    pub(crate) fn finish(mut self) -> Vec<u8> {
        let bytes = self.reader.take().unwrap().join().unwrap();
        self.sender.take().unwrap().join().unwrap();
        bytes
    }
}

impl Drop for Transfer {
    fn drop(&mut self) {
        if self.reader.is_none() {
            // Finished: the connection may go on.
            return;
        }
        self.done.store(true, Ordering::Relaxed);
        for stream in &self.streams {
            // Wakes the sender.
            let _ = stream.shutdown(std::net::Shutdown::Both);
        }
        // Their panics have been printed.
        let _ = self.sender.take().map(JoinHandle::join);
        let _ = self.reader.take().map(JoinHandle::join);
    }
}

/// `a` may ask `b` for 7000; both are closed otherwise.
fn two(layout: Layout) -> Stage {
    let stage = stage(layout, &["a", "b"]);
    stage.policy("a.yaml", &policy("a", "[ingress, egress]", &rule("to: [{workloads: {app: b}}]", "7000/tcp")));
    write_b(&stage, "7000/tcp");
    stage
}

fn write_b(stage: &Stage, ports: &str) {
    stage.policy("b.yaml", &policy("b", "[ingress, egress]", &rule("from: [{workloads: {app: a}}]", ports)));
}

/// The largest frame that comes to a workload: nothing is kept. Of an IPv6 packet of over 64 KiB the next header is an option.
fn largest(stage: &Stage, name: &str) -> (Wire, Arc<AtomicUsize>) {
    let largest = Arc::<AtomicUsize>::default();
    let seen = Arc::clone(&largest);
    let tap = Wire::tap(stage.at(name), move |frame| {
        if !frame.outgoing {
            seen.fetch_max(frame.bytes.len(), Ordering::Relaxed);
        }
        false
    });
    (tap.unwrap(), largest)
}

/// The largest, once it is over a size or time is up: the tap may be behind the traffic.
fn seen(tap: Wire, largest: &AtomicUsize, over: usize) -> usize {
    let end = Instant::now() + Duration::from_secs(5);
    while largest.load(Ordering::Relaxed) <= over && Instant::now() < end {
        thread::sleep(Duration::from_millis(5));
    }
    drop(tap);
    largest.load(Ordering::Relaxed)
}

fn both_ways(stage: &Stage, when: &str, v4: bool, over: usize) {
    let content = random(8 * MIB);
    let target = SocketAddr::new(address(stage, "b", v4), 7000);
    let listener = stage.at("b").enter(|| TcpListener::bind(target).unwrap()).unwrap();
    let client = connect(stage, "a", target, v4);
    let (server, _) = listener.accept().unwrap();
    // The one who asked sends first, then the one who was asked, on the same connection.
    for (from, to, receiver) in [(&client, &server, "b"), (&server, &client, "a")] {
        let when = format!("{when}, IPv4 {v4}, to {receiver}");
        let (tap, largest) = largest(stage, receiver);
        let ends = [from.try_clone().unwrap(), to.try_clone().unwrap()];
        let transfer = Transfer::over(ends, &content, Duration::ZERO);
        let whole = transfer.reaches(content.len());
        assert!(whole, "{when}: {} of {} bytes came", transfer.received(), content.len());
        assert!(transfer.finish() == content, "{when}: the content differs");
        let largest = seen(tap, &largest, over);
        assert!(largest > over, "{when}: no packet is larger than {largest} bytes");
    }
}

fn big_segments(layout: Layout) {
    let mut stage = two(layout);
    for v4 in [true, false] {
        both_ways(&stage, &format!("{layout:?}, positive control"), v4, LARGE);
    }
    stage.start();
    for v4 in [true, false] {
        both_ways(&stage, &format!("{layout:?}, enforced"), v4, LARGE);
    }
    stage.kill();
    for v4 in [true, false] {
        both_ways(&stage, &format!("{layout:?}, the daemon is dead"), v4, LARGE);
    }
}

#[test]
fn bulk_passes_whole_in_offloaded_packets() {
    big_segments(Layout::Bridged);
    big_segments(Layout::Routed);
}

#[test]
fn packets_of_over_64_kib_pass() {
    // A kernel that forwards does not keep them.
    let mut stage = two(Layout::Bridged);
    for name in ["a", "b"] {
        // A packet is at most half of the window.
        let window = || std::fs::write("/proc/sys/net/ipv4/tcp_rmem", "4096 4194304 4194304").unwrap();
        stage.at(name).enter(window).unwrap();
        stage.ip(stage.at(name), "link set eth0 gso_max_size 180000 gro_max_size 180000");
        stage.ip(stage.lab.node(), &format!("link set {} gso_max_size 180000 gro_max_size 180000", stage.host(name)));
    }
    // A device has a limit of its own for IPv4, which not every `ip` can set.
    both_ways(&stage, "positive control", false, 1 << 16);
    stage.start();
    both_ways(&stage, "enforced", false, 1 << 16);
}

fn cut(layout: Layout, v4: bool) {
    let mut stage = two(layout);
    let content = random(24 * MIB);
    let target = SocketAddr::new(address(&stage, "b", v4), 7000);
    let pause = Duration::from_millis(16);
    let begin = |stage: &Stage| Transfer::begin(stage, "a", stage.at("b"), target, &content, pause);
    let when = format!("{layout:?}, IPv4 {v4}");
    stage.start();
    let transfer = begin(&stage);
    assert!(transfer.reaches(4 * MIB), "{when}: it begins");
    let (large, largest) = largest(&stage, "b");
    assert!(transfer.reaches(6 * MIB), "{when}: it goes on");
    assert!(seen(large, &largest, LARGE) > LARGE, "{when}: in offloaded packets");
    change(&mut stage, |stage| write_b(stage, "7001/tcp"));
    // What had passed before is read, which takes a while on a busy machine.
    let (mut before, end) = (0, Instant::now() + BOUND);
    while before != transfer.received() && Instant::now() < end {
        before = transfer.received();
        thread::sleep(Duration::from_millis(100));
    }
    let tap = Wire::tap(stage.at("b"), |frame| frame.packet().is_some_and(|packet| packet.protocol == 6)).unwrap();
    assert!(before < content.len(), "{when}: it was over before it was cut");
    thread::sleep(Duration::from_millis(700));
    assert_eq!(tap.count(|frame| !frame.outgoing), 0, "{when}: segments come all the same");
    assert_eq!(transfer.received(), before, "{when}: bytes come all the same");
    change(&mut stage, |stage| write_b(stage, "7000/tcp"));
    assert!(transfer.reaches(content.len()), "{when}: allowed again, {} bytes came", transfer.received());
    assert!(transfer.finish() == content, "{when}: the content differs");
}

#[test]
fn a_policy_change_cuts_bulk_in_its_middle() {
    for layout in [Layout::Bridged, Layout::Routed] {
        cut(layout, true);
        cut(layout, false);
    }
}
