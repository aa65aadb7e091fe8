//! A value of which the compiler knows nothing.
//!
//! The verifier follows the compiled code, not the source. Where the compiler keeps a pointer into a table instead of the
//! value that was read, or leaves the value of a `None` in a clobbered register, what is harmless on a CPU multiplies the
//! verifier's states or is refused. A value that passes through here is one register, read once.
#![cfg_attr(target_arch = "bpf", allow(unsafe_code, reason = "a move is an instruction"))]

/// The same value.
#[cfg(target_arch = "bpf")]
#[inline(always)]
pub fn opaque(mut value: u64) -> u64 {
    // SAFETY: a move to itself; with no instruction at all the kernel refuses the line information.
    unsafe { core::arch::asm!("{0} = {0}", inout(reg) value, options(nomem, nostack)) };
    value
}

/// The same value.
#[cfg(not(target_arch = "bpf"))]
#[inline(always)]
pub fn opaque(value: u64) -> u64 {
    value
}
