//! Tells the HTTP server what the agent knows.
//!
//! Input: the reconciler's state, once a second, and single events. Output: words on the board. While nothing changes, nothing is
//! counted again.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use enforcer_common::id::{Direction, Ifindex};
use enforcer_common::verdict::REASONS;

use super::same::Same;
use crate::flow::record::{FlowRecord, Party};
use crate::kernel::Counters;
use crate::serve::{Board, DeniedPackets, Endpoints, Facts, KernelNumbers, MapFill, Numbers, Stage, Waits, Who};
use crate::workload::model::{Snapshot, WorkloadName};

/// The agent's side of the board.
#[derive(Debug)]
pub(super) struct Meter {
    board: Arc<Board>,
    told: Option<Told>,
    endpoints: Endpoints,
    stale: BTreeMap<&'static str, SystemTime>,
    /// Readings of policies with errors of which the board knows.
    refusals: u64,
}

/// The reconciler's state.
#[derive(Debug, Default)]
pub(super) struct Now<'a> {
    /// What the first full set waits for; `None`: it is in the kernel.
    pub(super) waits: Option<Waits>,
    pub(super) snapshot: Option<&'a Arc<Snapshot>>,
    /// Errors of steps that are not done yet.
    pub(super) unfinished: &'a [String],
    /// Sources whose newest state is not in use.
    pub(super) stale: BTreeSet<&'static str>,
    /// Readings of policies with errors so far.
    pub(super) refusals: u64,
}

/// What the facts on the board were made of.
#[derive(Debug, PartialEq)]
struct Told {
    snapshot: Same<Snapshot>,
    unfinished: Vec<String>,
    stale: BTreeMap<&'static str, SystemTime>,
}

impl Meter {
    pub(super) fn new(board: Arc<Board>) -> Self {
        Self { board, told: None, endpoints: Endpoints::default(), stale: BTreeMap::new(), refusals: 0 }
    }

    /// For another thread.
    pub(super) fn board(&self) -> Arc<Board> {
        Arc::clone(&self.board)
    }

    /// Veths by what holds for them, as they were last counted.
    pub(super) fn endpoints(&self) -> Endpoints {
        self.endpoints
    }

    /// A step on the way into the kernel has failed.
    pub(super) fn failed(&self, stage: Stage) {
        self.board.failed(stage);
    }

    /// Policies and workloads are in force, and that took so long.
    pub(super) fn applied(&self, took: Duration) {
        self.board.applied(took);
    }

    /// A new veth has its programs, so long after it was heard of.
    pub(super) fn attached(&self, took: Option<Duration>) {
        if let Some(took) = took {
            self.board.attached(took);
        }
    }

    /// The programs of some veth are not what they were.
    pub(super) fn look_again(&mut self) {
        self.told = None;
    }

    /// `enforced`: the veths with a place and programs; asked only if something has changed.
    pub(super) fn tell(&mut self, now: Now<'_>, enforced: impl FnOnce() -> BTreeSet<Ifindex>) {
        let Now { waits, snapshot, unfinished, stale, refusals } = now;
        self.board.waits(waits);
        for _ in self.refusals..refusals {
            self.board.failed(Stage::Read);
        }
        self.refusals = refusals;
        self.stale.retain(|source, _| stale.contains(source));
        for source in stale {
            self.stale.entry(source).or_insert_with(SystemTime::now);
        }
        let now =
            Told { snapshot: snapshot.cloned().into(), unfinished: unfinished.to_vec(), stale: self.stale.clone() };
        if self.told.as_ref() == Some(&now) {
            return;
        }
        let endpoints = snapshot.map(|snapshot| endpoints(snapshot, &enforced())).unwrap_or_default();
        self.endpoints = endpoints;
        self.board.facts(Facts { endpoints, stale: self.stale.clone() });
        self.board.living(snapshot.into_iter().flat_map(|snapshot| names(snapshot)));
        self.told = Some(now);
    }
}

fn endpoints(snapshot: &Snapshot, enforced: &BTreeSet<Ifindex>) -> Endpoints {
    let mut counts = Endpoints::default();
    for workload in snapshot.local.values() {
        for ifindex in workload.endpoints.keys() {
            let count = match (enforced.contains(ifindex), &workload.identity) {
                (false, _) => &mut counts.failed,
                (true, None) => &mut counts.unmanaged,
                (true, Some(_)) => &mut counts.enforced,
            };
            *count += 1;
        }
    }
    counts
}

/// Namespaces and names of all workloads, those elsewhere too.
fn names(snapshot: &Snapshot) -> impl Iterator<Item = (&str, &str)> {
    let local = snapshot.local.values().filter_map(|workload| workload.identity.as_ref());
    let all = local.chain(snapshot.remote.iter().map(|workload| &workload.identity));
    all.map(|identity| (identity.name.namespace.as_str(), identity.name.name.as_str()))
}

/// Counts a record of denied packets.
pub(super) fn count(board: &Board, record: &FlowRecord) {
    board.denied(who(record.source.as_ref()), who(record.destination.as_ref()), record.direction, record.reason);
}

fn who(party: Option<&Party>) -> Who {
    match party {
        Some(Party::Workload(workload)) => {
            let WorkloadName { namespace, name } = workload.name.clone();
            Who::Workload { namespace, name }
        }
        Some(Party::Host) => Who::Host,
        Some(Party::World) => Who::World,
        Some(Party::Unknown) | None => Who::Unknown,
    }
}

/// The kernel's counters, as the server reads them.
#[derive(Debug)]
pub(super) struct Reader(pub(super) Counters);

impl Numbers for Reader {
    fn read(&self) -> Result<KernelNumbers, String> {
        let totals = self.0.denied().map_err(|error| error.to_string())?;
        let of = |direction, reason| totals.get(&(direction, reason)).copied().unwrap_or_default();
        let all = [Direction::Ingress, Direction::Egress].into_iter();
        let all = all.flat_map(|direction| REASONS.map(|(reason, ..)| (direction, reason)));
        let denied = all.map(|(direction, reason)| {
            let counts = of(direction, reason);
            DeniedPackets { direction, reason, packets: counts.logged + counts.suppressed + counts.lost }
        });
        let tables = self.0.tables();
        Ok(KernelNumbers {
            revision: self.0.revision().0,
            denied: denied.collect(),
            lost: totals.values().map(|counts| counts.lost).sum(),
            flows: tables[0].entries,
            maps: tables.map(|fill| MapFill { map: fill.map, entries: fill.entries, capacity: fill.capacity }).to_vec(),
        })
    }
}

#[cfg(test)]
mod tests {
    use enforcer_common::verdict::Reason;

    use super::*;
    use crate::workload::model::{Identity, Interface, LabelSets, LocalWorkload, Past, Vouched, WorkloadKey};

    fn snapshot() -> Snapshot {
        let workload = |named: bool, veths: &[u32]| LocalWorkload {
            identity: named.then(|| Identity {
                name: WorkloadName { namespace: "t".to_owned(), name: "a".to_owned() },
                labels: LabelSets::default(),
                ports: BTreeMap::new(),
            }),
            addresses: Vouched::new(),
            disputed: Vouched::new(),
            endpoints: veths
                .iter()
                .map(|index| {
                    let name = format!("v{index}");
                    (Ifindex(*index), Interface { name, peer_mac: None, existed_at_start: false })
                })
                .collect(),
            routes: false,
            disagrees: false,
            foreign: BTreeMap::new(),
            past: Past::default(),
        };
        Snapshot {
            local: BTreeMap::from([(WorkloadKey(1), workload(true, &[7, 8])), (WorkloadKey(2), workload(false, &[9]))]),
            ..Snapshot::default()
        }
    }

    #[test]
    fn each_veth_is_counted_once_by_what_holds_for_it() {
        let all = [7, 8, 9].map(Ifindex);
        assert_eq!(endpoints(&snapshot(), &all.into()), Endpoints { enforced: 2, unmanaged: 1, failed: 0 });
        assert_eq!(endpoints(&snapshot(), &[Ifindex(7)].into()), Endpoints { enforced: 1, unmanaged: 0, failed: 2 });
    }

    #[test]
    fn a_series_ends_after_a_workload_that_the_snapshot_lacks() {
        let mut meter = Meter::new(Arc::default());
        let party = |name: &str| Who::Workload { namespace: "t".to_owned(), name: name.to_owned() };
        for source in ["a", "gone"] {
            meter.board.denied(party(source), Who::World, Direction::Egress, Reason::NoRule);
        }
        let minute = Duration::from_secs(61);
        assert_eq!(meter.board.series_after(minute), 2);
        let snapshot = Arc::new(snapshot());
        meter.tell(Now { snapshot: Some(&snapshot), ..Now::default() }, BTreeSet::new);
        assert_eq!([Duration::ZERO, minute].map(|later| meter.board.series_after(later)), [2, 1]);
    }

    #[test]
    fn the_veths_are_asked_for_only_when_something_has_changed() {
        let mut meter = Meter::new(Arc::default());
        let snapshot = Arc::new(snapshot());
        let asked = |meter: &mut Meter, unfinished: &[String], stale: &[&'static str]| {
            let mut asked = false;
            let stale = stale.iter().copied().collect();
            let now = Now { snapshot: Some(&snapshot), unfinished, stale, ..Now::default() };
            meter.tell(now, || {
                asked = true;
                BTreeSet::new()
            });
            asked
        };
        assert!(asked(&mut meter, &[], &[]), "the first");
        assert!(!asked(&mut meter, &[], &[]));
        assert!(asked(&mut meter, &["no room".to_owned()], &[]));
        assert!(asked(&mut meter, &["no room".to_owned()], &["policies"]));
        let since = meter.stale["policies"];
        assert!(!asked(&mut meter, &["no room".to_owned()], &["policies"]));
        assert_eq!(meter.stale["policies"], since, "it has been stale since then");
        meter.look_again();
        assert!(asked(&mut meter, &["no room".to_owned()], &["policies"]));
        assert!(asked(&mut meter, &["no room".to_owned()], &[]));
        assert!(meter.stale.is_empty());
    }
}
