//! Decides which version of the inventory file counts: the last one without errors, or the one that an earlier daemon left
//! in force.
//!
//! Input: the file, and the text that an earlier daemon kept. Output: the state of the source, each time it has changed. A
//! reading that may show half of a change is left for later.

#![forbid(unsafe_code)]

use std::collections::BTreeSet;
use std::error::Error as _;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Instant;

use tokio::sync::watch::{self, Sender};
use tokio::time::sleep_until;

use super::pieces::{FEW, InventoryReading, Pieces};
use super::{InvalidInventory, Inventory, NAME, state, state_of};
use crate::watch::patience::{Found, Next, Patience};
use crate::watch::read::{Writers, has_documents};
use crate::watch::{ChangeStream, watch};
use crate::workload::config::Config;
use crate::workload::source::shape::{Earlier, Listed, Source, SourceError, SourceState, StartError, Started};

/// Watches the file for as long as somebody listens.
pub(in crate::workload::source) fn start(config: &Config) -> Started {
    let Some(path) = config.inventory.clone() else { return Ok(None) };
    // Before the first reading, so that no change is missed.
    let changes = watch(vec![path.clone()])?;
    let mut reader = Reader::new(path);
    let first = reader.first(&config.earlier).map_err(|error| StartError::Refused(Box::new(error)))?;
    let (to, state) = watch::channel(first);
    tokio::spawn(async move { reader.follow(changes, &to).await });
    Ok(Some(Source { name: NAME, state }))
}

/// What reads the file.
struct Reader {
    path: PathBuf,
    patience: Patience,
    pieces: Pieces,
    /// The text that was refused last, and why: it is refused again without being parsed.
    refused: Option<(String, Arc<InvalidInventory>)>,
    /// When the file is read again if the last reading did not count.
    due: Option<Instant>,
}

impl Reader {
    fn new(path: PathBuf) -> Self {
        Self { path, patience: Patience::default(), pieces: Pieces::new(FEW), refused: None, due: None }
    }

    async fn follow(mut self, mut changes: ChangeStream, to: &Sender<SourceState>) {
        loop {
            let due = self.due.map(Into::into);
            tokio::select! {
                () = changes.changed() => {}
                () = async { if let Some(due) = due { sleep_until(due).await } }, if due.is_some() => {}
                () = to.closed() => return,
            }
            to.send_if_modified(|state| self.again(state));
        }
    }

    /// The state at the start. If the file has errors, what an earlier daemon kept of it still counts; if nobody knows what
    /// that was, the source has not spoken yet.
    fn first(&mut self, earlier: &Earlier) -> Result<SourceState, InvalidInventory> {
        let kept = match earlier {
            Earlier::Nothing => return self.first_of_all(),
            Earlier::Unknown => None,
            // An earlier run without an inventory kept none, and that is what goes on.
            Earlier::Known(kept) => self.parsed(kept.get(NAME).map_or("", |text| text)).ok(),
        };
        let unspoken = SourceState { listed: Listed::Never, ..state_of(&Inventory::default()) };
        let kept = kept.unwrap_or(unspoken);
        let read = self.read();
        if self.waits(kept.kept.as_deref(), read.as_ref()) {
            return Ok(kept);
        }
        match read {
            Ok(state) => Ok(state),
            Err(error) => {
                let error = whole(&error);
                tracing::error!(
                    "the inventory has errors and is not used; what the earlier daemon enforced stays in force:\n{error}"
                );
                Ok(SourceState { error: Some(SourceError::Refused(error)), ..kept })
            }
        }
    }

    /// The state at the start if nothing is in force that could stay. A writer is waited for here: discovery has no other
    /// work before the sources speak.
    fn first_of_all(&mut self) -> Result<SourceState, InvalidInventory> {
        let mut state = self.read();
        while self.waits(None, state.as_ref()) {
            let until = self.due.unwrap_or_else(Instant::now);
            std::thread::sleep(until.saturating_duration_since(Instant::now()));
            state = self.read();
        }
        state
    }

    /// Reads the file again; tells whether that changes the state.
    fn again(&mut self, state: &mut SourceState) -> bool {
        let read = self.read_beside(state);
        if self.waits(state.kept.as_deref(), read.as_ref().map_err(AsRef::as_ref)) {
            return false;
        }
        let next = match read {
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

    /// What the file says. A text that counts, or that was refused, is not parsed again.
    fn read_beside(&mut self, state: &SourceState) -> Result<SourceState, Arc<InvalidInventory>> {
        let text = Inventory::read(&self.path, Writers::Awaited)?;
        if state.listed == Listed::Complete && state.kept.as_deref() == Some(&*text) {
            self.refused = None;
            return Ok(SourceState { error: None, ..state.clone() });
        }
        if let Some((_, error)) = self.refused.as_ref().filter(|(refused, _)| *refused == text) {
            return Err(Arc::clone(error));
        }
        let parsed = self.parsed(&text).map_err(Arc::new);
        self.refused = parsed.as_ref().err().map(|error| (text, Arc::clone(error)));
        parsed
    }

    fn read(&mut self) -> Result<SourceState, InvalidInventory> {
        self.parsed(&Inventory::read(&self.path, Writers::Awaited)?)
    }

    fn parsed(&mut self, text: &str) -> Result<SourceState, InvalidInventory> {
        let InventoryReading { inventory, statements, .. } = self.pieces.parse(&self.path, text)?;
        Ok(SourceState { kept: Some(Arc::from(text)), ..state(statements, inventory.namespaces, inventory.services) })
    }

    /// Whether a reading does not count yet, beside the text that counts.
    fn waits(&mut self, in_use: Option<&str>, read: Result<&SourceState, &InvalidInventory>) -> bool {
        let (found, news) = match read {
            Err(InvalidInventory::BeingWritten { .. }) => {
                (Found::BeingWritten, "the inventory is open for writing; it stays as it is until it is closed")
            }
            Ok(state) if in_use.is_some_and(has_documents) && !state.kept.as_deref().is_some_and(has_documents) => {
                let file = BTreeSet::from([NAME.to_owned()]);
                (Found::Emptied(file), "the inventory is empty; it stays as it was, in case it is filled again")
            }
            _ => (Found::Whole, ""),
        };
        match self.patience.next(found, Instant::now()) {
            Next::Counts => self.due = None,
            Next::Waits(until) => {
                if self.due.replace(until).is_none() {
                    tracing::info!("{news}");
                }
            }
        }
        self.due.is_some()
    }
}

fn whole(error: &InvalidInventory) -> String {
    error.source().map_or_else(|| error.to_string(), |cause| format!("{error}: {cause}"))
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::path::Path;

    use super::*;
    use crate::watch::patience::{EMPTIED, LONGEST};
    use crate::workload::source::shape::Kept;
    use crate::workload::statement::About;

    const GOOD: &str = "workloads: [{name: a, match: {interface: va}}]\n";
    const BAD: &str = "workloads: [{nmae: a}]\n";

    fn earlier(inventory: &str) -> Earlier {
        Earlier::Known(Kept::from([(NAME.to_owned(), inventory.into())]))
    }

    fn reader(path: &Path) -> Reader {
        Reader::new(path.to_owned())
    }

    fn first(path: &Path, earlier: &Earlier) -> Result<SourceState, InvalidInventory> {
        reader(path).first(earlier)
    }

    fn read_again(path: &Path, state: &mut SourceState) -> bool {
        reader(path).again(state)
    }

    /// The names that the state gives, and the text that it keeps.
    fn said(state: &SourceState) -> (Vec<String>, Option<&str>) {
        let name = |about: &About| match about {
            About::Workload(name) => name.to_string(),
            About::Part { .. } => panic!("{about:?}"),
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

    #[test]
    fn a_file_that_is_being_written_or_was_emptied_stays_as_it_was() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("inventory.yaml");
        fs::write(&path, GOOD).unwrap();
        let a = (vec!["default/a".to_owned()], Some(GOOD));
        let (mut reader, mut state) = (reader(&path), first(&path, &Earlier::Nothing).unwrap());
        let writer = fs::File::create(&path).unwrap();
        assert!(!reader.again(&mut state));
        assert!((said(&state), &state.error) == (a.clone(), &None) && reader.due.is_some(), "emptied and open");
        let beside = first(&path, &earlier(GOOD)).unwrap();
        assert_eq!((said(&beside), &beside.error), (a.clone(), &None), "a start beside the writer");
        drop(writer);
        assert!(!reader.again(&mut state));
        assert!(said(&state) == a && reader.due.is_some(), "emptied");
        let beside = first(&path, &earlier(GOOD)).unwrap();
        assert_eq!((said(&beside), &beside.error), (a, &None), "a start beside the empty file");
        // As if the time had passed.
        reader.patience = Patience::default();
        _ = reader
            .patience
            .next(Found::Emptied(BTreeSet::from([NAME.to_owned()])), Instant::now().checked_sub(EMPTIED).unwrap());
        assert!(reader.again(&mut state));
        assert_eq!((said(&state), reader.due), ((Vec::new(), Some("")), None));
    }

    #[test]
    fn a_writer_that_does_not_end_is_refused() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("inventory.yaml");
        fs::write(&path, GOOD).unwrap();
        let (mut reader, mut state) = (reader(&path), first(&path, &Earlier::Nothing).unwrap());
        let writer = fs::OpenOptions::new().append(true).open(&path).unwrap();
        _ = reader.patience.next(Found::BeingWritten, Instant::now().checked_sub(LONGEST).unwrap());
        assert!(reader.again(&mut state), "the error is news");
        assert!(refusal(&state).contains("open for writing"), "{}", refusal(&state));
        assert_eq!(said(&state), (vec!["default/a".to_owned()], Some(GOOD)));
        drop(writer);
        assert!(reader.again(&mut state) && state.error.is_none());
    }
}
