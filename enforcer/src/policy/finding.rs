//! A problem or a caution with its place, and how it is shown.
//!
//! Input: what is wrong, and the file, line, column and text where it is. Output: a message with the source line and a caret.
//! A finding keeps only a part of its line, however long the line is.

use std::error::Error;
use std::fmt;
use std::sync::Arc;

use annotate_snippets::{AnnotationKind, Group, Level, Origin, Renderer, Snippet};

use super::caution::Caution;
use super::error::Problem;
use super::position::Position;

/// Characters of the line that are kept on each side of the place.
const WINDOW: usize = 60;

/// Something found in a policy file. `Display` gives the whole message, of several lines.
#[derive(Clone, Debug)]
pub struct PolicyFinding<What> {
    /// The file, relative to the policy directory.
    pub file: Arc<str>,
    /// Where in it, if it is about a place.
    pub place: Option<Place>,
    /// What was found.
    pub what: What,
}

/// A place in a file, with what stands there.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Place {
    /// Line, counted from 1.
    pub line: u32,
    /// Column, counted from 1, in characters.
    pub column: u32,
    window: Window,
}

#[derive(Clone, Debug, Eq, PartialEq)]
struct Window {
    text: String,
    /// Byte range of `text` to underline.
    start: usize,
    end: usize,
}

impl Place {
    /// The place `position` of a document that begins behind `lines_before` lines of its file.
    pub(super) fn new(document: &str, position: Position, lines_before: u32) -> Option<Self> {
        let Position { line, column, length } = position;
        let text = document.split('\n').nth(usize::try_from(line).ok()?.checked_sub(1)?)?;
        let text = text.strip_suffix('\r').unwrap_or(text);
        let at = usize::try_from(column).ok()?.saturating_sub(1);
        let from = at.saturating_sub(WINDOW);
        let mut window = Window { text: String::new(), start: 0, end: 0 };
        for (index, character) in text.chars().enumerate().skip(from).take(2 * WINDOW) {
            if index < at {
                window.start += character.len_utf8();
            }
            if index < at + usize::try_from(length.max(1)).unwrap_or(1) {
                window.end += character.len_utf8();
            }
            window.text.push(character);
        }
        // The place may lie behind the last character, at the end of the line or of the file.
        window.end = window.end.max(window.start);
        Some(Self { line: line + lines_before, column, window })
    }
}

/// What a [`PolicyFinding`] can be about.
trait What: fmt::Display {
    const LEVEL: Level<'static>;
    fn help(&self) -> Option<String>;
}

impl What for Problem {
    const LEVEL: Level<'static> = Level::ERROR;

    fn help(&self) -> Option<String> {
        Problem::help(self)
    }
}

impl What for Caution {
    const LEVEL: Level<'static> = Level::WARNING;

    fn help(&self) -> Option<String> {
        Caution::help(self)
    }
}

fn render<W: What>(finding: &PolicyFinding<W>, f: &mut fmt::Formatter<'_>) -> fmt::Result {
    let PolicyFinding { file, place, what } = finding;
    let mut origin = Origin::path(&**file);
    if let Some(Place { line, column, .. }) = place {
        origin = origin.line(*line as usize).char_column(*column as usize);
    }
    let mut group: Group<'_> = W::LEVEL.primary_title(what.to_string()).element(origin);
    if let Some(Place { line, window, .. }) = place {
        let mark = AnnotationKind::Primary.span(window.start..window.end);
        group = group.element(Snippet::source(&window.text).line_start(*line as usize).annotation(mark));
    }
    if let Some(help) = what.help() {
        group = group.element(Level::HELP.message(help));
    }
    let message = Renderer::plain().render(&[group]);
    // The snippet is a window of a line, so its own place would be wrong and it gets no path; the renderer marks that by
    // a line of colons. Source lines stand behind their number, so no other line looks like it.
    let mut lines = message.lines().filter(|line| line.trim() != ":::");
    f.write_str(lines.next().unwrap_or_default())?;
    lines.try_for_each(|line| write!(f, "\n{line}"))
}

impl fmt::Display for PolicyFinding<Problem> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        render(self, f)
    }
}

impl fmt::Display for PolicyFinding<Caution> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        render(self, f)
    }
}

impl Error for PolicyFinding<Problem> {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        self.what.source()
    }
}
