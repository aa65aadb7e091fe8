//! User space's side of the kernel: it makes maps, programs and links, and reads back what the programs report.
//!
//! Input: a compiled image and the veths that it is for ([`Plan`](crate::plan::Plan)). Output: enforcement that outlives the
//! process, denied packets ([`Denials`]), and a view of all of it ([`status`]). All calls block. ADR 0006 says how it is
//! pinned, swapped and taken over.
#![deny(unsafe_code)]

mod apply;
mod btf;
mod control;
mod counters;
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
pub use counters::{Counters, TableFill};
pub use denials::{Denials, NewDenials, Totals};
pub use error::KernelError;
pub use hooks::{OwnLinks, SWEEP_CAP, Sweep, Swept, embedded_object};
pub use parts::KernelConfig;
pub use pins::{group_directory, purge};
pub use preflight::{OLDEST_KERNEL, give_up_loading};
pub use tables::{FlowFill, FullShare};
pub use verify::Drift;
