//! Attaches to devices before a plan names them, and removes devices: first the links, then the endpoints that their programs
//! may still have read.
//!
//! Input: devices that belong to no workload yet, or no longer, and those that lead to none. Output: both programs and a closed
//! endpoint; or, where there is no room for one, a program on both sides that needs no table; and a guard on each other device.
//! An error of one device does not stop the work on the others.

use std::collections::BTreeSet;

use enforcer_common::endpoint::Endpoint;
use enforcer_common::id::Ifindex;

use crate::kernel::error::KernelError;
use crate::kernel::hooks::tcx::device_exists;
use crate::kernel::parts::Parts;

impl Parts {
    /// Attaches to a veth before anybody knows whose it is: closed until a plan names it.
    pub(super) fn attach_unknown(&mut self, ifindex: Ifindex) -> Result<(), KernelError> {
        if self.tables.has_endpoint(ifindex) {
            if self.hooks.is_attached(ifindex) {
                return Ok(());
            }
            // Another device had this number.
            if let Some(error) = self.forget(&[ifindex].into()).into_iter().next() {
                return Err(error);
            }
        }
        let attached = self.attach_closed_endpoint(ifindex);
        if attached.is_err() && !self.hooks.is_attached(ifindex) {
            self.close_veth(ifindex);
        }
        attached
    }

    fn attach_closed_endpoint(&mut self, ifindex: Ifindex) -> Result<(), KernelError> {
        let mut supply = self.tables.supply(self.incarnations.ids());
        let (id, quota) = self.incarnations.unclaimed(&mut supply)?;
        self.tables.take(&supply);
        self.tables.add(&Endpoint { ifindex, quota, id, ..Endpoint::FREE })?;
        self.hooks.attach(ifindex)
    }

    /// Closes a veth for which there is no endpoint, by a program that needs no table. What was begun for it is taken back
    /// behind that program.
    pub(super) fn close_veth(&mut self, ifindex: Ifindex) {
        let mut errors = Vec::new();
        match self.hooks.close(ifindex) {
            Err(_) if matches!(device_exists(ifindex), Ok(false)) => errors = self.forget(&[ifindex].into()),
            Err(error) => {
                tracing::error!(ifindex = ifindex.0, %error, "cannot close a veth that has no endpoint, so it is open; trying again");
            }
            Ok(()) if self.tables.has_endpoint(ifindex) => match self.tables.free(&[ifindex]) {
                Ok(failed) => errors = failed,
                Err(error) => errors.push(error),
            },
            Ok(()) => {}
        }
        for error in errors {
            tracing::warn!(ifindex = ifindex.0, %error, "attaching failed, and the daemon cannot remove what it left behind yet");
        }
        self.retire();
    }

    /// Veths that are closed because there is no endpoint for them.
    pub(super) fn closed(&self) -> BTreeSet<Ifindex> {
        let attached = self.hooks.devices();
        attached.into_iter().filter(|ifindex| !self.tables.has_endpoint(*ifindex)).collect()
    }

    /// Sees to it that exactly these devices have a guard. Gives the errors of single devices; one that is gone has none.
    pub(super) fn guard(&mut self, devices: &BTreeSet<Ifindex>) -> Vec<KernelError> {
        let mut errors = Vec::new();
        let had = self.hooks.guards();
        for ifindex in had.difference(devices) {
            errors.extend(self.hooks.detach_guard(*ifindex).err());
        }
        for ifindex in devices {
            if let Err(error) = self.hooks.guard(*ifindex)
                && !matches!(device_exists(*ifindex), Ok(false))
            {
                errors.push(error);
            }
        }
        self.guarded.clone_from(devices);
        errors
    }

    /// Devices that went away, and those without a link that nobody has claimed. The endpoint of a device that is there stays,
    /// although something else has detached its links: `verify` finds such a device by its endpoint, and attaches it again.
    pub(super) fn gone(&self) -> Result<BTreeSet<Ifindex>, KernelError> {
        let mut gone = BTreeSet::new();
        for endpoint in self.tables.endpoints() {
            let ifindex = endpoint.ifindex;
            if self.hooks.is_gone(ifindex) && (self.incarnations.is_unclaimed(endpoint.id) || !device_exists(ifindex)?)
            {
                gone.insert(ifindex);
            }
        }
        gone.extend(self.closed().into_iter().filter(|ifindex| self.hooks.is_gone(*ifindex)));
        Ok(gone)
    }

    /// Unpins links, then frees what the programs of these devices may still have read.
    pub(super) fn forget(&mut self, devices: &BTreeSet<Ifindex>) -> Vec<KernelError> {
        let mut errors = Vec::new();
        if devices.is_empty() {
            return errors;
        }
        let mut detached = Vec::new();
        for ifindex in devices {
            match self.hooks.detach(*ifindex) {
                Ok(()) => detached.push(*ifindex),
                Err(error) => errors.push(error),
            }
        }
        match self.tables.free(&detached) {
            Ok(failed) => {
                errors.extend(failed);
                self.retire();
            }
            Err(error) => errors.push(error),
        }
        errors
    }

    /// Gives up the ids of workloads without a veth.
    pub(super) fn retire(&mut self) {
        let places = self.incarnations.retire(self.tables.endpoints());
        self.tables.release(places);
    }
}
