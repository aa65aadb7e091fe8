//! What an address is worth that a workload gives itself (D11): it satisfies no `ipBlock`, opens no way to its true owner,
//! and takes nothing from anybody.

use std::net::IpAddr;
use std::time::Duration;

use enforcer::lab::{Layout, UPLINK};
use enforcer_common::id::Ifindex;
use enforcer_tests::cases::Port;
use enforcer_tests::net::wire::{Frame, PATIENCE, Sender, Wire, device};
use enforcer_tests::packet::parts::{self, Route, protocol};
use enforcer_tests::stage::Stage;
use enforcer_tests::traffic::{Attempt, Ground, Tap, nonce};

use super::common::{add, bare_entry, check, dropped, entry, inventory, passes, policy, rule, stage};

/// An administrator's machine in the subnet of the bridge.
const ADMIN: [&str; 2] = ["10.88.0.200", "fd00:88::200"];
const FLOATING: [&str; 2] = ["10.88.0.100", "fd00:88::100"];

/// `v` lets in nobody but that machine, and only on this port.
const PORT: u16 = 7022;

/// Of both families.
const BOTH: [bool; 2] = [true; 2];
const NEITHER: [bool; 2] = [false; 2];

fn for_admin() -> String {
    let from = format!("from: [{{cidr: {}/32}}, {{cidr: \"{}/128\"}}]", ADMIN[0], ADMIN[1]);
    policy("v", "[ingress]", &rule(&from, &format!("{PORT}/tcp, {PORT}/udp")))
}

fn parsed(addresses: [&str; 2]) -> [IpAddr; 2] {
    addresses.map(|address| address.parse().unwrap())
}

/// Gives a workload addresses, or takes them away. `lo` is for IPv4 only: neighbour discovery answers for no other device.
fn give(stage: &Stage, name: &str, addresses: [&str; 2], action: &str, to: &str) {
    for address in parsed(addresses) {
        let to = if address.is_ipv4() { to } else { "eth0" };
        let length = if address.is_ipv4() { "/32" } else { "/128" };
        let nodad = if address.is_ipv6() && action == "add" { " nodad" } else { "" };
        stage.ip(stage.at(name), &format!("addr {action} {address}{length} dev {to}{nodad}"));
    }
}

/// Whether the kernel side knows these addresses as a workload's own.
fn wait_own(stage: &mut Stage, name: &str, addresses: [&str; 2], own: bool) {
    let ifindex = Ifindex(stage.ifindex(name));
    stage.wait("the addresses", |view| {
        let endpoint = view.endpoints.iter().find(|endpoint| endpoint.ifindex == ifindex);
        endpoint.is_some_and(|found| parsed(addresses).iter().all(|at| found.addresses.contains(&(*at).into()) == own))
    });
}

/// TCP and UDP from a workload with other addresses than its own, in both families, to `v`.
fn reaches_v(stage: &Stage, from: &str, sources: [&str; 2], hoped: bool) {
    let attempt = |source: IpAddr, port| Attempt {
        from: stage.at(from),
        source,
        to: stage.at("v"),
        destination: stage.address("v", source.is_ipv4()),
        port,
        hoped,
        evidence: Tap::Wire,
    };
    let ports = [Port::Tcp(PORT), Port::Udp(PORT)];
    let attempts: Vec<Attempt<'_>> =
        parsed(sources).into_iter().flat_map(|source| ports.map(|port| attempt(source, port))).collect();
    for (attempt, outcome) in attempts.iter().zip(Ground::prepare(&attempts).run(&attempts)) {
        let what = format!("{:?} from {} of {from}: {outcome:?}", attempt.port, attempt.source);
        assert_eq!((outcome.arrived > 0, outcome.answered), (hoped, hoped), "{what}");
    }
}

/// Datagrams of the true owner, which is outside: whether they arrive at a workload, by family. `hoped`: how many of each should.
fn owner_reaches(stage: &Stage, to: &str, port: u16, hoped: usize) -> [bool; 2] {
    let sender = Sender::open(stage.lab.outside(), "eth0").unwrap();
    let route = Route {
        to: device(stage.lab.node(), UPLINK).unwrap().mac,
        from: device(stage.lab.outside(), "eth0").unwrap().mac,
    };
    reaches_as_owner(stage, &sender, route, to, port, hoped)
}

/// The same of a true owner that is a machine on the bridge.
fn neighbour_reaches(stage: &Stage, to: &str, port: u16, hoped: usize) -> [bool; 2] {
    let sender = Sender::open(stage.lab.node(), "vm").unwrap();
    let route =
        Route { to: device(stage.at(to), "eth0").unwrap().mac, from: device(stage.lab.node(), "vm").unwrap().mac };
    reaches_as_owner(stage, &sender, route, to, port, hoped)
}

fn reaches_as_owner(stage: &Stage, sender: &Sender, route: Route, to: &str, port: u16, hoped: usize) -> [bool; 2] {
    let victim = stage.tap(to);
    let sent = parsed(ADMIN).map(|source| {
        let (nonce, destination) = (nonce(), stage.address(to, source.is_ipv4()));
        let datagram = parts::udp(4000, port, &nonce);
        sender.send(&parts::ip(route, source, destination, protocol::UDP, &datagram)).unwrap();
        nonce
    });
    std::thread::sleep(Duration::from_millis(300));
    sent.map(|nonce| victim.arrives(&nonce, hoped) > 0)
}

/// `x` is named and has no addresses by the inventory; `v` and `a` have theirs.
fn node(layout: Layout) -> Stage {
    let stage = stage(layout, &["a", "v", "x"]);
    let entries = [entry(&stage, "a", ""), entry(&stage, "v", ""), bare_entry(&stage, "x", "")];
    stage.inventory(&inventory(&entries));
    stage
}

#[test]
fn an_address_that_a_container_adds_is_no_licence() {
    // On a bridge the address is pinned; routed, the node routes it elsewhere.
    let mut stage = node(Layout::Bridged);
    stage.policy("v.yaml", &for_admin());
    stage.settings("settling_seconds: 600\n");
    give(&stage, "x", ADMIN, "add", "lo");
    reaches_v(&stage, "x", ADMIN, true);
    assert_eq!(owner_reaches(&stage, "v", PORT, 1), BOTH, "positive control");
    give(&stage, "x", ADMIN, "del", "lo");
    stage.start();
    reaches_v_with_its_own(&stage);
    give(&stage, "x", ADMIN, "add", "lo");
    wait_own(&mut stage, "x", ADMIN, true);
    reaches_v(&stage, "x", ADMIN, false);
    assert_eq!(owner_reaches(&stage, "v", PORT, 1), BOTH, "the true owner may, as policy says");
    assert_eq!(owner_reaches(&stage, "v", PORT + 1, 0), NEITHER, "and no more than that");
    shown(&stage, ADMIN, "pinned");
    let [v4, _] = parsed(ADMIN);
    let output = stage.command("explain", &["--from", ADMIN[0], "--to", "t/v", "--port", &format!("{PORT}/tcp")]);
    let text = String::from_utf8(output.stdout).unwrap();
    assert!(text.contains(&format!("{v4}  nobody else: the workload showed it when it was new")), "{text}");
    assert!(text.contains("the inventory gives it to the workload") && text.ends_with("DENIED\n"), "{text}");
    stage.kill();
    reaches_v(&stage, "x", ADMIN, false);
    stage.start();
    reaches_v(&stage, "x", ADMIN, false);
    shown(&stage, ADMIN, "pinned");
}

/// Without the licence it gets nothing.
fn reaches_v_with_its_own(stage: &Stage) {
    check(stage, "its own addresses", &[dropped("x", "v", Port::Tcp(PORT)), dropped("x", "v", Port::Udp(PORT))]);
}

/// Who vouches for the addresses of `x`, by `status`.
fn shown(stage: &Stage, addresses: [&str; 2], voucher: &str) {
    stage.until("status says who vouches for them", || {
        let (status, _) = stage.status();
        let workloads = status["report"]["workloads"].as_array().cloned().unwrap_or_default();
        let x = workloads.iter().find(|workload| workload["name"] == "t/x").cloned().unwrap_or_default();
        addresses.iter().all(|address| x["vouchers"][*address] == voucher)
    });
    let text = String::from_utf8(stage.command("status", &[]).stdout).unwrap();
    for address in addresses {
        assert!(text.contains(&format!("{address} ({voucher})")), "{text}");
    }
}

#[test]
fn an_address_that_comes_late_is_refused_also_after_a_restart() {
    let mut stage = node(Layout::Bridged);
    stage.policy("v.yaml", &policy("v", "[ingress]", &rule("from: [{workloads: {app: x}}]", "any/tcp, any/udp")));
    stage.settings("settling_seconds: 1\n");
    give(&stage, "x", ADMIN, "add", "eth0");
    reaches_v(&stage, "x", ADMIN, true);
    give(&stage, "x", ADMIN, "del", "eth0");
    stage.start();
    check(&stage, "by its label", &[passes("x", "v", Port::Tcp(PORT))]);
    std::thread::sleep(Duration::from_millis(3500));
    give(&stage, "x", ADMIN, "add", "eth0");
    refused(&stage);
    reaches_v(&stage, "x", ADMIN, false);
    check(&stage, "its pinned addresses keep its label", &[passes("x", "v", Port::Tcp(PORT))]);
    stage.kill();
    stage.start();
    refused(&stage);
    wait_own(&mut stage, "x", ADMIN, false);
    reaches_v(&stage, "x", ADMIN, false);
    check(&stage, "over a restart too", &[passes("x", "v", Port::Tcp(PORT))]);
}

fn refused(stage: &Stage) {
    stage.until("both claims are refused and shown", || {
        let findings = stage.status().0["report"]["findings"].to_string();
        ADMIN.iter().all(|address| {
            findings.contains(&format!("shows {address}, which is not accepted as its own: it appeared after"))
        })
    });
}

#[test]
fn a_claim_opens_no_way_to_the_true_owner_and_costs_it_nothing() {
    for layout in [Layout::Bridged, Layout::Routed] {
        let mut stage = node(layout);
        stage.settings("settling_seconds: 600\n");
        stage.policy("v.yaml", &for_admin());
        stage.policy("x.yaml", &policy("x", "[ingress, egress]", ""));
        add_machine(&stage, layout);
        assert_eq!(owner_reaches(&stage, "x", 7000, 1), BOTH, "positive control");
        assert_eq!(x_reaches_owner(&stage, layout, 1), BOTH, "positive control");
        stage.start();
        give(&stage, "x", ADMIN, "add", "lo");
        if layout == Layout::Bridged {
            wait_own(&mut stage, "x", ADMIN, true);
        } else {
            stage.until("it is refused", || stage.status().0["report"]["refused_claims"].as_u64().unwrap_or(0) > 1);
        }
        assert_eq!(owner_reaches(&stage, "x", 7000, 0), NEITHER, "{layout:?}: x denies everything");
        assert_eq!(x_reaches_owner(&stage, layout, 0), NEITHER, "{layout:?}: x denies everything");
        assert_eq!(owner_reaches(&stage, "v", PORT, 1), BOTH, "{layout:?}: v allows its block");
        stage.kill();
        assert_eq!(owner_reaches(&stage, "x", 7000, 0), NEITHER, "{layout:?}: the daemon is dead");
        assert_eq!(owner_reaches(&stage, "v", PORT, 1), BOTH, "{layout:?}: the daemon is dead");
    }
}

/// Puts a machine that is no workload on the bridge: both ends of its veth are the node's.
fn add_machine(stage: &Stage, layout: Layout) {
    if layout == Layout::Bridged {
        stage.ip(stage.lab.node(), "link add vmport type veth peer name vm");
        stage.ip(stage.lab.node(), "link set vmport master br0 up");
        stage.ip(stage.lab.node(), "link set vm up");
    }
}

/// Datagrams of `x` from its own addresses to the machine's: whether they leave for where it could be, by family.
fn x_reaches_owner(stage: &Stage, layout: Layout, hoped: usize) -> [bool; 2] {
    let sender = Sender::open(stage.at("x"), "eth0").unwrap();
    // What the node sends on, by the bridge's port of the machine or by its uplink. It does not come back from there.
    let victim = Wire::tap(stage.lab.node(), |frame| frame.outgoing).unwrap();
    let route = match layout {
        Layout::Bridged => Route { to: device(stage.lab.node(), "vm").unwrap().mac, ..stage.route("x", None) },
        Layout::Routed => stage.route("x", None),
    };
    let sent = parsed(ADMIN).map(|destination| {
        let (nonce, source) = (nonce(), stage.address("x", destination.is_ipv4()));
        let datagram = parts::udp(4000, 7000, &nonce);
        sender.send(&parts::ip(route, source, destination, protocol::UDP, &datagram)).unwrap();
        nonce
    });
    std::thread::sleep(Duration::from_millis(300));
    sent.map(|nonce| {
        let hold = |frame: &Frame| frame.holds(&nonce);
        if hoped > 0 { victim.wait(PATIENCE, hold) } else { victim.count(hold) > 0 }
    })
}

#[test]
fn a_claim_costs_a_machine_on_the_bridge_nothing() {
    let mut stage = node(Layout::Bridged);
    stage.settings("settling_seconds: 600\n");
    stage.policy("v.yaml", &for_admin());
    stage.policy("x.yaml", &policy("x", "[ingress, egress]", ""));
    add_machine(&stage, Layout::Bridged);
    assert_eq!(neighbour_reaches(&stage, "x", 7000, 1), BOTH, "positive control");
    stage.start();
    assert_eq!(neighbour_reaches(&stage, "v", PORT, 1), BOTH, "v allows its block");
    give(&stage, "x", ADMIN, "add", "lo");
    wait_own(&mut stage, "x", ADMIN, true);
    assert_eq!(neighbour_reaches(&stage, "v", PORT, 1), BOTH, "and still does, whoever shows the address");
    assert_eq!(neighbour_reaches(&stage, "x", 7000, 0), NEITHER, "x denies everything");
    stage.kill();
    assert_eq!(neighbour_reaches(&stage, "v", PORT, 1), BOTH, "the daemon is dead");
    assert_eq!(neighbour_reaches(&stage, "x", 7000, 0), NEITHER, "the daemon is dead");
}

#[test]
fn an_address_claimed_before_its_owner_comes_does_not_keep_the_owner_out() {
    let mut stage = node(Layout::Bridged);
    stage.settings("settling_seconds: 600\n");
    stage.policy("v.yaml", &policy("v", "[ingress]", &rule("from: [{workloads: {app: b}}]", "any/tcp, any/udp")));
    stage.start();
    let of_b = ["10.88.0.11", "fd00:88::11"];
    give(&stage, "x", of_b, "add", "eth0");
    wait_own(&mut stage, "x", of_b, true);
    add(&mut stage, "b");
    let entries = [entry(&stage, "a", ""), entry(&stage, "v", ""), bare_entry(&stage, "x", ""), entry(&stage, "b", "")];
    stage.inventory(&inventory(&entries));
    stage.ready();
    wait_own(&mut stage, "b", of_b, true);
    wait_own(&mut stage, "x", of_b, false);
    // Who answers for the address on the bridge is another matter.
    give(&stage, "x", of_b, "del", "eth0");
    stage.pin_neighbour("b", stage.at("v"), "eth0");
    check(&stage, "the owner has its label", &[passes("b", "v", Port::Tcp(PORT)), passes("b", "v", Port::Udp(PORT))]);
    stage.pin_neighbour("x", stage.at("v"), "eth0");
    give(&stage, "x", of_b, "add", "lo");
    stage.until("x is refused", || {
        stage.status().0["report"]["findings"].to_string().contains("the inventory gives it to t/b")
    });
    reaches_v(&stage, "x", of_b, false);
}

#[test]
fn rights_follow_a_floating_address_to_the_holder_that_shows_it() {
    let mut stage = stage(Layout::Bridged, &["a", "b", "v", "x"]);
    let floating = format!(", floating: [{}, \"{}\"]", FLOATING[0], FLOATING[1]);
    let entries = [
        entry(&stage, "a", &floating),
        entry(&stage, "b", &floating),
        entry(&stage, "v", ""),
        bare_entry(&stage, "x", ""),
    ];
    stage.inventory(&inventory(&entries));
    let from = format!("from: [{{cidr: {}/32}}, {{cidr: \"{}/128\"}}]", FLOATING[0], FLOATING[1]);
    stage.policy("v.yaml", &policy("v", "[ingress]", &rule(&from, "any/tcp, any/udp")));
    stage.start();
    for holder in ["a", "b", "a"] {
        let since = std::time::Instant::now();
        give(&stage, holder, FLOATING, "add", "eth0");
        wait_own(&mut stage, holder, FLOATING, true);
        // By an event: discovery looks by itself every 30 s.
        assert!(since.elapsed() < Duration::from_secs(5), "{:?}", since.elapsed());
        forget_neighbours(&stage);
        reaches_v(&stage, holder, FLOATING, true);
        give(&stage, holder, FLOATING, "del", "eth0");
        wait_own(&mut stage, holder, FLOATING, false);
    }
    give(&stage, "x", FLOATING, "add", "eth0");
    stage.until("a stranger is refused", || {
        stage.status().0["report"]["findings"].to_string().contains("declares it floating")
    });
    forget_neighbours(&stage);
    reaches_v(&stage, "x", FLOATING, false);
}

/// Who answered for the address last must not matter.
fn forget_neighbours(stage: &Stage) {
    stage.ip(stage.at("v"), "neigh flush all");
}
