//! The tables that the programs read, and that user space writes.
//!
//! Input: the pinned maps. Output: the tables as one part. The part also knows when programs may still read a value that was
//! overwritten: every write after which the next one must wait goes through here.

mod census;
mod endpoints;
mod globals;
mod grace;
mod homes;
mod mmap;
mod quotas;
mod slots;
mod uplinks;
mod veths;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use enforcer_common::endpoint::Endpoint;
use enforcer_common::home::HomeKey;
use enforcer_common::id::{Address, Ifindex, IncarnationId, OwnerId, PolicyWord, QuotaPlace, Revision, Slot};

pub(crate) use endpoints::EndpointTable;
pub(crate) use globals::Globals;
pub(crate) use mmap::Mapped;
pub(crate) use quotas::Quotas;
pub use quotas::{FlowFill, FullShare};
pub(crate) use slots::read_header;
pub(crate) use uplinks::Uplinks;

use globals::next_word;
use homes::Homes;
use slots::Slots;
use veths::Veths;

use crate::kernel::error::KernelError;
use crate::kernel::pins::Pins;
use crate::plan::{Plan, Supply};

/// Every table that a plan changes.
#[derive(Debug)]
pub(crate) struct Tables {
    globals: Globals,
    endpoints: EndpointTable,
    quotas: Arc<Quotas>,
    slots: Slots,
    uplinks: Uplinks,
    homes: Homes,
    veths: Veths,
    /// The word as this process last saw or stored it.
    word: PolicyWord,
    /// Programs may still read what the next plan writes.
    owes_grace: bool,
    /// This process has put a policy in force.
    has_applied: bool,
}

impl Tables {
    /// Reads the tables and checks the image in force. An image that may have another layout is not checked.
    pub(crate) fn open(pins: &Pins, flow_quota: u32, error_bytes: u32) -> Result<Self, KernelError> {
        let maps = &pins.maps().flows;
        let globals = Globals::open(maps, true)?;
        globals.seed()?;
        globals.set_error_bytes(error_bytes);
        let endpoints = EndpointTable::open(maps, true)?;
        // The last daemon may have died before its last wait.
        grace::wait()?;
        let word = globals.word();
        let slots = Slots::open(pins.layout(), &pins.maps().policy);
        if !pins.has_other_policy() {
            slots.check_whole(word)?;
        }
        let quotas = Arc::new(Quotas::open(maps, flow_quota, true)?);
        let uplinks = Uplinks::open(maps)?;
        let homes = Homes::open(&pins.maps().homes)?;
        let veths = Veths::open(&pins.maps().veths)?;
        Ok(Self {
            globals,
            endpoints,
            quotas,
            slots,
            uplinks,
            homes,
            veths,
            word,
            owes_grace: false,
            has_applied: false,
        })
    }

    /// Gives up what a start that was cut short has left: endpoints that were written for a veth which was then not attached,
    /// and the places of incarnations without an endpoint.
    pub(crate) fn keep_only(&mut self, attached: &BTreeSet<Ifindex>) -> Result<(), KernelError> {
        let known: Vec<Ifindex> = self.endpoints.iter().map(|endpoint| endpoint.ifindex).collect();
        for ifindex in known.into_iter().filter(|ifindex| !attached.contains(ifindex)) {
            self.endpoints.free(ifindex)?;
        }
        let highest = self.endpoints.ids().chain(self.quotas.ids().map(IncarnationId::owner)).max();
        self.globals.skip_owners(highest.unwrap_or(OwnerId::NONE));
        self.quotas.keep(&self.endpoints.iter().map(|endpoint| endpoint.id).collect());
        self.quotas.share_out();
        Ok(())
    }

    /// The word in the kernel.
    pub(crate) fn word_in_force(&self) -> PolicyWord {
        self.globals.word()
    }

    /// The word as this process last saw or stored it.
    pub(crate) fn word(&self) -> PolicyWord {
        self.word
    }

    /// The word of the next image.
    pub(crate) fn next_word(&self) -> PolicyWord {
        next_word(self.globals.word())
    }

    /// Stores the word once more.
    pub(crate) fn restore_word(&self) {
        self.globals.set_word(self.word);
    }

    /// Puts a policy in force, in one step.
    pub(crate) fn put_in_force(&mut self, word: PolicyWord) {
        self.owes_grace = true;
        self.globals.set_word(word);
        self.word = word;
        self.has_applied = true;
    }

    /// Whether this process has put a policy in force.
    pub(crate) fn has_applied(&self) -> bool {
        self.has_applied
    }

    /// Whether a first plan was once put in force and everything that it names attached to.
    pub(crate) fn has_begun(&self) -> bool {
        self.globals.has_begun()
    }

    /// Notes that the first plan is through.
    pub(crate) fn begin(&self) {
        self.globals.begin();
    }

    /// Fills a slot that no program judges by.
    pub(crate) fn fill(&self, slot: Slot, plan: &Plan<'_>) -> Result<(), KernelError> {
        self.slots.fill(slot, plan)
    }

    /// Whether the image in force is still whole.
    pub(crate) fn check_image(&self) -> Result<(), KernelError> {
        if self.word.revision == Revision::NONE { Ok(()) } else { self.slots.check(self.word).map(|_| ()) }
    }

    /// Every endpoint, by ifindex.
    pub(crate) fn endpoints(&self) -> impl Iterator<Item = &Endpoint> {
        self.endpoints.iter()
    }

    /// Every endpoint as the kernel should have it.
    pub(crate) fn current(&self) -> BTreeMap<Ifindex, Endpoint> {
        self.endpoints.iter().map(|endpoint| (endpoint.ifindex, *endpoint)).collect()
    }

    /// Whether a device has an endpoint.
    pub(crate) fn has_endpoint(&self, ifindex: Ifindex) -> bool {
        self.endpoints.get(ifindex).is_some()
    }

    /// Stores the endpoint of a device whose programs do not run yet.
    pub(crate) fn add(&mut self, endpoint: &Endpoint) -> Result<(), KernelError> {
        self.endpoints.store(endpoint)
    }

    /// Changes an endpoint under its programs.
    pub(crate) fn change(&mut self, endpoint: &Endpoint) -> Result<(), KernelError> {
        self.owes_grace = true;
        self.endpoints.store(endpoint)
    }

    /// Devices whose endpoint in the kernel is not what was last stored.
    pub(crate) fn changed_endpoints(&self) -> Result<Vec<Ifindex>, KernelError> {
        self.endpoints.drift()
    }

    /// Stores an endpoint again as it was last stored.
    pub(crate) fn restore_endpoint(&mut self, ifindex: Ifindex) -> Result<(), KernelError> {
        self.endpoints.restore(ifindex)
    }

    /// Frees the places of devices that were detached, once no program that ran there can read them any more. Gives the
    /// errors of single devices.
    pub(crate) fn free(&mut self, detached: &[Ifindex]) -> Result<Vec<KernelError>, KernelError> {
        grace::wait()?;
        let mut errors = Vec::new();
        for ifindex in detached {
            if self.has_endpoint(*ifindex) {
                errors.extend(self.endpoints.free(*ifindex).err());
            }
        }
        Ok(errors)
    }

    /// Waits until nothing that was stored is still read as it was before.
    pub(crate) fn settle(&mut self) -> Result<(), KernelError> {
        if self.owes_grace {
            grace::wait()?;
            self.endpoints.waited();
            self.owes_grace = false;
        }
        Ok(())
    }

    /// Waits until every program run that has begun is over.
    pub(crate) fn wait(&mut self) -> Result<(), KernelError> {
        self.owes_grace = true;
        self.settle()
    }

    /// Pinned uplinks.
    pub(crate) fn uplinks(&self) -> &BTreeSet<Ifindex> {
        self.uplinks.devices()
    }

    /// Adds the uplinks of a plan.
    pub(crate) fn add_uplinks(&mut self, wanted: &[Ifindex]) -> Result<(), KernelError> {
        self.uplinks.add(wanted)
    }

    /// Removes the uplinks that a plan does not name.
    pub(crate) fn remove_other_uplinks(&mut self, wanted: &[Ifindex]) -> Result<(), KernelError> {
        self.uplinks.remove_others(wanted)
    }

    /// Adds the homes of a plan's workloads. More of them take nothing from anybody else, so this comes before the word.
    pub(crate) fn add_homes(&mut self, wanted: &BTreeSet<HomeKey>) -> Result<(), KernelError> {
        self.homes.add(wanted)
    }

    /// Removes the homes that a plan does not name, once no program judges by an older one.
    pub(crate) fn remove_other_homes(&mut self, wanted: &BTreeSet<HomeKey>) -> Result<(), KernelError> {
        self.homes.remove_others(wanted)
    }

    /// Tells the programs on veths whether a packet to a Service is judged again behind the node's translation.
    pub(crate) fn set_judges_backends(&self, judges: bool) {
        self.globals.set_judges_backends(judges);
    }

    /// Says by which veth each address of a plan's workloads is reached, and forgets none.
    pub(crate) fn add_veths(&mut self, wanted: &BTreeMap<Address, Ifindex>) -> Result<(), KernelError> {
        self.veths.add(wanted)
    }

    /// Forgets the addresses that a plan does not name, once no workload may send from them.
    pub(crate) fn remove_other_veths(&mut self, wanted: &BTreeMap<Address, Ifindex>) -> Result<(), KernelError> {
        self.veths.remove_others(wanted)
    }

    /// Whether the veths of addresses in the kernel are not what was last stored.
    pub(crate) fn changed_veths(&self) -> Result<bool, KernelError> {
        self.veths.has_drifted()
    }

    /// Stores the veths of addresses again as they were last stored.
    pub(crate) fn restore_veths(&self) -> Result<(), KernelError> {
        self.veths.restore()
    }

    /// Whether the homes in the kernel are not what was last stored.
    pub(crate) fn changed_homes(&self) -> Result<bool, KernelError> {
        self.homes.has_drifted()
    }

    /// Stores the homes again as they were last stored.
    pub(crate) fn restore_homes(&self) -> Result<(), KernelError> {
        self.homes.restore()
    }

    /// What can be given to new workloads now. `used`: ids that somebody has, beside those in the tables.
    pub(crate) fn supply(&self, used: impl Iterator<Item = OwnerId>) -> Supply {
        let used = used.chain(self.endpoints.ids()).chain(self.quotas.ids().map(IncarnationId::owner));
        Supply::new(self.globals.next_owner(), used.collect(), self.quotas.free().into_iter(), self.quotas.room())
    }

    /// Stores what was given, before anything uses it. The counter comes first, so that no id is given twice, whenever the
    /// daemon dies.
    pub(crate) fn take(&self, supply: &Supply) {
        self.globals.set_next_owner(supply.next_owner());
        for (place, id) in supply.given() {
            self.quotas.give(*place, *id);
        }
        self.quotas.share_out();
    }

    /// The place of an incarnation in `QUOTAS`.
    pub(crate) fn place_of(&self, id: IncarnationId) -> Option<QuotaPlace> {
        self.quotas.place_of(id)
    }

    /// Gives back places of `QUOTAS`.
    pub(crate) fn release(&self, places: impl IntoIterator<Item = QuotaPlace>) {
        for place in places {
            self.quotas.release(place);
        }
        self.quotas.share_out();
    }

    /// The places of `QUOTAS`, which another thread may read.
    pub(crate) fn quotas(&self) -> Arc<Quotas> {
        Arc::clone(&self.quotas)
    }

    /// Whether some workload, or all together, may soon lack room for a new flow.
    pub(crate) fn flows_are_scarce(&self) -> bool {
        self.quotas.is_scarce()
    }

    /// How full the flow table is.
    pub(crate) fn flow_fill(&self) -> FlowFill {
        self.quotas.fill()
    }
}
