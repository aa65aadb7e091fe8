//! Tests of the daemon on real traffic: it is killed, restarted, given new policies, deceived and flooded. Each test has its
//! own lab, pins and state.

#![allow(clippy::unwrap_used, reason = "a failed step ends the test")]
#![allow(clippy::print_stdout, reason = "measured times, and the seed that a failure can be seen again with")]

mod attack;
mod bulk;
mod claims;
mod common;
mod elsewhere;
mod errors;
mod files;
mod flood;
mod frames;
mod guards;
mod half_open;
mod homes;
mod hostile;
mod kills;
mod link;
mod mirror;
mod node;
mod older;
mod opening;
mod past_translation;
mod path_mtu;
mod pings;
mod policy_change;
mod reaching;
mod refusals;
mod repair;
mod resets;
mod restart;
mod rings;
mod room;
mod sctp;
mod serve;
mod spoof;
mod strays;
mod translated;
mod unknown;
mod vouchers;
mod workloads;
mod writers;
