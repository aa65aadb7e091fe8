//! Containers of a real Docker, which `enforcer` knows only through the API's socket: user-defined networks, what compose makes,
//! published ports, builds of BuildKit, and containers that are created, paused and renamed. The `dockerd` is the test's own, in
//! its node.

#![allow(clippy::unwrap_used, reason = "a failed step ends the test")]

use std::io::{Read, Write};
use std::net::{IpAddr, SocketAddr, TcpStream};
use std::time::Duration;

use enforcer_tests::cases::Port;
use enforcer_tests::podman::container::{Container, OTHER_PORT, Outcome, PORT, SERVE};
use enforcer_tests::podman::{Host, IMAGE};

const POLICY: &str = "\
apiVersion: enforcer.dev/v1alpha1
kind: FlowPolicy
metadata: {name: db, namespace: shop}
spec:
  workloads: {app: db}
  isolate: [ingress]
  allow:
    - from: [{workloads: {app: web}}]
      ports: [8080/tcp]
";
/// What compose gives each container of a project.
const PROJECT: [&str; 2] = ["--label", "com.docker.compose.project=shop"];

/// A node with a user-defined network, as compose makes one for a project, and the policy.
fn host() -> Host {
    let mut host = Host::docker();
    host.add_network("net", "10.235.0.0/24", "fd35::/64");
    host.policy("db.yaml", POLICY);
    host
}

fn container(host: &mut Host, name: &str, number: u8, app: &str, more: &[&str]) -> Container {
    let addresses = [format!("10.235.0.{number}"), format!("fd35::{number}")];
    let app = format!("app={app}");
    let service = format!("com.docker.compose.service={name}");
    let options = [&PROJECT[..], &["--label", &app, "--label", &service], more].concat();
    let container = Container::on(host, name, "net", [&addresses[0], &addresses[1]], &options);
    container.wait_until_it_serves(host);
    container
}

fn assert_enforced(host: &Host, victim: &Container, allowed: &Container, denied: &Container) {
    assert_eq!(allowed.ask(host, victim, PORT), Outcome::Answered, "{} is named by the rule", allowed.name);
    assert_eq!(allowed.ask(host, victim, OTHER_PORT), Outcome::Silence, "the rule names one port");
    assert_eq!(denied.ask(host, victim, PORT), Outcome::Silence, "no rule names {}", denied.name);
}

/// Whether the outside gets an answer from a port that the node publishes.
fn published_answers(host: &Host, port: u16) -> bool {
    let node: IpAddr = "100.64.0.1".parse().unwrap();
    host.outside(|| {
        let Ok(mut stream) = TcpStream::connect_timeout(&SocketAddr::new(node, port), Duration::from_secs(2)) else {
            return false;
        };
        let asked = stream.write_all(b"GET /name HTTP/1.0\r\n\r\n");
        let mut answer = String::new();
        stream.set_read_timeout(Some(Duration::from_secs(2))).unwrap();
        asked.is_ok() && stream.read_to_string(&mut answer).is_ok() && answer.contains("200 OK")
    })
}

#[test]
fn containers_of_a_compose_project_are_named_and_enforced_whatever_their_state() {
    let mut host = host();
    let db = container(&mut host, "shop-db-1", 10, "db", &["--publish", "18080:8080"]);
    let web = container(&mut host, "shop-web-1", 11, "web", &[]);
    let other = container(&mut host, "shop-other-1", 12, "other", &[]);
    for client in [&web, &other] {
        assert_eq!(client.ask(&host, &db, PORT), Outcome::Answered, "{} without enforcement", client.name);
    }
    host.until("an answer without enforcement", |host| published_answers(host, 18_080));

    host.start(&["shop/shop-db-1", "shop/shop-web-1", "shop/shop-other-1"]);
    assert_enforced(&host, &db, &web, &other);
    assert!(!published_answers(&host, 18_080), "no rule names the outside");
    host.policy(
        "outside.yaml",
        &POLICY.replace("name: db", "name: outside").replace("{workloads: {app: web}}", "{cidr: 100.64.0.0/16}"),
    );
    host.until("the outside is named", |host| published_answers(host, 18_080));
    assert_enforced(&host, &db, &web, &other);

    // A container that is created has no namespace yet.
    let next = host.attach("net", ["10.235.0.14", "fd35::14"]);
    let next: Vec<&str> = next.iter().map(String::as_str).collect();
    let create = ["create", "--name", "shop-next-1", "--env", "NAME=shop-next-1", "--label", "app=db"];
    host.podman(&[&create[..], &PROJECT, &next, &[IMAGE, "sh", "-c", SERVE]].concat());
    let next = Container::known("shop-next-1", &["10.235.0.14", "fd35::14"]);

    // Another event makes the daemon ask again while the container is paused.
    host.podman(&["pause", "shop-db-1"]);
    let late = container(&mut host, "shop-late-1", 13, "web", &[]);
    host.wait_for(&["shop/shop-late-1", "shop/shop-db-1"]);
    host.podman(&["unpause", "shop-db-1"]);
    assert_enforced(&host, &db, &late, &other);
    host.podman(&["start", "shop-next-1"]);
    next.wait_until_it_serves(&mut host);
    host.wait_for(&["shop/shop-next-1"]);
    assert_enforced(&host, &next, &late, &other);

    host.podman(&["rename", "shop-db-1", "first"]);
    host.wait_for(&["shop/first"]);
    let first = Container::known("first", &["10.235.0.10", "fd35::10"]);
    assert_eq!(other.ask(&host, &first, PORT), Outcome::Silence, "a name does not decide");

    // What `network_mode: "service:vpn"` starts.
    let vpn = host.attach("net", ["10.235.0.20", "fd35::20"]);
    let vpn: Vec<&str> = vpn.iter().map(String::as_str).collect();
    let head = ["run", "-d", "--name", "vpn", "--label", "com.docker.compose.service=vpn"];
    host.podman(&[&head[..], &PROJECT, &vpn, &[IMAGE, "sleep", "1000"]].concat());
    let joined = ["--network=container:vpn", "--label", "app=db", "--label", "com.docker.compose.service=side"];
    let side = Container::run(&host, "side", &[&joined[..], &PROJECT].concat(), &["10.235.0.20", "fd35::20"]);
    side.wait_until_it_serves(&mut host);
    host.wait_for(&["shop/vpn"]);
    host.until("the sidecar is isolated", |host| {
        let (status, _) = host.status();
        let lines = status["report"]["workloads"].as_array().cloned().unwrap_or_default();
        lines.iter().any(|line| line["name"] == "shop/vpn" && line["policies"][0] != 0)
    });
    assert_enforced(&host, &side, &web, &other);
    let (status, code) = host.status();
    assert_eq!(code, 0, "{status:#}");
    host.purge();
    assert_eq!(other.ask(&host, &side, PORT), Outcome::Answered, "without enforcement");
}

/// db answers builds at both ports, and builds ask at one of them.
const BUILDS: &str = "\
apiVersion: enforcer.dev/v1alpha1
kind: FlowPolicy
metadata: {name: db}
spec:
  workloads: {app: db}
  isolate: [ingress]
  allow:
    - from: [{workloads: {enforcer.dev/origin: build}}]
      ports: [8080-8081/tcp]
---
apiVersion: enforcer.dev/v1alpha1
kind: FlowPolicy
metadata: {name: builds}
spec:
  workloads: {enforcer.dev/origin: build}
  isolate: [egress]
  allow:
    - to: [{workloads: {app: db}}]
      ports: [8080/tcp]
";

/// What `RUN` of a build with BuildKit starts is in no list of Docker's. Policies select it, and name it as a peer, by where it
/// comes from.
#[test]
fn a_container_of_a_build_of_buildkit_has_a_name_by_which_a_policy_selects_it() {
    let mut host = Host::docker();
    // BuildKit has the default network alone.
    let db = Container::run(&host, "db", &["--label", "app=db"], &[]);
    let addresses = ["IPAddress", "GlobalIPv6Address"].map(|field| {
        let address = host.podman(&["inspect", "-f", &format!("{{{{.NetworkSettings.{field}}}}}"), "db"]);
        address.parse::<IpAddr>().unwrap_or_else(|_| panic!("db has no {field}: {address:?}"))
    });
    db.wait_until_it_serves(&mut host);
    let context = host.file("context");
    std::fs::create_dir(&context).unwrap();
    // How many addresses of db answer a build at each port.
    let build = |host: &Host, tag: &str| {
        let [v4, v6] = addresses;
        let urls = format!("http://{v4}:$port/name http://[{v6}]:$port/name");
        // What should be answered is asked until it is: on a busy machine the build gets its name late.
        let tries = format!("tries=1; [ $port = {PORT} ] && tries='1 2 3 4 5 6 7 8'");
        let get = "for try in $tries; do name=$(timeout 2 wget -q -O - $url) && break; sleep 1; done";
        let ask = format!("{tries}; for url in {urls}; do ({get}; echo \"$port says $name\") & done");
        let step =
            format!("FROM {IMAGE}\nRUN sleep 3; for port in {PORT} {OTHER_PORT}; do {ask}; done; wait # {tag}\n");
        std::fs::write(context.join("Dockerfile"), step).unwrap();
        let mut command = host.command("docker");
        command.env("DOCKER_BUILDKIT", "1").args(["build", "--no-cache", "--progress=plain", "-t", tag]).arg(&context);
        let output = command.output().unwrap();
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(output.status.success(), "{said}");
        [PORT, OTHER_PORT].map(|port| said.matches(&format!("{port} says db")).count())
    };
    assert_eq!(build(&host, "before"), [2, 2], "without enforcement");

    host.policy("builds.yaml", BUILDS);
    host.start(&["default/db"]);
    assert_eq!(build(&host, "enforced"), [2, 0], "a policy selects builds, and a rule names them");
    for v4 in [true, false] {
        let record = host.wait_record("the build's request", |record| {
            let family = record.destination.is_some_and(|address| address.is_ipv4() == v4);
            family && record.to == "default/db" && record.port == Some(Port::Tcp(OTHER_PORT))
        });
        assert!(record.from.starts_with("default/build-"), "{}", record.line);
        assert_eq!((record.direction.as_str(), record.reason.as_str()), ("EGRESS", "no-rule"), "{}", record.line);
        assert_eq!(record.denied_by, ["default/builds"], "{}", record.line);
    }
    host.purge();
}
