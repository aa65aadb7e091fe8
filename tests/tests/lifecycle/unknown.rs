//! Tests of workloads that no source has named.

use std::time::Duration;

use enforcer::lab::Layout;
use enforcer_common::id::Direction;
use enforcer_common::verdict::Reason;
use enforcer_tests::cases::Port;
use enforcer_tests::net::wire::{PATIENCE, Sender};
use enforcer_tests::packet::parts::{Ipv6, ethernet, icmp};
use enforcer_tests::stage::Stage;
use enforcer_tests::traffic::nonce;

use super::common::{Flow, address, check, control, dropped, entry, inventory, passes, stage};

/// `u` in every direction.
fn flows(passing: bool) -> Vec<Flow> {
    let ports = [Port::Tcp(7000), Port::Udp(7000), Port::Icmp];
    let pairs = [("u", "a"), ("a", "u"), ("u", "outside"), ("outside", "u"), ("u", "node"), ("node", "u")];
    let flow = |(from, to)| ports.map(|port| Flow { from, to, port, passes: passing });
    pairs.into_iter().flat_map(flow).chain([passes("a", "outside", Port::Udp(7001))]).collect()
}

/// `a` is named, `u` is not.
fn half_named(layout: Layout) -> Stage {
    let stage = stage(layout, &["a", "u"]);
    stage.inventory(&inventory(&[entry(&stage, "a", "")]));
    stage
}

#[test]
fn strict_closes_bridged() {
    strict_closes(Layout::Bridged);
}

#[test]
fn strict_closes_routed() {
    strict_closes(Layout::Routed);
}

fn strict_closes(layout: Layout) {
    let mut stage = half_named(layout);
    control(&stage, &flows(true));
    stage.start();
    check(&stage, "strict is the default", &flows(false));
    resolves(&stage, layout);
    for direction in [Direction::Egress, Direction::Ingress] {
        stage.until(&format!("{direction:?}"), || stage.denied(direction, Reason::UnknownWorkload) >= 12);
    }
    let (status, _) = stage.status();
    assert_eq!(
        status["endpoints"].as_array().unwrap().iter().filter(|endpoint| endpoint["unknown"] == true).count(),
        1
    );
    shown(&stage, false, &[stage.host("u")]);
    explained(&stage, 1, "egress   denied: no source names the workload");
    let record = stage.wait_record("an unknown workload", |record| record.reason == "unknown-workload");
    assert!(record.from.is_empty() || record.to.is_empty(), "{record:#?}");
    stage.kill();
    check(&stage, "the daemon is dead", &flows(false));
    stage.start();
    stage.inventory(&inventory(&[entry(&stage, "a", ""), entry(&stage, "u", "")]));
    stage.wait("u is named", |view| view.endpoints.iter().all(|endpoint| !endpoint.unknown));
    check(&stage, "named, and nobody isolates it", &flows(true));
    stage.inventory(&inventory(&[entry(&stage, "a", "")]));
    stage.wait("u is unknown again", |view| view.endpoints.iter().any(|endpoint| endpoint.unknown));
    check(&stage, "no longer named", &flows(false));
}

/// ARP and neighbour discovery pass, and nothing hides in them.
fn resolves(stage: &Stage, layout: Layout) {
    let (tap, bytes) = (stage.tap("u"), nonce());
    let near = if layout == Layout::Bridged { "a" } else { "node" };
    stage.ip(stage.at("u"), "neigh flush all");
    let answers = |frame: &enforcer_tests::net::wire::Frame| !frame.outgoing && frame.bytes[12..14] == [0x08, 0x06];
    let before = tap.count(answers);
    check(stage, "after a flush", &[dropped("u", near, Port::Udp(7000))]);
    stage.until("ARP is answered", || tap.peek(answers) > before);
    let advertised = tap.wait(PATIENCE, |frame| {
        !frame.outgoing && frame.packet().is_some_and(|packet| packet.protocol == 58 && packet.body[0] == 136)
    });
    assert!(advertised, "neighbour discovery is answered");

    let sender = Sender::open(stage.at("u"), "eth0").unwrap();
    let route = stage.route("u", (layout == Layout::Bridged).then_some("a"));
    let (std::net::IpAddr::V6(source), std::net::IpAddr::V6(destination)) =
        (address(stage, "u", false), address(stage, "a", false))
    else {
        panic!("both are IPv6")
    };
    let victim = stage.tap("a");
    let body = icmp(135, 0, &[&[0; 4][..], &destination.octets(), &bytes, &[0; 900]].concat());
    let solicitation = Ipv6 { source, destination, next: 58, hop_limit: 255 }.packet(&body);
    sender.send(&ethernet(route, 0x86dd, &solicitation)).unwrap();
    sender.send(&ethernet(route, 0x0806, &[&bytes[..], &[0; 100]].concat())).unwrap();
    std::thread::sleep(Duration::from_millis(50));
    assert_eq!(victim.arrived(&bytes), 0, "a solicitation of 900 bytes, ARP of 124");
}

#[test]
fn open_lets_them_through() {
    let mut stage = half_named(Layout::Bridged);
    stage.options.unknown = Some("open");
    stage.policy(
        "a.yaml",
        &super::common::policy(
            "a",
            "[ingress]",
            &super::common::rule("from: [{workloads: {}}]", "any/tcp, any/udp, icmp"),
        ),
    );
    stage.start();
    let closed = [dropped("u", "a", Port::Tcp(7000)), dropped("u", "a", Port::Icmp)];
    check(&stage, "no selector matches it", &closed);
    let open = [
        passes("a", "u", Port::Tcp(7000)),
        passes("u", "outside", Port::Udp(7000)),
        passes("outside", "u", Port::Tcp(7000)),
        passes("u", "node", Port::Icmp),
        passes("node", "u", Port::Icmp),
    ];
    check(&stage, "open", &open);
    shown(&stage, true, &[stage.host("u")]);
    explained(&stage, 0, "egress   allowed: no source names the workload, and the daemon runs with --unknown open");
    stage.kill();
    explained(&stage, 0, "egress   allowed: no source names the workload, and the daemon runs with --unknown open");
    stage.start();
    stage.inventory(&inventory(&[entry(&stage, "a", ""), entry(&stage, "u", "")]));
    shown(&stage, true, &[]);
    let said = std::fs::read_to_string(&stage.options.log).unwrap();
    let groups = |line: &str| line.contains("uplinks={\"") && line.contains("workloads={\"veth0\", \"veth1\"}");
    assert!(said.lines().any(groups), "both groups in one line: {said}");
}

/// How many are unknown and where: in the report, as JSON and as text.
fn shown(stage: &Stage, open: bool, veths: &[&str]) {
    let told = serde_json::json!([open, veths.len(), veths]);
    stage.until("the unknown workloads are counted", || {
        let report = &stage.status().0["report"];
        serde_json::json!([report["unknown_open"], report["unknown_workloads"], report["unknown_veths"]]) == told
    });
    let text = String::from_utf8(stage.command("status", &[]).stdout).unwrap();
    let mode = if open { "open" } else { "strict (closed)" };
    let line = match veths {
        [] => format!("unknown     {mode}: none\n"),
        [veth] => format!("unknown     {mode}: 1 workload, {veth}\n"),
        _ => panic!("there is one"),
    };
    assert!(text.contains(&line), "{line}{text}");
}

/// What `explain` says of `u` to the outside.
fn explained(stage: &Stage, code: i32, line: &str) {
    for v4 in [true, false] {
        let [from, to] = ["u", "outside"].map(|name| address(stage, name, v4).to_string());
        let output = stage.command("explain", &["--from", &from, "--to", &to, "--port", "7000/udp"]);
        let text = String::from_utf8(output.stdout).unwrap();
        let errors = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.code() == Some(code) && text.contains(line), "{text}{errors}");
    }
}
