//! The list of all sources of workloads.
//!
//! Input: `Config`. Output: the state of each source. A new source adds a folder and its row in `SOURCES`; a source that
//! a person writes also keeps its own last good version. `store` merges the statements of all sources in the same way.

#![forbid(unsafe_code)]

pub mod inventory;
mod kubernetes;
pub mod runtime;
pub(super) mod shape;

pub(super) use self::shape::Source;
use self::shape::Started;
pub use self::shape::{Earlier, Kept, Listed, SourceError, SourceState, StartError};
use super::config::Config;

/// All sources. The statements of two sources about one workload are compared in this order.
const SOURCES: &[fn(&Config) -> Started] = &[kubernetes::start, runtime::start, inventory::start];

/// Starts every source that the configuration names, in a tokio runtime.
pub(super) fn start(config: &Config) -> Result<Vec<Source>, StartError> {
    SOURCES.iter().filter_map(|start| start(config).transpose()).collect()
}
