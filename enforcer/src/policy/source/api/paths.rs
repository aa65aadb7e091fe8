//! Which field of an object stands on a line of its text.
//!
//! Input: the object and lines of the text that serde_json writes of it, one field or item a line. Output: the path of the
//! field, as `kubectl explain` and people write it.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::Value;

/// Characters of a field's name that a path shows.
const NAME: usize = 80;

/// The paths of the fields on these lines, counted from 1. The first line is that of the object itself, with an empty path.
pub(super) fn fields(value: &Value, lines: &BTreeSet<u32>) -> BTreeMap<u32, String> {
    let mut walk = Walk { line: 1, path: Vec::new(), wanted: lines, found: BTreeMap::new() };
    walk.note();
    walk.inside(value);
    walk.found
}

enum Step<'a> {
    Field(&'a str),
    Item(usize),
}

struct Walk<'a> {
    line: u32,
    path: Vec<Step<'a>>,
    wanted: &'a BTreeSet<u32>,
    found: BTreeMap<u32, String>,
}

impl<'a> Walk<'a> {
    /// Goes over the lines behind the first one of `value`.
    fn inside(&mut self, value: &'a Value) {
        match value {
            Value::Object(fields) if !fields.is_empty() => {
                for (name, value) in fields {
                    self.step(Step::Field(name), value);
                }
            }
            Value::Array(items) if !items.is_empty() => {
                for (index, value) in items.iter().enumerate() {
                    self.step(Step::Item(index), value);
                }
            }
            // On one line.
            Value::Object(_) | Value::Array(_) | Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => {
                return;
            }
        }
        // The bracket at its end.
        self.line += 1;
        self.note();
    }

    fn step(&mut self, step: Step<'a>, value: &'a Value) {
        self.line += 1;
        self.path.push(step);
        self.note();
        self.inside(value);
        self.path.pop();
    }

    fn note(&mut self) {
        if self.wanted.contains(&self.line) {
            self.found.insert(self.line, shown(&self.path));
        }
    }
}

fn shown(path: &[Step<'_>]) -> String {
    let mut shown = String::new();
    for step in path {
        match step {
            Step::Item(index) => shown.push_str(&format!("[{index}]")),
            Step::Field(name) if is_plain(name) => {
                if !shown.is_empty() {
                    shown.push('.');
                }
                shown.push_str(name);
            }
            Step::Field(name) => {
                let name: String = name.chars().take(NAME).collect();
                shown.push_str(&format!("[\"{}\"]", name.escape_default()));
            }
        }
    }
    shown
}

fn is_plain(name: &str) -> bool {
    !name.is_empty() && name.len() <= NAME && name.bytes().all(|byte| byte.is_ascii_alphanumeric())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_line_has_the_path_of_its_field() {
        let value = serde_json::json!({
            "a": {"b": [1, {"c": []}, [{}], "x\ny"], "d/e": null, "\u{1b}": {"f": true}},
            "g": {},
            "h": [[]],
        });
        let text = format!("{value:#}");
        let all: BTreeSet<u32> = (1..=u32::try_from(text.lines().count()).unwrap()).collect();
        let paths = fields(&value, &all);
        assert_eq!(paths.len(), all.len(), "{text}");
        for (line, path) in text.lines().zip(paths.values()) {
            // What a line begins with says which field it is.
            if let Some((name, _)) = line.trim().strip_prefix('"').and_then(|rest| rest.split_once("\":")) {
                let last = path.rsplit(['.', '[']).next().unwrap().trim_matches(['"', ']']);
                assert_eq!(last, name.replace("\\u001b", "\\u{1b}"), "{path}: {line}");
            }
        }
        let all: Vec<&str> = paths.values().map(String::as_str).collect();
        assert_eq!(
            all,
            [
                "",
                "a",
                "a[\"\\u{1b}\"]",
                "a[\"\\u{1b}\"].f",
                "a[\"\\u{1b}\"]",
                "a.b",
                "a.b[0]",
                "a.b[1]",
                "a.b[1].c",
                "a.b[1]",
                "a.b[2]",
                "a.b[2][0]",
                "a.b[2]",
                "a.b[3]",
                "a.b",
                "a[\"d/e\"]",
                "a",
                "g",
                "h",
                "h[0]",
                "h",
                ""
            ],
            "{text}"
        );
        assert_eq!(fields(&value, &BTreeSet::from([4, 99])).len(), 1);
    }
}
