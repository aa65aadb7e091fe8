//! Parses a `networking.k8s.io/v1` NetworkPolicy (N2, N3, N6-N14, N17).
//!
//! Input: the shapes of its `spec`. Output: the model, with cautions, or problems.

use super::super::caution::Caution;
use super::super::document::network_policy::{EgressRuleDoc, IngressRuleDoc, IpBlockDoc, PeerDoc, PortDoc, SpecDoc};
use super::super::document::port::PortValueDoc;
use super::super::document::selector::LabelSelectorDoc;
use super::super::error::Problem;
use super::super::model::{
    Action, LabelSelector, NamespaceScope, Peer, Peers, PolicyKind, PortSpec, Ports, Rule, Transport,
};
use super::super::names::is_port_name;
use super::super::position::{At, Field, Position};
use super::super::yaml::shown;
use super::context::Context;
use super::peer::{cidr, port_number};
use super::selector::{Selects, label_selector};
use super::{Spec, each};

const POLICY_TYPES: &[&str] = &["Ingress", "Egress"];
const PROTOCOLS: &[&str] = &["TCP", "UDP", "SCTP"];
const PEER_FIELDS: &[&str] = &["podSelector", "namespaceSelector", "ipBlock"];

pub(super) fn read(context: &mut Context<'_>, spec: At<SpecDoc>) -> Option<Spec> {
    let At { value: SpecDoc { pod_selector, policy_types, ingress, egress }, at } = spec;
    let null = null_in(&pod_selector);
    let subject = match pod_selector {
        Field::Given(selector) => label_selector(context, selector.value, Selects::Pods),
        Field::Null(at) => {
            context.warn(at, Caution::NullIsEmpty { field: "podSelector", empty: "{}" });
            Some(LabelSelector::default())
        }
        Field::Absent => {
            context.warn(at, Caution::NoPodSelector);
            Some(LabelSelector::default())
        }
    };
    let types = directions(context, policy_types, &egress);
    let (ingress_at, ingress) = rules(context, "ingress", ingress, at);
    let (egress_at, egress) = rules(context, "egress", egress, at);
    let ingress = each(ingress, |doc| {
        let At { value: IngressRuleDoc { from, ports }, at } = doc;
        rule(context, at, "from", from, ports)
    });
    let egress = each(egress, |doc| {
        let At { value: EgressRuleDoc { to, ports }, at } = doc;
        rule(context, at, "to", to, ports)
    });
    let (isolates_ingress, isolates_egress) = types?;
    let (mut ingress, mut egress) = (ingress?, egress?);
    if !isolates_ingress && !ingress.is_empty() {
        context.warn(ingress_at, Caution::NoEffect { field: "ingress", direction: "Ingress" });
        ingress.clear();
    }
    if !isolates_egress && !egress.is_empty() {
        context.warn(egress_at, Caution::NoEffect { field: "egress", direction: "Egress" });
        egress.clear();
    }
    // Everybody would reach more workloads than the author thinks of.
    if let Some(at) = null
        && ingress.iter().chain(&egress).any(is_for_everybody)
    {
        return context.refuse(at, Problem::NoValueBesideOpenRule);
    }
    Some(Spec { subject: subject?, isolates_ingress, isolates_egress, ingress, egress })
}

/// The first place without a value in the selector of the policy's own pods.
fn null_in(selector: &Field<LabelSelectorDoc>) -> Option<Position> {
    match selector {
        Field::Absent => None,
        Field::Null(at) => Some(*at),
        Field::Given(At { value: LabelSelectorDoc { match_labels, match_expressions }, .. }) => {
            match (match_labels, match_expressions) {
                (Field::Null(at), _) | (_, Field::Null(at)) => Some(*at),
                _ => None,
            }
        }
    }
}

/// Whether a rule names nobody in particular.
fn is_for_everybody(rule: &Rule) -> bool {
    let is_open = |peer: &Peer| match peer {
        Peer::Workloads { namespaces: NamespaceScope::Own, .. } => false,
        Peer::Workloads { namespaces: NamespaceScope::Matching(namespaces), workloads } => {
            namespaces.requirements.is_empty() && workloads.requirements.is_empty()
        }
        Peer::Cidr { cidr, .. } => cidr.prefix() == 0,
    };
    match &rule.peers {
        Peers::Any => true,
        Peers::Only(peers) => peers.iter().any(is_open),
    }
}

/// The list of one direction's rules and its place, which is that of `spec` where the field is absent.
fn rules<T>(context: &mut Context<'_>, field: &'static str, list: Field<Vec<T>>, spec: Position) -> (Position, Vec<T>) {
    match list {
        Field::Absent => (spec, Vec::new()),
        Field::Null(at) => {
            context.warn(at, Caution::NullIsEmpty { field, empty: "[]" });
            (at, Vec::new())
        }
        Field::Given(rules) => (rules.at, rules.value),
    }
}

/// Whether the policy isolates ingress and egress (N3).
fn directions(
    context: &mut Context<'_>,
    types: Option<At<Vec<At<String>>>>,
    egress: &Field<Vec<At<EgressRuleDoc>>>,
) -> Option<(bool, bool)> {
    let Some(types) = types.filter(|types| !types.value.is_empty()) else {
        return match egress {
            Field::Absent => Some((true, false)),
            // With the rules that are not there any more the policy would isolate egress.
            Field::Null(at) => context.refuse(*at, Problem::NoValue),
            Field::Given(rules) => {
                if rules.value.is_empty() {
                    context.warn(rules.at, Caution::EmptyEgress);
                }
                Some((true, !rules.value.is_empty()))
            }
        };
    };
    if types.value.len() > 2 {
        return context.refuse(types.at, Problem::DirectionTwice { field: "policyTypes" });
    }
    let mut directions = (false, false);
    let mut legal = Some(());
    for At { value, at } in types.value {
        match value.as_str() {
            "Ingress" => directions.0 = true,
            "Egress" => directions.1 = true,
            word => {
                let (what, word) = ("policy type", shown(word));
                legal = context.refuse(at, Problem::UnknownWord { what, word, expected: POLICY_TYPES });
            }
        }
    }
    legal.map(|()| directions)
}

fn rule(
    context: &mut Context<'_>,
    at: Position,
    field: &'static str,
    peers: Option<At<Vec<At<PeerDoc>>>>,
    ports: Option<At<Vec<At<PortDoc>>>>,
) -> Option<Rule> {
    let peers = match peers {
        None => Some(Peers::Any),
        Some(list) if list.value.is_empty() => {
            context.warn(list.at, Caution::EmptyMeansAll { field, meaning: "everybody, the outside included" });
            Some(Peers::Any)
        }
        Some(list) => each(list.value, |doc| peer(context, doc)).map(Peers::Only),
    };
    let ports = match ports {
        None => Some(Ports::Any),
        Some(list) if list.value.is_empty() => {
            context.warn(list.at, Caution::EmptyMeansAll { field: "ports", meaning: "every protocol and port" });
            Some(Ports::Any)
        }
        Some(list) => each(list.value, |doc| port(context, doc)).map(Ports::Only),
    };
    Some(Rule { at: context.location(at), action: Action::Allow, peers: peers?, ports: ports? })
}

fn peer(context: &mut Context<'_>, doc: At<PeerDoc>) -> Option<Peer> {
    let At { value: PeerDoc { pod_selector, namespace_selector, ip_block }, at } = doc;
    match (pod_selector, namespace_selector, ip_block) {
        (None, None, None) => context.refuse(at, Problem::EmptyPeer { fields: PEER_FIELDS }),
        (None, None, Some(block)) => {
            let IpBlockDoc { cidr: range, except } = block.value;
            cidr(context, PolicyKind::NetworkPolicy, &range, except)
        }
        (_, _, Some(block)) => context.refuse(block.at, Problem::MixedPeer { cidr: "ipBlock" }),
        (pods, namespaces, None) => {
            let workloads = pods.map_or_else(
                || Some(LabelSelector::default()),
                |pods| label_selector(context, pods.value, Selects::Peers),
            );
            let namespaces = match namespaces {
                None => Some(NamespaceScope::Own),
                Some(selector) => label_selector(context, selector.value, Selects::Peers).map(NamespaceScope::Matching),
            };
            Some(Peer::Workloads { namespaces: namespaces?, workloads: workloads? })
        }
    }
}

/// Whether a text is a port number but for its quotes.
fn is_quoted_number(text: &str, at: Position) -> bool {
    text.parse::<u16>().is_ok_and(|port| port > 0 && port.to_string() == text)
        && usize::try_from(at.length).is_ok_and(|length| length > text.len())
}

/// A port item (N8-N10).
fn port(context: &mut Context<'_>, doc: At<PortDoc>) -> Option<PortSpec> {
    let At { value: PortDoc { protocol, port, end_port }, at: _ } = doc;
    let transport = match &protocol {
        None => Transport::Tcp,
        Some(At { value, at }) => match value.as_str() {
            "TCP" => Transport::Tcp,
            "UDP" => Transport::Udp,
            "SCTP" => Transport::Sctp,
            word => {
                let (what, word) = ("protocol", shown(word));
                return context.refuse(*at, Problem::UnknownWord { what, word, expected: PROTOCOLS });
            }
        },
    };
    for port in [&port, &end_port].into_iter().flatten() {
        if let PortValueDoc::Text(text) = &port.value
            && is_quoted_number(text, port.at)
        {
            return context.refuse(port.at, Problem::QuotedPort { text: text.clone() });
        }
    }
    match (port, end_port) {
        (None, None) => Some(PortSpec::Every(transport)),
        (None | Some(At { value: PortValueDoc::Text(_), .. }), Some(end)) => {
            context.refuse(end.at, Problem::EndPortAlone)
        }
        (Some(At { value: PortValueDoc::Text(name), at }), None) => {
            if is_port_name(&name) {
                return Some(PortSpec::Named { name, transport: Some(transport) });
            }
            // `08080` and `8080.0`.
            let digits = name.strip_suffix(".0").unwrap_or(&name);
            let meant = digits.parse::<u16>().ok().filter(|&port| port > 0).map(|port| port.to_string());
            context.refuse(at, Problem::PortName { text: shown(&name), meant })
        }
        (Some(At { value: PortValueDoc::Number(number), at }), end) => {
            let first = port_number(context, at, number);
            let last = match end {
                None => first,
                Some(At { value: PortValueDoc::Number(number), at }) => {
                    let last = port_number(context, at, number);
                    if let (Some(first), Some(last)) = (first, last)
                        && last < first
                    {
                        return context.refuse(at, Problem::PortOrder { first, last });
                    }
                    last
                }
                Some(At { value: PortValueDoc::Text(_), at }) => {
                    return context.refuse(at, Problem::WrongType { expected: "a number".to_owned() });
                }
            };
            Some(PortSpec::Range { transport, first: first?, last: last? })
        }
    }
}
