//! The shape that all sources of workloads share.
//!
//! Input: whatever a source watches. Output: the complete new state of the source, each time it differs from the last one.

#![forbid(unsafe_code)]

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::sync::{Notify, watch};

use crate::workload::model::Labels;
use crate::workload::statement::Statement;

/// A process in a container runs for a moment before its source lists the container. A list that is asked for so long
/// after the process was first noticed names it.
pub const LISTED_WITHIN: Duration = Duration::from_secs(1);

/// Everything that a source says at one moment.
#[derive(Clone, Debug, Default)]
pub struct SourceState {
    /// How messages name the source.
    pub name: String,
    /// How complete the statements are.
    pub listed: Listed,
    /// Why the source cannot be read at the moment; what it said last still holds.
    pub error: Option<String>,
    /// What it says, one statement for each workload or part of one.
    pub statements: Arc<Vec<Statement>>,
    /// Labels of namespaces.
    pub namespaces: Arc<BTreeMap<String, Labels>>,
}

/// How complete the statements of a source are.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub enum Listed {
    /// The source has given no complete list yet, so an unknown workload may still get a name.
    #[default]
    Never,
    /// The newest list was requested at this time. It may lack containers that have started since.
    At(Instant),
    /// The statements are complete at any time.
    Standing,
}

/// A source that runs for as long as this is kept.
#[derive(Debug)]
pub(in crate::workload) struct Source {
    /// Its newest state.
    pub(in crate::workload) state: watch::Receiver<SourceState>,
    /// Asks for a list `LISTED_WITHIN` from now, if the source gives lists.
    pub(in crate::workload) again: Option<Arc<Notify>>,
}
