//! Writes random policies as NetworkPolicy documents and reads them back. The parser must fill in the defaults (N3, N6, N7,
//! N8) as the oracle does.
//!
//! `ENFORCER_ORACLE_SEED` repeats a run.

use enforcer::policy::load::{SourceFile, from_sources};
use enforcer::policy::model::{
    Action, LabelSelector, NamespaceScope, Peer, Peers, Policy, PolicySet, PortSpec, Ports, Requirement, Rule,
    Transport,
};
use enforcer_tests::oracle::declare::{Declared, Defaults, at, model};
use enforcer_tests::oracle::generate;
use enforcer_tests::oracle::random::Random;
use serde_json::{Value, json};

const SETS: usize = 500;

#[test]
fn parsed_documents_mean_what_was_declared() {
    let seed = std::env::var("ENFORCER_ORACLE_SEED").ok().and_then(|seed| seed.parse().ok()).unwrap_or(7);
    println!("ENFORCER_ORACLE_SEED={seed}");
    let mut random = Random(seed);
    let mut told_apart = 0;
    for _ in 0..SETS {
        let snapshot = generate::snapshot(&mut random);
        let places = generate::places(&snapshot);
        let mut declared = generate::policies(&mut random, &places);
        declared.retain(|policy| policy.ingress.iter().chain(&policy.egress).all(can_be_written));
        let text: Vec<String> = declared.iter().map(|policy| document(policy).to_string()).collect();
        let source = SourceFile { path: "random.yaml".into(), text: text.join("\n---\n").into() };
        let loaded = from_sources(vec![source]).unwrap_or_else(|errors| panic!("{}\n{errors}", text.join("\n---\n")));
        let parsed: PolicySet = loaded.set.policies.iter().map(|policy| (**policy).clone()).map(placeless).collect();
        assert_eq!(parsed, model(&declared, Defaults::Standard), "{}", text.join("\n---\n"));
        told_apart += usize::from(parsed != model(&declared, Defaults::Both));
    }
    assert!(told_apart > SETS / 10, "only {told_apart} sets tell how absent types are read");
}

/// What a NetworkPolicy has no words for: a denial, ICMP, and a named port of any protocol.
fn can_be_written(rule: &Rule) -> bool {
    let ports = match &rule.ports {
        Ports::Any => true,
        Ports::Only(specs) => {
            !specs.iter().any(|spec| matches!(spec, PortSpec::Icmp | PortSpec::Named { transport: None, .. }))
        }
    };
    ports && rule.action == Action::Allow
}

fn placeless(policy: Policy) -> Policy {
    let rules = |rules: Vec<Rule>| rules.into_iter().map(|rule| Rule { at: at(), ..rule }).collect();
    Policy { at: at(), ingress: rules(policy.ingress), egress: rules(policy.egress), ..policy }
}

fn document(policy: &Declared) -> Value {
    let mut spec = json!({ "podSelector": selector(&policy.subject) });
    if let Some([ingress, egress]) = policy.types {
        let types = [("Ingress", ingress), ("Egress", egress)];
        let listed = types.into_iter().filter(|(_, listed)| *listed).map(|(name, _)| name);
        spec["policyTypes"] = listed.collect();
    }
    let [ingress, egress] = policy.types.unwrap_or([true, true]);
    // Rules of a direction that the types leave out are a mistake of their own, and another test's matter.
    if ingress {
        spec["ingress"] = policy.ingress.iter().map(|rule| written(rule, "from")).collect();
    }
    if egress && !policy.egress.is_empty() {
        spec["egress"] = policy.egress.iter().map(|rule| written(rule, "to")).collect();
    }
    json!({
        "apiVersion": "networking.k8s.io/v1",
        "kind": "NetworkPolicy",
        "metadata": { "name": policy.name, "namespace": policy.namespace },
        "spec": spec,
    })
}

fn written(rule: &Rule, peers: &str) -> Value {
    let mut document = json!({});
    if let Peers::Only(items) = &rule.peers {
        document[peers] = items.iter().map(peer).collect();
    }
    if let Ports::Only(specs) = &rule.ports {
        document["ports"] = specs.iter().map(port).collect();
    }
    document
}

fn peer(peer: &Peer) -> Value {
    match peer {
        Peer::Cidr { cidr, except } => {
            let except: Vec<String> = except.iter().map(ToString::to_string).collect();
            json!({ "ipBlock": { "cidr": cidr.to_string(), "except": except } })
        }
        Peer::Workloads { namespaces, workloads } => match namespaces {
            NamespaceScope::Own => json!({ "podSelector": selector(workloads) }),
            NamespaceScope::Matching(namespaces) => {
                json!({ "namespaceSelector": selector(namespaces), "podSelector": selector(workloads) })
            }
        },
    }
}

fn port(spec: &PortSpec) -> Value {
    let protocol = |transport: Transport| match transport {
        Transport::Tcp => "TCP",
        Transport::Udp => "UDP",
        Transport::Sctp => "SCTP",
    };
    match spec {
        PortSpec::Every(transport) => json!({ "protocol": protocol(*transport) }),
        // The default protocol is TCP (N8).
        PortSpec::Range { transport: Transport::Tcp, first, last } if first == last => json!({ "port": first }),
        PortSpec::Range { transport, first, last } => {
            json!({ "port": first, "endPort": last, "protocol": protocol(*transport) })
        }
        PortSpec::Named { name, transport } => match transport {
            Some(transport) => json!({ "port": name, "protocol": protocol(*transport) }),
            None => unreachable!("filtered out"),
        },
        PortSpec::Icmp => unreachable!("filtered out"),
    }
}

fn selector(selector: &LabelSelector) -> Value {
    let expressions = selector.requirements.iter().map(|requirement| match requirement {
        Requirement::In(key, values) => json!({ "key": key, "operator": "In", "values": values }),
        Requirement::NotIn(key, values) => json!({ "key": key, "operator": "NotIn", "values": values }),
        Requirement::Exists(key) => json!({ "key": key, "operator": "Exists" }),
        Requirement::DoesNotExist(key) => json!({ "key": key, "operator": "DoesNotExist" }),
    });
    let expressions: Vec<Value> = expressions.collect();
    if expressions.is_empty() { json!({}) } else { json!({ "matchExpressions": expressions }) }
}
