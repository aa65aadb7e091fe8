//! Parses an `enforcer.dev/v1alpha1` FlowPolicy, which says the same as a NetworkPolicy in fewer words.
//!
//! Input: the shapes of its `spec`. Output: the model, or problems. It refuses whatever could allow traffic by accident.

use super::super::document::flow_policy::{AllowDoc, PeerDoc, PeersDoc, SpecDoc};
use super::super::document::port::PortValueDoc;
use super::super::error::Problem;
use super::super::model::{
    Action, LabelSelector, NamespaceScope, Peer, Peers, PolicyKind, PortSpec, Ports, Rule, Transport,
};
use super::super::names::is_port_name;
use super::super::position::{At, Position};
use super::super::yaml::shown;
use super::context::Context;
use super::peer::{cidr, port_number};
use super::selector::labels;
use super::{Spec, each};

pub(in crate::policy) const DIRECTIONS: &[&str] = &["ingress", "egress"];
const PEER_FIELDS: &[&str] = &["workloads", "namespaces", "cidr"];
pub(in crate::policy) const EVERYBODY: &[&str] = &["anywhere"];
pub(in crate::policy) const TRANSPORTS: &[&str] = &["tcp", "udp", "sctp"];

const NOBODY: &str = "write `anywhere` for everybody, or remove the rule";
const NO_PORTS: &str = "remove the field to allow every port, or remove the rule";
const NO_DIRECTION: &str = "remove the field to isolate what `allow` mentions, or name `ingress`, `egress` or both";

pub(super) fn read(context: &mut Context<'_>, spec: At<SpecDoc>) -> Option<Spec> {
    let At { value: SpecDoc { workloads, isolate, allow }, at } = spec;
    let subject = workloads.map_or_else(|| Some(LabelSelector::default()), |doc| labels(context, doc.value));
    let isolated = match isolate {
        None => None,
        Some(list) => Some(directions(context, list)?),
    };
    if isolated.is_none() && allow.as_ref().is_none_or(|allow| allow.value.is_empty()) {
        return context.refuse(allow.map_or(at, |allow| allow.at), Problem::NoEffect);
    }
    let mut legal = true;
    let (mut ingress, mut egress) = (Vec::new(), Vec::new());
    for doc in allow.map_or_else(Vec::new, |allow| allow.value) {
        match rule(context, isolated, doc) {
            Some((Direction::Ingress, rule)) => ingress.push(rule),
            Some((Direction::Egress, rule)) => egress.push(rule),
            None => legal = false,
        }
    }
    let (isolates_ingress, isolates_egress) = isolated.unwrap_or((!ingress.is_empty(), !egress.is_empty()));
    ingress.shrink_to_fit();
    egress.shrink_to_fit();
    legal.then_some(Spec { subject: subject?, isolates_ingress, isolates_egress, ingress, egress })
}

#[derive(Clone, Copy)]
enum Direction {
    Ingress,
    Egress,
}

fn directions(context: &mut Context<'_>, list: At<Vec<At<String>>>) -> Option<(bool, bool)> {
    if list.value.is_empty() {
        return context.refuse(list.at, Problem::EmptyList { field: "isolate", help: NO_DIRECTION });
    }
    let (mut ingress, mut egress) = (false, false);
    let mut legal = Some(());
    for At { value, at } in list.value {
        let direction = match value.as_str() {
            "ingress" => &mut ingress,
            "egress" => &mut egress,
            word => {
                let (what, word) = ("direction", shown(word));
                legal = context.refuse(at, Problem::UnknownWord { what, word, expected: DIRECTIONS });
                continue;
            }
        };
        if std::mem::replace(direction, true) {
            legal = context.refuse(at, Problem::DirectionTwice { field: "isolate" });
        }
    }
    legal.map(|()| (ingress, egress))
}

fn rule(context: &mut Context<'_>, isolated: Option<(bool, bool)>, doc: At<AllowDoc>) -> Option<(Direction, Rule)> {
    let At { value: AllowDoc { from, to, ports }, at } = doc;
    let (direction, list) = match (from, to) {
        (Some(from), None) => (Direction::Ingress, from),
        (None, Some(to)) => (Direction::Egress, to),
        (Some(_), Some(to)) => return context.refuse(to.at, Problem::OneDirection),
        (None, None) => return context.refuse(at, Problem::OneDirection),
    };
    let (field, name, is_open) = match direction {
        Direction::Ingress => ("from", "ingress", isolated.is_some_and(|(ingress, _)| !ingress)),
        Direction::Egress => ("to", "egress", isolated.is_some_and(|(_, egress)| !egress)),
    };
    if is_open {
        context.error(at, Problem::NotIsolated { field, direction: name });
    }
    let peers = peers(context, field, list);
    let ports = match ports {
        None => Some(Ports::Any),
        Some(list) if list.value.is_empty() => {
            context.refuse(list.at, Problem::EmptyList { field: "ports", help: NO_PORTS })
        }
        Some(list) => each(list.value, |doc| port(context, doc)).map(Ports::Only),
    };
    let rule = Rule { at: context.location(at), action: Action::Allow, peers: peers?, ports: ports? };
    (!is_open).then_some((direction, rule))
}

fn peers(context: &mut Context<'_>, field: &'static str, list: At<PeersDoc>) -> Option<Peers> {
    match list.value {
        PeersDoc::Word(word) if word == "anywhere" => Some(Peers::Any),
        PeersDoc::Word(word) => {
            let (what, word) = ("peer", shown(&word));
            context.refuse(list.at, Problem::UnknownWord { what, word, expected: EVERYBODY })
        }
        PeersDoc::Items(items) if items.is_empty() => {
            context.refuse(list.at, Problem::EmptyList { field, help: NOBODY })
        }
        PeersDoc::Items(items) => each(items, |doc| peer(context, doc)).map(Peers::Only),
    }
}

fn peer(context: &mut Context<'_>, doc: At<PeerDoc>) -> Option<Peer> {
    let At { value: PeerDoc { workloads, namespaces, cidr: range, except }, at } = doc;
    match (workloads, namespaces, range, except) {
        (None, None, None, None) => context.refuse(at, Problem::EmptyPeer { fields: PEER_FIELDS }),
        (_, _, None, Some(except)) => context.refuse(except.at, Problem::ExceptAlone),
        (None, None, Some(range), except) => {
            if let Some(list) = &except
                && list.value.is_empty()
            {
                let help = "remove the field, or list what to leave out";
                return context.refuse(list.at, Problem::EmptyList { field: "except", help });
            }
            cidr(context, PolicyKind::FlowPolicy, &range, except)
        }
        (_, _, Some(range), _) => context.refuse(range.at, Problem::MixedPeer { cidr: "cidr" }),
        (workloads, namespaces, None, None) => {
            let workloads = workloads.map_or_else(|| Some(LabelSelector::default()), |doc| labels(context, doc.value));
            let namespaces = match namespaces {
                None => Some(NamespaceScope::Own),
                Some(doc) => labels(context, doc.value).map(NamespaceScope::Matching),
            };
            Some(Peer::Workloads { namespaces: namespaces?, workloads: workloads? })
        }
    }
}

/// `5432/tcp`, `8000-8010/udp`, `any/sctp`, `icmp`, `http` or `http/tcp`.
fn port(context: &mut Context<'_>, doc: At<PortValueDoc>) -> Option<PortSpec> {
    let At { value, at } = doc;
    let text = match value {
        PortValueDoc::Text(text) => text,
        PortValueDoc::Number(number) => {
            let port = port_number(context, at, number)?;
            return context.refuse(at, Problem::Port { text: port.to_string(), meant: Some(format!("{port}/tcp")) });
        }
    };
    let Some((port, transport)) = text.split_once('/') else {
        return bare(context, at, &text);
    };
    let transport = match transport {
        "tcp" => Transport::Tcp,
        "udp" => Transport::Udp,
        "sctp" => Transport::Sctp,
        word => {
            let (what, word) = ("protocol", shown(word));
            return context.refuse(at, Problem::UnknownWord { what, word, expected: TRANSPORTS });
        }
    };
    if port == "any" {
        return Some(PortSpec::Every(transport));
    }
    if is_port_name(port) {
        return Some(PortSpec::Named { name: port.to_owned(), transport: Some(transport) });
    }
    let (first, last) = port.split_once('-').unwrap_or((port, port));
    let (Some(first), Some(last)) = (digits(first), digits(last)) else {
        return context.refuse(at, Problem::Port { text: shown(&text), meant: None });
    };
    let (first, last) = (port_number(context, at, first)?, port_number(context, at, last)?);
    if last < first {
        return context.refuse(at, Problem::PortOrder { first, last });
    }
    Some(PortSpec::Range { transport, first, last })
}

/// A port without a protocol: a name, or `icmp`.
fn bare(context: &mut Context<'_>, at: Position, text: &str) -> Option<PortSpec> {
    let meant = match text {
        "icmp" => return Some(PortSpec::Icmp),
        // Each of these is a legal name of a port, but hardly ever meant as one; `tcp/tcp` still says it.
        "tcp" | "udp" | "sctp" => Some(format!("any/{text}")),
        "icmpv6" | "icmp6" | "ping" => Some("icmp".to_owned()),
        "any" => {
            return context.refuse(at, Problem::Port { text: "any".to_owned(), meant: Some("any/tcp".to_owned()) });
        }
        name if is_port_name(name) => {
            return Some(PortSpec::Named { name: name.to_owned(), transport: None });
        }
        number => digits(number).filter(|port| (1..=65535).contains(port)).map(|port| format!("{port}/tcp")),
    };
    context.refuse(at, Problem::Port { text: shown(text), meant })
}

/// A number without sign and leading zeros; what is too big for an `i64` is out of range as its maximum.
fn digits(text: &str) -> Option<i64> {
    let plain = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    let canonical = plain && (text.len() == 1 || !text.starts_with('0'));
    canonical.then(|| text.parse().unwrap_or(i64::MAX))
}
