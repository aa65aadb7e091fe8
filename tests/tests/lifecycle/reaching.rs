//! Devices inside a workload that end at no hook. If the lower device lies in the node's namespace, the workload is closed. Any
//! other is told by `status` and `explain`.

use enforcer::lab::{Layout, Name, Namespace};
use enforcer_tests::cases::Port;
use enforcer_tests::stage::Stage;
use enforcer_tests::traffic::{Attempt, Ground, Tap};

use super::common::{check, control, dropped, open, passes, stage};

const SERVICE: Port = Port::Tcp(7000);

/// Makes a macvlan on the node's bridge inside a workload, as a container with `CAP_NET_ADMIN` of the node can.
fn reach(stage: &Stage, name: &str) {
    let namespace = stage.at(name).path().file_name().unwrap().to_string_lossy().into_owned();
    stage.ip(stage.lab.node(), "link add link br0 name reach0 type macvlan mode bridge");
    stage.ip(stage.lab.node(), &format!("link set reach0 netns {namespace}"));
}

#[test]
fn a_device_on_one_of_the_nodes_closes_its_workload() {
    let mut stage = stage(Layout::Bridged, &["a", "b", "c"]);
    let all = [passes("a", "b", SERVICE), passes("b", "a", SERVICE), passes("b", "c", SERVICE)];
    control(&stage, &all);
    stage.start();
    check(&stage, "before", &all);
    // A macvlan on a device of its own is its own affair.
    stage.ip(stage.at("c"), "link add link eth0 name own0 type macvlan");

    reach(&stage, "a");
    let ifindex = stage.ifindex("a");
    let closed = move |view: &enforcer::kernel::status::StatusView| {
        view.endpoints.iter().any(|endpoint| endpoint.ifindex.0 == ifindex && endpoint.unknown)
    };
    stage.wait("a is closed", closed);
    let shut =
        [dropped("a", "b", SERVICE), dropped("b", "a", SERVICE), passes("b", "c", SERVICE), passes("c", "b", SERVICE)];
    check(&stage, "with the device", &shut);
    let told = || stage.status().0["troubles"].to_string();
    let lines = ["a workload has a device that bypasses its programs: t/a", "a workload is partly enforced: t/a"];
    stage.until("status tells, b05", || lines.iter().all(|line| told().contains(line)));
    assert!(told().contains("reach0") && !told().contains("own0"), "{}", told());
    stage.kill();
    stage.start();
    stage.wait("the next daemon", closed);
    check(&stage, "the next daemon", &shut);

    stage.ip(stage.at("a"), "link del reach0");
    stage.wait("a is open again", move |view| !closed(view));
    check(&stage, "without the device", &all);
}

/// Adds a device to a workload that lies on one outside, as SR-IOV and physical devices lead past the node, and addresses of a
/// link behind it. Returns what asks it there.
fn lead_past_the_node(stage: &Stage, name: &str) {
    let namespace = stage.at(name).path().file_name().unwrap().to_string_lossy().into_owned();
    let outside = stage.lab.outside();
    for (device, v4, v6) in [("near0", BESIDE[0].0, BESIDE[1].0), ("far0", BESIDE[0].1, BESIDE[1].1)] {
        stage.ip(outside, &format!("link add link eth0 name {device} type macvlan mode bridge"));
        let place = if device == "far0" {
            stage.ip(outside, &format!("link set far0 netns {namespace}"));
            stage.at(name)
        } else {
            outside
        };
        stage.ip(place, &format!("addr add {v4}/24 dev {device}"));
        stage.ip(place, &format!("addr add {v6}/64 dev {device} nodad"));
        stage.ip(place, &format!("link set {device} up"));
    }
}

/// Addresses beside the node: of the outside, and of a workload.
const BESIDE: [(&str, &str); 2] = [("10.99.0.1", "10.99.0.2"), ("fd99::1", "fd99::2")];

/// Joins two workloads by a veth that passes no program, as `containerlab` does.
fn join(stage: &Stage, one: &str, other: &str) {
    let namespace = stage.at(other).path().file_name().unwrap().to_string_lossy().into_owned();
    stage.ip(stage.at(one), &format!("link add l0 type veth peer name l1 netns {namespace}"));
    stage.ip(stage.at(one), "link set l0 up");
    stage.ip(stage.at(other), "link set l1 up");
}

/// A98, b05: `status` and `explain` claim no more than the hooks see.
#[test]
fn a_workload_with_a_device_past_the_hooks_is_partly_enforced() {
    let mut stage = stage(Layout::Bridged, &["a", "b", "c", "d"]);
    let nested = Namespace::create(&Name::unique(), "nested").unwrap();
    control(&stage, &[passes("b", "a", SERVICE)]);
    stage.policy("a.yaml", &open("a", ""));
    stage.start();
    check(&stage, "isolated", &[dropped("b", "a", SERVICE), passes("b", "c", SERVICE)]);
    // None of these leaves the hooks.
    stage.ip(stage.at("d"), "link add dummy0 type ifb");
    stage.ip(stage.at("d"), "link set dummy0 up");
    stage.ip(stage.at("d"), "link add link eth0 name own0 type macvlan");
    stage.ip(stage.at("d"), "link set own0 up");
    let inner = nested.path().file_name().unwrap().to_string_lossy().into_owned();
    stage.ip(stage.at("d"), &format!("link add l0 type veth peer name l1 netns {inner}"));
    stage.ip(stage.at("d"), "link set l0 up");
    stage.until("status tells of nothing", || stage.status().1 == 0);

    lead_past_the_node(&stage, "a");
    join(&stage, "b", "c");
    let told = || stage.status().0["troubles"].to_string();
    let lines = ["t/a", "t/b", "t/c"].map(|name| format!("a workload is partly enforced: {name} "));
    stage.until("status tells of each", || lines.iter().all(|line| told().contains(line)));
    let text = told();
    assert!(["far0 (macvlan)", "l0 (veth)", "l1 (veth)"].iter().all(|device| text.contains(device)), "{text}");
    assert!(!text.contains("t/d"), "{text}");
    let (status, code) = stage.status();
    assert_eq!(code, 1, "{status:#}");
    let table = || String::from_utf8(stage.command("status", &[]).stdout).unwrap();
    let row = |table: &str| table.lines().find(|line| line.contains("t/a ")).unwrap_or_default().to_owned();
    stage.until("the table says it too", || row(&table()).contains("partly enforced"));

    // What it tells is so: policy denies all, and it arrives.
    let attempts: Vec<Attempt<'_>> = BESIDE
        .iter()
        .map(|(source, destination)| Attempt {
            from: stage.lab.outside(),
            source: source.parse().unwrap(),
            to: stage.at("a"),
            destination: destination.parse().unwrap(),
            port: SERVICE,
            hoped: true,
            evidence: Tap::Stack,
        })
        .collect();
    let outcomes = Ground::prepare(&attempts).run(&attempts);
    assert!(outcomes.iter().all(|outcome| outcome.answered), "{outcomes:?}");
    check(&stage, "the veth is enforced as before", &[dropped("b", "a", SERVICE)]);
    for (source, destination) in BESIDE {
        let explain = || {
            let output = stage.command("explain", &["--from", source, "--to", destination, "--port", "7000/tcp"]);
            String::from_utf8(output.stdout).unwrap()
        };
        let wanted = format!("not judged: t/a is partly enforced: {destination} is on its device far0 (macvlan)");
        stage.until("explain tells", || explain().contains(&wanted));
        assert!(explain().ends_with("ALLOWED\n"), "{}", explain());
    }
    let output = stage.command("explain", &["--from", "t/b", "--to", "t/a", "--port", "7000/tcp"]);
    let text = String::from_utf8(output.stdout).unwrap();
    assert!(text.contains("t/a is partly enforced: this holds for its veths") && text.ends_with("DENIED\n"), "{text}");

    // The log says it once, whatever the container does.
    for _ in 0..3 {
        for (state, is_told) in [("down", false), ("up", true)] {
            stage.ip(stage.at("a"), &format!("link set far0 {state}"));
            stage.until("status follows", || told().contains(&lines[0]) == is_told);
        }
    }
    let log = std::fs::read_to_string(&stage.options.log).unwrap();
    let of_a = log.lines().filter(|line| line.contains("partly enforced") && line.contains("t/a ")).count();
    assert_eq!(of_a, 1, "{log}");

    // The next daemon tells it too, and without the devices all is well.
    stage.kill();
    stage.start();
    let told = || stage.status().0["troubles"].to_string();
    stage.until("the next daemon", || lines.iter().all(|line| told().contains(line)));
    stage.ip(stage.at("a"), "link del far0");
    stage.ip(stage.at("b"), "link del l0");
    stage.until("healthy", || stage.status().1 == 0);
}
