//! The shape that all sources of policies have.
//!
//! Input: whatever a source watches. Output: everything that it says at one moment, in units that count as a whole or
//! not at all.

use std::collections::BTreeMap;
use std::fmt;
use std::path::PathBuf;
use std::time::Instant;

use futures_util::future::BoxFuture;

use crate::policy::load::{Loaded, PolicyErrors};
use crate::policy::origin::ObjectName;
use crate::watch::WatchError;

/// Where policies come from.
#[derive(Clone, Debug)]
pub struct Config {
    /// The directory of policy files.
    pub directory: PathBuf,
}

/// A part of what a source says. It counts as a whole or not at all, and its errors touch no other unit.
#[derive(Clone, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub enum Unit {
    /// All that the source says: the files of a directory may rely on each other.
    Whole,
    /// One object of an API, which stands alone.
    Object(ObjectName),
}

/// Everything that a source says at one moment: the policies of each unit, or why the unit is refused. A unit that is
/// missing here is gone.
pub type Said = BTreeMap<Unit, Result<Loaded, PolicyErrors>>;

/// A source that was opened; `None`: the configuration does not name it.
pub(super) type Opened = Result<Option<Box<dyn Source>>, WatchError>;

/// A source of policies.
pub trait Source: fmt::Debug + Send {
    /// Where it gets its policies, for people.
    fn place(&self) -> String;

    /// Waits until the source may say something else than at its last reading. Dropping the future loses nothing.
    fn changed(&mut self) -> BoxFuture<'_, ()>;

    /// When something last happened to what it reads; at first, when it was opened.
    fn last_change(&self) -> Instant;

    /// What the source says now.
    fn read(&mut self) -> Said;
}
