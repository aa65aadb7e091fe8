//! The policies that count: the newest good reading of the directory, or those that an earlier run left in force.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::error::AgentError;
use super::state::InForce;
use crate::policy::load::{Loaded, SourceFile, from_sources, load};
use crate::policy::model::PolicySet;

/// A policy set and where it came from.
#[derive(Debug)]
pub(super) struct Policies {
    directory: PathBuf,
    set: Arc<PolicySet>,
    sources: Vec<SourceFile>,
    error: Option<String>,
}

impl Policies {
    /// Reads the directory. If it is refused, the policies of an earlier run that are still in force go on.
    pub(super) fn load(directory: &Path, earlier: Option<&InForce>) -> Result<Self, AgentError> {
        let (loaded, error) = match load(directory) {
            Ok(loaded) => (loaded, None),
            Err(errors) => {
                let kept = earlier.and_then(|earlier| from_sources(earlier.sources()).ok());
                match kept {
                    Some(kept) => (kept, Some(errors.to_string())),
                    None => return Err(errors.into()),
                }
            }
        };
        if let Some(error) = &error {
            tracing::error!("the policies are refused, those of the earlier run stay in force:\n{error}");
        }
        warn(&loaded);
        let Loaded { set, sources, .. } = loaded;
        Ok(Self { directory: directory.to_owned(), set: Arc::new(set), sources, error })
    }

    /// Reads the directory again. True: the set, or the place of a line in it, has changed.
    pub(super) fn reload(&mut self) -> bool {
        match load(&self.directory) {
            Ok(loaded) => {
                self.error = None;
                if loaded.sources == self.sources {
                    return false;
                }
                warn(&loaded);
                let Loaded { set, sources, .. } = loaded;
                self.set = Arc::new(set);
                self.sources = sources;
                true
            }
            Err(errors) => {
                let error = errors.to_string();
                if self.error.as_ref() != Some(&error) {
                    tracing::error!("the policies are refused, the last good ones stay in force:\n{error}");
                }
                self.error = Some(error);
                false
            }
        }
    }

    /// The set.
    pub(super) fn set(&self) -> &Arc<PolicySet> {
        &self.set
    }

    /// Its files.
    pub(super) fn sources(&self) -> &[SourceFile] {
        &self.sources
    }

    /// Where it is read from.
    pub(super) fn directory(&self) -> &Path {
        &self.directory
    }

    /// Why what lies in the directory is not in force.
    pub(super) fn error(&self) -> Option<&str> {
        self.error.as_deref()
    }
}

fn warn(loaded: &Loaded) {
    for warning in &loaded.warnings {
        tracing::warn!("{warning}");
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;
    use crate::workload::model::Snapshot;

    const GOOD: &str =
        "apiVersion: networking.k8s.io/v1\nkind: NetworkPolicy\nmetadata: {name: a}\nspec: {podSelector: {}}\n";

    #[test]
    fn a_bad_file_leaves_the_last_good_set() {
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("a.yaml");
        fs::write(&file, GOOD).unwrap();
        let mut policies = Policies::load(directory.path(), None).unwrap();
        fs::write(&file, "kind: Nonsense\n").unwrap();
        assert!(!policies.reload(), "a refused reading changes nothing");
        assert_eq!(policies.set().policies.len(), 1);
        assert!(policies.error().is_some_and(|error| error.contains("a.yaml")));
        fs::write(&file, GOOD).unwrap();
        assert!(!policies.reload(), "the same text again is no change");
        assert_eq!(policies.error(), None);
        fs::remove_file(&file).unwrap();
        assert!(policies.reload());
        assert!(policies.set().policies.is_empty());
    }

    #[test]
    fn a_bad_file_at_the_start_ends_it_unless_an_earlier_run_is_in_force() {
        let directory = tempfile::tempdir().unwrap();
        fs::write(directory.path().join("a.yaml"), "kind: Nonsense\n").unwrap();
        assert!(Policies::load(directory.path(), None).is_err());
        let earlier = InForce {
            revision: 3,
            policies: vec![("a.yaml".to_owned(), GOOD.to_owned())],
            snapshot: Snapshot::default(),
        };
        let policies = Policies::load(directory.path(), Some(&earlier)).unwrap();
        assert_eq!(policies.set().policies.len(), 1);
        assert!(policies.error().is_some());
    }
}
