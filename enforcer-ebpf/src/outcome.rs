//! What the out-of-line parts return, as a number: a call in eBPF has no other result.

use enforcer_common::verdict::Reason;

/// A reason has never this number.
pub(crate) const NOT_DONE: u64 = 255;

/// The reason, 0, or [`NOT_DONE`].
#[inline(always)]
pub(crate) fn done(result: Result<bool, Reason>) -> u64 {
    match result {
        Ok(true) => 0,
        Ok(false) => NOT_DONE,
        Err(reason) => reason as u64,
    }
}

/// The reason, or 0.
#[inline(always)]
pub(crate) fn code(result: Result<(), Reason>) -> u64 {
    match result {
        Ok(()) => 0,
        Err(reason) => reason as u64,
    }
}
