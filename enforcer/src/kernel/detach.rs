//! Letting go of devices: links first, then what their programs may still have read.
//!
//! Input: devices that are no workload's any more. Output: neither link nor endpoint of theirs; what fails of one keeps
//! nothing from the others.

use std::collections::BTreeSet;

use crate::kernel::control::Kernel;
use crate::kernel::error::{KernelError, on_device};
use crate::kernel::sys::{self, Hook};
use crate::kernel::tables::grace;

impl Kernel {
    /// Detaches a device that is no workload's any more.
    pub fn detach(&mut self, ifindex: u32) -> Result<(), KernelError> {
        first(self.forget(&[ifindex].into()))
    }

    /// Forgets the devices that are not among the living.
    pub fn detach_gone(&mut self, live: &BTreeSet<u32>) -> Result<(), KernelError> {
        let known = self.endpoints().into_iter().chain(self.links.devices());
        let gone = known.filter(|ifindex| !live.contains(ifindex)).collect();
        first(self.forget(&gone))
    }

    /// Forgets devices that went away, and gives them: the kernel may give their numbers to others. To be called before
    /// [`Kernel::attach_unknown`] whenever devices have changed.
    ///
    /// A veth of a plan that was only detached by somebody, and is still there, is left to [`Kernel::repair`]; one that
    /// nobody has claimed cannot be told from another device with its number, and goes.
    pub fn forget_gone(&mut self) -> Result<BTreeSet<u32>, KernelError> {
        let mut gone = BTreeSet::new();
        for endpoint in self.endpoints.iter() {
            let ifindex = endpoint.ifindex;
            if self.links.is_gone(ifindex) && (self.incarnations.is_unclaimed(endpoint.id) || !device_exists(ifindex)?)
            {
                gone.insert(ifindex);
            }
        }
        first(self.forget(&gone))?;
        Ok(gone)
    }

    /// Unpins links, then frees what the programs of these devices may still have read.
    pub(super) fn forget(&mut self, devices: &BTreeSet<u32>) -> Vec<KernelError> {
        let mut errors = Vec::new();
        if devices.is_empty() {
            return errors;
        }
        let mut detached = Vec::new();
        for ifindex in devices {
            match self.links.detach(*ifindex) {
                Ok(()) => detached.push(*ifindex),
                Err(error) => errors.push(error),
            }
        }
        if let Err(error) = grace::wait() {
            errors.push(error);
            return errors;
        }
        for ifindex in detached {
            if self.endpoints.get(ifindex).is_some() {
                errors.extend(self.endpoints.free(ifindex).err());
            }
        }
        self.retire();
        errors
    }

    /// Gives up the ids of workloads without a veth.
    pub(super) fn retire(&mut self) {
        for place in self.incarnations.retire(self.endpoints.iter()) {
            self.quotas.release(place);
        }
    }
}

fn device_exists(ifindex: u32) -> Result<bool, KernelError> {
    match sys::chain(ifindex, Hook::Ingress) {
        Ok(_) => Ok(true),
        Err(error) if error.raw_os_error() == Some(libc::ENODEV) => Ok(false),
        Err(error) => Err(on_device(ifindex, "read the chain")(error)),
    }
}

fn first(errors: Vec<KernelError>) -> Result<(), KernelError> {
    errors.into_iter().next().map_or(Ok(()), Err)
}
