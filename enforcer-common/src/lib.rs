//! The contract between kernel and user space, and the one packet decision that both compile.
//!
//! Input: bytes of a packet and the tables that user space compiled. Output: a [`verdict::Verdict`]. The kernel programs
//! run the two halves of [`datapath::run`] over eBPF maps; tests, the oracle comparison and `explain` run the same source
//! over ordinary memory. Nothing here allocates, logs or reads a clock.
#![cfg_attr(not(test), no_std)]
#![cfg_attr(target_arch = "bpf", feature(asm_experimental_arch))]
#![deny(missing_docs)]
#![deny(unsafe_code)]
#![deny(clippy::wildcard_enum_match_arm)]

pub mod atomic;
pub mod datapath;
pub mod decide;
pub mod denial;
pub mod endpoint;
pub mod event;
pub mod flow_key;
pub mod flow_state;
pub mod follow;
pub mod guard;
pub mod half_open;
pub mod home;
pub mod hygiene;
pub mod icmp_error;
pub mod id;
pub mod image;
pub mod judge;
pub mod limits;
pub mod link;
pub mod live;
pub mod opaque;
pub mod packet;
#[cfg(feature = "user")]
mod pod;
pub mod quota;
pub mod schema;
pub mod side;
pub mod sweep;
pub mod tables;
pub mod translated;
pub mod verdict;
pub mod work;
