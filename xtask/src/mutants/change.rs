//! The changes that a test should notice: one line each, by pattern. Pure.
//!
//! Input: a source. Output: its changes, each with the whole text after it. Unit tests, comments and literals are left alone.

use std::path::PathBuf;

use crate::source::Source;

/// One changed line.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(crate) struct Change {
    /// The file, relative to the workspace's root.
    pub(crate) path: PathBuf,
    /// Line, counted from 1.
    pub(crate) line: usize,
    pub(crate) before: String,
    pub(crate) after: String,
}

/// What stands for what. A space on both sides keeps operators apart from generics, arrows and references.
const SWAPS: &[(&str, &str)] = &[
    (" == ", " != "),
    (" != ", " == "),
    (" < ", " <= "),
    (" <= ", " < "),
    (" > ", " >= "),
    (" >= ", " > "),
    (" && ", " || "),
    (" || ", " && "),
    (" + 1", ""),
    (" - 1", ""),
    (" + ", " - "),
    (" << ", " >> "),
    (" & ", " | "),
    (" | ", " & "),
    ("true", "false"),
    ("false", "true"),
    (".min(", ".max("),
    (".max(", ".min("),
    (".any(", ".all("),
    (".all(", ".any("),
    (".is_some", ".is_none"),
    (".is_none", ".is_some"),
    (".is_empty()", ".len() == 1"),
    (".contains(", ".is_empty() || !"),
    ("Ingress", "Egress"),
    ("Egress", "Ingress"),
    ("source", "destination"),
    ("destination", "source"),
    ("peer", "local"),
    ("local", "peer"),
    ("first()", "last()"),
    ("last()", "first()"),
    (".rev()", ""),
];

/// What makes one operand of two.
const COMPARISONS: [&str; 6] = [" == ", " != ", " < ", " <= ", " > ", " >= "];

impl Change {
    /// The source with this line changed.
    pub(crate) fn apply(&self, text: &str) -> String {
        let changed = |(index, line): (usize, &str)| {
            let end = if line.ends_with('\n') { "\n" } else { "" };
            if index + 1 == self.line { format!("{}{end}", self.after) } else { line.to_owned() }
        };
        text.split_inclusive('\n').enumerate().map(changed).collect()
    }
}

/// All changes of a source, in the order of its lines.
pub(crate) fn changes(source: &Source) -> Vec<Change> {
    let code = source.code_without_tests();
    let mut found = Vec::new();
    for (index, (line, code)) in source.text.lines().zip(code.lines()).enumerate() {
        // Columns of both are the same in ASCII alone.
        if code.trim().is_empty() || !line.is_ascii() || is_no_behaviour(code) {
            continue;
        }
        let mut afters = swapped(line, code);
        afters.extend(without_condition(line, code));
        afters.extend(turned_condition(line, code));
        afters.extend(swapped_arguments(line, code));
        afters.extend(without_statement(line, code));
        afters.sort();
        afters.dedup();
        let change =
            |after: String| Change { path: source.path.clone(), line: index + 1, before: line.to_owned(), after };
        found.extend(afters.into_iter().filter(|after| after != line).map(change));
    }
    found
}

/// Lines that only the compiler or a person reads.
fn is_no_behaviour(code: &str) -> bool {
    let code = code.trim_start();
    let heads = ["use ", "pub use ", "mod ", "pub mod ", "#[", "#![", "const _", "fn ", "pub fn ", "pub(crate) fn "];
    heads.iter().any(|head| code.starts_with(head)) || code.contains("debug_assert")
}

fn replaced(line: &str, start: usize, length: usize, with: &str) -> String {
    format!("{}{with}{}", &line[..start], &line[start + length..])
}

/// Each operator, word or call that has an opposite. A word is replaced where it stands alone or begins or ends at a `.`, `(`
/// or the like, so that names are not cut.
fn swapped(line: &str, code: &str) -> Vec<String> {
    let mut found = Vec::new();
    for (from, to) in SWAPS {
        for (at, _) in code.match_indices(from) {
            let is_word = from.chars().all(char::is_alphanumeric);
            let joins = |c: char| c.is_alphanumeric() || c == '_';
            let before = code[..at].chars().next_back().is_some_and(joins);
            let behind = code[at + from.len()..].chars().next().is_some_and(joins);
            if !is_word || (!before && !behind) {
                found.push(replaced(line, at, from.len(), to));
            }
        }
    }
    found
}

/// Each side of `&&` left out, where the side is a single operand.
fn without_condition(line: &str, code: &str) -> Vec<String> {
    const AND: &str = " && ";
    let mut found = Vec::new();
    for (at, _) in code.match_indices(AND) {
        let mut left = operand_before(code, at);
        // With the other side of a comparison.
        while let Some(operator) = COMPARISONS.iter().find(|operator| code[..left].ends_with(**operator)) {
            left = operand_before(code, left - operator.len());
        }
        if left < at {
            found.push(replaced(line, left, at + AND.len() - left, ""));
        }
        let mut right = operand_behind(code, at + AND.len());
        while let Some(operator) = COMPARISONS.iter().find(|operator| code[right..].starts_with(**operator)) {
            right = operand_behind(code, right + operator.len());
        }
        if right > at + AND.len() {
            found.push(replaced(line, at, right - at, ""));
        }
    }
    // A chain of conditions with one on each line.
    if let Some(rest) = code.trim_start().strip_prefix("&& ")
        && !rest.starts_with("let ")
        && rest.matches('(').count() == rest.matches(')').count()
        && !rest.contains('{')
    {
        found.push(String::new());
    }
    found
}

/// Where the operand begins that ends at `end`: names and calls, without a space outside of brackets.
fn operand_before(code: &str, end: usize) -> usize {
    let mut depth = 0_usize;
    for (at, c) in code[..end].char_indices().rev() {
        match c {
            ')' | ']' => depth += 1,
            '(' | '[' | '{' | ' ' if depth == 0 => return at + 1,
            '(' | '[' => depth -= 1,
            _ => {}
        }
    }
    end
}

fn operand_behind(code: &str, start: usize) -> usize {
    let mut depth = 0_usize;
    for (at, c) in code[start..].char_indices() {
        match c {
            '(' | '[' => depth += 1,
            ')' | ']' | '}' | ' ' | ';' | ',' if depth == 0 => return start + at,
            ')' | ']' => depth -= 1,
            _ => {}
        }
    }
    code.len()
}

/// `if` with a condition that is always true, and always false.
fn turned_condition(line: &str, code: &str) -> Vec<String> {
    let mut found = Vec::new();
    for (at, _) in code.match_indices("if ") {
        let start = at + 3;
        let joins = code[..at].chars().next_back().is_some_and(|c| c.is_alphanumeric() || c == '_');
        let Some(length) = code[start..].find(" {").or_else(|| code[start..].find(" =>")) else { continue };
        if joins || code[start..].starts_with("let ") || code[start..start + length].contains('{') {
            continue;
        }
        for value in ["true", "false"] {
            found.push(replaced(line, start, length, value));
        }
    }
    found
}

/// The two arguments of a call, the other way round.
fn swapped_arguments(line: &str, code: &str) -> Vec<String> {
    let is_plain = |text: &str| {
        !text.is_empty() && text.chars().all(|c| c.is_alphanumeric() || matches!(c, '_' | '.' | '&' | '*'))
    };
    let mut found = Vec::new();
    for (open, _) in code.match_indices('(') {
        let Some(length) = code[open + 1..].find([')', '(']) else { continue };
        let inside = &code[open + 1..open + 1 + length];
        let is_call = code[..open].chars().next_back().is_some_and(|c| c.is_alphanumeric() || c == '_');
        if let (true, Some((first, second))) = (is_call, inside.split_once(", "))
            && is_plain(first)
            && is_plain(second)
            && first != second
        {
            found.push(replaced(line, open + 1, length, &format!("{second}, {first}")));
        }
    }
    found
}

/// A statement of one line left out: an assignment to something that is there, or a call for its effect.
fn without_statement(line: &str, code: &str) -> Option<String> {
    let code = code.trim();
    let (name, _) = code.split_once([' ', '(', '.', '['])?;
    let is_name = name.trim_start_matches('*').chars().all(|c| c.is_alphanumeric() || c == '_');
    let words = ["let", "return", "break", "continue", "if", "match", "for", "while", "pub", "const", "static", "type"];
    let is_word = words.contains(&name);
    let is_balanced = code.matches('(').count() == code.matches(')').count();
    let is_statement = code.ends_with(';') && is_name && !is_word && is_balanced && !code.contains('{');
    is_statement.then(|| line[..line.len() - line.trim_start().len()].to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn afters(line: &str) -> Vec<String> {
        let source = Source { path: "a.rs".into(), text: line.to_owned() };
        changes(&source).into_iter().map(|change| change.after).collect()
    }

    #[test]
    fn each_pattern_changes_its_part_of_the_line() {
        for (line, after) in [
            ("a == b", "a != b"),
            ("a < b", "a <= b"),
            ("if !disputed && ok(a, b) {", "if ok(a, b) {"),
            ("if !disputed && ok(a, b) {", "if !disputed {"),
            ("if !disputed && ok(a, b) {", "if !disputed || ok(a, b) {"),
            ("if !disputed && ok(a, b) {", "if !disputed && ok(b, a) {"),
            ("if !disputed && ok(a, b) {", "if false {"),
            ("Some(x) if x.is_empty() => 1,", "Some(x) if true => 1,"),
            ("    true", "    false"),
            ("if age != 0 && age > oldest {", "if age != 0 {"),
            ("if age != 0 && age > oldest {", "if age > oldest {"),
            ("image.address(key.peer())", "image.address(key.local())"),
            ("    way.total = 0;", "    "),
            ("    queue.push(entry);", "    "),
            ("        && !is_reply", ""),
            ("a.min(b)", "a.max(b)"),
        ] {
            assert!(afters(line).contains(&after.to_owned()), "{line}: {:#?}", afters(line));
        }
    }

    #[test]
    fn what_is_no_behaviour_is_left() {
        for line in [
            "// a == b",
            "let text = \"a == b\";",
            "use crate::{source, destination};",
            "fn f(source: u8, destination: u8) -> bool {",
            "#[cfg(test)]\nmod tests { fn f() { a == b } }",
            "let peers = locals();",
            "const _: () = assert!(A == B);",
        ] {
            assert_eq!(afters(line), Vec::<String>::new(), "{line}");
        }
    }

    #[test]
    fn one_line_of_the_source_is_changed() {
        let source = Source { path: "a.rs".into(), text: "a\nb == c\nd == e\n".into() };
        let texts: Vec<String> = changes(&source).iter().map(|change| change.apply(&source.text)).collect();
        assert_eq!(texts, ["a\nb != c\nd == e\n", "a\nb == c\nd != e\n"]);
    }
}
