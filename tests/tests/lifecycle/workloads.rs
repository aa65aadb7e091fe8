//! Workloads start, stop and change while the daemon runs and while it does not run.

use enforcer::lab::Layout;
use enforcer_common::id::Ifindex;
use enforcer_tests::cases::Port;
use enforcer_tests::stage::Stage;
use enforcer_tests::traffic::{Attempt, Ground, Tap};

use super::common::{
    add, addresses, bare_entry, check, control, dropped, entry, inventory, passes, policy, rule, stage,
};

/// `b` may be asked for 7000 by those with the label `app: a`.
fn for_a() -> String {
    policy("b", "[ingress]", &rule("from: [{workloads: {app: a}}]", "7000/tcp"))
}

fn named(stage: &Stage, names: &[&str]) -> String {
    inventory(&names.iter().map(|name| entry(stage, name, "")).collect::<Vec<_>>())
}

#[test]
fn one_that_comes_later_is_closed_until_it_is_named() {
    let mut stage = stage(Layout::Bridged, &["b"]);
    stage.policy("b.yaml", &for_a());
    stage.start();
    add(&mut stage, "a");
    stage.ready();
    let closed =
        [dropped("a", "b", Port::Tcp(7000)), dropped("a", "outside", Port::Udp(1)), dropped("node", "a", Port::Icmp)];
    check(&stage, "nobody has named it", &closed);
    stage.inventory(&named(&stage, &["a", "b"]));
    stage.wait("it is named", |view| view.endpoints.iter().all(|endpoint| !endpoint.unknown));
    let open =
        [passes("a", "b", Port::Tcp(7000)), dropped("a", "b", Port::Tcp(7001)), passes("a", "outside", Port::Udp(1))];
    check(&stage, "named", &open);
    let ifindex = stage.ifindex("a");
    stage.remove("a");
    stage.wait("it is forgotten", |view| view.endpoints.iter().all(|endpoint| endpoint.ifindex != Ifindex(ifindex)));
    stage.ready();
}

#[test]
fn one_that_comes_while_the_daemon_is_dead_is_enforced_when_it_is_back() {
    let mut stage = stage(Layout::Routed, &["b"]);
    stage.policy("b.yaml", &for_a());
    stage.policy("c.yaml", &policy("c", "[egress]", ""));
    stage.start();
    stage.kill();
    add(&mut stage, "a");
    add(&mut stage, "c");
    let flows = [dropped("c", "outside", Port::Udp(7000)), dropped("outside", "a", Port::Tcp(7000))];
    control(&stage, &flows);
    check(&stage, "its victim is enforced all the same", &[dropped("c", "b", Port::Tcp(7000))]);
    stage.inventory(&named(&stage, &["b", "c"]));
    stage.start();
    check(&stage, "back: c is named, a is not", &flows);
    stage.inventory(&named(&stage, &["a", "b", "c"]));
    stage.wait("a is named", |view| view.endpoints.iter().all(|endpoint| !endpoint.unknown));
    check(&stage, "all named", &[passes("a", "b", Port::Tcp(7000)), passes("outside", "a", Port::Tcp(7000)), flows[0]]);
}

#[test]
fn an_address_does_not_hand_down_rights() {
    let mut stage = stage(Layout::Bridged, &["a", "b"]);
    stage.policy("b.yaml", &for_a());
    stage.start();
    check(&stage, "a may", &[passes("a", "b", Port::Tcp(7000))]);
    stage.remove("a");
    // Another namespace, so another workload.
    let inherited = addresses("a");
    stage.add("evil", &inherited.each_ref().map(String::as_str));
    stage.ready();
    check(&stage, "another workload with its address", &[dropped("evil", "b", Port::Tcp(7000))]);
    stage.inventory(&inventory(&[entry(&stage, "evil", ""), entry(&stage, "b", "")]));
    stage.wait("it is named", |view| {
        view.endpoints.len() == 2 && view.endpoints.iter().all(|endpoint| !endpoint.unknown && endpoint.is_attached())
    });
    check(
        &stage,
        "named as another",
        &[dropped("evil", "b", Port::Tcp(7000)), passes("evil", "outside", Port::Udp(1))],
    );
    let record = stage.wait_record("it", |record| record.from == "t/evil");
    assert_eq!((record.to.as_str(), record.reason.as_str()), ("t/b", "no-rule"));
}

#[test]
fn addresses_that_are_added_while_a_workload_is_new_count() {
    let mut stage = stage(Layout::Bridged, &["a", "b"]);
    stage.inventory(&inventory(&[bare_entry(&stage, "a", ""), bare_entry(&stage, "b", "")]));
    stage.settings("settling_seconds: 600\n");
    stage.policy("b.yaml", &for_a());
    stage.start();
    let more = [("10.88.0.60", "16"), ("fd00:88::60", "64")];
    for name in ["a", "b"] {
        let suffix = if name == "a" { "0" } else { "1" };
        for (address, length) in more {
            let address = format!("{}{suffix}", &address[..address.len() - 1]);
            stage.ip(stage.at(name), &format!("addr add {address}/{length} dev eth0"));
        }
    }
    stage.wait("the new addresses", |view| view.endpoints.iter().all(|endpoint| endpoint.addresses.len() >= 5));
    let attempts = |port, hoped| {
        [("10.88.0.60", "10.88.0.61"), ("fd00:88::60", "fd00:88::61")].map(|(source, destination)| Attempt {
            from: stage.at("a"),
            source: source.parse().unwrap(),
            to: stage.at("b"),
            destination: destination.parse().unwrap(),
            port,
            hoped,
            evidence: Tap::Wire,
        })
    };
    let all = [attempts(Port::Tcp(7000), true), attempts(Port::Tcp(7001), false)].concat();
    for (attempt, outcome) in all.iter().zip(Ground::prepare(&all).run(&all)) {
        assert_eq!((outcome.arrived > 0, outcome.answered), (attempt.hoped, attempt.hoped), "{:?}", attempt.source);
    }
    // Gone again: a claim of it no longer counts, and a's own go on.
    stage.ip(stage.at("a"), "addr del 10.88.0.60/16 dev eth0");
    stage.wait("the address is gone", |view| {
        let gone: std::net::IpAddr = "10.88.0.60".parse().unwrap();
        view.endpoints.iter().all(|endpoint| !endpoint.addresses.contains(&gone.into()))
    });
    check(&stage, "the first ones", &[passes("a", "b", Port::Tcp(7000)), dropped("a", "b", Port::Tcp(7001))]);
}

#[test]
fn a_renamed_veth_stays_enforced_and_is_shown_under_its_name() {
    let mut stage = stage(Layout::Bridged, &["a", "b"]);
    stage.policy("b.yaml", &for_a());
    stage.start();
    let flows = [passes("a", "b", Port::Tcp(7000)), dropped("a", "b", Port::Tcp(7001))];
    let links = |stage: &Stage| stage.view().endpoints.iter().map(|endpoint| endpoint.from.id).collect::<Vec<_>>();
    let before = links(&stage);
    for name in ["a", "b"] {
        let host = stage.host(name).to_owned();
        stage.ip(stage.lab.node(), &format!("link set dev {host} name other-{name}"));
    }
    check(&stage, "renamed", &flows);
    stage.until("status shows the new names", || {
        let devices = stage.status().0["endpoints"].to_string();
        devices.contains("other-a") && devices.contains("other-b")
    });
    check(&stage, "known as renamed", &flows);
    assert_eq!(links(&stage), before, "the same links");
}

#[test]
fn labels_that_change_in_the_inventory_change_rights_n26() {
    let mut stage = stage(Layout::Bridged, &["a", "b", "c"]);
    stage.policy("b.yaml", &for_a());
    stage.start();
    check(&stage, "a may, c may not", &[passes("a", "b", Port::Tcp(7000)), dropped("c", "b", Port::Tcp(7000))]);
    let swapped = [
        entry(&stage, "a", "").replace("app: a", "app: c"),
        entry(&stage, "b", ""),
        entry(&stage, "c", "").replace("app: c", "app: a"),
    ];
    let revision = stage.view().word.revision;
    stage.inventory(&inventory(&swapped));
    stage.wait("the next revision", |view| view.word.revision > revision);
    check(&stage, "the other way round", &[dropped("a", "b", Port::Tcp(7000)), passes("c", "b", Port::Tcp(7000))]);
    // The subject too: b is not selected any more.
    let unselected = [swapped[0].clone(), swapped[1].replace("app: b", "app: x"), swapped[2].clone()];
    let revision = stage.view().word.revision;
    stage.inventory(&inventory(&unselected));
    stage.wait("the next revision", |view| view.word.revision > revision);
    check(&stage, "nobody isolates b", &[passes("a", "b", Port::Tcp(7001)), passes("outside", "b", Port::Udp(7001))]);
}
