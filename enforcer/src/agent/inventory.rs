//! Decides which inventory is in use: the last version of the file without errors, or the one that an earlier daemon left
//! in force.
//!
//! Input: the inventory file and the state that an earlier daemon kept. Output: the inventory, and the error of the file.

use std::collections::BTreeMap;
use std::error::Error as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::error::AgentError;
use super::state::InForce;
use crate::workload::inventory::{InvalidInventory, Inventory, NAME};

/// An inventory file, and the inventory of it that is in use.
#[derive(Debug)]
pub(super) struct InventoryFile {
    path: Option<PathBuf>,
    /// `None` if the inventory of an earlier daemon is in force, but its text is not known.
    text: Option<Arc<str>>,
    error: Option<String>,
}

impl InventoryFile {
    /// Reads the file. If the file has errors, the inventory of an earlier daemon stays in use. `enforced` says that
    /// an image of an earlier daemon is in force. If its sources are not known, that image stays unchanged until the
    /// file is read without errors.
    pub(super) fn load(
        path: Option<&Path>,
        enforced: bool,
        earlier: Option<&InForce>,
    ) -> Result<(Self, Option<Inventory>), AgentError> {
        let mut file = Self { path: path.map(Path::to_owned), text: Some("".into()), error: None };
        let Some(path) = path else { return Ok((file, Some(Inventory::default()))) };
        match read(path) {
            Ok((inventory, text)) => {
                file.text = Some(text.into());
                Ok((file, Some(inventory)))
            }
            Err(error) if enforced => {
                let error = whole(&error);
                tracing::error!(
                    "the inventory has errors and is not used; what the earlier daemon enforced stays in force:\n{error}"
                );
                file.error = Some(error);
                // An earlier run without an inventory kept none, and that is what goes on.
                let text = earlier.map(|earlier| earlier.workloads.get(NAME).cloned().unwrap_or_default());
                let kept = text.as_ref().and_then(|text| Inventory::parse(path, text).ok());
                file.text = text.filter(|_| kept.is_some());
                Ok((file, kept))
            }
            Err(error) => Err(error.into()),
        }
    }

    /// Reads the file again; gives the inventory if it has changed.
    pub(super) fn reload(&mut self) -> Option<Inventory> {
        match read(self.path.as_deref()?) {
            Ok((inventory, text)) => {
                self.error = None;
                let changed = self.text.as_deref() != Some(text.as_str());
                self.text = Some(text.into());
                changed.then_some(inventory)
            }
            Err(error) => {
                let error = whole(&error);
                if self.error.as_ref() != Some(&error) {
                    tracing::error!(
                        "the inventory has errors and is not used; the last good one stays in force:\n{error}"
                    );
                }
                self.error = Some(error);
                None
            }
        }
    }

    /// The text of the inventory that is in use, under the name of its source; empty if there is none.
    pub(super) fn kept(&self) -> BTreeMap<String, Arc<str>> {
        let text = self.text.iter().filter(|text| !text.is_empty());
        text.map(|text| (NAME.to_owned(), Arc::clone(text))).collect()
    }

    /// The error for which the content of the file is not in use.
    pub(super) fn error(&self) -> Option<&str> {
        self.error.as_deref()
    }
}

fn read(path: &Path) -> Result<(Inventory, String), InvalidInventory> {
    let text = Inventory::read(path)?;
    Ok((Inventory::parse(path, &text)?, text))
}

fn whole(error: &InvalidInventory) -> String {
    error.source().map_or_else(|| error.to_string(), |cause| format!("{error}: {cause}"))
}

#[cfg(test)]
mod tests {
    use std::fs;

    use enforcer_common::id::Revision;

    use super::*;

    const GOOD: &str = "workloads: [{name: a, match: {interface: va}}]\n";
    const BAD: &str = "workloads: [{nmae: a}]\n";

    fn earlier(inventory: &str) -> InForce {
        let workloads = BTreeMap::from([(NAME.to_owned(), inventory.into())]);
        InForce { revision: Revision(3), workloads, ..InForce::default() }
    }

    fn text(file: &InventoryFile) -> String {
        file.kept().remove(NAME).unwrap_or_default().to_string()
    }

    fn names(inventory: &Inventory) -> Vec<String> {
        inventory.entries.iter().map(|entry| entry.name.to_string()).collect()
    }

    #[test]
    fn a_bad_file_leaves_the_last_good_inventory() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("inventory.yaml");
        fs::write(&path, GOOD).unwrap();
        let (mut file, inventory) = InventoryFile::load(Some(&path), false, None).unwrap();
        assert_eq!((names(&inventory.unwrap()), text(&file)), (vec!["default/a".to_owned()], GOOD.to_owned()));
        fs::write(&path, BAD).unwrap();
        assert_eq!(file.reload(), None);
        assert_eq!(text(&file), GOOD);
        assert!(file.error().is_some_and(|error| error.contains("inventory.yaml:1")), "{:?}", file.error());
        fs::remove_file(&path).unwrap();
        assert_eq!(file.reload(), None);
        assert!(file.error().is_some_and(|error| error.contains("No such file")), "{:?}", file.error());
        fs::write(&path, GOOD).unwrap();
        assert_eq!(file.reload(), None, "the same text again is no change");
        assert_eq!(file.error(), None);
        fs::write(&path, GOOD.replace("name: a", "name: b")).unwrap();
        assert_eq!(names(&file.reload().unwrap()), ["default/b"]);
    }

    #[test]
    fn a_bad_file_at_the_start_ends_it_unless_an_earlier_run_is_in_force() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("inventory.yaml");
        fs::write(&path, BAD).unwrap();
        let ended = InventoryFile::load(Some(&path), false, Some(&earlier(GOOD))).unwrap_err();
        assert_eq!(ended.exit_code(), 2);
        let load = |earlier: Option<&InForce>| InventoryFile::load(Some(&path), true, earlier).unwrap();
        let (mut file, kept) = load(Some(&earlier(GOOD)));
        assert_eq!((names(&kept.unwrap()), text(&file)), (vec!["default/a".to_owned()], GOOD.to_owned()));
        assert!(file.error().is_some());
        fs::write(&path, GOOD).unwrap();
        assert_eq!(file.reload(), None, "mended to what is in force");
        assert_eq!(file.error(), None);

        fs::write(&path, BAD).unwrap();
        let without = InForce { workloads: BTreeMap::new(), ..earlier("") };
        let (file, kept) = load(Some(&without));
        assert_eq!(kept, Some(Inventory::default()), "the earlier run had none");
        assert_eq!(file.kept(), BTreeMap::new());
        for unknown in [None, Some(earlier(BAD))] {
            let (mut file, kept) = load(unknown.as_ref());
            assert_eq!(kept, None);
            fs::write(&path, "workloads: []\n").unwrap();
            assert!(file.reload().is_some());
            fs::write(&path, BAD).unwrap();
        }
    }
}
