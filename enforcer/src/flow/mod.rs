//! Denied flows out: what the kernel counted, joined with names, written as lines that Hubble's tools read.
//!
//! Input: denials (address, port, reason, count) and the names that were in force under their revision. Output: the
//! flow log. `enrich` is pure; files and threads live in `sink`.
#![forbid(unsafe_code)]

pub mod enrich;
#[cfg(test)]
mod fixture;
pub mod hubble;
pub mod names;
pub mod record;
mod resolved;
pub mod sink;
pub mod text;
