//! The shape that all sources of policies have.
//!
//! Input: whatever a source watches. Output: everything that it says at one moment, in units that count as a whole or
//! not at all.

use std::collections::BTreeMap;
use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Instant, SystemTime};

use futures_util::future::BoxFuture;
use serde::{Deserialize, Serialize};

use crate::kubernetes::Cluster;
use crate::policy::load::{Loaded, PolicyErrors};
use crate::policy::origin::ObjectName;
use crate::watch::WatchError;

/// Where policies come from. The policies of all places add up.
#[derive(Clone, Debug, Default)]
pub struct Config {
    /// The directory of policy files.
    pub directory: Option<PathBuf>,
    /// The Kubernetes API.
    pub cluster: Option<Cluster>,
}

/// A part of what a source says. It counts as a whole or not at all, and its errors touch no other unit.
#[derive(Clone, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub enum Unit {
    /// All that the source says: the files of a directory may rely on each other.
    Whole,
    /// One object of an API, which stands alone.
    Object(ObjectName),
}

/// Why a unit is refused.
#[derive(Clone, Debug)]
pub struct Refusal {
    /// What is wrong with it.
    pub errors: Arc<PolicyErrors>,
    /// The object and its version, if it is one of an API.
    pub object: Option<Box<Versioned>>,
    /// What counts in its place while no version of it has been good: it isolates and allows nothing.
    pub stand_in: Option<Loaded>,
}

impl From<PolicyErrors> for Refusal {
    fn from(errors: PolicyErrors) -> Self {
        Self { errors: Arc::new(errors), object: None, stand_in: None }
    }
}

/// Everything that a source says at one moment: the policies of each unit, or why the unit is refused. A unit that is
/// missing here is gone.
pub type Said = BTreeMap<Unit, Result<Loaded, Refusal>>;

/// A policy of an API that counts, and the version of the object from which it was read.
#[derive(Clone, Debug, Default, Deserialize, Eq, PartialEq, Serialize)]
pub struct Versioned {
    /// Its kind.
    pub kind: String,
    /// Its namespace.
    pub namespace: String,
    /// Its name.
    pub name: String,
    /// Which version of the object it is.
    #[serde(flatten)]
    pub version: Version,
    /// It isolates in the place of this version of the object, which is refused.
    pub stands_in: bool,
}

/// A version of an object.
#[derive(Clone, Debug, Default, Deserialize, Eq, PartialEq, Serialize)]
pub struct Version {
    /// The `resourceVersion`; `None`: it is not known, or `generation` tells the version.
    #[serde(default)]
    pub resource_version: Option<String>,
    /// The `uid`, which no later object of the same name has.
    #[serde(default)]
    pub uid: Option<String>,
    /// The `generation`, which counts the changes of `spec`.
    #[serde(default)]
    pub generation: Option<i64>,
}

/// The answer of a source that is asked what it says.
#[derive(Debug)]
pub enum Word {
    /// It does not know yet: no list has come to its end.
    Awaited,
    /// It has nothing to say, and what it said before an earlier daemon ended still counts.
    AsBefore,
    /// All that it says.
    All(Said),
}

/// Why what a source said last may be out of date.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Stale {
    /// Since when, for people.
    pub since: SystemTime,
    /// What is in the way.
    pub error: String,
    /// The source is not there at all, and nobody has to miss it.
    pub is_missing: bool,
}

/// A source that was opened; `None`: the configuration does not name it.
pub(super) type Opened = Result<Option<Box<dyn Source>>, WatchError>;

/// A source of policies.
pub trait Source: fmt::Debug + Send {
    /// Where it gets its policies, for people.
    fn place(&self) -> String;

    /// Waits until the source may say something else than at its last reading. Dropping the future loses nothing.
    fn changed(&mut self) -> BoxFuture<'_, ()>;

    /// When something last happened to what it reads; at first, when it was opened. `None`: it is never seen in the middle
    /// of a change.
    fn last_change(&self) -> Option<Instant>;

    /// What the source says now.
    fn read(&mut self) -> Word;

    /// Since when its last word may be out of date; `None`: it is not, as far as is known.
    fn stale(&self) -> Option<Stale>;
}
