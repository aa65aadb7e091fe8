//! Tests of TCP connections that were open before the first attach (D10).

use std::io::{ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::time::{Duration, Instant};

use enforcer::lab::Layout;
use enforcer_tests::net::wire::{PATIENCE, Wire};
use enforcer_tests::stage::Stage;
use enforcer_tests::traffic::nonce;

use super::common::{address, connect, place, policy, rule, stage};

/// Both ends of a connection.
struct Pair {
    client: TcpStream,
    server: TcpStream,
    at_client: &'static str,
    at_server: &'static str,
}

impl Pair {
    fn open(stage: &Stage, from: &'static str, to: &'static str, port: u16, v4: bool) -> Self {
        let target = SocketAddr::new(address(stage, to, v4), port);
        let listener = place(stage, to).enter(|| TcpListener::bind(target).unwrap()).unwrap();
        let client = connect(stage, from, target, v4);
        let (server, _) = listener.accept().unwrap();
        server.set_read_timeout(Some(Duration::from_millis(100))).unwrap();
        Self { client, server, at_client: from, at_server: to }
    }

    /// The client writes: whether it arrives. `hoped`: it should, so it may take its time.
    fn asks(&mut self, stage: &Stage, hoped: bool) -> bool {
        delivered(stage, &mut self.client, &mut self.server, self.at_server, hoped)
    }

    /// The server writes: whether it arrives.
    fn tells(&mut self, stage: &Stage, hoped: bool) -> bool {
        delivered(stage, &mut self.server, &mut self.client, self.at_client, hoped)
    }
}

/// Writes bytes; whether the other end reads them, or any frame with them comes to its namespace.
fn delivered(stage: &Stage, from: &mut TcpStream, to: &mut TcpStream, at: &str, hoped: bool) -> bool {
    let bytes = nonce();
    let tap = Wire::tap(place(stage, at), move |frame| !frame.outgoing && frame.holds(&bytes)).unwrap();
    from.write_all(&bytes).unwrap();
    let mut got = Vec::new();
    let mut buffer = [0; 256];
    // Longer than TCP's first retransmission.
    let (begin, patience) = (Instant::now(), if hoped { PATIENCE } else { Duration::from_millis(500) });
    while begin.elapsed() < patience {
        match to.read(&mut buffer) {
            Ok(length) => got.extend(&buffer[..length]),
            Err(error) if error.kind() == ErrorKind::WouldBlock => {}
            Err(error) => panic!("reset: {error}"),
        }
        if got.ends_with(&bytes) {
            return true;
        }
    }
    assert_eq!(tap.arrived(&bytes), 0, "its bytes came and were not read");
    false
}

/// `b` may be asked for 7000 by everybody and may ask nobody; `a` may ask `b` for 7000.
fn closed(layout: Layout) -> Stage {
    let stage = stage(layout, &["a", "b"]);
    stage.policy("b.yaml", &policy("b", "[ingress, egress]", &rule("from: anywhere", "7000/tcp")));
    stage.policy("a.yaml", &policy("a", "[ingress, egress]", &rule("to: [{workloads: {app: b}}]", "7000/tcp")));
    stage
}

#[test]
fn connections_from_before_survive_in_their_role_bridged() {
    survive(Layout::Bridged);
}

#[test]
fn connections_from_before_survive_in_their_role_routed() {
    survive(Layout::Routed);
}

fn survive(layout: Layout) {
    let mut stage = closed(layout);
    let both = [true, false];
    let mut asked = both.map(|v4| Pair::open(&stage, "a", "b", 7000, v4));
    let mut told = both.map(|v4| Pair::open(&stage, "a", "b", 7000, v4));
    let mut told_outside = both.map(|v4| Pair::open(&stage, "outside", "b", 7000, v4));
    let mut told_node = both.map(|v4| Pair::open(&stage, "node", "b", 7001, v4));
    let mut forbidden = both.map(|v4| Pair::open(&stage, "a", "b", 7001, v4));
    let mut forbidden_told = both.map(|v4| Pair::open(&stage, "outside", "b", 7001, v4));
    let all = [&mut asked, &mut told, &mut told_outside, &mut told_node, &mut forbidden, &mut forbidden_told];
    for pair in all.into_iter().flatten() {
        assert!(pair.asks(&stage, true) && pair.tells(&stage, true), "positive control");
    }
    stage.start();
    for _ in 0..2 {
        for at in 0..2 {
            assert!(asked[at].asks(&stage, true), "the client of an allowed connection writes");
            assert!(told[at].tells(&stage, true), "only the server writes");
            assert!(told_outside[at].tells(&stage, true), "only the server writes, to the outside");
            assert!(told_node[at].tells(&stage, true), "only the server writes, to its node");
            assert!(!forbidden[at].asks(&stage, false), "a forbidden connection is cut");
            assert!(!forbidden_told[at].tells(&stage, false), "a forbidden connection of the outside is cut");
        }
    }
    stage.kill();
    for at in 0..2 {
        assert!(told[at].tells(&stage, true) && told_outside[at].asks(&stage, true), "the daemon is dead");
        assert!(!forbidden[at].tells(&stage, false), "forbidden in the other direction too");
    }
}

#[test]
fn without_the_window_a_reply_without_state_is_a_new_flow() {
    let mut stage = closed(Layout::Bridged);
    stage.settings("older_connections_seconds: 0\n");
    let both = [true, false];
    let mut told = both.map(|v4| Pair::open(&stage, "outside", "b", 7000, v4));
    let mut asked = both.map(|v4| Pair::open(&stage, "a", "b", 7000, v4));
    for pair in told.iter_mut().chain(&mut asked) {
        assert!(pair.asks(&stage, true) && pair.tells(&stage, true), "positive control");
    }
    stage.start();
    for pair in &mut told {
        assert!(!pair.tells(&stage, false), "b may open nothing to the outside");
    }
    for pair in &mut asked {
        assert!(pair.asks(&stage, true) && pair.tells(&stage, true), "judged in its own direction it is allowed");
    }
}

#[test]
fn the_window_ends() {
    let mut stage = closed(Layout::Bridged);
    stage.settings("older_connections_seconds: 6\n");
    let mut early = Pair::open(&stage, "outside", "b", 7000, true);
    let mut late = Pair::open(&stage, "outside", "b", 7000, true);
    assert!(late.asks(&stage, true) && late.tells(&stage, true), "positive control");
    stage.start();
    assert!(early.tells(&stage, true), "within the window");
    std::thread::sleep(Duration::from_secs(7));
    assert!(!late.tells(&stage, false), "after the window");
    assert!(early.tells(&stage, true), "what has state by then goes on");
}
