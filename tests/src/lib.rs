//! Shared parts of the tests: an oracle for policy, frames, the datapath's tables in ordinary memory, loaded programs.

pub mod bench;
pub mod bytecode;
pub mod oracle;
pub mod packet;
pub mod world;
