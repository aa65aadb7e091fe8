//! Property: whatever is done to a text, one piece after the other says what the whole parse says.

use std::cell::Cell;

use proptest::prelude::*;
use proptest::test_runner::{Config, TestRunner};

use super::{FEW, HEADS, ITEMS, Pieces, TAILS, VALID_ITEMS, item, read};

fn item_kind() -> impl Strategy<Value = usize> {
    prop_oneof![30 => 0..VALID_ITEMS, 1 => VALID_ITEMS..ITEMS.len()]
}

fn inventory() -> impl Strategy<Value = (usize, String)> {
    let head = prop_oneof![6 => 0..10_usize, 1 => 10..HEADS.len()];
    let tail = prop_oneof![8 => 0..3_usize, 1 => 3..TAILS.len()];
    let key =
        prop::sample::select(vec!["workloads:\n", "workloads:\n", "workloads:  \n\n# first\n", "workloads: # all\n"]);
    let indent = prop::sample::select(vec![0_usize, 2, 4]);
    let items = prop::collection::vec(item_kind(), 1..10);
    (head, key, indent, items, tail).prop_map(|(head, key, indent, items, tail)| {
        let items: String = (1..).zip(items).map(|(number, kind)| item(kind, number, indent)).collect();
        (indent, format!("{}{key}{items}{}", HEADS[head], TAILS[tail]))
    })
}

const TOKENS: [&str; 46] = [
    "\"",
    "'",
    "\"",
    "'",
    "- ",
    "\n",
    " ",
    "  ",
    "#",
    " #",
    ":",
    ": ",
    ",",
    "[",
    "]",
    "{",
    "}",
    "&a ",
    "*a",
    "|",
    ">",
    "!",
    "%",
    "? ",
    "---\n",
    "...\n",
    "workloads:\n",
    "\nworkloads:\n",
    "namespaces:\n",
    "\t",
    "\r",
    "\r\n",
    "\u{2028}",
    "\u{85}",
    "\u{feff}",
    "\0",
    "\u{a0}",
    "x",
    "1",
    "\n\n",
    "# c\n",
    "- name: q\n",
    "\\",
    "<<: ",
    "\u{7f}",
    "- - ",
];

#[derive(Clone, Debug)]
enum Edit {
    Insert(usize, usize),
    Delete(usize, usize),
    Swap(usize),
    Replace(usize, char),
    DeleteLine(usize),
    DoubleLine(usize),
    MoveLine(usize, usize),
    Indent(usize, usize),
    Dedent(usize),
    NewItem(usize, usize, usize),
    /// The last text that was valid.
    Undo,
}

fn edit() -> impl Strategy<Value = Edit> {
    let at = 0..4_000_usize;
    prop_oneof![
        4 => (at.clone(), 0..TOKENS.len()).prop_map(|(at, token)| Edit::Insert(at, token)),
        2 => (at.clone(), 1..6_usize).prop_map(|(at, count)| Edit::Delete(at, count)),
        1 => at.clone().prop_map(Edit::Swap),
        5 => (at.clone(), "[a-z0-9]").prop_map(|(at, by)| Edit::Replace(at, by.chars().next().unwrap())),
        2 => at.clone().prop_map(Edit::DeleteLine),
        1 => at.clone().prop_map(Edit::DoubleLine),
        2 => (at.clone(), at.clone()).prop_map(|(from, to)| Edit::MoveLine(from, to)),
        2 => (at.clone(), 1..4_usize).prop_map(|(line, by)| Edit::Indent(line, by)),
        2 => at.clone().prop_map(Edit::Dedent),
        4 => (at, item_kind(), 1..40_usize).prop_map(|(line, kind, number)| Edit::NewItem(line, kind, number)),
        8 => Just(Edit::Undo),
    ]
}

fn apply(edit: &Edit, text: &str, good: &str, indent: usize) -> String {
    let mut chars: Vec<char> = text.chars().collect();
    let mut lines: Vec<String> = text.split_inclusive('\n').map(str::to_owned).collect();
    let (end, rows) = (chars.len() + 1, lines.len().max(1));
    match *edit {
        Edit::Undo => return good.to_owned(),
        Edit::Insert(at, token) => drop(chars.splice(at % end..at % end, TOKENS[token].chars())),
        Edit::Delete(at, count) => drop(chars.drain(at % end..(at % end + count).min(end - 1))),
        Edit::Swap(at) if end > 2 => chars.swap(at % (end - 2), at % (end - 2) + 1),
        Edit::Replace(at, by) if end > 1 => chars[at % (end - 1)] = by,
        Edit::Swap(_) | Edit::Replace(..) => {}
        _ if lines.is_empty() => {}
        Edit::DeleteLine(line) => drop(lines.remove(line % rows)),
        Edit::DoubleLine(line) => lines.insert(line % rows, lines[line % rows].clone()),
        Edit::MoveLine(from, to) => {
            let line = lines.remove(from % rows);
            lines.insert(to % rows, line);
        }
        Edit::Indent(line, by) => lines[line % rows].insert_str(0, &" ".repeat(by)),
        Edit::Dedent(line) => lines[line % rows] = lines[line % rows].trim_start_matches(' ').to_owned(),
        Edit::NewItem(line, kind, number) => {
            // Mostly before another item, where one would write it.
            let starts = |line: &usize| lines[*line].trim_start().starts_with("- ");
            let places: Vec<usize> = (0..rows).filter(starts).collect();
            let place = places.get(line % (places.len() + 1)).copied().unwrap_or(line % rows);
            lines.insert(place, item(kind, number, indent));
        }
    }
    match edit {
        Edit::Insert(..) | Edit::Delete(..) | Edit::Swap(_) | Edit::Replace(..) => chars.into_iter().collect(),
        _ => lines.concat(),
    }
}

#[test]
fn pieces_say_what_the_whole_text_says_after_each_edit() {
    let (by_pieces, known, whole, refused) = (Cell::new(0), Cell::new(0), Cell::new(0), Cell::new(0));
    let add = |to: &Cell<u32>| to.set(to.get() + 1);
    let property = |((indent, first), edits): ((usize, String), Vec<(bool, Edit)>)| {
        // The second one parses many new pieces as a whole, and learns from that.
        let mut both = [Pieces::new(FEW), Pieces::new(0)];
        let (mut text, mut good) = (first.clone(), first);
        let mut edits = edits.iter();
        loop {
            // What it learns counts when it reads again.
            for which in [0, 1, 1] {
                match read(&mut both[which], &text) {
                    Some(reading) => {
                        good.clone_from(&text);
                        match reading.parsed {
                            Some(parsed) if parsed < reading.inventory.entries.len() => add(&known),
                            Some(_) => add(&by_pieces),
                            None => add(&whole),
                        }
                    }
                    None => add(&refused),
                }
            }
            let Some((is_good, edit)) = edits.next() else { return Ok(()) };
            text = apply(edit, if *is_good { &good } else { &text }, &good, indent);
        }
    };
    let edits = prop::collection::vec((prop::bool::weighted(0.8), edit()), 1..24);
    let cases = Config { cases: Config::default().cases.max(400), failure_persistence: None, ..Config::default() };
    TestRunner::new(cases).run(&(inventory(), edits), property).unwrap();
    let counts = [&by_pieces, &known, &whole, &refused].map(Cell::get);
    assert!(counts.into_iter().zip([80, 800, 500, 1_000]).all(|(count, least)| count > least), "{counts:?}");
}
