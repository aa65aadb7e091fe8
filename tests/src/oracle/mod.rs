//! A second opinion on policy: a naive evaluator, and random policies, workloads and packets to compare it with.
//!
//! Nothing here uses `resolve` or `compile`. The matching follows the numbered semantics, one packet at a time.

pub mod declare;
pub mod evaluate;
pub mod generate;
pub mod random;
