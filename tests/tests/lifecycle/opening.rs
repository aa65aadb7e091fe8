//! Changes of the policy files that would open something wait until the files are quiet (D15); what closes does not.

use std::fs;
use std::thread::sleep;
use std::time::{Duration, Instant};

use enforcer::lab::Layout;
use enforcer_tests::cases::Port;
use enforcer_tests::stage::Stage;

use super::common::{check, control, dropped, open, passes, stage};
use super::writers::arriving;

/// Longer than a reading takes, and shorter than the wait below.
const PAUSE: Duration = Duration::from_millis(1200);
const WAIT: &str = "opening_wait_seconds: 3\n";
const BOUND: Duration = Duration::from_secs(20);

/// `b` is isolated, and only its port 7000 is open.
fn two(layout: Layout) -> Stage {
    let mut stage = stage(layout, &["a", "b"]);
    stage.settings(WAIT);
    stage.policy("b.yaml", &open("b", "7000/tcp"));
    control(&stage, &[dropped("a", "b", Port::Udp(5000)), passes("a", "b", Port::Tcp(7001))]);
    stage.start();
    check(&stage, "isolated", &[dropped("a", "b", Port::Udp(5000)), passes("a", "b", Port::Tcp(7000))]);
    stage
}

/// Waits until `status` says that something waits, or that nothing does.
fn until_waits(stage: &Stage, waits: bool) {
    let end = Instant::now() + BOUND;
    loop {
        let said = stage.status().0["report"]["opening_waits"] == waits;
        if said {
            return;
        }
        assert!(Instant::now() < end, "{}", stage.status().0);
        sleep(Duration::from_millis(50));
    }
}

fn files_that_go_and_come_back(layout: Layout) {
    let mut stage = two(layout);
    let policies = stage.options.policies.clone();
    let text = fs::read_to_string(policies.join("b.yaml")).unwrap();
    let arrived = arriving(&mut stage, |stage| {
        // As `git checkout` moves a file.
        fs::remove_file(policies.join("b.yaml")).unwrap();
        until_waits(stage, true);
        sleep(PAUSE);
        stage.policy("moved.yaml", &text);
        until_waits(stage, false);
        // As `rm -rf` and a new clone.
        fs::remove_file(policies.join("moved.yaml")).unwrap();
        fs::remove_dir(&policies).unwrap();
        sleep(PAUSE);
        fs::create_dir(&policies).unwrap();
        sleep(PAUSE);
        stage.policy("b.yaml", &text);
        sleep(PAUSE);
        // The same across a restart: the next daemon compares with what the last one had in force.
        stage.kill();
        fs::remove_file(policies.join("b.yaml")).unwrap();
        stage.start();
        until_waits(stage, true);
        stage.policy("b.yaml", &text);
        until_waits(stage, false);
    });
    assert_eq!(arrived, [0, 0]);
    let arrived = arriving(&mut stage, |stage| {
        fs::remove_file(policies.join("b.yaml")).unwrap();
        until_waits(stage, true);
        until_waits(stage, false);
        sleep(Duration::from_millis(200));
    });
    assert!(arrived.iter().all(|count| *count > 0), "a file that stays away opens: {arrived:?}");
}

#[test]
fn files_that_go_and_come_back_open_nothing_bridged() {
    files_that_go_and_come_back(Layout::Bridged);
}

#[test]
fn files_that_go_and_come_back_open_nothing_routed() {
    files_that_go_and_come_back(Layout::Routed);
}

#[test]
fn of_a_change_that_opens_and_closes_the_closing_part_comes_first() {
    let stage = two(Layout::Bridged);
    stage.policy("b.yaml", &open("b", "7001/tcp"));
    until_waits(&stage, true);
    let closed = [dropped("a", "b", Port::Tcp(7000)), dropped("a", "b", Port::Tcp(7001))];
    check(&stage, "what both allow is nothing", &closed);
    until_waits(&stage, false);
    check(&stage, "the new one", &[dropped("a", "b", Port::Tcp(7000)), passes("a", "b", Port::Tcp(7001))]);
    // What only closes comes at once, and nothing waits.
    stage.policy("b.yaml", &open("b", "7002/tcp, 7001/tcp"));
    until_waits(&stage, true);
    until_waits(&stage, false);
    let begin = Instant::now();
    stage.policy("b.yaml", &open("b", "7002/tcp"));
    while stage.status().0["report"]["opening_waits"] != false || Instant::now() < begin + PAUSE {
        assert!(Instant::now() < begin + BOUND);
        sleep(Duration::from_millis(50));
    }
    check(&stage, "closed at once", &[dropped("a", "b", Port::Tcp(7001)), passes("a", "b", Port::Tcp(7002))]);
}
