use std::collections::BTreeMap;
use std::sync::{Arc, LazyLock};

use enforcer_common::denial::{Denial, Way};
use enforcer_common::id::{IncarnationId, Revision};
use enforcer_common::verdict::{REASONS, Reason};
use proptest::prelude::*;
use prost_reflect::{DescriptorPool, DeserializeOptions, DynamicMessage, MessageDescriptor};

use super::*;
use crate::flow::enrich::Enricher;
use crate::flow::fixture::{self, DB, REVISION, UNNAMED, WEB, policy, way};
use crate::flow::hubble::LOST_IN_RING;
use crate::flow::names::Ruling;
use crate::flow::text::misleads;
use crate::policy::origin::{ObjectName, Origin};

/// Compiled from Cilium's definitions.
static POOL: LazyLock<DescriptorPool> = LazyLock::new(|| {
    let directory = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/data");
    let files = protox::compile(["hubble.proto"], [directory]).unwrap();
    DescriptorPool::from_file_descriptor_set(files).unwrap()
});

fn envelope() -> MessageDescriptor {
    POOL.get_message_by_name("enforcer.test.GetFlowsResponse").unwrap()
}

/// Fails on a field, an enum value or a type that is not in the proto.
fn parse_strictly(envelope: &MessageDescriptor, line: &str) -> DynamicMessage {
    let mut json = serde_json::Deserializer::from_str(line);
    let options = DeserializeOptions::new().deny_unknown_fields(true);
    let message = DynamicMessage::deserialize_with_options(envelope.clone(), &mut json, &options)
        .unwrap_or_else(|error| panic!("{error}: {line}"));
    json.end().unwrap();
    message
}

fn time() -> Timestamp {
    "2026-11-23T20:00:00.1Z".parse().unwrap()
}

fn record(ruling: Option<Ruling>, denial: &Denial) -> FlowRecord {
    let names = fixture::names(ruling);
    Enricher::new("n1").enrich(&names, time(), denial).unwrap()
}

fn denied(way: Way, count: u64) -> FlowRecord {
    let ruling = Ruling::Denied(vec![policy("db", 12)]);
    record(Some(ruling), &Denial::Flow { way, count })
}

fn line(record: &FlowRecord) -> String {
    flow_line(record, Uuid::nil())
}

fn with_protocol(protocol: u8, port: u16) -> Way {
    let mut way = way(Reason::NoRule, Direction::Ingress, DB, "10.88.0.3", "10.88.0.2");
    way.key.protocol = protocol;
    way.key.destination_port = port;
    way.tcp_flags = 0;
    way
}

fn answer() -> FlowRecord {
    let mut way = way(Reason::NoRule, Direction::Egress, DB, "10.88.0.3", "10.88.0.2");
    (way.source_port, way.key.destination_port, way.tcp_flags) = (5432, 40122, 0x18);
    let names = fixture::names_under(fixture::Closed(Direction::Ingress, 5432));
    let denial = Denial::Flow { way, count: 4 };
    Enricher::new("n1").enrich(&names, time(), &denial).unwrap()
}

/// A record of every kind, by the name of its kind.
fn kinds() -> Vec<(&'static str, String)> {
    let tcp = way(Reason::NoRule, Direction::Egress, WEB, "10.88.0.2", "10.88.0.3");
    let mut icmp = with_protocol(1, 8);
    icmp.source_port = 0;
    let mut icmpv6 = way(Reason::NoRule, Direction::Egress, WEB, "fd00::2", "2001:db8::1");
    (icmpv6.key.protocol, icmpv6.key.destination_port, icmpv6.source_port) = (58, 128, 0);
    let mut gre = with_protocol(47, 0);
    gre.source_port = 0;
    let mut fragment = way(Reason::Fragment, Direction::Egress, WEB, "10.88.0.2", "192.0.2.1");
    (fragment.key.destination_port, fragment.source_port) = (0, 0);
    (fragment.key.protocol, fragment.tcp_flags) = (17, 0);
    let mut lldp = way(Reason::Ethertype, Direction::Egress, WEB, "::", "::");
    lldp.key.ethertype = 0x88cc;
    lldp.key.protocol = 0;
    let mut odd = tcp;
    odd.tcp_flags = 0x29;
    let mut old = tcp;
    old.key.revision = Revision(2);
    let busy = Denial::Busy { workload: DB, direction: Direction::Ingress, reason: Reason::NoRule, count: 90_000 };
    let many = Ruling::Denied((1..=6).map(|index| policy(&format!("p{index}"), index)).collect());
    let flow = |way| Denial::Flow { way, count: 1 };
    let spoofed = way(Reason::SpoofedSource, Direction::Egress, WEB, "10.88.0.3", "10.88.0.1");
    let nobody = way(Reason::UnknownWorkload, Direction::Egress, UNNAMED, "10.88.0.9", "10.99.0.7");
    vec![
        ("no rule, TCP", line(&denied(tcp, 7))),
        ("no rule, TCP flags", line(&denied(odd, 1))),
        ("no rule, UDP", line(&denied(with_protocol(17, 53), 2))),
        ("no rule, SCTP", line(&denied(with_protocol(132, 3868), 1))),
        ("no rule, ICMP", line(&denied(icmp, 1))),
        ("no rule, ICMPv6 to the world", line(&denied(icmpv6, 1))),
        ("no rule, another protocol", line(&denied(gre, 1))),
        ("no rule, six policies", line(&record(Some(many), &flow(tcp)))),
        ("rule deny", line(&denied(way(Reason::RuleDeny, Direction::Ingress, DB, "fd00::3", "fd00::2"), 1))),
        ("no rule, answer of a flow that policy closed", line(&answer())),
        ("earlier run", line(&denied(old, 1))),
        ("later workload", line(&record(None, &flow(tcp)))),
        ("verdicts differ", line(&record(Some(Ruling::Allowed(vec![policy("db", 14)])), &flow(tcp)))),
        ("spoofed source, to the node", line(&denied(spoofed, 1))),
        ("unknown workload, to a remote one", line(&denied(nobody, 1))),
        ("fragment", line(&denied(fragment, 3))),
        ("ethertype", line(&denied(lldp, 1))),
        ("flows not told apart", line(&record(None, &busy))),
        ("lost in the ring", lost_line("n1", time(), LOST_IN_RING, 12)),
    ]
}

#[test]
fn every_kind_of_record_as_it_is_written() {
    let text: Vec<String> = kinds().into_iter().map(|(kind, line)| format!("# {kind}\n{line}")).collect();
    insta::assert_snapshot!(text.join("\n\n"));
}

#[test]
fn every_kind_of_record_parses_strictly_with_ciliums_proto() {
    let envelope = envelope();
    for (kind, line) in kinds() {
        let message = parse_strictly(&envelope, &line);
        let times = message.get_field_by_name("time").unwrap();
        assert!(times.as_message().is_some(), "{kind}: --since reads the envelope's time");
        assert!(message.has_field_by_name("flow") != message.has_field_by_name("lost_events"), "{kind}");
    }
}

#[test]
fn the_documentation_shows_lines_that_parse_strictly_and_every_reason() {
    let text = include_str!("../../../../../docs/flow-log.md");
    let envelope = envelope();
    let examples: Vec<&str> = text.lines().filter(|line| line.starts_with('{')).collect();
    for line in &examples {
        parse_strictly(&envelope, line);
    }
    assert_eq!(examples.len(), 4);
    for (_, ours, theirs, number) in REASONS {
        let row = text.lines().find(|line| line.starts_with(&format!("| `{ours}` |")));
        assert!(row.is_some_and(|row| row.ends_with(&format!("| `{theirs}` {number} |"))), "{ours}: {row:?}");
    }
}

#[test]
fn the_strict_parse_can_fail() {
    let envelope = envelope();
    for line in [
        r#"{"flow":{"file_line":"a.yaml:1"}}"#,
        r#"{"flow":{"drop_reason_desc":"NO_RULE"}}"#,
        r#"{"flow":{"source":{"identity":-1}}}"#,
    ] {
        let mut json = serde_json::Deserializer::from_str(line);
        let options = DeserializeOptions::new().deny_unknown_fields(true);
        DynamicMessage::deserialize_with_options(envelope.clone(), &mut json, &options).unwrap_err();
    }
}

#[test]
fn every_reason_stands_for_a_drop_reason_of_cilium() {
    let reasons = POOL.get_enum_by_name("enforcer.test.DropReason").unwrap();
    for (_, ours, theirs, number) in REASONS {
        let value = reasons.get_value_by_name(theirs);
        assert_eq!(value.map(|value| value.number()), Some(i32::from(number)), "{ours}: {theirs}");
    }
}

#[test]
fn every_reason_gives_a_line_that_parses_strictly() {
    let envelope = envelope();
    for (reason, name, ..) in REASONS {
        let record = denied(way(reason, Direction::Ingress, DB, "10.88.0.3", "192.0.2.1"), 1);
        let line = line(&record);
        parse_strictly(&envelope, &line);
        assert!(line.contains(&format!("reason={name}")), "{line}");
    }
}

/// The table is an API of the log, so every change of it is looked at.
#[test]
fn reasons_are_pinned() {
    let table: Vec<String> = REASONS
        .iter()
        .map(|(reason, ours, theirs, number)| format!("{} {ours} {theirs} {number}", *reason as u8))
        .collect();
    insta::assert_snapshot!(table.join("\n"));
}

fn with_names(namespace: &str, name: &str, labels: BTreeMap<String, String>, file: &str) -> FlowRecord {
    let mut record = denied(way(Reason::NoRule, Direction::Egress, WEB, "10.88.0.2", "10.88.0.3"), 7);
    let workload = crate::workload::model::WorkloadName { namespace: namespace.to_owned(), name: name.to_owned() };
    record.source = Some(Party::Workload(Arc::new(WorkloadSeen::new(workload, labels.into()))));
    let mut by = policy(name, 12);
    by.namespace = namespace.to_owned();
    by.at = Origin::line(file, 12);
    record.decision = RecordedDecision::Policies { revision: REVISION, policies: vec![by] };
    record.node = name.into();
    record
}

#[test]
fn an_object_of_an_api_is_named_with_its_field_and_cut_like_a_file() {
    let object = |name: &str, field: &str, declared: Option<&str>| {
        let mut record = with_names("shop", "db", BTreeMap::new(), "shop.yaml");
        let object =
            Arc::new(ObjectName { kind: "NetworkPolicy", namespace: "shop".to_owned(), name: name.to_owned() });
        let mut by = policy("db", 12);
        by.at = Origin::Object { object, field: field.into(), declared: declared.map(Arc::from) };
        record.decision = RecordedDecision::Policies { revision: REVISION, policies: vec![by] };
        line(&record)
    };
    let named = object("db", "spec.ingress[0]", None);
    assert!(named.contains(r#""policy_log":["shop/db networkpolicy/shop/db spec.ingress[0]","#), "{named}");
    let named = object("db", "spec.ingress[0]", Some("db.yaml in shop.git"));
    assert!(named.contains(r#"spec.ingress[0] (from \"db.yaml in shop.git\")","#), "{named}");
    let long = "x".repeat(64 * 1024);
    let long = object(&long, &long, Some(&long));
    assert!(long.len() < 16 * 1024, "{}", long.len());
}

/// A72: what a container's labels may hold.
#[test]
fn hostile_names_give_one_short_valid_line_that_steers_nothing() {
    let envelope = envelope();
    let long = "\u{202e}".repeat(64 * 1024);
    let name = "web\n{\"flow\":{}}\u{1b}[2J\"\\\u{7f}\u{9b}\u{2028}\u{2066}";
    let labels = (0..500)
        .map(|index| (format!("key{index:03}"), long.clone()))
        .chain([("forged".to_owned(), name.to_owned())])
        .collect();
    let line = line(&with_names(&long, name, labels, &long));
    assert!(!line.chars().any(misleads), "{line:?}");
    assert!(line.len() < 128 * 1024, "{}", line.len());
    let message = parse_strictly(&envelope, &line);
    let read: GetFlowsResponse = serde_json::from_str(&line).unwrap();
    assert_eq!(message.get_field_by_name("node_name").unwrap().as_str(), Some(name));
    let source = read.flow.unwrap().source.unwrap();
    assert_eq!(source.pod_name, name, "escaped, and not changed");
    assert!(source.namespace.ends_with('\u{2026}'), "a cut is marked");
    assert_eq!(source.labels.len(), LABELS_MOST + 1);
    assert_eq!(source.labels[LABELS_MOST], "enforcer:more-labels=437");
    assert!(source.labels.contains(&format!("k8s:forged={name}")));
}

#[test]
fn ordinary_names_are_written_whole() {
    let name = "n".repeat(253);
    let labels = BTreeMap::from([("k".repeat(317), "v".repeat(63))]);
    let line = line(&with_names(&name, &name, labels, "shop.yaml"));
    assert!(!line.contains('\u{2026}'), "{line}");
}

prop_compose! {
    fn any_way()(
        bytes in any::<[u8; 7]>(),
        words in any::<[u32; 9]>(),
        reason in 1..=REASONS.len() as u8,
        direction in 0..=1_u8,
        owner in 15..20_u32,
    ) -> Way {
        let mut way = Way::FREE;
        way.source_port = u16::from_be_bytes([bytes[0], bytes[1]]);
        way.tcp_flags = bytes[2];
        way.local.0.copy_from_slice(&words[..4]);
        way.key.peer.0.copy_from_slice(&words[4..8]);
        way.key.destination_port = u16::from_be_bytes([bytes[3], bytes[4]]);
        way.key.ethertype = u16::from_be_bytes([bytes[5], bytes[6]]);
        way.key.protocol = bytes[0];
        way.key.revision = Revision(words[8] % 10);
        way.key.workload = IncarnationId(owner);
        way.key.reason = reason;
        way.key.direction = direction;
        way
    }
}

proptest! {
    #[test]
    fn any_names_give_one_line_that_parses_strictly(
        namespace in any::<String>(),
        name in any::<String>(),
        labels in proptest::collection::btree_map(any::<String>(), any::<String>(), 0..70),
        file in any::<String>(),
    ) {
        let envelope = envelope();
        let line = line(&with_names(&namespace, &name, labels, &file));
        prop_assert!(!line.chars().any(misleads));
        parse_strictly(&envelope, &line);
    }

    #[test]
    fn any_denial_gives_one_line_that_parses_strictly(way in any_way(), count in any::<u64>()) {
        let envelope = envelope();
        let ruling = Ruling::Denied(vec![policy("db", 12)]);
        let line = line(&record(Some(ruling), &Denial::Flow { way, count }));
        parse_strictly(&envelope, &line);
        let read: GetFlowsResponse = serde_json::from_str(&line).unwrap();
        let log = read.flow.unwrap().policy_log;
        let count = format!("count={count}");
        prop_assert!(log.contains(&count));
    }
}
