//! What followers of a kind see.
//!
//! Input: none. Output: the types that the layer publishes.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;
use std::time::SystemTime;

/// Which objects of a kind are followed; without selectors all of them.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Which {
    /// A label selector.
    pub labels: Option<String>,
    /// A field selector.
    pub fields: Option<String>,
}

impl Which {
    /// All objects.
    pub fn all() -> Self {
        Self::default()
    }

    /// Those with these fields, such as `spec.nodeName=NODE`.
    pub fn fields(selector: impl Into<String>) -> Self {
        Self { fields: Some(selector.into()), labels: None }
    }

    /// Those with these labels.
    pub fn labels(selector: impl Into<String>) -> Self {
        Self { labels: Some(selector.into()), fields: None }
    }
}

/// The name of an object among those of its kind.
#[derive(Clone, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub struct Key {
    /// Its namespace; empty for a kind without namespaces.
    pub namespace: Arc<str>,
    /// Its name.
    pub name: Arc<str>,
}

impl fmt::Display for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { namespace, name } = self;
        if namespace.is_empty() { f.write_str(name) } else { write!(f, "{namespace}/{name}") }
    }
}

/// What the API has said of one kind.
#[derive(Debug)]
pub struct View<T> {
    /// All objects. Empty before `listed` is true. One leaves the set only when the API says that it was deleted, or when
    /// a list that came to its end did not have it.
    pub objects: Arc<BTreeMap<Key, Arc<T>>>,
    /// Whether the objects were ever listed completely.
    pub listed: bool,
    /// Why the objects may be older than those of the API; `None`: every change is heard.
    pub stale: Option<Stale>,
}

impl<T> Default for View<T> {
    fn default() -> Self {
        Self { objects: Arc::default(), listed: false, stale: None }
    }
}

impl<T> Clone for View<T> {
    fn clone(&self) -> Self {
        Self { objects: Arc::clone(&self.objects), listed: self.listed, stale: self.stale.clone() }
    }
}

/// Since when and why a view may be out of date.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Stale {
    /// When the API was last heard, by the clock of the node. Only people read it: clocks jump.
    pub since: SystemTime,
    /// What kind of trouble it is.
    pub cause: Cause,
    /// What the newest attempt has met, in one line.
    pub error: Arc<str>,
}

/// Kinds of trouble with the API.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Cause {
    /// The API server does not answer, or not as it should.
    Down,
    /// The API server does not allow the request: the account lacks a right, or it is not known.
    Forbidden,
    /// The API server does not have the kind: its CRD is not installed.
    NoSuchKind,
}
