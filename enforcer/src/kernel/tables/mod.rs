//! What the programs read, and what user space writes for them.

pub(crate) mod endpoints;
pub(crate) mod globals;
pub(crate) mod grace;
pub(crate) mod mmap;
pub(crate) mod quotas;
pub(crate) mod slots;

pub use quotas::FlowFill;
