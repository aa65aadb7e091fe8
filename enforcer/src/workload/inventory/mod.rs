//! The inventory file: names, labels and ports for workloads that no runtime names.
//!
//! Input: YAML text. Output: an `Inventory` that is valid by construction, or an error with file, line and column.
//! The format is described for people in `docs/inventory-reference.md`.

#![forbid(unsafe_code)]

mod document;
mod error;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::path::{Path, PathBuf};

pub use self::error::{InvalidInventory, Mistake};
use super::model::{Labels, NamedPort, WorkloadName};

/// Label of a namespace that always carries its name. Set by us; a policy may rely on it.
pub const NAMESPACE_NAME_LABEL: &str = "kubernetes.io/metadata.name";

/// Larger files are refused.
pub const MAX_BYTES: u64 = 8 << 20;

/// A whole inventory file.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Inventory {
    /// Labels of namespaces.
    pub namespaces: BTreeMap<String, Labels>,
    /// Workloads, in the order of the file.
    pub entries: Vec<Entry>,
}

/// One workload of the file.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Entry {
    /// Namespace and name.
    pub name: WorkloadName,
    /// Labels.
    pub labels: Labels,
    /// Named ports.
    pub ports: BTreeMap<String, BTreeSet<NamedPort>>,
    /// How to find it on this node.
    pub matches: Match,
    /// Addresses that the file names for it, those that it is matched by included.
    pub addresses: BTreeSet<IpAddr>,
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
    /// By any of its addresses.
    Address,
}

impl Inventory {
    /// Reads and parses a file.
    pub fn load(path: &Path) -> Result<Self, InvalidInventory> {
        Self::parse(path, &Self::read(path)?)
    }

    /// The text of a file that is not too large.
    pub fn read(path: &Path) -> Result<String, InvalidInventory> {
        let unreadable = |source| InvalidInventory::Unreadable { path: path.to_owned(), source };
        let size = std::fs::metadata(path).map_err(unreadable)?.len();
        if size > MAX_BYTES {
            return Err(InvalidInventory::TooLarge { path: path.to_owned(), size, limit: MAX_BYTES });
        }
        std::fs::read_to_string(path).map_err(unreadable)
    }

    /// Parses the text of a file; `path` is for messages.
    pub fn parse(path: &Path, text: &str) -> Result<Self, InvalidInventory> {
        document::parse(path, text)
    }
}

/// A port as people write it: `8080/tcp`.
pub(super) fn parse_port(text: &str) -> Option<NamedPort> {
    let (port, protocol) = text.split_once('/')?;
    let protocol = match protocol {
        "tcp" => 6,
        "udp" => 17,
        "sctp" => 132,
        _ => return None,
    };
    // `u16::from_str` takes a leading plus.
    let port: u16 = port.bytes().all(|byte| byte.is_ascii_digit()).then(|| port.parse().ok()).flatten()?;
    (port != 0).then_some(NamedPort { protocol, port })
}

/// A namespace or workload name that stays one word in `shop/web` and in a log line.
pub(super) fn is_name(text: &str) -> bool {
    !text.is_empty()
        && text.len() <= 253
        && text.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.'))
}
