//! From a compiled image and the workloads to what is written into the kernel. Pure.
//!
//! Input: an [`Image`](crate::compile::image::Image), a snapshot of the workloads, and what the kernel holds now. Output: a
//! [`Plan`], and each endpoint as it is before and after the image comes into force.
#![forbid(unsafe_code)]

pub(crate) mod incarnation;
mod intent;
mod model;

pub use intent::{Intent, Unknown};
pub use model::{Plan, PlannedWorkload, RefusedAddress};
