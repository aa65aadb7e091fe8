//! Containers of a real podman, which `enforcer` knows only through the API socket. The tests check their names, what policy
//! lets pass between them, and the flow log, whenever the containers start and however they are connected.
//!
//! Every verdict is seen at the client and at the victim's TCP. Every denied request must get through once enforcement is
//! removed, because otherwise silence would prove nothing.

#![allow(clippy::unwrap_used, reason = "a failed step ends the test")]

mod states;
mod together;

use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};

use enforcer_tests::cases::Port;
use enforcer_tests::daemon::binary;
use enforcer_tests::podman::Host;
use enforcer_tests::podman::container::{Container, OTHER_PORT, Outcome, PORT};
use enforcer_tests::stage::log::Record;

/// Selects `app: db` in a namespace, and lets `app: web` reach one port of it. The name stands in line 4.
fn policy(namespace: &str) -> String {
    format!(
        "apiVersion: enforcer.dev/v1alpha1\n\
         kind: FlowPolicy\n\
         metadata:\n  \
           name: db\n  \
           namespace: {namespace}\n\
         spec:\n  \
           workloads: {{app: db}}\n  \
           isolate: [ingress]\n  \
           allow:\n    \
             - from: [{{workloads: {{app: web}}}}]\n      \
               ports: [8080/tcp]\n"
    )
}

const SHOP: [&str; 2] = ["--label", "enforcer.dev/namespace=shop"];
const DB: [&str; 4] = ["--label", "app=db", SHOP[0], SHOP[1]];
const WEB: [&str; 4] = ["--label", "app=web", SHOP[0], SHOP[1]];
const OTHER: [&str; 4] = ["--label", "app=other", SHOP[0], SHOP[1]];

/// A host with one network, `10.233.0.0/24` and `fd33::/64`, and the policy for `shop`.
fn host() -> Host {
    let mut host = Host::new();
    host.add_network("net", "10.233.0.0/24", "fd33::/64");
    host.policy("db.yaml", &policy("shop"));
    host.serve();
    host
}

/// A container on that network, serving.
fn container(host: &mut Host, name: &str, number: u8, options: &[&str]) -> Container {
    let addresses = [format!("10.233.0.{number}"), format!("fd33::{number}")];
    let container = Container::on(host, name, "net", [&addresses[0], &addresses[1]], options);
    container.wait_until_it_serves(host);
    container
}

/// Waits until so many policies isolate what a workload receives.
fn wait_until_isolated(host: &mut Host, workload: &str, policies: u64) {
    host.until(&format!("{policies} policies isolate {workload}"), |host| {
        let (status, _) = host.status();
        let lines = status["report"]["workloads"].as_array().cloned().unwrap_or_default();
        lines.iter().any(|line| line["name"] == workload && line["policies"][0] == policies)
    });
}

/// The client reaches the victim where the policy says so, and nowhere else.
fn assert_enforced(host: &Host, victim: &Container, allowed: &Container, denied: &Container) {
    assert_eq!(allowed.ask(host, victim, PORT), Outcome::Answered, "{} is named by the rule", allowed.name);
    assert_eq!(allowed.ask(host, victim, OTHER_PORT), Outcome::Silence, "the rule names one port");
    assert_eq!(denied.ask(host, victim, PORT), Outcome::Silence, "no rule names {}", denied.name);
}

/// Everybody reaches the victim at both ports.
fn assert_open(host: &Host, victim: &Container, clients: &[&Container]) {
    for client in clients {
        for port in [PORT, OTHER_PORT] {
            assert_eq!(client.ask(host, victim, port), Outcome::Answered, "{} without enforcement", client.name);
        }
    }
}

/// The flow log names both workloads, the container, the policy and its line, for each family.
fn assert_logged(host: &mut Host, from: &str, to: &str, policy: &str) {
    for v4 in [true, false] {
        let wanted = |record: &Record| {
            record.from == from
                && record.to == to
                && record.destination.is_some_and(|address| address.is_ipv4() == v4)
                && record.port == Some(Port::Tcp(PORT))
        };
        let record = host.wait_record(&format!("{from} to {to}, IPv{}", if v4 { 4 } else { 6 }), wanted);
        assert_eq!((record.direction.as_str(), record.reason.as_str()), ("INGRESS", "no-rule"), "{}", record.line);
        assert_eq!(record.policies, [format!("{policy} db.yaml:4")], "{}", record.line);
        assert_eq!(record.denied_by, [policy], "{}", record.line);
        assert!(record.count > 0, "{}", record.line);
        for (side, workload) in [("source", from), ("destination", to)] {
            let container = workload.split_once('/').unwrap().1;
            let label = format!("k8s:enforcer.dev/container={container}");
            let labels = record.line["flow"][side]["labels"].as_array().unwrap();
            assert!(labels.iter().any(|found| found == &label), "{label}: {}", record.line);
        }
    }
}

#[test]
fn containers_that_run_before_the_daemon() {
    let mut host = host();
    let db = container(&mut host, "db", 10, &DB);
    let web = container(&mut host, "web", 11, &WEB);
    let other = container(&mut host, "other", 12, &OTHER);
    // The same labels in another namespace: a policy speaks of its own.
    let foreign = container(&mut host, "foreign", 13, &["--label", "app=web"]);
    assert_open(&host, &db, &[&web, &other, &foreign]);

    host.start(&["shop/db", "shop/web", "shop/other", "default/foreign"]);
    assert_enforced(&host, &db, &web, &other);
    assert_eq!(foreign.ask(&host, &db, PORT), Outcome::Silence, "web of another namespace");
    assert_eq!(other.ask(&host, &web, PORT), Outcome::Answered, "no policy selects web");
    assert_eq!(db.ask(&host, &other, PORT), Outcome::Answered, "egress is not isolated");
    assert_logged(&mut host, "shop/other", "shop/db", "shop/db");
    assert_logged(&mut host, "default/foreign", "shop/db", "shop/db");
    let (status, code) = host.status();
    assert_eq!(code, 0, "{status:#}");

    host.purge();
    assert_open(&host, &db, &[&web, &other, &foreign]);
}

#[test]
fn containers_that_start_beside_the_daemon() {
    let mut host = host();
    host.start(&[]);
    let db = container(&mut host, "db", 10, &DB);
    let web = container(&mut host, "web", 11, &WEB);
    let other = container(&mut host, "other", 12, &OTHER);
    host.wait_for(&["shop/db", "shop/web", "shop/other"]);
    assert_enforced(&host, &db, &web, &other);
    assert_logged(&mut host, "shop/other", "shop/db", "shop/db");

    // The last resort of the README: no program of ours is needed to get rid of it.
    host.remove_pins();
    assert_open(&host, &db, &[&web, &other]);
}

#[test]
fn the_service_runs_with_the_capabilities_that_its_unit_grants() {
    let unit = Path::new(env!("CARGO_MANIFEST_DIR")).join("../deploy/enforcer.service");
    let unit = fs::read_to_string(unit).unwrap();
    let setting = |name: &str| {
        let line = unit.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix('='));
        line.unwrap_or_else(|| panic!("the unit has no {name}"))
    };
    let capabilities: Vec<String> =
        setting("CapabilityBoundingSet").split(' ').map(|name| name.replace("CAP_", "+").to_lowercase()).collect();
    let mut host = host();
    let db = container(&mut host, "db", 10, &DB);
    let web = container(&mut host, "web", 11, &WEB);
    let other = container(&mut host, "other", 12, &OTHER);
    assert_open(&host, &db, &[&web, &other]);

    let (node, options) = host.inside();
    let mut command = Command::new("nsenter");
    command.arg(format!("--net={}", node.display())).args(["setpriv", "--no-new-privs"]);
    command.arg(format!("--bounding-set=-all,{}", capabilities.join(","))).arg(binary());
    for word in setting("ExecStart").split(' ').skip(1) {
        match word {
            "/etc/enforcer/policies" => command.arg(host.policies()),
            "/var/log/enforcer/flows.json" => command.arg(host.flow_log()),
            other => command.arg(other),
        };
    }
    for (option, value) in options {
        command.arg(option).arg(value);
    }
    command.stdin(Stdio::null()).stdout(Stdio::null());
    host.start_by(command, &["shop/db", "shop/web", "shop/other"]);
    assert_enforced(&host, &db, &web, &other);
    assert_logged(&mut host, "shop/other", "shop/db", "shop/db");
    assert_eq!(host.status().0["report"]["discovery"], "by events", "CAP_NET_BROADCAST is granted");
    // Also what comes later is attached with these capabilities.
    let late = container(&mut host, "late", 13, &DB);
    host.wait_for(&["shop/late"]);
    assert_enforced(&host, &late, &web, &other);

    host.purge();
    assert_open(&host, &db, &[&web, &other]);
}

#[test]
fn a_container_that_starts_while_the_daemon_is_dead_is_unprotected_until_it_is_back() {
    let mut host = host();
    let db = container(&mut host, "db", 10, &DB);
    let web = container(&mut host, "web", 11, &WEB);
    let other = container(&mut host, "other", 12, &OTHER);
    host.start(&["shop/db", "shop/web", "shop/other"]);

    host.kill_daemon();
    let late = container(&mut host, "late", 13, &DB);
    let (status, code) = host.status();
    let troubles = status["troubles"].to_string();
    assert_eq!((code, status["daemon"].as_bool()), (1, Some(false)), "{status:#}");
    assert!(troubles.contains("no daemon runs") && troubles.contains("a new veth is unprotected"), "{troubles}");
    assert_open(&host, &late, &[&other]);
    assert_enforced(&host, &db, &web, &other);

    host.start(&["shop/db", "shop/web", "shop/other", "shop/late"]);
    assert_enforced(&host, &late, &web, &other);
    assert_enforced(&host, &db, &web, &other);
    assert_logged(&mut host, "shop/other", "shop/late", "shop/db");
    host.until("status is healthy", |host| host.status().1 == 0);

    host.purge();
    assert_open(&host, &late, &[&web, &other]);
}

#[test]
fn containers_that_come_back_with_another_address() {
    let mut host = host();
    let db = container(&mut host, "db", 10, &DB);
    let web = container(&mut host, "web", 11, &WEB);
    let other = container(&mut host, "other", 12, &OTHER);
    host.start(&["shop/db", "shop/web", "shop/other"]);
    assert_enforced(&host, &db, &web, &other);

    db.remove(&host);
    let db = container(&mut host, "db", 20, &DB);
    host.wait_for(&["shop/db"]);
    assert_enforced(&host, &db, &web, &other);

    // web moves, and somebody else gets the address that it had.
    web.remove(&host);
    let web = container(&mut host, "web", 21, &WEB);
    let heir = container(&mut host, "heir", 11, &OTHER);
    host.wait_for(&["shop/web", "shop/heir"]);
    assert_enforced(&host, &db, &web, &heir);
    assert_logged(&mut host, "shop/heir", "shop/db", "shop/db");

    host.purge();
    assert_open(&host, &db, &[&web, &other, &heir]);
}

#[test]
fn a_container_that_is_stopped_and_started_keeps_its_name_at_another_address() {
    let mut host = host();
    let mut db = Container::anywhere_on(&host, "db", "net", &DB);
    let mut web = Container::anywhere_on(&host, "web", "net", &WEB);
    let other = container(&mut host, "other", 212, &OTHER);
    for each in [&db, &web] {
        each.wait_until_it_serves(&mut host);
    }
    assert_open(&host, &db, &[&web, &other]);
    host.start(&["shop/db", "shop/web", "shop/other"]);
    assert_enforced(&host, &db, &web, &other);

    // Each in turn comes back elsewhere, and somebody whom no rule names has what it had.
    let mut heirs = Vec::new();
    for (moved, heir) in [(&mut db, "heir-of-db"), (&mut web, "heir-of-web")] {
        let (id, had) = (moved.id(&host), moved.addresses().to_vec());
        moved.stop(&host);
        let [v4, v6] = [0, 1].map(|family| had[family].to_string());
        let heir = Container::on(&host, heir, "net", [&v4, &v6], &OTHER);
        moved.start(&host, "net");
        assert_eq!(moved.id(&host), id, "it is the same container");
        assert!(moved.addresses().iter().all(|address| !had.contains(address)), "{:?} again", moved.addresses());
        for each in [&*moved, &heir] {
            each.wait_until_it_serves(&mut host);
        }
        heirs.push(heir);
    }
    host.wait_for(&["shop/db", "shop/web", "shop/other", "shop/heir-of-db", "shop/heir-of-web"]);
    assert_enforced(&host, &db, &web, &other);
    let [heir_of_db, heir_of_web] = &heirs[..] else { panic!("two have moved") };
    assert_eq!(heir_of_web.ask(&host, &db, PORT), Outcome::Silence, "an address that web had opens nothing");
    // The heir speaks first: other may still hold the neighbour entry of whoever had that address before.
    assert_eq!(heir_of_db.ask(&host, &other, PORT), Outcome::Answered, "egress is not isolated");
    assert_eq!(other.ask(&host, heir_of_db, OTHER_PORT), Outcome::Answered, "no policy selects who has db's address");
    assert_logged(&mut host, "shop/other", "shop/db", "shop/db");
    assert_logged(&mut host, "shop/heir-of-web", "shop/db", "shop/db");

    host.purge();
    assert_open(&host, &db, &[&web, &other, heir_of_web]);
}

#[test]
fn a_container_on_two_networks_is_enforced_on_both() {
    let mut host = host();
    host.add_network("two", "10.234.0.0/24", "fd34::/64");
    let second = host.join("two", ["10.234.0.10", "fd34::10"]);
    let db = container(&mut host, "db", 10, &[&DB[..], &[second.as_str()]].concat());
    let web = container(&mut host, "web", 11, &WEB);
    let other = container(&mut host, "other", 12, &OTHER);
    let web2 = Container::on(&host, "web2", "two", ["10.234.0.11", "fd34::11"], &WEB);
    let other2 = Container::on(&host, "other2", "two", ["10.234.0.12", "fd34::12"], &OTHER);
    let there = ["10.234.0.10".parse().unwrap(), "fd34::10".parse().unwrap()];
    for client in [&web2, &other2] {
        assert_eq!(client.ask_at(&host, &db, PORT, &there), Outcome::Answered, "without enforcement");
    }

    host.start(&["shop/db", "shop/web", "shop/other", "shop/web2", "shop/other2"]);
    assert_enforced(&host, &db, &web, &other);
    assert_eq!(web2.ask_at(&host, &db, PORT, &there), Outcome::Answered, "named by the rule");
    assert_eq!(web2.ask_at(&host, &db, OTHER_PORT, &there), Outcome::Silence, "the rule names one port");
    assert_eq!(other2.ask_at(&host, &db, PORT, &there), Outcome::Silence, "no rule names it");
    assert_logged(&mut host, "shop/other", "shop/db", "shop/db");
    assert_logged(&mut host, "shop/other2", "shop/db", "shop/db");

    host.purge();
    assert_open(&host, &db, &[&web, &other]);
    assert_eq!(other2.ask_at(&host, &db, PORT, &there), Outcome::Answered, "without enforcement");
}

#[test]
fn the_namespace_is_the_label_or_else_the_compose_project() {
    let mut host = host();
    host.policy("db.yaml", &policy("project"));
    let project = ["--label", "com.docker.compose.project=project"];
    let of_project = |app: &'static str| [&project[..], &["--label", app]].concat();
    let db = container(&mut host, "db", 10, &of_project("app=db"));
    let web = container(&mut host, "web", 11, &of_project("app=web"));
    let other = container(&mut host, "other", 12, &of_project("app=other"));
    // The label is stronger than the project: selected by no policy, and no web of the project either.
    let moved_db = container(&mut host, "moved-db", 13, &[&project[..], &DB].concat());
    let moved_web = container(&mut host, "moved-web", 14, &[&project[..], &WEB].concat());
    assert_open(&host, &db, &[&web, &other, &moved_web]);

    host.start(&["project/db", "project/web", "project/other", "shop/moved-db", "shop/moved-web"]);
    assert_enforced(&host, &db, &web, &other);
    assert_eq!(moved_web.ask(&host, &db, PORT), Outcome::Silence, "web of another namespace");
    assert_eq!(other.ask(&host, &moved_db, PORT), Outcome::Answered, "no policy selects it there");
    assert_logged(&mut host, "project/other", "project/db", "project/db");
    assert_logged(&mut host, "shop/moved-web", "project/db", "project/db");

    host.purge();
    assert_open(&host, &db, &[&web, &other, &moved_web]);
}
