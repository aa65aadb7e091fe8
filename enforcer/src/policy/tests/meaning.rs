//! What legal documents mean, by the numbers of the semantics; the names of the tests begin with them.

use std::collections::BTreeSet;

use super::{flow_policy, loaded, network_policy, policy};
use crate::policy::model::{
    LabelSelector, NamespaceScope, Peer, Peers, PolicyKind, PortSpec, Ports, Requirement, Transport,
};

fn isolates(spec: &str) -> (bool, bool) {
    let policy = policy(&network_policy(spec));
    (policy.isolates_ingress, policy.isolates_egress)
}

fn warnings(text: &str) -> Vec<String> {
    loaded(text).warnings.iter().map(|warning| warning.what.to_string()).collect()
}

fn ports(spec: &str) -> Ports {
    let mut policy = policy(spec);
    policy.ingress.remove(0).ports
}

fn peers(spec: &str) -> Peers {
    let mut policy = policy(spec);
    policy.ingress.remove(0).peers
}

fn labels(key: &str, value: &str) -> LabelSelector {
    LabelSelector { requirements: vec![Requirement::In(key.to_owned(), BTreeSet::from([value.to_owned()]))] }
}

#[test]
fn n3_policy_types_have_defaults() {
    for (spec, expected) in [
        ("  podSelector: {}", (true, false)),
        ("  podSelector: {}\n  egress: []", (true, false)),
        ("  podSelector: {}\n  egress: [{}]", (true, true)),
        ("  podSelector: {}\n  policyTypes: []\n  egress: [{}]", (true, true)),
        ("  podSelector: {}\n  policyTypes: [Egress]", (false, true)),
        ("  podSelector: {}\n  policyTypes: [Ingress]", (true, false)),
        ("  podSelector: {}\n  policyTypes: [Egress, Ingress]", (true, true)),
    ] {
        assert_eq!(isolates(spec), expected, "{spec}");
    }
}

#[test]
fn n3_rules_of_a_direction_that_is_not_isolated_are_dropped_with_a_warning() {
    let text = network_policy("  podSelector: {}\n  policyTypes: [Egress]\n  ingress: [{}]\n  egress: [{}]");
    let policy = policy(&text);
    assert_eq!((policy.ingress.len(), policy.egress.len()), (0, 1));
    assert_eq!(warnings(&text), ["`ingress` has no effect, because `policyTypes` does not list `Ingress`"]);
    let empty = network_policy("  podSelector: {}\n  egress: []");
    assert_eq!(warnings(&empty), ["`egress: []` without `policyTypes` does not isolate egress"]);
}

#[test]
fn n6_no_rule_allows_nothing_and_an_empty_rule_everything() {
    assert_eq!(policy(&network_policy("  podSelector: {}\n  ingress: []")).ingress, []);
    assert_eq!(policy(&network_policy("  podSelector: {}")).ingress, []);
    let rule = policy(&network_policy("  podSelector: {}\n  ingress: [{}]")).ingress.remove(0);
    assert_eq!((rule.peers, rule.ports), (Peers::Any, Ports::Any));
}

#[test]
fn n7_an_empty_list_means_all_and_is_warned_of() {
    let text = network_policy("  podSelector: {}\n  ingress: [{from: [], ports: []}]");
    assert_eq!((peers(&text), ports(&text)), (Peers::Any, Ports::Any));
    assert_eq!(
        warnings(&text),
        [
            "the empty list `from` means everybody, the outside included",
            "the empty list `ports` means every protocol and port"
        ]
    );
}

#[test]
fn n8_n9_n10_ports() {
    let spec = "  podSelector: {}\n  ingress: [{ports: [{}, {protocol: UDP}, {port: 80}, {port: 0x50, protocol: SCTP}, \
                {port: 1, endPort: 65535}, {port: 7, endPort: 7}, {port: http, protocol: UDP}, {port: http}]}]";
    let range = |transport, first, last| PortSpec::Range { transport, first, last };
    let named = |transport| PortSpec::Named { name: "http".to_owned(), transport: Some(transport) };
    let expected = vec![
        PortSpec::Every(Transport::Tcp),
        PortSpec::Every(Transport::Udp),
        range(Transport::Tcp, 80, 80),
        range(Transport::Sctp, 80, 80),
        range(Transport::Tcp, 1, 65535),
        range(Transport::Tcp, 7, 7),
        named(Transport::Udp),
        named(Transport::Tcp),
    ];
    assert_eq!(ports(&network_policy(spec)), Ports::Only(expected));
}

#[test]
fn flow_policy_ports() {
    let spec = "  allow:\n    - from: anywhere\n      ports: [5432/tcp, 8000-8010/udp, any/sctp, icmp, http, http/tcp, \
                icmp/udp, tcp/tcp, any/udp, 1-65535/tcp]";
    let range = |transport, first, last| PortSpec::Range { transport, first, last };
    let named = |name: &str, transport| PortSpec::Named { name: name.to_owned(), transport };
    let expected = vec![
        range(Transport::Tcp, 5432, 5432),
        range(Transport::Udp, 8000, 8010),
        PortSpec::Every(Transport::Sctp),
        PortSpec::Icmp,
        named("http", None),
        named("http", Some(Transport::Tcp)),
        named("icmp", Some(Transport::Udp)),
        named("tcp", Some(Transport::Tcp)),
        PortSpec::Every(Transport::Udp),
        range(Transport::Tcp, 1, 65535),
    ];
    assert_eq!(ports(&flow_policy(spec)), Ports::Only(expected));
}

#[test]
fn n11_n12_peers_by_label() {
    let spec = "  podSelector: {}\n  ingress: [{from: [{podSelector: {matchLabels: {app: web}}}, {namespaceSelector: {}}, \
                {namespaceSelector: {matchLabels: {team: shop}}, podSelector: {}}]}]";
    let all = LabelSelector::default;
    let expected = Peers::Only(vec![
        Peer::Workloads { namespaces: NamespaceScope::Own, workloads: labels("app", "web") },
        Peer::Workloads { namespaces: NamespaceScope::Matching(all()), workloads: all() },
        Peer::Workloads { namespaces: NamespaceScope::Matching(labels("team", "shop")), workloads: all() },
    ]);
    assert_eq!(peers(&network_policy(spec)), expected);
    let spec =
        "  allow:\n    - from: [{workloads: {app: web}}, {namespaces: {}}, {namespaces: {team: shop}, workloads: {}}]";
    assert_eq!(peers(&flow_policy(spec)), expected);
}

#[test]
fn n14_n17_n29_addresses() {
    let text = network_policy(
        "  podSelector: {}\n  ingress: [{from: [{ipBlock: {cidr: 10.1.2.3/8, except: [10.1.2.3/16]}}, {ipBlock: {cidr: \"::/0\"}}]}]",
    );
    let expected = vec![
        Peer::Cidr { cidr: "10.0.0.0/8".parse().unwrap(), except: vec!["10.1.0.0/16".parse().unwrap()] },
        Peer::Cidr { cidr: "::/0".parse().unwrap(), except: Vec::new() },
    ];
    assert_eq!(peers(&text), Peers::Only(expected));
    assert_eq!(
        warnings(&text),
        [
            "`10.1.2.3/8` has bits set after its prefix, so it is read as `10.0.0.0/8`",
            "`10.1.2.3/16` has bits set after its prefix, so it is read as `10.1.0.0/16`"
        ]
    );
}

#[test]
fn selectors_keep_all_that_they_require() {
    let expressions = "matchExpressions: [{key: a, operator: In, values: [x, v]}, {key: b, operator: NotIn, values: [z]}, \
                       {key: c, operator: Exists}, {key: d, operator: DoesNotExist, values: []}]";
    let set = |values: &[&str]| values.iter().map(|&value| value.to_owned()).collect::<BTreeSet<_>>();
    let expected = LabelSelector {
        requirements: vec![
            Requirement::In("app.io/e".to_owned(), set(&[""])),
            Requirement::In("a".to_owned(), set(&["x", "v"])),
            Requirement::NotIn("b".to_owned(), set(&["z"])),
            Requirement::Exists("c".to_owned()),
            Requirement::DoesNotExist("d".to_owned()),
        ],
    };
    let selector = format!("{{matchLabels: {{app.io/e: \"\"}}, {expressions}}}");
    assert_eq!(policy(&network_policy(&format!("  podSelector: {selector}"))).subject, expected);
    let flow = format!("  workloads: {selector}\n  isolate: [ingress]");
    assert_eq!(policy(&flow_policy(&flow)).subject, expected);
}

#[test]
fn flow_policy_isolates_what_it_names() {
    for (spec, expected) in [
        ("  isolate: [ingress]", (true, false)),
        ("  isolate: [egress, ingress]\n  allow: []", (true, true)),
        ("  allow: [{from: anywhere}]", (true, false)),
        ("  allow: [{to: anywhere}]", (false, true)),
        ("  allow: [{to: anywhere}, {from: anywhere}]", (true, true)),
        ("  isolate: [ingress, egress]\n  allow: [{from: anywhere}]", (true, true)),
    ] {
        let policy = policy(&flow_policy(spec));
        assert_eq!((policy.isolates_ingress, policy.isolates_egress), expected, "{spec}");
        assert_eq!(policy.subject, LabelSelector::default(), "{spec}");
    }
}

#[test]
fn policies_and_rules_know_their_lines() {
    let text = "# shop\n---\n# empty\n---\napiVersion: enforcer.dev/v1alpha1\nkind: FlowPolicy\nmetadata:\n  labels: {a: b}\n  \
                name: web\nspec:\n  allow:\n    - from: anywhere\n    # second\n    -\n      to: anywhere\n    - {from: anywhere}\n";
    for text in [text.to_owned(), format!("\u{feff}{text}"), text.replace('\n', "\r\n")] {
        let policy = policy(&text);
        assert_eq!(policy.at.to_string(), "test.yaml:9");
        let places: Vec<String> = policy.ingress.iter().map(|rule| rule.at.to_string()).collect();
        assert_eq!(places, ["test.yaml:12", "test.yaml:16"]);
        assert_eq!(policy.egress[0].at.to_string(), "test.yaml:15");
    }
}

#[test]
fn metadata_and_status_are_open_and_the_namespace_has_a_default() {
    let text = "apiVersion: networking.k8s.io/v1\nkind: NetworkPolicy\nstatus: {conditions: [{type: A}]}\nmetadata:\n  \
                name: a.b\n  uid: 1\n  creationTimestamp: null\n  managedFields: [{fieldsV1: {f:spec: {f:x: {}}}}]\nspec: {podSelector: {}}\n";
    let policy = policy(text);
    assert_eq!(
        (policy.kind, policy.namespace.as_str(), policy.name.as_str()),
        (PolicyKind::NetworkPolicy, "default", "a.b")
    );
    let missing = network_policy("  policyTypes: [Ingress]");
    assert_eq!(warnings(&missing), ["without `podSelector` the policy selects every pod of its namespace"]);
}

#[test]
fn aliases_are_followed_and_placed_where_they_are_used() {
    let text = flow_policy("  workloads: &web {app: web}\n  allow:\n    - from: [{workloads: *web}]");
    assert_eq!(policy(&text).subject, labels("app", "web"));
    let own = Peer::Workloads { namespaces: NamespaceScope::Own, workloads: labels("app", "web") };
    assert_eq!(peers(&text), Peers::Only(vec![own]));
}
