//! What one source says about one workload, and how several such statements are united into one identity.

#![forbid(unsafe_code)]

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::path::PathBuf;

use super::finding::{Disagreement, Finding};
use super::model::{Identity, LabelSets, Labels, NamedPort, WorkloadName};
use super::names::{is_name, port_as_written};

/// Namespace of a workload whose sources name none.
const DEFAULT_NAMESPACE: &str = "default";

/// How the object of a pod's statement begins. A veth that was one pod's never becomes another's, even of the same name.
pub(super) const POD: &str = "pod ";

/// What one source says about one workload, or about a part of one.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Statement {
    /// How messages name who says it.
    pub by: String,
    /// Whom it is about.
    pub about: About,
    /// What it names, for as long as it is that: a container by its id, or what an entry of the inventory is found by.
    pub object: String,
    /// Labels. Several sets are of several containers.
    pub labels: LabelSets,
    /// Named ports.
    pub ports: BTreeMap<String, BTreeSet<NamedPort>>,
    /// The workload forwards for others.
    pub routes: bool,
    /// How the workload is found on this node.
    pub found_by: FoundBy,
    /// Addresses that the source gives to the workload.
    pub addresses: BTreeSet<IpAddr>,
    /// Addresses of which the source says that the workload may have them while no other of their holders does.
    pub floating: BTreeSet<IpAddr>,
    /// What a person should know about the statement, if the workload is found here.
    pub remarks: Vec<Finding>,
}

/// Whom a statement is about.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum About {
    /// A workload by its full name. It is a peer elsewhere if it is not found here, and its addresses are nobody else's.
    Workload(WorkloadName),
    /// A part of a workload of this node, such as a container. It says nothing about other nodes.
    Part {
        /// Namespace of the workload, if the part says one.
        namespace: Option<String>,
        /// Name of the workload, if the part says one.
        name: Option<String>,
        /// What it says holds for all parts, as what a pod says.
        is_whole: bool,
    },
}

/// How a workload is found on this node.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum FoundBy {
    /// By the first of these paths that stands for the network namespace behind a veth.
    Netns(Vec<PathBuf>),
    /// By the name of a veth's host side.
    Interface(String),
    /// By any of its addresses, where another source or a host route gives the address to a workload.
    Address,
    /// As a pod of this node: by the veth that it had before, by a host route, or by what a veth showed first.
    Pod {
        /// It is about to end, so its address may be another pod's already.
        leaving: bool,
    },
    /// Not on this node, whatever is seen here.
    Elsewhere,
}

impl Statement {
    /// The workload that it is about wherever that is.
    pub(super) fn declared(&self) -> Option<&WorkloadName> {
        match &self.about {
            About::Workload(name) => Some(name),
            About::Part { .. } => None,
        }
    }

    fn namespace(&self) -> Option<&str> {
        match &self.about {
            About::Workload(name) => Some(&name.namespace),
            About::Part { namespace, .. } => namespace.as_deref(),
        }
    }

    /// Labels of the workload as a whole, which each of its containers has; `None`: the labels are of single containers.
    fn of_the_whole(&self) -> Option<&Labels> {
        match &self.about {
            About::Workload(_) | About::Part { is_whole: true, .. } => self.labels.single(),
            About::Part { .. } => None,
        }
    }

    fn name(&self) -> Option<&str> {
        match &self.about {
            About::Workload(name) => Some(&name.name),
            About::Part { name, .. } => name.as_deref(),
        }
    }
}

/// Unites statements about one workload, to its identity and the object that has the name.
///
/// Names, namespaces and ports belong to the network namespace, so they must not contradict each other. Labels belong to one
/// container each (D14). What is said of the workload as a whole holds for each of its containers; if a value contradicts that
/// of a container, the workload is unknown rather than without the label, because a workload that loses a label may fall out
/// of the policy that isolates it, and would be open.
pub(super) fn unite(statements: &[&Statement]) -> Result<Option<(Identity, String)>, Disagreement> {
    let mut namespace: Option<(&Statement, &str)> = None;
    let mut name: Option<(&Statement, &str)> = None;
    for &statement in statements {
        if let Some(said) = statement.namespace()
            && let Err((first, second)) = agree(&mut namespace, statement, said)
        {
            return Err(Disagreement::Namespace { first, second });
        }
        if let Some(said) = statement.name()
            && let Err((first, second)) = agree(&mut name, statement, said)
        {
            return Err(Disagreement::Name { first, second });
        }
    }
    let labels = label_sets(statements)?;
    let ports = ports(statements)?;
    let Some((named_by, name)) = name else { return Ok(None) };
    let (spaced_by, namespace) = namespace.unwrap_or((named_by, DEFAULT_NAMESPACE));
    for (by, text) in [(named_by, name), (spaced_by, namespace)] {
        if !is_name(text) {
            return Err(Disagreement::InvalidName { by: by.by.clone(), name: text.to_owned() });
        }
    }
    let name = WorkloadName { namespace: namespace.to_owned(), name: name.to_owned() };
    Ok(Some((Identity { name, labels, ports }, named_by.object.clone())))
}

type Said = (String, String);

/// Values by key, with who says so.
type Agreed<'a> = BTreeMap<&'a str, (&'a Statement, &'a str)>;

/// One set for each part, with what is said of the whole.
fn label_sets(statements: &[&Statement]) -> Result<LabelSets, Disagreement> {
    let mut whole = Agreed::new();
    let mut parts: Vec<(&Statement, &Labels)> = Vec::new();
    for &statement in statements {
        match statement.of_the_whole() {
            Some(labels) => join(&mut whole, statement, labels)?,
            None => parts.extend(statement.labels.iter().map(|labels| (statement, labels))),
        }
    }
    let own = |set: Agreed<'_>| -> Labels {
        set.into_iter().map(|(key, (_, value))| (key.to_owned(), value.to_owned())).collect()
    };
    let mut sets = Vec::with_capacity(parts.len().max(1));
    for (statement, labels) in &parts {
        let mut set = whole.clone();
        join(&mut set, statement, labels)?;
        sets.push(own(set));
    }
    if parts.is_empty() {
        sets.push(own(whole));
    }
    Ok(LabelSets::of(sets))
}

fn join<'a>(set: &mut Agreed<'a>, statement: &'a Statement, labels: &'a Labels) -> Result<(), Disagreement> {
    for (key, value) in labels {
        let mut slot = set.get(key.as_str()).copied();
        if let Err((first, second)) = agree(&mut slot, statement, value) {
            return Err(Disagreement::Label { key: key.clone(), first, second });
        }
        set.insert(key, (statement, value));
    }
    Ok(())
}

/// All named ports. Of one protocol a name stands for the same numbers wherever it is given: a rule that allows the one
/// number would otherwise allow the other too.
fn ports(statements: &[&Statement]) -> Result<BTreeMap<String, BTreeSet<NamedPort>>, Disagreement> {
    let mut ports: BTreeMap<String, BTreeSet<NamedPort>> = BTreeMap::new();
    let mut said_by: BTreeMap<(&str, u8), (&Statement, BTreeSet<NamedPort>)> = BTreeMap::new();
    for &statement in statements {
        for (name, numbers) in &statement.ports {
            let protocols: BTreeSet<u8> = numbers.iter().map(|port| port.protocol).collect();
            for protocol in protocols {
                let numbers: BTreeSet<NamedPort> =
                    numbers.iter().copied().filter(|port| port.protocol == protocol).collect();
                let (first, said) = said_by.entry((name, protocol)).or_insert_with(|| (statement, numbers.clone()));
                if *said != numbers {
                    let first = (first.by.clone(), port_text(said));
                    let second = (statement.by.clone(), port_text(&numbers));
                    return Err(Disagreement::Port { name: name.clone(), first, second });
                }
                ports.entry(name.clone()).or_default().extend(numbers);
            }
        }
    }
    Ok(ports)
}

fn port_text(ports: &BTreeSet<NamedPort>) -> String {
    ports.iter().copied().map(port_as_written).collect::<Vec<_>>().join(", ")
}

fn agree<'a>(
    slot: &mut Option<(&'a Statement, &'a str)>,
    statement: &'a Statement,
    said: &'a str,
) -> Result<(), (Said, Said)> {
    match *slot {
        Some((first, value)) if value != said => {
            Err(((first.by.clone(), value.to_owned()), (statement.by.clone(), said.to_owned())))
        }
        Some(_) => Ok(()),
        None => {
            *slot = Some((statement, said));
            Ok(())
        }
    }
}
