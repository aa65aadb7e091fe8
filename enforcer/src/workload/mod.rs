//! Workloads: who is on this node, from netlink, an inventory file and a container runtime.

#![deny(unsafe_code)]

mod discovery;
pub mod finding;
pub mod inventory;
mod merger;
pub mod model;
mod netlink;
pub mod runtime;
mod statement;
pub mod store;
pub mod view;

pub use self::discovery::{Config, Discovery, FIRST_LIST, UnnamedVeths, WorkloadError, start};
pub use self::netlink::{Mode, NetlinkError};
