//! The mistakes that an inventory file can have, as data. Their texts say where the mistake is and what to write instead.

#![forbid(unsafe_code)]

use std::fmt::Write as _;
use std::io;
use std::net::IpAddr;
use std::path::PathBuf;

use crate::workload::model::WorkloadName;

/// Why an inventory file was refused as a whole.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum InvalidInventory {
    /// The file could not be read.
    #[error("cannot read the inventory file {path}", path = .path.display())]
    Unreadable {
        /// File.
        path: PathBuf,
        /// Cause.
        #[source]
        source: io::Error,
    },
    /// The file is larger than any inventory.
    #[error("the inventory file {path} has {size} bytes, but at most {limit} are read", path = .path.display())]
    TooLarge {
        /// File.
        path: PathBuf,
        /// Its size.
        size: u64,
        /// The limit.
        limit: u64,
    },
    /// A pipe, a device or a directory.
    #[error("the inventory {path} is not a regular file", path = .path.display())]
    NotRegular {
        /// Path.
        path: PathBuf,
    },
    /// Somebody may be writing the file.
    #[error(
        "the inventory file {path} is open for writing, so it may be half written; close it, or end the program that \
         has it open",
        path = .path.display()
    )]
    BeingWritten {
        /// File.
        path: PathBuf,
    },
    /// Not YAML, or not of the documented shape.
    #[error("{path}:{line}:{column}: {message}\n{snippet}", path = .path.display())]
    Syntax {
        /// File.
        path: PathBuf,
        /// Line, from 1.
        line: u64,
        /// Column, from 1.
        column: u64,
        /// The parser's message.
        message: String,
        /// The source line with a caret.
        snippet: String,
    },
    /// The file is well formed, but has a value without a valid meaning.
    #[error("{path}:{line}:{column}: {mistake}\n{snippet}", path = .path.display())]
    Meaning {
        /// File.
        path: PathBuf,
        /// Line, from 1.
        line: u64,
        /// Column, from 1.
        column: u64,
        /// What is wrong.
        mistake: Mistake,
        /// The source line with a caret.
        snippet: String,
    },
}

/// A value that has the right format but no valid meaning.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum Mistake {
    /// A name with characters that a name cannot have.
    #[error("`{name}` is not a valid name: a name has 1 to 253 letters, digits, `-`, `_` and `.`")]
    Name {
        /// As written.
        name: String,
    },
    /// A port that is not `number/protocol`.
    #[error("`{port}` is not a port: write it as `8080/tcp`, with a number from 1 to 65535 and tcp, udp or sctp")]
    Port {
        /// As written.
        port: String,
    },
    /// Not an address.
    #[error("`{address}` is not an IP address; write a single IPv4 or IPv6 address")]
    Address {
        /// As written.
        address: String,
    },
    /// An address that no single workload can have.
    #[error("{address} cannot be the address of one workload; write a unicast IPv4 or IPv6 address")]
    NoUnicast {
        /// The address.
        address: IpAddr,
    },
    /// `match` with no key or several.
    #[error("`match` needs exactly one of `netns`, `interface` and `address`, but this one has {given}")]
    MatchKeys {
        /// How many it has.
        given: usize,
    },
    /// An empty string or list where a value is needed.
    #[error("`{field}` is empty; give it a value")]
    Empty {
        /// Name of the field.
        field: &'static str,
    },
    /// Two entries with one name.
    #[error("`{name}` is already the name of the workload in line {line}; rename one of the two")]
    NameTwice {
        /// The name.
        name: WorkloadName,
        /// Line of the first.
        line: u64,
    },
    /// Two entries with one address.
    #[error("{address} already belongs to the workload in line {line}; remove it from one of the two")]
    AddressTwice {
        /// The address.
        address: IpAddr,
        /// Line of the first.
        line: u64,
    },
    /// Two entries that match the same namespace path or interface.
    #[error("`{value}` already matches the workload in line {line}; merge the two entries")]
    MatchTwice {
        /// The path or the interface.
        value: String,
        /// Line of the first.
        line: u64,
    },
    /// The label that carries a namespace's name, with another value.
    #[error("the label `{label}` always has the namespace's name as its value, here `{namespace}`; remove it")]
    NamespaceNameLabel {
        /// The label.
        label: &'static str,
        /// The namespace.
        namespace: String,
    },
}

/// The source line with a caret below the column.
pub(super) fn snippet(text: &str, line: u64, column: u64) -> String {
    let source = text.lines().nth(usize::try_from(line).unwrap_or(1).saturating_sub(1)).unwrap_or_default();
    // A line without end must not fill a terminal.
    let source: String = source.chars().take(160).collect();
    let margin = line.to_string().len();
    let mut rendered = String::new();
    let indent = usize::try_from(column).unwrap_or(1).saturating_sub(1).min(source.chars().count());
    _ = write!(rendered, "{line} | {source}\n{:margin$} | {:indent$}^", "", "");
    rendered
}

/// The parser's message in the words of a person who writes inventories.
pub(super) fn plain_message(error: &serde_yaml::Error) -> String {
    let rendered = error.render();
    let first = rendered.lines().next().unwrap_or_default();
    let first = first.strip_prefix("error: ").unwrap_or(first);
    // The place stands before the message already.
    let message = match first.split_once(": ") {
        Some((place, message)) if place.starts_with("line ") => message,
        _ => first,
    };
    let message = message.split(", set DuplicateKeyPolicy").next().unwrap_or(message);
    if let Some(name) = near_name(message) {
        return format!("{message}; did you mean `{name}`?");
    }
    in_plain_words(message).unwrap_or_else(|| message.to_owned())
}

/// What the parser says of a value of another type, of a text after the end, or of a text that is too much for it.
fn in_plain_words(message: &str) -> Option<String> {
    let expected = match message {
        "expected mapping start" => "a map",
        "expected sequence start" => "a list",
        "expected string scalar" => "a text",
        _ if message.starts_with("cannot deserialize null into string") => "a text",
        _ if message.starts_with("multiple YAML documents") => {
            return Some("a second document begins here; write all workloads below one `workloads:`".to_owned());
        }
        _ if message.starts_with("budget breached: Depth") || message == "recursion limit exceeded" => {
            return Some("the text is nested too deep here; look for an extra bracket or indent".to_owned());
        }
        _ if message.starts_with("budget breached: Nodes") => {
            return Some("the inventory has too many entries or labels; at most 250000 YAML nodes are read".to_owned());
        }
        _ => message.strip_prefix("invalid type: unit value, expected ")?,
    };
    Some(format!("{expected} is expected here; write one, or remove the field or the item"))
}

/// The known field that an unknown one was probably meant to be.
fn near_name(message: &str) -> Option<&str> {
    let (unknown, expected) = message.strip_prefix("unknown field `")?.split_once("`, expected one of ")?;
    let names = expected.split(", ").map(|name| (strsim::damerau_levenshtein(unknown, name), name));
    names.min().filter(|(distance, _)| *distance <= 2).map(|(_, name)| name)
}
