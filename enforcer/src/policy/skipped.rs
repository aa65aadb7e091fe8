//! The documents of policy files that are no policies, counted by kind.
//!
//! Input: the kind of each such document. Output: one line on all of them.

use std::collections::BTreeMap;
use std::fmt;

/// Kinds that the line names; all documents are in its first number.
const NAMED: usize = 8;

/// How many documents of each kind were skipped.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Skipped(BTreeMap<String, usize>);

impl Skipped {
    /// Notes one document.
    pub(super) fn note(&mut self, kind: String) {
        *self.0.entry(kind).or_default() += 1;
    }

    /// Adds those of another file.
    pub(super) fn add(&mut self, other: &Self) {
        for (kind, count) in &other.0 {
            *self.0.entry(kind.clone()).or_default() += count;
        }
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

impl fmt::Display for Skipped {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let total: usize = self.0.values().sum();
        let mut named: Vec<String> = self.0.iter().take(NAMED).map(|(kind, count)| format!("{count} {kind}")).collect();
        if self.0.len() > NAMED {
            named.push("and others".to_owned());
        }
        let what = if total == 1 { "document of another kind" } else { "documents of other kinds" };
        write!(f, "{total} {what} ({})", named.join(", "))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_line_counts_all_and_names_some() {
        let mut skipped = Skipped::default();
        assert!(skipped.is_empty());
        skipped.note("Deployment".to_owned());
        assert_eq!(skipped.to_string(), "1 document of another kind (1 Deployment)");
        let mut more = Skipped::default();
        for kind in ["Service", "Deployment", "A", "B", "C", "D", "E", "F", "G"] {
            more.note(kind.to_owned());
        }
        skipped.add(&more);
        let expected = "10 documents of other kinds (1 A, 1 B, 1 C, 1 D, 2 Deployment, 1 E, 1 F, 1 G, and others)";
        assert_eq!(skipped.to_string(), expected);
    }
}
