//! Shared parts of the tests: an oracle for policy, frames, the datapath's tables in ordinary memory, and real traffic
//! between namespaces and containers.

pub mod cases;
pub mod daemon;
pub mod oracle;
pub mod packet;
pub mod podman;
pub mod stage;
pub mod traffic;
pub mod world;
