//! Where the entries of an inventory file begin and end, told from its lines alone.
//!
//! Input: YAML text. Output: its head and one piece for each entry; or nothing, if a piece could mean something else by itself
//! than in its place. Only the parser knows whether a piece is an entry at all.

#![forbid(unsafe_code)]

/// The key that the entries stand below.
pub(super) const KEY: &str = "workloads:";

/// A text whose entries can be parsed one by one.
pub(super) struct Split<'a> {
    /// All lines before the key of the entries.
    pub(super) head: &'a str,
    /// The head has more than comments.
    pub(super) head_speaks: bool,
    /// All lines after the key. Comments belong to the item before them, and those before the first item to that.
    pub(super) pieces: Vec<Piece<'a>>,
}

/// An item with the lines that belong to it.
pub(super) struct Piece<'a> {
    pub(super) text: &'a str,
    /// Number of its first line in the file.
    pub(super) line: u64,
}

/// What may let an item depend on others or reach over its end: anchors, aliases, tags, directives, block scalars, merge keys
/// and complex keys.
const REACHING_CHARACTERS: &[u8] = b"&*!%|><?";

/// A text that is parsed as a whole.
struct Unclear;

/// How a line looks. Within a quoted string it is none of these, so the parser must find each piece complete by itself.
enum Line<'a> {
    Blank,
    Comment,
    Content { indent: usize, content: &'a str },
}

/// Splits a text if that is safe.
pub(super) fn split(text: &str) -> Option<Split<'_>> {
    let mut lines = Lines::new(text);
    let (end, head_speaks) = pass_head(&mut lines).ok()?;
    let pieces = pieces(&mut lines).ok()?;
    Some(Split { head: &text[..end], head_speaks, pieces })
}

/// Passes the key of the entries; returns where its line begins, and whether something is said before it.
fn pass_head(lines: &mut Lines<'_>) -> Result<(usize, bool), Unclear> {
    let (mut begun, mut speaks) = (false, false);
    while let Some((at, line)) = lines.next()? {
        match line {
            Line::Blank | Line::Comment => {}
            Line::Content { indent: 0, content: KEY } => return Ok((at, speaks)),
            Line::Content { indent: 0, content: "---" } if !begun => begun = true,
            Line::Content { indent: 0, content } if content.starts_with("namespaces:") => {
                (begun, speaks) = (true, true);
            }
            Line::Content { indent: 1.., .. } if speaks => {}
            Line::Content { .. } => return Err(Unclear),
        }
    }
    Err(Unclear)
}

fn pieces<'a>(lines: &mut Lines<'a>) -> Result<Vec<Piece<'a>>, Unclear> {
    let (mut begin, mut line_of_begin) = (lines.at, lines.number + 1);
    let mut item_indent = None;
    let mut pieces = Vec::new();
    while let Some((at, line)) = lines.next()? {
        let Line::Content { indent, content } = line else { continue };
        match item_indent {
            None if content.starts_with("- ") => item_indent = Some(indent),
            Some(of_items) if indent == of_items && content.starts_with("- ") => {
                pieces.push(Piece { text: &lines.text[begin..at], line: line_of_begin });
                (begin, line_of_begin) = (at, lines.number);
            }
            Some(of_items) if indent > of_items => {}
            _ => return Err(Unclear),
        }
    }
    // Without an item this is no entry, which its parse finds.
    pieces.push(Piece { text: &lines.text[begin..], line: line_of_begin });
    Ok(pieces)
}

/// Goes through the lines of a text.
struct Lines<'a> {
    text: &'a str,
    /// Where the next line begins.
    at: usize,
    /// Number of the last line.
    number: u64,
}

impl<'a> Lines<'a> {
    fn new(text: &'a str) -> Self {
        Self { text, at: 0, number: 0 }
    }

    /// The next line and where it begins.
    fn next(&mut self) -> Result<Option<(usize, Line<'a>)>, Unclear> {
        let begin = self.at;
        let rest = &self.text[begin..];
        if rest.is_empty() {
            return Ok(None);
        }
        let (text, length) = rest.find('\n').map_or((rest, rest.len()), |end| (&rest[..end], end + 1));
        self.at += length;
        self.number += 1;
        let content = text.trim_matches(' ');
        let is_comment = content.starts_with('#');
        let kinds = text.bytes().fold(0, |kinds, byte| kinds | KINDS[usize::from(byte)]);
        // A line of a quoted string may look like a comment, and what follows the quotation mark is none.
        let is_clear = kinds & REACHING == 0 || (is_comment && kinds & QUOTE == 0);
        if !is_clear || kinds & NO_TEXT != 0 || (kinds & NO_ASCII != 0 && !text.chars().all(is_text)) {
            return Err(Unclear);
        }
        if is_comment {
            return Ok(Some((begin, Line::Comment)));
        }
        if content.is_empty() {
            return Ok(Some((begin, Line::Blank)));
        }
        let indent = text.len() - text.trim_start_matches(' ').len();
        Ok(Some((begin, Line::Content { indent, content })))
    }
}

/// Breaks, the tabulator, and what YAML forbids.
const NO_TEXT: u8 = 1;
const REACHING: u8 = 2;
const NO_ASCII: u8 = 4;
const QUOTE: u8 = 8;

/// What kind of character each byte is, or belongs to.
const KINDS: [u8; 256] = {
    let mut kinds = [NO_ASCII; 256];
    let mut byte = 0;
    while byte < 0x80 {
        kinds[byte] = if byte < 0x20 || byte == 0x7f { NO_TEXT } else { 0 };
        byte += 1;
    }
    (kinds[b'"' as usize], kinds[b'\'' as usize]) = (QUOTE, QUOTE);
    let mut at = 0;
    while at < REACHING_CHARACTERS.len() {
        kinds[REACHING_CHARACTERS[at] as usize] = REACHING;
        at += 1;
    }
    kinds
};

/// Whether a character is no break, no byte order mark, and none that YAML forbids.
fn is_text(character: char) -> bool {
    let is_other = matches!(character, '\u{2028}' | '\u{2029}' | '\u{feff}' | '\u{fffe}' | '\u{ffff}');
    !is_other && !character.is_control()
}
