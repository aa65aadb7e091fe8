//! Compiles a resolved policy into the tables that the datapath reads (docs/architecture.md, "The image").
//!
//! Input: a [`ResolvedPolicy`]. Output: a complete [`Image`], or an error. Pure; equal inputs give equal images.
#![forbid(unsafe_code)]

mod budget;
mod dump;
pub mod image;
mod meet;
mod peers;
mod ports;
mod ranges;
mod rows;
mod states;
#[cfg(test)]
mod tests;
mod walk;
mod write;

pub use budget::{CompileError, Sizes, bytes};
pub use dump::dump;
pub use image::Image;
pub use meet::{Change, change};

use crate::resolve::ResolvedPolicy;

/// Compiles policy into tables.
///
/// What it takes rises with the policies, not with policies times workloads: rows, classes and vectors are found by
/// interning, and a state that occurs again is not worked out again.
pub fn compile(resolved: &ResolvedPolicy) -> Result<Image, CompileError> {
    let rows = rows::rows(resolved);
    let ports = ports::classes(&rows, resolved)?;
    let deltas = peers::deltas(&rows, resolved);
    let found = walk::walk(resolved, &deltas, states::States::new(&rows, &ports))?;
    write::write(&rows, &ports, found)
}
