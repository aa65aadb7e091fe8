//! User space's side of the kernel: maps, programs, links, and what comes back out of them.
//!
//! Input: a compiled image and which veths it is for ([`Plan`]). Output: enforcement that outlives the process, denied
//! packets ([`Denials`]), a view of it all ([`status`]). Blocking. How it is
//! pinned, swapped and taken over: ADR 0006.
#![deny(unsafe_code)]

mod apply;
mod attach;
mod control;
mod denials;
mod detach;
mod endpoints;
mod error;
mod globals;
mod grace;
mod incarnation;
mod layout;
mod maps;
mod mmap;
mod plan;
mod preflight;
mod programs;
mod purge;
mod quotas;
pub mod status;
mod sweep;
mod sys;
mod tables;
mod verify;

pub use control::{Kernel, SWEEP_CAP};
pub use denials::{Denials, Reading, Totals};
pub use error::KernelError;
pub use plan::{AdoptedEndpoint, Applied, KernelConfig, Plan, PlannedWorkload, RefusedAddress};
pub use preflight::give_up_loading;
pub use purge::purge;
pub use quotas::FlowFill;
pub use sweep::Sweep;
pub use verify::Drift;
