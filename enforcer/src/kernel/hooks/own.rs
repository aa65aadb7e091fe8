//! Which links are ours, for a thread that asks what else is attached to a device.
//!
//! Input: each link that is attached or let go. Output: whether a chain holds any other.

use std::collections::BTreeMap;
use std::os::fd::{BorrowedFd, OwnedFd};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use enforcer_common::id::Ifindex;
use enforcer_common::side::Side;

use crate::kernel::error::KernelError;
use crate::kernel::hooks::tcx;

/// The ids of our links, by device and side.
#[derive(Clone, Debug, Default)]
pub struct OwnLinks(Arc<Mutex<BTreeMap<(Ifindex, Side), u32>>>);

impl OwnLinks {
    /// Whether a program that is not ours is attached by tcx at the ingress of a device. True if the kernel does not tell.
    pub fn has_others(&self, ifindex: Ifindex) -> bool {
        // Held, so that no link of ours is in the chain whose id is not known.
        let ids = self.ids();
        let own = [Side::FromWorkload, Side::Guard].map(|side| ids.get(&(ifindex, side)).copied());
        tcx::ingress(ifindex).map_or(true, |chain| chain.into_iter().any(|link| !own.contains(&Some(link))))
    }

    /// Attaches a program as the first of a device's chain.
    ///
    /// In the place of a link that has lost its own, another id is known before that link is let go, which then counts as
    /// somebody else's: so it does only where somebody else is in the chain.
    pub(super) fn attach(&self, program: BorrowedFd<'_>, ifindex: Ifindex, side: Side) -> Result<OwnedFd, KernelError> {
        let mut ids = self.ids();
        let link = tcx::attach(program, ifindex, side)?;
        ids.insert((ifindex, side), tcx::info(&link, ifindex)?.id);
        Ok(link)
    }

    pub(super) fn ids(&self) -> MutexGuard<'_, BTreeMap<(Ifindex, Side), u32>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
