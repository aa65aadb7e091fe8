//! Keeps the kernel at what policies and workloads say, and turns what it denied into records.
//!
//! Input: changes, one at a time. Output: a plan in force, names for its denials, the report for `status`.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use enforcer_common::denial::BusyKey;
use enforcer_common::id::{Direction, OwnerId};
use jiff::Timestamp;

use super::Options;
use super::error::AgentError;
use super::plan::{Intent, Unknown};
use super::policies::Policies;
use super::report::{Report, WorkloadLine};
use super::state::{InForce, StateDir};
use crate::compile::compile;
use crate::flow::enrich::{Denial, Enricher};
use crate::flow::names::NameTable;
use crate::flow::sink::FlowLog;
use crate::kernel::{self, Applied, Denials, Kernel};
use crate::policy::load::from_sources;
use crate::resolve::{ResolvedPolicy, resolve};
use crate::workload::model::{Snapshot, WorkloadKey};
use crate::workload::{Discovery, Mode};

/// How long the flow log may take to write what is queued when the daemon stops.
const LAST_WORDS: Duration = Duration::from_secs(2);

/// The kernel side and all that goes with it.
pub(super) struct Reconciler {
    kernel: Kernel,
    denials: Denials,
    log: FlowLog,
    names: NameTable,
    enricher: Enricher,
    states: StateDir,
    unknown: Unknown,
    window: Option<Duration>,
    snapshot: Option<Arc<Snapshot>>,
    resolved: Option<Arc<ResolvedPolicy>>,
    /// What is in the kernel, and under which ids.
    intent: Option<Intent>,
    owners: BTreeMap<OwnerId, WorkloadKey>,
    attached: BTreeSet<u32>,
    report: Report,
    told_lost: u64,
}

impl Reconciler {
    pub(super) fn new(
        options: &Options,
        node: &str,
        kernel: Kernel,
        states: StateDir,
        earlier: Option<InForce>,
        log: FlowLog,
    ) -> Result<Self, AgentError> {
        let denials = kernel.denials()?;
        let fresh = kernel.revision().revision == 0;
        let mut reconciler = Self {
            denials,
            log,
            names: NameTable::default(),
            enricher: Enricher::new(node),
            states,
            unknown: options.unknown,
            // A veth that appeared while no daemon ran is new all the same: the window is for the first run alone.
            window: options.settings.window().filter(|_| fresh),
            snapshot: None,
            resolved: None,
            intent: None,
            owners: BTreeMap::new(),
            attached: kernel.adopted().iter().map(|endpoint| endpoint.ifindex).collect(),
            report: Report {
                pid: std::process::id(),
                unknown_open: options.unknown == Unknown::Open,
                ..Report::default()
            },
            told_lost: 0,
            kernel,
        };
        if let Some(earlier) = earlier {
            reconciler.name_earlier(earlier);
        }
        Ok(reconciler)
    }

    /// Names what the image that an earlier run left denies, until there is one of our own.
    fn name_earlier(&mut self, earlier: InForce) {
        let Ok(loaded) = from_sources(earlier.sources()) else { return };
        let snapshot = Arc::new(earlier.snapshot);
        let key_of = |ifindex: u32| {
            let holder = snapshot.local.iter().find(|(_, workload)| workload.endpoints.contains_key(&ifindex));
            holder.map(|(key, _)| *key)
        };
        let adopted = self.kernel.adopted().iter();
        let owners =
            adopted.filter_map(|endpoint| Some((endpoint.id, key_of(endpoint.ifindex)?))).collect::<BTreeMap<_, _>>();
        let resolved = Arc::new(resolve(Arc::new(loaded.set), Arc::clone(&snapshot)));
        self.names.install(earlier.revision, &snapshot, &owners, resolved);
    }

    /// The workloads have changed.
    pub(super) fn workloads(&mut self, snapshot: Arc<Snapshot>, policies: &Policies) {
        // A new veth is closed at once; its row comes with the plan. At the very first start the plan comes first, so that
        // running containers are not cut.
        if self.kernel.revision().revision != 0 {
            for ifindex in snapshot.local.values().flat_map(|workload| workload.endpoints.keys()) {
                if !self.attached.contains(ifindex) {
                    match self.kernel.attach_unknown(*ifindex) {
                        Ok(()) => {
                            self.attached.insert(*ifindex);
                        }
                        Err(error) => tracing::warn!(ifindex, %error, "cannot attach to a new veth yet"),
                    }
                }
            }
        }
        if self.snapshot.as_ref().map(|before| &before.uplinks) != Some(&snapshot.uplinks) {
            let uplinks: Vec<&str> = snapshot.uplinks.values().map(String::as_str).collect();
            tracing::info!(?uplinks, "devices towards the outside");
        }
        self.snapshot = Some(snapshot);
        self.reconcile(policies);
    }

    /// The policies have changed.
    pub(super) fn policies(&mut self, policies: &Policies) {
        self.reconcile(policies);
    }

    fn reconcile(&mut self, policies: &Policies) {
        let Some(snapshot) = self.snapshot.clone() else { return };
        match self.bring_in_force(policies, &snapshot) {
            Ok(()) => self.report.apply_error = None,
            Err(error) => {
                tracing::error!(%error, "the newest policies and workloads are not in force, the last good image stays");
                self.report.apply_error = Some(error.to_string());
            }
        }
    }

    fn bring_in_force(&mut self, policies: &Policies, snapshot: &Arc<Snapshot>) -> Result<(), AgentError> {
        let resolved = Arc::new(resolve(Arc::clone(policies.set()), Arc::clone(snapshot)));
        let image = compile(&resolved)?;
        let intent = Intent::new(image, snapshot, self.unknown, self.window);
        let unchanged = self.intent.as_ref() == Some(&intent);
        let revision = if unchanged { self.kernel.revision().revision } else { self.kernel.next_revision() };
        self.save(revision, policies, snapshot)?;
        if !unchanged {
            let applied = self.kernel.apply(&intent.plan())?;
            self.take_over(applied, snapshot);
            self.intent = Some(intent);
            self.states.keep_only(revision);
            tracing::info!(
                revision,
                policies = policies.set().policies.len(),
                workloads = snapshot.local.len(),
                "in force"
            );
        }
        // Also where the image is the same: names, labels and lines may not be.
        self.names.install(
            revision,
            snapshot,
            &self.owners,
            Arc::clone(&resolved) as Arc<dyn crate::flow::names::Policies>,
        );
        self.resolved = Some(resolved);
        Ok(())
    }

    fn save(&self, revision: u32, policies: &Policies, snapshot: &Snapshot) -> Result<(), AgentError> {
        let policies = policies.sources().iter().map(|file| (file.path.to_string(), file.text.clone())).collect();
        self.states.save(&InForce { revision, policies, snapshot: snapshot.clone() }).map_err(AgentError::State)
    }

    fn take_over(&mut self, applied: Applied, snapshot: &Snapshot) {
        let Applied { word: _, ids, refused, failures } = applied;
        for refused in refused {
            let address = std::net::IpAddr::from(refused.address);
            tracing::warn!(workload = refused.key, %address, "too many addresses: this one is nobody's");
        }
        for error in &failures {
            tracing::warn!(%error, "not everything is as planned yet; it is tried again");
        }
        self.attached = snapshot.local.values().flat_map(|workload| workload.endpoints.keys().copied()).collect();
        // An id that is gone may still be in denials that have not been read.
        self.owners.extend(ids.into_iter().map(|(key, id)| (id, WorkloadKey(key))));
        let living = |key: &WorkloadKey| snapshot.local.contains_key(key);
        self.owners.retain(|_, key| living(key));
    }

    /// Reads what has been denied and writes it to the flow log.
    pub(super) fn denials(&mut self, now: Timestamp) {
        let (report, failure) = self.denials.poll();
        self.log_denials(&report, now);
        if let Some(error) = failure {
            tracing::warn!(%error, "cannot read denials");
        }
    }

    fn log_denials(&mut self, report: &kernel::Report, now: Timestamp) {
        let flows = report.flows.iter().map(|seen| Denial::Flow { way: seen.way, count: seen.packets });
        let crowded = report.crowded.iter().map(|crowd| Denial::Busy {
            key: BusyKey {
                workload: crowd.workload,
                direction: crowd.direction as u8,
                reason: crowd.reason as u8,
                pad: 0,
            },
            count: crowd.packets,
        });
        for denial in flows.chain(crowded) {
            match self.enricher.enrich(&self.names, now, &denial) {
                Ok(record) => self.log.push(record),
                Err(error) => tracing::error!(%error, "a denial of another build"),
            }
        }
        let lost =
            self.denials.totals().map_or(self.told_lost, |totals| totals.values().map(|counts| counts.lost).sum());
        if lost > self.told_lost {
            self.log.lost_in_ring(now, lost - self.told_lost);
            self.told_lost = lost;
        }
    }

    /// Frees idle flows.
    pub(super) fn sweep(&mut self) {
        if let Err(error) = self.kernel.sweep() {
            tracing::warn!(%error, "cannot free idle flows");
        }
    }

    /// Compares the kernel with the plan and puts right what differs.
    pub(super) fn verify(&mut self) {
        let drift = match self.kernel.verify() {
            Ok(drift) => drift,
            Err(error) => return tracing::error!(%error, "cannot compare the kernel with the plan"),
        };
        for part in &drift {
            tracing::warn!(%part, "the kernel is not as planned, it is put right");
        }
        let left = self.kernel.repair(&drift);
        for (part, error) in &left {
            tracing::error!(%part, %error, "cannot be put right");
        }
        self.report.repaired += (drift.len() - left.len()) as u64;
    }

    pub(super) fn inventory_error(&mut self, error: Option<String>) {
        self.report.inventory_error = error;
    }

    /// Writes the report for `status` if it has changed.
    pub(super) fn report(&mut self, policies: &Policies, discovery: &Discovery) {
        let counts = self.log.counts();
        let report = Report {
            policies: policies.directory().display().to_string(),
            policy_count: policies.set().policies.len(),
            policy_error: policies.error().map(str::to_owned),
            findings: discovery.findings().iter().map(ToString::to_string).collect(),
            refused_claims: discovery.refused(),
            discovery: mode_text(discovery.mode()).to_owned(),
            uplinks: self.snapshot.iter().flat_map(|snapshot| snapshot.uplinks.values().cloned()).collect(),
            workloads: self.workload_lines(),
            flow_log_lines: counts.lines,
            flow_log_lost: counts.lost_records,
            disagreements: self.enricher.disagreements(),
            ..self.report.clone()
        };
        if report == self.report {
            return;
        }
        let text = serde_json::to_vec_pretty(&report).unwrap_or_default();
        match self.states.replace(&self.states.report(), &text) {
            Ok(()) => self.report = report,
            Err(error) => tracing::warn!(%error, "cannot write the report for `status`"),
        }
    }

    fn workload_lines(&self) -> Vec<WorkloadLine> {
        let (Some(snapshot), Some(resolved)) = (&self.snapshot, &self.resolved) else { return Vec::new() };
        let line = |(key, workload): (&WorkloadKey, &crate::workload::model::LocalWorkload)| WorkloadLine {
            name: workload.identity.as_ref().map(|identity| identity.name.to_string()).unwrap_or_default(),
            endpoints: workload.endpoints.iter().map(|(index, device)| (*index, device.name.clone())).collect(),
            addresses: workload.addresses.iter().map(ToString::to_string).collect(),
            policies: [Direction::Ingress, Direction::Egress]
                .map(|direction| resolved.isolation(*key, direction).map_or(0, |isolation| isolation.policies.len())),
        };
        snapshot.local.iter().map(line).collect()
    }

    /// Reads and writes out what there is.
    pub(super) fn finish(mut self, now: Timestamp) {
        let (report, failure) = self.denials.flush();
        self.log_denials(&report, now);
        if let Some(error) = failure {
            tracing::warn!(%error, "cannot read denials");
        }
        let counts = self.log.finish(LAST_WORDS);
        if counts.lost_records > 0 {
            tracing::warn!(records = counts.lost_records, "the flow log could not take everything");
        }
    }
}

fn mode_text(mode: Mode) -> &'static str {
    match mode {
        Mode::Events => "by events",
        Mode::Polling => "by polling: without CAP_NET_BROADCAST a change inside a container shows up to a second late",
    }
}
