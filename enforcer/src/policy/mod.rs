//! Policy: YAML in, a valid model out.
//!
//! Each `source` says which policies there are, `store` keeps the last good ones of each, `load` makes a set of the texts
//! of files, `parse` turns each document into the model, and `watch` says when to read files again.

#![forbid(unsafe_code)]

mod caution;
mod character;
mod cidr;
mod document;
mod encoding;
mod error;
mod finding;
mod help;
pub mod load;
pub mod model;
mod names;
pub mod origin;
pub mod parse;
mod position;
pub mod schema;
pub mod service;
mod skipped;
pub mod source;
pub mod store;
mod yaml;

pub use caution::Caution;
pub use encoding::Encoding;
pub use error::Problem;
pub use finding::{Place, PolicyFinding};
pub use skipped::Skipped;

/// What is wrong with a policy file, and where.
pub type PolicyError = PolicyFinding<Problem>;
/// What a policy file says that may not be what its author meant, and where.
pub type PolicyWarning = PolicyFinding<Caution>;

#[cfg(test)]
mod tests;
