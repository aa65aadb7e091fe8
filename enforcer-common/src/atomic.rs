//! Atomic words that work in the kernel and in user space. The host uses those of `core`. The kernel has had compare-and-swap
//! and fetch-and-add since 5.12, but the compiler's bpf target lacks them, so this module emits the instructions itself.
//!
//! All orderings are relaxed, because no word depends on another one (docs/architecture.md, "Flow state").
#![allow(unsafe_code, reason = "atomic instructions on memory that others write")]

#[cfg(not(target_arch = "bpf"))]
pub use core::sync::atomic::{AtomicU32, AtomicU64};

#[cfg(target_arch = "bpf")]
pub use bpf::{AtomicU32, AtomicU64};

#[cfg(target_arch = "bpf")]
mod bpf {
    use core::{arch::asm, cell::UnsafeCell, sync::atomic::Ordering};

    /// As `core::sync::atomic::AtomicU32`.
    #[derive(Debug, Default)]
    #[repr(transparent)]
    pub struct AtomicU32(UnsafeCell<u32>);

    /// As `core::sync::atomic::AtomicU64`.
    #[derive(Debug, Default)]
    #[repr(transparent)]
    pub struct AtomicU64(UnsafeCell<u64>);

    // SAFETY: every access is one load, one store or one atomic instruction.
    unsafe impl Sync for AtomicU32 {}
    // SAFETY: as above.
    unsafe impl Sync for AtomicU64 {}

    impl AtomicU32 {
        /// A word.
        #[inline(always)]
        pub const fn new(value: u32) -> Self {
            Self(UnsafeCell::new(value))
        }

        /// One load.
        #[inline(always)]
        pub fn load(&self, _: Ordering) -> u32 {
            // SAFETY: the reference keeps it valid; volatile makes it one load.
            unsafe { self.0.get().read_volatile() }
        }

        /// One store.
        #[inline(always)]
        pub fn store(&self, value: u32, _: Ordering) {
            // SAFETY: as for `load`.
            unsafe { self.0.get().write_volatile(value) }
        }

        /// Adds and returns what was there.
        #[inline(always)]
        pub fn fetch_add(&self, value: u32, _: Ordering) -> u32 {
            let mut before = value;
            // SAFETY: the reference keeps the word valid.
            unsafe {
                asm!(
                    "{value} = atomic_fetch_add((u32 *)({word} + 0), {value})",
                    word = in(reg) self.0.get(),
                    value = inlateout(wreg) before,
                    options(nostack),
                );
            }
            before
        }

        /// Subtracts and returns what was there.
        #[inline(always)]
        pub fn fetch_sub(&self, value: u32, ordering: Ordering) -> u32 {
            self.fetch_add(value.wrapping_neg(), ordering)
        }
    }

    impl AtomicU64 {
        /// A word.
        #[inline(always)]
        pub const fn new(value: u64) -> Self {
            Self(UnsafeCell::new(value))
        }

        /// One load.
        #[inline(always)]
        pub fn load(&self, _: Ordering) -> u64 {
            // SAFETY: the reference keeps it valid; volatile makes it one load.
            unsafe { self.0.get().read_volatile() }
        }

        /// Stores `new` if the word is `current`.
        #[inline(always)]
        pub fn compare_exchange(&self, current: u64, new: u64, _: Ordering, _: Ordering) -> Result<u64, u64> {
            let mut found = current;
            // SAFETY: the reference keeps the word valid.
            unsafe {
                asm!(
                    "r0 = cmpxchg_64({word} + 0, r0, {new})",
                    word = in(reg) self.0.get(),
                    new = in(reg) new,
                    inlateout("r0") found,
                    options(nostack),
                );
            }
            if found == current { Ok(found) } else { Err(found) }
        }
    }
}
