//! Tests of an address that a workload merely shows (D11): what the workload may do with it, and what its true owner may.

use std::net::IpAddr;

use crate::stage::*;

/// `b` shows the address of X, which is outside.
fn stage(policies: &[(&str, &str)]) -> Stage {
    Stage::with_shown(policies, &FAMILIES.map(peer))
}

/// `a` opens port 80 to the block of X, in both directions.
fn block() -> String {
    let [v4, v6]: [IpAddr; 2] = FAMILIES.map(peer);
    let cidrs = format!("[{{cidr: {v4}/32}}, {{cidr: \"{v6}/128\"}}]");
    but(&format!("{{ from: {cidrs}, ports: [80/tcp] }}, {{ to: {cidrs}, ports: [80/tcp] }}"))
}

const LABEL: &str = "isolate: [ingress, egress], allow: [{ from: [{workloads: {app: b}}], ports: [80/tcp] }, \
                     { to: [{workloads: {app: b}}], ports: [80/tcp] }]";

#[test]
fn it_satisfies_no_block_that_allows() {
    for v4 in FAMILIES {
        let (from, to) = (((peer(v4), 40_000), (host(v4, A), 80)), ((host(v4, A), 40_000), (peer(v4), 80)));
        let free = Stage::new(&[("a", &block())]);
        assert_eq!(free.receives(A, B, &syn(from)), ALLOW, "positive control: nobody shows it");
        assert_eq!(free.sends(A, &syn(to)), ALLOW, "positive control");
        let shown = stage(&[("a", &block())]);
        assert_eq!(shown.sends(B, &syn(((peer(v4), 40_000), (host(v4, A), 80)))), ALLOW, "b may send from it");
        assert_eq!(shown.receives(A, B, &syn(from)), NO_RULE);
        assert_eq!(shown.sends(A, &syn(to)), NO_RULE, "nor towards it");
        let anybody = stage(&[("a", &but("{ from: anywhere, ports: [80/tcp] }"))]);
        assert_eq!(anybody.receives(A, B, &syn(from)), ALLOW, "what is open to all is open to it");
    }
}

#[test]
fn selectors_see_its_workload_by_it() {
    for v4 in FAMILIES {
        let shown = stage(&[("a", LABEL)]);
        assert_eq!(shown.receives(A, B, &syn(((peer(v4), 40_000), (host(v4, A), 80)))), ALLOW);
        assert_eq!(shown.sends(A, &syn(((host(v4, A), 40_000), (peer(v4), 80)))), ALLOW);
    }
}

#[test]
fn it_is_no_way_out_of_its_own_policy() {
    // N19 would exempt it.
    for v4 in FAMILIES {
        let shown = stage(&[("b", CLOSED)]);
        assert_eq!(shown.sends(B, &syn(((host(v4, B), 40_000), (peer(v4), 80)))), NO_RULE);
        assert_eq!(shown.receives(B, UPLINK, &syn(((peer(v4), 40_000), (host(v4, B), 80)))), NO_RULE);
        assert_eq!(shown.receives(B, OTHER, &syn(((peer(v4), 40_000), (host(v4, B), 80)))), NO_RULE);
        assert_eq!(shown.sends(B, &syn(((host(v4, B), 40_000), (host(v4, B), 80)))), ALLOW, "its own stays exempt");
    }
}

#[test]
fn its_true_owner_outside_is_judged_as_if_nobody_showed_it() {
    for v4 in FAMILIES {
        let from = ((peer(v4), 40_000), (host(v4, A), 80));
        let shown = stage(&[("a", &block())]);
        assert_eq!(shown.receives(A, UPLINK, &syn(from)), ALLOW, "by its block");
        assert_eq!(shown.receives(A, UPLINK, &syn(((peer(v4), 40_000), (host(v4, A), 81)))), NO_RULE);
        assert_eq!(shown.receives(A, B, &data(from.0, from.1)), NO_RULE, "b does not continue the owner's flow");
        let labelled = stage(&[("a", LABEL)]);
        assert_eq!(labelled.receives(A, UPLINK, &syn(from)), NO_RULE, "and without the rights of b's labels");
        assert_eq!(labelled.receives(A, B, &syn(from)), ALLOW);
        assert_eq!(labelled.receives(A, UPLINK, &data(from.0, from.1)), NO_RULE, "not in b's flow either");
    }
}
