//! The kernel side as the agent sees it: the agent opens it once, and then gives it veths and plans.
//!
//! Input: the pin directory and devices. Output: enforcement that stays after the process has ended. The process may die
//! after any step: what is pinned is complete by then, or the next start completes it.

use std::collections::BTreeSet;

use enforcer_common::endpoint::Endpoint;
use enforcer_common::id::{Address, Ifindex, IncarnationId, PolicyWord, Revision};

use crate::kernel::apply::Applied;
use crate::kernel::counters::Counters;
use crate::kernel::denials::Denials;
use crate::kernel::error::KernelError;
use crate::kernel::hooks::{OwnLinks, Swept};
use crate::kernel::parts::{KernelConfig, Parts};
use crate::kernel::tables::FlowFill;
use crate::kernel::verify::Drift;
use crate::plan::{Plan, owned};

/// An endpoint that an earlier daemon has left attached.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct AdoptedEndpoint {
    /// Host side of the veth.
    pub ifindex: Ifindex,
    /// Id of the workload in denial records.
    pub id: IncarnationId,
    /// Its own addresses.
    pub addresses: Vec<Address>,
}

/// Everything that is pinned in one directory.
#[derive(Debug)]
pub struct Kernel {
    parts: Parts,
    adopted: Vec<AdoptedEndpoint>,
}

impl Kernel {
    /// Takes over the pins of an earlier daemon, or makes new ones.
    pub fn open(config: &KernelConfig) -> Result<Self, KernelError> {
        let parts = Parts::open(config)?;
        let adopted = parts.tables.endpoints().map(adopted).collect();
        Ok(Self { parts, adopted })
    }

    /// The endpoints that were attached when the kernel side was opened.
    pub fn adopted(&self) -> &[AdoptedEndpoint] {
        &self.adopted
    }

    /// The revision that the next plan gets.
    pub fn next_revision(&self) -> Revision {
        self.parts.tables.next_word().revision
    }

    /// The policy in force.
    pub fn revision(&self) -> PolicyWord {
        self.parts.tables.word_in_force()
    }

    /// Devices that are attached, or that a plan wanted to attach.
    pub fn endpoints(&self) -> BTreeSet<Ifindex> {
        self.parts.tables.endpoints().map(|endpoint| endpoint.ifindex).collect()
    }

    /// Ids of the workloads behind all of these, unknown ones included, and those that stand for guarded devices.
    pub fn living_ids(&self) -> BTreeSet<IncarnationId> {
        let guards = self.parts.guarded.iter().map(|ifindex| IncarnationId::of_device(*ifindex));
        self.parts.tables.endpoints().map(|endpoint| endpoint.id).chain(guards).collect()
    }

    /// The uplinks as they are pinned: those of the last plan, even if an earlier daemon made it.
    pub fn pinned_uplinks(&self) -> BTreeSet<Ifindex> {
        self.parts.tables.uplinks().clone()
    }

    /// Whether no plan has ever tried to attach to everything that it names. Until then the plan comes first and the
    /// programs second, so that running containers are not cut off. This stays true if the daemon is killed in
    /// between.
    pub fn is_first_run(&self) -> bool {
        !self.parts.tables.has_begun()
    }

    /// Puts a plan in force. An error: the last good image stays, and what is attached stays closed or as it was. A veth
    /// without programs is closed then, unless no image was ever in force.
    pub fn apply(&mut self, plan: &Plan<'_>) -> Result<Applied, KernelError> {
        let applied = self.parts.apply(plan);
        if applied.is_err() && self.revision().revision != Revision::NONE {
            self.parts.close_unattached(plan);
        }
        applied
    }

    /// Sees to it that exactly these devices, which lead to no workload, have a guard. Gives the errors of single devices.
    pub fn guard(&mut self, devices: &BTreeSet<Ifindex>) -> Vec<KernelError> {
        self.parts.guard(devices)
    }

    /// Attaches to a veth whose workload is not known yet. The veth is closed until a plan names it. An error: it is closed
    /// by a program that needs no table.
    pub fn attach_unknown(&mut self, ifindex: Ifindex) -> Result<(), KernelError> {
        self.parts.attach_unknown(ifindex)
    }

    /// Detaches a device that no longer belongs to a workload.
    pub fn detach(&mut self, ifindex: Ifindex) -> Result<(), KernelError> {
        first(self.parts.forget(&[ifindex].into()))
    }

    /// Forgets the devices that are not among the living.
    pub fn detach_gone(&mut self, live: &BTreeSet<Ifindex>) -> Result<(), KernelError> {
        let known = self.endpoints().into_iter().chain(self.parts.hooks.devices());
        let gone = known.filter(|ifindex| !live.contains(ifindex)).collect();
        first(self.parts.forget(&gone))
    }

    /// Forgets devices that went away, and gives them: the kernel may give their numbers to others. To be called before
    /// [`Kernel::attach_unknown`] whenever devices have changed.
    ///
    /// A veth of a plan that was only detached by somebody, and is still there, is left to [`Kernel::repair`]; one that
    /// nobody has claimed cannot be told from another device with its number, and goes.
    pub fn forget_gone(&mut self) -> Result<BTreeSet<Ifindex>, KernelError> {
        let gone = self.parts.gone()?;
        first(self.parts.forget(&gone))?;
        Ok(gone)
    }

    /// Whether packets to Services shall be judged behind the node's translation (D5), and this kernel can do that.
    pub fn can_judge_backends(&self) -> bool {
        self.parts.judge_services && self.parts.hooks.can_judge_backends()
    }

    /// Which links are ours, for a thread of its own.
    pub fn own_links(&self) -> OwnLinks {
        self.parts.hooks.own()
    }

    /// Compares the kernel with what this process last stored.
    pub fn verify(&self) -> Result<Vec<Drift>, KernelError> {
        self.parts.verify()
    }

    /// Repairs differences. Returns those that it could not repair, each with its error.
    pub fn repair(&mut self, drifts: &[Drift]) -> Vec<(Drift, KernelError)> {
        self.parts.repair(drifts)
    }

    /// Deletes idle flows and those of workloads that are gone. If the number is [`SWEEP_CAP`](crate::kernel::SWEEP_CAP),
    /// there may be more.
    pub fn sweep(&self) -> Result<Swept, KernelError> {
        self.parts.hooks.sweep()
    }

    /// Whether some workload, or all together, may soon lack room for a new flow.
    pub fn flows_are_scarce(&self) -> bool {
        self.parts.tables.flows_are_scarce()
    }

    /// How full the flow table is.
    pub fn flow_fill(&self) -> FlowFill {
        self.parts.tables.flow_fill()
    }

    /// A reader of numbers, for a thread of its own. There may be any number of them.
    pub fn counters(&self) -> Result<Counters, KernelError> {
        Counters::open(self.parts.pins.maps(), self.parts.tables.quotas())
    }

    /// Devices of workloads that have a place in the tables and programs that run.
    pub fn enforced(&self) -> BTreeSet<Ifindex> {
        let mut devices = self.endpoints();
        devices.retain(|ifindex| self.parts.hooks.is_attached(*ifindex));
        devices
    }

    /// A reader of denied packets, for a thread of its own. There may be only one at a time, because what it has
    /// reported is kept beside the maps.
    pub fn denials(&self) -> Result<Denials, KernelError> {
        Denials::open(self.parts.pins.layout(), self.parts.pins.maps())
    }
}

// The agent calls them from threads of their own.
const _: () = {
    const fn sent<T: Send>() {}
    sent::<Kernel>();
    sent::<Denials>();
    sent::<Counters>();
};

fn adopted(endpoint: &Endpoint) -> AdoptedEndpoint {
    AdoptedEndpoint {
        ifindex: endpoint.ifindex,
        id: endpoint.id,
        addresses: owned(endpoint).map(|(address, _)| address).collect(),
    }
}

fn first(errors: Vec<KernelError>) -> Result<(), KernelError> {
    errors.into_iter().next().map_or(Ok(()), Err)
}
