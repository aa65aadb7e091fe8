//! The daemon through its life, on real traffic: killed, restarted, told otherwise, lied to, flooded. Each test has a lab,
//! pins and state of its own.

#![allow(clippy::unwrap_used, reason = "a failed step ends the test")]
#![allow(clippy::print_stdout, reason = "measured times, and the seed that a failure can be seen again with")]

mod attack;
mod bulk;
mod claims;
mod common;
mod errors;
mod flood;
mod frames;
mod kills;
mod node;
mod older;
mod path_mtu;
mod pings;
mod policy_change;
mod refusals;
mod repair;
mod restart;
mod rings;
mod sctp;
mod spoof;
mod unknown;
mod workloads;
