//! Shared parts of the tests.

pub mod bench;
pub mod bytecode;
pub mod packet;
