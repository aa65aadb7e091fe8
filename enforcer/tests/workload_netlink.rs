//! Discovery against real namespaces: routed and bridged, changes inside containers, uplinks, polling. Needs root.

#![allow(missing_docs, reason = "a test binary")]
#![allow(clippy::unwrap_used, reason = "a test that cannot prepare has to stop")]

mod workload_common;

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::io::Write as _;
use std::time::{Duration, Instant};

use enforcer::workload::finding::{Finding, Refusal};
use enforcer::workload::model::{LocalWorkload, Snapshot};
use enforcer::workload::source::Earlier;
use enforcer::workload::{Config, Mode, Settling};
use enforcer_tests::net::sh;
use workload_common::{BOUND, Watch, addresses, behind, in_node, name_of, own};

/// A file that nobody has open any more: one that is open for writing is not read.
fn inventory(text: &str) -> tempfile::TempPath {
    let mut file = tempfile::NamedTempFile::new().unwrap();
    file.write_all(text.as_bytes()).unwrap();
    file.into_temp_path()
}

/// With time for what a busy machine does late.
fn settling() -> Config {
    Config { settling: Settling(Duration::from_mins(10)), ..Config::default() }
}

fn with_inventory(file: &tempfile::TempPath) -> Config {
    Config { inventory: Some(file.to_path_buf()), ..Config::default() }
}

#[test]
fn a_bridged_and_a_routed_container_that_were_there_before_have_both_families() {
    in_node(async |node| {
        node.add_bridge();
        node.add_bridged("bridged", "vb", &["10.88.0.2/16", "fd88::2/64"]);
        node.add_container("routed", "vr");
        node.ip("routed", "addr add 10.1.0.2/32 dev eth0");
        node.ip("routed", "addr add fd01::2/128 dev eth0 nodad");
        sh("ip route add 10.1.0.2/32 dev vr");
        sh("ip route add fd01::2/128 dev vr");
        let file = inventory(&format!(
            "workloads:\n- {{name: web, namespace: shop, labels: {{app: web}}, match: {{netns: {}}}}}\n",
            node.name("bridged")
        ));
        let watch = Watch::start(with_inventory(&file)).await;
        assert_eq!(watch.discovery.mode(), Mode::Events);
        let bridged = behind(&watch.last, "vb").unwrap();
        assert_eq!(name_of(bridged), "shop/web");
        assert_eq!(own(bridged), addresses(&["10.88.0.2", "fd88::2"]));
        let veth = bridged.endpoints.values().next().unwrap();
        assert!(veth.existed_at_start && veth.peer_mac.is_some());
        let routed = behind(&watch.last, "vr").unwrap();
        assert_eq!(routed.identity, None);
        assert_eq!(own(routed), addresses(&["10.1.0.2", "fd01::2"]));
        assert!(watch.last.node.is_superset(&addresses(&["10.88.0.1", "fd88::1"])));
        assert!(watch.last.uplinks.is_empty());
        assert_eq!(watch.last.namespaces["shop"]["kubernetes.io/metadata.name"], "shop");
    });
}

#[test]
fn a_new_veth_is_seen_by_its_event_and_without_a_name() {
    in_node(async |node| {
        node.add_bridge();
        let mut watch = Watch::start(Config::default()).await;
        node.add_space("late");
        sh(&format!("ip link add vl type veth peer name eth0 netns {}", node.name("late")));
        let since = Instant::now();
        let snapshot = watch.until("the new veth", |s| behind(s, "vl").is_some()).await;
        let took = since.elapsed();
        // Without the event it would be seen after 30 s.
        assert!(took < Duration::from_secs(2), "{took:?}");
        println!("new veth in a snapshot after {took:?}");
        let late = behind(&snapshot, "vl").unwrap();
        assert_eq!(late.identity, None);
        assert!(!late.endpoints.values().next().unwrap().existed_at_start);
    });
}

#[test]
fn addresses_that_come_and_go_inside_are_followed_and_so_is_a_rename() {
    in_node(async |node| {
        node.add_bridge();
        node.add_bridged("a", "va", &[]);
        let mut watch = Watch::start(Config::default()).await;
        let key = *watch.last.local.keys().next().unwrap();
        node.ip("a", "addr add 10.88.0.2/16 dev eth0");
        node.ip("a", "addr add 10.88.0.3/16 dev eth0");
        node.ip("a", "addr add fd88::2/64 dev eth0 nodad");
        let all = addresses(&["10.88.0.2", "10.88.0.3", "fd88::2"]);
        let since = Instant::now();
        watch.until("three addresses", |s| behind(s, "va").is_some_and(|w| own(w) == all)).await;
        assert!(since.elapsed() < Duration::from_secs(5), "no event came from inside: {:?}", since.elapsed());
        node.ip("a", "addr del 10.88.0.2/16 dev eth0");
        let rest = addresses(&["10.88.0.3", "fd88::2"]);
        watch.until("one address less", |s| behind(s, "va").is_some_and(|w| own(w).is_subset(&rest))).await;
        sh("ip link set va name vz");
        watch.until("the new name", |s| behind(s, "vz").is_some()).await;
        node.ip("a", "link set eth0 address 02:00:00:00:00:07");
        let mac = Some([2, 0, 0, 0, 0, 7]);
        watch
            .until("the new MAC", |s| {
                behind(s, "vz").is_some_and(|w| w.endpoints.values().all(|veth| veth.peer_mac == mac))
            })
            .await;
        assert_eq!(*watch.last.local.keys().next().unwrap(), key, "the same namespace keeps its key");
    });
}

#[test]
fn a_namespace_made_again_is_another_workload_with_the_same_name() {
    in_node(async |node| {
        node.add_bridge();
        node.add_bridged("a", "va", &["10.88.0.2/16"]);
        let file =
            inventory(&format!("workloads:\n- {{name: a, namespace: shop, match: {{netns: {}}}}}\n", node.name("a")));
        let mut watch = Watch::start(with_inventory(&file)).await;
        let first = *watch.last.local.keys().next().unwrap();
        node.delete_space("a");
        watch.until("nobody", |s| s.local.is_empty()).await;
        node.add_bridged("a", "va", &["10.88.0.2/16"]);
        let snapshot = watch
            .until("it again", |s| behind(s, "va").is_some_and(|w| name_of(w) == "shop/a" && own(w).len() == 1))
            .await;
        assert_ne!(*snapshot.local.keys().next().unwrap(), first);
    });
}

#[test]
fn two_veths_of_one_namespace_are_one_workload() {
    in_node(async |node| {
        node.add_bridge();
        node.add_bridged("a", "va", &["10.88.0.2/16"]);
        node.add_veth("a", "vb", "eth1");
        node.ip("a", "addr add 10.2.0.2/24 dev eth1");
        sh("ip addr add 10.2.0.1/24 dev vb");
        let watch = Watch::start(Config::default()).await;
        assert_eq!(watch.last.local.len(), 1);
        let workload = watch.last.local.values().next().unwrap();
        assert_eq!(workload.endpoints.len(), 2);
        assert_eq!(own(workload), addresses(&["10.88.0.2", "10.2.0.2"]));
    });
}

#[test]
fn a_far_end_that_moves_on_takes_the_name_from_its_veth() {
    in_node(async |node| {
        node.add_bridge();
        node.add_bridged("a", "va", &["10.88.0.2/16"]);
        node.add_space("nested");
        let file =
            inventory(&format!("workloads:\n- {{name: a, namespace: shop, match: {{netns: {}}}}}\n", node.name("a")));
        let mut watch = Watch::start(with_inventory(&file)).await;
        let first = *watch.last.local.keys().next().unwrap();
        node.ip("a", &format!("link set eth0 netns {}", node.name("nested")));
        let snapshot = watch.until("an unknown", |s| behind(s, "va").is_some_and(|w| w.identity.is_none())).await;
        assert_ne!(*snapshot.local.keys().next().unwrap(), first);
        assert!(behind(&snapshot, "va").is_some_and(LocalWorkload::lost_its_name), "{snapshot:#?}");
        // What is shown there is nobody's.
        node.ip("nested", "link set eth0 up");
        node.add_address("nested", "10.88.0.2/16");
        node.add_bridged("b", "vb", &["10.88.0.9/16"]);
        let snapshot = watch.until("another one", |s| behind(s, "vb").is_some_and(|w| !own(w).is_empty())).await;
        assert!(behind(&snapshot, "va").is_some_and(|w| own(w).is_empty()), "{snapshot:#?}");
        // Not even the way back gives the name back.
        node.ip("nested", &format!("link set eth0 netns {}", node.name("a")));
        node.ip("a", "link set eth0 up");
        node.add_bridged("c", "vc", &["10.88.0.10/16"]);
        let snapshot = watch.until("a third one", |s| behind(s, "vc").is_some_and(|w| !own(w).is_empty())).await;
        assert!(behind(&snapshot, "va").is_some_and(LocalWorkload::lost_its_name), "{snapshot:#?}");
    });
}

#[test]
fn a_stolen_address_gains_nothing_and_costs_its_owner_nothing() {
    in_node(async |node| {
        node.add_bridge();
        node.add_bridged("victim", "vv", &["10.88.0.2/16", "fd88::2/64"]);
        node.add_bridged("thief", "vt", &["10.88.0.3/16", "fd88::3/64"]);
        let file = inventory(&format!(
            "workloads:\n- {{name: victim, match: {{netns: {}}}}}\n- {{name: thief, match: {{netns: {}}}}}\n\
             - {{name: peer, match: {{address: 10.88.7.7}}}}\n",
            node.name("victim"),
            node.name("thief")
        ));
        let mut watch = Watch::start(with_inventory(&file)).await;
        let before = watch.last.clone();
        for address in ["10.88.0.2/16", "fd88::2/64", "10.88.0.1/16", "10.88.7.7/16", "192.0.2.9/32"] {
            node.add_address("thief", address);
        }
        // A last address that is allowed tells that all the others have been looked at.
        node.ip("thief", "addr add 10.88.0.4/16 dev eth0");
        let own_and_new = addresses(&["10.88.0.3", "10.88.0.4", "fd88::3"]);
        let after = watch.until("the thief's", |s| behind(s, "vt").is_some_and(|w| own(w) == own_and_new)).await;
        assert_eq!(behind(&after, "vv"), behind(&before, "vv"));
        assert_eq!(after.remote, before.remote);
        assert_eq!(after.remote.len(), 1);
        let refused: BTreeSet<(String, &'static str)> = watch
            .findings()
            .into_iter()
            .filter_map(|finding| match finding {
                Finding::AddressRefused { claimant, address, because } if claimant.interface == "vt" => Some((
                    address.to_string(),
                    match because {
                        Refusal::Node | Refusal::OfNode { .. } => "node",
                        Refusal::Gateway => "gateway",
                        Refusal::Declared { .. } => "inventory",
                        Refusal::Owned { .. } => "owned",
                        Refusal::NotGiven { .. } => "not given",
                        Refusal::Floating { .. } => "floating",
                        Refusal::Late => "late",
                        Refusal::OffSubnet => "off subnet",
                        Refusal::Reserved => "reserved",
                    },
                )),
                _ => None,
            })
            .collect();
        let expected = [
            ("10.88.0.1", "node"),
            ("10.88.0.2", "owned"),
            ("10.88.7.7", "inventory"),
            ("192.0.2.9", "off subnet"),
            ("fd88::2", "owned"),
        ];
        assert_eq!(refused, expected.map(|(address, why)| (address.to_owned(), why)).into());
        assert_eq!(watch.discovery.latest().unwrap().refused(), 5);
    });
}

#[test]
fn thousands_of_addresses_and_devices_inside_hold_nobody_up_and_are_followed_to_the_end() {
    in_node(async |node| {
        node.add_bridge();
        node.add_bridged("flood", "vflood", &["10.88.0.3/16"]);
        let mut watch = Watch::start(settling()).await;
        let mac = |s: &Snapshot| behind(s, "vflood").and_then(|w| w.endpoints.values().next()?.peer_mac);
        let before = mac(&watch.last);
        let mut batch = String::new();
        for i in 0..6_000 {
            writeln!(batch, "addr add 10.88.{}.{}/16 dev eth0", 100 + i / 200, 1 + i % 200).unwrap();
        }
        for i in 0..300 {
            writeln!(batch, "link add more{i} type bridge").unwrap();
        }
        let mut file = tempfile::NamedTempFile::new().unwrap();
        file.write_all(batch.as_bytes()).unwrap();
        node.ip("flood", &format!("-batch {}", file.path().display()));
        watch.until("as many as one can have", |s| behind(s, "vflood").is_some_and(|w| w.addresses.len() == 16)).await;
        let since = Instant::now();
        node.add_bridged("late", "vl", &["10.88.0.2/16"]);
        let wanted = addresses(&["10.88.0.2"]);
        let snapshot = watch.until("the other", |s| behind(s, "vl").is_some_and(|w| own(w) == wanted)).await;
        assert!(since.elapsed() < Duration::from_secs(4), "{:?}", since.elapsed());
        assert!(before.is_some() && mac(&snapshot) == before);
        let findings = watch.findings();
        let counts: Vec<usize> = findings
            .iter()
            .filter_map(|finding| match finding {
                Finding::TooManyAddresses { count, .. } => Some(*count),
                _ => None,
            })
            .collect();
        assert!(matches!(counts.as_slice(), [count] if *count > 5_000), "{counts:?}");
        assert_eq!(findings.len(), 1, "{findings:#?}");
        // What a flood is followed by is seen too, though not at once.
        node.ip("flood", "addr flush dev eth0");
        node.ip("flood", "addr add 10.88.0.4/16 dev eth0");
        let wanted = addresses(&["10.88.0.4"]);
        watch.until("the end of the flood", |s| behind(s, "vflood").is_some_and(|w| own(w) == wanted)).await;
        assert!(watch.findings().is_empty(), "{:#?}", watch.findings());
    });
}

#[test]
fn a_node_that_is_a_container_has_its_own_veth_for_an_uplink() {
    in_node(async |node| {
        node.add_container("world", "wan");
        sh("ip addr add 192.0.2.1/24 dev wan");
        node.ip("world", "addr add 192.0.2.2/24 dev eth0");
        sh("ip route add default via 192.0.2.2");
        node.add_bridge();
        node.add_bridged("a", "va", &["10.88.0.2/16"]);
        let mut watch = Watch::start(Config::default()).await;
        assert_eq!(watch.last.uplinks.values().map(String::as_str).collect::<Vec<_>>(), ["wan"]);
        assert!(behind(&watch.last, "wan").is_none());
        assert!(behind(&watch.last, "va").is_some());
        // A default route over a workload's veth does not open it.
        sh("ip route replace default via 10.88.0.2");
        sh("ip link set va nomaster");
        sh("ip route replace default dev va");
        // Nor does a route that a container can plant by an RA.
        sh("ip -6 route add default dev va proto ra");
        node.ip("a", "addr add 10.88.0.9/16 dev eth0");
        sh("ip link set va master br0");
        let snapshot = watch
            .until("the end of the changes", |s| {
                behind(s, "va").is_some_and(|w| own(w).contains(&"10.88.0.9".parse().unwrap()))
            })
            .await;
        assert_eq!(snapshot.uplinks.values().map(String::as_str).collect::<Vec<_>>(), ["wan"]);
    });
}

#[test]
fn a_route_learnt_from_an_ra_makes_no_uplink_even_at_first() {
    in_node(async |node| {
        node.add_container("a", "va");
        sh("ip -6 route add default dev va proto ra");
        let watch = Watch::start(Config::default()).await;
        assert!(watch.last.uplinks.is_empty());
        assert!(behind(&watch.last, "va").is_some());
        let asked = Watch::start(Config { uplinks: vec!["va".to_owned()], ..Config::default() }).await;
        assert!(behind(&asked.last, "va").is_none());
        assert_eq!(asked.last.uplinks.len(), 1);
    });
}

#[test]
fn without_the_capability_it_polls_and_says_so() {
    in_node(async |node| {
        const CAP_NET_BROADCAST: u32 = 11;
        node.add_bridge();
        node.add_bridged("a", "va", &[]);
        drop_effective(CAP_NET_BROADCAST);
        let mut watch = Watch::start(Config::default()).await;
        assert_eq!(watch.discovery.mode(), Mode::Polling);
        node.ip("a", "addr add 10.88.0.2/16 dev eth0");
        let wanted = addresses(&["10.88.0.2"]);
        watch.until("the address", |s| behind(s, "va").is_some_and(|w| own(w) == wanted)).await;
        // Of five that were seen by polling, each would take almost a second.
        let since = Instant::now();
        for name in ["b", "c", "d", "e", "f"] {
            node.add_space(name);
            sh(&format!("ip link add veth-{name} type veth peer name eth0 netns {}", node.name(name)));
            watch.until("the veth", |s| behind(s, &format!("veth-{name}")).is_some()).await;
        }
        assert!(since.elapsed() < Duration::from_millis(2500), "link events still come at once: {:?}", since.elapsed());
    });
}

#[test]
fn a_storm_that_overruns_the_socket_ends_in_the_truth() {
    in_node(async |node| {
        node.add_bridge();
        node.add_bridged("a", "va", &["10.88.0.2/16"]);
        let mut watch = Watch::start(settling()).await;
        // Duplicate address detection ends with an event, which must not come after the storm and put things right.
        tokio::time::sleep(Duration::from_secs(3)).await;
        // This thread also runs discovery, so nothing is read while the batch goes through: more than 8 MiB of events.
        let mut batch = String::new();
        for i in 0..8_000 {
            writeln!(batch, "link set va alias {i}").unwrap();
        }
        batch.push_str("addr add 10.99.0.1/16 dev br0\n");
        let mut file = tempfile::NamedTempFile::new().unwrap();
        file.write_all(batch.as_bytes()).unwrap();
        sh(&format!("ip -batch {}", file.path().display()));
        node.ip("a", "addr add 10.99.0.2/16 dev eth0");
        let wanted = addresses(&["10.88.0.2", "10.99.0.2"]);
        watch.until("the last change", |s| behind(s, "va").is_some_and(|w| own(w) == wanted)).await;
        assert!(watch.discovery.overruns() > 0, "the storm was too small to test anything");
    });
}

#[test]
fn another_inventory_gives_other_names() {
    in_node(async |node| {
        node.add_bridge();
        node.add_bridged("a", "va", &["10.88.0.2/16"]);
        let file = inventory("workloads:\n- {name: a, match: {interface: va}}\n");
        let mut watch = Watch::start(with_inventory(&file)).await;
        assert_eq!(name_of(behind(&watch.last, "va").unwrap()), "default/a");
        std::fs::write(&file, "workloads:\n- {name: b, match: {interface: va}}\n").unwrap();
        watch.until("the new name", |s| name_of(behind(s, "va").unwrap()) == "default/b").await;
        // An error leaves the last good names, and is there to be read.
        std::fs::write(&file, "workloads:\n- {nmae: c}\n").unwrap();
        let reads = async {
            while watch.discovery.refused_sources().is_empty() {
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        };
        tokio::time::timeout(BOUND, reads).await.unwrap();
        assert!(watch.discovery.refused_sources()[0].contains("nmae"), "{:?}", watch.discovery.refused_sources());
        assert_eq!(name_of(behind(&watch.last, "va").unwrap()), "default/b");
        // A text that names nobody else is published too, because a later daemon goes on from it.
        let text = "workloads:\n- {name: b, match: {interface: va}} # the same\n";
        std::fs::write(&file, text).unwrap();
        let published = tokio::time::timeout(BOUND, watch.discovery.changed()).await.unwrap().unwrap();
        assert_eq!(published.kept["inventory"].as_ref(), text);
        assert_eq!(published.snapshot, watch.last);
        assert_eq!(watch.discovery.refused_sources(), Vec::<String>::new());
    });
}

#[test]
fn without_the_inventory_that_there_is_veths_are_shown_and_nobody_is_unknown() {
    in_node(async |node| {
        node.add_bridge();
        node.add_bridged("a", "va", &["10.88.0.2/16"]);
        let file = inventory("workloads:\n- {nmae: a}\n");
        let config = Config { earlier: Earlier::Unknown, ..with_inventory(&file) };
        let mut discovery = enforcer::workload::start(config).unwrap();
        let mut veths = discovery.unnamed_veths();
        let bound = |seconds| Duration::from_secs(seconds);
        let shown = tokio::time::timeout(BOUND, veths.changed()).await.unwrap();
        assert_eq!(shown.len(), 1);
        node.add_bridged("b", "vb", &["10.88.0.3/16"]);
        tokio::time::timeout(BOUND, async { while veths.changed().await.len() < 2 {} }).await.unwrap();
        // Longer than a source may take for its first list.
        assert!(tokio::time::timeout(bound(11), discovery.changed()).await.is_err(), "neither snapshot nor error");
        std::fs::write(&file, "workloads:\n- {name: a, match: {interface: va}}\n").unwrap();
        let published = tokio::time::timeout(BOUND, discovery.changed()).await.unwrap().unwrap();
        assert_eq!(name_of(behind(&published.snapshot, "va").unwrap()), "default/a");
        assert!(tokio::time::timeout(bound(1), veths.changed()).await.is_err(), "snapshots show them now");
    });
}

#[test]
fn a_runtime_that_does_not_answer_is_an_error_that_names_it() {
    in_node(async |_| {
        let socket = std::path::PathBuf::from("/nonexistent/podman.sock");
        let config = Config {
            runtime: Some(enforcer::workload::runtime::RuntimeKind::Podman(Some(socket))),
            ..Config::default()
        };
        let error = enforcer::workload::start(config).unwrap().changed().await.unwrap_err().to_string();
        assert!(error.contains("podman at /nonexistent/podman.sock") && error.contains("10 s"), "{error}");
    });
}

/// Takes one capability from the effective set of this thread.
fn drop_effective(capability: u32) {
    #[repr(C)]
    struct Header {
        version: u32,
        pid: i32,
    }
    let mut header = Header { version: 0x2008_0522, pid: 0 };
    let mut data = [[0_u32; 3]; 2];
    // SAFETY: both pointers are to live values of the layout that version 3 of the call reads and writes.
    let got = unsafe { libc::syscall(libc::SYS_capget, &raw mut header, data.as_mut_ptr()) };
    assert_eq!(got, 0);
    data[0][0] &= !(1 << capability);
    // SAFETY: as above.
    let set = unsafe { libc::syscall(libc::SYS_capset, &raw mut header, data.as_ptr()) };
    assert_eq!(set, 0);
}
