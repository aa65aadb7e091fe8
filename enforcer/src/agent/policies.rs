//! Decides which policies are in use: for each source the last ones without errors, or those that an earlier daemon left in
//! force.
//!
//! Input: the policy sources and the state that an earlier daemon kept. Output: one set of policies, and the errors.

use super::error::AgentError;
use super::state::InForce;
use crate::policy::PolicyWarning;
use crate::policy::source::{self, Config, Sources, Unit};
use crate::policy::store::{Reading, Store};

/// The sources of policies, and the policies of them that are in use.
#[derive(Debug)]
pub(super) struct Policies {
    sources: Sources,
    store: Store,
}

impl Policies {
    /// Reads all sources. If a source has errors, its policies of an earlier daemon stay in use. `enforced` says that
    /// an image of an earlier daemon is in force. If its sources are not known, that image stays unchanged until all
    /// sources are read without errors.
    pub(super) fn load(config: &Config, enforced: bool, earlier: Option<&InForce>) -> Result<Self, AgentError> {
        // They watch from here on, before the first reading, so that no change is missed.
        let mut sources = Sources::open(config)?;
        let mut store = Store::new(sources.names());
        let names: Vec<&'static str> = sources.names().collect();
        for name in names {
            let mut said = sources.read(name);
            // Nothing is in force that could stay. An object of an API that is refused stops nobody but itself.
            if !enforced && let Some(whole) = said.remove(&Unit::Whole) {
                said.insert(Unit::Whole, Ok(whole?));
            }
            if said.values().any(Result::is_err) {
                let kept = earlier.and_then(|earlier| earlier.policies.get(name));
                if let Some(kept) = kept.and_then(|kept| source::restore(name, kept)) {
                    warn(&store.take(name, kept).warnings);
                }
            }
            let news = store.take(name, said);
            warn(&news.warnings);
            for error in news.errors {
                tracing::error!(
                    "the policies have errors and are not used; what the earlier daemon enforced stays in force:\n{error}"
                );
            }
        }
        Ok(Self { sources, store })
    }

    /// Waits until a source may have changed, and returns its name. Cancel safe.
    pub(super) async fn changed(&mut self) -> &'static str {
        self.sources.changed().await
    }

    /// Reads a source again. Returns true if the set of policies, or the position of a line in it, has changed.
    pub(super) fn reload(&mut self, source: &'static str) -> bool {
        let news = self.store.take(source, self.sources.read(source));
        for error in news.errors {
            tracing::error!("the policies have errors and are not used; the last good ones stay in force:\n{error}");
        }
        warn(&news.warnings);
        news.changed
    }

    /// Notes that the current set is in force.
    pub(super) fn settle(&mut self) {
        self.store.settle();
    }

    /// Notes that the current set cannot be put in force. Returns true if the set before it is in use again.
    pub(super) fn roll_back(&mut self, error: &str) -> bool {
        let rolled_back = self.store.roll_back(error);
        if rolled_back {
            tracing::error!("the policies cannot be put in force; the last good ones stay in force: {error}");
        }
        rolled_back
    }

    /// The policies that are in use; `None` if those of an earlier daemon are in force, but their text is not known.
    pub(super) fn current(&self) -> Option<&Reading> {
        self.store.current()
    }

    /// The places from which the policies are read.
    pub(super) fn places(&self) -> String {
        self.sources.places()
    }

    /// The error for which the newest policies of the sources are not in force.
    pub(super) fn error(&self) -> Option<String> {
        self.store.error()
    }
}

fn warn(warnings: &[PolicyWarning]) {
    for warning in warnings {
        tracing::warn!("{warning}");
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;
    use std::fs;
    use std::path::Path;
    use std::sync::Arc;

    use enforcer_common::id::Revision;

    use super::*;
    use crate::policy::load::SourceFile;

    const GOOD: &str =
        "apiVersion: networking.k8s.io/v1\nkind: NetworkPolicy\nmetadata: {name: a}\nspec: {podSelector: {}}\n";

    fn load(directory: &Path, enforced: bool, earlier: Option<&InForce>) -> Result<Policies, AgentError> {
        Policies::load(&Config { directory: directory.to_owned() }, enforced, earlier)
    }

    fn count(policies: &Policies) -> usize {
        policies.current().unwrap().set.policies.len()
    }

    #[test]
    fn a_bad_file_leaves_the_last_good_set() {
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("a.yaml");
        fs::write(&file, GOOD).unwrap();
        let mut policies = load(directory.path(), false, None).unwrap();
        fs::write(&file, "kind: Nonsense\n").unwrap();
        assert!(!policies.reload("directory"), "a refused reading changes nothing");
        assert_eq!(count(&policies), 1);
        assert!(policies.error().is_some_and(|error| error.contains("a.yaml")));
        fs::write(&file, GOOD).unwrap();
        assert!(!policies.reload("directory"), "the same text again is no change");
        assert_eq!(policies.error(), None);
        fs::remove_file(&file).unwrap();
        assert!(policies.reload("directory"));
        assert_eq!(count(&policies), 0);
    }

    #[test]
    fn a_bad_file_at_the_start_ends_it_unless_an_earlier_run_is_in_force() {
        let directory = tempfile::tempdir().unwrap();
        fs::write(directory.path().join("a.yaml"), "kind: Nonsense\n").unwrap();
        assert!(load(directory.path(), false, None).is_err());
        let kept: Arc<[SourceFile]> = Arc::new([SourceFile { path: "a.yaml".into(), text: GOOD.to_owned() }]);
        let policies = BTreeMap::from([("directory".to_owned(), vec![kept])]);
        let earlier = InForce { revision: Revision(3), policies, ..InForce::default() };
        let policies = load(directory.path(), true, Some(&earlier)).unwrap();
        assert_eq!(count(&policies), 1);
        assert!(policies.error().is_some());
        let unknown = load(directory.path(), true, None).unwrap();
        assert!(unknown.current().is_none() && unknown.error().is_some());
    }

    #[test]
    fn what_cannot_be_brought_in_force_is_taken_back_and_not_tried_again() {
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("a.yaml");
        fs::write(&file, GOOD).unwrap();
        let mut policies = load(directory.path(), false, None).unwrap();
        policies.settle();
        fs::write(&file, GOOD.replace("name: a", "name: b")).unwrap();
        assert!(policies.reload("directory"));
        assert!(policies.roll_back("too large"));
        assert_eq!(policies.current().unwrap().set.policies[0].name, "a");
        assert_eq!(policies.error().as_deref(), Some("too large"));
        assert!(!policies.reload("directory"), "the same files are refused without another try");
        assert_eq!(policies.error().as_deref(), Some("too large"));
        fs::write(&file, GOOD.replace("name: a", "name: c")).unwrap();
        assert!(policies.reload("directory"));
        assert!(!load(directory.path(), false, None).unwrap().roll_back("first"));
    }
}
