//! Reads what a daemon on this node has in force.
//!
//! Input: the daemon's pin directory and settings. Output: the policies, the workloads and the treatment of unknown ones.

use std::path::PathBuf;
use std::sync::Arc;

use anyhow::Context;

use crate::agent::state::StateDir;
use crate::config::Settings;
use crate::kernel::status;
use crate::plan::Unknown;
use crate::policy::model::PolicySet;
use crate::policy::source::from_kept;
use crate::workload::model::Snapshot;

/// The default pin directory.
pub const PIN_DIR: &str = "/sys/fs/bpf/enforcer";

/// Where a daemon has its pins and its state.
#[derive(Clone, Debug, clap::Args)]
pub struct Place {
    /// Directory on a bpf file system where the daemon pins its programs, links and maps.
    #[arg(long, value_name = "DIR", default_value = PIN_DIR)]
    pub pin_dir: PathBuf,
    /// Settings file of the daemon; docs/settings.md describes it. Without it every setting has its default.
    #[arg(long, value_name = "FILE")]
    pub config: Option<PathBuf>,
}

impl Place {
    /// The settings.
    pub fn settings(&self) -> anyhow::Result<Settings> {
        Ok(match &self.config {
            Some(path) => Settings::load(path)?,
            None => Settings::default(),
        })
    }

    /// The state directory, for reading.
    pub fn states(&self) -> anyhow::Result<StateDir> {
        Ok(StateDir::at(self.settings()?.state_of(&self.pin_dir)))
    }
}

/// What an image is made from.
#[derive(Clone, Debug)]
pub struct Sources {
    /// The policies.
    pub policies: Arc<PolicySet>,
    /// The workloads.
    pub snapshot: Snapshot,
    /// What the daemon does with workloads that no source has named.
    pub unknown: Unknown,
}

/// The sources of the image in force.
pub fn load(place: &Place) -> anyhow::Result<Sources> {
    let view = status::read(&place.pin_dir)?;
    let state = place.states()?.load(view.word.revision)?.with_context(|| {
        format!(
            "the state directory does not have the policies and workloads of revision {}; give --policies and --inventory",
            view.word.revision
        )
    })?;
    let policies = from_kept(&state.policies)?;
    Ok(Sources { policies, snapshot: Arc::unwrap_or_clone(state.snapshot), unknown: state.unknown })
}
