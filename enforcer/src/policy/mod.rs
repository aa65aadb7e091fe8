//! Policy: YAML in, a valid model out.
//!
//! `load` reads a directory, `parse` turns each document into the model, `watch` says when to read again.

#![forbid(unsafe_code)]

mod caution;
mod cidr;
mod document;
mod error;
mod files;
mod finding;
pub mod load;
pub mod model;
mod names;
pub mod origin;
pub mod parse;
mod position;
pub mod watch;
mod yaml;

pub use caution::Caution;
pub use error::Problem;
pub use finding::{Finding, Place};

/// What is wrong with a policy file, and where.
pub type PolicyError = Finding<Problem>;
/// What a policy file says that may not be what its author meant, and where.
pub type PolicyWarning = Finding<Caution>;

#[cfg(test)]
mod tests;
