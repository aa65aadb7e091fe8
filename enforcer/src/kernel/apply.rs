//! Puts a plan in force: the order of design section 6. Until the word is stored nothing that is read has changed but
//! addresses that came or have another owner now, and ids of workloads; after it nothing can take the plan back, so what fails then is told and tried again.

use std::collections::{BTreeMap, BTreeSet};

use enforcer_common::id::{OwnerId, PolicyWord, Row};
use enforcer_common::image::Header;
use enforcer_common::limits::{UPLINKS, map};
use nix::time::{ClockId, clock_gettime};

use crate::kernel::control::{Given, Kernel};
use crate::kernel::error::{KernelError, on_map};
use crate::kernel::hooks::programs::Programs;
use crate::kernel::sys::Map;
use crate::kernel::tables::globals::next_word;
use crate::kernel::tables::grace;
use crate::kernel::tables::slots::Tables;
use crate::plan::incarnation::{Incarnations, Stage};
use crate::plan::{Plan, RefusedAddress};

/// A plan is in force.
#[derive(Debug)]
#[must_use]
pub struct Applied {
    /// Revision and epoch in force.
    pub word: PolicyWord,
    /// Id of each workload in denial records, by key.
    pub ids: BTreeMap<u64, OwnerId>,
    /// Addresses beyond the places of a workload: they stay without an owner.
    pub refused: Vec<RefusedAddress>,
    /// What went wrong after the plan came into force, device by device. The next plan tries again.
    pub failures: Vec<KernelError>,
}

impl Kernel {
    /// Puts a plan in force. An error: the last good image stays, and what is attached stays closed or as it was.
    pub fn apply(&mut self, plan: &Plan<'_>) -> Result<Applied, KernelError> {
        let tables = Tables { lines: plan.lines, addresses: plan.addresses };
        check(plan, &tables.check()?)?;
        self.settle()?;
        let word = next_word(self.globals.word());
        let (stage, incarnations) = self.stage(plan, word.slot())?;
        if let Err(error) = self.slots.fill(word.slot(), tables) {
            self.give_back(&incarnations);
            return Err(error);
        }
        self.incarnations = incarnations;
        self.add_uplinks(&plan.uplinks)?;
        self.owes_grace = true;
        for endpoint in stage.taken.iter().chain(&stage.before) {
            self.endpoints.store(endpoint)?;
        }

        self.globals.set_word(word);
        self.word = word;

        let failures = self.follow_up(plan, &stage);
        Ok(Applied { word, ids: stage.ids, refused: stage.refused, failures })
    }

    fn stage(&self, plan: &Plan<'_>, slot: usize) -> Result<(Stage, Incarnations), KernelError> {
        let given = Given { globals: &self.globals, quotas: &self.quotas };
        let now = clock_gettime(ClockId::CLOCK_BOOTTIME)
            .map_err(|error| KernelError::System { call: "clock_gettime", source: error.into() })?;
        let now = u64::try_from(std::time::Duration::from(now).as_nanos()).unwrap_or(u64::MAX);
        let mut incarnations = self.incarnations.clone();
        match incarnations.stage(&plan.workloads, &self.current(), &given, slot, now) {
            Ok(stage) => Ok((stage, incarnations)),
            Err(error) => {
                self.give_back(&incarnations);
                Err(error)
            }
        }
    }

    /// Gives back the places of incarnations that did not come to be.
    fn give_back(&self, incarnations: &Incarnations) {
        for (id, incarnation) in &incarnations.by_id {
            if !self.incarnations.by_id.contains_key(id) {
                self.quotas.release(incarnation.quota);
            }
        }
    }

    /// What follows the word. What fails of one device keeps nothing from the others.
    fn follow_up(&mut self, plan: &Plan<'_>, stage: &Stage) -> Vec<KernelError> {
        let mut failures = Vec::new();
        // Veths that wait for their first program come first: they are open until then.
        for endpoint in &stage.fresh {
            failures.extend(self.endpoints.store(endpoint).err());
        }
        self.attach_all(&mut failures);
        self.globals.begin();
        match self.settle() {
            Ok(()) => failures.extend(self.remove_uplinks(&plan.uplinks).err()),
            Err(error) => failures.push(error),
        }
        self.edit_addresses(stage, &mut failures);
        let gone = self.endpoints.iter().map(|endpoint| endpoint.ifindex);
        let gone: BTreeSet<u32> =
            gone.filter(|ifindex| plan.uplinks.contains(ifindex) || self.links.is_gone(*ifindex)).collect();
        failures.extend(self.forget(&gone));
        self.retire();
        if failures.is_empty() {
            failures.extend(Programs::remove_others(&self.layout, &self.maps, &self.object).err());
        }
        failures
    }

    /// Takes the ids of addresses that went away, wipes these, and gives their places to others.
    fn edit_addresses(&mut self, stage: &Stage, failures: &mut Vec<KernelError>) {
        // Each step of a device builds on the one before.
        let mut behind = BTreeSet::new();
        for (step, endpoints) in [&stage.after, &stage.wiped, &stage.late].into_iter().enumerate() {
            if endpoints.is_empty() {
                continue;
            }
            // Taking ids needs no wait, and must not be left out because one failed.
            if step != 0
                && let Err(error) = self.settle()
            {
                failures.push(error);
                return;
            }
            for endpoint in endpoints {
                if behind.contains(&endpoint.ifindex) || self.endpoints.get(endpoint.ifindex).is_none() {
                    continue;
                }
                self.owes_grace = true;
                if let Err(error) = self.endpoints.store(endpoint) {
                    failures.push(error);
                    behind.insert(endpoint.ifindex);
                }
            }
        }
    }

    /// Before the word: an uplink only takes rights away.
    fn add_uplinks(&mut self, wanted: &[u32]) -> Result<(), KernelError> {
        for ifindex in wanted {
            let added = self.maps.uplinks.update(&ifindex.to_ne_bytes(), &1_u32.to_ne_bytes());
            added.map_err(on_map(map::UPLINKS, "update"))?;
            self.uplinks.insert(*ifindex);
        }
        Ok(())
    }

    fn remove_uplinks(&mut self, wanted: &[u32]) -> Result<(), KernelError> {
        for ifindex in read_uplinks(&self.maps.uplinks)? {
            if !wanted.contains(&ifindex) {
                let removed = self.maps.uplinks.delete(&ifindex.to_ne_bytes());
                removed.map_err(on_map(map::UPLINKS, "delete"))?;
                self.uplinks.remove(&ifindex);
            }
        }
        Ok(())
    }

    /// Waits until nothing that was stored is still read as it was before.
    fn settle(&mut self) -> Result<(), KernelError> {
        if self.owes_grace {
            grace::wait()?;
            self.endpoints.waited();
            self.owes_grace = false;
        }
        Ok(())
    }

    /// Attaches every endpoint's programs where they are missing or not of this object.
    fn attach_all(&mut self, failures: &mut Vec<KernelError>) {
        let devices: Vec<u32> = self.endpoints.iter().map(|endpoint| endpoint.ifindex).collect();
        for ifindex in devices {
            if let Err(error) = self.links.attach(ifindex, &self.programs) {
                failures.push(error);
            }
        }
    }
}

/// Whether the plan agrees with itself.
fn check(plan: &Plan<'_>, header: &Header) -> Result<(), KernelError> {
    let mut devices = BTreeSet::new();
    for workload in &plan.workloads {
        for row in workload.rows {
            if row.0 >= header.rows && row != Row::NOT_ISOLATED && row != Row::NONE {
                return Err(KernelError::InvalidImage { what: "a workload's row is not in it" });
            }
        }
        for ifindex in &workload.endpoints {
            if !devices.insert(*ifindex) {
                return Err(KernelError::InvalidImage { what: "a device is in its plan twice" });
            }
        }
    }
    if plan.uplinks.len() > UPLINKS as usize {
        return Err(KernelError::NoRoom { what: "uplinks", needed: plan.uplinks.len(), room: UPLINKS as usize });
    }
    Ok(())
}

/// Every uplink, sorted.
pub(crate) fn read_uplinks(uplinks: &Map) -> Result<BTreeSet<u32>, KernelError> {
    let mut found = BTreeSet::new();
    let mut last: Option<Vec<u8>> = None;
    while let Some(key) = uplinks.next_key(last.as_deref()).map_err(on_map(map::UPLINKS, "next key"))? {
        if let Some(bytes) = key.first_chunk() {
            found.insert(u32::from_ne_bytes(*bytes));
        }
        last = Some(key);
    }
    Ok(found)
}
