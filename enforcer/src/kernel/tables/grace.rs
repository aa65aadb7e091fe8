//! Waits until every run of a program that has begun is over. What such a run may have read can then be written again.
//!
//! The kernel itself waits in each write of an outer map, but only after it has put the new map there. That wait protects the
//! rows of a slot from being written under a run that reads the slot's old image. But a run may have read the policy word
//! before a flip, and it could find in its slot the image of the flip after the next. Against that, `Tables::settle` waits
//! after the word is stored, before the next plan touches the slot.

use std::os::fd::AsRawFd;

use crate::kernel::error::{KernelError, on_map};
use crate::kernel::sys::{self, Map, MapAttributes, kind};

/// Waits for one RCU grace period.
pub(crate) fn wait() -> Result<(), KernelError> {
    if sys::membarrier() { Ok(()) } else { by_outer_map() }
}

/// Kernels with isolated CPUs refuse that membarrier; writing into an outer map waits as well.
fn by_outer_map() -> Result<(), KernelError> {
    const NAME: &str = "grace";
    let array = MapAttributes { kind: kind::ARRAY, key_size: 4, value_size: 4, entries: 1, flags: 0 };
    let outer = MapAttributes { kind: kind::ARRAY_OF_MAPS, ..array };
    let inner = Map::create(NAME, &array, None).map_err(on_map(NAME, "create"))?;
    let outer = Map::create(NAME, &outer, Some(&inner)).map_err(on_map(NAME, "create"))?;
    let fd = inner.fd().as_raw_fd();
    outer.update(&0_u32.to_ne_bytes(), &fd.to_ne_bytes()).map_err(on_map(NAME, "update"))
}
