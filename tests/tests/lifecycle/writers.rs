//! Files of policies and workloads that somebody is writing while the daemon runs: what is isolated stays isolated.

use std::fs::{self, File, OpenOptions};
use std::io::Write;
use std::net::{SocketAddr, UdpSocket};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, sleep};
use std::time::{Duration, Instant};

use enforcer::lab::Layout;
use enforcer_tests::cases::Port;
use enforcer_tests::net::wire::Wire;
use enforcer_tests::stage::Stage;
use enforcer_tests::traffic::nonce;

use super::common::{Done, address, check, control, dropped, open, passes, policy, stage};

/// Longer than the daemon waits for a quiet moment before it reads.
const SLOW: Duration = Duration::from_millis(1500);
/// How long a file without documents has to stay so.
const EMPTIED: Duration = Duration::from_secs(3);
/// How long an open file is waited for.
const LONGEST: Duration = Duration::from_secs(5);
const BOUND: Duration = Duration::from_secs(10);

/// `b` is isolated, and only its port 7000 is open.
fn two(layout: Layout) -> Stage {
    let mut stage = stage(layout, &["a", "b"]);
    stage.policy("b.yaml", &open("b", "7000/tcp"));
    control(&stage, &[dropped("a", "b", Port::Udp(5000))]);
    stage.start();
    check(&stage, "isolated", &[dropped("a", "b", Port::Udp(5000)), passes("a", "b", Port::Tcp(7000))]);
    stage
}

/// Sends datagrams to the closed port of `b` in both families while `work` runs, and gives how many of each arrive meanwhile.
pub(super) fn arriving(stage: &mut Stage, work: impl FnOnce(&mut Stage)) -> [usize; 2] {
    let nonce = nonce();
    let tap = Wire::tap(stage.at("b"), move |frame| !frame.outgoing && frame.holds(&nonce)).unwrap();
    let sockets = [true, false].map(|v4| {
        let (source, target) = (address(stage, "a", v4), address(stage, "b", v4));
        let socket = stage.at("a").enter(|| UdpSocket::bind(SocketAddr::new(source, 0)).unwrap()).unwrap();
        (socket, SocketAddr::new(target, 5000))
    });
    let done = AtomicBool::new(false);
    thread::scope(|scope| {
        scope.spawn(|| {
            while !done.load(Ordering::Relaxed) {
                for (socket, target) in &sockets {
                    // An ICMP error about the last one shows up here.
                    let _ = socket.send_to(&nonce, target);
                }
                sleep(Duration::from_millis(2));
            }
        });
        let _end = Done(&done);
        work(stage);
    });
    [[0x08, 0x00], [0x86, 0xdd]].map(|ethertype| tap.count(|frame| frame.bytes[12..14] == ethertype))
}

/// A writer that empties a file, and fills it again slowly.
fn write_slowly(path: &Path, text: &str) {
    let (first, second) = text.split_at(text.len() / 2);
    let mut file = File::create(path).unwrap();
    sleep(SLOW);
    file.write_all(first.as_bytes()).unwrap();
    sleep(SLOW);
    file.write_all(second.as_bytes()).unwrap();
    sleep(SLOW);
}

fn file(stage: &Stage) -> PathBuf {
    stage.options.policies.join("b.yaml")
}

/// Waits until the daemon's last word on its files is this; empty: it has no objection.
fn until_trouble(stage: &Stage, wanted: &str) {
    let troubles = || stage.status().0["troubles"].to_string();
    stage.until(wanted, || if wanted.is_empty() { troubles() == "[]" } else { troubles().contains(wanted) });
}

#[test]
fn a_policy_file_that_is_written_slowly_opens_nothing() {
    for layout in [Layout::Bridged, Layout::Routed] {
        let mut stage = two(layout);
        let text = open("b", "7000/tcp, 7001/tcp");
        let came = arriving(&mut stage, |stage| {
            write_slowly(&file(stage), &text);
            let asked = ["--from", "t/a", "--to", "t/b", "--port", "7001/tcp"];
            stage.until("the new text is in force", || stage.command("explain", &asked).status.success());
        });
        assert_eq!(came, [0, 0], "{layout:?}: datagrams passed while the file was written");
        check(&stage, "what was written", &[passes("a", "b", Port::Tcp(7001)), dropped("a", "b", Port::Udp(5000))]);
        // As a script does that writes with two commands: the file is closed, and empty or a comment, in between.
        let came = arriving(&mut stage, |stage| {
            for nothing in ["", "# written by a script\n"] {
                fs::write(file(stage), nothing).unwrap();
                sleep(SLOW);
                fs::write(file(stage), &text).unwrap();
                sleep(SLOW);
            }
        });
        assert_eq!(came, [0, 0], "{layout:?}: datagrams passed while the file was empty");
        // A file that stays empty is a removal: the same datagrams arrive, so the ways are open and the tap sees them.
        let began = Instant::now();
        let came = arriving(&mut stage, |stage| {
            fs::write(file(stage), "# b is free\n").unwrap();
            stage.wait("the removal", |view| {
                view.endpoints.iter().all(|endpoint| endpoint.rows == [enforcer_common::id::Row::NOT_ISOLATED; 2])
            });
            assert!(began.elapsed() >= EMPTIED, "{:?}", began.elapsed());
            sleep(Duration::from_millis(200));
        });
        assert!(
            came.iter().all(|count| *count > 0),
            "positive control, {came:?}: too little arrives at an open workload"
        );
    }
}

#[test]
fn a_policy_file_that_stays_open_is_refused_and_what_is_in_force_stays() {
    let mut stage = two(Layout::Bridged);
    let mut came = arriving(&mut stage, |stage| {
        // Nothing is missing in this file, but its writer may not have ended.
        let mut writer = OpenOptions::new().write(true).truncate(true).open(file(stage)).unwrap();
        writer.write_all(policy("a", "[egress]", "").as_bytes()).unwrap();
        sleep(LONGEST / 2);
        assert_eq!(stage.status().0["troubles"].to_string(), "[]", "it is waited for");
        until_trouble(stage, "open for writing");
        // A start beside it goes on with what is in force.
        stage.terminate();
        stage.start();
        until_trouble(stage, "open for writing");
        stage.kill();
        stage.start();
        // The writer dies: what it has written is a whole file, but for the end of a word.
        writer.write_all(b"  al").unwrap();
        drop(writer);
        until_trouble(stage, "b.yaml:");
    });
    assert_eq!(came, [0, 0], "datagrams passed");
    came = arriving(&mut stage, |stage| {
        fs::write(file(stage), open("b", "7000/tcp, 7001/tcp")).unwrap();
        until_trouble(stage, "");
    });
    assert_eq!(came, [0, 0], "datagrams passed");
    check(&stage, "repaired", &[passes("a", "b", Port::Tcp(7001)), dropped("a", "b", Port::Udp(5000))]);
}

#[test]
fn an_inventory_that_is_written_slowly_opens_nothing() {
    let mut stage = stage(Layout::Bridged, &["a", "b"]);
    // A workload that loses its name would be open.
    stage.options.unknown = Some("open");
    stage.policy("b.yaml", &open("b", "7000/tcp"));
    control(&stage, &[dropped("a", "b", Port::Udp(5000))]);
    stage.start();
    let path = stage.options.inventory.clone().unwrap();
    let text = fs::read_to_string(&path).unwrap();
    let came = arriving(&mut stage, |_| {
        write_slowly(&path, &text);
        sleep(SLOW);
        fs::write(&path, "").unwrap();
        sleep(SLOW);
        fs::write(&path, &text).unwrap();
        sleep(SLOW);
    });
    assert_eq!(came, [0, 0], "datagrams passed while the inventory was written");
    until_trouble(&stage, "");
    let came = arriving(&mut stage, |stage| {
        let writer = File::create(&path).unwrap();
        until_trouble(stage, "open for writing");
        stage.terminate();
        stage.start();
        drop(writer);
        sleep(EMPTIED / 2);
        fs::write(&path, &text).unwrap();
        until_trouble(stage, "");
    });
    assert_eq!(came, [0, 0], "datagrams passed while the inventory was open");
    // An inventory that stays empty counts in the end. A workload that lost its name by it is closed (D13).
    let came = arriving(&mut stage, |stage| {
        let end = Instant::now() + BOUND;
        fs::write(&path, "").unwrap();
        while stage.view().endpoints.iter().any(|endpoint| !endpoint.unknown) {
            assert!(Instant::now() < end, "an empty inventory never counts");
            sleep(Duration::from_millis(50));
        }
        sleep(Duration::from_millis(200));
    });
    assert_eq!(came, [0, 0], "datagrams passed after the workload had lost its name");
}
