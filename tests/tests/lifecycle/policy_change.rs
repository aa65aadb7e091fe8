//! Policies change while traffic flows.

use std::net::{SocketAddr, UdpSocket};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use enforcer::lab::Layout;
use enforcer_tests::cases::Port;
use enforcer_tests::net::wire::Wire;
use enforcer_tests::stage::Stage;
use enforcer_tests::traffic::{Service, nonce};

use super::common::{Done, Live, address, check, dropped, open, passes, processors, stage, stay_on};

const CHANGES: usize = 100;
/// So many datagrams in a row did not come: the port is closed. Time alone would not tell: the sender may have to wait.
const SILENCE: u64 = 40;
const BOUND: Duration = Duration::from_secs(10);

#[test]
fn a_hundred_changes_under_live_traffic() {
    let mut stage = stage(Layout::Bridged, &["a", "b", "c"]);
    let (wide, narrow) = (open("b", "7000/tcp, 7001/tcp, 5000/udp"), open("b", "7000/tcp"));
    stage.policy("b.yaml", &wide);
    stage.start();
    let _services = [(true, 7000), (true, 7001), (false, 7000), (false, 7001)]
        .map(|(v4, port)| Service::open(stage.at("b"), address(&stage, "b", v4), Port::Tcp(port)));
    let live = |port, v4| Live::open(&stage, "c", "b", port, v4, Duration::from_millis(10));
    let kept = [live(7000, true), live(7000, false)];
    let mut cut = [live(7001, true), live(7001, false)];

    let nonce = nonce();
    let tap = Wire::tap(stage.at("b"), move |frame| !frame.outgoing && frame.holds(&nonce)).unwrap();
    let (done, sent) = (AtomicBool::new(false), AtomicU64::new(0));
    let mut times = Vec::new();
    thread::scope(|scope| {
        scope.spawn(|| send_until(&stage, &[5000], &nonce, Duration::from_millis(1), &done, &sent));
        let end = Done(&done);
        assert!(tap.wait(BOUND, |_| true), "positive control: the port is open");
        for change in 0..CHANGES {
            let opens = change % 2 == 1;
            let begin = Instant::now();
            stage.policy("b.yaml", if opens { &wide } else { &narrow });
            let effect = if opens { first_after(&tap, begin) } else { last_before_silence(&tap, begin, &sent) };
            times.push(effect.unwrap_or_else(|| panic!("change {change} has no effect after {BOUND:?}")));
            if opens && change == 1 {
                for flow in &cut {
                    assert!(flow.goes_on(BOUND), "allowed again, a connection goes on where it was");
                }
            } else if opens {
                // A connection that was cut for long waits long before it tries again.
                cut = [live(7001, true), live(7001, false)];
                assert!(cut.iter().all(|flow| flow.goes_on(BOUND)), "allowed again");
            } else {
                // A client may still read what had come before.
                let exchanges = || cut.each_ref().map(Live::exchanges);
                let mut before = exchanges();
                thread::sleep(Duration::from_millis(30));
                if exchanges() != before {
                    thread::sleep(Duration::from_millis(200));
                    before = exchanges();
                    thread::sleep(Duration::from_millis(200));
                }
                assert_eq!(exchanges(), before, "a forbidden flow goes on");
            }
        }
        drop(end);
    });
    times.sort();
    let share = |hundredth: usize| times[(times.len() * hundredth).div_ceil(100) - 1];
    println!("from rename to effect, {CHANGES} changes: p50 {:?}, p99 {:?}", share(50), share(99));
    for flow in kept.iter().chain(&cut) {
        assert_eq!(flow.error(), None);
    }
    for flow in &kept {
        assert!(
            flow.goes_on(BOUND) && flow.longest() < Duration::from_secs(3),
            "the longest took {:?}",
            flow.longest()
        );
    }
}

/// The first frame after an instant.
fn first_after(tap: &Wire, begin: Instant) -> Option<Duration> {
    tap.wait(BOUND, |frame| frame.at > begin);
    tap.frames().iter().map(|frame| frame.at).find(|at| *at > begin).map(|at| at - begin)
}

/// The last frame before nothing comes any more.
fn last_before_silence(tap: &Wire, begin: Instant, sent: &AtomicU64) -> Option<Duration> {
    while begin.elapsed() < BOUND {
        thread::sleep(Duration::from_millis(5));
        let sent = sent.load(Ordering::Relaxed);
        let last = tap.frames().last().map(|frame| (frame.at.max(begin), number(&frame.bytes)));
        let (at, number) = last.unwrap_or((begin, 0));
        if sent < number + SILENCE {
            continue;
        }
        // The tap may be behind.
        tap.drain();
        if tap.frames().last().is_none_or(|frame| self::number(&frame.bytes) == number) {
            return Some(at - begin);
        }
    }
    None
}

/// The number at the end of a datagram of [`send_until`].
fn number(frame: &[u8]) -> u64 {
    u64::from_be_bytes(frame[frame.len() - 8..].try_into().unwrap())
}

#[test]
fn no_packet_meets_half_of_two_policy_sets() {
    let mut stage = stage(Layout::Bridged, &["a", "b"]);
    let sets = [open("b", "5001/udp"), open("b", "5002/udp")];
    stage.policy("b.yaml", &sets[0]);
    stage.start();
    let nonce = nonce();
    let tap = Wire::tap(stage.at("b"), move |frame| !frame.outgoing && frame.holds(&nonce)).unwrap();
    let (done, sent) = (AtomicBool::new(false), AtomicU64::new(0));
    let tries = thread::scope(|scope| {
        // Three in a row: if the first and the third meet the same set, so does the second.
        let sender =
            scope.spawn(|| send_until(&stage, &[5001, 5002, 5001], &nonce, Duration::from_micros(300), &done, &sent));
        let end = Done(&done);
        for change in 1..=40 {
            let port = 5001 + change % 2;
            let begin = Instant::now();
            stage.policy("b.yaml", &sets[usize::from(change % 2)]);
            let open = tap.wait(BOUND, |frame| {
                frame.at > begin
                    && frame.packet().and_then(|packet| packet.ports()).is_some_and(|ports| ports[1] == port)
            });
            assert!(open, "change {change} has no effect");
        }
        drop(end);
        sender.join().unwrap()
    });
    tap.settle();
    let mut came = vec![false; tries];
    for frame in tap.frames().iter() {
        came[number(&frame.bytes) as usize] = true;
    }
    let mut judged = [0, 0];
    for (number, three) in came.chunks_exact(3).enumerate() {
        if let [first, second, third] = *three
            && first == third
        {
            assert_ne!(
                first,
                second,
                "try {number}: {}",
                if first { "both ports are open" } else { "both are closed" }
            );
            judged[usize::from(first)] += 1;
        }
    }
    println!("{judged:?} tries under either set");
    assert!(judged.iter().all(|count| *count > 1000), "{judged:?}");
}

#[test]
fn deleting_the_policy_opens_again_n28() {
    let mut stage = stage(Layout::Routed, &["a", "b"]);
    stage.policy("b.yaml", &open("b", "7000/tcp"));
    stage.policy("deep/more.yml", &open("a", "7000/tcp"));
    stage.start();
    let flow =
        [dropped("a", "b", Port::Tcp(7001)), dropped("b", "a", Port::Udp(7001)), passes("a", "b", Port::Tcp(7000))];
    check(&stage, "with the policies", &flow);
    let revision = stage.view().word.revision;
    stage.remove_policy("b.yaml");
    stage.wait("the next revision", |view| view.word.revision > revision);
    let flow =
        [passes("a", "b", Port::Tcp(7001)), dropped("b", "a", Port::Udp(7001)), passes("a", "b", Port::Tcp(7000))];
    check(&stage, "with one policy deleted", &flow);
    stage.remove_policy("deep/more.yml");
    stage.until("nobody is isolated", || all_open(&stage));
    check(&stage, "with none", &[passes("a", "b", Port::Tcp(7001)), passes("b", "a", Port::Udp(7001))]);
}

/// No workload is isolated.
fn all_open(stage: &Stage) -> bool {
    let open = [enforcer_common::id::Row::NOT_ISOLATED; 2];
    stage.view().endpoints.iter().all(|endpoint| endpoint.rows == open)
}

/// Sends datagrams from `a` to `b`, one to each port in turn, until told to stop; gives how many. Each ends with its number. All
/// by one processor: they are handled in the order in which they are sent.
fn send_until(
    stage: &Stage,
    ports: &[u16],
    nonce: &[u8],
    pause: Duration,
    done: &AtomicBool,
    progress: &AtomicU64,
) -> usize {
    stay_on(processors()[0]);
    let source = SocketAddr::new(address(stage, "a", true), 0);
    let socket = stage.at("a").enter(|| UdpSocket::bind(source).unwrap()).unwrap();
    let mut sent = 0;
    while !done.load(Ordering::Relaxed) {
        for port in ports {
            let datagram = [nonce, &(sent as u64).to_be_bytes()].concat();
            // An ICMP error about the last one shows up here; then nothing was sent.
            while socket.send_to(&datagram, SocketAddr::new(address(stage, "b", true), *port)).is_err() {}
            sent += 1;
            progress.store(sent as u64, Ordering::Relaxed);
        }
        thread::sleep(pause);
    }
    sent
}
