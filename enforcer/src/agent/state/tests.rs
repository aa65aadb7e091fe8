use std::os::unix::fs::MetadataExt as _;

use tempfile::TempDir;

use super::*;

fn state(revision: u32, policy: &str, inventory: &str) -> InForce {
    let files: Arc<[SourceFile]> = Arc::new([SourceFile { path: "shop.yaml".into(), text: policy.into() }]);
    InForce {
        revision: Revision(revision),
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
    states.load(Revision(revision)).unwrap()
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
    states.keep_only(Revision(8));
    assert_eq!((loaded(&states, 7), loaded(&states, 8)), (None, Some(eight)));
    let kept = ["policies-directory-1.json", "revision-8.json", "snapshot-3.json", "workloads-inventory-4.json"];
    assert_eq!(names(&states), kept);
}

#[test]
fn what_was_prepared_counts_for_nothing_until_it_is_saved() {
    let (_directory, mut states) = empty();
    let (old, new) = (state(7, "a", "a"), state(8, "b", "a"));
    states.save(&old).unwrap();
    states.prepare(&new).unwrap();
    assert_eq!((loaded(&states, 7), loaded(&states, 8)), (Some(old.clone()), None));
    // What is held back was prepared, and what stays in force is saved once more: neither is written a second time.
    let before = files(&states);
    states.save(&old).unwrap();
    let after = files(&states);
    let text = "policies-directory-1.json";
    assert_eq!((loaded(&states, 7), before[text]), (Some(old), after[text]));
    assert!(!after.contains_key("policies-directory-4.json"), "{after:?}");
    // What was prepared is named as it is.
    states.prepare(&new).unwrap();
    let before = files(&states);
    states.save(&new).unwrap();
    states.keep_only(Revision(8));
    let after = files(&states);
    assert_eq!(loaded(&states, 8), Some(new));
    assert_eq!(before["policies-directory-5.json"], after["policies-directory-5.json"]);
    assert_eq!(after.len(), 4, "{after:?}");
}

#[test]
fn what_has_not_changed_is_not_written_again() {
    let (_directory, mut states) = empty();
    states.save(&state(7, "a", "a")).unwrap();
    let before = files(&states);
    // Equal content, though not the same memory.
    states.save(&state(8, "a", "b")).unwrap();
    states.keep_only(Revision(8));
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

/// The files that a save of `next` writes beside those of `older`.
fn written(older: &InForce, next: &InForce) -> Vec<String> {
    let (_directory, mut states) = empty();
    states.save(older).unwrap();
    let before = files(&states);
    states.save(next).unwrap();
    let after = files(&states).into_iter();
    after.filter(|(name, stamp)| before.get(name) != Some(stamp)).map(|(name, _)| name).collect()
}

#[test]
fn a_kill_between_the_writes_leaves_the_older_state_or_the_newer_one_whole() {
    let older = state(7, "a", "a");
    // The next revision, and the same one with other texts.
    for next in [state(8, "b", "b"), state(7, "b", "b"), state(7, "a", "b")] {
        let names_written = written(&older, &next);
        assert!(names_written.len() >= 2, "parts and an index: {names_written:?}");
        for stopped_at in &names_written {
            let (_directory, mut states) = empty();
            states.save(&older).unwrap();
            // Nothing can be written where a directory is: the save ends here as if the daemon were killed.
            let beside = states.path.join(stopped_at).with_extension("tmp");
            fs::create_dir(&beside).unwrap();
            states.save(&next).unwrap_err();
            fs::remove_dir(&beside).unwrap();
            fs::write(&beside, "half of what was to be wri").unwrap();
            let mut found = StateDir::create(states.path.clone()).unwrap();
            assert_eq!(loaded(&found, 7).as_ref(), Some(&older), "stopped at {stopped_at}");
            assert_eq!(loaded(&found, 8), None, "stopped at {stopped_at}");
            // The next run goes on from there and leaves nothing behind.
            found.save(&next).unwrap();
            assert_eq!(loaded(&found, next.revision.0).as_ref(), Some(&next), "after {stopped_at}");
            found.keep_only(next.revision);
            assert_eq!(names(&found).len(), 4, "{:?}", names(&found));
        }
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
            let error = states.load(Revision(7)).expect_err(what).to_string();
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
            assert!(states.load(Revision(7)).expect_err("a part is missing").to_string().contains(&name));
        }
        fs::write(&path, &whole).unwrap();
        assert!(loaded(&states, 7).is_some());
    }
}

#[test]
fn an_index_that_cannot_be_read_now_keeps_what_it_may_name() {
    let (_directory, mut states) = empty();
    let seven = state(7, "a", "a");
    states.save(&seven).unwrap();
    // Reading a directory fails with an error of the system, as reading any file does when descriptors are short.
    let (index, aside) = (states.path.join(index_name(Revision(7))), states.path.with_extension("aside"));
    fs::rename(&index, &aside).unwrap();
    fs::create_dir(&index).unwrap();
    states.save(&state(8, "b", "b")).unwrap();
    fs::remove_dir(&index).unwrap();
    fs::rename(&aside, &index).unwrap();
    assert_eq!(loaded(&states, 7), Some(seven));
}
