//! The shape that all sources of workloads share.
//!
//! Input: whatever a source watches. Output: the complete new state of the source, each time it differs from the last one.

#![forbid(unsafe_code)]

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::net::IpAddr;
use std::sync::Arc;

use tokio::sync::watch;

use crate::watch::WatchError;
use crate::workload::model::Labels;
use crate::workload::statement::Statement;

/// Everything that a source says at one moment.
#[derive(Clone, Debug, Default)]
pub struct SourceState {
    /// How messages name the source.
    pub name: String,
    /// How complete the statements are.
    pub listed: Listed,
    /// Why the statements are not what the source says now; what it said last still holds.
    pub error: Option<SourceError>,
    /// What it says, one statement for each workload or part of one.
    pub statements: Arc<Vec<Arc<Statement>>>,
    /// Labels of namespaces.
    pub namespaces: Arc<BTreeMap<String, Labels>>,
    /// Addresses of nodes, this one and others, with the name of the node. No workload has them.
    pub nodes: Arc<BTreeMap<IpAddr, Arc<str>>>,
    /// Addresses of Services.
    pub services: Arc<BTreeSet<IpAddr>>,
    /// The daemon waits for its first list for as long as that takes.
    pub is_awaited: bool,
    /// The text from which a later daemon can make the same statements; `None`: the source says them again by itself.
    pub kept: Option<Arc<str>>,
}

/// Why a source adds nothing new to what it has said.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum SourceError {
    /// It does not answer, and it is asked again.
    Down(String),
    /// It says something that has errors, and a person has to correct it.
    Refused(String),
}

impl fmt::Display for SourceError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Down(error) | Self::Refused(error) => f.write_str(error),
        }
    }
}

/// Texts of sources, by the names of the sources.
pub type Kept = BTreeMap<String, Arc<str>>;

/// What an earlier daemon left in force.
#[derive(Clone, Debug, Default)]
pub enum Earlier {
    /// Nothing, so a source that has errors ends the start.
    #[default]
    Nothing,
    /// An image whose sources are not known. It stays until every source is read without errors.
    Unknown,
    /// An image that was made with these texts. A source without a text had none.
    Known(Kept),
}

/// Why a source cannot start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// What it says has errors, and nothing is in force that could stay.
    #[error(transparent)]
    Refused(Box<dyn std::error::Error + Send + Sync>),
    /// Its files cannot be watched.
    #[error(transparent)]
    Watch(#[from] WatchError),
}

/// A source that was started; `None`: the configuration does not name it.
pub(super) type Started = Result<Option<Source>, StartError>;

/// How complete the statements of a source are.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub enum Listed {
    /// The source has given no complete list yet, so an unknown workload may still get a name.
    #[default]
    Never,
    /// The statements are complete, apart from what has changed since the source looked last.
    Complete,
}

/// A source that runs for as long as this is kept.
#[derive(Debug)]
pub(in crate::workload) struct Source {
    /// Under which name the text of its state is kept.
    pub(in crate::workload) name: &'static str,
    /// Its newest state.
    pub(in crate::workload) state: watch::Receiver<SourceState>,
}
