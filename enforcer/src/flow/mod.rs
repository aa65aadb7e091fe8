//! The flow log: joins the kernel's counts of denied packets with names, and writes lines that Hubble's tools read.
//!
//! Input: denials (address, port, reason, count) and the names that were in force at their revision. Output: the flow log.
//! `enrich` is pure; files and threads are in `sink`.
#![forbid(unsafe_code)]

pub mod enrich;
#[cfg(test)]
mod fixture;
pub mod hubble;
pub mod limit;
pub mod names;
pub mod record;
mod resolved;
pub mod sink;
pub mod text;
