//! Attaching before a plan, and letting go of devices: links first, then what their programs may still have read.
//!
//! Input: devices that are nobody's yet, or no workload's any more. Output: both programs and a closed endpoint, or neither
//! link nor endpoint; what fails of one device keeps nothing from the others.

use std::collections::BTreeSet;

use enforcer_common::endpoint::Endpoint;
use enforcer_common::id::Ifindex;

use crate::kernel::error::{KernelError, on_device};
use crate::kernel::parts::Parts;
use crate::kernel::sys::{self, Hook};

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
                tracing::warn!(ifindex = ifindex.0, %error, "an attach that failed is not taken back yet");
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

fn device_exists(ifindex: Ifindex) -> Result<bool, KernelError> {
    match sys::chain(ifindex.0, Hook::Ingress) {
        Ok(_) => Ok(true),
        Err(error) if error.raw_os_error() == Some(libc::ENODEV) => Ok(false),
        Err(error) => Err(on_device(ifindex, "read the chain")(error)),
    }
}
