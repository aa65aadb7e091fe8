//! A connection that a policy change has cut does not come back because its client made it look over before.

use std::io::{ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::time::Duration;

use enforcer::lab::{Layout, UPLINK};
use enforcer_common::packet::tcp;
use enforcer_tests::net::wire::{Sender, Wire, device};
use enforcer_tests::packet::{Frame, Transport};
use enforcer_tests::stage::Stage;
use enforcer_tests::traffic::nonce;

use super::common::{address, change, connect, open, stage};

/// Longer than an entry lives whose connection is over, and the sweep after it.
const SILENCE: Duration = Duration::from_secs(13);

/// A connection of the outside to `a`.
struct Pair {
    v4: bool,
    client: TcpStream,
    server: TcpStream,
}

impl Pair {
    fn open(stage: &Stage, v4: bool) -> Self {
        let target = SocketAddr::new(address(stage, "a", v4), 7000);
        let listener = stage.at("a").enter(|| TcpListener::bind(target).unwrap()).unwrap();
        let client = connect(stage, "outside", target, v4);
        let (server, _) = listener.accept().unwrap();
        server.set_read_timeout(Some(Duration::from_millis(100))).unwrap();
        Self { v4, client, server }
    }

    /// Sends an RST of the client that the server ignores, since it is far out of its window.
    fn forge_reset(&self, stage: &Stage, sender: &Sender) {
        let [client, server] = [self.client.local_addr().unwrap(), self.client.peer_addr().unwrap()];
        let macs = [device(stage.lab.node(), UPLINK).unwrap().mac, device(stage.lab.outside(), "eth0").unwrap().mac];
        let transport = Transport::Tcp { source: client.port(), destination: server.port(), flags: tcp::RST };
        let base = Frame::new(client.ip(), server.ip(), transport);
        sender.send(&Frame { macs, numbers: [0, 0], ..base }.bytes()).unwrap();
    }
}

/// Whether bytes that one end writes come to the other.
fn comes(from: &mut TcpStream, to: &mut TcpStream) -> bool {
    let bytes = nonce();
    from.write_all(&bytes).unwrap();
    let (mut got, mut buffer) = (Vec::new(), [0; 256]);
    for _ in 0..150 {
        match to.read(&mut buffer) {
            Ok(length) => got.extend(&buffer[..length]),
            Err(error) if error.kind() == ErrorKind::WouldBlock => {}
            Err(error) => panic!("reset: {error}"),
        }
        if got.ends_with(&bytes) {
            return true;
        }
    }
    false
}

fn survives_nothing(layout: Layout) {
    let mut stage = stage(layout, &["a"]);
    stage.policy("a.yaml", &open("a", "7000/tcp"));
    stage.start();
    let sender = Sender::open(stage.lab.outside(), "eth0").unwrap();
    let mut pairs = [true, false].map(|v4| Pair::open(&stage, v4));
    for pair in &mut pairs {
        for _ in 0..3 {
            assert!(comes(&mut pair.client, &mut pair.server), "{layout:?}: allowed, IPv4 {}", pair.v4);
            assert!(comes(&mut pair.server, &mut pair.client), "{layout:?}: its answers, IPv4 {}", pair.v4);
            // Behind the acknowledgement of the last bytes.
            std::thread::sleep(Duration::from_millis(100));
            pair.forge_reset(&stage, &sender);
        }
    }
    change(&mut stage, |stage| stage.policy("a.yaml", &open("a", "7001/tcp")));
    std::thread::sleep(SILENCE);
    let at_outside = Wire::tap(stage.lab.outside(), |_| true).unwrap();
    let at_a = stage.tap("a");
    for pair in &mut pairs {
        let (heartbeat, data) = (nonce(), nonce());
        pair.server.write_all(&heartbeat).unwrap();
        std::thread::sleep(Duration::from_millis(300));
        pair.client.write_all(&data).unwrap();
        std::thread::sleep(Duration::from_millis(500));
        assert_eq!(at_outside.arrived(&heartbeat), 0, "{layout:?}: the server's heartbeat, IPv4 {}", pair.v4);
        assert_eq!(at_a.arrived(&data), 0, "{layout:?}: the client's data after it, IPv4 {}", pair.v4);
    }
}

#[test]
fn a_forbidden_connection_does_not_survive_by_resets_bridged() {
    survives_nothing(Layout::Bridged);
}

#[test]
fn a_forbidden_connection_does_not_survive_by_resets_routed() {
    survives_nothing(Layout::Routed);
}
