//! What the Kubernetes API says, kept up to date.
//!
//! Input: where the API server is. Output: for each kind that a source follows, the complete set of its objects, trimmed to
//! what the source needs, and since when the set may be out of date. It never gives a set in part. Beside that
//! it writes objects of our own kinds.

#![forbid(unsafe_code)]

mod backoff;
mod client;
mod crd;
mod events;
mod fault;
mod follow;
mod lease;
mod set;
mod view;
mod write;

pub use client::{Cluster, Config, ConnectError};
pub use crd::{Column, GROUP, Kind, VERSION};
pub use events::{About, Happening};
pub use lease::Lease;
pub use view::{Cause, Key, Stale, View, Which};
pub use write::WriteError;

#[cfg(test)]
pub(crate) mod tests;
