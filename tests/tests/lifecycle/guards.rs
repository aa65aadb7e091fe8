//! The guards come with their devices, are shown, stay when the daemon is dead, are repaired, and go with `purge`.

use std::path::PathBuf;
use std::process::Command;

use enforcer::kernel::group_directory;
use enforcer::lab::{Layout, UPLINK};
use enforcer_common::schema::Group;
use enforcer_common::side::Side;
use enforcer_tests::net::tun::{Layer, Tun};
use enforcer_tests::net::wire::device;
use enforcer_tests::stage::Stage;

use super::common::stage;

/// Guards by device, as `status --json` shows them.
fn guards(stage: &Stage) -> Vec<(String, bool)> {
    let (status, _) = stage.status();
    let guards = status["guards"].as_array().unwrap().iter();
    let mut guards: Vec<(String, bool)> = guards
        .map(|guard| (guard["device"].as_str().unwrap().to_owned(), guard["attached"].as_bool().unwrap()))
        .collect();
    guards.sort();
    guards
}

fn all(names: &[&str]) -> Vec<(String, bool)> {
    names.iter().map(|name| ((*name).to_owned(), true)).collect()
}

fn pin(stage: &Stage, name: &str) -> PathBuf {
    let ifindex = device(stage.lab.node(), name).unwrap().index;
    let links = stage.options.pin_dir.join(group_directory(Group::Flows)).join("links");
    links.join(format!("{ifindex}-{}", Side::Guard.pin()))
}

fn detach(stage: &Stage, name: &str) {
    let output = Command::new("bpftool").args(["link", "detach", "pinned"]).arg(pin(stage, name)).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
}

#[test]
fn every_device_that_leads_to_no_workload_has_a_guard_that_status_shows() {
    let mut stage = stage(Layout::Bridged, &["a"]);
    stage.start();
    stage.until("the devices of the start", || guards(&stage) == all(&["br0", UPLINK]));
    let tap = Tun::open(stage.lab.node(), "tap0", Layer::Tap).unwrap();
    stage.until("a new device", || guards(&stage) == all(&["br0", "tap0", UPLINK]));

    detach(&stage, "tap0");
    std::fs::remove_file(pin(&stage, "br0")).unwrap();
    stage.ip(stage.lab.node(), "link set tap0 txqueuelen 77");
    stage.until("they are repaired", || guards(&stage) == all(&["br0", "tap0", UPLINK]) && pin(&stage, "br0").exists());

    drop(tap);
    stage.until("a device that is gone", || guards(&stage) == all(&["br0", UPLINK]));
    stage.kill();
    assert_eq!(guards(&stage), all(&["br0", UPLINK]), "without a daemon");
    detach(&stage, "br0");
    let (status, code) = stage.status();
    let troubles = status["troubles"].to_string();
    assert!(code == 1 && troubles.contains("a device that leads to no workload has no guard: br0"), "{troubles}");

    stage.start();
    stage.until("the next daemon", || guards(&stage) == all(&["br0", UPLINK]));
    stage.terminate();
    assert!(stage.command("purge", &[]).status.success());
    let left = stage.lab.node().enter(|| Command::new("bpftool").args(["net", "show"]).output().unwrap()).unwrap();
    let left = String::from_utf8_lossy(&left.stdout).into_owned();
    assert!(!left.contains("guard"), "{left}");
}
