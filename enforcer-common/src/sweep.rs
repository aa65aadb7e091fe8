//! The arguments that user space gives to each run of the program that frees idle flows.

/// The arguments of one run.
#[repr(C)]
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct SweepArguments {
    /// jiffies >> this is the tick of about a second: the one that the packet programs were loaded with.
    pub tick_shift: u32,
    /// Milliseconds of a tick.
    pub tick_ms: u32,
    /// Flows that the run deletes at most.
    pub cap: u32,
}
const _: () = assert!(size_of::<SweepArguments>() == 12);

impl SweepArguments {
    /// As the kernel takes them.
    pub fn to_words(self) -> [u32; 3] {
        [self.tick_shift, self.tick_ms, self.cap]
    }
}
