//! A container that moves its end of the veth into another network namespace does not become somebody else (D13).

use enforcer::lab::{Layout, Name, Namespace};
use enforcer_common::id::Ifindex;
use enforcer_tests::cases::Port;
use enforcer_tests::net::ip;
use enforcer_tests::stage::Stage;
use enforcer_tests::traffic::{Attempt, Ground, Tap};

use super::common::{bare_entry, entry, inventory, policy, rule, stage};

/// The addresses of an entry whose workload is down.
const DOWN: [&str; 2] = ["10.88.0.50", "fd00:88::50"];

/// `v` lets in that workload alone, and `a` nobody and nothing.
fn node(layout: Layout, unknown: Option<&'static str>) -> Stage {
    let mut stage = stage(layout, &["a", "v"]);
    stage.options.unknown = unknown;
    let down = format!(
        "  - {{name: down, namespace: t, labels: {{app: down}}, match: {{address: [{}, \"{}\"]}}}}\n",
        DOWN[0], DOWN[1]
    );
    stage.inventory(&inventory(&[bare_entry(&stage, "a", ""), entry(&stage, "v", ""), down]));
    stage.policy("v.yaml", &policy("v", "[ingress]", &rule("from: [{workloads: {app: down}}]", "any/tcp, any/udp")));
    stage.policy("a.yaml", &policy("a", "[ingress, egress]", ""));
    stage
}

/// Moves the veth of `a` into a namespace of its own making, with these addresses.
fn nest(stage: &Stage, nested: &Namespace, addresses: [&str; 2]) {
    let name = nested.path().file_name().unwrap().to_string_lossy();
    stage.ip(stage.at("a"), &format!("link set dev eth0 netns {name}"));
    ip(nested, "link set lo up");
    ip(nested, "link set eth0 up");
    ip(nested, &format!("addr add {}/16 dev eth0", addresses[0]));
    ip(nested, &format!("addr add {}/64 dev eth0 nodad", addresses[1]));
}

/// What comes from there to `v`.
fn arrives(stage: &Stage, nested: &Namespace, sources: [&str; 2], hoped: bool) {
    let attempt = |source: &str, port| {
        let source: std::net::IpAddr = source.parse().unwrap();
        Attempt {
            from: nested,
            source,
            to: stage.at("v"),
            destination: stage.address("v", source.is_ipv4()),
            port,
            hoped,
            evidence: Tap::Wire,
        }
    };
    let ports = [Port::Tcp(7000), Port::Udp(7000), Port::Icmp];
    let attempts: Vec<Attempt<'_>> =
        sources.iter().flat_map(|source| ports.map(|port| attempt(source, port))).collect();
    for (attempt, outcome) in attempts.iter().zip(Ground::prepare(&attempts).run(&attempts)) {
        let what = format!("{:?} from {}: {outcome:?}", attempt.port, attempt.source);
        assert_eq!((outcome.arrived > 0, outcome.answered), (hoped, hoped), "{what}");
    }
}

fn closed(stage: &mut Stage) {
    let ifindex = Ifindex(stage.ifindex("a"));
    stage.wait("it is closed", |view| {
        let endpoint = view.endpoints.iter().find(|endpoint| endpoint.ifindex == ifindex);
        endpoint.is_some_and(|endpoint| endpoint.unknown && endpoint.is_attached() && endpoint.addresses.is_empty())
    });
    stage.until("status says why", || {
        let findings = stage.status().0["report"]["findings"].to_string();
        findings.contains("t/a (veth0") && findings.contains("has left the network namespace in which it was named")
    });
}

#[test]
fn a_nested_namespace_with_the_address_of_an_entry_that_is_down_is_closed() {
    let nested = Namespace::create(&Name::unique(), "nested").unwrap();
    let mut stage = node(Layout::Bridged, None);
    nest(&stage, &nested, DOWN);
    arrives(&stage, &nested, DOWN, true);
    // Back to where the daemon finds it.
    let home = stage.at("a").path().file_name().unwrap().to_string_lossy().into_owned();
    ip(&nested, &format!("link set dev eth0 netns {home}"));
    stage.ip(stage.at("a"), "link set eth0 up");
    stage.start();
    nest(&stage, &nested, DOWN);
    closed(&mut stage);
    arrives(&stage, &nested, DOWN, false);
    stage.kill();
    arrives(&stage, &nested, DOWN, false);
    stage.start();
    closed(&mut stage);
    arrives(&stage, &nested, DOWN, false);
}

#[test]
fn a_veth_that_moves_while_no_daemon_runs_is_closed_by_the_next() {
    let nested = Namespace::create(&Name::unique(), "nested").unwrap();
    let mut stage = node(Layout::Bridged, None);
    stage.start();
    stage.terminate();
    nest(&stage, &nested, DOWN);
    stage.start();
    closed(&mut stage);
    arrives(&stage, &nested, DOWN, false);
}

#[test]
fn where_unknown_workloads_are_open_one_that_had_a_name_is_closed() {
    let nested = Namespace::create(&Name::unique(), "nested").unwrap();
    let mut stage = node(Layout::Bridged, Some("open"));
    // Whatever the policies of others say: `v` is open.
    stage.policy("v.yaml", &policy("x", "[ingress]", ""));
    let own = ["10.88.0.10", "fd00:88::10"];
    nest(&stage, &nested, own);
    arrives(&stage, &nested, own, true);
    let home = stage.at("a").path().file_name().unwrap().to_string_lossy().into_owned();
    ip(&nested, &format!("link set dev eth0 netns {home}"));
    stage.ip(stage.at("a"), "link set eth0 up");
    stage.start();
    nest(&stage, &nested, own);
    closed(&mut stage);
    arrives(&stage, &nested, own, false);
}
