//! Where an object says that it was taken from.
//!
//! Input: its annotations, which anybody may have written. Output: one short line of plain characters for people. It is
//! never read as a path or an address.

use std::collections::BTreeMap;
use std::sync::Arc;

/// What kustomize notes of a resource with `buildMetadata: [originAnnotations]`.
const KUSTOMIZE: &str = "config.kubernetes.io/origin";
/// What other tools and people may write.
pub(super) const SOURCE: &str = "enforcer.dev/source";
/// Characters of the line.
const MOST: usize = 160;
/// Marks what was cut; it is kept where it stands already.
const CUT: char = '\u{2026}';
/// Characters of an annotation that are looked at.
const READ: usize = 1_000;

/// The line, if there is something to say.
pub(super) fn declared(annotations: &BTreeMap<String, String>) -> Option<Arc<str>> {
    let text = |name: &str| annotations.get(name).map(|text| text.chars().take(READ).collect::<String>());
    let line = match (text(SOURCE), text(KUSTOMIZE)) {
        (Some(text), _) if !text.trim().is_empty() => text,
        (_, Some(text)) => kustomize(&text).unwrap_or(text),
        (_, None) => return None,
    };
    let line = plain(line.trim());
    (!line.is_empty()).then(|| line.into())
}

/// `FILE in REPOSITORY at REVISION` of the fields that kustomize writes, one a line.
fn kustomize(text: &str) -> Option<String> {
    let field = |name: &str| {
        let value = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'))?.trim();
        (!value.is_empty()).then_some(value)
    };
    let mut line = field("path").or_else(|| field("configuredIn"))?.to_owned();
    for (between, name) in [(" in ", "repo"), (" at ", "ref")] {
        if let Some(value) = field(name) {
            line = line + between + value;
        }
    }
    Some(line)
}

/// At most so many characters, of which each is a letter, a digit or visible ASCII. What was made plain stays as it is.
fn plain(text: &str) -> String {
    let mut plain = String::new();
    let mut room = MOST - 1;
    for character in text.chars() {
        let shown = match character {
            // The line stands between such marks.
            '"' => "'".to_owned(),
            ' '..='~' | CUT => character.to_string(),
            character if character.is_alphanumeric() => character.to_string(),
            character => character.escape_unicode().to_string(),
        };
        let Some(left) = room.checked_sub(shown.chars().count()) else {
            plain.push(CUT);
            return plain;
        };
        room = left;
        plain.push_str(&shown);
    }
    plain
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(annotations: &[(&str, &str)]) -> Option<String> {
        let annotations = annotations.iter().map(|(name, text)| ((*name).to_owned(), (*text).to_owned())).collect();
        declared(&annotations).map(|line| line.to_string())
    }

    #[test]
    fn kustomize_and_our_own_annotation_name_file_and_repository() {
        let origin = "path: apps/shop/db.yaml\nrepo: https://git.example/shop\nref: v1.2\n";
        assert_eq!(of(&[(KUSTOMIZE, origin)]).unwrap(), "apps/shop/db.yaml in https://git.example/shop at v1.2");
        assert_eq!(of(&[(KUSTOMIZE, "path: db.yaml\n")]).unwrap(), "db.yaml");
        let generated = "configuredIn: kustomization.yaml\nconfiguredBy:\n  apiVersion: builtin\n";
        assert_eq!(of(&[(KUSTOMIZE, generated)]).unwrap(), "kustomization.yaml");
        assert_eq!(of(&[(KUSTOMIZE, "something else")]).unwrap(), "something else");
        assert_eq!(of(&[(KUSTOMIZE, origin), (SOURCE, "shop.git: db.yaml")]).unwrap(), "shop.git: db.yaml");
        assert_eq!(of(&[(KUSTOMIZE, origin), (SOURCE, "  \n")]).unwrap().get(..4), Some("apps"));
        assert_eq!(of(&[("team", "shop")]), None);
        assert_eq!(of(&[(SOURCE, ""), (KUSTOMIZE, " \n ")]), None);
    }

    #[test]
    fn an_annotation_of_ten_thousand_characters_with_escape_sequences_is_one_short_plain_line() {
        let hostile = "\u{1b}[2J\u{1b}]0;owned\u{7}\n\u{202e}\u{200b}\u{9b}\" \\ ../../etc/shadow \u{e0041}";
        for text in [hostile.repeat(300), "path: ".to_owned() + &hostile.repeat(300), "\u{10ffff}".repeat(10_000)] {
            assert!(text.chars().count() >= 10_000);
            for name in [KUSTOMIZE, SOURCE] {
                let line = of(&[(name, &text)]).unwrap();
                assert!(line.chars().count() <= MOST, "{line}");
                assert!(line.chars().all(|c| matches!(c, ' '..='~' | CUT) && c != '"'), "{line:?}");
                assert_eq!(of(&[(SOURCE, &line)]).as_ref(), Some(&line), "it is kept as it is shown");
            }
        }
    }
}
