use std::os::unix::fs::MetadataExt as _;

use tempfile::TempDir;

use super::*;

fn state(revision: u32, policy: &str, inventory: &str) -> InForce {
    let files: Arc<[SourceFile]> = Arc::new([SourceFile { path: "shop.yaml".into(), text: policy.to_owned() }]);
    InForce {
        revision,
        policies: BTreeMap::from([("directory".to_owned(), vec![files])]),
        workloads: BTreeMap::from([("inventory".to_owned(), inventory.into())]),
        snapshot: Arc::new(Snapshot::default()),
        unknown: Unknown::Open,
    }
}

fn empty() -> (TempDir, StateDir) {
    let directory = tempfile::tempdir().unwrap();
    let states = StateDir::create(directory.path().join("a")).unwrap();
    (directory, states)
}

fn loaded(states: &StateDir, revision: u32) -> Option<InForce> {
    states.load(revision).unwrap()
}

/// Every file with its inode and the time when it was written.
fn files(states: &StateDir) -> BTreeMap<String, (u64, i64, i64)> {
    let stamp = |name: String| {
        let file = fs::metadata(states.path.join(&name)).unwrap();
        (name, (file.ino(), file.mtime(), file.mtime_nsec()))
    };
    states.files().into_iter().map(stamp).collect()
}

fn names(states: &StateDir) -> Vec<String> {
    files(states).into_keys().collect()
}

#[test]
fn what_was_saved_comes_back_for_its_revision_only() {
    let (_directory, mut states) = empty();
    let (seven, eight) = (state(7, "kind: FlowPolicy\n", "a"), state(8, "kind: FlowPolicy\n", "b"));
    states.save(&seven).unwrap();
    states.save(&eight).unwrap();
    assert_eq!((loaded(&states, 7), loaded(&states, 8)), (Some(seven), Some(eight.clone())));
    assert_eq!(loaded(&states, 9), None);
    states.keep_only(8);
    assert_eq!((loaded(&states, 7), loaded(&states, 8)), (None, Some(eight)));
    let kept = ["policies-directory-1.json", "revision-8.json", "snapshot-3.json", "workloads-inventory-4.json"];
    assert_eq!(names(&states), kept);
}

#[test]
fn what_has_not_changed_is_not_written_again() {
    let (_directory, mut states) = empty();
    states.save(&state(7, "a", "a")).unwrap();
    let before = files(&states);
    // Equal content, though not the same memory.
    states.save(&state(8, "a", "b")).unwrap();
    states.keep_only(8);
    let after = files(&states);
    for name in ["policies-directory-1.json", "snapshot-3.json"] {
        assert_eq!(before[name], after[name], "{name}");
    }
    assert!(!after.contains_key("workloads-inventory-2.json"), "{after:?}");
    // The same revision with other text: what its older index named goes at once.
    states.save(&state(8, "a", "c")).unwrap();
    let last = ["policies-directory-1.json", "revision-8.json", "snapshot-3.json", "workloads-inventory-5.json"];
    assert_eq!(names(&states), last);
    // What somebody has cleared away or cut is written anew.
    fs::remove_file(states.path.join("snapshot-3.json")).unwrap();
    fs::write(states.path.join("policies-directory-1.json"), "cut").unwrap();
    states.save(&state(8, "a", "c")).unwrap();
    assert_eq!(loaded(&states, 8), Some(state(8, "a", "c")));
    let names = names(&states);
    assert!(names.contains(&"workloads-inventory-5.json".to_owned()) && names.len() == 4, "{names:?}");
}

/// Copies of the directory as it is after each step of a save: whole files appear by renaming, one after the other.
fn after_each_write(before: &StateDir, next: &InForce) -> Vec<TempDir> {
    let contents = |states: &StateDir| -> BTreeMap<String, Vec<u8>> {
        let read = |name: String| (name.clone(), fs::read(states.path.join(name)).unwrap());
        states.files().into_iter().map(read).collect()
    };
    let old = contents(before);
    let complete = tempfile::tempdir().unwrap();
    for (name, bytes) in &old {
        fs::write(complete.path().join(name), bytes).unwrap();
    }
    let mut states = before.clone();
    states.path = complete.path().to_owned();
    states.save(next).unwrap();
    let mut new = contents(&states);
    new.retain(|name, bytes| old.get(name) != Some(bytes));
    // Parts first, in the order of their versions, and the index last.
    let mut order: Vec<&String> = new.keys().collect();
    order.sort_by_key(|name| (name.starts_with(REVISION), version_of(name)));
    assert!(order.len() >= 2 && order[order.len() - 1].starts_with(REVISION), "{order:?}");
    let mut stages = Vec::new();
    for done in 0..=order.len() {
        for half in [false, true] {
            let stage = tempfile::tempdir().unwrap();
            for (name, bytes) in &old {
                fs::write(stage.path().join(name), bytes).unwrap();
            }
            for name in &order[..done] {
                fs::write(stage.path().join(name), &new[*name]).unwrap();
            }
            // The next file is half written under its other name.
            if half && let Some(name) = order.get(done) {
                let bytes = &new[*name];
                let beside = stage.path().join(name).with_extension("tmp");
                fs::write(beside, &bytes[..bytes.len() / 2]).unwrap();
            }
            stages.push(stage);
        }
    }
    stages
}

#[test]
fn a_kill_between_the_writes_leaves_the_older_state_or_the_newer_one_whole() {
    let older = state(7, "a", "a");
    // The next revision, and the same one with other texts.
    for next in [state(8, "b", "b"), state(7, "b", "b"), state(7, "a", "b")] {
        let (_directory, mut states) = empty();
        states.save(&older).unwrap();
        let stages = after_each_write(&states, &next);
        let mut seen = BTreeSet::new();
        for stage in &stages {
            let found = StateDir::create(stage.path().to_owned()).unwrap();
            let at_seven = loaded(&found, 7).expect("revision 7 is in force until the word is stored");
            let is_newer = next.revision == 7 && at_seven == next;
            assert!(at_seven == older || is_newer, "{at_seven:?}");
            let at_eight = loaded(&found, 8);
            assert!(at_eight.is_none() || at_eight.as_ref() == Some(&next), "{at_eight:?}");
            seen.insert(is_newer || at_eight.is_some());
            // The next run goes on from there and leaves nothing behind.
            let mut found = found;
            found.save(&state(9, "c", "c")).unwrap();
            found.keep_only(9);
            assert_eq!(loaded(&found, 9), Some(state(9, "c", "c")));
            assert_eq!(names(&found).len(), 4, "{:?}", names(&found));
        }
        assert_eq!(seen.len(), 2, "some stages have the older state and some the newer one");
    }
}

#[test]
fn a_new_run_never_writes_to_a_file_that_an_index_names() {
    let (_directory, mut states) = empty();
    states.save(&state(7, "a", "a")).unwrap();
    let before = files(&states);
    let mut next = StateDir::create(states.path.clone()).unwrap();
    next.save(&state(8, "b", "b")).unwrap();
    let after = files(&next);
    for (name, stamp) in before {
        assert_eq!(after.get(&name), Some(&stamp), "{name}");
    }
    assert_eq!((loaded(&next, 7), loaded(&next, 8)), (Some(state(7, "a", "a")), Some(state(8, "b", "b"))));
}

#[test]
fn a_damaged_file_is_refused_and_named() {
    let (_directory, mut states) = empty();
    states.save(&state(7, "kind: FlowPolicy\n", "workloads: []\n")).unwrap();
    for name in names(&states) {
        let path = states.path.join(&name);
        let whole = fs::read(&path).unwrap();
        let refused = |bytes: &[u8], what: &str| {
            fs::write(&path, bytes).unwrap();
            let error = states.load(7).expect_err(what).to_string();
            assert!(error.contains(&name), "{what}: {error}");
        };
        for at in 0..whole.len() {
            let mut bytes = whole.clone();
            bytes[at] ^= 1;
            refused(&bytes, &format!("byte {at} of {name} changed"));
            refused(&whole[..at], &format!("{name} cut at {at}"));
        }
        fs::remove_file(&path).unwrap();
        if name.starts_with(REVISION) {
            assert_eq!(loaded(&states, 7), None, "without an index nothing was kept");
        } else {
            assert!(states.load(7).expect_err("a part is missing").to_string().contains(&name));
        }
        fs::write(&path, &whole).unwrap();
        assert!(loaded(&states, 7).is_some());
    }
}
