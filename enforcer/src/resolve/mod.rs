//! Selectors joined with workloads: who is isolated by what, which peers and ports each rule names, and at which rank.
//!
//! Input: the policies in force and one snapshot of the workloads. Output: [`ResolvedPolicy`], which `compile` turns into
//! tables and which answers, for a single flow, what decided it. Pure.
#![forbid(unsafe_code)]

mod decision;
mod directory;
mod peers;
mod ports;
mod rank;
mod resolved;
mod resolver;
mod selector;

pub use decision::{DecidedBy, Decision, Service};
pub use directory::{GroupId, Holder, KnownAddress};
pub use peers::{Block, PeerSet, PeerSetId};
pub use ports::{PortSet, PortSetId};
pub use rank::Rank;
pub use resolved::{Clause, Isolation, ResolvedPolicy};
pub use resolver::resolve;
