//! A second opinion on policy: a naive evaluator, and worlds of random policies, workloads and packets to ask it about.
//!
//! Nothing here uses `resolve` or `compile`; the matching is written from the numbered semantics, one packet at a time.

pub mod declare;
pub mod evaluate;
pub mod generate;
pub mod random;
