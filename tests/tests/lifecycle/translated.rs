//! What a workload sends to a Service is judged by the backend that the node chooses (D5, N16), with a real NAT of the kernel.
//!
//! `a` is isolated and may send to `b` on port 7000. The address of the Service leads to `b`, to `c`, to the node, or back to `a`,
//! by its port; what the node does not translate would leave by its default route.

use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::time::Duration;

use enforcer::lab::Layout;
use enforcer_common::id::Direction;
use enforcer_common::verdict::Reason;
use enforcer_tests::net::wire::{Frame, PATIENCE, Wire};
use enforcer_tests::net::{inside, sh};
use enforcer_tests::stage::Stage;
use enforcer_tests::traffic::nonce;

use super::common::{NODE, change, entry, inventory, policy, rule, stage};

/// Addresses of the Service.
pub(super) const SERVICE: [&str; 2] = ["10.96.0.10", "fd00:96::10"];
/// Its ports, by who is behind them.
pub(super) const TO_B: u16 = 8001;
pub(super) const TO_C: u16 = 8002;
const TO_NODE: u16 = 8003;
const TO_SELF: u16 = 8004;
pub(super) const TO_NOBODY: u16 = 8005;

pub(super) const TO_ONE: &str = "to: [{workloads: {app: b}}]";

/// The node, which translates.
pub(super) struct Scene {
    pub(super) stage: Stage,
    pub(super) taps: [Wire; 3],
    pub(super) outside: Wire,
    node: [UdpSocket; 2],
}

impl Scene {
    pub(super) fn new(layout: Layout, judge_services: bool) -> Self {
        let stage = stage(layout, &["a", "b", "c"]);
        stage.settings(&format!("judge_services: {judge_services}\n"));
        let entries = ["a", "b", "c"].map(|name| entry(&stage, name, ""));
        let [v4, v6] = SERVICE;
        stage.inventory(&format!("services: [{v4}, \"{v6}\"]\n{}", inventory(&entries)));
        stage.policy("a.yaml", &policy("a", "[egress]", &rule(TO_ONE, "7000/udp")));
        let taps = ["a", "b", "c"].map(|name| stage.tap(name));
        let outside = Wire::tap(stage.lab.outside(), |_| true).unwrap();
        let node = NODE.map(|own| {
            let bind = || UdpSocket::bind(SocketAddr::new(own.parse().unwrap(), 7000)).unwrap();
            stage.lab.node().enter(bind).unwrap()
        });
        if matches!(layout, Layout::Bridged) {
            // Its own packets come back to it.
            stage.ip(stage.lab.node(), &format!("link set {} type bridge_slave hairpin on", stage.host("a")));
        }
        let scene = Self { stage, taps, outside, node };
        scene.translate();
        scene
    }

    pub(super) fn translate(&self) {
        inside(self.stage.lab.node(), || {
            sh("nft add table inet nat");
            sh("nft add chain inet nat pre { type nat hook prerouting priority -100 ; }");
            sh("nft add chain inet nat post { type nat hook postrouting priority 100 ; }");
            for (place, (family, service)) in ["ip", "ip6"].into_iter().zip(SERVICE).enumerate() {
                let of = |name| self.stage.address(name, place == 0).to_string();
                for (port, to) in
                    [(TO_B, of("b")), (TO_C, of("c")), (TO_NODE, NODE[place].to_owned()), (TO_SELF, of("a"))]
                {
                    let to = if place == 0 { format!("{to}:7000") } else { format!("[{to}]:7000") };
                    sh(&format!(
                        "nft add rule inet nat pre {family} daddr {service} udp dport {port} dnat {family} to {to}"
                    ));
                }
                // Else it would answer itself past the node.
                sh(&format!("nft add rule inet nat post {family} saddr {0} {family} daddr {0} masquerade", of("a")));
            }
        });
    }

    /// Whether a datagram from `a` to a port of the Service gets to who is behind it. `hoped`: it should, so it may take its time.
    pub(super) fn arrives(&self, port: u16, hoped: bool) -> [bool; 2] {
        [true, false].map(|v4| {
            let nonce = nonce();
            let (own, to) = (self.stage.address("a", v4), SERVICE[usize::from(!v4)].parse::<IpAddr>().unwrap());
            let send = || UdpSocket::bind((own, 0)).unwrap().send_to(&nonce, (to, port)).unwrap();
            self.stage.at("a").enter(send).unwrap();
            let patience = if hoped { PATIENCE } else { Duration::from_millis(300) };
            // An ICMPv6 error or redirect holds the whole packet too.
            let is_udp = |frame: &Frame| frame.packet().is_some_and(|packet| packet.protocol == 17);
            let on = |tap: &Wire| tap.wait(patience, |frame| !frame.outgoing && is_udp(frame) && frame.holds(&nonce));
            match port {
                TO_B => on(&self.taps[1]),
                TO_C => on(&self.taps[2]),
                TO_SELF => on(&self.taps[0]),
                TO_NODE => {
                    let (socket, mut bytes) = (&self.node[usize::from(!v4)], [0; 64]);
                    socket.set_read_timeout(Some(patience)).unwrap();
                    let got = socket.recv(&mut bytes);
                    got.is_ok_and(|length| bytes[..length] == nonce)
                }
                _ => on(&self.outside),
            }
        })
    }

    /// The ports to which a datagram gets, in both families, are these.
    fn all(&self, when: &str, expected: [bool; 5]) {
        let ports = [TO_B, TO_C, TO_NODE, TO_SELF, TO_NOBODY];
        let arrived = std::array::from_fn(|place| self.arrives(ports[place], expected[place]));
        assert_eq!(arrived, expected.map(|one| [one; 2]), "{when}");
    }

    /// Whether what `b` answers to `a` comes back.
    fn answers(&self, v4: bool) -> bool {
        let (own, backend) = (self.stage.address("a", v4), self.stage.address("b", v4));
        let to = SocketAddr::new(SERVICE[usize::from(!v4)].parse().unwrap(), TO_B);
        let open = |name: &str, at: SocketAddr| {
            let socket = self.stage.at(name).enter(|| UdpSocket::bind(at).unwrap()).unwrap();
            socket.set_read_timeout(Some(PATIENCE)).unwrap();
            socket
        };
        let (client, server) = (open("a", (own, 0).into()), open("b", (backend, 7000).into()));
        let mut bytes = [0; 64];
        client.send_to(&[1; 8], to).unwrap();
        let Ok((_, from)) = server.recv_from(&mut bytes) else { return false };
        server.send_to(&[2; 8], from).unwrap();
        client.recv_from(&mut bytes).is_ok_and(|(length, from)| length == 8 && from == to)
    }
}

fn judged_by_its_backend(layout: Layout) {
    let mut scene = Scene::new(layout, true);
    scene.all("positive control", [true; 5]);
    scene.stage.start();
    scene.all("alive", [true, false, false, false, false]);
    assert!(scene.answers(true) && scene.answers(false), "an answer needs no rule");
    scene.stage.until("each is counted", || scene.stage.denied(Direction::Egress, Reason::NoRule) >= 8);
    // Who is behind a port changes, as when a rolling update goes through a Service, and then the node forgets everything.
    change(&mut scene.stage, |stage| {
        stage.policy("a.yaml", &policy("a", "[egress]", &rule("to: [{workloads: {app: c}}]", "7000/udp")));
    });
    let turned = [false, true, false, false, false];
    scene.all("another backend is allowed", turned);
    inside(scene.stage.lab.node(), || sh("nft delete table inet nat"));
    scene.stage.kill();
    assert_eq!(scene.arrives(TO_NOBODY, false), [false; 2], "dead, and nobody translates");
    scene.translate();
    scene.all("dead", turned);
}

#[test]
fn a_service_is_judged_by_its_backend_bridged() {
    judged_by_its_backend(Layout::Bridged);
}

#[test]
fn a_service_is_judged_by_its_backend_routed() {
    judged_by_its_backend(Layout::Routed);
}

/// Without the setting the address has to be allowed, and who is behind it as well.
#[test]
fn an_address_that_is_allowed_leads_to_no_backend_that_is_not() {
    let mut scene = Scene::new(Layout::Routed, false);
    let [v4, v6] = SERVICE;
    let address = rule(&format!("to: [{{cidr: {v4}/32}}, {{cidr: \"{v6}/128\"}}]"), "any/udp");
    scene.stage.policy("a.yaml", &policy("a", "[egress]", &(address + &rule(TO_ONE, "7000/udp"))));
    scene.all("positive control", [true; 5]);
    scene.stage.start();
    scene.all("alive; what nobody translates is the address itself", [true, false, false, false, true]);
    change(&mut scene.stage, |stage| {
        stage.policy("a.yaml", &policy("a", "[egress]", &rule(TO_ONE, "7000/udp")));
    });
    scene.all("the backend alone is not enough", [false; 5]);
    scene.stage.kill();
    scene.all("dead", [false; 5]);
}
