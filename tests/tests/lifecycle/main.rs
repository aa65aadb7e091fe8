//! The daemon through its life, on real traffic: killed, restarted, told otherwise, lied to, flooded. Each test has a lab,
//! pins and state of its own.

#![allow(clippy::unwrap_used, reason = "a failed step ends the test")]

mod claims;
mod common;
mod kills;
mod node;
mod older;
mod policy_change;
mod refusals;
mod restart;
mod unknown;
mod workloads;
