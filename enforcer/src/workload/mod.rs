//! Finds the workloads on this node, from netlink, an inventory file, a container runtime and the Kubernetes API.

#![deny(unsafe_code)]

mod builds;
mod chains;
mod config;
mod discovery;
pub mod finding;
mod labels;
mod merger;
pub mod model;
mod names;
mod netlink;
pub mod offline;
mod paths;
pub mod source;
pub mod statement;
mod station;
pub mod store;
pub mod view;

pub use self::chains::Chains;
pub use self::config::{Config, Settling};
pub use self::discovery::{Discovery, FIRST_LIST, Published, UnnamedVeths, WorkloadError, start};
pub use self::netlink::{Mode, NetlinkError, Newcomers};
pub use self::source::{inventory, runtime};
