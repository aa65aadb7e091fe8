//! Floods of denied packets: none of them arrives, and each of them is counted.

use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::time::{Duration, Instant};

use enforcer::lab::Layout;
use enforcer_common::id::Direction;
use enforcer_common::verdict::Reason;
use enforcer_tests::net::wire::{PATIENCE, Wire};
use enforcer_tests::stage::Stage;
use enforcer_tests::stage::log;
use enforcer_tests::traffic::{Service, nonce};
use nix::sys::signal::Signal;

use super::common::{Live, Numbers, address, open, policy, processors, stage, stay_on};

/// A stage whose `b` is open at 7000/tcp, and a socket of `a` to flood it by.
fn two() -> (Stage, UdpSocket) {
    let stage = stage(Layout::Bridged, &["a", "b", "c"]);
    stage.policy("b.yaml", &open("b", "7000/tcp"));
    let source = SocketAddr::new(address(&stage, "a", true), 0);
    let socket = stage.at("a").enter(|| UdpSocket::bind(source).unwrap()).unwrap();
    (stage, socket)
}

/// Packets by class, and what the records of the log say together.
#[derive(Debug)]
struct Account {
    logged: u64,
    suppressed: u64,
    lost: u64,
    recorded: u64,
    /// As the log says.
    said_lost: u64,
}

fn account(stage: &Stage, direction: Direction) -> Account {
    let counts = stage.view().denied.get(&(direction, Reason::NoRule)).copied().unwrap_or_default();
    let name = if direction == Direction::Egress { "EGRESS" } else { "INGRESS" };
    let records = stage.log();
    let of_direction = records.iter().filter(|record| record.reason == "no-rule" && record.direction == name);
    Account {
        logged: counts.logged,
        suppressed: counts.suppressed,
        lost: counts.lost,
        recorded: of_direction.map(|record| record.count).sum(),
        said_lost: log::lost(&stage.options.flow_log),
    }
}

/// Every packet is in one class, and the log says as much, whatever found room in the ring and in the log's queue.
fn balances(stage: &Stage, direction: Direction, sent: u64) -> Account {
    let mut last = account(stage, direction);
    let end = Instant::now() + Duration::from_mins(1);
    while Instant::now() < end && last.recorded + last.said_lost < sent {
        std::thread::sleep(Duration::from_millis(100));
        last = account(stage, direction);
    }
    assert_eq!(last.logged + last.suppressed + last.lost, sent, "{last:?}");
    assert_eq!(last.recorded, last.logged + last.suppressed, "{last:?}");
    assert_eq!(last.said_lost, last.lost, "{last:?}");
    last
}

/// Records that found no room in the log's queue, as the daemon says once a second.
fn merged(stage: &Stage) -> u64 {
    std::thread::sleep(Duration::from_secs(2));
    stage.status().0["report"]["flow_log_merged"].as_u64().unwrap()
}

#[test]
fn one_flow_and_a_thousand() {
    let (mut stage, socket) = two();
    let nonce = nonce();
    let tap = Wire::tap(stage.at("b"), move |frame| frame.holds(&nonce)).unwrap();
    let victim = address(&stage, "b", true);
    let target = |port: u16| SocketAddr::new(victim, port);
    socket.send_to(&nonce, target(9)).unwrap();
    assert_eq!(tap.arrives(&nonce, 1), 1, "positive control");
    stage.start();
    let _service = Service::open(stage.at("b"), stage.address("b", true), enforcer_tests::cases::Port::Tcp(7000));
    let live = Live::open(&stage, "c", "b", 7000, true, Duration::from_millis(5));
    let mut sent = 0;
    for _ in 0..50_000 {
        sent += u64::from(socket.send_to(&nonce, target(9)).is_ok());
    }
    for number in 0..50_000_u16 {
        sent += u64::from(socket.send_to(&nonce, target(10_000 + number % 1000)).is_ok());
    }
    let account = balances(&stage, Direction::Ingress, sent);
    println!("{account:?}");
    assert_eq!((account.said_lost, merged(&stage)), (0, 0), "the log keeps up: {account:?}");
    assert!(account.suppressed > account.logged, "a flood is not a line a packet: {account:?}");
    assert_eq!(tap.arrived(&nonce), 1, "only the control");
    assert!(live.goes_on(PATIENCE) && live.error().is_none(), "an allowed flow beside it");
}

/// A packet each of many flows; how many were sent.
fn flows(socket: &UdpSocket, victim: IpAddr, payload: &[u8], numbers: &mut Numbers) -> u64 {
    let ports = (0..5000).map(|_| 1 + numbers.below(65_000) as u16);
    ports.filter(|port| socket.send_to(payload, SocketAddr::new(victim, *port)).is_ok()).count() as u64
}

/// Fills the ring that nobody reads, and more. One processor fills it: all ways of the other are free then, and their
/// events find no room.
fn overflow(stage: &Stage, batch: &mut dyn FnMut()) {
    let counts = || stage.view().denied.get(&(Direction::Egress, Reason::NoRule)).copied().unwrap_or_default();
    let [first, second] = processors();
    let end = Instant::now() + Duration::from_mins(1);
    loop {
        stay_on(first);
        let (mut logged, mut since) = (counts().logged, Instant::now());
        while since.elapsed() < Duration::from_millis(1500) {
            assert!(Instant::now() < end, "the ring is not full: {:?}", counts());
            batch();
            let now = counts().logged;
            if now != logged {
                (logged, since) = (now, Instant::now());
            }
        }
        stay_on(second);
        for _ in 0..4 {
            batch();
        }
        // Else a pause of this thread was taken for a ring that takes no more.
        if first == second || counts().lost >= 1000 {
            return;
        }
    }
}

#[test]
fn what_is_lost_while_no_daemon_runs_is_told_by_the_next_one_once() {
    let (mut stage, socket) = two();
    stage.policy("a.yaml", &policy("a", "[egress]", ""));
    let (victim, nonce) = (address(&stage, "b", true), nonce());
    stage.start();
    stage.kill();
    let mut numbers = Numbers::new();
    let mut sent = 0;
    overflow(&stage, &mut || sent += flows(&socket, victim, &nonce, &mut numbers));
    stage.start();
    println!("{:?}", balances(&stage, Direction::Egress, sent));
    // The next ones say nothing twice, after a kill and after an orderly end, and tell what is new.
    stage.kill();
    stage.start();
    sent += flows(&socket, victim, &nonce, &mut numbers);
    balances(&stage, Direction::Egress, sent);
    stage.terminate();
    stage.start();
    sent += flows(&socket, victim, &nonce, &mut numbers);
    balances(&stage, Direction::Egress, sent);
}

#[test]
fn more_flows_than_there_is_room_for() {
    let (mut stage, socket) = two();
    // A limit would keep the queue from filling.
    stage.settings("flow_log_lines_per_second: 0\n");
    // At the sender: what a may send to b would fill its own share of the flow table.
    stage.policy("a.yaml", &policy("a", "[egress]", ""));
    let nonce = nonce();
    let tap = Wire::tap(stage.at("b"), move |frame| frame.holds(&nonce)).unwrap();
    let victim = address(&stage, "b", true);
    socket.send_to(&nonce, SocketAddr::new(victim, 9)).unwrap();
    assert_eq!(tap.arrives(&nonce, 1), 1, "positive control");
    stage.start();
    let mut numbers = Numbers::new();
    let mut sent = 0;
    let mut batch = || sent += flows(&socket, victim, &nonce, &mut numbers);
    // Nobody reads the ring until it has overflowed.
    stage.daemon().signal(Signal::SIGSTOP);
    overflow(&stage, &mut batch);
    // Ways are used anew while the daemon reads.
    stage.daemon().signal(Signal::SIGCONT);
    for _ in 0..4 {
        batch();
    }
    let account = balances(&stage, Direction::Egress, sent);
    println!("{account:?}");
    let merged = merged(&stage);
    println!("{merged} merged");
    assert!(merged > 0, "the queue was full: {account:?}");
    assert_eq!(tap.arrived(&nonce), 1, "only the control");
}

#[test]
fn a_flood_takes_few_lines_and_every_packet_of_it_is_counted() {
    let (mut stage, socket) = two();
    stage.policy("a.yaml", &policy("a", "[egress]", ""));
    stage.settings("flow_log_lines_per_second: 50\nflow_log_burst: 100\n");
    let nonce = nonce();
    let tap = Wire::tap(stage.at("b"), move |frame| frame.holds(&nonce)).unwrap();
    let victim = address(&stage, "b", true);
    socket.send_to(&nonce, SocketAddr::new(victim, 9)).unwrap();
    assert_eq!(tap.arrives(&nonce, 1), 1, "positive control");
    let begin = Instant::now();
    stage.start();
    let mut numbers = Numbers::new();
    let sent: u64 = (0..8).map(|_| flows(&socket, victim, &nonce, &mut numbers)).sum();
    // Another workload has its own bucket: what c sends is denied at b. The kernel merges what comes within a second of a flood.
    std::thread::sleep(Duration::from_secs(3));
    let source = SocketAddr::new(address(&stage, "c", true), 0);
    let other = stage.at("c").enter(|| UdpSocket::bind(source).unwrap()).unwrap();
    for port in 20_001..=20_020 {
        other.send_to(&nonce, SocketAddr::new(victim, port)).unwrap();
    }
    let account = balances(&stage, Direction::Egress, sent);
    balances(&stage, Direction::Ingress, 20);
    let records = stage.log();
    let (sums, lines): (Vec<_>, Vec<_>) =
        records.iter().filter(|record| record.direction == "EGRESS").partition(|record| record.destination.is_none());
    let most = 100 + 50 * (begin.elapsed().as_secs() + 1);
    println!("{account:?}: {} lines of at most {most}, and {} sums", lines.len(), sums.len());
    assert!(lines.len() as u64 <= most && lines.len() >= 100, "{} lines, at most {most}", lines.len());
    assert!(!sums.is_empty() && sums.len() as u64 <= begin.elapsed().as_secs() + 2, "{} sums", sums.len());
    assert!(sums.iter().all(|sum| sum.from == "t/a"), "a sum names its workload: {sums:#?}");
    let ports = records.iter().filter(|record| record.direction == "INGRESS" && record.from == "t/c");
    assert_eq!(ports.count(), 20, "each flow of the other workload has its line");
    let over = || stage.status().0["report"]["flow_log_over_limit"].as_u64().unwrap();
    stage.until("status says how many records there were", || over() + lines.len() as u64 >= account.logged);
    assert_eq!(tap.arrived(&nonce), 1, "only the control");
}

/// Packets that the files of the log tell of, those that are lost too, and how many files there are.
fn told(stage: &Stage) -> (u64, usize) {
    let (mut counted, mut files) = (0, 0);
    for entry in std::fs::read_dir(stage.options.flow_log.parent().unwrap()).unwrap() {
        let path = entry.unwrap().path();
        if path.to_string_lossy().starts_with(&*stage.options.flow_log.to_string_lossy()) {
            let mut records = log::read(&path);
            // What else is denied is not the test's: what a kernel sends to `b`, for example.
            records.retain(|record| record.reason == "no-rule" && record.direction == "EGRESS");
            counted += records.iter().map(|record| record.count).sum::<u64>() + log::lost(&path);
            files += 1;
        }
    }
    (counted, files)
}

#[test]
fn a_full_log_is_put_aside_and_no_packet_is_forgotten() {
    let (mut stage, socket) = two();
    stage.policy("a.yaml", &policy("a", "[egress]", ""));
    stage.settings("flow_log_lines_per_second: 0\nflow_log_mib: 1\nflow_log_kept_files: 90\n");
    stage.start();
    let (victim, nonce) = (address(&stage, "b", true), nonce());
    let mut numbers = Numbers::new();
    let mut sent = 0;
    for _ in 0..4 {
        sent += flows(&socket, victim, &nonce, &mut numbers);
        std::thread::sleep(Duration::from_millis(500));
    }
    // A daemon that ends gives the log two seconds, and on a busy machine that is not enough for all of it.
    stage.until("the log has all of them", || {
        std::thread::sleep(Duration::from_millis(300));
        told(&stage).0 >= sent
    });
    stage.terminate();
    let (counted, files) = told(&stage);
    let counts = stage.view().denied[&(Direction::Egress, Reason::NoRule)];
    assert_eq!((counts.logged + counts.suppressed + counts.lost, counted), (sent, sent));
    println!("{files} files");
    assert!(files > 2, "{files} files");
}
