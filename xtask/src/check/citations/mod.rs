//! The citation law: what a text cites can be looked up. Input: Rust, pages, example policies. Output: each number, section
//! or test that is cited and does not exist, and each anchor that stands twice.
//!
//! A citation is one of the letters N, C, D, A and F with a number of one or two digits, alone as a word. Comments and
//! literals of Rust are read, and names of tests (`n8_n9_ports` cites two numbers). Other code is not, so type parameters
//! and variants are free, and neither is what stands in backticks or in a fenced block.

#[cfg(test)]
mod tests;

use std::{
    collections::{BTreeMap, BTreeSet},
    path::Path,
};

use crate::{check::Violation, source::Source};

/// The pages with anchors, and the letters of their numbers.
const PAGES: [(&str, &str); 2] = [("docs/semantics.md", "NCD"), (THREATS, "AF")];
/// Names a test for each row; a name in backticks with an underscore is one.
const THREATS: &str = "docs/threats.md";
/// T0 to T3 are tiers of tests.
const LAST_TIER: u32 = 3;
/// Where every other `.yaml` is data of a test or of a deployment.
const EXAMPLES: &str = "policies";
/// This law and its tests hold what it forbids.
const OWN: &str = "xtask/src/check/citations";

/// Checks all sources together.
pub(crate) fn check(sources: &[Source]) -> Vec<Violation> {
    let (anchors, mut violations) = anchors(sources);
    let tests: BTreeSet<String> = sources.iter().filter(|source| source.is_rust()).flat_map(test_names).collect();
    for source in sources.iter().filter(|source| is_read(source)) {
        let text = if source.is_rust() { source.prose() } else { source.text.clone() };
        let lines = unfenced(&text, source.is_rust());
        for (index, line) in lines.iter().enumerate() {
            let next = lines.get(index + 1).map_or("", |next| next.trim_start_matches([' ', '/', '!', '*', '#']));
            let mut messages: Vec<String> = numbers(line).filter_map(|number| missing(&number, &anchors)).collect();
            messages.extend(design_section(line, next));
            messages.extend(missing_sections(line, next, sources));
            if source.path == Path::new(THREATS) {
                messages.extend(missing_tests(line, &tests));
            }
            violations.extend(messages.into_iter().map(|message| source.violation(index + 1, message)));
        }
        if source.is_rust() {
            for (line, name) in tests_of(source) {
                let messages = numbers_in_name(&name).filter_map(|number| missing(&number, &anchors));
                violations.extend(messages.map(|message| source.violation(line, message)));
            }
        }
    }
    violations
}

fn is_read(source: &Source) -> bool {
    let yaml = source.path.extension().is_some_and(|extension| extension == "yaml");
    !source.path.starts_with(OWN) && (!yaml || source.path.starts_with(EXAMPLES))
}

/// The anchors of both pages, and a violation for each that was there before.
fn anchors(sources: &[Source]) -> (BTreeSet<String>, Vec<Violation>) {
    let mut found: BTreeMap<String, String> = BTreeMap::new();
    let mut violations = Vec::new();
    for (page, letters) in PAGES {
        for source in sources.iter().filter(|source| source.path == Path::new(page)) {
            for (index, line) in source.text.lines().enumerate() {
                for rest in line.split("<a id=\"").skip(1) {
                    let id = rest.split('"').next().unwrap_or_default();
                    let place = format!("{page}:{}", index + 1);
                    if !id.to_uppercase().starts_with(|letter| letters.contains(letter)) {
                        let message = format!("the anchor {id} does not belong to this page");
                        violations.push(source.violation(index + 1, message));
                    } else if let Some(first) = found.get(id) {
                        violations.push(source.violation(index + 1, format!("the anchor {id} stands at {first} too")));
                    } else {
                        found.insert(id.to_owned(), place);
                    }
                }
            }
        }
    }
    (found.into_keys().collect(), violations)
}

/// What is wrong with a cited number.
fn missing(number: &str, anchors: &BTreeSet<String>) -> Option<String> {
    let (letter, digits) = number.split_at(1);
    if letter == "T" {
        let is_tier = digits.parse::<u32>().is_ok_and(|tier| tier <= LAST_TIER);
        let message = || format!("{number} is no tier of tests; attacks have A numbers, in {THREATS}");
        return (!is_tier).then(message);
    }
    if anchors.contains(&number.to_lowercase()) {
        return None;
    }
    let (page, _) = PAGES.iter().find(|(_, letters)| letters.contains(letter))?;
    Some(format!("{number} has no anchor in {page}"))
}

/// The lines, with what is fenced blanked in a page. Rust has strings of backticks, and is read whole.
fn unfenced(text: &str, rust: bool) -> Vec<&str> {
    let mut fenced = false;
    let line = |line| {
        let is_fence = !rust && str::trim_start(line).starts_with("```");
        fenced ^= is_fence;
        if fenced || is_fence { "" } else { line }
    };
    text.lines().map(line).collect()
}

/// The numbers that a line cites.
fn numbers(line: &str) -> impl Iterator<Item = String> {
    let mut found = Vec::new();
    let outside = line.split('`').step_by(2);
    for part in outside {
        let chars: Vec<char> = part.chars().collect();
        for (at, _) in chars.iter().enumerate().filter(|(_, letter)| "NCDAFT".contains(**letter)) {
            // An address, a path, an escape or a place in a format string goes on before it.
            let inside = |c: char| c.is_alphanumeric() || matches!(c, '_' | ':' | '.' | '/' | '\\' | '{' | '<');
            if at.checked_sub(1).is_some_and(|before| inside(chars[before])) {
                continue;
            }
            let digits: String = chars[at + 1..].iter().take_while(|c| c.is_ascii_digit()).collect();
            let after = chars.get(at + 1 + digits.len());
            let ends = after.is_none_or(|c| !c.is_alphanumeric() && !matches!(c, '_' | '}'));
            if is_number(&digits) && ends {
                found.push(format!("{}{digits}", chars[at]));
            }
        }
    }
    found.into_iter()
}

fn is_number(digits: &str) -> bool {
    matches!(digits.len(), 1 | 2)
        && digits.bytes().all(|c| c.is_ascii_digit())
        && (digits == "0" || !digits.starts_with('0'))
}

/// The numbers that a test's name cites: `n14_what_one_item_leaves_out`.
fn numbers_in_name(name: &str) -> impl Iterator<Item = String> {
    let cites = |part: &&str| part.starts_with(['n', 'c', 'd', 'a', 'f']) && is_number(&part[1..]);
    name.split('_').filter(cites).map(str::to_uppercase)
}

/// A citation of the design by section, which no reader of the repository can look up.
fn design_section(line: &str, next: &str) -> Option<String> {
    let words = |text: &str| -> Vec<String> {
        let trimmed = |word: &str| word.trim_matches(|c: char| !c.is_alphanumeric() && c != '§').to_lowercase();
        text.split_whitespace().map(trimmed).filter(|word| !word.is_empty()).collect()
    };
    let here = words(line);
    let all: Vec<String> = here.iter().cloned().chain(words(next)).collect();
    let is_section =
        |word: Option<&String>| word.is_some_and(|word| matches!(word.as_str(), "section" | "sections" | "§"));
    let is_digit = |word: Option<&String>| {
        word.is_some_and(|word| word.trim_start_matches('§').starts_with(|c: char| c.is_ascii_digit()))
    };
    let cites = (0..here.len()).any(|at| match all[at].as_str() {
        "design.md" => true,
        "design" => is_section(all.get(at + 1)) || is_digit(all.get(at + 1)),
        "section" | "sections" => {
            is_digit(all.get(at + 1)) && all.get(at + 2..at + 5).is_some_and(|of| of == ["of", "the", "design"])
        }
        _ => false,
    });
    cites.then(|| "the design's sections are not in this repository: name a section of a page in docs/".to_owned())
}

/// Sections that are cited as `docs/architecture.md, "Flow state"` and that the page does not have.
fn missing_sections(line: &str, next: &str, sources: &[Source]) -> Vec<String> {
    const MARK: &str = ".md, \"";
    let text = format!("{line} {next}");
    let mut messages = Vec::new();
    for (at, _) in text.match_indices(MARK).filter(|(at, _)| *at < line.len()) {
        let start =
            text[..at].rfind(|c: char| !c.is_alphanumeric() && !"/-_.".contains(c)).map_or(0, |before| before + 1);
        let page = &text[start..at + ".md".len()];
        let Some(title) = text[at + MARK.len()..].split_once('"').map(|(title, _)| title) else { continue };
        let is_heading = |line: &str| line.starts_with('#') && line.trim_start_matches('#').trim() == title;
        let found = sources.iter().find(|source| source.path == Path::new(page));
        if !found.is_some_and(|source| source.text.lines().any(is_heading)) {
            messages.push(format!("{page} has no section \"{title}\""));
        }
    }
    messages
}

/// Tests that a line names and nobody has written.
fn missing_tests(line: &str, tests: &BTreeSet<String>) -> Vec<String> {
    let is_name = |name: &&str| {
        name.contains('_') && name.chars().all(|c| c == '_' || c.is_ascii_lowercase() || c.is_ascii_digit())
    };
    let named = line.split('`').skip(1).step_by(2).filter(is_name);
    named.filter(|name| !tests.contains(*name)).map(|name| format!("there is no test {name}")).collect()
}

fn test_names(source: &Source) -> Vec<String> {
    tests_of(source).into_iter().map(|(_, name)| name).collect()
}

/// The tests of a Rust source: line and name.
fn tests_of(source: &Source) -> Vec<(usize, String)> {
    let code = source.code();
    let mut found = Vec::new();
    let mut is_test = false;
    for (index, line) in code.lines().enumerate() {
        let line = line.trim();
        if line.starts_with("#[") {
            is_test |= line.contains("test]") || line.contains("::test(");
        } else if let Some((_, rest)) = line.split_once("fn ") {
            let name: String = rest.chars().take_while(|c| c.is_alphanumeric() || *c == '_').collect();
            if is_test {
                found.push((index + 1, name));
            }
            is_test = false;
        }
    }
    found
}
