//! Decides which version of the inventory file counts: the last one without errors, or the one that an earlier daemon left
//! in force.
//!
//! Input: the file, and the text that an earlier daemon kept. Output: the state of the source, each time it has changed.

#![forbid(unsafe_code)]

use std::error::Error as _;
use std::path::Path;
use std::sync::Arc;

use tokio::sync::watch::{self, Sender};

use super::{InvalidInventory, Inventory, NAME, state_of};
use crate::watch::{ChangeStream, watch};
use crate::workload::config::Config;
use crate::workload::source::shape::{Earlier, Listed, Source, SourceError, SourceState, StartError, Started};

/// Watches the file for as long as somebody listens.
pub(in crate::workload::source) fn start(config: &Config) -> Started {
    let Some(path) = config.inventory.clone() else { return Ok(None) };
    // Before the first reading, so that no change is missed.
    let changes = watch(vec![path.clone()])?;
    let first = first(&path, &config.earlier).map_err(|error| StartError::Refused(Box::new(error)))?;
    let (to, state) = watch::channel(first);
    tokio::spawn(async move { follow(&path, changes, &to).await });
    Ok(Some(Source { name: NAME, state }))
}

async fn follow(path: &Path, mut changes: ChangeStream, to: &Sender<SourceState>) {
    loop {
        tokio::select! {
            () = changes.changed() => { to.send_if_modified(|state| read_again(path, state)); }
            () = to.closed() => return,
        }
    }
}

/// The state at the start. If the file has errors, what an earlier daemon kept of it still counts; if nobody knows what
/// that was, the source has not spoken yet.
fn first(path: &Path, earlier: &Earlier) -> Result<SourceState, InvalidInventory> {
    let error = match read(path) {
        Ok(state) => return Ok(state),
        Err(error) => error,
    };
    let kept = match earlier {
        Earlier::Nothing => return Err(error),
        Earlier::Unknown => None,
        // An earlier run without an inventory kept none, and that is what goes on.
        Earlier::Known(kept) => parsed(path, kept.get(NAME).map_or("", |text| text)).ok(),
    };
    let error = whole(&error);
    tracing::error!(
        "the inventory has errors and is not used; what the earlier daemon enforced stays in force:\n{error}"
    );
    let unspoken = SourceState { listed: Listed::Never, ..state_of(&Inventory::default()) };
    Ok(SourceState { error: Some(SourceError::Refused(error)), ..kept.unwrap_or(unspoken) })
}

/// Reads the file again; tells whether that changes the state.
fn read_again(path: &Path, state: &mut SourceState) -> bool {
    let next = match read(path) {
        Ok(next) if next.listed == state.listed && next.kept == state.kept => {
            SourceState { error: None, ..state.clone() }
        }
        Ok(next) => next,
        Err(error) => SourceState { error: Some(SourceError::Refused(whole(&error))), ..state.clone() },
    };
    let changed = next.kept != state.kept || next.listed != state.listed || next.error != state.error;
    if let (true, Some(error)) = (changed, &next.error) {
        tracing::error!("the inventory has errors and is not used; the last good one stays in force:\n{error}");
    }
    *state = next;
    changed
}

fn read(path: &Path) -> Result<SourceState, InvalidInventory> {
    parsed(path, &Inventory::read(path)?)
}

fn parsed(path: &Path, text: &str) -> Result<SourceState, InvalidInventory> {
    let inventory = Inventory::parse(path, text)?;
    Ok(SourceState { kept: Some(Arc::from(text)), ..state_of(&inventory) })
}

fn whole(error: &InvalidInventory) -> String {
    error.source().map_or_else(|| error.to_string(), |cause| format!("{error}: {cause}"))
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;
    use crate::workload::source::shape::Kept;
    use crate::workload::statement::About;

    const GOOD: &str = "workloads: [{name: a, match: {interface: va}}]\n";
    const BAD: &str = "workloads: [{nmae: a}]\n";

    fn earlier(inventory: &str) -> Earlier {
        Earlier::Known(Kept::from([(NAME.to_owned(), inventory.into())]))
    }

    /// The names that the state gives, and the text that it keeps.
    fn said(state: &SourceState) -> (Vec<String>, Option<&str>) {
        let name = |about: &About| match about {
            About::Workload(name) => name.to_string(),
            other => panic!("{other:?}"),
        };
        (state.statements.iter().map(|statement| name(&statement.about)).collect(), state.kept.as_deref())
    }

    fn refusal(state: &SourceState) -> String {
        match &state.error {
            Some(SourceError::Refused(error)) => error.clone(),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn a_bad_file_leaves_the_last_good_inventory() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("inventory.yaml");
        fs::write(&path, GOOD).unwrap();
        let mut state = first(&path, &Earlier::Nothing).unwrap();
        let a = (vec!["default/a".to_owned()], Some(GOOD));
        assert_eq!(said(&state), a);
        fs::write(&path, BAD).unwrap();
        assert!(read_again(&path, &mut state), "the error is news");
        assert!(!read_again(&path, &mut state), "the same error is not");
        assert_eq!(said(&state), a);
        assert!(refusal(&state).contains("inventory.yaml:1"), "{}", refusal(&state));
        fs::remove_file(&path).unwrap();
        assert!(read_again(&path, &mut state));
        assert_eq!(said(&state), a);
        assert!(refusal(&state).contains("No such file"), "{}", refusal(&state));
        fs::write(&path, GOOD).unwrap();
        assert!(read_again(&path, &mut state) && state.error.is_none());
        assert!(!read_again(&path, &mut state), "the same text again is no change");
        let other = GOOD.replace("name: a", "name: b");
        fs::write(&path, &other).unwrap();
        assert!(read_again(&path, &mut state));
        assert_eq!(said(&state), (vec!["default/b".to_owned()], Some(other.as_str())));
    }

    #[test]
    fn a_bad_file_at_the_start_ends_it_unless_an_earlier_run_is_in_force() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("inventory.yaml");
        fs::write(&path, BAD).unwrap();
        assert!(first(&path, &Earlier::Nothing).is_err());
        let mut state = first(&path, &earlier(GOOD)).unwrap();
        assert_eq!(said(&state), (vec!["default/a".to_owned()], Some(GOOD)));
        assert_eq!(state.listed, Listed::Complete);
        assert!(state.error.is_some());
        fs::write(&path, GOOD).unwrap();
        assert!(read_again(&path, &mut state));
        assert_eq!((said(&state).1, &state.error), (Some(GOOD), &None), "corrected to what is in force");

        fs::write(&path, BAD).unwrap();
        let state = first(&path, &Earlier::Known(Kept::new())).unwrap();
        assert_eq!(state.listed, Listed::Complete, "the earlier run had none");
        assert_eq!(said(&state).0, Vec::<String>::new());
        for unknown in [Earlier::Unknown, earlier(BAD)] {
            let mut state = first(&path, &unknown).unwrap();
            assert_eq!((state.listed, said(&state)), (Listed::Never, (Vec::new(), None)));
            fs::write(&path, "").unwrap();
            assert!(read_again(&path, &mut state), "an empty inventory is one");
            assert_eq!((state.listed, said(&state), &state.error), (Listed::Complete, (Vec::new(), Some("")), &None));
            fs::write(&path, BAD).unwrap();
        }
    }
}
