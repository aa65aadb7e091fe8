use super::*;
use crate::flow::fixture::{self, Closed, DB, REVISION, UNNAMED, WEB, policy, way};
use crate::flow::names::NameTable;
use enforcer_common::id::{Ifindex, IncarnationId, Revision};

fn enrich(names: &NameTable, denial: Denial) -> (FlowRecord, u64) {
    let mut enricher = Enricher::new("n1");
    let record = enricher.enrich(names, Timestamp::UNIX_EPOCH, &denial).unwrap();
    (record, enricher.disagreements())
}

fn flow(names: &NameTable, way: Way) -> (FlowRecord, u64) {
    enrich(names, Denial::Flow { way, count: 7 })
}

fn name(party: Option<&Party>) -> String {
    match party {
        Some(Party::Workload(workload)) => workload.name.to_string(),
        other => format!("{other:?}"),
    }
}

#[test]
fn a_denial_names_both_sides_and_every_policy_sorted() {
    let names = fixture::names(Some(Ruling::Denied(vec![policy("db", 12), policy("a", 30)])));
    let egress = way(Reason::NoRule, Direction::Egress, WEB, "10.88.0.2", "10.88.0.3");
    let (record, disagreements) = flow(&names, egress);
    assert_eq!(name(record.source.as_ref()), "shop/web");
    assert_eq!(name(record.destination.as_ref()), "shop/db");
    let addresses = (fixture::ip("10.88.0.2"), fixture::ip("10.88.0.3"));
    assert_eq!(record.packet.unwrap().addresses, Some(addresses));
    let policies = vec![policy("a", 30), policy("db", 12)];
    assert_eq!(record.decision, RecordedDecision::Policies { revision: REVISION, policies });
    assert_eq!((record.count, disagreements), (7, 0));
    assert_eq!(record.interface.unwrap().name, "veth5");

    let ingress = way(Reason::NoRule, Direction::Ingress, DB, "10.88.0.3", "10.88.0.2");
    let (record, _) = flow(&names, ingress);
    assert_eq!(name(record.source.as_ref()), "shop/web");
    assert_eq!(record.packet.unwrap().addresses, Some(addresses), "as in the packet");
    assert_eq!(record.interface, None, "shop/db has two veths");
}

#[test]
fn policies_that_allow_what_the_kernel_denied_are_an_error_that_is_counted() {
    let names = fixture::names(Some(Ruling::Allowed(vec![policy("db", 14)])));
    let denied = way(Reason::NoRule, Direction::Egress, WEB, "10.88.0.2", "10.88.0.3");
    let (record, disagreements) = flow(&names, denied);
    assert!(matches!(record.decision, RecordedDecision::Disagreement { .. }), "{record:?}");
    assert_eq!(disagreements, 7);
}

/// A policy change cuts a live flow of web to db: what db sends back is judged by what isolates db for ingress.
#[test]
fn an_answer_of_a_flow_that_policy_closed_is_denied_by_what_denies_the_flow() {
    let closed = fixture::names_under(Closed(Direction::Ingress, 5432));
    let mut answer = way(Reason::NoRule, Direction::Egress, DB, "10.88.0.3", "10.88.0.2");
    (answer.source_port, answer.key.destination_port) = (5432, 40122);
    for (protocol, flags) in [(6, 0x10), (6, 0x12), (17, 0), (132, 0)] {
        (answer.key.protocol, answer.tcp_flags) = (protocol, flags);
        let (record, disagreements) = flow(&closed, answer);
        assert!(record.is_reply, "{protocol} {flags}");
        assert_eq!((record.direction, record.opened()), (Direction::Egress, Direction::Ingress));
        assert!(matches!(record.decision, RecordedDecision::Policies { .. }), "{record:?}");
        assert_eq!(disagreements, 0);
    }
    (answer.key.protocol, answer.tcp_flags) = (6, 0x02);
    let (record, disagreements) = flow(&closed, answer);
    assert_eq!((record.is_reply, disagreements), (false, 7), "a SYN answers nothing");
}

#[test]
fn an_echo_reply_answers_an_echo_request() {
    for (protocol, request, reply) in [(1, 8, 0), (58, 128, 129)] {
        let closed = fixture::names_under(Closed(Direction::Egress, request));
        let mut answer = way(Reason::NoRule, Direction::Ingress, WEB, "10.88.0.2", "192.0.2.1");
        (answer.key.protocol, answer.key.destination_port, answer.source_port) = (protocol, reply, 0);
        let (record, disagreements) = flow(&closed, answer);
        assert_eq!((record.is_reply, disagreements), (true, 0), "{protocol}");
        answer.key.destination_port = 3;
        assert!(!flow(&closed, answer).0.is_reply, "only that");
    }
}

#[test]
fn a_packet_that_is_denied_as_a_new_flow_is_one() {
    let names = fixture::names(Some(Ruling::Denied(vec![policy("db", 12)])));
    let mut answer = way(Reason::NoRule, Direction::Egress, DB, "10.88.0.3", "10.88.0.2");
    answer.tcp_flags = 0x10;
    assert!(!flow(&names, answer).0.is_reply);
}

#[test]
fn a_revision_that_is_not_kept_gives_names_and_no_policy() {
    let names = fixture::names(Some(Ruling::Denied(vec![policy("db", 12)])));
    let mut denied = way(Reason::NoRule, Direction::Egress, WEB, "10.88.0.2", "10.88.0.3");
    denied.key.revision = Revision(2);
    let (record, disagreements) = flow(&names, denied);
    assert_eq!(record.decision, RecordedDecision::EarlierRevision { revision: Revision(2) });
    assert_eq!(name(record.destination.as_ref()), "shop/db");
    assert_eq!(disagreements, 0);
}

#[test]
fn a_workload_that_the_policies_do_not_know_is_no_disagreement() {
    let (record, disagreements) =
        flow(&fixture::names(None), way(Reason::NoRule, Direction::Egress, WEB, "10.88.0.2", "10.88.0.3"));
    assert_eq!(record.decision, RecordedDecision::LaterWorkload { revision: REVISION });
    assert_eq!(disagreements, 0);
}

#[test]
fn only_policy_reasons_ask_the_policies() {
    let names = fixture::names(Some(Ruling::Allowed(Vec::new())));
    for (reason, ..) in enforcer_common::verdict::REASONS {
        let (record, disagreements) = flow(&names, way(reason, Direction::Egress, WEB, "10.88.0.2", "192.0.2.1"));
        let asked = record.decision != RecordedDecision::NotPolicy;
        assert_eq!(asked, matches!(reason, Reason::NoRule | Reason::RuleDeny), "{reason:?}");
        assert_eq!(disagreements != 0, asked);
    }
}

#[test]
fn the_sender_of_a_spoofed_packet_is_who_sent_it() {
    let names = fixture::names(None);
    // A29: web claims db's address.
    let spoofed = way(Reason::SpoofedSource, Direction::Egress, WEB, "10.88.0.3", "192.0.2.1");
    let (record, _) = flow(&names, spoofed);
    assert_eq!(name(record.source.as_ref()), "shop/web");
    assert_eq!(record.packet.unwrap().addresses.unwrap().0, fixture::ip("10.88.0.3"));
    // A8: web's address from outside.
    let outside = way(Reason::SpoofedFromUplink, Direction::Ingress, DB, "10.88.0.3", "10.88.0.2");
    assert_eq!(flow(&names, outside).0.source, Some(Party::World), "of an older build");
    let elsewhere = way(Reason::SpoofedSource, Direction::Ingress, DB, "10.88.0.3", "10.88.0.2");
    assert_eq!(flow(&names, elsewhere).0.source, Some(Party::World), "web's address from elsewhere");
}

#[test]
fn a_guards_packet_has_the_name_of_its_device_and_of_its_destination() {
    let mut names = NameTable::default();
    let mut snapshot = fixture::snapshot();
    snapshot.others.insert(Ifindex(9), "tap0".to_owned());
    names.install(REVISION, &Arc::new(snapshot), &fixture::owners(), Arc::new(fixture::Scripted(None)));
    let guards = |ifindex| IncarnationId::of_device(Ifindex(ifindex));
    let named = |ifindex, local| {
        let (record, _) =
            flow(&names, way(Reason::SpoofedSource, Direction::Ingress, guards(ifindex), local, "10.88.0.2"));
        let interface = record.interface.unwrap();
        (interface.ifindex, interface.name.clone(), name(record.destination.as_ref()), record.source)
    };
    let world = Some(Party::World);
    assert_eq!(named(9, "10.88.0.3"), (Ifindex(9), "tap0".to_owned(), "shop/db".to_owned(), world.clone()));
    assert_eq!(named(9, "10.88.0.1"), (Ifindex(9), "tap0".to_owned(), "Some(Host)".to_owned(), world), "the node");
    assert_eq!(named(8, "192.0.2.1").1, "", "a device that nobody knows any more");
    let busy =
        Denial::Busy { workload: guards(9), direction: Direction::Ingress, reason: Reason::SpoofedSource, count: 7 };
    let (record, _) = enrich(&names, busy);
    assert_eq!((record.source, record.destination, record.count), (None, None, 7));
    assert_eq!(record.interface.unwrap().name, "tap0");
}

#[test]
fn unknown_workloads_and_unread_packets_have_no_invented_names() {
    let names = fixture::names(None);
    let unnamed = way(Reason::UnknownWorkload, Direction::Egress, UNNAMED, "10.88.0.9", "10.88.0.3");
    assert_eq!(flow(&names, unnamed).0.source, Some(Party::Unknown));
    let mut nobody = unnamed;
    nobody.key.workload = IncarnationId::NONE;
    assert_eq!(flow(&names, nobody).0.source, Some(Party::Unknown));

    let mut unread = way(Reason::Ethertype, Direction::Ingress, DB, "::", "::");
    unread.key.ethertype = 0x88cc;
    let (record, _) = flow(&names, unread);
    assert_eq!((record.source, record.packet.unwrap().addresses), (None, None));
    assert_eq!(name(record.destination.as_ref()), "shop/db");
}

#[test]
fn packets_of_several_flows_are_named_by_their_workload() {
    let names = fixture::names(Some(Ruling::Allowed(Vec::new())));
    let busy = Denial::Busy { workload: DB, direction: Direction::Ingress, reason: Reason::NoRule, count: 1000 };
    let (record, disagreements) = enrich(&names, busy);
    assert_eq!((record.packet, record.source), (None, None));
    assert_eq!(name(record.destination.as_ref()), "shop/db");
    assert_eq!((record.count, record.decision, disagreements), (1000, RecordedDecision::NotPolicy, 0));
}

#[test]
fn numbers_of_another_build_are_refused() {
    let mut enricher = Enricher::new("n1");
    let names = NameTable::default();
    let mut denied = way(Reason::NoRule, Direction::Egress, WEB, "10.88.0.2", "10.88.0.3");
    denied.key.reason = 200;
    let denial = Denial::Flow { way: denied, count: 1 };
    assert_eq!(enricher.enrich(&names, Timestamp::UNIX_EPOCH, &denial), Err(InvalidDenial::Reason(200)));
    denied.key.reason = Reason::NoRule as u8;
    denied.key.direction = 2;
    let denial = Denial::Flow { way: denied, count: 1 };
    assert_eq!(enricher.enrich(&names, Timestamp::UNIX_EPOCH, &denial), Err(InvalidDenial::Direction(2)));
}
