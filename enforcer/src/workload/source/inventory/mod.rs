//! The inventory file as a source: it gives names, labels and ports to workloads that no runtime names.
//!
//! Input: YAML text. Output: an `Inventory` that is valid by construction, or an error with file, line and column. `file`
//! reads the text again when it may have changed, and `pieces` then parses only what is new in it. `docs/inventory-reference.md` describes the format for users.

#![forbid(unsafe_code)]

mod document;
mod error;
mod file;
mod load;
mod pieces;
#[cfg(test)]
mod tests;
mod written_labels;

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;

pub use self::error::{InvalidInventory, Mistake};
pub(super) use self::file::start;
use super::shape::{Listed, SourceState};
use crate::watch::read::{Unread, Writers, read};
use crate::workload::model::{LabelSets, Labels, NamedPort, WorkloadName};
use crate::workload::statement::{About, FoundBy, Statement};

/// Name of the inventory among the sources of workloads.
const NAME: &str = "inventory";

/// Larger files are refused.
pub const MAX_BYTES: u64 = 8 << 20;

/// A whole inventory file.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Inventory {
    /// Labels of namespaces.
    pub namespaces: BTreeMap<String, Labels>,
    /// Addresses that the node translates for whoever is behind them.
    pub services: BTreeSet<IpAddr>,
    /// Workloads, in the order of the file.
    pub entries: Vec<Arc<Entry>>,
}

/// One workload of the file.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Entry {
    /// Namespace and name.
    pub name: WorkloadName,
    /// Labels, a set for each container that shares its namespace.
    pub labels: LabelSets,
    /// Named ports.
    pub ports: BTreeMap<String, BTreeSet<NamedPort>>,
    /// How to find it on this node.
    pub matches: Match,
    /// Addresses that the file names for it, those that it is matched by included.
    pub addresses: BTreeSet<IpAddr>,
    /// Addresses that it may have while no other holder does.
    pub floating: BTreeSet<IpAddr>,
    /// It forwards for others.
    pub routes: bool,
    /// Line of the entry in the file.
    pub line: u64,
}

/// How an entry is found on this node.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Match {
    /// By the path of its network namespace.
    Netns(PathBuf),
    /// By the name of a veth's host side.
    Interface(String),
    /// By any of its addresses, where another source or a host route gives the address to a workload.
    Address,
}

impl Inventory {
    /// Reads and parses a file, also one that is open for writing.
    pub fn load(path: &Path) -> Result<Self, InvalidInventory> {
        Self::parse(path, &Self::read(path, Writers::Ignored)?)
    }

    /// The text of a file that is not too large.
    fn read(path: &Path, writers: Writers) -> Result<String, InvalidInventory> {
        let path = path.to_owned();
        let bytes = match read(&path, MAX_BYTES, writers) {
            Ok(whole) => whole.bytes,
            Err(Unread::Failed(source)) => return Err(InvalidInventory::Unreadable { path, source }),
            Err(Unread::NotRegular) => return Err(InvalidInventory::NotRegular { path }),
            Err(Unread::TooLarge { size }) => return Err(InvalidInventory::TooLarge { path, size, limit: MAX_BYTES }),
            Err(Unread::BeingWritten) => return Err(InvalidInventory::BeingWritten { path }),
        };
        let not_utf8 = |_| io::Error::new(io::ErrorKind::InvalidData, "stream did not contain valid UTF-8");
        String::from_utf8(bytes).map_err(not_utf8).map_err(|source| InvalidInventory::Unreadable { path, source })
    }

    /// Parses the text of a file; `path` is for messages.
    pub fn parse(path: &Path, text: &str) -> Result<Self, InvalidInventory> {
        document::parse(path, text)
    }
}

/// What an inventory says.
pub(in crate::workload) fn state_of(inventory: &Inventory) -> SourceState {
    let statements = inventory.entries.iter().map(|entry| Arc::new(statement(entry))).collect();
    state(statements, inventory.namespaces.clone(), inventory.services.clone())
}

fn state(
    statements: Vec<Arc<Statement>>,
    namespaces: BTreeMap<String, Labels>,
    services: BTreeSet<IpAddr>,
) -> SourceState {
    SourceState {
        name: format!("the {NAME}"),
        listed: Listed::Complete,
        statements: Arc::new(statements),
        namespaces: Arc::new(namespaces),
        services: Arc::new(services),
        ..SourceState::default()
    }
}

fn statement(entry: &Entry) -> Statement {
    let Entry { name, labels, ports, matches, addresses, floating, routes, line } = entry;
    Statement {
        by: format!("inventory line {line}"),
        about: About::Workload(name.clone()),
        object: match matches {
            Match::Netns(path) => format!("netns {}", path.display()),
            Match::Interface(name) => format!("interface {name}"),
            Match::Address => format!("addresses of {name}"),
        },
        labels: labels.clone(),
        ports: ports.clone(),
        routes: *routes,
        found_by: match matches {
            Match::Netns(path) => FoundBy::Netns(vec![path.clone()]),
            Match::Interface(name) => FoundBy::Interface(name.clone()),
            Match::Address => FoundBy::Address,
        },
        addresses: addresses.clone(),
        floating: floating.clone(),
        remarks: Vec::new(),
    }
}
