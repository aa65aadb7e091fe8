//! The last good policies of every source.
//!
//! Input: what the sources say, one source at a time. Output: the policies that count, with the texts they came from,
//! and the errors of what does not count. A refused unit leaves its own last good version in force and touches no other
//! unit. Pure: it neither reads nor waits.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use super::load::{Loaded, SourceFile};
use super::model::PolicySet;
use super::source::{Kept, Said, Unit};
use super::{PolicyWarning, Skipped};

/// Source and unit.
type Key = (&'static str, Unit);

/// Last good versions of units.
type Versions = BTreeMap<Key, Arc<Version>>;

/// One good version of a unit.
#[derive(Debug)]
struct Version {
    set: Arc<PolicySet>,
    sources: Arc<[SourceFile]>,
    skipped: Skipped,
}

/// All policies that count, and what they were made of.
#[derive(Clone, Debug)]
pub struct Reading {
    /// The policies, in the order of the sources and their units.
    pub set: Arc<PolicySet>,
    /// The texts, by source.
    pub sources: BTreeMap<&'static str, Vec<Arc<[SourceFile]>>>,
    /// The documents of the texts that are no policies.
    pub skipped: Skipped,
}

impl Reading {
    /// The texts as a later daemon reads them.
    pub fn kept(&self) -> Kept {
        self.sources.iter().map(|(name, files)| ((*name).to_owned(), files.clone())).collect()
    }
}

/// What a person should hear about what a source has said.
#[derive(Debug, Default)]
pub struct News {
    /// Other policies count than before, or the same ones stand in other lines.
    pub changed: bool,
    /// Errors that were not there before.
    pub errors: Vec<String>,
    /// Warnings about what counts from now on.
    pub warnings: Vec<PolicyWarning>,
}

/// What counts of what the sources say.
#[derive(Debug)]
pub struct Store {
    /// Sources of which no good policies are known: without them no set is whole.
    awaited: BTreeSet<&'static str>,
    current: Versions,
    /// What counted before, until the current versions are in force.
    previous: Option<Versions>,
    /// Versions that passed the parser and could not be brought in force: they are not tried again.
    refused: Versions,
    errors: BTreeMap<Key, String>,
    reading: Option<Reading>,
}

impl Store {
    /// A store that waits for the first word of each source.
    pub fn new(sources: impl IntoIterator<Item = &'static str>) -> Self {
        Self {
            awaited: sources.into_iter().collect(),
            current: Versions::new(),
            previous: None,
            refused: Versions::new(),
            errors: BTreeMap::new(),
            reading: None,
        }
    }

    /// Takes over all that a source says now.
    pub fn take(&mut self, source: &'static str, said: Said) -> News {
        let mut news = News::default();
        let is_gone = |key: &Key| key.0 == source && !said.contains_key(&key.1);
        self.errors.retain(|key, _| !is_gone(key));
        self.refused.retain(|key, _| !is_gone(key));
        let gone: Vec<Key> = self.current.keys().filter(|key| is_gone(key)).cloned().collect();
        let is_good = !matches!(said.get(&Unit::Whole), Some(Err(_)));
        let mut newer = Versions::new();
        for (unit, result) in said {
            let key = (source, unit);
            match result {
                Ok(loaded) => {
                    let same = |version: &Arc<Version>| *version.sources == *loaded.sources;
                    if self.refused.get(&key).is_some_and(same) {
                        continue;
                    }
                    self.errors.remove(&key);
                    if !self.current.get(&key).is_some_and(same) {
                        let Loaded { set, warnings, sources, skipped } = loaded;
                        news.warnings.extend(warnings);
                        newer.insert(key, Arc::new(Version { set, sources, skipped }));
                    }
                }
                Err(errors) => {
                    let error = errors.to_string();
                    if self.errors.get(&key) != Some(&error) {
                        news.errors.push(error.clone());
                    }
                    self.errors.insert(key, error);
                }
            }
        }
        let was_whole = self.awaited.is_empty();
        let first = is_good && self.awaited.remove(source);
        news.changed = first || !gone.is_empty() || !newer.is_empty();
        if news.changed {
            if was_whole && self.previous.is_none() {
                self.previous = Some(self.current.clone());
            }
            self.current.retain(|key, _| !gone.contains(key));
            self.current.append(&mut newer);
            self.join();
        }
        news
    }

    /// The current versions are in force.
    pub fn settle(&mut self) {
        self.previous = None;
        self.refused.clear();
    }

    /// The current versions cannot be brought in force. True: those before count again.
    pub fn roll_back(&mut self, error: &str) -> bool {
        let Some(previous) = self.previous.take() else { return false };
        for (key, version) in std::mem::replace(&mut self.current, previous) {
            if !self.current.get(&key).is_some_and(|before| Arc::ptr_eq(before, &version)) {
                self.errors.insert(key.clone(), error.to_owned());
                self.refused.insert(key, version);
            }
        }
        self.join();
        true
    }

    /// What counts; `None`: a source has not given any good policies yet.
    pub fn current(&self) -> Option<&Reading> {
        self.reading.as_ref()
    }

    /// Why what the sources say is not in force.
    pub fn error(&self) -> Option<String> {
        let mut errors: Vec<&str> = self.errors.values().map(String::as_str).collect();
        // What cannot be brought in force together has one error for all of it.
        errors.dedup();
        (!errors.is_empty()).then(|| errors.join("\n\n"))
    }

    /// Makes one set of what counts.
    fn join(&mut self) {
        if !self.awaited.is_empty() {
            return;
        }
        let set = match self.current.values().collect::<Vec<_>>().as_slice() {
            // A directory alone has no second copy of its policies.
            [only] => Arc::clone(&only.set),
            all => {
                let policies = all.iter().flat_map(|version| version.set.policies.iter().cloned()).collect();
                Arc::new(PolicySet { policies })
            }
        };
        let mut sources = BTreeMap::<_, Vec<_>>::new();
        let mut skipped = Skipped::default();
        for ((source, _), version) in &self.current {
            skipped.add(&version.skipped);
            sources.entry(*source).or_default().push(Arc::clone(&version.sources));
        }
        self.reading = Some(Reading { set, sources, skipped });
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::policy::load::{PolicyErrors, from_sources};
    use crate::policy::origin::ObjectName;

    const API: &str = "api";

    fn read(path: &str, text: &str) -> Result<Loaded, PolicyErrors> {
        from_sources(vec![SourceFile { path: path.into(), text: text.into() }])
    }

    fn policy(name: &str, label: &str) -> String {
        format!(
            "apiVersion: networking.k8s.io/v1\nkind: NetworkPolicy\nmetadata: {{name: {name}}}\n\
             spec: {{podSelector: {{matchLabels: {{app: \"{label}\"}}}}}}\n"
        )
    }

    fn object(name: &str, text: &str) -> (Unit, Result<Loaded, PolicyErrors>) {
        let unit = ObjectName { kind: "NetworkPolicy", namespace: "default".to_owned(), name: name.to_owned() };
        let result = read(&unit.to_string(), text);
        (Unit::Object(unit), result)
    }

    /// An object of this name that selects by this label, or one that is refused.
    fn objects(all: &[(&str, Option<&str>)]) -> Said {
        let text = |name: &str, label: Option<&str>| label.map_or("kind: Nonsense\n".to_owned(), |l| policy(name, l));
        all.iter().map(|(name, label)| object(name, &text(name, *label))).collect()
    }

    /// Each policy that counts with the label that it selects by.
    fn counting(store: &Store) -> Vec<String> {
        let label = |policy: &crate::policy::model::Policy| match policy.subject.requirements.as_slice() {
            [crate::policy::model::Requirement::In(_, values)] => Vec::from_iter(values.clone()).join(","),
            other => panic!("{other:?}"),
        };
        let set = &store.current().expect("a reading").set;
        set.policies.iter().map(|policy| format!("{} {}", policy.name, label(policy))).collect()
    }

    #[test]
    fn a_refused_object_changes_nothing_but_itself() {
        let mut store = Store::new([API]);
        assert!(store.take(API, objects(&[("a", Some("1")), ("b", Some("1"))])).changed);
        store.settle();
        // In one reading one object is refused, one changes, one appears, and one appears refused.
        let said = objects(&[("a", None), ("b", Some("2")), ("c", Some("1")), ("d", None)]);
        let news = store.take(API, said);
        assert!(news.changed);
        assert_eq!(counting(&store), ["a 1", "b 2", "c 1"], "the last good a stays");
        assert_eq!(news.errors.len(), 2, "{:?}", news.errors);
        let error = store.error().unwrap();
        assert!(error.contains("networkpolicy/default/a") && error.contains("networkpolicy/default/d"), "{error}");
        let news = store.take(API, objects(&[("a", None), ("b", Some("2")), ("c", Some("1")), ("d", None)]));
        assert!(!news.changed && news.errors.is_empty(), "nothing new was said");
        // Mended, and gone.
        assert!(store.take(API, objects(&[("a", Some("3")), ("c", Some("1"))])).changed);
        assert_eq!((counting(&store), store.error()), (vec!["a 3".to_owned(), "c 1".to_owned()], None));
    }

    #[test]
    fn a_refused_file_leaves_the_whole_directory_as_it_was() {
        let mut store = Store::new(["directory"]);
        let whole = |text: &str| Said::from([(Unit::Whole, read("a.yaml", text))]);
        assert!(!store.take("directory", whole("kind: Nonsense\n")).changed);
        assert!(store.current().is_none(), "there is no good version yet");
        store.take("directory", whole(&format!("{}---\n{}", policy("a", "1"), policy("b", "1"))));
        let news = store.take("directory", whole(&format!("{}---\nkind: Nonsense\n", policy("a", "2"))));
        assert!(!news.changed);
        assert_eq!(counting(&store), ["a 1", "b 1"]);
        assert!(store.error().unwrap().contains("a.yaml:6"), "{:?}", store.error());
    }

    #[test]
    fn nothing_counts_before_every_source_has_spoken_and_then_they_add_up() {
        let mut store = Store::new([API, "directory"]);
        assert!(store.take("directory", Said::from([(Unit::Whole, read("a.yaml", &policy("a", "1")))])).changed);
        assert!(store.current().is_none());
        assert!(store.take(API, Said::new()).changed, "an API without objects has spoken");
        assert_eq!(counting(&store), ["a 1"]);
        store.take(API, objects(&[("b", Some("1"))]));
        assert_eq!(counting(&store), ["b 1", "a 1"]);
        let sources = &store.current().unwrap().sources;
        assert_eq!(&*sources[API][0][0].path, "networkpolicy/default/b");
        assert_eq!(&*sources["directory"][0][0].path, "a.yaml");
    }

    #[test]
    fn what_cannot_be_brought_in_force_takes_back_only_what_has_changed() {
        let mut store = Store::new([API]);
        store.take(API, objects(&[("a", Some("1")), ("b", Some("1"))]));
        assert!(!store.roll_back("too large"), "there is nothing to go back to");
        store.settle();
        let newest = || objects(&[("a", Some("1")), ("b", Some("2")), ("c", Some("1"))]);
        store.take(API, newest());
        assert!(store.roll_back("too large"));
        assert_eq!(counting(&store), ["a 1", "b 1"]);
        assert_eq!(store.error().as_deref(), Some("too large"), "b and c are refused together");
        assert!(!store.take(API, newest()).changed, "the same versions are not tried again");
        assert!(store.take(API, objects(&[("a", Some("1")), ("b", Some("3"))])).changed);
        assert_eq!((counting(&store), store.error()), (vec!["a 1".to_owned(), "b 3".to_owned()], None));
    }
}
