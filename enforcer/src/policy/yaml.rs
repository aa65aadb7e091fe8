//! Turns YAML text into serde types. It is the only module that calls the YAML reader.
//!
//! Input: the text of a file. Output: its documents, each deserialized on request, or a [`Problem`] and its place. Limits here
//! bound the memory and time that a hostile file can cost.

use std::borrow::Cow;
use std::cell::Cell;
use std::rc::Rc;

use serde::de::{DeserializeOwned, DeserializeSeed};
use serde_yaml::budget::BudgetBreach;
use serde_yaml::{MergeKeyPolicy, Options};

use super::error::Problem;
use super::position::{NO_VALUE, Position};

/// Nodes of one file, all its documents together.
pub(super) const FILE_NODES: usize = 500_000;
/// Nodes of one document: what its shapes take while the model is made of them.
pub(super) const DOCUMENT_NODES: usize = 100_000;
/// Levels of nesting. A NetworkPolicy has 11; what stands beside it may have some dozens. Each level costs up to
/// 30 KiB of stack, so files are parsed on a thread with [`STACK`].
pub(super) const DEPTH: usize = 128;
/// Bytes of stack that [`DEPTH`] levels fit into twice.
pub(super) const STACK: usize = 8 << 20;
/// What the aliases of a document may grow to; policies hardly ever have any.
const ALIAS_EVENTS: usize = 20_000;
/// Characters of a value that a message shows.
const SHOWN: usize = 80;

/// One document of a file.
#[derive(Clone, Copy, Debug)]
pub(super) struct Document<'a> {
    /// Its text; the marker line is a part of it.
    pub(super) text: &'a str,
    /// Lines of the file before it.
    pub(super) lines_before: u32,
}

/// Splits a file at its `---` lines; documents without content are left out.
///
/// YAML gives such a line this meaning everywhere, in block scalars too, so this needs no parser; and a document with
/// a syntax error does not hide the next one. What stands before the first marker without being content (comments,
/// directives) belongs to the document behind it.
pub(super) fn documents(text: &str) -> impl Iterator<Item = Document<'_>> {
    let mut rest = text;
    let mut lines_before = 0;
    std::iter::from_fn(move || {
        while !rest.is_empty() {
            let (end, lines, has_content) = first_document(rest);
            let document = Document { text: &rest[..end], lines_before };
            rest = &rest[end..];
            lines_before += lines;
            if has_content {
                return Some(document);
            }
        }
        None
    })
}

/// The text without the byte order marks that YAML allows: at its beginning, and where a document begins.
///
/// Others stay, and [`unprintable`] finds them. Lines keep their numbers.
pub(super) fn without_marks(text: &str) -> Cow<'_, str> {
    const MARK: char = '\u{feff}';
    if !text.contains(MARK) {
        return Cow::Borrowed(text);
    }
    let mut kept = String::with_capacity(text.len());
    let mut is_begun = false;
    for line in text.split_inclusive('\n') {
        let bare = line.strip_prefix(MARK).unwrap_or(line);
        let behind_marker = behind_marker(bare);
        // Before a marker, or where nothing of the document has come yet, a mark is a part of no value.
        let line = if behind_marker.is_some() || !is_begun { bare } else { line };
        is_begun = is_content(line, behind_marker) || is_begun && behind_marker.is_none();
        kept.push_str(line);
    }
    Cow::Owned(kept)
}

/// What stands behind the `---` of a marker line.
fn behind_marker(line: &str) -> Option<&str> {
    line.strip_prefix("---").filter(|rest| rest.is_empty() || rest.starts_with([' ', '\t', '\r', '\n']))
}

/// Whether a line holds more than a marker, a comment or a directive.
fn is_content(line: &str, behind_marker: Option<&str>) -> bool {
    let content = behind_marker.unwrap_or(line).trim();
    !content.is_empty() && !content.starts_with('#') && !line.starts_with('%')
}

/// Bytes and lines of the first document of `text`, and whether it has content.
fn first_document(text: &str) -> (usize, u32, bool) {
    let (mut end, mut lines) = (0, 0);
    let (mut is_begun, mut has_content) = (false, false);
    for line in text.split_inclusive('\n') {
        let behind_marker = behind_marker(line);
        if behind_marker.is_some() && is_begun {
            break;
        }
        let is_content = is_content(line, behind_marker);
        has_content |= is_content;
        is_begun |= is_content || behind_marker.is_some();
        end += line.len();
        lines += 1;
    }
    (end, lines, has_content)
}

/// The first character that YAML does not take, and its place.
pub(super) fn unprintable(text: &str) -> Option<(Problem, Position)> {
    let bad = |character: char| match character {
        '\t' | '\n' | '\r' | '\u{85}' => false,
        // What reorders or hides the rest of a line on a terminal is as bad as a control character.
        '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}' | '\u{feff}' | '\u{fffe}' | '\u{ffff}' => true,
        character => character.is_control(),
    };
    let (offset, character) = text.char_indices().find(|&(_, character)| bad(character))?;
    let before = &text[..offset];
    let line_start = before.rfind('\n').map_or(0, |newline| newline + 1);
    let position = Position {
        line: u32::try_from(before.bytes().filter(|&byte| byte == b'\n').count() + 1).unwrap_or(u32::MAX),
        column: u32::try_from(before[line_start..].chars().count() + 1).unwrap_or(u32::MAX),
        length: 1,
    };
    Some((Problem::Unprintable { code: character.into() }, position))
}

/// A value, or what is wrong and where.
pub(super) type Reading<T> = Result<T, (Problem, Option<Position>)>;

/// The header of a document as `T`, and how many nodes the document has; `None` if it is empty. Merge keys are fields
/// without a meaning here: documents that are no policies may have them.
pub(super) fn read_header<T: DeserializeOwned>(
    document: Document<'_>,
    nodes_left: usize,
) -> (Reading<Option<T>>, usize) {
    read_counted(document, nodes_left, MergeKeyPolicy::AsOrdinary)
}

/// A document as `T`; `None` if it is empty.
pub(super) fn read<T: DeserializeOwned>(document: Document<'_>) -> Reading<Option<T>> {
    read_counted(document, DOCUMENT_NODES, MergeKeyPolicy::Error).0
}

fn read_counted<T: DeserializeOwned>(
    document: Document<'_>,
    nodes_left: usize,
    merge_keys: MergeKeyPolicy,
) -> (Reading<Option<T>>, usize) {
    let nodes = Rc::new(Cell::new(0));
    let counted = Rc::clone(&nodes);
    let options =
        options(nodes_left.min(DOCUMENT_NODES), merge_keys).with_budget_report(move |report| counted.set(report.nodes));
    let result = serde_yaml::from_str_with_options(document.text, options).map_err(|error| {
        let position = error.location().map(Position::from);
        (problem(&error, nodes_left), position)
    });
    (result, nodes.get())
}

/// The non-empty document as what `seed` makes of it.
pub(super) fn read_with<'de, S: DeserializeSeed<'de>>(document: Document<'de>, seed: S) -> Reading<S::Value> {
    let options = options(DOCUMENT_NODES, MergeKeyPolicy::Error);
    serde_yaml::with_deserializer_from_str_with_options(document.text, options, |yaml| seed.deserialize(yaml)).map_err(
        |error| {
            let position = error.location().map(Position::from);
            (problem(&error, DOCUMENT_NODES), position)
        },
    )
}

fn options(max_nodes: usize, merge_keys: MergeKeyPolicy) -> Options {
    serde_yaml::options! {
        budget: serde_yaml::budget! {
            max_nodes: max_nodes,
            max_events: 4 * DOCUMENT_NODES,
            max_depth: DEPTH,
            max_documents: 2,
            max_aliases: ALIAS_EVENTS,
            max_anchors: 1_000,
            max_recorded_anchor_events: ALIAS_EVENTS,
            max_recorded_anchor_bytes: 1 << 20,
            max_inclusion_depth: 0,
        },
        alias_limits: serde_yaml::alias_limits! {
            max_total_replayed_events: ALIAS_EVENTS,
            max_replay_stack_depth: 8,
        },
        merge_keys: merge_keys,
        emit_comments: false,
        with_snippet: false,
        // A text that another reader takes for a number (0x50, 1_000, 080, on) is refused or kept as it stands.
        no_schema: true,
        leading_zero_numbers_as_strings: true,
        underscored_numbers_as_strings: true,
        reject_unsupported_tags: true,
        reject_tagged_field_names: true,
    }
}

/// The reader's error in our words.
fn problem(error: &serde_yaml::Error, nodes_left: usize) -> Problem {
    use serde_yaml::Error;
    match error {
        Error::WithSnippet { error, .. } | Error::AliasError { error, .. } => problem(error, nodes_left),
        Error::SerdeUnknownField { field, expected, .. } => {
            Problem::UnknownField { field: shown(field), expected: expected.clone() }
        }
        Error::SerdeMissingField { field, .. } => Problem::MissingField { field },
        Error::DuplicateMappingKey { key, .. } => {
            Problem::DuplicateField { field: key.as_deref().map_or_else(|| "?".to_owned(), shown) }
        }
        Error::MergeKeyNotAllowed { .. } => Problem::MergeKey,
        Error::QuotingRequired { value, .. } => Problem::NeedsQuotes { value: shown(value) },
        Error::Message { msg, .. } if msg == NO_VALUE => Problem::NoValue,
        Error::NullIntoString { .. } => Problem::NoValue,
        Error::Unexpected { expected, .. } => Problem::WrongType { expected: plain(expected) },
        Error::SerdeInvalidType { expected, .. } | Error::SerdeInvalidValue { expected, .. } => {
            Problem::WrongType { expected: expected.clone() }
        }
        Error::Budget { breach, .. } => match breach {
            BudgetBreach::Nodes { .. } | BudgetBreach::Events { .. } if nodes_left < DOCUMENT_NODES => {
                Problem::FileNodes { limit: FILE_NODES }
            }
            BudgetBreach::Nodes { .. } | BudgetBreach::Events { .. } => {
                Problem::DocumentNodes { limit: DOCUMENT_NODES }
            }
            BudgetBreach::Depth { .. } => Problem::TooDeep { limit: DEPTH },
            BudgetBreach::Aliases { .. }
            | BudgetBreach::Anchors { .. }
            | BudgetBreach::AliasAnchorRatio { .. }
            | BudgetBreach::RecordedAnchorEvents { .. }
            | BudgetBreach::RecordedAnchorBytes { .. } => Problem::AliasBomb,
            other => Problem::Syntax { message: shown(&format!("{other:?}")) },
        },
        Error::AliasReplayLimitExceeded { .. }
        | Error::AliasExpansionLimitExceeded { .. }
        | Error::AliasReplayCounterOverflow { .. }
        | Error::AliasReplayStackDepthExceeded { .. } => Problem::AliasBomb,
        Error::MultipleDocuments { .. } => {
            Problem::Syntax { message: "text behind the end of the document; begin the next one with `---`".to_owned() }
        }
        Error::UnsupportedTag { tag, .. } => Problem::Syntax { message: format!("unsupported tag `{}`", shown(tag)) },
        // The scanner runs ahead of the budget and has its own limit for brackets.
        Error::ExternalMessage { msg, .. } if msg.contains("recursion limit") => Problem::TooDeep { limit: DEPTH },
        other => {
            let text = other.to_string();
            // The reader appends the place, which a finding shows by itself.
            let message = text.rsplit_once(" at line ").map_or(text.as_str(), |(message, _)| message);
            Problem::Syntax { message: shown(message) }
        }
    }
}

/// The reader's names of node types in plain words.
fn plain(expected: &str) -> String {
    match expected {
        "sequence start" => "a list".to_owned(),
        "mapping start" => "a map".to_owned(),
        "string scalar" => "a text".to_owned(),
        other => other.to_owned(),
    }
}

/// A value as a message shows it: one line, not too long.
pub(super) fn shown(text: &str) -> String {
    let mut shown: String = text.chars().take(SHOWN).map(|c| if c.is_control() { '\u{fffd}' } else { c }).collect();
    if text.chars().nth(SHOWN).is_some() {
        shown.push_str("..");
    }
    shown
}

#[cfg(test)]
mod tests {
    use super::*;

    fn split(text: &str) -> Vec<(u32, &str)> {
        documents(text).map(|document| (document.lines_before, document.text)).collect()
    }

    #[test]
    fn documents_are_split_at_their_markers() {
        assert_eq!(split(""), []);
        assert_eq!(split("\n# nothing\n---\n--- # still nothing\n"), []);
        assert_eq!(split("a: b"), [(0, "a: b")]);
        assert_eq!(split("a\n---\nb\n---\n"), [(0, "a\n"), (1, "---\nb\n")]);
        assert_eq!(split("# c\n%YAML 1.2\n---\na\n---\r\nb"), [(0, "# c\n%YAML 1.2\n---\na\n"), (4, "---\r\nb")]);
        assert_eq!(split("--- {a: b}\n--- c\n"), [(0, "--- {a: b}\n"), (1, "--- c\n")]);
        assert_eq!(split("---a\n ---\n----\n"), [(0, "---a\n ---\n----\n")]);
    }

    #[test]
    fn a_byte_order_mark_may_stand_where_a_document_begins_and_nowhere_else() {
        const B: &str = "\u{feff}";
        for (text, kept) in [
            (format!("{B}a: b\n"), "a: b\n".to_owned()),
            (format!("a: b\n---\n{B}c: d\n"), "a: b\n---\nc: d\n".to_owned()),
            (format!("a: b\n---\n# c\n\n{B}c: d\n"), "a: b\n---\n# c\n\nc: d\n".to_owned()),
            (format!("a: b\n{B}---\nc: d\n"), "a: b\n---\nc: d\n".to_owned()),
            (format!("{B}# c\n{B}a: b\n"), "# c\na: b\n".to_owned()),
            (format!("{B}{B}a: b\n"), format!("{B}a: b\n")),
            (format!("a: b\n{B}c: d\n"), format!("a: b\n{B}c: d\n")),
            (format!("--- a\n{B}c\n"), format!("--- a\n{B}c\n")),
            (format!("a: {B}b\n"), format!("a: {B}b\n")),
            ("a\n".to_owned(), "a\n".to_owned()),
        ] {
            assert_eq!(without_marks(&text), kept, "{text:?}");
        }
    }
}
