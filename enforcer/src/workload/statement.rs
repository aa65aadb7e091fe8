//! What one source says about one workload, and how several such statements are united into one identity.

#![forbid(unsafe_code)]

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::path::PathBuf;

use super::finding::{Disagreement, Finding};
use super::model::{Identity, Labels, NamedPort, WorkloadName};
use super::names::is_name;

/// Namespace of a workload whose sources name none.
const DEFAULT_NAMESPACE: &str = "default";

/// What one source says about one workload, or about a part of one.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Statement {
    /// How messages name who says it.
    pub by: String,
    /// Whom it is about.
    pub about: About,
    /// What it names, for as long as it is that: a container by its id, or what an entry of the inventory is found by.
    pub object: String,
    /// Labels.
    pub labels: Labels,
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

    fn name(&self) -> Option<&str> {
        match &self.about {
            About::Workload(name) => Some(&name.name),
            About::Part { name, .. } => name.as_deref(),
        }
    }
}

/// Unites statements about one workload, to its identity and the object that has the name.
///
/// Labels are united; a contradiction makes the workload unknown rather than dropping the label, because a workload
/// that loses a label may fall out of the policy that isolates it, and would be open.
pub(super) fn unite(statements: &[&Statement]) -> Result<Option<(Identity, String)>, Disagreement> {
    let mut namespace: Option<(&Statement, &str)> = None;
    let mut name: Option<(&Statement, &str)> = None;
    let mut labels: BTreeMap<&str, (&Statement, &str)> = BTreeMap::new();
    let mut ports: BTreeMap<String, BTreeSet<NamedPort>> = BTreeMap::new();
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
        for (key, value) in &statement.labels {
            let mut slot = labels.get(key.as_str()).copied();
            if let Err((first, second)) = agree(&mut slot, statement, value) {
                return Err(Disagreement::Label { key: key.clone(), first, second });
            }
            labels.insert(key, (statement, value));
        }
        for (port, numbers) in &statement.ports {
            ports.entry(port.clone()).or_default().extend(numbers);
        }
    }
    let Some((named_by, name)) = name else { return Ok(None) };
    let (spaced_by, namespace) = namespace.unwrap_or((named_by, DEFAULT_NAMESPACE));
    for (by, text) in [(named_by, name), (spaced_by, namespace)] {
        if !is_name(text) {
            return Err(Disagreement::InvalidName { by: by.by.clone(), name: text.to_owned() });
        }
    }
    let identity = Identity {
        name: WorkloadName { namespace: namespace.to_owned(), name: name.to_owned() },
        labels: labels.into_iter().map(|(key, (_, value))| (key.to_owned(), value.to_owned())).collect(),
        ports,
    };
    Ok(Some((identity, named_by.object.clone())))
}

type Said = (String, String);

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
