//! Names that other people choose, on every surface on which they are shown: none may steer the terminal of a person who reads it,
//! pass for a line of its own, or hide what stands beside it.

use std::fs;
use std::process::{Command, Output};

use enforcer::flow::text::{json_escaped, misleads};
use enforcer::lab::Layout;
use enforcer_tests::cases::Port;
use enforcer_tests::daemon::binary;
use enforcer_tests::stage::Stage;

use super::common::{address, check, dropped, entry, inventory, open, place, stage};

/// For a device: 15 bytes at most. It clears the screen and turns the line round.
const DEVICE: &str = "v\u{1b}[2J\u{202e}x";
/// For a file, whose name must not have control characters.
const FILE: &str = "b\u{202e}lmay.yaml";
/// For a label: anything.
const VALUE: &str = "x\u{1b}]0;owned\u{7}\u{9b}2J\u{2066}\nTROUBLE: forged";

/// Text for people or programs holds nothing that steers, apart from its line ends.
fn is_plain(what: &str, text: &str) {
    for line in text.lines() {
        assert!(!line.chars().any(misleads), "{what}: {line:?} in\n{}", text.escape_debug());
        assert!(!line.starts_with("TROUBLE: forged"), "{what}: a name begins a line: {text}");
    }
}

fn shown(what: &str, output: &Output) -> String {
    let text = format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    is_plain(what, &text);
    text
}

fn enforcer(arguments: &[&str]) -> Output {
    Command::new(binary()).args(arguments).output().unwrap()
}

#[test]
fn hostile_names_steer_no_surface() {
    let mut stage = stage(Layout::Bridged, &["a", "b"]);
    let host = stage.host("a").to_owned();
    stage.ip(stage.lab.node(), &format!("link set dev {host} name {DEVICE}"));
    // YAML reads the escapes of JSON.
    let label = serde_json::to_string(VALUE).unwrap();
    let label = json_escaped(&label);
    let entries = [
        format!(
            "  - {{name: a, namespace: t, labels: {{app: a, evil: {label}}}, match: {{netns: {}}}}}\n",
            stage.at("a").path().display()
        ),
        entry(&stage, "b", ""),
    ];
    stage.inventory(&inventory(&entries));
    fs::write(stage.options.policies.join(FILE), open("b", "7000/tcp")).unwrap();
    stage.start();
    check(&stage, "isolated", &[dropped("a", "b", Port::Udp(5000))]);
    // A claim to somebody's address is a finding that names the device.
    let claimed = address(&stage, "b", true);
    stage.ip(place(&stage, "a"), &format!("addr add {claimed}/32 dev lo"));
    stage.wait_record("the denied datagrams", |record| record.from == "t/a");
    surfaces(&stage, "healthy");

    // A file that cannot be used, and a mistake whose source line cannot be shown as it is.
    let bad = stage.options.policies.join("c\u{202e}.yaml");
    fs::write(&bad, "kind: \"\u{200b}\u{61c}Nonsense\"\n").unwrap();
    stage.until("the trouble", || stage.status().1 == 1);
    surfaces(&stage, "refused");
    fs::remove_file(&bad).unwrap();
    stage.inventory(&format!("workloads: [{{name: {label}, match: {{interface: x}}}}]\n"));
    stage
        .until("the other trouble", || stage.status().0["troubles"].to_string().contains("workloads are not in force"));
    surfaces(&stage, "refused inventory");
    let asked = ["--from", "t/a", "--to", "t/\u{202e}", "--port", "1/tcp"];
    shown("explain of a workload that is not there", &stage.command("explain", &asked));
}

/// Asks everything that shows names.
fn surfaces(stage: &Stage, when: &str) {
    let text = shown(&format!("{when}: status"), &stage.command("status", &[]));
    assert!(text.contains("v\\u{1b}[2J\\u{202e}x"), "the device is named: {text}");
    let json = shown(&format!("{when}: status --json"), &stage.command("status", &["--json"]));
    let value: serde_json::Value = serde_json::from_str(&json).unwrap();
    let devices = value["endpoints"].as_array().unwrap().iter().map(|endpoint| endpoint["device"].as_str().unwrap());
    assert!(devices.into_iter().any(|device| device == DEVICE), "programs get the name as it is: {json}");
    let asked = ["--from", "t/a", "--to", "t/b", "--port", "5000/udp"];
    // What the daemon tells of itself is up to a second old.
    stage.until("the file is named", || {
        let text = shown(&format!("{when}: explain"), &stage.command("explain", &asked));
        text.contains("b\\u{202e}lmay.yaml:4")
    });
    let policies = stage.options.policies.to_str().unwrap();
    shown(&format!("{when}: validate"), &enforcer(&["validate", policies]));
    let log = stage.options.flow_log.to_str().unwrap();
    let text = shown(&format!("{when}: flows"), &enforcer(&["flows", log]));
    assert!(text.contains("t/a"), "{text}");
    shown(&format!("{when}: flows as JSON"), &enforcer(&["flows", "-o", "json", log]));
    let lines = fs::read_to_string(log).unwrap();
    is_plain(&format!("{when}: the flow log"), &lines);
    assert!(lines.contains("\\u001b]0;owned"), "the label is told: {lines}");
    stage.until("the log names the device", || {
        let lines = fs::read_to_string(&stage.options.log).unwrap();
        is_plain(&format!("{when}: the daemon's log"), &lines);
        lines.contains("v\\u{1b}")
    });
}
