//! Lists the objects of a kind and then hears of every change.
//!
//! Input: one API. Output: publications of complete sets. Each list fills a set of its own, which counts only when it has
//! come to its end. A watch goes on from where the last one has ended, and after a version that the API server has
//! forgotten everything is listed again.
//!
//! kube's own watcher does not tell when a watch works again, so nobody could say for how long a view was out of date.

use std::fmt;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use futures_util::StreamExt as _;
use futures_util::stream::BoxStream;
use kube::api::{ListParams, ObjectList, WatchEvent, WatchParams};
use kube::{Api, Resource};
use serde::de::DeserializeOwned;
use tokio::sync::watch;
use tokio::time::{Instant, sleep, sleep_until, timeout};

use super::backoff::Backoff;
use super::fault::Fault;
use super::set::{Changes, Listed, replace};
use super::view::{Key, Stale, View, Which};

/// Changes within this time are published together.
const COALESCE: Duration = Duration::from_millis(10);
/// Seconds of one watch. A connection that is dead without a sign shows when the next one is opened.
const WATCH: u32 = 60;
/// What a watch may last beyond them before its end is not waited for.
const MARGIN: Duration = Duration::from_secs(5);
/// For how long an answer is waited for.
const ANSWER: Duration = Duration::from_secs(15);
/// For how long the next object of a streaming list is waited for.
const NEXT: Duration = Duration::from_secs(20);
/// Seconds of a streaming list and the watch that it goes over into.
const STREAMING_LIST: u32 = 290;
/// Objects of one page of a list.
const PAGE: u32 = 500;
/// For how long a page of a list is waited for.
const PAGE_TIME: Duration = Duration::from_secs(60);
/// A watch that ends earlier was refused.
const SHORT: Duration = Duration::from_secs(1);
/// The mark of the bookmark at the end of a streaming list.
const END: &str = "k8s.io/initial-events-end";

type Events<K> = BoxStream<'static, kube::Result<WatchEvent<K>>>;

/// Follows one kind.
pub(super) struct Follower<K, T, F> {
    api: Api<K>,
    which: Which,
    /// The kind, for people.
    name: String,
    trim: F,
    to: Arc<watch::Sender<View<T>>>,
    changes: Changes<T>,
    /// Whether the API server may have streaming lists.
    streams: bool,
    /// The version from which a watch goes on; `None`: there is no list yet, or it is too old.
    version: Option<String>,
    backoff: Backoff,
    /// When the API was last heard; at first, when this began.
    heard: SystemTime,
}

impl<K, T, F> Follower<K, T, F>
where
    K: Resource + Clone + fmt::Debug + DeserializeOwned + Send + 'static,
    T: PartialEq,
    F: Fn(K) -> Option<T>,
{
    pub(super) fn new(api: Api<K>, which: &Which, name: String, trim: F, to: Arc<watch::Sender<View<T>>>) -> Self {
        let (which, changes, backoff) = (which.clone(), Changes::default(), Backoff::default());
        let heard = SystemTime::now();
        Self { api, which, name, trim, to, changes, streams: true, version: None, backoff, heard }
    }

    /// Runs until it is dropped.
    pub(super) async fn run(mut self) {
        loop {
            let Err(fault) = self.round().await else { continue };
            if matches!(fault, Fault::Expired | Fault::NoVersion) {
                self.version = None;
            }
            if matches!(fault, Fault::Expired) {
                tracing::debug!(kind = self.name, "the API server has forgotten the last version; listing again");
            } else {
                self.failed(&fault);
            }
            sleep(self.backoff.wait()).await;
        }
    }

    /// A list if there is none, and a watch to its end.
    async fn round(&mut self) -> Result<(), Fault> {
        let events = match self.version.clone() {
            Some(version) => self.open(&version).await?,
            None => match self.list().await? {
                Some(events) => events,
                None => return Ok(()),
            },
        };
        self.hears();
        let begin = Instant::now();
        let result = self.hear(events, begin + Duration::from_secs(u64::from(WATCH)) + MARGIN).await;
        self.changes.publish(&self.to);
        if begin.elapsed() >= SHORT {
            self.backoff.reset();
            return result;
        }
        result.and(Err(Fault::Ended))
    }

    /// Lists everything. What comes after a streaming list comes by the same stream.
    async fn list(&mut self) -> Result<Option<Events<K>>, Fault> {
        if self.streams {
            match self.streaming_list().await {
                Ok(events) => return Ok(Some(events)),
                Err(fault) if fault.may_lack_streams() => {
                    tracing::debug!(kind = self.name, %fault, "there is no streaming list; listing in pages");
                    self.streams = false;
                }
                Err(fault) => return Err(fault),
            }
        }
        let (listed, version) = self.pages().await?;
        self.complete(listed, version);
        Ok(None)
    }

    /// A watch that begins with all objects.
    async fn streaming_list(&mut self) -> Result<Events<K>, Fault> {
        let params = WatchParams { send_initial_events: true, timeout: Some(STREAMING_LIST), ..self.watch_params() };
        // Without a version the list is as new as the request: no other API server's older view can take its place.
        let mut events = answer(self.api.watch(&params, "")).await?.boxed();
        let mut listed = Listed::new();
        loop {
            let event = timeout(NEXT, events.next()).await.map_err(|_| Fault::Silent(NEXT.as_secs()))?;
            match event.ok_or(Fault::Ended)?.map_err(|error| Fault::of(&error))? {
                WatchEvent::Added(object) | WatchEvent::Modified(object) => self.keep(&mut listed, object),
                WatchEvent::Deleted(object) => drop(listed.remove(&key(&object))),
                WatchEvent::Bookmark(mark) if mark.metadata.annotations.contains_key(END) => {
                    self.complete(listed, mark.metadata.resource_version);
                    return Ok(events);
                }
                WatchEvent::Bookmark(_) => {}
                WatchEvent::Error(status) => return Err(Fault::of_status(&status)),
            }
        }
    }

    /// All pages of a list, and its version.
    async fn pages(&self) -> Result<(Listed<T>, String), Fault> {
        let Which { labels, fields } = self.which.clone();
        // Without a version the list is as new as the request, here too.
        let mut params =
            ListParams { label_selector: labels, field_selector: fields, limit: Some(PAGE), ..ListParams::default() };
        let mut listed = Listed::new();
        loop {
            let page = timeout(PAGE_TIME, self.api.list(&params)).await;
            let page = page.map_err(|_| Fault::Silent(PAGE_TIME.as_secs()))?.map_err(|error| Fault::of(&error))?;
            let ObjectList { metadata, items, .. } = page;
            for object in items {
                self.keep(&mut listed, object);
            }
            params.continue_token = metadata.continue_.filter(|token| !token.is_empty());
            if params.continue_token.is_none() {
                let version = metadata.resource_version.filter(|version| !version.is_empty());
                return Ok((listed, version.ok_or(Fault::NoVersion)?));
            }
        }
    }

    fn keep(&self, listed: &mut Listed<T>, object: K) {
        let key = key(&object);
        match (self.trim)(object) {
            Some(object) => drop(listed.insert(key, Arc::new(object))),
            None => drop(listed.remove(&key)),
        }
    }

    /// Takes a list that has come to its end.
    fn complete(&mut self, listed: Listed<T>, version: String) {
        self.hears();
        replace(listed, &self.to);
        self.version = Some(version);
    }

    async fn open(&self, version: &str) -> Result<Events<K>, Fault> {
        answer(self.api.watch(&self.watch_params(), version)).await.map(futures_util::StreamExt::boxed)
    }

    fn watch_params(&self) -> WatchParams {
        let Which { labels, fields } = self.which.clone();
        WatchParams {
            label_selector: labels,
            field_selector: fields,
            timeout: Some(WATCH),
            bookmarks: true,
            send_initial_events: false,
        }
    }

    /// Takes events until the watch ends.
    async fn hear(&mut self, mut events: Events<K>, end: Instant) -> Result<(), Fault> {
        let mut due = None;
        loop {
            let event = tokio::select! {
                // First, so that events without end cannot put it off.
                biased;
                () = sleep_until(due.unwrap_or(end)) => {
                    if due.take().is_none() {
                        return Ok(());
                    }
                    self.changes.publish(&self.to);
                    continue;
                }
                event = events.next() => event,
            };
            let Some(event) = event else { return Ok(()) };
            self.heard = SystemTime::now();
            match event.map_err(|error| Fault::of(&error))? {
                WatchEvent::Added(object) | WatchEvent::Modified(object) => {
                    self.version_of(&object)?;
                    self.changes.note(key(&object), (self.trim)(object));
                    due.get_or_insert_with(|| Instant::now() + COALESCE);
                }
                WatchEvent::Deleted(object) => {
                    self.version_of(&object)?;
                    self.changes.note(key(&object), None);
                    due.get_or_insert_with(|| Instant::now() + COALESCE);
                }
                WatchEvent::Bookmark(mark) => self.version = Some(mark.metadata.resource_version),
                WatchEvent::Error(status) => return Err(Fault::of_status(&status)),
            }
            if Instant::now() >= end {
                return Ok(());
            }
        }
    }

    /// The next watch goes on behind this object.
    fn version_of(&mut self, object: &K) -> Result<(), Fault> {
        let version = object.meta().resource_version.as_ref().filter(|version| !version.is_empty());
        self.version = Some(version.ok_or(Fault::NoVersion)?.clone());
        Ok(())
    }

    /// The view may be out of date from now on.
    fn failed(&self, fault: &Fault) {
        let (cause, error) = (fault.cause(), fault.to_string());
        self.to.send_if_modified(|view| {
            if view.stale.as_ref().is_some_and(|stale| stale.cause == cause && *stale.error == *error) {
                return false;
            }
            if view.stale.is_none() {
                tracing::warn!(
                    kind = self.name,
                    %error,
                    "cannot follow the Kubernetes API; what it said last stays in force, and it is asked again"
                );
            }
            let since = view.stale.as_ref().map_or(self.heard, |stale| stale.since);
            view.stale = Some(Stale { since, cause, error: error.as_str().into() });
            true
        });
    }

    /// The view is up to date from now on.
    fn hears(&mut self) {
        self.heard = SystemTime::now();
        self.to.send_if_modified(|view| {
            let was_stale = view.stale.take().is_some();
            if was_stale {
                tracing::info!(kind = self.name, "the Kubernetes API answers again");
            }
            was_stale
        });
    }
}

fn key<K: Resource>(object: &K) -> Key {
    let meta = object.meta();
    let text = |text: &Option<String>| text.as_deref().unwrap_or_default().into();
    Key { namespace: text(&meta.namespace), name: text(&meta.name) }
}

/// An answer to a request for a watch.
async fn answer<T>(request: impl Future<Output = kube::Result<T>>) -> Result<T, Fault> {
    let answer = timeout(ANSWER, request).await.map_err(|_| Fault::Silent(ANSWER.as_secs()))?;
    answer.map_err(|error| Fault::of(&error))
}
