//! The list of all sources of workloads.
//!
//! Input: `Config`. Output: the state of each source. A new source adds a folder and one line in `start`. `store` merges the
//! statements of all sources in the same way.

#![forbid(unsafe_code)]

pub mod inventory;
pub mod runtime;
mod shape;

pub(super) use self::shape::Source;
pub use self::shape::{LISTED_WITHIN, Listed, SourceState};
use super::config::Config;

/// The running sources.
#[derive(Debug)]
pub(super) struct Sources {
    /// All sources. The statements of two sources about one workload are compared in this order.
    pub(super) all: Vec<Source>,
    /// The input for a new inventory.
    pub(super) inventory: inventory::Input,
}

/// Starts every source that the configuration names, in a tokio runtime.
pub(super) fn start(config: &Config) -> Sources {
    let runtime = config.runtime.clone().map(runtime::start);
    let (input, inventory) = inventory::start((!config.awaits_inventory).then_some(&config.inventory));
    Sources { all: runtime.into_iter().chain([inventory]).collect(), inventory: input }
}
