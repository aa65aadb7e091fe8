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
    Policies::load(&Config { directory: Some(directory.to_owned()), cluster: None }, enforced, earlier).await
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

mod kubernetes {
    //! The API as a source beside a directory. Its server is a fake, so that lists come when the test wants them.

    use serde_json::{Value, json};
    use tokio::sync::mpsc::UnboundedSender;

    use super::*;
    use crate::kubernetes::Cluster;
    use crate::kubernetes::tests::fake::{self, Fake, Reply};

    fn policy(name: &str, version: u32, spec: &Value) -> Value {
        fake::object("networking.k8s.io/v1", "NetworkPolicy", "shop", name, version, spec)
    }

    fn good() -> Value {
        json!({"podSelector": {"matchLabels": {"app": "db"}}})
    }

    fn bad() -> Value {
        json!({"podSelector": {"matchLabels": {"app": "db"}}, "exempt": []})
    }

    /// An API server that gives objects of the kind NetworkPolicy as the test says them, and does not have FlowPolicy.
    async fn api() -> (UnboundedSender<Value>, Fake) {
        let (say, script) = fake::stream();
        let script = std::sync::Mutex::new(Some(script));
        let fake = Fake::start(move |_, path: &str| match path {
            path if path.contains("flowpolicies") => fake::refused(404, "NotFound", "page not found"),
            _ => script.lock().unwrap().take().map_or(Reply::Silent, Reply::Stream),
        });
        (say, fake.await)
    }

    async fn load(directory: Option<&Path>, cluster: Cluster, enforced: bool, earlier: Option<&InForce>) -> Policies {
        let config = Config { directory: directory.map(Path::to_owned), cluster: Some(cluster) };
        Policies::load(&config, enforced, earlier).await.unwrap()
    }

    /// Follows the sources until the set is as wanted.
    async fn until(policies: &mut Policies, what: &str, wanted: impl Fn(&Policies) -> bool) {
        let changes = async {
            while !wanted(policies) {
                let source = policies.changed().await;
                policies.reload(source);
            }
        };
        tokio::time::timeout(2 * SOON, changes).await.unwrap_or_else(|_| panic!("{what}"));
    }

    fn names(policies: &Policies) -> Option<Vec<String>> {
        let set = &policies.current()?.set;
        Some(set.policies.iter().map(|policy| policy.name.clone()).collect())
    }

    fn names_are(names: &[&str]) -> impl Fn(&Policies) -> bool {
        let expected: Vec<String> = names.iter().map(|name| (*name).to_owned()).collect();
        move |policies| super::kubernetes::names(policies).as_ref() == Some(&expected)
    }

    #[tokio::test]
    async fn fake_directory_and_api_add_up_once_both_have_spoken() {
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("a.yaml");
        fs::write(&file, GOOD).unwrap();
        let (say, fake) = api().await;
        let mut policies = load(Some(directory.path()), fake.cluster().await, false, None).await;
        let waited = tokio::time::timeout(std::time::Duration::from_millis(300), async {
            loop {
                let source = policies.changed().await;
                policies.reload(source);
            }
        });
        assert!(waited.await.is_err());
        assert!(policies.current().is_none() && policies.why_none().contains("first complete list"));
        say.send(fake::event("ADDED", &policy("b", 1, &good()))).unwrap();
        say.send(fake::bookmark("1", true)).unwrap();
        until(&mut policies, "both", names_are(&["a", "b"])).await;
        assert!(policies.stale().iter().all(|stale| stale.is_missing), "{:?}", policies.stale());
        assert!(!policies.are_behind(), "a kind that is missing says nothing newer");
        assert_eq!(policies.last_changes().keys().collect::<Vec<_>>(), [&"directory"], "only files are waited for");
        // Errors of one stay with it: an object, and then the whole directory.
        say.send(fake::event("ADDED", &policy("c", 2, &bad()))).unwrap();
        until(&mut policies, "what isolates in place of c", names_are(&["a", "b", "c"])).await;
        assert!(policies.error().unwrap().contains("networkpolicy/shop/c spec.exempt"), "{:?}", policies.error());
        assert!(policies.last_changes()["directory"].is_some(), "the directory has no error");
        fs::write(&file, "kind: Nonsense\n").unwrap();
        say.send(fake::event("DELETED", &policy("b", 3, &good()))).unwrap();
        until(&mut policies, "the object is gone", names_are(&["a", "c"])).await;
        say.send(fake::event("MODIFIED", &policy("c", 4, &good()))).unwrap();
        until(&mut policies, "a is refused", |policies| policies.last_changes()["directory"].is_none()).await;
        until(&mut policies, "c is mended", |policies| !policies.error().unwrap().contains("networkpolicy")).await;
        assert_eq!(names(&policies).unwrap(), ["a", "c"]);
    }

    /// What an earlier daemon kept: a good version, and one that stood in for a refused one.
    async fn earlier() -> InForce {
        let (say, fake) = api().await;
        let mut policies = load(None, fake.cluster().await, false, None).await;
        say.send(fake::event("ADDED", &policy("a", 1, &good()))).unwrap();
        say.send(fake::event("ADDED", &policy("b", 1, &bad()))).unwrap();
        say.send(fake::bookmark("1", true)).unwrap();
        until(&mut policies, "the list", names_are(&["a", "b"])).await;
        let state =
            InForce { revision: Revision(3), policies: policies.current().unwrap().kept(), ..InForce::default() };
        // As a later daemon reads it.
        let directory = tempfile::tempdir().unwrap();
        let mut states = crate::agent::state::StateDir::create(directory.path().join("state")).unwrap();
        states.save(&state).unwrap();
        states.load(Revision(3)).unwrap().unwrap()
    }

    #[tokio::test]
    async fn fake_a_start_without_an_api_server_goes_on_from_what_was_kept() {
        let earlier = earlier().await;
        let port = fake::free_port();
        let mut policies = load(None, fake::cluster_at(port).await, true, Some(&earlier)).await;
        assert_eq!(names(&policies).unwrap(), ["a", "b"], "at once");
        let set = Arc::clone(&policies.current().unwrap().set);
        assert_eq!(set.policies[0].at.to_string(), "networkpolicy/shop/a metadata.name");
        until(&mut policies, "it is told", |policies| policies.stale().len() == 2).await;
        assert_eq!(names(&policies).unwrap(), ["a", "b"], "and for as long as it is away");
        assert!(policies.are_behind());
        // It comes back and has lost one object; the other is refused, and has been good before.
        let (say, script) = fake::stream();
        let script = std::sync::Mutex::new(Some(script));
        say.send(fake::event("ADDED", &policy("a", 9, &bad()))).unwrap();
        let _fake = Fake::start_at(port, move |_, path: &str| match path {
            path if path.contains("flowpolicies") => fake::ended(&[fake::bookmark("9", true)]),
            _ => script.lock().unwrap().take().map_or(Reply::Silent, Reply::Stream),
        })
        .await;
        sleep(std::time::Duration::from_secs(1)).await;
        assert_eq!(names(&policies).unwrap(), ["a", "b"], "half a list is none");
        say.send(fake::bookmark("9", true)).unwrap();
        until(&mut policies, "the list", names_are(&["a"])).await;
        assert_eq!(policies.current().unwrap().set.policies[0].at, set.policies[0].at);
        assert!(policies.error().unwrap().contains("the last good version of this object stays in force"));
    }

    #[tokio::test]
    async fn fake_what_no_earlier_daemon_has_kept_is_waited_for() {
        // The sources of the image in force are known, and none of them was the API.
        for earlier in [None, Some(kept(GOOD))] {
            let cluster = fake::cluster_at(fake::free_port()).await;
            let policies = load(None, cluster, true, earlier.as_ref()).await;
            assert!(policies.current().is_none(), "{earlier:?}");
        }
    }
}
