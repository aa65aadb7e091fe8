//! Puts a plan in force, in the order of docs/architecture.md, "How an image is swapped".
//!
//! Before the policy word is stored, only new or moved addresses and workload ids are visible to programs. Once the word is
//! stored, nothing can take the plan back. So an error after that point is reported, and the step is tried again.

use std::collections::{BTreeMap, BTreeSet};

use enforcer_common::id::{Ifindex, IncarnationId, PolicyWord};
use nix::time::{ClockId, clock_gettime};

use crate::kernel::error::KernelError;
use crate::kernel::parts::Parts;
use crate::plan::{Plan, RefusedAddress, WorkloadKey, Writes, homes, veths};

/// What came of a plan that is now in force.
#[derive(Debug)]
#[must_use]
pub struct Applied {
    /// Revision and epoch in force.
    pub word: PolicyWord,
    /// Id of each workload in denial records, by key.
    pub ids: BTreeMap<WorkloadKey, IncarnationId>,
    /// Addresses for which the endpoint has no place. They get no owner id.
    pub refused: Vec<RefusedAddress>,
    /// Errors after the plan came into force, device by device. The next plan tries these steps again.
    pub failures: Vec<KernelError>,
}

impl Parts {
    /// Puts a plan in force. An error: the last good image stays, and what is attached stays closed or as it was.
    pub(super) fn apply(&mut self, plan: &Plan<'_>) -> Result<Applied, KernelError> {
        plan.check()?;
        self.tables.settle()?;
        let takes_over = self.must_take_over()?;
        let word = self.tables.next_word();
        let mut incarnations = self.incarnations.clone();
        let mut supply = self.tables.supply(self.incarnations.ids());
        let now = boot_time()?;
        let mut writes = incarnations.plan(&plan.workloads, &self.tables.current(), &mut supply, word.slot(), now)?;
        writes.homes = homes(plan, |key| incarnations.addresses_of(key));
        writes.veths = veths(plan, |key| incarnations.addresses_of(key));
        self.tables.take(&supply);
        let filled = self.tables.fill(word.slot(), plan);
        let filled = filled.and_then(|()| if takes_over { self.take_over(plan, &mut writes) } else { Ok(()) });
        if let Err(error) = filled {
            // The incarnations of this plan never came into force, so their places in `QUOTAS` are free again.
            self.tables.release(supply.given().iter().map(|(place, _)| *place));
            return Err(error);
        }
        self.incarnations = incarnations;
        self.tables.add_uplinks(&plan.uplinks)?;
        self.tables.add_homes(&writes.homes)?;
        self.tables.add_veths(&writes.veths)?;
        for endpoint in writes.taken.iter().chain(&writes.before) {
            self.tables.change(endpoint)?;
        }

        self.tables.put_in_force(word);

        let failures = self.follow_up(plan, &writes);
        Ok(Applied { word, ids: writes.ids, refused: writes.refused, failures })
    }

    /// What follows the word. What fails of one device keeps nothing from the others.
    fn follow_up(&mut self, plan: &Plan<'_>, writes: &Writes) -> Vec<KernelError> {
        let mut failures = Vec::new();
        // Veths that wait for their first program come first: they are open until then.
        for endpoint in &writes.fresh {
            if let Err(error) = self.tables.add(endpoint) {
                failures.push(error);
                self.close_veth(endpoint.ifindex);
            }
        }
        // Before any program on a veth lets a packet pass to a Service.
        failures.extend(self.judge_backends().err());
        self.attach_all(&mut failures);
        self.tables.begin();
        match self.tables.settle() {
            Ok(()) => {
                failures.extend(self.tables.remove_other_uplinks(&plan.uplinks).err());
                failures.extend(self.tables.remove_other_homes(&writes.homes).err());
            }
            Err(error) => failures.push(error),
        }
        if self.edit_addresses(writes, &mut failures) {
            failures.extend(self.tables.remove_other_veths(&writes.veths).err());
        }
        let devices = self.tables.endpoints().map(|endpoint| endpoint.ifindex);
        let mut gone: BTreeSet<Ifindex> = devices.filter(|ifindex| plan.uplinks.contains(ifindex)).collect();
        match self.gone() {
            Ok(others) => gone.extend(others),
            Err(error) => failures.push(error),
        }
        failures.extend(self.forget(&gone));
        self.retire();
        if failures.is_empty() {
            failures.extend(self.hooks.remove_other_programs(&self.pins).err());
            failures.extend(self.pins.remove_others().err());
        }
        failures
    }

    /// Takes the ids of addresses that went away, wipes these, and gives their places to others. False: some of it failed.
    fn edit_addresses(&mut self, writes: &Writes, failures: &mut Vec<KernelError>) -> bool {
        // Each step of a device builds on the one before.
        let mut behind = BTreeSet::new();
        for (step, endpoints) in [&writes.after, &writes.wiped, &writes.late].into_iter().enumerate() {
            if endpoints.is_empty() {
                continue;
            }
            // Taking ids needs no wait, and must not be left out because one failed.
            if step != 0
                && let Err(error) = self.tables.settle()
            {
                failures.push(error);
                return false;
            }
            for endpoint in endpoints {
                if behind.contains(&endpoint.ifindex) || !self.tables.has_endpoint(endpoint.ifindex) {
                    continue;
                }
                if let Err(error) = self.tables.change(endpoint) {
                    failures.push(error);
                    behind.insert(endpoint.ifindex);
                }
            }
        }
        behind.is_empty()
    }

    /// Attaches the program behind the node's translation, and tells the programs on veths whether they can count on it.
    pub(super) fn judge_backends(&mut self) -> Result<(), KernelError> {
        let attached = self.hooks.attach_behind_translation();
        self.tables.set_judges_backends(self.judge_services && matches!(attached, Ok(true)));
        attached.map(|_| ())
    }

    /// Attaches every endpoint's programs where they are missing or not of this object.
    fn attach_all(&mut self, failures: &mut Vec<KernelError>) {
        let devices: Vec<Ifindex> = self.tables.endpoints().map(|endpoint| endpoint.ifindex).collect();
        for ifindex in devices {
            if let Err(error) = self.hooks.attach(ifindex) {
                failures.push(error);
                if !self.hooks.is_attached(ifindex) {
                    self.close_veth(ifindex);
                }
            }
        }
    }

    /// Closes the veths of a plan that did not come into force, where no program stands there yet.
    pub(super) fn close_unattached(&mut self, plan: &Plan<'_>) {
        let attached = self.hooks.devices();
        let veths = plan.workloads.iter().flat_map(|workload| &workload.endpoints);
        for ifindex in veths.filter(|ifindex| !attached.contains(ifindex)) {
            self.close_veth(*ifindex);
        }
    }
}

/// Nanoseconds since boot, by the clock of the programs.
fn boot_time() -> Result<u64, KernelError> {
    let now = clock_gettime(ClockId::CLOCK_BOOTTIME)
        .map_err(|error| KernelError::System { call: "clock_gettime", source: error.into() })?;
    Ok(u64::try_from(std::time::Duration::from(now).as_nanos()).unwrap_or(u64::MAX))
}
