//! The daemon is killed: at random moments, and at each of its system calls in turn. Nothing that is denied gets through,
//! and the next start converges.

#![allow(clippy::unwrap_used, clippy::print_stdout, reason = "part of tests, though the lint cannot tell")]

mod kernel_support;

use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use enforcer::kernel::{Kernel, KernelConfig, purge, status};
use enforcer::plan::Plan;
use enforcer::plan::WorkloadKey;
use enforcer_common::id::{Ifindex, Row};
use enforcer_common::image::Cell;
use enforcer_common::schema::Group;
use enforcer_tests::net::sh;
use kernel_support::{A, B, B_ADDRESS, ISOLATED, Rig, TestImage, apply, tree, with_rig, workload};

/// Names the pin directory to the child that is killed.
const CHILD: &str = "ENFORCER_TEST_PIN_DIR";
/// Tells the child to make one round and end.
const ONCE: &str = "ENFORCER_TEST_ONCE";

/// Tells the child that there are more devices.
const MORE: &str = "ENFORCER_TEST_MORE";
/// Share A's place in the endpoint array with B.
const OTHERS: [Ifindex; 2] = [Ifindex(A.0 + 2 * 4096), Ifindex(A.0 + 3 * 4096)];

/// Calls that change what is pinned, and those that wait.
const CALLS: &str = "bpf,rename,mkdir,unlink,rmdir,membarrier";

/// Not a test of its own: the process that the others kill.
#[test]
fn child() {
    let Some(pin_dir) = std::env::var_os(CHILD) else { return };
    let config = KernelConfig {
        pin_dir: pin_dir.into(),
        flows: 4096,
        flow_quota: 1024,
        icmp_error_bytes: 1280,
        judge_services: false,
        object: None,
    };
    let deny = TestImage::new(Cell::Deny);
    // Ends by itself if its parent is gone.
    let end = Instant::now() + Duration::from_secs(10);
    while Instant::now() < end {
        let Ok(mut kernel) = Kernel::open(&config) else {
            continue;
        };
        for turn in 0..2 {
            let mut plan = deny.plan(ISOLATED);
            // An address comes and goes, so that every step of a plan is run.
            if turn == 0 {
                plan.workloads[1].addresses.push(kernel_support::address("10.0.2.9"));
            }
            if std::env::var_os(MORE).is_some() {
                add_others(&mut plan, ISOLATED);
            }
            let _ = apply(&mut kernel, &plan);
        }
        kernel.detach(A).unwrap();
        kernel.attach_unknown(A).unwrap();
        if std::env::var_os(ONCE).is_some() {
            return;
        }
    }
}

fn add_others(plan: &mut Plan<'_>, row: Row) {
    for (key, ifindex) in (10..).zip(OTHERS) {
        plan.workloads.push(workload(WorkloadKey(key), ifindex, "10.0.3.2", row));
    }
}

fn own_child(rig: &Rig, program: &str, arguments: &[&str]) -> Command {
    let mut command = Command::new(program);
    command
        .args(arguments)
        .args(["--exact", "child", "--nocapture"])
        .env(CHILD, &rig.config.pin_dir)
        .stdout(Stdio::null());
    command
}

fn this_program() -> String {
    std::env::current_exe().unwrap().to_string_lossy().into_owned()
}

/// Lets a child be killed after a while.
fn kill_after(rig: &Rig, wait: Duration) {
    let mut child = own_child(rig, &this_program(), &[]).spawn().unwrap();
    std::thread::sleep(wait);
    child.kill().unwrap();
    child.wait().unwrap();
}

/// Lets a child be killed at its nth call. False: it has fewer and came to its end.
fn kill_at_call(rig: &Rig, n: u32) -> bool {
    let inject = format!("inject={CALLS}:signal=KILL:when={n}");
    let arguments = ["-f", "-qq", "-o", "/dev/null", "-e", &inject, &this_program()];
    let run = own_child(rig, "strace", &arguments).env(ONCE, "1").status();
    !run.expect("strace is needed: apt-get install strace").success()
}

/// The next start takes over what is there, and its first plan puts everything right.
fn converge(rig: &Rig, deny: &TestImage) -> Kernel {
    let mut kernel = rig.open();
    let _ = apply(&mut kernel, &deny.plan(ISOLATED));
    assert_eq!(kernel.verify().unwrap(), []);
    let pins = tree(&rig.config.pin_dir);
    let waiting = pins.iter().filter(|path| path.to_string_lossy().ends_with("-new"));
    assert_eq!(waiting.count(), 0, "left behind: {pins:?}");
    kernel
}

/// Sends what is denied all the time, and sees to it that nothing arrives.
fn under_denied_traffic(rig: &Rig, deny: &TestImage, work: impl FnOnce()) {
    struct Stop<'a>(&'a AtomicBool);
    impl Drop for Stop<'_> {
        fn drop(&mut self) {
            self.0.store(true, Ordering::Relaxed);
        }
    }
    let receiver = rig.receiver(80);
    receiver.set_nonblocking(true).unwrap();
    let (stop, sent) = (AtomicBool::new(false), AtomicU64::new(0));
    std::thread::scope(|scope| {
        scope.spawn(|| {
            let socket = rig.sender();
            while !stop.load(Ordering::Relaxed) {
                let _ = socket.send_to(b"nonce", (B_ADDRESS, 80));
                sent.fetch_add(1, Ordering::Relaxed);
                std::thread::sleep(Duration::from_micros(500));
            }
        });
        let _stop = Stop(&stop);
        work();
    });
    let sent = sent.load(Ordering::Relaxed);
    println!("{sent} denied packets sent");
    assert!(sent > 1000);
    let mut buffer = [0; 8];
    assert!(receiver.recv(&mut buffer).is_err(), "a denied packet came through");
    drop(receiver);
    // The sender was heard all the time: once allowed, its packets arrive.
    let mut kernel = rig.open();
    let _ = apply(&mut kernel, &deny.plan(Row::NOT_ISOLATED));
    assert_eq!(rig.arrive(80, 2), 2);
}

/// Links of B, which the child never detaches.
fn links(rig: &Rig) -> Vec<(status::LinkView, status::LinkView)> {
    let view = status::read(&rig.config.pin_dir).unwrap();
    let of_b = view.endpoints.into_iter().filter(|endpoint| endpoint.ifindex == B);
    of_b.map(|endpoint| (endpoint.from, endpoint.to)).collect()
}

#[test]
fn killed_at_any_moment_the_next_start_converges_and_nothing_gets_through() {
    const KILLS: u64 = 20;
    with_rig(|rig| {
        let deny = TestImage::new(Cell::Deny);
        drop(converge(rig, &deny));
        let before = links(rig);
        under_denied_traffic(rig, &deny, || {
            let mut random = 0x9e37_79b9_7f4a_7c15_u64 ^ u64::from(std::process::id());
            println!("seed {random:#x}");
            for _ in 0..KILLS {
                random ^= random << 13;
                random ^= random >> 7;
                random ^= random << 17;
                kill_after(rig, Duration::from_micros(5_000 + random % 250_000));
                drop(converge(rig, &deny));
            }
        });
        assert_eq!(links(rig), before);
    });
}

#[test]
fn killed_at_each_call_in_turn_the_next_start_converges_and_nothing_gets_through() {
    with_rig(|rig| {
        let deny = TestImage::new(Cell::Deny);
        drop(converge(rig, &deny));
        let before = links(rig);
        let mut calls = 0;
        under_denied_traffic(rig, &deny, || {
            while kill_at_call(rig, calls + 1) {
                calls += 1;
                assert!(calls < 1000, "the child never comes to its end");
                drop(converge(rig, &deny));
            }
        });
        println!("{calls} calls");
        assert!(calls > 50, "{calls}");
        assert_eq!(links(rig), before);
    });
}

#[test]
fn a_first_start_that_is_killed_at_any_call_is_finished_by_the_next() {
    // A start loads the programs, which takes long: a part of its calls each time, another part in the next process.
    const STRIDE: u32 = 5;
    with_rig(|rig| {
        let deny = TestImage::new(Cell::Deny);
        let mut call = 1 + std::process::id() % STRIDE;
        while kill_at_call(rig, call) {
            call += STRIDE;
            assert!(call < 1000, "the child never comes to its end");
            let kernel = rig.open();
            let attached = kernel.adopted().iter().any(|endpoint| endpoint.ifindex == B);
            assert!(kernel.is_first_run() || attached, "a veth of the first plan would be closed first: call {call}");
            drop(kernel);
            drop(converge(rig, &deny));
            assert_eq!(rig.arrive(80, 1), 0);
            purge(&rig.config.pin_dir).unwrap();
        }
        assert!(call > 100, "{call}");
    });
}

#[test]
fn an_image_of_another_layout_is_replaced_whenever_the_start_is_killed() {
    // As above; each round loads the programs two times.
    const STRIDE: u32 = 9;
    with_rig(|rig| {
        let deny = TestImage::new(Cell::Deny);
        drop(converge(rig, &deny));
        let before = links(rig);
        let (own, other) = (rig.group(Group::Policy), rig.config.pin_dir.join("policy-999"));
        let mut rounds = 0;
        under_denied_traffic(rig, &deny, || {
            let mut call = 1 + std::process::id() % STRIDE;
            loop {
                // The idle slot of the older image would allow by the rows of the new one.
                let mut kernel = rig.open();
                let _ = apply(&mut kernel, &TestImage::new(Cell::Allow).plan(Row::NONE));
                let _ = apply(&mut kernel, &deny.plan(ISOLATED));
                drop(kernel);
                std::fs::rename(&own, &other).unwrap();
                let killed = kill_at_call(rig, call);
                drop(converge(rig, &deny));
                assert!(!other.exists(), "call {call}");
                if !killed {
                    break;
                }
                rounds += 1;
                call += STRIDE;
                assert!(call < 1000, "the child never comes to its end");
            }
        });
        println!("{rounds} rounds");
        assert!(rounds > 5, "{rounds}");
        assert_eq!(links(rig), before);
    });
}

#[test]
fn between_two_writes_of_the_endpoint_hash_no_program_run_goes_on() {
    with_rig(|rig| {
        let deny = TestImage::new(Cell::Deny);
        for ifindex in OTHERS {
            let [name, peer] = ["v", "p"].map(|side| format!("{side}{ifindex}"));
            sh(&format!("ip link add {name} index {ifindex} type veth peer name {peer}"));
        }
        let mut kernel = rig.open();
        for _ in 0..2 {
            let mut plan = deny.plan(ISOLATED);
            add_others(&mut plan, Row::NOT_ISOLATED);
            let _ = apply(&mut kernel, &plan);
        }
        drop(kernel);
        // From here on every element is there, and each write replaces one.
        let trace = rig.config.pin_dir.parent().unwrap().with_extension("trace");
        let log = trace.to_string_lossy();
        let arguments = ["-f", "-qq", "-e", "trace=bpf,membarrier", "-o", &log, &this_program()];
        assert!(own_child(rig, "strace", &arguments).env(ONCE, "1").env(MORE, "1").status().unwrap().success());
        let text = std::fs::read_to_string(&trace).unwrap();
        std::fs::remove_file(&trace).unwrap();
        let (mut map, mut writes, mut waited) = (None, 0, true);
        for line in text.lines() {
            if line.contains("BPF_OBJ_GET,") && line.contains("/maps/ENDPOINTS_MORE\"") {
                map = line.rsplit("= ").next().map(|fd| format!("{{map_fd={fd},"));
            } else if line.contains("membarrier(") {
                waited = true;
            } else if line.contains("BPF_MAP_UPDATE_ELEM,") && map.as_ref().is_some_and(|map| line.contains(map)) {
                assert!(waited, "write {writes}: {line}");
                writes += 1;
                waited = false;
            }
        }
        assert!(writes >= 4, "{writes}: {text}");
    });
}
