//! Containers in states that a list of running ones leaves out, and those of builds, which no list has.

use std::net::IpAddr;
use std::process::Stdio;

use enforcer_tests::cases::Port;
use enforcer_tests::podman::container::{Container, Outcome, PORT, SERVE};
use enforcer_tests::podman::{Host, IMAGE};
use serde_json::Value;

use super::{DB, OTHER, WEB, assert_enforced, assert_open, container, host, policy, wait_until_isolated};

/// Whatever the runtime calls the state of a container, its name holds while its namespace is there.
#[test]
fn a_container_keeps_its_name_in_every_state() {
    let mut host = host();
    let db = container(&mut host, "db", 10, &DB);
    let web = container(&mut host, "web", 11, &WEB);
    let other = container(&mut host, "other", 12, &OTHER);
    assert_open(&host, &db, &[&web, &other]);
    host.start(&["shop/db", "shop/web", "shop/other"]);

    // Paused: no list that asks for running containers has it. The events of others make the daemon ask again.
    host.podman(&["pause", "db"]);
    let late = container(&mut host, "late", 13, &WEB);
    host.wait_for(&["shop/late", "shop/db"]);
    let named = |host: &Host, name: &str| {
        let (status, _) = host.status();
        status["report"]["workloads"].as_array().unwrap().iter().any(|line| line["name"] == name)
    };
    assert!(named(&host, "shop/db"));
    host.podman(&["unpause", "db"]);
    assert_enforced(&host, &db, &late, &other);

    // Initialized: it has a namespace, and nothing runs in it. A state that the client library does not know.
    let next = host.join("net", ["10.233.0.14", "fd33::14"]);
    let create = ["create", "--name", "next", &next];
    host.podman(&[&create[..], &DB, &[IMAGE, "sh", "-c", SERVE]].concat());
    host.podman(&["init", "next"]);
    host.wait_for(&["shop/next", "shop/db"]);
    host.podman(&["start", "next"]);
    let next = Container::known("next", &["10.233.0.14", "fd33::14"]);
    next.wait_until_it_serves(&mut host);
    assert_eq!(other.ask(&host, &next, PORT), Outcome::Silence, "it is isolated from the start");

    // Stopping: it does not end before the runtime loses patience.
    let stubborn = host.join("net", ["10.233.0.15", "fd33::15"]);
    let run = ["run", "-d", "--name", "stubborn", &stubborn];
    host.podman(&[&run[..], &OTHER, &[IMAGE, "sh", "-c", "trap '' TERM; while :; do sleep 1; done"]].concat());
    host.wait_for(&["shop/stubborn"]);
    let mut stop = host.command("podman").args(["stop", "-t", "4", "stubborn"]).stdout(Stdio::null()).spawn().unwrap();
    let mut looks = 0;
    loop {
        let is_named = named(&host, "shop/stubborn");
        // Seen before this, it was still stopping.
        if stop.try_wait().unwrap().is_some() {
            break;
        }
        assert!(is_named, "while it stops");
        looks += 1;
        std::thread::sleep(std::time::Duration::from_millis(500));
    }
    assert!(stop.wait().unwrap().success() && looks > 1, "{looks} looks");
    host.until("stubborn is gone", |host| !named(host, "shop/stubborn") && host.status().1 == 0);

    // Renamed: the same object.
    host.podman(&["rename", "web", "front"]);
    host.wait_for(&["shop/front"]);
    let front = Container::known("front", &["10.233.0.11", "fd33::11"]);
    assert_enforced(&host, &db, &front, &other);
    host.purge();
    assert_eq!(other.ask(&host, &db, PORT), Outcome::Answered, "without enforcement");
}

/// A container that is created has no namespace, and one that is initialized has one in which nothing runs yet. What policy says
/// holds before its first process does.
#[test]
fn a_container_is_enforced_before_its_first_process_runs() {
    let mut host = host();
    let web = container(&mut host, "web", 11, &WEB);
    let other = container(&mut host, "other", 12, &OTHER);
    let create = |host: &Host, name: &str, addresses: [&str; 2]| {
        let (network, named) = (host.join("net", addresses), format!("NAME={name}"));
        let create = ["create", "--name", name, "--env", &named, &network];
        host.podman(&[&create[..], &DB, &[IMAGE, "sh", "-c", SERVE]].concat());
        Container::known(name, &addresses)
    };
    // Sends to all addresses of a container until the script ends: from before its start until it serves.
    let addressed = |host: &Host, to: &Container| {
        let at = |address: &IpAddr| if address.is_ipv4() { address.to_string() } else { format!("[{address}]") };
        let ask = |address| format!("timeout 1 wget -q -O - http://{}:{PORT}/name & ", at(address));
        let asked: String = to.addresses().iter().map(ask).collect();
        let script = format!("for round in 1 2 3; do {asked} wait; done");
        host.command("podman")
            .args(["exec", &other.name, "sh", "-c", &script])
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap()
    };
    let first = create(&host, "first", ["10.233.0.20", "fd33::20"]);
    host.podman(&["init", "first"]);
    addressed(&host, &first).wait().unwrap();
    assert!(first.segments(&host) > 0, "without enforcement");

    // The daemon starts beside one that is initialized and one that is created.
    let second = create(&host, "second", ["10.233.0.21", "fd33::21"]);
    host.start(&["shop/first", "shop/web", "shop/other"]);
    let (status, code) = host.status();
    assert_eq!(code, 0, "{status:#}");
    let is_listed = |status: &Value, name: &str| {
        status["report"]["workloads"].as_array().unwrap().iter().any(|line| line["name"] == name)
    };
    assert!(!is_listed(&status, "shop/second"), "nothing is there to enforce");
    host.podman(&["init", "second"]);
    host.wait_for(&["shop/second"]);
    for next in [&first, &second] {
        let before = next.segments(&host);
        let mut sending = addressed(&host, next);
        host.podman(&["start", &next.name]);
        next.wait_until_it_serves(&mut host);
        sending.wait().unwrap();
        assert_eq!(next.segments(&host), before, "{} was reached before its policy held", next.name);
        assert_enforced(&host, next, &web, &other);
    }
    let (status, code) = host.status();
    assert_eq!(code, 0, "{status:#}");
    host.purge();
    assert_open(&host, &first, &[&web, &other]);
    assert_open(&host, &second, &[&web, &other]);
}

/// What `RUN` of a build starts is in no list of podman's. A policy selects it by where it comes from.
#[test]
fn a_container_of_a_build_has_a_name_by_which_a_policy_selects_it() {
    let mut host = host();
    container(&mut host, "db", 10, &["--label", "app=db"]);
    let context = host.file("context");
    std::fs::create_dir(&context).unwrap();
    // What should be answered is asked until it is: on a busy machine the build gets its name late.
    let build = |host: &Host, tag: &str, hoped: bool| {
        let tries = if hoped { "1 2 3 4 5 6 7 8" } else { "1" };
        let ask = "timeout 2 wget -q -O - http://10.233.0.10:8080/name";
        let ask = format!("for try in {tries}; do {ask} && exit; sleep 1; done; echo no answer");
        let step = format!("FROM {IMAGE}\nRUN sleep 3; {ask} # {tag}\n");
        std::fs::write(context.join("Dockerfile"), step).unwrap();
        let network = host.network("net");
        host.podman(&["build", "--no-cache", "--network", &network, "-t", tag, context.to_str().unwrap()])
    };
    assert!(build(&host, "before", true).contains("\ndb\n"), "without enforcement");
    host.policy("db.yaml", &policy("default").replace("{app: web}", "{enforcer.dev/origin: build}"));
    host.start(&["default/db"]);
    let answer = build(&host, "named", true);
    assert!(answer.contains("\ndb\n"), "the rule names builds: {answer}");
    host.policy("db.yaml", &policy("default"));
    host.policy(
        "build.yaml",
        &policy("default").replace("name: db", "name: build").replace("{app: db}", "{enforcer.dev/origin: build}"),
    );
    wait_until_isolated(&mut host, "default/db", 1);
    let answer = build(&host, "denied", false);
    assert!(answer.contains("no answer"), "no rule names builds now: {answer}");
    let record = host
        .wait_record("the build's request", |record| record.to == "default/db" && record.port == Some(Port::Tcp(PORT)));
    assert!(record.from.starts_with("default/build-"), "{}", record.line);
    host.purge();
}
