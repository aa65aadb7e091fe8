//! Plans what is written into the kernel, from a compiled image and the workloads. Pure.
//!
//! Input: an [`Image`](crate::compile::image::Image), a snapshot of the workloads, and what the kernel holds now. Output: a
//! [`Plan`], and from it the state of each endpoint before and after the image comes into force.
#![forbid(unsafe_code)]

mod check;
mod homes;
mod incarnation;
mod intent;
mod model;
mod supply;
mod veths;

pub use check::Impossible;
pub(crate) use homes::homes;
pub(crate) use incarnation::{Incarnations, Writes, owned};
pub use intent::{Intent, Unknown};
pub use model::{Plan, PlannedWorkload, Refusal, RefusedAddress};
pub(crate) use supply::Supply;
pub(crate) use veths::veths;

pub use crate::workload::model::WorkloadKey;
