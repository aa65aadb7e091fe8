//! `docs/troubleshooting.md` has a row for every message of the errors that users see.
//!
//! Input: the `#[error("..")]` texts of the source, wherever the enums are. Output: the rows that are missing.

#![allow(clippy::unwrap_used, reason = "a failed step ends the test")]

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

/// The enums whose messages reach users.
const ERRORS: [&str; 14] = [
    "AgentError",
    "CompileError",
    "ConnectError",
    "InvalidFlowLog",
    "InvalidInventory",
    "InvalidKept",
    "InvalidSettings",
    "InvalidState",
    "KernelError",
    "Mistake",
    "NetlinkError",
    "Problem",
    "WatchError",
    "WorkloadError",
];

fn sources(directory: &Path, found: &mut Vec<String>) {
    for entry in fs::read_dir(directory).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            sources(&path, found);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            found.push(fs::read_to_string(path).unwrap());
        }
    }
}

/// The text of a string literal that begins after its quotation mark, with `…` in the place of each `{argument}`.
fn message(literal: &str) -> String {
    let mut message = String::new();
    let mut chars = literal.chars();
    while let Some(char) = chars.next() {
        match char {
            '"' => break,
            '{' => {
                chars.by_ref().find(|char| *char == '}');
                message.push('…');
            }
            '\\' => match chars.next() {
                // Text that goes on in the next line of the source.
                Some('\n') => {
                    let rest = chars.as_str().trim_start();
                    chars = rest.chars();
                }
                Some('n') => message.push(' '),
                Some(escaped) => message.push(escaped),
                None => break,
            },
            plain => message.push(plain),
        }
    }
    message.split_whitespace().collect::<Vec<_>>().join(" ")
}

/// The messages of an enum.
fn messages(sources: &[String], name: &str) -> Vec<String> {
    let head = format!("enum {name} {{\n");
    let bodies = sources.iter().filter_map(|source| source.split_once(&head)?.1.split("\n}\n").next());
    let attributes = bodies.flat_map(|body| body.split("#[error(").skip(1));
    attributes.filter_map(|attribute| attribute.trim_start().strip_prefix('"')).map(message).collect()
}

#[test]
fn every_message_has_a_row_on_the_page() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let page = fs::read_to_string(root.join("../docs/troubleshooting.md")).unwrap();
    let rows: BTreeSet<&str> =
        page.lines().filter_map(|line| Some(line.strip_prefix("| ")?.split_once(" | ")?.0)).collect();
    let mut files = Vec::new();
    sources(&root.join("src"), &mut files);
    let mut missing = Vec::new();
    let mut checked = 0;
    for name in ERRORS {
        let messages = messages(&files, name);
        assert!(!messages.is_empty(), "there is no error {name} with messages");
        checked += messages.len();
        missing.extend(messages.into_iter().filter(|message| !rows.contains(&**message)));
    }
    assert!(
        missing.is_empty(),
        "docs/troubleshooting.md needs a row for each of these messages:\n{}",
        missing.join("\n")
    );
    assert!(checked > 100, "only {checked} messages were found");
}

#[test]
fn a_message_is_read_as_it_is_written() {
    assert_eq!(message("kernel {release} has no `x`: \\\n             {}\", more"), "kernel … has no `x`: …");
    assert_eq!(message("{0}\\n\\nnothing \\\"was\\\" {path:?}\")]"), "… nothing \"was\" …");
}
