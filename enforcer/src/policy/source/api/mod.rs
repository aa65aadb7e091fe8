//! Policies that the Kubernetes API holds, one kind a source. Each object stands alone.
//!
//! Input: the view of one kind. Output: the policy of each object, or why it is refused and what counts in its place.
//! Before the first complete list the source says nothing.

mod declared;
mod object;
mod paths;
mod read;
mod stand_in;

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;
use std::time::Instant;

use futures_util::FutureExt as _;
use futures_util::future::{BoxFuture, pending};
use kube::core::{ApiResource, DynamicObject, GroupVersionKind};
use tokio::sync::watch;

use self::object::Object;
pub(super) use self::read::restore;
use self::read::{Reading, read_all, unread};
use super::shape::{Config, Opened, Said, Source, Stale, Unit, Versioned, Word};
use crate::kubernetes::{Cause, Key, View, Which};
use crate::policy::load::SourceFile;
use crate::policy::model::PolicyKind;

/// The objects of one kind.
struct Objects {
    kind: PolicyKind,
    server: String,
    view: watch::Receiver<View<Object>>,
    /// What the objects of the last reading have said.
    known: BTreeMap<Key, (Arc<Object>, Reading)>,
}

/// Follows objects of the kind NetworkPolicy.
pub(super) fn network_policies(config: &Config) -> Opened {
    open(config, PolicyKind::NetworkPolicy, "networkpolicies")
}

/// Follows objects of the kind FlowPolicy.
pub(super) fn flow_policies(config: &Config) -> Opened {
    open(config, PolicyKind::FlowPolicy, "flowpolicies")
}

/// What counts by a kept text.
pub(super) fn versioned(file: &SourceFile) -> Option<Versioned> {
    Object::versioned(file)
}

#[expect(clippy::unnecessary_wraps, reason = "all sources open in the same way, and others can fail")]
fn open(config: &Config, kind: PolicyKind, plural: &str) -> Opened {
    let Some(cluster) = &config.cluster else { return Ok(None) };
    let (group, version) = kind.api_version().split_once('/').unwrap_or_default();
    let resource = ApiResource::from_gvk_with_plural(&GroupVersionKind::gvk(group, version, kind.as_str()), plural);
    let trim = move |object: DynamicObject| Object::of(kind, object);
    let view = cluster.follow::<DynamicObject, Object>(&resource, &Which::all(), trim);
    Ok(Some(Box::new(Objects { kind, server: cluster.server().to_owned(), view, known: BTreeMap::new() })))
}

impl Objects {
    /// What the objects say. Only those are read that are not the same as at the last reading.
    fn said(&mut self, objects: &BTreeMap<Key, Arc<Object>>) -> Said {
        self.known.retain(|key, (before, _)| objects.get(key).is_some_and(|object| Arc::ptr_eq(before, object)));
        let news: Vec<_> = objects.iter().filter(|(key, _)| !self.known.contains_key(*key)).collect();
        let mut said = Said::new();
        match read_all(&news.iter().map(|(_, object)| &***object).collect::<Vec<_>>()) {
            Ok(readings) => self.known.extend(
                news.into_iter().zip(readings).map(|((key, object), read)| (key.clone(), (Arc::clone(object), read))),
            ),
            // They are read again the next time.
            Err(cause) => {
                said.extend(news.into_iter().map(|(_, object)| (unit(object), Err(unread(object, &cause)))));
            }
        }
        said.extend(self.known.values().map(|(object, reading)| (unit(object), reading.clone())));
        said
    }
}

fn unit(object: &Object) -> Unit {
    Unit::Object((*object.name).clone())
}

impl Source for Objects {
    fn place(&self) -> String {
        format!("{} objects at {}", self.kind.as_str(), self.server)
    }

    fn changed(&mut self) -> BoxFuture<'_, ()> {
        async {
            // The layer publishes for as long as somebody listens.
            if self.view.changed().await.is_err() {
                pending::<()>().await;
            }
        }
        .boxed()
    }

    /// The API gives whole objects, and each of them counts at once.
    fn last_change(&self) -> Option<Instant> {
        None
    }

    fn read(&mut self) -> Word {
        let view = self.view.borrow_and_update().clone();
        if view.listed {
            return Word::All(self.said(&view.objects));
        }
        match view.stale {
            // An API server that does not have the kind has no objects of it, and nobody has to wait for them.
            Some(stale) if stale.cause == Cause::NoSuchKind => Word::AsBefore,
            Some(_) | None => Word::Awaited,
        }
    }

    fn stale(&self) -> Option<Stale> {
        let view = self.view.borrow();
        let stale = view.stale.as_ref()?;
        let (kind, error) = (self.kind.as_str(), &stale.error);
        let error = match stale.cause {
            Cause::Down => format!("{kind}: {error}"),
            Cause::Forbidden => {
                format!("{kind}: {error}; allow the service account the verbs `list` and `watch` on this kind")
            }
            Cause::NoSuchKind => {
                format!("{kind}: the API server does not have this kind: {error}; install its CRD to use it")
            }
        };
        let is_missing = stale.cause == Cause::NoSuchKind && !view.listed;
        Some(Stale { since: stale.since, error, is_missing })
    }
}

impl fmt::Debug for Objects {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Objects").field("kind", &self.kind).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests;
