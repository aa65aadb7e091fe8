//! The sources of policies, in one list.
//!
//! Input: [`Config`]. Output: which source may have changed, and what each of them says. A new source adds a folder and
//! its row in `SOURCES`; what counts of what it says is decided by `store`, for all sources alike.

mod api;
pub mod directory;
mod shape;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Instant;

use futures_util::future::select_all;

use self::shape::Opened;
pub use self::shape::{Config, Refusal, Said, Source, Stale, Unit, Version, Versioned, Word};
use super::load::{PolicyErrors, SourceFile};
use super::model::PolicySet;
use crate::watch::WatchError;

/// Files of each source by its name: enough to make the same policies again.
pub type Kept = BTreeMap<String, Vec<Arc<[SourceFile]>>>;

/// What is to be known of one source.
struct Row {
    name: &'static str,
    /// Opens the source and its watch.
    open: fn(&Config) -> Opened,
    /// What the source would say of files that an earlier run kept of it.
    restore: fn(Vec<SourceFile>) -> Said,
    /// The objects of which the files of the source are the texts; `None`: they are files of people.
    versions: Option<fn(&SourceFile) -> Option<Versioned>>,
}

/// All sources, in the order of their policies.
const SOURCES: &[Row] = &[
    Row { name: "directory", open: directory::open, restore: directory::restore, versions: None },
    Row { name: "networkpolicies", open: api::network_policies, restore: api::restore, versions: Some(api::versioned) },
    Row { name: "flowpolicies", open: api::flow_policies, restore: api::restore, versions: Some(api::versioned) },
];

/// Why the policies of an earlier run cannot be made again.
#[derive(Debug, thiserror::Error)]
pub enum InvalidKept {
    /// Another build kept policies of a source that this build does not have.
    #[error("this build has no source of policies named {name}")]
    UnknownSource {
        /// Name of the source.
        name: String,
    },
    /// This build refuses policies that another build accepted.
    #[error(transparent)]
    Refused(#[from] Arc<PolicyErrors>),
}

/// The open sources.
#[derive(Debug)]
pub struct Sources(Vec<(&'static str, Box<dyn Source>)>);

impl Sources {
    /// Opens every source that the configuration names.
    pub fn open(config: &Config) -> Result<Self, WatchError> {
        let mut open = Vec::new();
        for row in SOURCES {
            open.extend((row.open)(config)?.map(|source| (row.name, source)));
        }
        Ok(Self(open))
    }

    /// Their names.
    pub fn names(&self) -> impl Iterator<Item = &'static str> {
        self.0.iter().map(|(name, _)| *name)
    }

    /// Where they get their policies, for people.
    pub fn places(&self) -> String {
        let places: Vec<String> = self.0.iter().map(|(_, source)| source.place()).collect();
        places.join(", ")
    }

    /// Waits until a source may say something else, and gives its name. Dropping the future loses nothing.
    pub async fn changed(&mut self) -> &'static str {
        let (names, changes): (Vec<_>, Vec<_>) =
            self.0.iter_mut().map(|(name, source)| (*name, source.changed())).unzip();
        let ((), first, _) = select_all(changes).await;
        names[first]
    }

    /// When a source last changed; `None`: it is never seen in the middle of a change.
    pub fn last_change(&self, name: &str) -> Option<Instant> {
        self.0.iter().find(|(known, _)| *known == name)?.1.last_change()
    }

    /// What a source says now; nothing new if no source of this name is open.
    pub fn read(&mut self, name: &str) -> Word {
        let source = self.0.iter_mut().find(|(known, _)| *known == name);
        source.map_or(Word::AsBefore, |(_, source)| source.read())
    }

    /// The sources of which the last word may be out of date.
    pub fn stale(&self) -> Vec<Stale> {
        self.0.iter().filter_map(|(_, source)| source.stale()).collect()
    }
}

/// What a source would say of the files that an earlier run kept of it; `None`: there is no source of this name.
pub fn restore(name: &str, kept: &[Arc<[SourceFile]>]) -> Option<Said> {
    let row = SOURCES.iter().find(|row| row.name == name)?;
    Some((row.restore)(kept.iter().flat_map(|files| files.iter().cloned()).collect()))
}

/// The objects of an API that count, each once, in the order of the sources and of their names.
pub fn versions(kept: &Kept) -> Vec<Versioned> {
    let of = |row: &Row| Some((row.versions?, kept.get(row.name)?));
    let files = SOURCES
        .iter()
        .filter_map(of)
        .flat_map(|(read, units)| units.iter().flat_map(|files| files.iter()).filter_map(read));
    let mut versions: Vec<Versioned> = files.collect();
    // Several may stand in for one object; the newest is the last.
    versions.reverse();
    versions
        .dedup_by(|next, kept| (&next.kind, &next.namespace, &next.name) == (&kept.kind, &kept.namespace, &kept.name));
    versions.reverse();
    versions
}

/// The policies of an earlier run.
pub fn from_kept(kept: &Kept) -> Result<Arc<PolicySet>, InvalidKept> {
    let mut set = PolicySet::default();
    for (name, files) in kept {
        let said = restore(name, files).ok_or_else(|| InvalidKept::UnknownSource { name: name.clone() })?;
        for loaded in said.into_values() {
            set.policies.extend(loaded.map_err(|refusal| refusal.errors)?.set.policies.iter().cloned());
        }
    }
    Ok(Arc::new(set))
}
