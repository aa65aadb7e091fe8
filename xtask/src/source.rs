//! Sources for the laws of `check`. Input: a file's text. Output: the same text, line for line, without what is not code
//! (comments, strings and, where asked for, the modules of unit tests), or without what is code.

use std::{
    fs,
    path::{Path, PathBuf},
};

use anyhow::{Context, Result};

/// One source file of the workspace.
#[derive(Clone, Debug)]
pub(crate) struct Source {
    /// Relative to the workspace's root.
    pub(crate) path: PathBuf,
    pub(crate) text: String,
}

impl Source {
    /// Whether it is Rust.
    pub(crate) fn is_rust(&self) -> bool {
        self.path.extension().is_some_and(|extension| extension == "rs")
    }

    /// The text with comments and literals blanked.
    pub(crate) fn code(&self) -> String {
        blank(&self.text)
    }

    /// Comments and literals of Rust, with the code blanked.
    pub(crate) fn prose(&self) -> String {
        let code = self.code();
        let of_code = |code: char| !code.is_whitespace();
        self.text.chars().zip(code.chars()).map(|(text, code)| if of_code(code) { ' ' } else { text }).collect()
    }

    /// The code without `#[cfg(test)]` items; empty where the whole file is a unit test.
    pub(crate) fn code_without_tests(&self) -> String {
        let in_tests = self.path.components().any(|part| part.as_os_str() == "tests");
        if in_tests || self.path.file_name().is_some_and(|name| name == "tests.rs") {
            return String::new();
        }
        without_tests(&self.code())
    }
}

/// Every file below the root with one of the extensions, in order; not what cargo or git wrote.
pub(crate) fn sources(root: &Path, extensions: &[&str]) -> Result<Vec<Source>> {
    let is_wanted = |path: &Path| extensions.iter().any(|wanted| path.extension().is_some_and(|own| own == *wanted));
    let mut found = Vec::new();
    let mut waiting = vec![root.to_path_buf()];
    while let Some(directory) = waiting.pop() {
        let entries = fs::read_dir(&directory).with_context(|| format!("cannot read {}", directory.display()))?;
        for entry in entries {
            let entry = entry?;
            let path = entry.path();
            let hidden = entry.file_name().to_string_lossy().starts_with('.');
            // A cargo target directory, wherever it lies, has this file.
            if entry.file_type()?.is_dir()
                && !hidden
                && entry.file_name() != "target"
                && !path.join("CACHEDIR.TAG").exists()
            {
                waiting.push(path);
            } else if is_wanted(&path) {
                let text = fs::read_to_string(&path).with_context(|| format!("cannot read {}", path.display()))?;
                found.push(Source { path: path.strip_prefix(root)?.to_path_buf(), text });
            }
        }
    }
    found.sort_by(|a, b| a.path.cmp(&b.path));
    Ok(found)
}

/// Replaces comments and literals by spaces; line breaks stay.
fn blank(text: &str) -> String {
    let chars: Vec<char> = text.chars().collect();
    let mut code = String::with_capacity(text.len());
    let mut at = 0;
    while at < chars.len() {
        let end = at + literal_or_comment(&chars[at..], at.checked_sub(1).map(|before| chars[before]));
        if end == at {
            code.push(chars[at]);
            at += 1;
        }
        while at < end {
            code.push(if chars[at] == '\n' { '\n' } else { ' ' });
            at += 1;
        }
    }
    code
}

/// Length of the comment or literal that starts here, 0 if none does.
fn literal_or_comment(rest: &[char], before: Option<char>) -> usize {
    let position = |from: usize, end: &str| {
        let end: Vec<char> = end.chars().collect();
        rest[from..].windows(end.len()).position(|window| window == end).map_or(rest.len(), |at| from + at + end.len())
    };
    match rest {
        ['/', '/', ..] => rest.iter().position(|c| *c == '\n').unwrap_or(rest.len()),
        ['/', '*', ..] => block_comment(rest),
        ['"', ..] => quoted_string(rest),
        ['r', '#' | '"', ..] if !before.is_some_and(|c| c.is_alphanumeric() && c != 'b' || c == '_') => {
            let hashes = rest[1..].iter().take_while(|c| **c == '#').count();
            if rest.get(1 + hashes) == Some(&'"') {
                position(hashes + 2, &format!("\"{}", "#".repeat(hashes)))
            } else {
                0 // A raw identifier.
            }
        }
        // A character; otherwise the quote begins a lifetime.
        ['\'', '\\', _, ..] => position(3, "'"),
        ['\'', _, '\'', ..] => 3,
        _ => 0,
    }
}

fn block_comment(rest: &[char]) -> usize {
    let (mut depth, mut at) = (0_usize, 0);
    while at < rest.len() {
        match rest[at..] {
            ['/', '*', ..] => (depth, at) = (depth + 1, at + 2),
            ['*', '/', ..] => (depth, at) = (depth - 1, at + 2),
            _ => at += 1,
        }
        if depth == 0 {
            break;
        }
    }
    at
}

fn quoted_string(rest: &[char]) -> usize {
    let mut at = 1;
    while at < rest.len() && rest[at] != '"' {
        at += if rest[at] == '\\' { 2 } else { 1 };
    }
    (at + 1).min(rest.len())
}

/// Blanks each item under `#[cfg(test)]`.
fn without_tests(code: &str) -> String {
    const MARK: &str = "#[cfg(test)]";
    let mut rest = code;
    let mut kept = String::with_capacity(code.len());
    while let Some(start) = rest.find(MARK) {
        kept.push_str(&rest[..start]);
        let item = &rest[start..];
        let end = item_end(item, MARK.len());
        kept.extend(item[..end].chars().map(|c| if c == '\n' { '\n' } else { ' ' }));
        rest = &item[end..];
    }
    kept + rest
}

/// Where the item ends that begins after `from`: at its last brace, or at the semicolon if it has none before that.
fn item_end(item: &str, from: usize) -> usize {
    let mut depth = 0_usize;
    for (at, c) in item.char_indices().skip_while(|(at, _)| *at < from) {
        match c {
            '{' => depth += 1,
            '}' if depth <= 1 => return at + 1,
            '}' => depth -= 1,
            ';' if depth == 0 => return at + 1,
            _ => {}
        }
    }
    item.len()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn source(path: &str, text: &str) -> Source {
        Source { path: path.into(), text: text.into() }
    }

    #[test]
    fn only_code_stays() {
        let text =
            "a // b\n/* c /* d */ e */ f \"g \\\" h\" i r#\"j \" k\"# 'l' '\\'' &'m n b'o' r\"p\" br\"q\" r#type";
        let words: Vec<String> = source("x.rs", text).code().split_whitespace().map(str::to_owned).collect();
        assert_eq!(words, ["a", "f", "i", "&'m", "n", "b", "b", "r#type"]);
    }

    #[test]
    fn prose_is_what_is_no_code() {
        let text = "fn n1() { g(\"a 'b'\") } // c\n/* d */ let x = 'e';\n";
        assert_eq!(
            source("x.rs", text).prose().split_whitespace().collect::<Vec<_>>().join(" "),
            "\"a 'b'\" // c /* d */ 'e'"
        );
    }

    #[test]
    fn lines_keep_their_numbers() {
        let text = "\"two\nlines\"\n/* three\nlines\n*/ x\n";
        assert_eq!(source("x.rs", text).code().lines().position(|line| line.contains('x')), Some(4));
    }

    #[test]
    fn unit_tests_are_cut_and_what_follows_stays() {
        let text =
            "a\n#[cfg(test)]\nmod tests { fn f() { x } }\nb\n#[cfg(test)]\nmod other;\nc #[cfg(test)] use y::{z}; d";
        let words: Vec<String> =
            source("x.rs", text).code_without_tests().split_whitespace().map(str::to_owned).collect();
        assert_eq!(words, ["a", "b", "c", ";", "d"]);
        assert_eq!(source("policy/tests.rs", "a").code_without_tests(), "");
        assert_eq!(source("policy/parse/tests/limits.rs", "a").code_without_tests(), "");
    }
}
