//! Reads the walk-through of the README from its text.
//!
//! Input: Markdown. Output: the steps in order. A `console` block holds commands after `$ ` and what they print. A `yaml`
//! block whose first line is `# FILE` is a file that the reader writes. In the output of a command, `...` stands for any
//! text; on a line of its own it stands for any lines. Runs of spaces count as one. `# exit code N` after a command gives its
//! exit code, which is 0 otherwise.

use std::fmt;

/// One step.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Step {
    /// The reader types a command.
    Command {
        /// What is typed.
        line: String,
        /// What is printed.
        prints: Vec<String>,
        /// How it ends.
        code: i32,
    },
    /// The reader writes a file.
    File {
        /// Where.
        path: String,
        /// What.
        text: String,
    },
}

impl fmt::Display for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Command { line, .. } => write!(f, "$ {line}"),
            Self::File { path, .. } => write!(f, "write {path}"),
        }
    }
}

const CODE: &str = "# exit code ";

/// The steps of a text. `section`: the heading under which they stand.
pub fn steps(markdown: &str, section: &str) -> Vec<Step> {
    blocks(markdown, section).iter().flat_map(|(language, lines)| in_block(language, lines)).collect()
}

/// Fenced blocks under a heading of the second level: language and lines.
pub fn blocks<'a>(markdown: &'a str, section: &str) -> Vec<(&'a str, Vec<&'a str>)> {
    let mut blocks: Vec<(&str, Vec<&str>)> = Vec::new();
    let (mut inside, mut open) = (false, false);
    for line in markdown.lines() {
        match (line.strip_prefix("```"), open) {
            (Some(language), false) => {
                open = true;
                if inside {
                    blocks.push((language.trim(), Vec::new()));
                }
            }
            (Some(_), true) => open = false,
            (None, true) => {
                if let (true, Some((_, lines))) = (inside, blocks.last_mut()) {
                    lines.push(line);
                }
            }
            (None, false) => {
                if let Some(heading) = line.strip_prefix("## ") {
                    inside = heading.trim() == section;
                }
            }
        }
    }
    blocks
}

fn in_block(language: &str, lines: &[&str]) -> Vec<Step> {
    match (language, lines.first().and_then(|first| first.strip_prefix("# "))) {
        ("yaml", Some(path)) => vec![Step::File { path: path.to_owned(), text: lines.join("\n") + "\n" }],
        ("console", _) => {
            let mut steps = Vec::new();
            for line in lines {
                if let Some(typed) = line.strip_prefix("$ ") {
                    let (typed, code) = typed.split_once(CODE).unwrap_or((typed, "0"));
                    let code = code.trim().parse().expect("the exit code is a number");
                    steps.push(Step::Command { line: typed.trim_end().to_owned(), prints: Vec::new(), code });
                } else {
                    match steps.last_mut() {
                        Some(Step::Command { prints, .. }) => prints.push((*line).to_owned()),
                        _ => panic!("a console block begins with a command, not with: {line}"),
                    }
                }
            }
            steps
        }
        _ => Vec::new(),
    }
}

/// Whether a command printed what the text shows.
pub fn prints(shown: &[String], printed: &str) -> bool {
    let normal = |line: &str| line.split_whitespace().collect::<Vec<_>>().join(" ");
    let shown: Vec<String> = shown.iter().map(|line| normal(line)).collect();
    let printed: Vec<String> = printed.lines().map(normal).collect();
    lines_match(&shown, &printed)
}

fn lines_match(shown: &[String], printed: &[String]) -> bool {
    match (shown.split_first(), printed.split_first()) {
        (None, None) => true,
        (Some((any, rest)), _) if any == "..." => {
            (0..=printed.len()).any(|skipped| lines_match(rest, &printed[skipped..]))
        }
        (Some((line, shown)), Some((found, printed))) => line_matches(line, found) && lines_match(shown, printed),
        (None, Some(_)) | (Some(_), None) => false,
    }
}

fn line_matches(shown: &str, printed: &str) -> bool {
    let mut parts = shown.split("...");
    let Some(mut left) = parts.next().and_then(|first| printed.strip_prefix(first)) else { return false };
    let mut parts = parts.peekable();
    if parts.peek().is_none() {
        return left.is_empty();
    }
    while let Some(part) = parts.next() {
        if parts.peek().is_none() {
            return left.ends_with(part);
        }
        match left.find(part) {
            Some(at) => left = &left[at + part.len()..],
            None => return false,
        }
    }
    true
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEXT: &str = "# T\n## One\n```console\n$ no\n```\n## Two\ntext\n```yaml\n# a/b.yaml\nx: 1\n```\n\
                        ```console\n$ ls  # exit code 3\nout\n\n$ pwd\n```\n```text\n$ not typed\n```\n## Three\n```console\n$ no\n```\n";

    #[test]
    fn the_steps_of_a_section_are_read_in_order() {
        let command = |line: &str, prints: &[&str], code| Step::Command {
            line: line.to_owned(),
            prints: prints.iter().map(|line| (*line).to_owned()).collect(),
            code,
        };
        let file = Step::File { path: "a/b.yaml".to_owned(), text: "# a/b.yaml\nx: 1\n".to_owned() };
        assert_eq!(steps(TEXT, "Two"), [file, command("ls", &["out", ""], 3), command("pwd", &[], 0)]);
    }

    #[test]
    fn what_is_shown_is_compared_with_what_is_printed() {
        let shown = |text: &str| text.lines().map(str::to_owned).collect::<Vec<_>>();
        for (text, printed, same) in [
            ("", "", true),
            ("a", "", false),
            ("", "a", false),
            ("a  b", "a b\n", true),
            ("a", "ab", false),
            ("a...d", "abcd", true),
            ("a...d", "abcde", false),
            ("...c...", "abcd", true),
            ("a\n...\nd", "a\nb\nc\nd", true),
            ("a\n...\nd", "a\nd", true),
            ("a\n...\nd", "a\nb", false),
            ("...", "", true),
        ] {
            assert_eq!(prints(&shown(text), printed), same, "{text:?} against {printed:?}");
        }
    }
}
