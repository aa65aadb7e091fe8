//! What one source says about one workload, and how several such statements become one identity.

#![forbid(unsafe_code)]

use std::collections::{BTreeMap, BTreeSet};

use super::finding::Disagreement;
use super::inventory::{Entry, is_name};
use super::model::{Identity, Labels, NamedPort, WorkloadName};

/// Namespace of a workload whose sources name none.
const DEFAULT_NAMESPACE: &str = "default";

/// One source's word.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(super) struct Statement {
    /// How messages name the source.
    pub(super) by: String,
    /// Namespace, if it says one.
    pub(super) namespace: Option<String>,
    /// Name, if it says one.
    pub(super) name: Option<String>,
    pub(super) labels: Labels,
    pub(super) ports: BTreeMap<String, BTreeSet<NamedPort>>,
    pub(super) routes: bool,
}

impl Statement {
    pub(super) fn of_entry(entry: &Entry) -> Self {
        Self {
            by: format!("inventory line {}", entry.line),
            namespace: Some(entry.name.namespace.clone()),
            name: Some(entry.name.name.clone()),
            labels: entry.labels.clone(),
            ports: entry.ports.clone(),
            routes: entry.routes,
        }
    }
}

/// Unites statements about one workload.
///
/// Labels are united; a contradiction makes the workload unknown rather than dropping the label, because a workload
/// that loses a label may fall out of the policy that isolates it, and would be open.
pub(super) fn unite(statements: &[Statement]) -> Result<Option<Identity>, Disagreement> {
    let mut namespace: Option<(&Statement, &str)> = None;
    let mut name: Option<(&Statement, &str)> = None;
    let mut labels: BTreeMap<&str, (&Statement, &str)> = BTreeMap::new();
    let mut ports: BTreeMap<String, BTreeSet<NamedPort>> = BTreeMap::new();
    for statement in statements {
        if let Some(said) = &statement.namespace
            && let Err((first, second)) = agree(&mut namespace, statement, said)
        {
            return Err(Disagreement::Namespace { first, second });
        }
        if let Some(said) = &statement.name
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
    Ok(Some(Identity {
        name: WorkloadName { namespace: namespace.to_owned(), name: name.to_owned() },
        labels: labels.into_iter().map(|(key, (_, value))| (key.to_owned(), value.to_owned())).collect(),
        ports,
    }))
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
