//! What the commands print. Nothing else in `cli` prints, so no name that somebody else chose reaches a terminal as it is.
//!
//! Input: text or JSON. Output: the same on stdout or stderr, without characters that steer a terminal.

#![allow(clippy::print_stdout, clippy::print_stderr, reason = "the one place that prints")]

use crate::flow::text::{json_lines, printable_lines};

/// Lines for people, on stdout.
pub(super) fn tell(text: &str) {
    println!("{}", printable_lines(text));
}

/// Lines for people beside what stdout holds, on stderr.
pub(super) fn note(text: &str) {
    eprintln!("{}", printable_lines(text));
}

/// A value for programs, on stdout.
pub(super) fn tell_json(value: &serde_json::Value) {
    println!("{}", json_lines(&format!("{value:#}")));
}

/// An error for people: what went wrong, then why.
pub(super) fn complain(error: &anyhow::Error) {
    note(&format!("error: {error:#}"));
}
