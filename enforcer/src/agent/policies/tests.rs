//! Readings beside writers, mistakes, and what an earlier daemon left.

use std::fs;
use std::io::Write as _;
use std::path::Path;
use std::sync::Arc;

use enforcer_common::id::Revision;

use super::*;
use crate::policy::load::SourceFile;
use crate::watch::patience::EMPTIED;

const SOON: std::time::Duration = std::time::Duration::from_secs(5);
const GOOD: &str =
    "apiVersion: networking.k8s.io/v1\nkind: NetworkPolicy\nmetadata: {name: a}\nspec: {podSelector: {}}\n";

async fn load(directory: &Path, enforced: bool, earlier: Option<&InForce>) -> Result<Policies, AgentError> {
    Policies::load(&Config { directory: directory.to_owned() }, enforced, earlier).await
}

fn kept(text: &str) -> InForce {
    let kept: Arc<[SourceFile]> = Arc::new([SourceFile { path: "a.yaml".into(), text: text.into() }]);
    let policies = BTreeMap::from([("directory".to_owned(), vec![kept])]);
    InForce { revision: Revision(3), policies, ..InForce::default() }
}

fn count(policies: &Policies) -> usize {
    policies.current().unwrap().set.policies.len()
}

#[tokio::test]
async fn a_bad_file_leaves_the_last_good_set() {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("a.yaml");
    fs::write(&file, GOOD).unwrap();
    let mut policies = load(directory.path(), false, None).await.unwrap();
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

#[tokio::test]
async fn a_bad_file_at_the_start_ends_it_unless_an_earlier_run_is_in_force() {
    let directory = tempfile::tempdir().unwrap();
    fs::write(directory.path().join("a.yaml"), "kind: Nonsense\n").unwrap();
    assert!(load(directory.path(), false, None).await.is_err());
    let policies = load(directory.path(), true, Some(&kept(GOOD))).await.unwrap();
    assert_eq!(count(&policies), 1);
    assert!(policies.error().is_some());
    let unknown = load(directory.path(), true, None).await.unwrap();
    assert!(unknown.current().is_none() && unknown.error().is_some());
}

#[tokio::test]
async fn what_cannot_be_brought_in_force_is_taken_back_and_not_tried_again() {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("a.yaml");
    fs::write(&file, GOOD).unwrap();
    let mut policies = load(directory.path(), false, None).await.unwrap();
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
    assert!(!load(directory.path(), false, None).await.unwrap().roll_back("first"));
}

#[tokio::test]
async fn a_file_that_is_being_written_changes_nothing_until_it_is_closed() {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("a.yaml");
    fs::write(&file, GOOD).unwrap();
    let mut policies = load(directory.path(), false, None).await.unwrap();
    policies.settle();
    let mut writer = fs::File::create(&file).unwrap();
    assert!(!policies.reload("directory"), "emptied and open");
    writer.write_all(GOOD.replace("name: a", "name: b").as_bytes()).unwrap();
    writer.write_all(b"---\n").unwrap();
    assert!(!policies.reload("directory"), "half of it is a valid file");
    assert_eq!((count(&policies), policies.error()), (1, None));
    let waited = tokio::time::timeout(SOON, policies.changed()).await;
    assert_eq!(waited, Ok("directory"), "it is looked at again without an event");
    writer.write_all(GOOD.replace("name: a", "name: c").as_bytes()).unwrap();
    drop(writer);
    assert!(policies.reload("directory"));
    assert_eq!(count(&policies), 2);
    assert_eq!(policies.due, BTreeMap::new());
}

#[tokio::test]
async fn a_file_without_policies_counts_when_it_has_stayed_so() {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("a.yaml");
    for empty in ["", "# later\n---\n"] {
        fs::write(&file, GOOD).unwrap();
        fs::write(directory.path().join("b.yaml"), "# there never was a policy here\n").unwrap();
        let mut policies = load(directory.path(), false, None).await.unwrap();
        policies.settle();
        fs::write(&file, empty).unwrap();
        assert!(!policies.reload("directory"), "{empty:?}");
        assert_eq!((count(&policies), policies.error()), (1, None));
        fs::write(&file, GOOD).unwrap();
        assert!(!policies.reload("directory") && policies.due.is_empty(), "it is as it was");
        fs::write(&file, empty).unwrap();
        let began = Instant::now();
        let changed = async {
            loop {
                let source = policies.changed().await;
                if policies.reload(source) {
                    return;
                }
            }
        };
        tokio::time::timeout(2 * EMPTIED, changed).await.unwrap();
        assert!(began.elapsed() >= EMPTIED, "{:?}", began.elapsed());
        assert_eq!(count(&policies), 0);
    }
}

#[tokio::test]
async fn a_start_beside_a_writer_keeps_what_is_in_force() {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("a.yaml");
    let writer = fs::File::create(&file).unwrap();
    let policies = load(directory.path(), true, Some(&kept(GOOD))).await.unwrap();
    assert_eq!((count(&policies), policies.error()), (1, None), "emptied and open");
    drop(writer);
    let policies = load(directory.path(), true, Some(&kept(GOOD))).await.unwrap();
    assert_eq!(count(&policies), 1, "emptied");
    let policies = load(directory.path(), true, Some(&kept("# nothing\n"))).await.unwrap();
    assert_eq!(count(&policies), 0, "it was empty before");
}

#[tokio::test]
async fn a_first_start_waits_for_the_writer() {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("a.yaml");
    let mut writer = fs::File::create(&file).unwrap();
    let end = tokio::spawn(async move {
        sleep(std::time::Duration::from_millis(300)).await;
        writer.write_all(GOOD.as_bytes()).unwrap();
    });
    let policies = load(directory.path(), false, None).await.unwrap();
    assert_eq!(count(&policies), 1);
    end.await.unwrap();
}
