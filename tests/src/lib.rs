//! Shared parts of the tests.

pub mod cases;
pub mod daemon;
pub mod stage;
pub mod traffic;
