//! What judges packets: the programs, and the links that attach them to devices.

pub(crate) mod attach;
pub(crate) mod programs;
mod sweep;

pub use sweep::Sweep;
