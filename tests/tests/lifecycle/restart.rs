//! Bad files and restarts: what is in force stays, and says so.

use std::fs;

use enforcer::lab::Layout;
use enforcer_tests::cases::Port;
use enforcer_tests::stage::Stage;

use super::common::{Flow, check, control, dropped, open, passes, stage};

const BAD: &str = "apiVersion: enforcer.dev/v1alpha1\nkind: FlowPolicy\nmetadata: {name: x, namespace: t}\nspec:\n  alow: []\n";
const FLOWS: [Flow; 4] = [
    Flow { from: "a", to: "b", port: Port::Tcp(7000), passes: true },
    Flow { from: "a", to: "b", port: Port::Udp(7001), passes: false },
    Flow { from: "outside", to: "b", port: Port::Tcp(7001), passes: false },
    Flow { from: "b", to: "a", port: Port::Tcp(7001), passes: true },
];

fn two() -> Stage {
    let stage = stage(Layout::Bridged, &["a", "b"]);
    stage.policy("b.yaml", &open("b", "7000/tcp"));
    stage
}

/// `status` ends with this code before long. What it says comes with the daemon's report.
fn until_status(stage: &Stage, code: i32) -> String {
    stage.until(&format!("status exits {code}"), || stage.status().1 == code);
    stage.status().0["troubles"].to_string()
}

/// A denial of this port is named with the policy's place.
fn names_its_line(stage: &Stage, port: u16) {
    check(stage, "a flow of this time", &[dropped("a", "b", Port::Udp(port))]);
    let record = stage.wait_record("the denial", |record| record.port == Some(Port::Udp(port)));
    assert_eq!(record.policies, ["t/b b.yaml:4"], "{record:#?}");
    assert_eq!([record.from.as_str(), record.to.as_str()], ["t/a", "t/b"]);
}

#[test]
fn a_restart_beside_a_bad_policy_goes_on_as_before() {
    let mut stage = two();
    control(&stage, &FLOWS);
    stage.start();
    check(&stage, "before", &FLOWS);
    assert_eq!(until_status(&stage, 0), "[]");
    let revision = stage.view().word.revision;
    stage.kill();
    assert!(until_status(&stage, 1).contains("no daemon"));
    stage.policy("bad.yaml", BAD);
    stage.start();
    names_its_line(&stage, 8001);
    check(&stage, "beside a bad file", &FLOWS);
    let troubles = until_status(&stage, 1);
    assert!(troubles.contains("bad.yaml:5") && troubles.contains("alow"), "{troubles}");
    // Another restart: the sources are still there.
    stage.terminate();
    stage.start();
    names_its_line(&stage, 8002);
    check(&stage, "after another restart", &FLOWS);
    stage.remove_policy("bad.yaml");
    assert_eq!(until_status(&stage, 0), "[]");
    names_its_line(&stage, 8003);
    check(&stage, "repaired", &FLOWS);
    assert!(stage.view().word.revision >= revision);
}

#[test]
fn a_bad_policy_at_the_first_start_attaches_nothing() {
    let stage = two();
    stage.policy("bad.yaml", BAD);
    let output = stage.options.command().stderr(std::process::Stdio::piped()).output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(2), "{said}");
    for part in ["bad.yaml:5:3", "alow", "did you mean `allow`?", "nothing was attached"] {
        assert!(said.contains(part), "no `{part}` in {said}");
    }
    assert!(stage.view().endpoints.is_empty());
    control(&stage, &FLOWS);
}

#[test]
fn a_bad_inventory_at_the_first_start_attaches_nothing() {
    let stage = two();
    stage.inventory("workloads:\n  - {name: a, nmespace: t}\n");
    let output = stage.options.command().stderr(std::process::Stdio::piped()).output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(2), "{said}");
    assert!(said.contains("nmespace"), "{said}");
    assert!(stage.view().endpoints.is_empty());
    control(&stage, &FLOWS);
}

#[test]
fn a_bad_file_with_an_image_in_force_changes_nothing() {
    let mut stage = two();
    stage.start();
    let good = fs::read_to_string(stage.options.inventory.as_ref().unwrap()).unwrap();
    let revision = stage.view().word.revision;
    stage.policy("b.yaml", BAD);
    let troubles = until_status(&stage, 1);
    assert!(troubles.contains("b.yaml:5") && troubles.contains("alow"), "{troubles}");
    check(&stage, "the only policy is bad", &FLOWS);
    names_its_line(&stage, 8001);
    stage.policy("b.yaml", &open("b", "7000/tcp"));
    assert_eq!(until_status(&stage, 0), "[]");

    stage.inventory("workloads: [{name: a}]\n");
    let troubles = until_status(&stage, 1);
    assert!(troubles.contains("inventory"), "{troubles}");
    check(&stage, "the inventory is bad", &FLOWS);
    names_its_line(&stage, 8002);
    stage.inventory(&good);
    assert_eq!(until_status(&stage, 0), "[]");
    assert_eq!(stage.view().word.revision, revision, "nothing has changed in all that");
}

#[test]
fn stopping_leaves_enforcement_on_and_purge_takes_it_off() {
    let mut stage = two();
    stage.start();
    let busy = stage.command("purge", &[]);
    assert_eq!(busy.status.code(), Some(1), "not beside a daemon");
    stage.terminate();
    check(&stage, "stopped", &FLOWS);
    let purged = stage.command("purge", &[]);
    assert!(purged.status.success(), "{}", String::from_utf8_lossy(&purged.stderr));
    assert!(!stage.options.pin_dir.exists(), "the pins are gone");
    control(&stage, &FLOWS);
    assert_eq!(stage.command("status", &["--json"]).status.code(), Some(2), "nothing is enforced");
    assert!(stage.command("purge", &[]).status.success(), "there is nothing to do");
    let state = stage.file("state");
    assert!(fs::read_dir(&state).map_or(true, |mut left| left.next().is_none()), "state is left in {}", state.display());
    stage.start();
    check(&stage, "begun anew", &[passes("a", "b", Port::Tcp(7000)), dropped("a", "b", Port::Udp(7001))]);
}
