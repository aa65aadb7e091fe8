//! Writes the report that `enforcer status` reads.
//!
//! Input: what the parts of the daemon know, once a second. Output: the file, if what they know has changed. While nothing
//! changes, no line of the report is made.

use std::collections::BTreeMap;
use std::time::SystemTime;

use enforcer_common::id::Direction;

use super::denials::LogCounts;
use super::devices::veths;
use super::no_ops::NoOps;
use super::report::{Report, WorkloadLine};
use super::same::Same;
use super::state::StateDir;
use crate::policy::source::{Stale, Versioned};
use crate::policy::store::Instead;
use crate::resolve::ResolvedPolicy;
use crate::workload::finding::Finding;
use crate::workload::model::{LocalWorkload, Snapshot, WorkloadKey};
use crate::workload::{Mode, Published};

/// All that a report shows.
#[derive(Debug, PartialEq)]
pub(super) struct Shown {
    /// What the reconciler has put into it.
    pub(super) own: Report,
    pub(super) published: Same<Published>,
    pub(super) refused_sources: Vec<String>,
    pub(super) mode: Mode,
    pub(super) snapshot: Same<Snapshot>,
    pub(super) resolved: Same<ResolvedPolicy>,
    pub(super) places: String,
    pub(super) stale: Vec<Stale>,
    pub(super) policy_error: Option<String>,
    /// The objects of an API that the parser refuses, what counts in the place of each, and why.
    pub(super) refused: Vec<(Versioned, Instead, String)>,
    pub(super) opening_waits: bool,
    pub(super) counts: LogCounts,
}

/// What was written last.
#[derive(Debug, Default)]
pub(super) struct Reporter {
    no_ops: NoOps,
    written: Option<Shown>,
}

impl Reporter {
    /// Whether the report would not be the one that was written last.
    pub(super) fn is_news(&self, now: &Shown) -> bool {
        self.written.as_ref() != Some(now)
    }

    /// Writes the report, unless it would be the one that was written last.
    pub(super) fn write(&mut self, now: Shown, states: &StateDir) {
        if !self.is_news(&now) {
            return;
        }
        let no_ops = self.no_ops.lines(now.resolved.shared());
        let text = serde_json::to_vec_pretty(&report(&now, no_ops)).unwrap_or_default();
        match states.replace(&states.report(), &text) {
            Ok(()) => self.written = Some(now),
            Err(error) => {
                tracing::warn!(%error, "cannot write the report for `enforcer status`, which now shows old values");
            }
        }
    }
}

fn report(now: &Shown, no_ops: Vec<String>) -> Report {
    let snapshot = now.snapshot.get();
    let findings = || now.published.get().into_iter().flat_map(Published::findings);
    let texts = |wanted: fn(&Finding) -> bool| {
        findings().filter(|finding| wanted(finding)).map(ToString::to_string).collect::<Vec<_>>()
    };
    let unknown = || {
        let local = snapshot.into_iter().flat_map(|snapshot| snapshot.local.values());
        local.filter(|workload| workload.identity.is_none())
    };
    Report {
        no_ops,
        policies: now.places.clone(),
        policy_error: now.policy_error.clone(),
        stale_sources: now.stale.iter().filter(|stale| !stale.is_missing).map(since).collect(),
        missing_sources: now.stale.iter().filter(|stale| stale.is_missing).map(|stale| stale.error.clone()).collect(),
        opening_waits: now.opening_waits,
        refused_sources: now.refused_sources.clone(),
        findings: texts(|_| true),
        closed: texts(Finding::closes),
        partly_enforced: texts(|finding| finding.partly_enforced().is_some()),
        refused_claims: now.published.get().map_or(0, Published::refused),
        awaits_sources: snapshot.is_none(),
        discovery: mode_text(now.mode).to_owned(),
        uplinks: snapshot.into_iter().flat_map(|snapshot| snapshot.uplinks.values().cloned()).collect(),
        others: snapshot.into_iter().flat_map(other_devices).collect(),
        workloads: workload_lines(snapshot, now.resolved.get()),
        unknown_workloads: unknown().count(),
        unknown_veths: unknown().flat_map(veths).map(str::to_owned).collect(),
        flow_log_lines: now.counts.sink.lines,
        flow_log_merged: now.counts.sink.merged_records,
        flow_log_over_limit: now.counts.over_limit,
        disagreements: now.counts.disagreements,
        ..now.own.clone()
    }
}

/// Why and since when a source is out of date.
fn since(stale: &Stale) -> String {
    format!("since {}: {}", time(stale.since), stale.error)
}

/// A time for people.
pub(super) fn time(time: SystemTime) -> String {
    jiff::Timestamp::try_from(time).map_or_else(|_| "an unknown time".to_owned(), |time| format!("{time:.0}"))
}

fn workload_lines(snapshot: Option<&Snapshot>, resolved: Option<&ResolvedPolicy>) -> Vec<WorkloadLine> {
    let (Some(snapshot), Some(resolved)) = (snapshot, resolved) else { return Vec::new() };
    let line = |(key, workload): (&WorkloadKey, &LocalWorkload)| WorkloadLine {
        name: workload.identity.as_ref().map(|identity| identity.name.to_string()).unwrap_or_default(),
        endpoints: workload.endpoints.iter().map(|(index, device)| (index.0, device.name.clone())).collect(),
        addresses: workload.addresses.keys().map(ToString::to_string).collect(),
        foreign: workload.foreign.iter().map(|(name, device)| format!("{name} ({})", device.kind)).collect(),
        vouchers: vouchers(workload),
        policies: [Direction::Ingress, Direction::Egress]
            .map(|direction| resolved.isolation(*key, direction).map_or(0, |isolation| isolation.policies.len())),
    };
    snapshot.local.iter().map(line).collect()
}

fn other_devices(snapshot: &Snapshot) -> impl Iterator<Item = (u32, String)> {
    snapshot.others.iter().map(|(index, name)| (index.0, name.clone()))
}

/// Who vouches for each address, disputed ones included.
fn vouchers(workload: &LocalWorkload) -> BTreeMap<String, String> {
    let own = workload.addresses.iter().map(|(address, voucher)| (address.to_string(), voucher.short()));
    let disputed = workload.disputed.iter().map(|(address, voucher)| {
        let short = format!("{}, disputed", voucher.short());
        (address.to_string(), short)
    });
    own.chain(disputed).collect()
}

fn mode_text(mode: Mode) -> &'static str {
    match mode {
        Mode::Events => "by events",
        Mode::Polling => {
            "by polling, since CAP_NET_BROADCAST is missing; a change inside a container is seen up to a second late"
        }
    }
}

#[cfg(test)]
pub(super) mod tests {
    use std::fs;
    use std::os::unix::fs::MetadataExt as _;
    use std::sync::Arc;

    use super::*;

    pub(in crate::agent) fn shown(snapshot: Option<Arc<Snapshot>>, lines: u64) -> Shown {
        let mut counts = LogCounts::default();
        counts.sink.lines = lines;
        Shown {
            own: Report::default(),
            published: None.into(),
            refused_sources: Vec::new(),
            mode: Mode::Events,
            snapshot: snapshot.into(),
            resolved: None.into(),
            places: String::new(),
            stale: Vec::new(),
            policy_error: None,
            refused: Vec::new(),
            opening_waits: false,
            counts,
        }
    }

    #[test]
    fn the_report_is_written_when_something_that_it_shows_has_changed() {
        let directory = tempfile::tempdir().unwrap();
        let states = StateDir::create(directory.path().join("state")).unwrap();
        let mut reporter = Reporter::default();
        let snapshot = Arc::new(Snapshot::default());
        let mut written = |now: Shown| {
            // Each writing is a new file; one that is held open keeps its number from it.
            let before = fs::File::open(states.report()).ok();
            reporter.write(now, &states);
            let inode = |file: &fs::File| file.metadata().unwrap().ino();
            before.as_ref().map(inode) != Some(fs::metadata(states.report()).unwrap().ino())
        };
        assert!(written(shown(None, 0)), "the first");
        assert!(!written(shown(None, 0)));
        assert!(written(shown(Some(Arc::clone(&snapshot)), 0)), "the workloads are known");
        assert!(!written(shown(Some(Arc::clone(&snapshot)), 0)));
        assert!(written(shown(Some(snapshot), 1)), "a line of the flow log");
    }
}
