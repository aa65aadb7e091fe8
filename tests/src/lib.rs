//! Shared parts of the tests.

pub mod bytecode;
pub mod packet;
