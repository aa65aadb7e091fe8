//! Takes devices over from programs that judge by an image of another layout.
//!
//! Input: the plan that is about to come into force. Output: every link runs the programs of this build, which find the
//! plan's image in both slots. The older programs share the flows, the endpoints and the policy word with the new ones, but
//! they read an image that this build does not write. So no word may be stored while one of them runs. Live flows pass all
//! the time. New flows are denied from the first step until the word is stored. If the daemon dies in between, they are
//! denied until the next start has put an image in force.

use enforcer_common::endpoint::Endpoint;
use enforcer_common::id::{Ifindex, Row};

use crate::kernel::error::KernelError;
use crate::kernel::parts::Parts;
use crate::plan::{Plan, Writes};

impl Parts {
    /// Whether programs that read an image of another layout judge packets.
    pub(super) fn must_take_over(&self) -> Result<bool, KernelError> {
        Ok(self.pins.has_other_policy() && !self.hooks.devices_of_others()?.is_empty())
    }

    /// Whether the image in force may be one of another layout, which this process has not replaced yet.
    pub(super) fn awaits_image(&self) -> bool {
        self.pins.has_other_policy() && !self.tables.has_applied()
    }

    /// Puts the programs of this build under every link. An error: one of the older programs may still judge, so the word must
    /// not be stored.
    pub(super) fn take_over(&mut self, plan: &Plan<'_>, writes: &mut Writes) -> Result<(), KernelError> {
        // The rows in force are numbers of the older image. They go before the image of this plan comes into their slot: some
        // of the programs may be of another build with this layout, and read it already.
        let slot = self.tables.word_in_force().slot();
        writes.close(slot);
        for endpoint in self.tables.current().into_values() {
            self.close(&endpoint)?;
        }
        self.tables.settle()?;
        self.tables.fill(slot, plan)?;
        // The older program behind translation reads the older image by the numbers of the new rows, and programs of this build on
        // veths may count on more than it judges.
        self.judge_backends()?;
        let mut failure = None;
        for ifindex in self.hooks.devices_of_others()? {
            failure = failure.or(self.hooks.attach(ifindex).err());
        }
        // What failed of a device that has gone meanwhile keeps nothing from the others.
        if let Some(failure) = failure
            && self.must_take_over()?
        {
            return Err(failure);
        }
        // Runs of the older programs that have begun end before the word changes.
        self.tables.wait()
    }

    /// Sees to it that programs of this build, which find no image yet, allow nothing new on a device.
    pub(super) fn close_until_image(&mut self, ifindex: Ifindex) -> Result<(), KernelError> {
        if !self.awaits_image() {
            return Ok(());
        }
        match self.tables.current().get(&ifindex) {
            Some(endpoint) => self.close(endpoint),
            None => Ok(()),
        }
    }

    /// Takes the rows in force from an endpoint.
    fn close(&mut self, endpoint: &Endpoint) -> Result<(), KernelError> {
        let mut closed = *endpoint;
        closed.rows[self.tables.word_in_force().slot().index()] = [Row::NONE; 2];
        if closed == *endpoint { Ok(()) } else { self.tables.change(&closed) }
    }
}
