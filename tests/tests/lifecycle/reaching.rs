//! A device inside a workload whose lower device lies in the node's namespace closes the workload: what it sends passes no
//! program of the workload.

use enforcer::lab::Layout;
use enforcer_tests::cases::Port;
use enforcer_tests::stage::Stage;

use super::common::{check, control, dropped, passes, stage};

const SERVICE: Port = Port::Tcp(7000);

/// Makes a macvlan on the node's bridge inside a workload, as a container with `CAP_NET_ADMIN` of the node can.
fn reach(stage: &Stage, name: &str) {
    let namespace = stage.at(name).path().file_name().unwrap().to_string_lossy().into_owned();
    stage.ip(stage.lab.node(), "link add link br0 name reach0 type macvlan mode bridge");
    stage.ip(stage.lab.node(), &format!("link set reach0 netns {namespace}"));
}

#[test]
fn a_device_on_one_of_the_nodes_closes_its_workload() {
    let mut stage = stage(Layout::Bridged, &["a", "b", "c"]);
    let all = [passes("a", "b", SERVICE), passes("b", "a", SERVICE), passes("b", "c", SERVICE)];
    control(&stage, &all);
    stage.start();
    check(&stage, "before", &all);
    // A macvlan on a device of its own is its own affair.
    stage.ip(stage.at("c"), "link add link eth0 name own0 type macvlan");

    reach(&stage, "a");
    let ifindex = stage.ifindex("a");
    let closed = move |view: &enforcer::kernel::status::StatusView| {
        view.endpoints.iter().any(|endpoint| endpoint.ifindex.0 == ifindex && endpoint.unknown)
    };
    stage.wait("a is closed", closed);
    let shut =
        [dropped("a", "b", SERVICE), dropped("b", "a", SERVICE), passes("b", "c", SERVICE), passes("c", "b", SERVICE)];
    check(&stage, "with the device", &shut);
    let told = || stage.status().0["troubles"].to_string();
    stage.until("status tells", || told().contains("a workload has a device that bypasses its programs: t/a"));
    assert!(told().contains("reach0") && !told().contains("own0"), "{}", told());
    stage.kill();
    stage.start();
    stage.wait("the next daemon", closed);
    check(&stage, "the next daemon", &shut);

    stage.ip(stage.at("a"), "link del reach0");
    stage.wait("a is open again", move |view| !closed(view));
    check(&stage, "without the device", &all);
}
