//! Keeps the kernel's state equal to what the policies and the workloads ask for.
//!
//! Input: changes, one at a time. Output: a plan in force, the names for its denials, and the report for `status`. The
//! daemon tries a failed step again at the next change and on a timer. Until then the last good image stays in force.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use enforcer_common::id::{Ifindex, IncarnationId, Revision};

use super::Options;
use super::denials::DenialLog;
use super::devices;
use super::error::AgentError;
use super::meter::{Meter, Now};
use super::opening::Opening;
use super::pace::Pace;
use super::policies::{LastChanges, Policies};
use super::publisher::{Beside, Publisher};
use super::report::Report;
use super::reporter::{Reporter, Shown};
use super::state::{InForce, StateDir};
use crate::config::Settings;
use crate::flow::limit::LineRate;
use crate::flow::names::NameTable;
use crate::flow::sink::FlowLog;
use crate::kernel::{Applied, Drift, Kernel, SWEEP_CAP};
use crate::kubernetes::Cluster;
use crate::plan::{Intent, Refusal, Unknown};
use crate::policy::source::{Kept, from_kept, versions};
use crate::policy::store::Reading;
use crate::publish::MOST_REFUSED;
use crate::resolve::{ResolvedPolicy, resolve};
use crate::serve::{Board, Stage, Waits};
use crate::workload::model::{Snapshot, WorkloadKey};
use crate::workload::source::Kept as Texts;
use crate::workload::{Discovery, Newcomers, Published};

/// How long an address waits for an id if its workload has had too many new ones.
const NEW_IDS: Duration = Duration::from_mins(1);

/// The kernel side, and everything that the daemon keeps in step with it.
pub(super) struct Reconciler {
    kernel: Kernel,
    denials: DenialLog,
    states: StateDir,
    unknown: Unknown,
    window: Option<Duration>,
    snapshot: Option<Arc<Snapshot>>,
    /// Texts of the sources from which the snapshot was made.
    texts: Texts,
    resolved: Option<Arc<ResolvedPolicy>>,
    /// Texts of the policies in force, from which the report has their versions.
    kept: Kept,
    opening: Opening,
    pace: Pace,
    /// What is in the kernel, wholly; `None`: something is left to be done.
    intent: Option<Intent>,
    /// When an address that has no id yet may get one.
    ids_later: Option<Instant>,
    owners: BTreeMap<IncarnationId, WorkloadKey>,
    /// What the steps of bringing something in force have come to.
    report: Report,
    reporter: Reporter,
    meter: Meter,
    publisher: Publisher,
}

impl Reconciler {
    pub(super) fn new(
        options: &Options,
        node: &str,
        kernel: Kernel,
        states: StateDir,
        earlier: Option<InForce>,
        log: FlowLog,
        board: Arc<Board>,
    ) -> Result<Self, AgentError> {
        let meter = Meter::new(board);
        let opening = Opening::new(Duration::from_secs(options.settings.opening_wait_seconds), earlier.as_ref());
        let mut names = NameTable::default();
        if let Some(earlier) = earlier {
            name_earlier(&kernel, earlier, &mut names);
        }
        let denials =
            DenialLog::start(kernel.denials()?, log, line_rate(&options.settings), node, names, meter.board())?;
        Ok(Self {
            denials,
            states,
            unknown: options.unknown,
            // A veth that appeared while no daemon ran is new all the same: the window is for the first run alone.
            window: options.settings.window().filter(|_| kernel.is_first_run()),
            snapshot: None,
            texts: Texts::new(),
            resolved: None,
            kept: Kept::new(),
            opening,
            pace: Pace::default(),
            intent: None,
            ids_later: None,
            owners: BTreeMap::new(),
            report: Report {
                pid: std::process::id(),
                unknown_open: options.unknown == Unknown::Open,
                ..Report::default()
            },
            reporter: Reporter::default(),
            meter,
            publisher: Publisher::default(),
            kernel,
        })
    }

    /// Tells the Kubernetes API from now on what holds on this node.
    pub(super) fn publish(&mut self, cluster: &Cluster) {
        self.publisher = Publisher::to(cluster);
    }

    /// Attaches closed programs to veths that have none yet, before any policy is known for them. At the very first
    /// start this does nothing: there the plan comes first, so that running containers are not cut off. Veths with
    /// programs stay unchanged.
    pub(super) fn close_new(&mut self, veths: &BTreeSet<Ifindex>, newcomers: &Newcomers) {
        if self.kernel.is_first_run() {
            return;
        }
        // Their numbers may be others' by now.
        match self.kernel.forget_gone() {
            Ok(gone) if gone.is_empty() => {}
            Ok(_) => {
                self.intent = None;
                self.pace.workloads_went();
            }
            Err(error) => {
                tracing::warn!(%error, "cannot remove the kernel state of veths that are gone; trying again later");
            }
        }
        let attached = self.kernel.endpoints();
        for ifindex in veths.difference(&attached) {
            if let Err(error) = self.kernel.attach_unknown(*ifindex) {
                tracing::warn!(ifindex = ifindex.0, %error, "there is no room for a new veth, or it cannot be attached to, so it is closed; trying again");
                self.intent = None;
            } else {
                self.meter.attached(newcomers.take(*ifindex));
            }
        }
    }

    /// Attaches guards to the devices that lead to no workload, and takes them off those that do.
    fn guard(&mut self, snapshot: &Snapshot) {
        for error in self.kernel.guard(&snapshot.others.keys().copied().collect()) {
            tracing::warn!(%error, "cannot guard a device against packets from addresses of workloads yet; trying again");
        }
    }

    /// Takes a new snapshot of the workloads. It is put in force even if no workload has changed: the texts of the
    /// sources, which come with it, are what a later daemon goes on from.
    pub(super) fn workloads(
        &mut self,
        published: &Published,
        policies: &mut Policies,
        newcomers: &Newcomers,
    ) -> Result<(), AgentError> {
        let snapshot = Arc::clone(&published.snapshot);
        let veths = snapshot.local.values().flat_map(|workload| workload.endpoints.keys().copied());
        self.close_new(&veths.collect(), newcomers);
        self.guard(&snapshot);
        let before = self.snapshot.as_deref();
        match devices::News::between(before, &snapshot) {
            Some(devices::News::All { uplinks, workloads }) => {
                tracing::info!(
                    ?uplinks,
                    ?workloads,
                    "the uplinks lead out of the node; the other veths belong to workloads"
                );
            }
            Some(devices::News::Workloads { appeared, gone }) => {
                tracing::info!(?appeared, ?gone, "the veths of workloads have changed");
            }
            None => {}
        }
        self.snapshot = Some(snapshot);
        self.texts = published.kept.clone();
        self.reconcile(policies)
    }

    /// Puts the present policies and workloads in force. It returns an error, which ends the daemon, only before the
    /// first image is in force.
    pub(super) fn reconcile(&mut self, policies: &mut Policies) -> Result<(), AgentError> {
        let Some(snapshot) = self.snapshot.clone() else { return Ok(()) };
        let Some(reading) = policies.current().cloned() else {
            // Only veths can be closed until somebody mends the policies, or until they are listed.
            self.report.apply_error = Some(policies.why_none().to_owned());
            return Ok(());
        };
        let last_changes = policies.last_changes();
        let outcome = match self.bring_in_force(&reading, &snapshot, &last_changes) {
            Err(AgentError::Compile(error)) if policies.roll_back(&error.to_string()) => {
                self.meter.failed(Stage::Compile);
                let Some(previous) = policies.current().cloned() else { return Ok(()) };
                self.bring_in_force(&previous, &snapshot, &last_changes)
            }
            Ok(()) => {
                policies.settle();
                Ok(())
            }
            other => other,
        };
        match &outcome {
            Ok(()) => {}
            Err(AgentError::Compile(_)) => self.meter.failed(Stage::Compile),
            Err(_) => self.meter.failed(Stage::Apply),
        }
        match outcome {
            Ok(()) => self.report.apply_error = None,
            Err(error) if self.kernel.revision().revision == Revision::NONE => return Err(error),
            Err(error) => {
                tracing::error!(
                    %error,
                    "cannot put the newest policies and workloads in force; the last good policies stay in force"
                );
                self.report.apply_error = Some(error.to_string());
            }
        }
        Ok(())
    }

    fn bring_in_force(
        &mut self,
        reading: &Reading,
        snapshot: &Arc<Snapshot>,
        last_changes: &LastChanges,
    ) -> Result<(), AgentError> {
        let begin = Instant::now();
        let newest = self.state_of(Revision::NONE, reading.kept(), snapshot);
        let (states, opening) = (&mut self.states, &mut self.opening);
        let (chosen, resolved) = thread::scope(|scope| {
            // Beside the compiler, which takes longer. `save` writes what this could not, and tells why if it cannot either.
            scope.spawn(|| drop(states.prepare(&newest)));
            opening.choose(reading, snapshot, last_changes)
        })?;
        let intent = Intent::new(chosen.image.clone(), snapshot, self.unknown, self.window);
        let unchanged = self.intent.as_ref() == Some(&intent);
        let revision = if unchanged { self.kernel.revision().revision } else { self.kernel.next_revision() };
        let state = self.state_of(revision, chosen.kept.clone(), snapshot);
        self.states.save(&state).map_err(AgentError::State)?;
        // Held, so that no denial of the new revision is read before its names are in.
        let names = self.denials.names();
        let mut names = names.hold();
        if !unchanged {
            let applied = self.kernel.apply(&intent.plan())?;
            self.intent = applied.failures.is_empty().then_some(intent);
            self.take_over(applied, snapshot);
            self.states.keep_only(revision);
            self.meter.applied(begin.elapsed());
            let (policies, workloads) = (reading.set.policies.len(), snapshot.local.len());
            tracing::info!(
                revision = revision.0,
                policies,
                workloads,
                "the newest policies and workloads are in force"
            );
        }
        // Also where the image is the same: names, labels and lines may not be.
        names.install(revision, snapshot, &self.owners, Arc::clone(&chosen.names));
        self.opening.took(&chosen, reading);
        self.report.policy_count = reading.set.policies.len();
        if self.kept != chosen.kept {
            self.report.versions = versions(&chosen.kept).into();
            self.kept.clone_from(&chosen.kept);
        }
        self.report.policies_skipped = (!reading.skipped.is_empty()).then(|| reading.skipped.to_string());
        self.resolved = Some(resolved);
        Ok(())
    }

    fn state_of(&self, revision: Revision, policies: Kept, snapshot: &Arc<Snapshot>) -> InForce {
        let (workloads, snapshot) = (self.texts.clone(), Arc::clone(snapshot));
        InForce { revision, policies, workloads, snapshot, unknown: self.unknown }
    }

    fn take_over(&mut self, applied: Applied, snapshot: &Snapshot) {
        let Applied { word: _, ids, refused, failures } = applied;
        for refused in &refused {
            let (workload, address) = (refused.key.0, std::net::IpAddr::from(refused.address));
            match refused.why {
                Refusal::NoPlace => tracing::warn!(
                    workload,
                    %address,
                    "the workload has more addresses than fit into its endpoint; this one is ignored"
                ),
                Refusal::TooManyNew => tracing::warn!(
                    workload,
                    %address,
                    "the workload has had too many new addresses; this one is ignored for a minute"
                ),
            }
        }
        let later = refused.iter().any(|refused| refused.why == Refusal::TooManyNew);
        self.ids_later = later.then(|| Instant::now() + NEW_IDS);
        if !failures.is_empty() {
            self.meter.failed(Stage::Apply);
        }
        for error in &failures {
            tracing::warn!(%error, "one step of the newest change is not done yet; trying again");
        }
        self.report.unfinished = failures.iter().map(ToString::to_string).collect();
        self.owners.extend(ids.into_iter().map(|(key, id)| (id, key)));
        self.owners.retain(|_, key| snapshot.local.contains_key(key));
        self.denials.living(self.kernel.living_ids());
        self.pace.workloads_went();
    }

    /// Frees idle flows if that is due, in one run of the sweep. Returns false if there may be more of them.
    pub(super) fn sweep(&mut self) -> bool {
        let begin = Instant::now();
        if !self.pace.is_due(begin, || self.kernel.flows_are_scarce()) {
            return true;
        }
        let swept = self.kernel.sweep();
        let (next, is_behind) = match &swept {
            Ok(swept) => (swept.next, swept.deleted >= SWEEP_CAP),
            Err(error) => {
                tracing::warn!(%error, "cannot remove idle flows from the flow table; trying again");
                (Some(Duration::ZERO), false)
            }
        };
        self.pace.swept(begin, begin.elapsed(), next, is_behind);
        !is_behind
    }

    /// When what a change of the policies would open may be put in force; `None`: nothing is held back.
    pub(super) fn opening_due(&self, policies: &Policies) -> Option<Instant> {
        // What could not be put in force is tried again by `verify`.
        self.opening.due(&policies.last_changes(), self.report.apply_error.is_some())
    }

    /// Compares the kernel with the plan, repairs differences, and tries failed steps again.
    pub(super) fn verify(&mut self, policies: &mut Policies) -> Result<(), AgentError> {
        match self.kernel.verify() {
            Ok(drift) => self.repair(&drift),
            Err(error) => tracing::error!(%error, "cannot compare the state of the kernel with the plan; trying again"),
        }
        if self.ids_later.is_some_and(|time| Instant::now() >= time) {
            self.intent = None;
        }
        if self.intent.is_none() || self.report.apply_error.is_some() { self.reconcile(policies) } else { Ok(()) }
    }

    fn repair(&mut self, drift: &[Drift]) {
        if !drift.is_empty() {
            self.meter.look_again();
        }
        for part in drift {
            tracing::warn!(%part, "kernel state was changed by something else; repairing it");
        }
        // A damaged image is replaced by the next plan, so there must be one.
        if drift.contains(&Drift::Image) {
            self.intent = None;
        }
        let left = self.kernel.repair(drift);
        for (part, error) in &left {
            tracing::error!(%part, %error, "cannot repair this part of the kernel state; trying again");
        }
        self.report.repaired += (drift.len() - left.len()) as u64;
    }

    /// Whether the daemon has no first snapshot of the workloads yet.
    pub(super) fn awaits_sources(&self) -> bool {
        self.snapshot.is_none()
    }

    /// The revision in force.
    pub(super) fn revision(&self) -> Revision {
        self.kernel.revision().revision
    }

    /// Writes the report for `status` if it has changed.
    pub(super) fn report(&mut self, policies: &Policies, discovery: &Discovery) {
        let now = Shown {
            own: self.report.clone(),
            published: discovery.latest().into(),
            refused_sources: discovery.refused_sources(),
            mode: discovery.mode(),
            snapshot: self.snapshot.clone().into(),
            resolved: self.resolved.clone().into(),
            places: policies.places(),
            stale: policies.stale(),
            policy_error: policies.error(),
            refused: policies.refused(MOST_REFUSED),
            opening_waits: self.opening.is_held(),
            counts: self.denials.counts(),
        };
        let mut stale = discovery.stale_sources();
        stale.extend(policies.are_behind().then_some("policies"));
        let waits = self.waits(policies, discovery);
        let (ready, revision) = (waits.is_none(), self.kernel.revision().revision);
        let (snapshot, unfinished) = (self.snapshot.as_ref(), self.report.unfinished.as_slice());
        let state = Now { waits, snapshot, unfinished, stale, refusals: policies.refusals() };
        self.meter.tell(state, || self.kernel.enforced());
        let beside = Beside { ready, revision, endpoints: self.meter.endpoints() };
        self.publisher.tell(&now, self.reporter.is_news(&now), beside);
        self.reporter.write(now, &self.states);
    }

    /// What the first full set of policies and workloads waits for; `None`: it is in the kernel.
    fn waits(&self, policies: &Policies, discovery: &Discovery) -> Option<Waits> {
        if self.intent.is_some() {
            return None;
        }
        Some(if self.snapshot.is_none() {
            Waits::Sources(discovery.silent_sources())
        } else if policies.current().is_none() {
            Waits::Policies
        } else if self.report.apply_error.is_some() || self.report.unfinished.is_empty() {
            Waits::Kernel
        } else {
            Waits::Steps(self.report.unfinished.len())
        })
    }

    /// Writes the queued records to the flow log.
    pub(super) fn finish(self) {
        self.denials.finish();
    }
}

/// How many lines of the flow log a workload may cause; `None`: any number.
fn line_rate(settings: &Settings) -> Option<LineRate> {
    let (per_second, burst) = (settings.flow_log_lines_per_second, settings.flow_log_burst);
    (per_second > 0).then_some(LineRate { per_second, burst })
}

/// Gives names to denials of the image that an earlier daemon left, until this daemon has put an image in force.
fn name_earlier(kernel: &Kernel, earlier: InForce, names: &mut NameTable) {
    let Ok(set) = from_kept(&earlier.policies) else { return };
    let snapshot = earlier.snapshot;
    let key_of = |ifindex: Ifindex| {
        let holder = snapshot.local.iter().find(|(_, workload)| workload.endpoints.contains_key(&ifindex));
        holder.map(|(key, _)| *key)
    };
    let adopted = kernel.adopted().iter();
    let owners: BTreeMap<_, _> =
        adopted.filter_map(|endpoint| Some((endpoint.id, key_of(endpoint.ifindex)?))).collect();
    let resolved = Arc::new(resolve(set, Arc::clone(&snapshot)));
    names.install(earlier.revision, &snapshot, &owners, resolved);
}
