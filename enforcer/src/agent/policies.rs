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
    current: Option<Reading>,
    /// What counted before, until the current one is in force.
    previous: Option<Reading>,
    /// Files that passed the parser and could not be brought in force: not tried again.
    refused: Option<Vec<SourceFile>>,
    error: Option<String>,
}

/// One good reading of the directory.
#[derive(Clone, Debug)]
pub(super) struct Reading {
    pub(super) set: Arc<PolicySet>,
    pub(super) sources: Vec<SourceFile>,
}

impl Reading {
    fn new(loaded: Loaded) -> Self {
        for warning in &loaded.warnings {
            tracing::warn!("{warning}");
        }
        let Loaded { set, sources, .. } = loaded;
        Self { set: Arc::new(set), sources }
    }
}

impl Policies {
    /// Reads the directory. If it is refused, the policies of an earlier run that are still in force go on. `enforced`: an
    /// image of an earlier run is in force; without its sources it stays as it is until there is a good reading.
    pub(super) fn load(directory: &Path, enforced: bool, earlier: Option<&InForce>) -> Result<Self, AgentError> {
        let (current, error) = match load(directory) {
            Ok(loaded) => (Some(loaded), None),
            Err(errors) if enforced => {
                let kept = earlier.and_then(|earlier| from_sources(earlier.sources()).ok());
                (kept, Some(errors.to_string()))
            }
            Err(errors) => return Err(errors.into()),
        };
        if let Some(error) = &error {
            tracing::error!("the policies are refused, what the earlier run enforced stays in force:\n{error}");
        }
        Ok(Self {
            directory: directory.to_owned(),
            current: current.map(Reading::new),
            previous: None,
            refused: None,
            error,
        })
    }

    /// Reads the directory again. True: the set, or the place of a line in it, has changed.
    pub(super) fn reload(&mut self) -> bool {
        let loaded = match load(&self.directory) {
            Ok(loaded) => loaded,
            Err(errors) => {
                let error = errors.to_string();
                if self.error.as_ref() != Some(&error) {
                    tracing::error!("the policies are refused, the last good ones stay in force:\n{error}");
                }
                self.error = Some(error);
                return false;
            }
        };
        if self.refused.as_ref() == Some(&loaded.sources) {
            return false;
        }
        self.error = None;
        if self.current.as_ref().is_some_and(|current| current.sources == loaded.sources) {
            return false;
        }
        let newer = Reading::new(loaded);
        let older = self.current.replace(newer);
        self.previous = self.previous.take().or(older);
        true
    }

    /// The current set is in force.
    pub(super) fn settle(&mut self) {
        self.previous = None;
        self.refused = None;
    }

    /// The current set cannot be brought in force. True: the one before counts again.
    pub(super) fn roll_back(&mut self, error: String) -> bool {
        let Some(previous) = self.previous.take() else { return false };
        tracing::error!("the policies are refused, the last good ones stay in force: {error}");
        self.refused = self.current.replace(previous).map(|refused| refused.sources);
        self.error = Some(error);
        true
    }

    /// What counts; `None`: an earlier run's policies are in force and nobody knows them any more.
    pub(super) fn current(&self) -> Option<&Reading> {
        self.current.as_ref()
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

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    const GOOD: &str =
        "apiVersion: networking.k8s.io/v1\nkind: NetworkPolicy\nmetadata: {name: a}\nspec: {podSelector: {}}\n";

    fn count(policies: &Policies) -> usize {
        policies.current().unwrap().set.policies.len()
    }

    #[test]
    fn a_bad_file_leaves_the_last_good_set() {
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("a.yaml");
        fs::write(&file, GOOD).unwrap();
        let mut policies = Policies::load(directory.path(), false, None).unwrap();
        fs::write(&file, "kind: Nonsense\n").unwrap();
        assert!(!policies.reload(), "a refused reading changes nothing");
        assert_eq!(count(&policies), 1);
        assert!(policies.error().is_some_and(|error| error.contains("a.yaml")));
        fs::write(&file, GOOD).unwrap();
        assert!(!policies.reload(), "the same text again is no change");
        assert_eq!(policies.error(), None);
        fs::remove_file(&file).unwrap();
        assert!(policies.reload());
        assert_eq!(count(&policies), 0);
    }

    #[test]
    fn a_bad_file_at_the_start_ends_it_unless_an_earlier_run_is_in_force() {
        let directory = tempfile::tempdir().unwrap();
        fs::write(directory.path().join("a.yaml"), "kind: Nonsense\n").unwrap();
        assert!(Policies::load(directory.path(), false, None).is_err());
        let earlier =
            InForce { revision: 3, policies: vec![("a.yaml".to_owned(), GOOD.to_owned())], ..InForce::default() };
        let policies = Policies::load(directory.path(), true, Some(&earlier)).unwrap();
        assert_eq!(count(&policies), 1);
        assert!(policies.error().is_some());
        let unknown = Policies::load(directory.path(), true, None).unwrap();
        assert!(unknown.current().is_none() && unknown.error().is_some());
    }

    #[test]
    fn what_cannot_be_brought_in_force_is_taken_back_and_not_tried_again() {
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("a.yaml");
        fs::write(&file, GOOD).unwrap();
        let mut policies = Policies::load(directory.path(), false, None).unwrap();
        policies.settle();
        fs::write(&file, GOOD.replace("name: a", "name: b")).unwrap();
        assert!(policies.reload());
        assert!(policies.roll_back("too large".to_owned()));
        assert_eq!(policies.current().unwrap().set.policies[0].name, "a");
        assert_eq!(policies.error(), Some("too large"));
        assert!(!policies.reload(), "the same files are refused without another try");
        assert_eq!(policies.error(), Some("too large"));
        fs::write(&file, GOOD.replace("name: a", "name: c")).unwrap();
        assert!(policies.reload());
        assert!(!Policies::load(directory.path(), false, None).unwrap().roll_back("first".to_owned()));
    }
}
