//! Decides which policies are in use: for each source the last ones without errors, or those that an earlier daemon left in
//! force.
//!
//! Input: the policy sources and the state that an earlier daemon kept. Output: one set of policies, and the errors. A reading
//! that may show half of a change is left for later. A source that has not listed everything yet decides nothing.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Instant;

use tokio::time::{sleep, sleep_until};

use super::error::AgentError;
use super::state::InForce;
use crate::policy::source::{self, Config, Said, Sources, Stale, Unit, Versioned, Word};
use crate::policy::store::{Instead, Reading, Refused, Store};
use crate::policy::{PolicyWarning, Skipped};
use crate::watch::patience::{Found, Next, Patience};
use crate::watch::read::has_documents;

/// When the files of each source that can be in the middle of a change last changed; `None`: they may be in the middle of
/// one. The objects of an API are whole, so their sources are not here.
pub(super) type LastChanges = BTreeMap<&'static str, Option<Instant>>;

/// The sources of policies, and the policies of them that are in use.
#[derive(Debug)]
pub(super) struct Policies {
    sources: Sources,
    store: Store,
    patience: BTreeMap<&'static str, Patience>,
    /// When a source is read again whose last reading did not count.
    due: BTreeMap<&'static str, Instant>,
    /// The documents that the log has last said are no policies.
    skipped: Skipped,
    /// Readings that had errors.
    refusals: u64,
}

impl Policies {
    /// Reads all sources. If a source has errors, its policies of an earlier daemon stay in use. `enforced` says that
    /// an image of an earlier daemon is in force. If its sources are not known, that image stays unchanged until all
    /// sources are read without errors.
    pub(super) async fn load(config: &Config, enforced: bool, earlier: Option<&InForce>) -> Result<Self, AgentError> {
        // They watch from here on, before the first reading, so that no change is missed.
        let sources = Sources::open(config)?;
        let store = Store::new(sources.names());
        let (patience, due) = (BTreeMap::new(), BTreeMap::new());
        let mut policies = Self { sources, store, patience, due, skipped: Skipped::default(), refusals: 0 };
        let names: Vec<&'static str> = policies.sources.names().collect();
        for name in names {
            if enforced {
                policies.first_beside_earlier(name, earlier);
            } else {
                policies.first(name).await?;
            }
        }
        policies.tell_skipped();
        Ok(policies)
    }

    /// Reads a source while nothing is in force that could stay. A file that is being written is waited for here. A source
    /// that has not listed everything yet is not: nothing is put in force before it has.
    async fn first(&mut self, name: &'static str) -> Result<(), AgentError> {
        let mut word = self.sources.read(name);
        while let Word::All(said) = &word
            && let Next::Waits(until) = self.next(name, said)
        {
            sleep(until.saturating_duration_since(Instant::now())).await;
            word = self.sources.read(name);
        }
        match word {
            Word::Awaited => {}
            Word::AsBefore => _ = self.store.as_before(name),
            Word::All(mut said) => {
                // An object of an API that is refused stops nobody but itself.
                if let Some(whole) = said.remove(&Unit::Whole) {
                    said.insert(Unit::Whole, Ok(whole.map_err(|refusal| refusal.errors)?));
                }
                self.take_first(name, said);
            }
        }
        Ok(())
    }

    /// Reads a source while an image of an earlier daemon is in force.
    fn first_beside_earlier(&mut self, name: &'static str, earlier: Option<&InForce>) {
        let word = self.sources.read(name);
        let kept = earlier.and_then(|earlier| earlier.policies.get(name));
        let (waits, is_good) = match &word {
            Word::All(said) => {
                let before = kept.iter().flat_map(|kept| kept.iter()).flat_map(|files| files.iter());
                let found = found(before.map(|file| (&*file.path, &*file.text)), said);
                (matches!(self.wait_or_count(name, found), Next::Waits(_)), said.values().all(Result::is_ok))
            }
            Word::Awaited | Word::AsBefore => (false, false),
        };
        if (waits || !is_good)
            && let Some(kept) = kept.and_then(|kept| source::restore(name, kept))
        {
            warn(&self.store.take(name, kept).warnings);
        }
        match word {
            Word::All(said) if !waits => self.take_first(name, said),
            Word::All(_) | Word::Awaited => {}
            Word::AsBefore => _ = self.store.as_before(name),
        }
    }

    fn take_first(&mut self, name: &'static str, said: Said) {
        let news = self.store.take(name, said);
        warn(&news.warnings);
        self.refusals += u64::from(!news.errors.is_empty());
        tell(&news.errors, "what the earlier daemon enforced stays in force");
    }

    /// Waits until a source may have changed or is to be read again, and returns its name. Cancel safe.
    pub(super) async fn changed(&mut self) -> &'static str {
        let due = self.due.iter().min_by_key(|(_, at)| **at).map(|(name, at)| (*name, *at));
        let Some((name, at)) = due else { return self.sources.changed().await };
        tokio::select! {
            changed = self.sources.changed() => changed,
            () = sleep_until(at.into()) => name,
        }
    }

    /// Reads a source again. Returns true if the set of policies, or the position of a line in it, has changed.
    pub(super) fn reload(&mut self, source: &'static str) -> bool {
        let said = match self.sources.read(source) {
            Word::All(said) => said,
            Word::AsBefore => return self.store.as_before(source),
            Word::Awaited => return false,
        };
        if let Next::Waits(_) = self.next(source, &said) {
            return false;
        }
        let news = self.store.take(source, said);
        self.refusals += u64::from(!news.errors.is_empty());
        tell(&news.errors, "the last good ones stay in force");
        warn(&news.warnings);
        self.tell_skipped();
        news.changed
    }

    /// Tells once which documents are no policies.
    fn tell_skipped(&mut self) {
        let Some(reading) = self.store.current().filter(|reading| reading.skipped != self.skipped) else { return };
        self.skipped = reading.skipped.clone();
        if !self.skipped.is_empty() {
            tracing::info!("the policy directory holds {}, which are skipped", self.skipped);
        }
    }

    /// Whether a reading counts, beside what is in use of the same source.
    fn next(&mut self, source: &'static str, said: &Said) -> Next {
        let in_use = self.store.current().and_then(|reading| reading.sources.get(source));
        let before = in_use.into_iter().flatten().flat_map(|files| files.iter());
        let found = found(before.map(|file| (&*file.path, &*file.text)), said);
        self.wait_or_count(source, found)
    }

    fn wait_or_count(&mut self, source: &'static str, found: Found) -> Next {
        let news = match &found {
            Found::BeingWritten => {
                "a policy file is open for writing; the policies stay as they are until it is closed"
            }
            Found::Emptied(_) => {
                "a policy file has no policies any more; the policies stay as they are, in case it is filled again"
            }
            Found::Whole => "",
        };
        let next = self.patience.entry(source).or_default().next(found, Instant::now());
        match next {
            Next::Waits(until) => {
                if self.due.insert(source, until).is_none() {
                    tracing::info!("{news}");
                }
            }
            Next::Counts => _ = self.due.remove(source),
        }
        next
    }

    /// Notes that the current set is in force.
    pub(super) fn settle(&mut self) {
        self.store.settle();
    }

    /// Notes that the current set cannot be put in force. Returns true if the set before it is in use again.
    pub(super) fn roll_back(&mut self, error: &str) -> bool {
        let rolled_back = self.store.roll_back(error);
        if rolled_back {
            tracing::error!("the policies cannot be put in force; the last good ones stay in force: {error}");
        }
        rolled_back
    }

    /// The policies that are in use; `None` if those of an earlier daemon are in force, but their text is not known.
    pub(super) fn current(&self) -> Option<&Reading> {
        self.store.current()
    }

    /// When the files of the sources last changed.
    pub(super) fn last_changes(&self) -> LastChanges {
        let last = |name| {
            let is_waiting = self.store.has_error(name) || self.due.contains_key(name);
            let last = self.sources.last_change(name)?;
            Some((name, (!is_waiting).then_some(last)))
        };
        self.sources.names().filter_map(last).collect()
    }

    /// The sources of which the last word may be out of date.
    pub(super) fn stale(&self) -> Vec<Stale> {
        self.sources.stale()
    }

    /// Whether the newest word of a source is not in use, because it has errors or because it is not heard.
    pub(super) fn are_behind(&self) -> bool {
        self.store.error().is_some() || self.stale().iter().any(|stale| !stale.is_missing)
    }

    /// Why there are no policies in use.
    pub(super) fn why_none(&self) -> &'static str {
        if self.store.error().is_some() {
            "the daemon does not know the policies that an earlier daemon left in force; correct the policies"
        } else {
            "not every source of policies has given its first complete list yet; until then nothing changes"
        }
    }

    /// How many readings have had errors.
    pub(super) fn refusals(&self) -> u64 {
        self.refusals
    }

    /// The places from which the policies are read.
    pub(super) fn places(&self) -> String {
        self.sources.places()
    }

    /// The objects of an API that the parser refuses, what counts in the place of each, and why; not more than so many.
    pub(super) fn refused(&self, most: usize) -> Vec<(Versioned, Instead, String)> {
        let refused = self.store.refused_objects().take(most);
        refused.map(|(version, instead, error)| (version.clone(), instead, error.to_owned())).collect()
    }

    /// The error for which the newest policies of the sources are not in force.
    pub(super) fn error(&self) -> Option<String> {
        self.store.error()
    }
}

/// What a reading found, beside the files that are in use, by path and text.
fn found<'a>(in_use: impl Iterator<Item = (&'a str, &'a str)>, said: &Said) -> Found {
    // Files make up a whole; an object of an API is never half written.
    match said.get(&Unit::Whole) {
        Some(Err(refusal)) if refusal.errors.is_being_written() => Found::BeingWritten,
        Some(Ok(loaded)) => {
            let empty = loaded.sources.iter().filter(|file| !has_documents(&file.text));
            let empty: BTreeSet<&str> = empty.map(|file| &*file.path).collect();
            let emptied: BTreeSet<String> = in_use
                .filter(|(path, text)| empty.contains(path) && has_documents(text))
                .map(|(path, _)| path.to_owned())
                .collect();
            if emptied.is_empty() { Found::Whole } else { Found::Emptied(emptied) }
        }
        Some(Err(_)) | None => Found::Whole,
    }
}

/// Tells what does not count. `whole`: what becomes of the policies of a source that counts as a whole.
fn tell(errors: &[Refused], whole: &str) {
    for Refused { error, object, version: _ } in errors {
        match object {
            None => tracing::error!("the policies have errors and are not used; {whole}:\n{error}"),
            Some(instead) => tracing::error!("a policy of the Kubernetes API is refused; {instead}:\n{error}"),
        }
    }
}

fn warn(warnings: &[PolicyWarning]) {
    for warning in warnings {
        tracing::warn!("{warning}");
    }
}

#[cfg(test)]
mod tests;
