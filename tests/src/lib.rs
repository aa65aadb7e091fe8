//! Shared parts of the tests: an oracle for policy, frames, and the datapath's tables in ordinary memory.

pub mod oracle;
pub mod packet;
pub mod world;
