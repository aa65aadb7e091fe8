//! Holds back what a change of the policies would open until their files have been quiet (D15).
//!
//! Input: the newest policies, their image for the present workloads, and when the files last changed. Output: the image to put
//! in force, with the policies that name its denials and those that the next daemon shall go on from.
//!
//! A tool that replaces files, such as `git checkout`, removes some before it writes others. A reading in between may lack a
//! policy, so what it would open waits. What it closes does not: the image then allows what both the old and the new policies
//! allow.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use enforcer_common::id::Direction;

use super::policies::LastChanges;
use super::state::InForce;
use crate::compile::{Change, CompileError, Image, change, compile};
use crate::flow::names::{self, Ruling, Service};
use crate::policy::model::PolicySet;
use crate::policy::source::{Kept, from_kept};
use crate::policy::store::Reading;
use crate::resolve::{ResolvedPolicy, Roster, resolve_with};
use crate::workload::model::{Snapshot, WorkloadKey};

/// What is held back.
#[derive(Debug)]
pub(super) struct Opening {
    wait: Duration,
    /// The policies that are wholly in force; `None`: there are none that could stay.
    settled: Option<(Arc<PolicySet>, Kept)>,
    is_held: bool,
    /// The workloads of the last choice, for the next one that is about the same.
    roster: Option<Arc<Roster>>,
}

/// What shall be in force.
pub(super) struct Chosen {
    pub(super) image: Image,
    pub(super) names: Arc<dyn names::Policies>,
    pub(super) kept: Kept,
    /// The newest policies are in force without what they open.
    is_held: bool,
}

impl Opening {
    /// `earlier`: what an earlier daemon left in force.
    pub(super) fn new(wait: Duration, earlier: Option<&InForce>) -> Self {
        let settled = earlier.and_then(|earlier| {
            let set = from_kept(&earlier.policies).ok()?;
            Some((set, earlier.policies.clone()))
        });
        Self { wait, settled, is_held: false, roster: None }
    }

    /// Chooses what to put in force. Only files are waited for: an API gives whole objects.
    pub(super) fn choose(
        &mut self,
        newest: &Reading,
        snapshot: &Arc<Snapshot>,
        last_changes: &LastChanges,
    ) -> Result<(Chosen, Arc<ResolvedPolicy>), CompileError> {
        let roster = self.roster_of(snapshot);
        let resolved = Arc::new(resolve_with(Arc::clone(&newest.set), roster));
        let image = compile(&resolved)?;
        let whole = Chosen { image, names: Arc::clone(&resolved) as _, kept: newest.kept(), is_held: false };
        let now = Instant::now();
        let is_quiet = |last: &Option<Instant>| last.is_some_and(|last| now >= last + self.wait);
        let waits = |before: &Kept| {
            let mut unquiet = last_changes.iter().filter(|(_, last)| !is_quiet(last));
            unquiet.any(|(name, _)| before.get(*name) != newest.sources.get(name))
        };
        let chosen = match &self.settled {
            Some((set, before)) if **set != *newest.set && waits(before) => hold(whole, &resolved, set, before),
            Some(_) | None => whole,
        };
        Ok((chosen, resolved))
    }

    fn roster_of(&mut self, snapshot: &Arc<Snapshot>) -> Arc<Roster> {
        let known = self.roster.take().filter(|roster| Arc::ptr_eq(roster.snapshot(), snapshot));
        let roster = known.unwrap_or_else(|| Arc::new(Roster::of(Arc::clone(snapshot))));
        Arc::clone(self.roster.insert(roster))
    }

    /// Notes what is in force now.
    pub(super) fn took(&mut self, chosen: &Chosen, newest: &Reading) {
        if chosen.is_held && !self.is_held {
            tracing::info!(
                "the newest policies allow something that was denied; this part waits until their files have been quiet for {} s",
                self.wait.as_secs()
            );
        }
        self.is_held = chosen.is_held;
        if !chosen.is_held {
            self.settled = Some((Arc::clone(&newest.set), chosen.kept.clone()));
        }
    }

    /// When what is held back may be put in force; `None`: nothing is, or the files are in the middle of a change, or the kernel
    /// has refused the last image. That image is not tried again at once, because this moment stays in the past.
    pub(super) fn due(&self, last_changes: &LastChanges, is_refused: bool) -> Option<Instant> {
        let last: Option<Vec<Instant>> = last_changes.values().copied().collect();
        last?.into_iter().max().filter(|_| self.is_held && !is_refused).map(|last| last + self.wait)
    }

    /// Whether something is held back.
    pub(super) fn is_held(&self) -> bool {
        self.is_held
    }
}

/// What the newest policies allow of what those before them allow, or all of it if they open nothing.
fn hold(newest: Chosen, resolved: &Arc<ResolvedPolicy>, set: &Arc<PolicySet>, before: &Kept) -> Chosen {
    let earlier = Arc::new(resolve_with(Arc::clone(set), Arc::clone(resolved.roster())));
    // What cannot be compiled for the workloads of today is not in force either.
    let Ok(old) = compile(&earlier) else { return newest };
    let both = match change(&old, &newest.image) {
        Change::OpensNothing => return newest,
        Change::Opens(both) => both,
    };
    let names: Arc<dyn names::Policies> = match &both {
        Some(_) => Arc::new(Both { newest: Arc::clone(resolved), earlier }),
        None => earlier,
    };
    Chosen { image: both.unwrap_or(old), names, kept: before.clone(), is_held: true }
}

/// The policies of an image that allows what two sets of policies both allow.
struct Both {
    newest: Arc<ResolvedPolicy>,
    earlier: Arc<ResolvedPolicy>,
}

impl names::Policies for Both {
    fn rule_on(&self, workload: WorkloadKey, direction: Direction, peer: IpAddr, service: Service) -> Option<Ruling> {
        match self.newest.rule_on(workload, direction, peer, service)? {
            Ruling::Allowed(_) => self.earlier.rule_on(workload, direction, peer, service),
            denied @ Ruling::Denied(_) => Some(denied),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;
    use std::path::Path;

    use super::*;
    use crate::policy::load::{Loaded, SourceFile, from_sources};
    use crate::workload::inventory::Inventory;
    use crate::workload::offline;

    const WAIT: Duration = Duration::from_secs(3);
    const CLOSED: &str =
        "apiVersion: networking.k8s.io/v1\nkind: NetworkPolicy\nmetadata: {name: a}\nspec: {podSelector: {}}\n";
    const OPEN: &str = "# nothing\n";

    fn reading(text: &str) -> Reading {
        reading_of("directory", text)
    }

    fn reading_of(name: &'static str, text: &str) -> Reading {
        let source = SourceFile { path: "a.yaml".into(), text: text.into() };
        let Loaded { set, sources, skipped, .. } = from_sources(vec![source]).unwrap();
        Reading { set, sources: BTreeMap::from([(name, vec![sources])]), skipped }
    }

    fn snapshot() -> Arc<Snapshot> {
        let inventory = "workloads: [{name: web, match: {address: 10.0.0.2}}, {name: db, match: {address: 10.0.0.3}}]";
        Arc::new(offline::snapshot(&Inventory::parse(Path::new("i.yaml"), inventory).unwrap()))
    }

    #[test]
    fn d15_what_opens_waits_and_what_the_kernel_refuses_is_not_tried_again_at_once() {
        let (snapshot, now) = (snapshot(), Instant::now());
        let long_ago = now.checked_sub(WAIT).unwrap();
        let kept = BTreeMap::from([("directory".to_owned(), reading(CLOSED).sources["directory"].clone())]);
        let mut opening = Opening::new(WAIT, Some(&InForce { policies: kept, ..InForce::default() }));
        let files = |last_change| LastChanges::from([("directory", last_change)]);
        let closed = Opening::new(WAIT, None).choose(&reading(CLOSED), &snapshot, &files(None)).unwrap().0.image;
        let choose = |opening: &mut Opening, text: &str, last_change| {
            let newest = reading(text);
            let (chosen, _) = opening.choose(&newest, &snapshot, &files(last_change)).unwrap();
            opening.took(&chosen, &newest);
            matches!(change(&closed, &chosen.image), Change::Opens(_))
        };
        assert!(!choose(&mut opening, CLOSED, Some(now)) && !opening.is_held(), "it is in force");
        assert_eq!(opening.due(&files(Some(now)), false), None, "nothing is held back");
        for last_change in [Some(now), None] {
            assert!(!choose(&mut opening, OPEN, last_change) && opening.is_held(), "{last_change:?}");
        }
        assert_eq!(opening.due(&files(Some(now)), false), Some(now + WAIT));
        assert_eq!(opening.due(&files(None), false), None, "the files are in the middle of a change");
        assert_eq!(opening.due(&files(Some(long_ago)), true), None, "the kernel has refused it");
        assert!(choose(&mut opening, OPEN, Some(long_ago)) && !opening.is_held(), "the files have been quiet");
        assert_eq!(opening.due(&files(Some(long_ago)), false), None);
        assert!(choose(&mut opening, OPEN, Some(now)) && !opening.is_held(), "it is in force");
        assert!(!choose(&mut opening, CLOSED, Some(now)) && !opening.is_held(), "what closes does not wait");
    }

    #[test]
    fn d15_what_an_object_of_an_api_opens_waits_for_no_files() {
        let (snapshot, now) = (snapshot(), Instant::now());
        for (source, is_held) in [("directory", true), ("networkpolicies", false)] {
            for last_change in [Some(now), None] {
                let mut opening = Opening::new(WAIT, None);
                for text in [CLOSED, OPEN] {
                    let newest = reading_of(source, text);
                    let files = LastChanges::from([("directory", last_change)]);
                    let (chosen, _) = opening.choose(&newest, &snapshot, &files).unwrap();
                    opening.took(&chosen, &newest);
                }
                assert_eq!(opening.is_held(), is_held, "{source}, {last_change:?}");
            }
        }
    }
}
