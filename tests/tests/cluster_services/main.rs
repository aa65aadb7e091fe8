//! Services of a real cluster, as kube-proxy translates them, under enforcement on both nodes: each kind of Service, each way to
//! it, both families and both protocols; and the public suite's rows by pod address and through Services.
//!
//! The verdict is what has arrived at whom. Each kind of network has one cluster, and each kind has another mode of kube-proxy.

#![allow(clippy::unwrap_used, clippy::print_stdout, reason = "a failed step ends the test, and says how far it came")]

mod egress;
mod ingress;
mod scene;
mod suite;

use std::time::Instant;

use enforcer_tests::cluster::is_privileged;

use scene::Scene;

#[test]
fn services_of_routed_pods_are_judged_by_their_backends() {
    if is_privileged() {
        services("ptp", "nftables");
    }
}

#[test]
fn services_of_bridged_pods_are_judged_by_their_backends() {
    if is_privileged() {
        services("bridge", "iptables");
    }
}

fn services(cni: &str, proxy: &str) {
    let begin = Instant::now();
    let told = |what: &str| println!("{cni}, {proxy}: {what} after {} s", begin.elapsed().as_secs());
    let scene = Scene::new(cni, proxy);
    told("the pods are ready");
    egress::rows(&scene);
    told("each Service was called under each egress policy");
    ingress::rows(&scene);
    told("a pod was called on each way under each ingress policy");
    suite::rows(&scene);
    told("the public suite has passed");
}
