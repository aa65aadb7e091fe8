//! Values that the compiler cannot look into.
//!
//! The verifier follows the compiled code, not the source. The compiler may keep a pointer into a table instead of the value
//! that was read, or leave the value of a `None` in a clobbered register. On a CPU that is harmless, but the verifier then
//! needs many more states or refuses the program. A value that passes through here is in one register and is read once.
#![allow(unsafe_code, reason = "a move is an instruction; a volatile access is one too")]

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

/// A flag that stays in memory: as a value, each way out of the code between would have to set it on the stack.
#[derive(Debug, Default)]
pub struct Flag(bool);

impl Flag {
    /// Not raised.
    #[inline(always)]
    pub fn lowered() -> Self {
        let mut flag = Self(false);
        // SAFETY: a reference.
        unsafe { (&raw mut flag.0).write_volatile(false) };
        flag
    }

    /// Raises it.
    #[inline(always)]
    pub fn raise(&mut self) {
        // SAFETY: a reference.
        unsafe { (&raw mut self.0).write_volatile(true) };
    }

    /// Whether it was raised.
    #[inline(always)]
    pub fn is_raised(&self) -> bool {
        // SAFETY: a reference.
        unsafe { (&raw const self.0).read_volatile() }
    }
}
