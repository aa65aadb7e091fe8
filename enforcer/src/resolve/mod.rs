//! Selectors joined with workloads: who is isolated by what, and which peers and ports each rule grants.
//!
//! Input: the policies in force and one snapshot of the workloads. Output: [`ResolvedPolicy`], which `compile` turns into
//! tables and which answers, for a single flow, what decided it. Pure.
#![forbid(unsafe_code)]

mod decision;
mod directory;
mod peers;
mod ports;
mod resolved;
mod resolver;
mod selector;

pub use decision::{DecidedBy, Decision, Service};
pub use directory::{GroupId, Holder, KnownAddress};
pub use peers::{Block, PeerSet, PeerSetId};
pub use ports::{PortSet, PortSetId};
pub use resolved::{Grant, Isolation, ResolvedPolicy};
pub use resolver::resolve;
