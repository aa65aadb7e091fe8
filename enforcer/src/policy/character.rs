//! Finds the character that makes a text invalid, where a person cannot see it or takes it for another.
//!
//! Input: the text of a document and the place of an error. Output: the character, its own place, and what to do.

use super::error::Problem;
use super::position::Position;

/// Lines before a syntax error in which its cause may stand: the reader goes on as long as it can.
const BEFORE: u32 = 3;

/// The character to blame for a problem, if there is one.
pub(super) fn blamed(document: &str, at: Position, problem: &Problem) -> Option<(Problem, Position)> {
    match problem {
        // Outside of texts only what looks like a space, or like nothing, is certain to be a slip.
        Problem::Syntax { .. } => {
            let first = at.line.saturating_sub(BEFORE).max(1);
            let whole = |line| Position { line, column: 1, length: u32::MAX };
            (first..=at.line).rev().find_map(|line| in_line(document, whole(line), true)).or_else(|| template(document))
        }
        Problem::UnknownField { .. }
        | Problem::UnknownKind { .. }
        | Problem::UnknownVersion { .. }
        | Problem::UnknownWord { .. }
        | Problem::InvalidName { .. }
        | Problem::InvalidNamespace { .. }
        | Problem::LabelKey { .. }
        | Problem::LabelValue { .. }
        | Problem::Cidr { .. }
        | Problem::Port { .. }
        | Problem::PortName { .. } => in_line(document, at, false),
        _ => None,
    }
}

/// The first line that a template engine has still to fill in.
fn template(document: &str) -> Option<(Problem, Position)> {
    document.split('\n').zip(1..).find_map(|(text, line)| {
        let before = &text[..text.find("{{")?];
        let column = u32::try_from(before.chars().count() + 1).ok()?;
        Some((Problem::Template, Position { line, column, length: 2 }))
    })
}

/// The first character of a part of a line that no name has; `unseen`: only one that cannot be seen.
fn in_line(document: &str, part: Position, unseen: bool) -> Option<(Problem, Position)> {
    let line = document.split('\n').nth(usize::try_from(part.line).ok()?.checked_sub(1)?)?;
    let (first, length) = (usize::try_from(part.column.max(1)).ok()?, usize::try_from(part.length.max(1)).ok()?);
    let mut before = ' ';
    for (index, character) in line.chars().enumerate() {
        let column = index + 1;
        if unseen && character == '#' && before.is_whitespace() {
            break;
        }
        before = character;
        if column < first || column - first >= length || character.is_ascii() {
            continue;
        }
        let (shown, help) = match name_of(character) {
            Some(named) => named,
            None if unseen => continue,
            None => (format!("`{character}`"), "write ASCII characters: this one may only look like one of them"),
        };
        let position = Position { column: u32::try_from(column).ok()?, length: 1, ..part };
        return Some((Problem::Character { code: character.into(), shown, help }, position));
    }
    None
}

/// The name of a character that is invisible or looks like a space, and what to do about it.
fn name_of(character: char) -> Option<(String, &'static str)> {
    const REMOVE: &str = "remove it: it cannot be seen";
    const SPACE: &str = "write a plain space: this character only looks like one";
    let (name, help) = match character {
        '\u{a0}' => ("no-break space", SPACE),
        '\u{ad}' => ("soft hyphen", REMOVE),
        '\u{200b}' => ("zero-width space", REMOVE),
        '\u{200c}' | '\u{200d}' => ("zero-width joiner", REMOVE),
        '\u{200e}' | '\u{200f}' | '\u{61c}' => ("direction mark", REMOVE),
        '\u{2028}' | '\u{2029}' => ("line separator", "end the line in the usual way"),
        '\u{2060}'..='\u{2064}' | '\u{180e}' => ("invisible character", REMOVE),
        '\u{feff}' => ("byte order mark", REMOVE),
        space if space.is_whitespace() => ("space of another width", SPACE),
        _ => return None,
    };
    Some((name.to_owned(), help))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn found(document: &str, at: (u32, u32, u32), problem: &Problem) -> Option<(u32, u32, u32)> {
        let (line, column, length) = at;
        let (problem, at) = blamed(document, Position { line, column, length }, problem)?;
        let code = match problem {
            Problem::Character { code, .. } => code,
            Problem::Template => 0,
            other => panic!("{other}"),
        };
        Some((code, at.line, at.column))
    }

    #[test]
    fn the_character_is_found_in_the_text_that_is_refused() {
        let value = Problem::LabelValue { value: String::new(), is_name: false };
        assert_eq!(found("a: we\u{200b}b", (1, 4, 4), &value), Some((0x200b, 1, 6)));
        assert_eq!(found("a: w\u{435}b # \u{200b}", (1, 4, 3), &value), Some((0x435, 1, 5)));
        assert_eq!(found("\u{e9}: -b", (1, 4, 2), &value), None, "it stands before the text");
        assert_eq!(found("a: b", (7, 4, 2), &value), None);
    }

    #[test]
    fn a_syntax_error_is_blamed_on_what_cannot_be_seen_just_above() {
        let syntax = Problem::Syntax { message: String::new() };
        assert_eq!(found("a:\n  b:\u{a0}c\n  d: e", (3, 4, 1), &syntax), Some((0xa0, 2, 5)));
        assert_eq!(found("b:\u{a0}c\n1\n2\n3\n4\n5", (6, 1, 1), &syntax), None, "too far");
        assert_eq!(found("a: b # \u{a0}\n#\u{a0}\nd: e", (3, 4, 1), &syntax), None, "in comments");
        assert_eq!(found("a: \u{e9}\nd: e", (2, 4, 1), &syntax), None, "a letter is no slip");
        assert_eq!(found("a:\n  {{- if .b }}\nd: e", (3, 4, 1), &syntax), Some((0, 2, 3)), "a template");
    }
}
