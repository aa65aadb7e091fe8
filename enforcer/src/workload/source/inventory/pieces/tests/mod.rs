//! The cases by name in which a text looks as if it had pieces and has none, and what every text is compared with: whatever the
//! text, one piece after the other says what the whole parse says.

mod edits;

use std::path::Path;
use std::sync::Arc;

use super::super::document::parse_counted;
use super::super::{Inventory, statement};
use super::split::split;
use super::{FEW, InventoryReading, Pieces};

fn path() -> &'static Path {
    Path::new("node.inventory.yaml")
}

/// Reads a text, and fails unless the result is that of the whole parse.
fn read(pieces: &mut Pieces, text: &str) -> Option<InventoryReading> {
    match (pieces.parse(path(), text), Inventory::parse(path(), text)) {
        (Ok(reading), Ok(expected)) => {
            assert_eq!(reading.inventory, expected, "{text}");
            let said = reading.statements.iter().map(|statement| (**statement).clone());
            assert!(said.eq(expected.entries.iter().map(|entry| statement(entry))), "{text}");
            assert!(pieces.known.len() <= expected.entries.len(), "nothing else is remembered:\n{text}");
            Some(reading)
        }
        (Err(error), Err(expected)) => {
            assert_eq!(error.to_string(), expected.to_string(), "{text}");
            None
        }
        (Ok(_), Err(error)) => panic!("accepted, although {error}\n{text}"),
        (Err(error), Ok(_)) => panic!("refused: {error}\n{text}"),
    }
}

/// How many pieces were parsed for a text that is valid.
fn parsed(pieces: &mut Pieces, text: &str) -> Option<usize> {
    read(pieces, text).unwrap_or_else(|| panic!("{}", Inventory::parse(path(), text).unwrap_err())).parsed
}

const HEADS: [&str; 15] = [
    "",
    "",
    "# nobody & nothing: | * > %\n\n",
    "---\n",
    "# first\n---\n# second\n",
    "namespaces:\n  shop: {labels: {team: web}}\n",
    "---\nnamespaces:\n  shop:\n    labels: {team: \"web: - x\"}\n# end\n",
    "namespaces: {shop: {labels: {team: web}}}\n",
    "namespaces:\n  shop: {labels: {team: \"web\n    # two lines\"}}\n\n",
    "namespaces:\n",
    "namespaces:\n  shop: {labels: {team: web}}\nnamespaces: {}\n",
    "{namespaces: {}}\n",
    "namespaces: {shop: {labels: {team: \"\n",
    "%YAML 1.2\n---\n",
    "namespaces:\n  shop: &a {labels: {team: web}}\n",
];

const TAILS: [&str; 7] =
    ["", "", "# the end\n\n", "namespaces: {bank: {}}\n", "...\n", "---\n", "workloads: []\n# \"}}}\n"];

/// Items with `@` for a number and `~` for their indentation. The later ones are seldom valid by themselves.
const ITEMS: [&str; 29] = [
    "~- name: w@\n~  match: {netns: n@}\n",
    "~- name: w@\n~  namespace: shop\n~  match:\n~    interface: v@\n",
    "~- {name: w@, match: {address: 10.0.0.@}}\n",
    "~- name: w@\n~  labels: {app: web, note: \"a - name: x\"}\n~  match: {address: [10.0.1.@, 'fd00::@']}\n\n",
    "~- name: w@\n~  labels:\n~    note: one\n~      two\n~      three\n~  match: {netns: n@}\n",
    "~- name: w@\n~  labels:\n~  - {app: web}\n~  - app: log\n~  match: {netns: n@}\n",
    "~- match: {netns: /run/n@}\n~  floating: [10.9.9.9, 10.9.8.@]\n~  addresses: [10.0.2.@]\n~  name: w@\n",
    "~- name: w@   \n# a comment & more: *\n\n~      # another\n~  routes: true\n~  match: {netns: n@}\n# last\n",
    "~- # of w@\n~  name: w@\n~  match: {netns: n@}\n",
    "~- ports: {http: 80/tcp, dns: [53/udp, 53/tcp]}\n~  name: 'w@'\n~  match: {interface: \"v@\"}\n",
    "~- name: w@\n~  labels: {note: \"a\n~   - name: inner\n\n~    b\"}\n~  match: {netns: n@}\n",
    "~- name: w@\n~  labels: {note: 'it''s\n~    # no comment\n~    # here'}\n~  match: {netns: n@}\n",
    "~- {\n~   name: w@, # why\n~   match: {netns: n@}\n~  }\n",
    "~-  name: w@\n~   match: {netns: n@}\n",
    "~- name: w@ # \u{e9}\n~  labels: {note: \u{e9}\u{a0}\u{2014}}\n~  match: {netns: n@}\n",
    "~- name: w@\n~  labels: {note: \"a\n~- name: inner\n~  b\"}\n~  match: {netns: n@}\n",
    "~- name: w@\n~  labels: &l {app: a}\n~  match: {netns: n@}\n",
    "~- name: w@\n~  labels: *l\n~  match: {netns: n@}\n",
    "~- name: w@\n~  labels:\n~    note: |\n~      - name: x\n\n~      y\n~  match: {netns: n@}\n",
    "~- name: w@\n~  labels:\n~    note: >-\n~     x\n~  match: {netns: n@}\n",
    "~- name: w1\n~  match: {netns: n@}\n",
    "~- name: w@\n~  match: {netns: n1}\n",
    "~- name: w@\n~  match: {interface: /run/n1}\n~  addresses: [10.9.9.9]\n",
    "~- nmae: w@\n",
    "~- name: w@\n~  labels: {note: \"x\n# \", app: &l a}\n~  match: {netns: n@}\n",
    "~- name: w@\n~  labels: {note: \"x\n# \", app: *l}\n~  match: {netns: n@}\n",
    "~- ? name\n~  : w@\n~  match: {netns: n@}\n",
    "~- name: w@\n~  labels: {<<: {app: a}}\n~  match: {netns: n@}\n",
    "~- name: w@\n~  labels: {note: \"\n",
];
const VALID_ITEMS: usize = 15;

fn item(kind: usize, number: usize, indent: usize) -> String {
    ITEMS[kind].replace('@', &number.to_string()).replace('~', &" ".repeat(indent))
}

#[test]
fn what_has_pieces_is_read_by_them() {
    for head in &HEADS[..9] {
        for indent in [0, 2, 4] {
            let items: String = (0..VALID_ITEMS).map(|kind| item(kind, kind + 1, indent)).collect();
            for last in ["", "# the end\n"] {
                let text = format!("{head}workloads:\n{items}{last}");
                assert_eq!(parsed(&mut Pieces::new(FEW), &text), Some(VALID_ITEMS), "{text}");
            }
        }
    }
}

/// An inventory of so many entries.
fn many(entries: usize) -> String {
    (1..=entries).fold("workloads:\n".to_owned(), |text, number| text + &item(number % 2, number, 0))
}

#[test]
fn what_only_looks_like_pieces_is_read_as_a_whole() {
    let a = "- name: a\n  match: {netns: a}\n";
    let b = "- name: b\n  match: {netns: b}\n";
    let cases = [
        ("a string over the key", format!("namespaces: {{shop: {{labels: {{team: \"\nworkloads:\n# \"}}}}}}\n{a}")),
        (
            "a string from the head to the end",
            format!("namespaces: {{shop: {{labels: {{team: \"\nworkloads:\n{a}# \"}}}}}}\n"),
        ),
        ("a head in braces", format!("{{namespaces: {{}}}}\nworkloads:\n{a}")),
        ("braces over the key", format!("namespaces: {{\nworkloads:\n{a}}}\n")),
        ("a string over two items", format!("workloads:\n- name: \"a\n- name: b\"\n  match: {{netns: a}}\n{b}")),
        (
            "a label over two items",
            format!("workloads:\n- name: c\n  labels: {{note: \"x\n- name: y\"}}\n  match: {{netns: c}}\n{b}"),
        ),
        (
            "a string that only the second item ends",
            format!("workloads:\n- name: 'a\n{a}- name: b'\n  match: {{netns: b}}\n"),
        ),
        ("braces over two items", format!("workloads:\n- {{name: a,\n- name: b}}\n{b}")),
        ("two keys", format!("workloads:\n{a}workloads:\n{b}")),
        (
            "less indentation later",
            "workloads:\n  - name: a\n    match: {netns: a}\n- name: b\n  match: {netns: b}\n".to_owned(),
        ),
        (
            "more indentation later",
            "workloads:\n- name: a\n  match: {netns: a}\n  - name: b\n    match: {netns: b}\n".to_owned(),
        ),
        (
            "an alias",
            format!("workloads:\n- name: c\n  labels: &l {{app: a}}\n  match: {{netns: c}}\n{a}  labels: *l\n"),
        ),
        (
            "a block",
            format!("workloads:\n- name: c\n  labels:\n    note: |\n     - name: x\n  match: {{netns: c}}\n{a}"),
        ),
        ("a block that ends with the item", format!("workloads:\n{a}  labels:\n    note: |+\n     x\n\n\n{b}")),
        ("an end", format!("workloads:\n{a}...\n{b}")),
        ("an end at last", format!("workloads:\n{a}{b}...\n")),
        ("a second document", format!("workloads:\n{a}---\nworkloads:\n{b}")),
        ("a string over a document", format!("workloads:\n- name: 'a\n---\n  '\n{b}")),
        ("something behind", format!("workloads:\n{a}namespaces: {{}}\n")),
        ("an item without a line", format!("workloads:\n{a}-\n  name: b\n  match: {{netns: b}}\n")),
        ("a key", format!("workloads:\n{a}? x\n")),
        ("carriage returns", format!("workloads:\n{a}{b}").replace('\n', "\r\n")),
        ("an end of the stream", format!("workloads:\n{a}\0{b}")),
        ("a return in a comment", format!("# c\rnamespaces: {{shop: {{labels: {{team: web}}}}}}\nworkloads:\n{a}{b}")),
        ("what YAML forbids, in a comment", format!("# \u{1}\nworkloads:\n{a}{b}")),
        ("a mark in a comment", format!("# \u{feff}\nworkloads:\n{a}{b}")),
        ("no character, in a comment", format!("# \u{ffff}\nworkloads:\n{a}{b}")),
        ("a line separator in a comment", format!("# \u{2028}namespaces: {{shop: {{}}}}\nworkloads:\n{a}{b}")),
        ("an empty document before", format!("---\n---\nworkloads:\n{a}{b}")),
        ("a text before the key", format!("  x\nworkloads:\n{a}{b}")),
        ("no item", "workloads:\n".to_owned()),
    ];
    for (name, text) in cases {
        // One that knows both items, and one that knows nothing.
        for mut pieces in [Pieces::new(FEW), Pieces::new(0)] {
            for _ in 0..2 {
                _ = read(&mut pieces, &text).map(|reading| assert_eq!(reading.parsed, None, "{name}"));
            }
            _ = read(&mut pieces, &text.replace(b, ""));
            assert!(read(&mut pieces, &format!("workloads:\n{a}{b}")).is_some());
            _ = read(&mut pieces, &text).map(|reading| assert_eq!(reading.parsed, None, "{name}"));
        }
    }
}

#[test]
fn an_alias_behind_what_looks_like_a_comment_follows_its_anchor() {
    let text = |value: &str| {
        let item = |name: &str, label: &str| {
            format!("- name: {name}\n  labels: {{note: \"x\n  # \", app: {label}}}\n  match: {{netns: {name}}}\n")
        };
        format!("workloads:\n{}{}", item("a", &format!("&l {value}")), item("b", "*l"))
    };
    for few in [0, FEW] {
        let mut pieces = Pieces::new(few);
        for value in ["one", "two"] {
            assert_eq!(parsed(&mut pieces, &text(value)), None);
        }
    }
}

#[test]
fn an_entry_of_two_pieces_is_learned_as_neither() {
    // The second piece is an entry by itself, and here the end of a label of the first.
    let text = |netns: &str| {
        format!(
            "workloads:\n- name: a\n  match: {{netns: a}}\n- name: c\n  labels: {{note: \"x\n- name: y # \"}}\n  match: {{netns: {netns}}}\n"
        )
    };
    let mut pieces = Pieces::new(FEW);
    for netns in ["c", "d", "e"] {
        assert_eq!(parsed(&mut pieces, &text(netns)), None);
    }
}

#[test]
fn what_disagrees_with_its_pieces_is_not_learned() {
    let text = "namespaces: {shop: {}}\nworkloads:\n- name: a\n  match: {netns: a}\n- name: b\n  match: {netns: b}\n";
    // As if the parser had made something else of the text than the split.
    let learned = |change: fn(&mut InventoryReading)| {
        let (inventory, load) = parse_counted(path(), text);
        let mut reading = InventoryReading { inventory: inventory.unwrap(), statements: Vec::new(), parsed: None };
        reading.statements = reading.inventory.entries.iter().map(|entry| Arc::new(statement(entry))).collect();
        change(&mut reading);
        let mut pieces = Pieces::new(FEW);
        pieces.learn(&split(text).unwrap(), &reading, load);
        pieces.known.len()
    };
    assert_eq!(learned(|_| {}), 2);
    assert_eq!(learned(|reading| drop(reading.inventory.entries.pop())), 0, "an entry too few");
    assert_eq!(learned(|reading| reading.inventory.entries.swap(0, 1)), 0, "entries of other lines");
    assert_eq!(learned(|reading| reading.inventory.namespaces.clear()), 0, "other namespaces");
}

#[test]
fn a_comment_at_the_margin_stays_within_its_item() {
    let mut pieces = Pieces::new(FEW);
    let text = "workloads:\n- name: a\n# - name: x\n  match: {netns: a}\n- name: b\n  match: {netns: b}\n";
    assert_eq!(parsed(&mut pieces, text), Some(2));
    assert_eq!(parsed(&mut pieces, &text.replace("# -", "#\n#")), Some(1));
}

#[test]
fn what_two_entries_must_not_share_is_compared_with_every_known_one() {
    let own = "- name: c\n  match: {netns: c}\n";
    let taken = [
        "- name: w2\n  match: {netns: c}\n",
        "- name: c\n  match: {netns: n2}\n",
        "- name: c\n  match: {interface: /var/run/netns/n2}\n",
        "- name: c\n  match: {interface: v3}\n",
        "- name: c\n  match: {address: 10.0.0.7}\n",
        "- name: c\n  match: {netns: c}\n  addresses: [10.0.0.7]\n",
        "- name: c\n  match: {netns: c}\n  addresses: [10.0.0.8]\n",
        "- name: c\n  match: {netns: c}\n  floating: [10.0.0.7]\n",
    ];
    let first = many(20) + "- name: d\n  match: {address: 10.0.0.7}\n  floating: [10.0.0.8]\n";
    for place in [0, 1] {
        let with = |item: &str| match place {
            0 => first.replacen("workloads:\n", &format!("workloads:\n{item}"), 1),
            _ => format!("{first}{item}"),
        };
        let mut pieces = Pieces::new(FEW);
        assert_eq!(parsed(&mut pieces, &with(own)), Some(22));
        for taken in taken {
            assert!(read(&mut pieces, &with(taken)).is_none(), "{taken}");
            assert_eq!(parsed(&mut pieces, &with(own)), Some(0), "an error leaves what is known");
        }
        let floating = own.to_owned() + "  floating: [10.0.0.8]\n";
        assert_eq!(parsed(&mut pieces, &with(&floating)), Some(1), "several may float");
    }
}

#[test]
fn only_what_is_new_is_parsed() {
    // The first time a text is parsed as a whole, if it is long.
    for (few, at_first) in [(FEW, None), (1_000, Some(400))] {
        let mut pieces = Pieces::new(few);
        let text = many(400);
        assert_eq!(parsed(&mut pieces, &text), at_first);
        let before = read(&mut pieces, &text).unwrap();
        assert_eq!(before.parsed, Some(0));
        let one = text.replace("netns: n200}", "netns: other}");
        let after = read(&mut pieces, &one).unwrap();
        assert_eq!(after.parsed, Some(1));
        let pairs = before.statements.iter().zip(&after.statements);
        let shared = pairs.filter(|(before, after)| Arc::ptr_eq(before, after)).count();
        assert_eq!(shared, 399, "the other statements are the same");
        let moved = one.replacen("workloads:\n", "workloads:\n- name: top\n  match: {netns: top}\n", 1);
        assert_eq!(parsed(&mut pieces, &moved), Some(1), "all lines move");
        assert_eq!(parsed(&mut pieces, &format!("# first\n{moved}")), Some(0));
        let headed = format!("namespaces: {{shop: {{labels: {{team: web}}}}}}\n{moved}");
        assert_eq!(parsed(&mut pieces, &headed), Some(0), "the head is not a piece");
        assert_eq!(parsed(&mut pieces, &headed.replace("team: web", "team: other")), Some(0));
        assert_eq!(parsed(&mut pieces, &many(200)), Some(1), "number 200 is as it was");
        assert_eq!(pieces.known.len(), 200, "what is gone is forgotten");
        assert_eq!(parsed(&mut pieces, &text), if few == FEW { None } else { Some(200) });
    }
}

#[test]
fn a_text_that_is_too_much_for_the_parser_is_refused_piece_by_piece_too() {
    // An entry has nine nodes and two for each label, the document has three, and the parser takes 250,000.
    let entry = |name: &str, labels: usize| {
        let labels: String = (0..labels).fold(String::new(), |all, number| all + &format!("l{number}: x, "));
        format!("- name: {name}\n  labels: {{{labels}}}\n  match: {{netns: {name}}}\n")
    };
    let large: String =
        (0..24).fold("workloads:\n".to_owned(), |all, number| all + &entry(&format!("w{number}"), 5_000));
    let text = |labels: usize| format!("{large}{}", entry("last", labels));
    assert!(Inventory::parse(path(), &text(4_886)).is_ok() && Inventory::parse(path(), &text(4_887)).is_err());
    for (few, at_first) in [(0, None), (FEW, Some(25))] {
        let mut pieces = Pieces::new(few);
        assert!(pieces.parse(path(), &text(4_887)).is_err());
        assert_eq!(pieces.parse(path(), &text(4_886)).unwrap().parsed, at_first);
        assert!(pieces.parse(path(), &text(4_887)).is_err(), "known, but for one piece");
        assert_eq!(pieces.parse(path(), &text(4_886)).unwrap().parsed, Some(0));
    }
}

#[test]
fn rows_of_comments_are_taken_wherever_they_stand() {
    let text = "#\n---\n#\nnamespaces:\n#\n  shop: #\n#\n    {}\nworkloads:\n#\n- name: a #\n  labels: #\n#\n    {app: a}\n  match: #\n\
                #\n    {netns: a} #\n- name: b\n  match:\n#\n   netns: b\n#\n- #\n#\n  match: {netns: c}\n  name: c\n- name: d\n  \
                match: {netns: d,\n#\n    }\n#\n";
    let places: Vec<usize> = text.match_indices("\n#\n").map(|(at, _)| at + 1).chain([0]).collect();
    let mut pieces = Pieces::new(FEW);
    assert_eq!(parsed(&mut pieces, text), Some(4));
    for place in places {
        for comments in [20, 40, 200] {
            let mut text = text.to_owned();
            text.insert_str(place, &"# c\n".repeat(comments));
            assert!(parsed(&mut pieces, &text).is_some(), "{text}");
        }
    }
}
