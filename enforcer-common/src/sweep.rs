//! What user space and the program that frees idle flows tell each other at each run.

/// The arguments of one run, and its result.
#[repr(C)]
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct SweepArguments {
    /// jiffies >> this is the tick of about a second: the one that the packet programs were loaded with.
    pub tick_shift: u32,
    /// Milliseconds of a tick.
    pub tick_ms: u32,
    /// Flows that the run deletes at most.
    pub cap: u32,
    /// The program stores here in how many milliseconds the first of the flows that are left may be over, if no packet comes.
    /// User space gives [`SweepArguments::NEVER`], and finds that again if no flow is left.
    pub left_ms: u32,
}
const _: () = assert!(size_of::<SweepArguments>() == 16);

impl SweepArguments {
    /// No flow is left that could be over.
    pub const NEVER: u32 = u32::MAX;

    /// As the kernel takes them.
    pub fn to_words(self) -> [u32; 4] {
        [self.tick_shift, self.tick_ms, self.cap, self.left_ms]
    }
}
