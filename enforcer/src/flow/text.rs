//! Makes names that others chose safe to print, and bounds their length.
//!
//! Input: any string. Output: one line without characters that steer a terminal or hide the text beside them.

use std::borrow::Cow;
use std::fmt::Write as _;

/// Marks what was cut.
pub const CUT: char = '\u{2026}';

/// Whether a terminal or a reader could be misled by the character: controls (`C0`, DEL, `C1`), line and paragraph
/// separators, bidirectional marks, overrides and isolates (CVE-2021-42574), and what takes no room at all.
pub fn misleads(character: char) -> bool {
    character.is_control()
        || matches!(
            character,
            '\u{ad}'
                | '\u{61c}'
                | '\u{180e}'
                | '\u{200b}'..='\u{200f}'
                | '\u{2028}'..='\u{202e}'
                | '\u{2060}'..='\u{206f}'
                | '\u{feff}'
                | '\u{fff9}'..='\u{fffb}'
                | '\u{e0000}'..='\u{e007f}'
        )
}

/// With every misleading character written as `\u{..}`.
pub fn printable(text: &str) -> Cow<'_, str> {
    if !text.chars().any(misleads) {
        return Cow::Borrowed(text);
    }
    let mut safe = String::with_capacity(text.len() + 16);
    for character in text.chars() {
        if misleads(character) {
            safe.extend(character.escape_unicode());
        } else {
            safe.push(character);
        }
    }
    Cow::Owned(safe)
}

/// Lines of which each is [`printable`].
pub fn printable_lines(text: &str) -> String {
    joined(text, "\n", |line| printable(line))
}

/// A text of several lines in a place where each line begins something else: all but the first are indented, so that none
/// can pass for one of its own.
pub fn continued(text: &str) -> String {
    joined(text.trim_end_matches('\n'), "\n  ", |line| printable(line))
}

/// JSON of several lines, each of them [`json_escaped`]. Between its tokens there may be line breaks, in its strings never.
pub fn json_lines(json: &str) -> String {
    joined(json, "\n", |line| json_escaped(line))
}

fn joined<'a>(text: &'a str, between: &str, safe: impl Fn(&'a str) -> Cow<'a, str>) -> String {
    text.split('\n').map(safe).collect::<Vec<_>>().join(between)
}

/// With every misleading character written as JSON writes it. Inside a JSON string this does not change the value, and
/// outside of strings valid JSON on one line has none but tabs and carriage returns.
pub fn json_escaped(json: &str) -> Cow<'_, str> {
    if !json.chars().any(misleads) {
        return Cow::Borrowed(json);
    }
    let mut safe = String::with_capacity(json.len() + 16);
    let mut units = [0; 2];
    for character in json.chars() {
        if matches!(character, '\t' | '\r') {
            safe.push(' ');
        } else if misleads(character) {
            for unit in character.encode_utf16(&mut units) {
                // Writing to a string cannot fail.
                let _ = write!(safe, "\\u{unit:04x}");
            }
        } else {
            safe.push(character);
        }
    }
    Cow::Owned(safe)
}

/// At most `most` bytes of the start, with a mark where something was cut.
pub fn cut(text: &str, most: usize) -> Cow<'_, str> {
    if text.len() <= most {
        return Cow::Borrowed(text);
    }
    let mut short = text[..text.floor_char_boundary(most)].to_owned();
    short.push(CUT);
    Cow::Owned(short)
}

/// At most `most` bytes of the end, with a mark where something was cut: of a path, the end tells more.
pub fn cut_front(text: &str, most: usize) -> Cow<'_, str> {
    if text.len() <= most {
        return Cow::Borrowed(text);
    }
    let start = text.ceil_char_boundary(text.len() - most);
    Cow::Owned(format!("{CUT}{}", &text[start..]))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn what_steers_a_terminal_is_written_out() {
        assert_eq!(printable("a\u{1b}[31m\u{202e}b\n\u{9b}"), "a\\u{1b}[31m\\u{202e}b\\u{a}\\u{9b}");
        assert!(matches!(printable("web-1 \u{e4}\u{4f60}"), Cow::Borrowed(_)));
    }

    #[test]
    fn line_breaks_stay_where_lines_are_meant() {
        assert_eq!(printable_lines("a\u{1b}\nb\n"), "a\\u{1b}\nb\n");
        assert_eq!(continued("a\nTROUBLE: b\u{7}\n\n"), "a\n  TROUBLE: b\\u{7}");
        let value = serde_json::json!({"a\u{202e}": ["b\u{1b}[0m\n"]});
        let safe = json_lines(&format!("{value:#}"));
        assert!(safe.lines().count() > 3 && safe.lines().all(|line| !line.chars().any(misleads)), "{safe:?}");
        assert_eq!(serde_json::from_str::<serde_json::Value>(&safe).unwrap(), value);
    }

    #[test]
    fn a_cut_is_marked_and_falls_between_characters() {
        assert_eq!(cut("abc", 3), "abc");
        assert_eq!(cut("\u{e4}\u{e4}\u{e4}", 3), "\u{e4}\u{2026}");
        assert_eq!(cut_front("\u{e4}\u{e4}\u{e4}", 3), "\u{2026}\u{e4}");
        assert_eq!(cut_front("/a/b.yaml", 6), "\u{2026}b.yaml");
    }

    #[test]
    fn white_space_between_json_tokens_stays_white_space() {
        let safe = json_escaped("{\t\"a\":\r1}\r");
        assert_eq!(serde_json::from_str::<serde_json::Value>(&safe).unwrap()["a"], 1);
    }

    proptest! {
        #[test]
        fn escaping_json_keeps_its_value(text in any::<String>()) {
            let raw = serde_json::to_string(&text).unwrap();
            let safe = json_escaped(&raw);
            prop_assert!(!safe.chars().any(misleads));
            prop_assert_eq!(serde_json::from_str::<String>(&safe).unwrap(), text);
        }

        #[test]
        fn printable_text_misleads_nobody(text in any::<String>()) {
            prop_assert!(!printable(&text).chars().any(misleads));
        }

        #[test]
        fn a_cut_is_a_part_of_the_text(text in any::<String>(), most in 0_usize..40) {
            let start = cut(&text, most);
            prop_assert!(text.starts_with(start.trim_end_matches(CUT)) || text.len() <= most);
            prop_assert!(start.len() <= most + CUT.len_utf8() || text.len() <= most);
        }
    }
}
