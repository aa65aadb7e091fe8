//! The serde shapes of the inventory file, and their conversion to the model.
//!
//! Input: YAML text. Output: an `Inventory`, or the first mistake with its line and column.

#![forbid(unsafe_code)]

use std::cell::Cell;
use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::sync::Arc;

use serde::de::{SeqAccess, Visitor};
use serde::{Deserialize, Deserializer};
use serde_yaml::budget::BudgetReport;
use serde_yaml::{Location, Options, Spanned};

use super::error::{plain_message, snippet};
use super::load::Load;
use super::written_labels::WrittenLabels;
use super::{Entry, InvalidInventory, Inventory, Match, Mistake};
use crate::workload::model::{Labels, NamedPort, WorkloadName};
use crate::workload::names::{NAMESPACE_NAME_LABEL, is_name, is_unicast, parse_port};

/// Where `ip netns add` puts the namespaces that it names.
const NETNS_DIRECTORY: &str = "/var/run/netns";

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct InventoryDoc {
    #[serde(default)]
    namespaces: BTreeMap<String, NamespaceDoc>,
    #[serde(default)]
    services: Vec<Spanned<String>>,
    #[serde(default)]
    workloads: Vec<Spanned<WorkloadDoc>>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct NamespaceDoc {
    #[serde(default)]
    labels: BTreeMap<String, Spanned<String>>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct WorkloadDoc {
    name: Spanned<String>,
    #[serde(default = "default_namespace")]
    namespace: Spanned<String>,
    #[serde(default)]
    labels: WrittenLabels,
    #[serde(default)]
    ports: BTreeMap<String, OneOrMany>,
    #[serde(rename = "match")]
    matches: Spanned<MatchDoc>,
    #[serde(default)]
    addresses: Vec<Spanned<String>>,
    #[serde(default)]
    floating: Vec<Spanned<String>>,
    #[serde(default)]
    routes: bool,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct MatchDoc {
    netns: Option<Spanned<String>>,
    interface: Option<Spanned<String>>,
    address: Option<OneOrMany>,
}

/// `x` or `[x, y]`. Not an untagged enum: that buffers the value and loses the positions.
enum OneOrManyDoc {
    One(String),
    Many(Vec<Spanned<String>>),
}

type OneOrMany = Spanned<OneOrManyDoc>;

impl<'de> Deserialize<'de> for OneOrManyDoc {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Shape;
        impl<'de> Visitor<'de> for Shape {
            type Value = OneOrManyDoc;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a string or a list of strings")
            }
            fn visit_str<E: serde::de::Error>(self, text: &str) -> Result<Self::Value, E> {
                Ok(OneOrManyDoc::One(text.to_owned()))
            }
            fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<Self::Value, A::Error> {
                let mut values = Vec::new();
                while let Some(value) = items.next_element()? {
                    values.push(value);
                }
                Ok(OneOrManyDoc::Many(values))
            }
        }
        deserializer.deserialize_any(Shape)
    }
}

fn into_vec(value: OneOrMany) -> Vec<Spanned<String>> {
    match value.value {
        OneOrManyDoc::One(text) => {
            vec![Spanned { value: text, referenced: value.referenced, defined: value.defined }]
        }
        OneOrManyDoc::Many(values) => values,
    }
}

fn default_namespace() -> Spanned<String> {
    Spanned { value: "default".to_owned(), referenced: Location::UNKNOWN, defined: Location::UNKNOWN }
}

struct Fault(Location, Mistake);

pub(super) fn parse(path: &Path, text: &str) -> Result<Inventory, InvalidInventory> {
    parse_counted(path, text).0
}

/// Parses a text and tells what the parser had to do for it.
pub(super) fn parse_counted(path: &Path, text: &str) -> (Result<Inventory, InvalidInventory>, Load) {
    let load = Rc::new(Cell::new(Load::default()));
    let counted = Rc::clone(&load);
    let count = move |report: BudgetReport| counted.set(Load { nodes: report.nodes, events: report.events });
    // A parser that gives the comments away refuses long rows of them in some places.
    let options = serde_yaml::options! { emit_comments: false }.with_budget_report(count);
    let inventory = parse_with(path, text, options);
    (inventory, load.get())
}

fn parse_with(path: &Path, text: &str, options: Options) -> Result<Inventory, InvalidInventory> {
    // A file of comments only is an empty inventory, not a missing one.
    let blank = text.lines().all(|line| line.trim().is_empty() || line.trim_start().starts_with('#'));
    if blank {
        return Ok(Inventory::default());
    }
    let document: InventoryDoc = serde_yaml::from_str_with_options(text, options).map_err(|error| {
        let (line, column) = error.location().map_or((1, 1), |at| (at.line(), at.column()));
        let (message, snippet) = (plain_message(&error), snippet(text, line, column));
        InvalidInventory::Syntax { path: path.to_owned(), line, column, message, snippet }
    })?;
    build(document).map_err(|Fault(location, mistake)| InvalidInventory::Meaning {
        path: path.to_owned(),
        line: location.line(),
        column: location.column(),
        mistake,
        snippet: snippet(text, location.line(), location.column()),
    })
}

fn build(document: InventoryDoc) -> Result<Inventory, Fault> {
    let InventoryDoc { namespaces, services, workloads } = document;
    let mut inventory = Inventory::default();
    for address in services {
        inventory.services.insert(unicast(address)?.0);
    }
    for (name, NamespaceDoc { labels }) in namespaces {
        inventory.namespaces.insert(name.clone(), namespace_labels(&name, labels)?);
    }
    let mut seen = Seen::default();
    for workload in workloads {
        let entry = build_entry(workload, &mut seen)?;
        inventory.entries.push(Arc::new(entry));
    }
    Ok(inventory)
}

fn namespace_labels(namespace: &str, document: BTreeMap<String, Spanned<String>>) -> Result<Labels, Fault> {
    if !is_name(namespace) {
        let at = document.values().next().map_or(Location::UNKNOWN, |value| value.referenced);
        return Err(Fault(at, Mistake::Name { name: namespace.to_owned() }));
    }
    let mut labels = Labels::new();
    for (key, value) in document {
        if key == NAMESPACE_NAME_LABEL && value.value != namespace {
            let mistake = Mistake::NamespaceNameLabel { label: NAMESPACE_NAME_LABEL, namespace: namespace.to_owned() };
            return Err(Fault(value.referenced, mistake));
        }
        labels.insert(key, value.value);
    }
    Ok(labels)
}

/// What earlier entries have taken, with their lines.
#[derive(Default)]
struct Seen {
    names: BTreeMap<WorkloadName, u64>,
    addresses: BTreeMap<IpAddr, u64>,
    floating: BTreeMap<IpAddr, u64>,
    matches: BTreeMap<String, u64>,
}

fn build_entry(document: Spanned<WorkloadDoc>, seen: &mut Seen) -> Result<Entry, Fault> {
    let WorkloadDoc { name, namespace, labels: WrittenLabels(labels), ports, matches, addresses, floating, routes } =
        document.value;
    let line = document.referenced.line();
    let at = name.referenced;
    let name = WorkloadName { namespace: checked_name(namespace)?, name: checked_name(name)? };
    if let Some(line) = seen.names.insert(name.clone(), line) {
        return Err(Fault(at, Mistake::NameTwice { name, line }));
    }
    let mut own = BTreeSet::new();
    let matches = build_match(matches, &mut own, seen, line)?;
    add_addresses(addresses, &mut own, seen, line)?;
    let floating = build_floating(floating, seen, line)?;
    Ok(Entry { name, labels, ports: build_ports(ports)?, matches, addresses: own, floating, routes, line })
}

fn build_match(
    document: Spanned<MatchDoc>,
    own: &mut BTreeSet<IpAddr>,
    seen: &mut Seen,
    line: u64,
) -> Result<Match, Fault> {
    let at = document.referenced;
    match document.value {
        MatchDoc { netns: Some(netns), interface: None, address: None } => {
            let path = netns_path(&netns)?;
            once(seen, path.display().to_string(), netns.referenced, line)?;
            Ok(Match::Netns(path))
        }
        MatchDoc { netns: None, interface: Some(interface), address: None } => {
            if interface.value.is_empty() {
                return Err(Fault(interface.referenced, Mistake::Empty { field: "interface" }));
            }
            once(seen, interface.value.clone(), interface.referenced, line)?;
            Ok(Match::Interface(interface.value))
        }
        MatchDoc { netns: None, interface: None, address: Some(addresses) } => {
            let addresses = into_vec(addresses);
            if addresses.is_empty() {
                return Err(Fault(at, Mistake::Empty { field: "address" }));
            }
            add_addresses(addresses, own, seen, line)?;
            Ok(Match::Address)
        }
        MatchDoc { netns, interface, address } => {
            let given = [netns.is_some(), interface.is_some(), address.is_some()].into_iter().filter(|given| *given);
            Err(Fault(at, Mistake::MatchKeys { given: given.count() }))
        }
    }
}

fn once(seen: &mut Seen, value: String, at: Location, line: u64) -> Result<(), Fault> {
    match seen.matches.insert(value.clone(), line) {
        Some(line) => Err(Fault(at, Mistake::MatchTwice { value, line })),
        None => Ok(()),
    }
}

/// A bare name stands for one of `ip netns`; a relative path with a slash could mean anything and is refused.
fn netns_path(netns: &Spanned<String>) -> Result<PathBuf, Fault> {
    let text = netns.value.as_str();
    match text {
        "" => Err(Fault(netns.referenced, Mistake::Empty { field: "netns" })),
        _ if text.starts_with('/') => Ok(PathBuf::from(text)),
        "." | ".." => Err(Fault(netns.referenced, Mistake::Name { name: text.to_owned() })),
        _ if text.contains('/') => Err(Fault(netns.referenced, Mistake::Name { name: text.to_owned() })),
        _ => Ok(Path::new(NETNS_DIRECTORY).join(text)),
    }
}

fn add_addresses(
    texts: Vec<Spanned<String>>,
    own: &mut BTreeSet<IpAddr>,
    seen: &mut Seen,
    line: u64,
) -> Result<(), Fault> {
    for text in texts {
        let (address, at) = unicast(text)?;
        let floats = seen.floating.get(&address).copied();
        if let Some(line) = seen.addresses.insert(address, line).or(floats) {
            return Err(Fault(at, Mistake::AddressTwice { address, line }));
        }
        own.insert(address);
    }
    Ok(())
}

/// Several entries may hold one floating address, but it is nobody's own.
fn build_floating(texts: Vec<Spanned<String>>, seen: &mut Seen, line: u64) -> Result<BTreeSet<IpAddr>, Fault> {
    let mut floating = BTreeSet::new();
    for text in texts {
        let (address, at) = unicast(text)?;
        if let Some(line) = seen.addresses.get(&address).copied() {
            return Err(Fault(at, Mistake::AddressTwice { address, line }));
        }
        seen.floating.entry(address).or_insert(line);
        floating.insert(address);
    }
    Ok(floating)
}

fn unicast(text: Spanned<String>) -> Result<(IpAddr, Location), Fault> {
    let at = text.referenced;
    let Ok(address) = text.value.parse::<IpAddr>() else {
        return Err(Fault(at, Mistake::Address { address: text.value }));
    };
    if is_unicast(address) { Ok((address, at)) } else { Err(Fault(at, Mistake::NoUnicast { address })) }
}

fn build_ports(document: BTreeMap<String, OneOrMany>) -> Result<BTreeMap<String, BTreeSet<NamedPort>>, Fault> {
    let mut ports = BTreeMap::new();
    for (name, values) in document {
        let mut numbers = BTreeSet::new();
        for value in into_vec(values) {
            let Some(port) = parse_port(&value.value) else {
                return Err(Fault(value.referenced, Mistake::Port { port: value.value }));
            };
            numbers.insert(port);
        }
        ports.insert(name, numbers);
    }
    Ok(ports)
}

fn checked_name(name: Spanned<String>) -> Result<String, Fault> {
    if is_name(&name.value) { Ok(name.value) } else { Err(Fault(name.referenced, Mistake::Name { name: name.value })) }
}
