//! What the daemon tells by HTTP: it lives, it is ready, and its numbers are those of the wire.

use std::fs;
use std::io::{Read as _, Write as _};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::process::{Command, Stdio};
use std::str::FromStr;
use std::time::Duration;

use enforcer::lab::Layout;
use enforcer_common::id::Direction;
use enforcer_common::verdict::Reason;
use enforcer_tests::cases::Port;
use enforcer_tests::stage::Stage;
use enforcer_tests::traffic::nonce;

use super::common::{address, check, dropped, entry, inventory, open, place, stage};

const PLACE: SocketAddr = SocketAddr::new(std::net::IpAddr::V4(Ipv4Addr::LOCALHOST), 9847);
const BAD: &str =
    "apiVersion: enforcer.dev/v1alpha1\nkind: FlowPolicy\nmetadata: {name: x, namespace: t}\nspec:\n  alow: []\n";

/// Two workloads, of which `b` may be asked for 7000, and a daemon that listens.
fn two() -> Stage {
    let stage = stage(Layout::Bridged, &["a", "b"]);
    stage.policy("b.yaml", &open("b", "7000/tcp"));
    stage.settings("http_listen: 9847\n");
    stage
}

/// Status and body; `None`: nobody answers.
fn get(stage: &Stage, path: &str) -> Option<(u16, String)> {
    let answer = stage.lab.node().enter(|| {
        let mut stream = TcpStream::connect(PLACE).ok()?;
        stream.set_read_timeout(Some(Duration::from_secs(10))).ok()?;
        write!(stream, "GET {path} HTTP/1.1\r\nHost: x\r\n\r\n").ok()?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer).ok()?;
        Some(answer)
    });
    let answer = answer.unwrap()?;
    let (head, body) = answer.split_once("\r\n\r\n")?;
    Some((head.split(' ').nth(1)?.parse().ok()?, body.to_owned()))
}

fn until(stage: &Stage, path: &str, status: u16, says: &str) {
    let answers = |answer: (u16, String)| answer.0 == status && answer.1.contains(says);
    stage.until(&format!("{path}: {status} {says}"), || get(stage, path).is_some_and(answers));
}

fn metrics(stage: &Stage) -> String {
    let (status, text) = get(stage, "/metrics").unwrap();
    assert_eq!(status, 200, "{text}");
    text
}

/// The value of a series, as it is written with its labels; `None`: there is no such series.
fn value<T: FromStr>(text: &str, series: &str) -> Option<T> {
    text.lines().find_map(|line| line.strip_prefix(series)?.strip_prefix(' ')?.parse().ok())
}

/// The parser of Prometheus' own client takes the text.
fn parses(text: &str) {
    let program = "import sys; from prometheus_client.openmetrics import parser; \
                   print(len(list(parser.text_string_to_metric_families(sys.stdin.read()))))";
    let mut python = Command::new("/usr/bin/python3");
    python.args(["-c", program]).stdin(Stdio::piped()).stdout(Stdio::piped());
    let mut child = python.spawn().unwrap();
    child.stdin.take().unwrap().write_all(text.as_bytes()).unwrap();
    let output = child.wait_with_output().unwrap();
    assert!(output.status.success(), "python3-prometheus-client refuses this text, or is missing:\n{text}");
    let families: usize = String::from_utf8(output.stdout).unwrap().trim().parse().unwrap();
    assert_eq!(families, text.lines().filter(|line| line.starts_with("# TYPE ")).count());
}

#[test]
fn it_is_ready_after_the_first_set_and_a_source_with_errors_changes_only_numbers() {
    let mut stage = two();
    let good = inventory(&["a", "b"].map(|name| entry(&stage, name, "")));
    let holder = stage.lab.node().enter(|| TcpListener::bind(PLACE).unwrap()).unwrap();
    stage.start();
    check(&stage, "its port is taken", &[dropped("a", "b", Port::Udp(7000))]);
    stage.until("it says that it does not serve", || {
        let said = fs::read_to_string(&stage.options.log).unwrap();
        said.contains("cannot listen for HTTP requests; enforcement goes on without")
    });
    drop(holder);
    until(&stage, "/readyz", 200, "ok");

    // Of the sources of what is in force nothing is known, and one of them cannot be read.
    stage.kill();
    fs::remove_dir_all(stage.file("state")).unwrap();
    stage.inventory("workloads: [\n");
    stage.start_only();
    until(&stage, "/readyz", 503, "waits for the first list of workloads from inventory\n");
    until(&stage, "/livez", 200, "ok");
    check(&stage, "while it is not ready", &[dropped("a", "b", Port::Udp(7000))]);
    stage.inventory(&good);
    until(&stage, "/readyz", 200, "ok");

    let stale = "enforcer_source_stale_since_timestamp_seconds{source=\"policies\"}";
    assert_eq!(value(&metrics(&stage), "enforcer_config_reload_success"), Some(1.0));
    stage.policy("bad.yaml", BAD);
    stage.until("the numbers tell of it", || value(&metrics(&stage), stale).is_some_and(|since: f64| since > 1e9));
    let text = metrics(&stage);
    assert_eq!(value(&text, "enforcer_config_reload_success"), Some(0.0), "{text}");
    assert_eq!(value(&text, "enforcer_policy_errors_total{stage=\"read\"}"), Some(1.0), "{text}");
    until(&stage, "/readyz", 200, "ok");
    until(&stage, "/livez", 200, "ok");
    stage.remove_policy("bad.yaml");
    stage.until("it is over", || value(&metrics(&stage), "enforcer_config_reload_success") == Some(1.0));
    assert_eq!(value::<f64>(&metrics(&stage), stale), None);
}

#[test]
fn counters_move_by_the_packets_that_were_denied() {
    const SENT: u64 = 50;
    let mut stage = two();
    stage.start();
    until(&stage, "/readyz", 200, "ok");
    let denied = "enforcer_packets_total{direction=\"ingress\",verdict=\"denied\",reason=\"no-rule\"}";
    let flows = "enforcer_denied_flows_total{src_workload=\"t/a\",dst_workload=\"t/b\",direction=\"ingress\",\
                 reason=\"no-rule\"}";
    let before = metrics(&stage);
    parses(&before);
    assert_eq!(value::<u64>(&before, flows), None);
    let target = SocketAddr::new(address(&stage, "b", true), 9);
    let socket = place(&stage, "a").enter(|| UdpSocket::bind("0.0.0.0:0").unwrap()).unwrap();
    for _ in 0..SENT {
        socket.send_to(&nonce(), target).unwrap();
    }
    stage.until("all are counted", || {
        value(&metrics(&stage), denied) >= value(&before, denied).map(|count: u64| count + SENT)
    });
    stage.until("the flow log has told of it", || value::<u64>(&metrics(&stage), flows).is_some());
    let text = metrics(&stage);
    parses(&text);
    assert_eq!(value(&text, denied), value(&before, denied).map(|count: u64| count + SENT), "{text}");
    assert_eq!(value(&text, denied), Some(stage.denied(Direction::Ingress, Reason::NoRule)));
    assert_eq!(value(&text, "enforcer_policy_revision"), Some(stage.view().word.revision.0));
    assert_eq!(value(&text, "enforcer_endpoints{state=\"enforced\"}"), Some(2.0), "{text}");

    stage.remove("a");
    let enforced = || value(&metrics(&stage), "enforcer_endpoints{state=\"enforced\"}");
    stage.until("its veth is not counted any more", || enforced() == Some(1.0));
}
