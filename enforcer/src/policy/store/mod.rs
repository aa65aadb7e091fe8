//! The last good policies of every source.
//!
//! Input: what the sources say, one source at a time. Output: the policies that count, with the texts they came from,
//! and the errors of what does not count. A refused unit leaves its own last good version in force and touches no other
//! unit. If no version of an object has been good, what would isolate in its place counts. Pure: it neither reads nor waits.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::sync::Arc;

use super::load::{Loaded, SourceFile};
use super::model::{Policy, PolicySet};
use super::source::{Kept, Refusal, Said, Unit, Versioned};
use super::{PolicyWarning, Skipped};

/// Source and unit.
type Key = (&'static str, Unit);

/// Last good versions of units.
type Versions = BTreeMap<Key, Arc<Version>>;

/// Versions of an object that have their own stand-in. A further one takes the place of the last.
const STAND_INS: usize = 16;
/// Errors that `Store::error` shows.
const SHOWN: usize = 20;

/// One version of a unit.
#[derive(Debug)]
struct Version {
    set: Arc<PolicySet>,
    sources: Arc<[SourceFile]>,
    skipped: Skipped,
    /// It is not good: it isolates in the place of one that is refused.
    stands_in: bool,
}

impl Version {
    /// The stand-in with one more of a later version of its object, or nothing if it isolates as much already. What an
    /// earlier version has isolated stays isolated: no refused version opens anything.
    fn with(&self, newer: &Loaded) -> Option<Loaded> {
        let is_covered = |policy: &Arc<Policy>| self.set.policies.iter().any(|before| isolates_same(before, policy));
        if newer.set.policies.iter().all(is_covered) {
            return None;
        }
        let most = self.set.policies.len().min(STAND_INS - 1);
        let mut all = Loaded {
            set: Arc::new(PolicySet { policies: self.set.policies[..most].to_vec() }),
            warnings: Vec::new(),
            skipped: self.skipped.clone(),
            sources: self.sources[..most].into(),
            stands_in: true,
        };
        all.join(newer);
        Some(all)
    }
}

/// Whether two policies isolate the same workloads in the same directions.
fn isolates_same(one: &Policy, other: &Policy) -> bool {
    let parts = |policy: &Policy| (policy.isolates_ingress, policy.isolates_egress);
    parts(one) == parts(other) && one.subject == other.subject && one.namespace == other.namespace
}

/// All policies that count, and what they were made of.
#[derive(Clone, Debug)]
pub struct Reading {
    /// The policies, in the order of the sources and their units.
    pub set: Arc<PolicySet>,
    /// The texts, by source. A source without policies has an entry too: it has said that there are none.
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

/// What counts in the place of a refused object.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Instead {
    /// Its last good version.
    LastGood,
    /// No version has been good: a policy that isolates what the object selects, and allows nothing.
    Isolation,
    /// No version has been good, and its selector cannot be read.
    Nothing,
}

impl fmt::Display for Instead {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::LastGood => "the last good version of this object stays in force",
            Self::Isolation => {
                "no version of this object has been good, so what it selects is isolated and gets nothing"
            }
            Self::Nothing => "the selector of this object cannot be read, so the object changes nothing",
        })
    }
}

/// Something that does not count.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Refused {
    /// Why.
    pub error: String,
    /// What counts in its place, if it is an object.
    pub object: Option<Instead>,
    /// Which version of which object it is, if it is one.
    pub version: Option<Box<Versioned>>,
}

impl Refused {
    /// Whether people have heard it by this one. Another version may be wrong in the same way.
    fn says_the_same(&self, other: &Self) -> bool {
        (&self.error, self.object) == (&other.error, other.object)
    }
}

impl fmt::Display for Refused {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.error)?;
        self.object.iter().try_for_each(|instead| write!(f, "\n  = note: {instead}"))
    }
}

/// What a person should hear about what a source has said.
#[derive(Debug, Default)]
pub struct News {
    /// Other policies count than before, or the same ones stand in other lines.
    pub changed: bool,
    /// Errors that were not there before.
    pub errors: Vec<Refused>,
    /// Warnings about what counts from now on.
    pub warnings: Vec<PolicyWarning>,
}

/// What counts of what the sources say.
#[derive(Debug)]
pub struct Store {
    names: BTreeSet<&'static str>,
    /// Sources of which no good policies are known: without them no set is whole.
    awaited: BTreeSet<&'static str>,
    current: Versions,
    /// What counted before, until the current versions are in force.
    previous: Option<Versions>,
    /// Versions that passed the parser and could not be brought in force: they are not tried again.
    refused: Versions,
    errors: BTreeMap<Key, Refused>,
    reading: Option<Reading>,
}

impl Store {
    /// A store that waits for the first word of each source.
    pub fn new(sources: impl IntoIterator<Item = &'static str>) -> Self {
        let names: BTreeSet<&'static str> = sources.into_iter().collect();
        Self {
            awaited: names.clone(),
            names,
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
            let is_refused = result.is_err();
            let loaded = match result {
                Ok(loaded) => loaded,
                Err(refusal) => {
                    let (refused, stand_in) = self.refuse(&key, &refusal);
                    if !self.errors.get(&key).is_some_and(|before| before.says_the_same(&refused)) {
                        news.errors.push(refused.clone());
                    }
                    self.errors.insert(key.clone(), refused);
                    let Some(stand_in) = stand_in else { continue };
                    stand_in
                }
            };
            let same = |version: &Arc<Version>| *version.sources == *loaded.sources;
            if self.refused.get(&key).is_some_and(same) {
                continue;
            }
            if !is_refused {
                self.errors.remove(&key);
            }
            if !self.current.get(&key).is_some_and(same) {
                let Loaded { set, warnings, sources, skipped, stands_in } = loaded;
                news.warnings.extend(warnings);
                newer.insert(key, Arc::new(Version { set, sources, skipped, stands_in }));
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

    /// Notes that a source has nothing to say. What an earlier daemon has kept of it still counts. True: other policies
    /// count than before.
    pub fn as_before(&mut self, source: &'static str) -> bool {
        let first = self.awaited.remove(source);
        if first {
            self.join();
        }
        first && self.awaited.is_empty()
    }

    /// Why a unit does not count, and what counts from now on in its place if that is something new.
    fn refuse(&self, key: &Key, refusal: &Refusal) -> (Refused, Option<Loaded>) {
        let Refusal { errors, object: version, stand_in } = refusal;
        let (instead, stand_in) = match (self.current.get(key), stand_in) {
            (Some(version), _) if !version.stands_in => (Instead::LastGood, None),
            (Some(version), stand_in) => {
                (Instead::Isolation, stand_in.as_ref().and_then(|stand_in| version.with(stand_in)))
            }
            (None, Some(stand_in)) => (Instead::Isolation, Some(stand_in.clone())),
            (None, None) => (Instead::Nothing, None),
        };
        let object = matches!(key.1, Unit::Object(_)).then_some(instead);
        (Refused { error: errors.to_string(), object, version: version.clone() }, stand_in)
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
                self.errors.insert(key.clone(), Refused { error: error.to_owned(), object: None, version: None });
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
        let mut errors: Vec<String> = self.errors.values().map(ToString::to_string).collect();
        // What cannot be brought in force together has one error for all of it.
        errors.dedup();
        let more = errors.len().saturating_sub(SHOWN);
        errors.truncate(SHOWN);
        if more > 0 {
            errors.push(format!("and {more} more"));
        }
        (!errors.is_empty()).then(|| errors.join("\n\n"))
    }

    /// The objects that the parser refuses, with what counts in the place of each.
    pub fn refused_objects(&self) -> impl Iterator<Item = (&Versioned, Instead, &str)> {
        let refused = self.errors.values();
        refused.filter_map(|refused| Some((refused.version.as_deref()?, refused.object?, refused.error.as_str())))
    }

    /// Whether something of a source does not count.
    pub fn has_error(&self, source: &str) -> bool {
        self.errors.keys().any(|(name, _)| *name == source)
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
        let mut sources: BTreeMap<_, Vec<_>> = self.names.iter().map(|name| (*name, Vec::new())).collect();
        let mut skipped = Skipped::default();
        for ((source, _), version) in &self.current {
            skipped.add(&version.skipped);
            sources.entry(*source).or_default().push(Arc::clone(&version.sources));
        }
        self.reading = Some(Reading { set, sources, skipped });
    }
}

#[cfg(test)]
mod tests;
