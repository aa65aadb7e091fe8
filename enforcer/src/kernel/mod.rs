//! User space's side of the kernel: maps, programs, links, and what comes back out of them.
//!
//! Input: a compiled image and which veths it is for ([`Plan`](crate::plan::Plan)). Output: enforcement that outlives the process, denied
//! packets ([`Denials`]), a view of it all ([`status`]). Blocking. How it is
//! pinned, swapped and taken over: ADR 0006.
#![deny(unsafe_code)]

mod apply;
mod control;
mod denials;
mod devices;
mod error;
mod hooks;
mod parts;
mod pins;
mod preflight;
pub mod status;
mod sys;
mod tables;
mod take_over;
mod verify;

pub use apply::Applied;
pub use control::{AdoptedEndpoint, Kernel};
pub use denials::{Denials, Reading, Totals};
pub use error::KernelError;
pub use hooks::{SWEEP_CAP, Sweep};
pub use parts::KernelConfig;
pub use pins::{group_directory, purge};
pub use preflight::give_up_loading;
pub use tables::FlowFill;
pub use verify::Drift;
