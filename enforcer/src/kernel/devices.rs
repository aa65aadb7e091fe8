//! Attaches to devices before a plan names them, and removes devices: first the links, then the endpoints that their programs
//! may still have read.
//!
//! Input: devices that belong to no workload yet, or no longer. Output: both programs and a closed endpoint, or neither a
//! link nor an endpoint. An error of one device does not stop the work on the others.

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
        let mut supply = self.tables.supply();
        let (id, quota) = self.incarnations.unclaimed(&mut supply)?;
        self.tables.take(&supply);
        let endpoint = Endpoint { ifindex, quota, id, ..Endpoint::FREE };
        let attached = match self.tables.add(&endpoint) {
            Ok(()) => self.hooks.attach(ifindex),
            Err(error) => Err(error),
        };
        if attached.is_err() && !self.hooks.devices().contains(&ifindex) {
            for error in self.forget(&[ifindex].into()) {
                tracing::warn!(ifindex = ifindex.0, %error, "attaching failed, and the daemon cannot remove what it left behind yet");
            }
        }
        attached
    }

    /// Devices that went away, and those without a link that nobody has claimed.
    pub(super) fn gone(&self) -> Result<BTreeSet<Ifindex>, KernelError> {
        let mut gone = BTreeSet::new();
        for endpoint in self.tables.endpoints() {
            let ifindex = endpoint.ifindex;
            if self.hooks.is_gone(ifindex) && (self.incarnations.is_unclaimed(endpoint.id) || !device_exists(ifindex)?)
            {
                gone.insert(ifindex);
            }
        }
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
