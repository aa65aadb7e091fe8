//! The kernel side as the agent sees it: opened once, then told of veths and plans.
//!
//! Input: the pin directory, devices. Output: enforcement that stays when the process goes. Every step may be the last one
//! of a process: what is pinned is complete after each, or the next start completes it.

use std::borrow::Cow;
use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;

use enforcer_common::endpoint::Endpoint;
use enforcer_common::id::{Address, OwnerId, PolicyWord};
use enforcer_common::limits;
use enforcer_common::sweep::SweepArguments;
use nix::sys::resource::{Resource, getrlimit, setrlimit};

use crate::kernel::apply::read_uplinks;
use crate::kernel::denials::Denials;
use crate::kernel::error::KernelError;
use crate::kernel::hooks::attach::Links;
use crate::kernel::hooks::programs::{EMBEDDED, Programs, Tick};
use crate::kernel::pins::layout::{Layout, Lock};
use crate::kernel::pins::maps::Maps;
use crate::kernel::preflight;
use crate::kernel::tables::endpoints::EndpointTable;
use crate::kernel::tables::globals::{Globals, next_word};
use crate::kernel::tables::grace;
use crate::kernel::tables::quotas::{FlowFill, Quotas};
use crate::kernel::tables::slots::Slots;
use crate::plan::incarnation::{Ids, Incarnations, owned};

/// Flows that one run of the sweep deletes at most: where the kernel does not preempt itself, a run keeps every other task
/// off its CPU.
pub const SWEEP_CAP: u32 = 16_384;

/// How to open the kernel side.
#[derive(Clone, Debug)]
pub struct KernelConfig {
    /// Where everything is pinned.
    pub pin_dir: PathBuf,
    /// Entries of the flow table. Counts when the table is made; a pinned one keeps its size.
    pub flows: u32,
    /// Flows of one workload.
    pub flow_quota: u32,
    /// Another object than the embedded one.
    pub object: Option<Vec<u8>>,
}

impl Default for KernelConfig {
    fn default() -> Self {
        Self {
            pin_dir: PathBuf::from("/sys/fs/bpf/enforcer"),
            flows: limits::FLOWS,
            flow_quota: limits::FLOW_QUOTA,
            object: None,
        }
    }
}

/// An endpoint that an earlier daemon has left attached.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct AdoptedEndpoint {
    /// Host side of the veth.
    pub ifindex: u32,
    /// Id of the workload in denial records.
    pub id: OwnerId,
    /// Its own addresses.
    pub addresses: Vec<Address>,
}

/// Everything that is pinned in one directory.
#[derive(Debug)]
pub struct Kernel {
    pub(super) layout: Layout,
    _lock: Lock,
    pub(super) maps: Maps,
    pub(super) globals: Globals,
    pub(super) endpoints: EndpointTable,
    pub(super) quotas: Quotas,
    pub(super) slots: Slots,
    pub(super) links: Links,
    pub(super) programs: Programs,
    pub(super) incarnations: Incarnations,
    pub(super) object: Cow<'static, [u8]>,
    /// The word as this process last saw or stored it.
    pub(super) word: PolicyWord,
    /// Programs may still read what the next plan writes.
    pub(super) owes_grace: bool,
    /// Pinned uplinks.
    pub(super) uplinks: BTreeSet<u32>,
    adopted: Vec<AdoptedEndpoint>,
}

/// Ids from the shared counter and places of `QUOTAS`.
pub(super) struct Given<'a> {
    pub(super) globals: &'a Globals,
    pub(super) quotas: &'a Quotas,
}

impl Ids for Given<'_> {
    fn owner(&self) -> Result<OwnerId, KernelError> {
        self.globals.next_owner()
    }

    fn quota(&self, id: OwnerId) -> Result<u32, KernelError> {
        self.quotas.take(id)
    }
}

impl Kernel {
    /// Takes over what an earlier daemon has left, or makes it.
    pub fn open(config: &KernelConfig) -> Result<Self, KernelError> {
        preflight::check(&config.pin_dir)?;
        let object: Cow<'static, [u8]> = match &config.object {
            Some(object) => Cow::Owned(object.clone()),
            None => Cow::Borrowed(EMBEDDED),
        };
        if object.is_empty() {
            return Err(KernelError::NoObject);
        }
        raise_descriptor_limit();
        let (layout, lock) = Layout::open(&config.pin_dir, preflight::namespace_cookie()?)?;
        let maps = Maps::open(&layout, config.flows)?;
        let globals = Globals::open(&maps, true)?;
        globals.seed()?;
        let links = Links::open(&layout)?;
        let mut endpoints = EndpointTable::open(&maps, true)?;
        // The last daemon may have died before its last wait.
        grace::wait()?;
        let word = globals.word();
        let slots = Slots::open(&layout, &maps, word)?;
        let quotas = Quotas::open(&maps, config.flow_quota, true)?;
        let programs = Programs::open(&layout, &maps, &object)?;
        // Written for a veth that was then not attached.
        let attached = links.devices();
        let idle: Vec<u32> = endpoints.iter().map(|endpoint| endpoint.ifindex).collect();
        for ifindex in idle.into_iter().filter(|ifindex| !attached.contains(ifindex)) {
            endpoints.free(ifindex)?;
        }
        globals.skip_owners(highest_id(&endpoints).max(quotas.highest()));
        quotas.keep(&endpoints.iter().map(|endpoint| endpoint.id).collect());
        let incarnations = Incarnations::adopt(endpoints.iter(), |id| quotas.place_of(id))?;
        let adopted = endpoints.iter().map(adopted).collect();
        let uplinks = read_uplinks(&maps.uplinks)?;
        Ok(Self {
            layout,
            _lock: lock,
            maps,
            globals,
            endpoints,
            quotas,
            slots,
            links,
            programs,
            incarnations,
            object,
            word,
            owes_grace: false,
            uplinks,
            adopted,
        })
    }

    /// What was attached when this was opened.
    pub fn adopted(&self) -> &[AdoptedEndpoint] {
        &self.adopted
    }

    /// The revision that the next plan gets.
    pub fn next_revision(&self) -> u32 {
        next_word(self.globals.word()).revision
    }

    /// The policy in force.
    pub fn revision(&self) -> PolicyWord {
        self.globals.word()
    }

    /// Devices that are attached or were to be.
    pub fn endpoints(&self) -> BTreeSet<u32> {
        self.endpoints.iter().map(|endpoint| endpoint.ifindex).collect()
    }

    /// Ids of the workloads behind all of these, unknown ones included.
    pub fn living_ids(&self) -> BTreeSet<OwnerId> {
        self.endpoints.iter().map(|endpoint| endpoint.id).collect()
    }

    /// Devices towards the outside, as they are pinned: those of the last plan, be it an earlier daemon's.
    pub fn pinned_uplinks(&self) -> BTreeSet<u32> {
        self.uplinks.clone()
    }

    /// Whether no plan has ever come as far as to try to attach to everything that it names. Until then running containers
    /// are not cut: the plan comes first, then the programs. A daemon that is killed in between leaves it so.
    pub fn is_first_run(&self) -> bool {
        !self.globals.has_begun()
    }

    /// Attaches to a veth before anybody knows whose it is: closed until a plan names it.
    pub fn attach_unknown(&mut self, ifindex: u32) -> Result<(), KernelError> {
        if self.endpoints.get(ifindex).is_some() {
            if self.links.is_attached(ifindex) {
                return Ok(());
            }
            // Another device had this number.
            self.detach(ifindex)?;
        }
        let given = Given { globals: &self.globals, quotas: &self.quotas };
        let (id, workload) = self.incarnations.unclaimed(&given)?;
        let endpoint = Endpoint { ifindex, workload, id, ..Endpoint::FREE };
        let attached = match self.endpoints.store(&endpoint) {
            Ok(()) => self.links.attach(ifindex, &self.programs),
            Err(error) => Err(error),
        };
        if attached.is_err() && !self.links.devices().contains(&ifindex) {
            for error in self.forget(&[ifindex].into()) {
                tracing::warn!(ifindex, %error, "an attach that failed is not taken back yet");
            }
        }
        attached
    }

    /// Deletes idle flows and those of workloads that are gone; gives how many. [`SWEEP_CAP`]: there may be more.
    pub fn sweep(&self) -> Result<u32, KernelError> {
        let tick = Tick::of_kernel()?;
        let arguments = SweepArguments { tick_shift: tick.shift, tick_ms: tick.milliseconds, cap: SWEEP_CAP };
        self.programs.sweep().run(arguments)
    }

    /// How full the flow table is.
    pub fn flow_fill(&self) -> FlowFill {
        self.quotas.fill()
    }

    /// A reader of denied packets, for a thread of its own. One at a time: what it has reported is kept beside the maps.
    pub fn denials(&self) -> Result<Denials, KernelError> {
        Denials::open(&self.layout, &self.maps)
    }

    /// Every endpoint as the kernel should have it.
    pub(super) fn current(&self) -> BTreeMap<u32, Endpoint> {
        self.endpoints.iter().map(|endpoint| (endpoint.ifindex, *endpoint)).collect()
    }
}

// The agent calls both from threads of their own.
const _: () = {
    const fn sent<T: Send>() {}
    sent::<Kernel>();
    sent::<Denials>();
};

fn adopted(endpoint: &Endpoint) -> AdoptedEndpoint {
    AdoptedEndpoint {
        ifindex: endpoint.ifindex,
        id: endpoint.id,
        addresses: owned(endpoint).map(|(address, _)| address).collect(),
    }
}

fn highest_id(endpoints: &EndpointTable) -> u32 {
    let ids = endpoints.iter().flat_map(|endpoint| endpoint.owners.into_iter().chain([endpoint.id]));
    ids.map(|id| id.0).max().unwrap_or(0)
}

/// Two links of each veth are held open.
fn raise_descriptor_limit() {
    if let Ok((soft, hard)) = getrlimit(Resource::RLIMIT_NOFILE)
        && soft < hard
        && let Err(error) = setrlimit(Resource::RLIMIT_NOFILE, hard, hard)
    {
        tracing::warn!(%error, "the limit of open files stays at {soft}");
    }
}
