use std::io::Write as _;
use std::os::unix::fs::symlink;

use super::*;

#[test]
fn policy_files_are_told_by_their_ending() {
    for name in [
        "a.yaml",
        "a.yml",
        "a.json",
        "a.b.yaml",
        "cases.yaml",
        "inventory.yml",
        "mycases.yaml",
        "a.YAML",
        "A.Yml",
        "a.JSON",
    ] {
        assert!(is_policy_file(name), "{name}");
    }
    for name in
        ["a.cases.yaml", "a.inventory.yml", "a.Cases.YAML", "a.inventory.json", "a.yaml~", "a.jsonl", "yaml", ".yaml"]
    {
        assert!(!is_policy_file(name), "{name}");
    }
}

fn named(name: &str) -> String {
    format!(
        "apiVersion: networking.k8s.io/v1\nkind: NetworkPolicy\nmetadata: {{name: {name}}}\nspec: {{podSelector: {{}}}}\n"
    )
}

/// A source that has a directory of its own.
fn source() -> (tempfile::TempDir, Directory) {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().to_owned();
    // Nobody listens to its events here.
    let changes = watch(Vec::new()).unwrap();
    (directory, Directory { path, changes, texts: Texts::new(), known: LastReading::default() })
}

/// What a reading gives.
fn whole_of(source: &mut Directory) -> Result<Loaded, Refusal> {
    match source.read() {
        Word::All(mut said) => said.remove(&Unit::Whole).unwrap(),
        other => panic!("{other:?}"),
    }
}

/// What the source says now; it must be what somebody says who has never read the directory.
fn said(source: &mut Directory) -> Result<Loaded, String> {
    let said = whole_of(source).map_err(|refusal| refusal.errors.to_string());
    let fresh = load(&source.path).map_err(|errors| errors.to_string());
    match (&said, &fresh) {
        (Ok(said), Ok(fresh)) => {
            assert_eq!((&said.set, &said.sources, &said.skipped), (&fresh.set, &fresh.sources, &fresh.skipped));
            let texts = |loaded: &Loaded| loaded.warnings.iter().map(ToString::to_string).collect::<Vec<_>>();
            assert_eq!(texts(said), texts(fresh));
        }
        _ => assert_eq!(said.as_ref().err(), fresh.as_ref().err()),
    }
    said
}

#[tokio::test]
async fn whatever_happens_to_the_files_what_was_read_before_is_never_taken_for_what_is_there() {
    let (directory, mut source) = source();
    let at = |name: &str| directory.path().join(name);
    for name in ["a", "b", "c", "d"] {
        fs::write(at(&format!("{name}.yaml")), named(name)).unwrap();
    }
    fs::create_dir(at("sub")).unwrap();
    fs::write(at("sub/e.yaml"), named("e")).unwrap();
    // Once with files that have just been written, and once with files that are known by their versions.
    for round in 0..2 {
        std::thread::sleep(std::time::Duration::from_millis(round * 3_100));
        said(&mut source).unwrap();
        assert_eq!(source.texts.len(), round as usize * 5, "files that may change within a tick are read each time");
        // Changes of the same length, one right behind the other.
        for step in 0..50 {
            fs::write(at("a.yaml"), named(&format!("a{}", step % 10))).unwrap();
            said(&mut source).unwrap();
        }
        // In place, with the times of writing as they were.
        let written = fs::metadata(at("b.yaml")).unwrap().modified().unwrap();
        let mut file = fs::OpenOptions::new().write(true).open(at("b.yaml")).unwrap();
        file.write_all(named("x").as_bytes()).unwrap();
        file.set_modified(written).unwrap();
        drop(file);
        assert!(said(&mut source).unwrap().set.policies.iter().any(|policy| policy.name == "x"));
        // Names that change their files, and a directory that changes its place.
        fs::rename(at("c.yaml"), at("t")).unwrap();
        fs::rename(at("d.yaml"), at("c.yaml")).unwrap();
        fs::rename(at("t"), at("d.yaml")).unwrap();
        said(&mut source).unwrap();
        fs::rename(at("sub"), at("sub2")).unwrap();
        symlink("sub2", at("sub")).unwrap();
        assert!(said(&mut source).unwrap_err().contains("default/e"), "it is there twice now");
        fs::remove_file(at("sub")).unwrap();
        said(&mut source).unwrap();
        fs::rename(at("sub2"), at("sub")).unwrap();
        // Errors are told each time, and what is mended counts.
        fs::write(at("a.yaml"), "kind: Nonsense\n").unwrap();
        let first = said(&mut source).unwrap_err();
        assert_eq!(said(&mut source).unwrap_err(), first);
        fs::write(at("a.yaml"), named("a")).unwrap();
        fs::write(at("b.yaml"), named("b")).unwrap();
        said(&mut source).unwrap();
    }
}

#[tokio::test]
async fn of_many_files_only_the_changed_one_is_read_and_parsed_again() {
    let (directory, mut source) = source();
    let at = |name: &str| directory.path().join(name);
    for name in ["a", "b"] {
        fs::write(at(&format!("{name}.yaml")), named(name)).unwrap();
    }
    std::thread::sleep(std::time::Duration::from_millis(3_100));
    let first = said(&mut source).unwrap();
    let again = said(&mut source).unwrap();
    assert!(Arc::ptr_eq(&first.set, &again.set) && Arc::ptr_eq(&first.sources, &again.sources), "nothing has changed");
    // Only a reading that does not open the file can take this for its text.
    let version = FileVersion::of(&fs::metadata(at("a.yaml")).unwrap());
    source.texts.insert("a.yaml".into(), (version, named("other").into()));
    fs::write(at("b.yaml"), named("c")).unwrap();
    let changed = whole_of(&mut source).unwrap();
    let names: Vec<&str> = changed.set.policies.iter().map(|policy| policy.name.as_str()).collect();
    assert_eq!(names, ["other", "c"]);
    // What a file says is shared as long as its text is the same.
    source.texts.clear();
    let last = said(&mut source).unwrap();
    assert!(Arc::ptr_eq(&last.set.policies[1], &changed.set.policies[1]));
    assert!(!Arc::ptr_eq(&last.set.policies[0], &changed.set.policies[0]));
    fs::write(at("a.yaml"), named("a")).unwrap();
    fs::write(at("b.yaml"), named("d")).unwrap();
    let rewritten = said(&mut source).unwrap();
    assert!(Arc::ptr_eq(&rewritten.sources[0].text, &last.sources[0].text), "the same text is kept once");
}
