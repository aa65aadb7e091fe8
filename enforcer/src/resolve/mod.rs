//! Joins the policies' selectors with the workloads: which policies isolate a workload, which peers and ports each rule
//! names, and which rank each rule has.
//!
//! Input: the policies in force and one snapshot of the workloads. Output: [`ResolvedPolicy`]. `compile` turns it into
//! tables, and it can say for a single flow which rule decided. Pure.
#![forbid(unsafe_code)]

mod decision;
mod directory;
mod no_op;
mod peers;
mod ports;
mod rank;
mod resolved;
mod resolver;
mod roster;
mod selector;
mod services;

pub use decision::{DecidedBy, Decision, Service};
pub use directory::{GroupId, Holder, KnownAddress};
pub use no_op::{NoOp, for_services, no_ops};
pub use peers::{Block, PeerSet, PeerSetId};
pub use ports::{PortSet, PortSetId};
pub use rank::Rank;
pub use resolved::{Clause, Isolation, ResolvedPolicy};
pub use resolver::{resolve, resolve_with};
pub use roster::Roster;
