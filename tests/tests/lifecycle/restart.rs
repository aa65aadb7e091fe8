//! Bad files and restarts: what was in force stays in force, and the daemon says so. An unknown field never allows more (D9).

use std::fs;

use enforcer_common::id::Ifindex;

use enforcer::agent::state::StateDir;
use enforcer::lab::{Layout, UPLINK};
use enforcer_tests::cases::Port;
use enforcer_tests::net::wire::device;
use enforcer_tests::stage::Stage;

use nix::sys::signal::Signal;

use super::common::{Flow, add, addresses, check, control, dropped, entry, open, passes, stage};

const BAD: &str =
    "apiVersion: enforcer.dev/v1alpha1\nkind: FlowPolicy\nmetadata: {name: x, namespace: t}\nspec:\n  alow: []\n";
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

/// `status` tells of no trouble before long. What it says comes with the daemon's report.
fn until_healthy(stage: &Stage) {
    stage.until("no trouble", || {
        let (status, code) = stage.status();
        (code, status["troubles"].to_string().as_str()) == (0, "[]")
    });
}

/// The same of a trouble: `status` names all of this.
fn until_trouble(stage: &Stage, parts: &[&str]) {
    stage.until(&format!("a trouble with {parts:?}"), || {
        let (status, code) = stage.status();
        let troubles = status["troubles"].to_string();
        code == 1 && parts.iter().all(|part| troubles.contains(part))
    });
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
    until_healthy(&stage);
    let revision = stage.view().word.revision;
    stage.kill();
    until_trouble(&stage, &["no daemon"]);
    stage.policy("bad.yaml", BAD);
    stage.start();
    names_its_line(&stage, 8001);
    check(&stage, "beside a bad file", &FLOWS);
    until_trouble(&stage, &["bad.yaml:5", "alow"]);
    // Another restart: the sources are still there.
    stage.terminate();
    stage.start();
    names_its_line(&stage, 8002);
    check(&stage, "after another restart", &FLOWS);
    stage.remove_policy("bad.yaml");
    until_healthy(&stage);
    names_its_line(&stage, 8003);
    check(&stage, "repaired", &FLOWS);
    assert!(stage.view().word.revision >= revision);
}

const BAD_INVENTORY: &str = "workloads:\n  - {name: a, nmespace: t}\n";

#[test]
fn a_restart_beside_a_bad_inventory_goes_on_as_before() {
    let mut stage = two();
    control(&stage, &FLOWS);
    stage.start();
    let good = fs::read_to_string(stage.options.inventory.as_ref().unwrap()).unwrap();
    stage.kill();
    stage.inventory(BAD_INVENTORY);
    stage.start();
    names_its_line(&stage, 8001);
    check(&stage, "beside a bad file", &FLOWS);
    until_trouble(&stage, &["workloads.inventory.yaml:2", "nmespace"]);
    // A workload that comes now is closed, and a policy that changes now applies.
    add(&mut stage, "c");
    stage.ready();
    let revision = stage.view().word.revision;
    stage.policy("b.yaml", &open("b", "7000/tcp, 7002/tcp"));
    stage.wait("the new policy", |view| view.word.revision > revision);
    check(
        &stage,
        "c is not named",
        &[passes("a", "b", Port::Tcp(7002)), dropped("c", "b", Port::Tcp(7000)), dropped("c", "outside", Port::Udp(1))],
    );
    // Another restart: the sources are still there.
    stage.terminate();
    stage.start();
    names_its_line(&stage, 8002);
    check(&stage, "after another restart", &FLOWS);
    let entry = entry(&stage, "c", "");
    stage.inventory(&format!("{good}{entry}"));
    stage.wait("c is named", |view| view.endpoints.iter().all(|endpoint| !endpoint.unknown));
    until_healthy(&stage);
    check(&stage, "mended", &[passes("c", "b", Port::Tcp(7000)), dropped("c", "b", Port::Tcp(7001))]);
    names_its_line(&stage, 8003);
    // The text in force is the newest good one, though no workload here has changed by it.
    stage.inventory(&format!("{good}{entry}  - {{name: d, namespace: t, match: {{netns: enf-none}}}}\n"));
    let revision = stage.view().word.revision;
    let states = || Some(StateDir::at(fs::read_dir(stage.file("state")).ok()?.next()?.ok()?.path()));
    let kept = || states()?.load(revision).ok()??.workloads.remove("inventory");
    stage.until("it is kept", || kept().is_some_and(|text| text.contains("enf-none")));
}

#[test]
fn a_restart_beside_a_bad_inventory_without_sources_leaves_everything_as_it_is() {
    let mut stage = two();
    stage.start();
    let good = fs::read_to_string(stage.options.inventory.as_ref().unwrap()).unwrap();
    let revision = stage.view().word.revision;
    stage.kill();
    fs::remove_dir_all(stage.file("state")).unwrap();
    stage.inventory(BAD_INVENTORY);
    add(&mut stage, "c");
    stage.start();
    check(&stage, "as before", &FLOWS);
    check(&stage, "a new one is closed", &[dropped("c", "b", Port::Tcp(7000)), dropped("c", "outside", Port::Udp(1))]);
    until_trouble(&stage, &["workloads.inventory.yaml:2", "not known yet"]);
    assert_eq!(stage.view().word.revision, revision);
    stage.inventory(&good);
    until_healthy(&stage);
    names_its_line(&stage, 8001);
}

#[test]
fn a_veth_that_goes_before_any_plan_names_it_is_let_go_of() {
    let mut stage = two();
    stage.start();
    stage.kill();
    fs::remove_dir_all(stage.file("state")).unwrap();
    // Policies in force that nobody knows, and none to take their place: there is no plan until they are mended.
    stage.policy("bad.yaml", BAD);
    add(&mut stage, "c");
    stage.start();
    check(&stage, "a new one is closed", &[dropped("c", "b", Port::Tcp(7000))]);
    let ifindex = stage.ifindex("c");
    stage.remove("c");
    stage.wait("it is forgotten", |view| view.endpoints.iter().all(|endpoint| endpoint.ifindex != Ifindex(ifindex)));
    assert!(!stage.options.pin_dir.join(format!("flows-3/links/{ifindex}-from")).exists());

    // Another one gets the number of one that went, while the daemon does not look.
    add(&mut stage, "d");
    stage.ready();
    stage.daemon().signal(Signal::SIGSTOP);
    plug_again(&stage, "d");
    control(&stage, &[dropped("d", "outside", Port::Udp(7000))]);
    stage.daemon().signal(Signal::SIGCONT);
    stage.ready();
    check(&stage, "closed too", &[dropped("d", "b", Port::Tcp(7000)), dropped("d", "outside", Port::Udp(7000))]);
    check(&stage, "as before", &FLOWS);
}

/// Puts another veth in the place of a workload's, with the same number.
fn plug_again(stage: &Stage, name: &str) {
    let (index, host, inside) = (stage.ifindex(name), stage.host(name), stage.at(name));
    let space = inside.path().file_name().unwrap().to_string_lossy();
    stage.ip(stage.lab.node(), &format!("link del {host}"));
    stage.ip(stage.lab.node(), &format!("link add {host} index {index} type veth peer name eth0 netns {space}"));
    stage.ip(stage.lab.node(), &format!("link set dev {host} master br0 up"));
    stage.ip(inside, "link set dev eth0 up");
    let [v4, v6] = addresses(name);
    stage.ip(inside, &format!("addr add {v4}/16 dev eth0"));
    stage.ip(inside, &format!("addr add {v6}/64 dev eth0 nodad"));
    stage.ip(inside, "route add default via 10.88.0.1");
    stage.ip(inside, "-6 route add default via fd00:88::1");
}

#[test]
fn a_new_veth_is_closed_before_every_source_has_spoken() {
    for unknown in [None, Some("open")] {
        let mut stage = two();
        stage.options.unknown = unknown;
        stage.start();
        let links = |stage: &Stage| {
            let of = ["a", "b"].map(|name| stage.ifindex(name));
            let view = stage.view().endpoints.into_iter().filter(move |endpoint| of.contains(&endpoint.ifindex.0));
            view.map(|endpoint| (endpoint.from.id, endpoint.to.id, endpoint.unknown)).collect::<Vec<_>>()
        };
        let (before, revision) = (links(&stage), stage.view().word.revision);
        stage.kill();
        add(&mut stage, "c");
        let closed = [
            dropped("c", "b", Port::Tcp(7000)),
            dropped("c", "outside", Port::Udp(1)),
            dropped("outside", "c", Port::Icmp),
        ];
        control(&stage, &closed);
        // Takes connections and never answers.
        let socket = stage.file("podman.sock");
        let _silent = std::os::unix::net::UnixListener::bind(&socket).unwrap();
        stage.options.podman = Some(socket);
        let begin = std::time::Instant::now();
        stage.start();
        let took = begin.elapsed();
        assert!(took < std::time::Duration::from_secs(9), "closed after {took:?}, no source answers before 10 s");
        check(&stage, "closed", &closed);
        check(&stage, "what was attached stays as it was", &FLOWS);
        let uplink = device(stage.lab.node(), UPLINK).unwrap().index;
        assert!(
            stage.view().endpoints.iter().all(|endpoint| endpoint.ifindex != Ifindex(uplink)),
            "the way out is not closed"
        );
        until_trouble(&stage, &["not known yet"]);
        assert_eq!((links(&stage), stage.view().word.revision), (before, revision));
        assert_eq!(stage.ended(), Some(3), "a source is silent");
        check(&stage, "closed until somebody says who it is", &closed);
        check(&stage, "the daemon has ended", &FLOWS);
        stage.options.podman = None;
        stage.start();
        stage.wait("all sources have spoken", |view| view.word.revision > revision);
        check(&stage, "nobody names it", &closed.map(|flow| Flow { passes: unknown.is_some(), ..flow }));
    }
}

#[test]
fn at_the_very_first_start_nothing_is_closed_before_every_source_has_spoken() {
    let mut stage = two();
    let socket = stage.file("podman.sock");
    let _silent = std::os::unix::net::UnixListener::bind(&socket).unwrap();
    stage.options.podman = Some(socket);
    stage.start_only();
    stage.wait("the daemon is at work", |view| view.daemon);
    control(&stage, &FLOWS);
    stage.until("status says so", || stage.status().0["troubles"].to_string().contains("not known yet"));
    assert!(stage.view().endpoints.is_empty());
    assert_eq!(stage.ended(), Some(3));
    assert!(stage.view().endpoints.is_empty());
    control(&stage, &FLOWS);
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
    until_trouble(&stage, &["b.yaml:5", "alow"]);
    check(&stage, "the only policy is bad", &FLOWS);
    names_its_line(&stage, 8001);
    stage.policy("b.yaml", &open("b", "7000/tcp"));
    until_healthy(&stage);

    stage.inventory("workloads: [{name: a}]\n");
    until_trouble(&stage, &["inventory"]);
    check(&stage, "the inventory is bad", &FLOWS);
    names_its_line(&stage, 8002);
    stage.inventory(&good);
    until_healthy(&stage);
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
    assert!(
        fs::read_dir(&state).map_or(true, |mut left| left.next().is_none()),
        "state is left in {}",
        state.display()
    );
    stage.start();
    check(&stage, "begun anew", &[passes("a", "b", Port::Tcp(7000)), dropped("a", "b", Port::Udp(7001))]);
}
