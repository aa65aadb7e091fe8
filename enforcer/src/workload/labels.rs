//! Labels, and the sets of them that one workload has (D14).

#![forbid(unsafe_code)]

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use serde::{Deserialize, Serialize};

/// Labels of a container or a namespace.
pub type Labels = BTreeMap<String, String>;

/// The labels of a workload: one set for each of the containers that share its network namespace. Equal sets are kept once,
/// and there is always at least one, which may be empty.
///
/// The sets are no union. A selector is asked of one set at a time, so nobody can lose a label, or seem to have two values of
/// one, because another container came into the namespace.
///
/// Clones share the sets: what a source says, the snapshots and the flow log all have the labels of every workload.
#[derive(Clone, Debug, Deserialize, Eq, Hash, Ord, PartialEq, PartialOrd, Serialize)]
#[serde(from = "Written", into = "Written")]
pub struct LabelSets(Arc<[Labels]>);

impl LabelSets {
    /// Of these sets; without one, of the empty set.
    pub fn of(sets: impl IntoIterator<Item = Labels>) -> Self {
        let sets: BTreeSet<Labels> = sets.into_iter().collect();
        if sets.is_empty() { Self::default() } else { Self(sets.into_iter().collect()) }
    }

    /// The sets, sorted.
    pub fn iter(&self) -> impl ExactSizeIterator<Item = &Labels> {
        self.0.iter()
    }

    /// Whether a selector matches one of the sets.
    pub fn any(&self, matches: impl FnMut(&Labels) -> bool) -> bool {
        self.0.iter().any(matches)
    }

    /// The set, if there is one only.
    pub fn single(&self) -> Option<&Labels> {
        match &*self.0 {
            [one] => Some(one),
            _ => None,
        }
    }

    /// Where the sets are in memory: clones are in the same place.
    pub(super) fn place(&self) -> *const Labels {
        self.0.as_ptr()
    }

    /// How many clones share these sets.
    pub(super) fn holders(&self) -> usize {
        Arc::strong_count(&self.0)
    }

    /// Every key with every value that it has in some set.
    pub fn pairs(&self) -> BTreeSet<(&str, &str)> {
        self.iter().flatten().map(|(key, value)| (key.as_str(), value.as_str())).collect()
    }
}

impl Default for LabelSets {
    fn default() -> Self {
        Labels::new().into()
    }
}

impl From<Labels> for LabelSets {
    fn from(labels: Labels) -> Self {
        Self(Arc::new([labels]))
    }
}

/// As it is kept: the labels of a workload with one set are a plain map, which earlier versions wrote too.
#[derive(Deserialize, Serialize)]
#[serde(untagged)]
enum Written {
    One(Labels),
    Several(Vec<Labels>),
}

impl From<Written> for LabelSets {
    fn from(written: Written) -> Self {
        match written {
            Written::One(labels) => labels.into(),
            Written::Several(sets) => Self::of(sets),
        }
    }
}

impl From<LabelSets> for Written {
    fn from(LabelSets(sets): LabelSets) -> Self {
        match &*sets {
            [one] => Self::One(one.clone()),
            all => Self::Several(all.to_vec()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn labels(value: &str) -> Labels {
        Labels::from([("app".to_owned(), value.to_owned())])
    }

    #[test]
    fn equal_sets_are_one_and_none_is_the_empty_one() {
        assert_eq!(LabelSets::of([labels("b"), labels("a"), labels("b")]), LabelSets::of([labels("a"), labels("b")]));
        assert_eq!(LabelSets::of([]), LabelSets::default());
        assert_eq!(LabelSets::default().single(), Some(&Labels::new()));
    }

    #[test]
    fn one_set_is_written_as_earlier_versions_did() {
        let (one, two) = (LabelSets::from(labels("a")), LabelSets::of([labels("a"), labels("b")]));
        assert_eq!(serde_json::to_string(&one).unwrap(), r#"{"app":"a"}"#);
        assert_eq!(serde_json::to_string(&two).unwrap(), r#"[{"app":"a"},{"app":"b"}]"#);
        for sets in [one, two] {
            assert_eq!(serde_json::from_str::<LabelSets>(&serde_json::to_string(&sets).unwrap()).unwrap(), sets);
        }
    }
}
