//! Containers of a real podman, named only through its API. Needs root, podman, runc, netavark and busybox.
//!
//! podman runs inside the test's node namespace with storage, networks and socket of its own.

#![allow(missing_docs, reason = "a test binary")]
#![allow(clippy::unwrap_used, reason = "a test that cannot prepare has to stop")]

mod workload_common;

use std::time::{Duration, Instant};

use enforcer::workload::Config;
use enforcer::workload::finding::{Disagreement, Finding};
use enforcer::workload::model::{LocalWorkload, Snapshot};
use enforcer::workload::runtime::RuntimeKind;
use enforcer_tests::net::Node;
use enforcer_tests::podman::{Engine, IMAGE};
use workload_common::{Watch, addresses, in_node, name_of, own};

const SLEEP: [&str; 3] = ["/bin/busybox", "sleep", "600"];

/// A podman with a network `net` of `10.231.0.0/24` and `fd31::/64`.
fn podman(node: &Node) -> Engine {
    let mut podman = Engine::podman(node.namespace());
    podman.add_network("net", "10.231.0.0/24", "fd31::/64");
    podman
}

/// `podman run -d --name NAME OPTIONS IMAGE sleep`.
fn container(podman: &Engine, name: &str, options: &[&str]) {
    podman.run(&[&["run", "-d", "--name", name], options, &[IMAGE], &SLEEP[..]].concat());
}

fn config(podman: &Engine) -> Config {
    Config { runtime: Some(RuntimeKind::Podman(Some(podman.socket()))), ..Config::default() }
}

fn named<'a>(snapshot: &'a Snapshot, name: &str) -> Option<&'a LocalWorkload> {
    snapshot.local.values().find(|workload| name_of(workload) == name)
}

fn has(snapshot: &Snapshot, name: &str, own_addresses: &[&str]) -> bool {
    named(snapshot, name).is_some_and(|workload| own(workload) == addresses(own_addresses))
}

#[test]
fn containers_are_named_before_and_after_the_start_and_again_with_another_address() {
    in_node(async |node| {
        let podman = podman(node);
        let options = [&podman.join("net", ["10.231.0.7", "fd31::7"]), "--label", "app=web"];
        container(&podman, "web", &[&options[..], &["--label", "enforcer.dev/namespace=shop"]].concat());
        podman.serve();
        let mut watch = Watch::start(config(&podman)).await;
        let web = named(&watch.last, "shop/web").expect("named in the first snapshot");
        assert_eq!(own(web), addresses(&["10.231.0.7", "fd31::7"]));
        let labels = web.identity.as_ref().unwrap().labels.single().expect("one container");
        assert_eq!((labels["app"].as_str(), labels["enforcer.dev/container"].as_str()), ("web", "web"));
        let first = *watch.last.local.keys().next().unwrap();

        container(
            &podman,
            "db",
            &[&podman.join("net", ["10.231.0.8", "fd31::8"]), "--label", "com.docker.compose.project=p"],
        );
        watch.until("db", |s| has(s, "p/db", &["10.231.0.8", "fd31::8"])).await;

        // Longer than a call may take: an event stream without events is no failure.
        tokio::time::sleep(Duration::from_secs(9)).await;
        assert!(!watch.findings().iter().any(|finding| matches!(finding, Finding::SourceDown { .. })));
        podman.run(&["rm", "-f", "-t", "0", "web"]);
        watch.until("web's end", |s| s.local.len() == 1).await;
        container(&podman, "web", &[&podman.join("net", ["10.231.0.9", "fd31::9"])]);
        let again = watch.until("web again", |s| has(s, "default/web", &["10.231.0.9", "fd31::9"])).await;
        assert!(!again.local.contains_key(&first), "another incarnation");
    });
}

#[test]
fn a_pod_and_a_shared_namespace_are_one_workload_each_and_two_networks_are_two_veths() {
    in_node(async |node| {
        let mut podman = podman(node);
        podman.add_network("two", "10.232.0.0/24", "fd32::/64");
        podman.serve();
        let mut watch = Watch::start(config(&podman)).await;
        podman.run(&[
            "pod",
            "create",
            "--name",
            "pod",
            &podman.join("net", ["10.231.0.4", "fd31::4"]),
            "--infra-name",
            "pod-infra",
            "--infra-image",
            IMAGE,
            "--infra-command",
            "/bin/busybox sleep 600",
        ]);
        container(
            &podman,
            "front",
            &["--pod", "pod", "--label", "app=front", "--label", "enforcer.dev/namespace=shop"],
        );
        container(&podman, "side", &["--pod", "pod", "--label", "side=log"]);
        let snapshot = watch
            .until("the pod", |s| {
                named(s, "shop/pod").is_some_and(|pod| {
                    let labels = &pod.identity.as_ref().unwrap().labels;
                    ["app", "side"].iter().all(|key| labels.any(|set| set.contains_key(*key)))
                        && !labels.any(|set| set.contains_key("app") && set.contains_key("side"))
                })
            })
            .await;
        assert_eq!(snapshot.local.len(), 1);
        assert!(has(&snapshot, "shop/pod", &["10.231.0.4", "fd31::4"]));

        container(
            &podman,
            "both",
            &[&podman.join("net", ["10.231.0.5", "fd31::5"]), &podman.join("two", ["10.232.0.5", "fd32::5"])],
        );
        let all = ["10.231.0.5", "10.232.0.5", "fd31::5", "fd32::5"];
        let snapshot = watch.until("both networks", |s| has(s, "default/both", &all)).await;
        assert_eq!(named(&snapshot, "default/both").unwrap().endpoints.len(), 2);

        // A second value for a label is the label of another container.
        container(&podman, "owner", &[&podman.join("net", ["10.231.0.6", "fd31::6"]), "--label", "app=one"]);
        watch.until("the owner", |s| named(s, "default/owner").is_some()).await;
        container(&podman, "second", &["--network", "container:owner", "--label", "app=two"]);
        watch
            .until("two sets", |s| {
                let sets = named(s, "default/owner").map(|owner| owner.identity.as_ref().unwrap().labels.clone());
                sets.is_some_and(|sets| ["one", "two"].iter().all(|app| sets.any(|set| set["app"] == *app)))
            })
            .await;
        // A second namespace makes it unknown, and says because of whom.
        let elsewhere = ["--network", "container:owner", "--label", "enforcer.dev/namespace=bank"];
        podman.run(&["rm", "-f", "-t", "0", "second"]);
        container(&podman, "second", &[&elsewhere[..], &["--label", "enforcer.dev/port.http=80/tcp"]].concat());
        let rival = ["--network", "container:owner", "--label", "enforcer.dev/namespace=shop"];
        container(&podman, "rival", &rival);
        watch
            .until("nobody called owner", |s| named(s, "default/owner").is_none() && named(s, "bank/owner").is_none())
            .await;
        let text = watch
            .findings()
            .iter()
            .find_map(|finding| match finding {
                Finding::SourcesDisagree { disagreement: found @ Disagreement::Namespace { .. }, .. } => {
                    Some(found.to_string())
                }
                _ => None,
            })
            .expect("a disagreement");
        assert!(text.contains("container second") && text.contains("container rival"), "{text}");
    });
}

#[test]
fn a_dead_socket_changes_nothing_and_a_new_one_brings_the_news() {
    in_node(async |node| {
        let podman = podman(node);
        container(&podman, "web", &[&podman.join("net", ["10.231.0.7", "fd31::7"])]);
        podman.serve();
        let mut watch = Watch::start(config(&podman)).await;
        assert!(named(&watch.last, "default/web").is_some());
        podman.stop_serving();
        container(&podman, "late", &[&podman.join("net", ["10.231.0.8", "fd31::8"])]);
        let snapshot = watch.until("a veth without a name", |s| s.local.len() == 2).await;
        assert!(named(&snapshot, "default/web").is_some() && named(&snapshot, "default/late").is_none());
        let since = Instant::now();
        while !watch.findings().iter().any(|finding| matches!(finding, Finding::SourceDown { .. })) {
            assert!(since.elapsed() < workload_common::BOUND, "nobody says that the socket is dead");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        podman.serve();
        watch.until("its name", |s| named(s, "default/late").is_some()).await;
        let since = Instant::now();
        while watch.findings().iter().any(|finding| matches!(finding, Finding::SourceDown { .. })) {
            assert!(since.elapsed() < workload_common::BOUND, "the socket is back");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    });
}
