//! What followers see of an API server that answers as real ones seldom do. The server is a fake, since a real one cannot
//! be made to break a list in its middle.

pub(crate) mod fake;
pub(crate) mod fields;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use kube::core::{ApiResource, DynamicObject, GroupVersionKind};
use serde_json::{Value, json};
use tokio::sync::{Notify, watch};
use tokio::time::{Instant, sleep, timeout};

use self::fake::{Fake, Reply, ended, event, expired, page, refused, unsupported};
use super::*;

const SOON: Duration = Duration::from_secs(10);

fn thing(name: &str, version: u32) -> Value {
    fake::object("example.dev/v1", "Thing", "shop", name, version, &json!({"value": version}))
}

/// Follows things by their value. One without a value is not kept.
async fn follow(fake: &Fake) -> watch::Receiver<View<u64>> {
    let kind = ApiResource::from_gvk(&GroupVersionKind::gvk("example.dev", "v1", "Thing"));
    let trim = |object: DynamicObject| object.data["spec"]["value"].as_u64();
    fake.cluster().await.follow::<DynamicObject, u64>(&kind, &Which::all(), trim)
}

fn shown(view: &View<u64>) -> BTreeMap<String, u64> {
    view.objects.iter().map(|(key, value)| (key.to_string(), **value)).collect()
}

async fn until(view: &mut watch::Receiver<View<u64>>, what: &str, wanted: impl Fn(&View<u64>) -> bool) -> View<u64> {
    let found = timeout(SOON, view.wait_for(|view| wanted(view))).await;
    found.unwrap_or_else(|_| panic!("{what} did not come")).unwrap().clone()
}

fn has(names: &[(&str, u64)]) -> impl Fn(&View<u64>) -> bool {
    let names: BTreeMap<String, u64> = names.iter().map(|(name, value)| (format!("shop/{name}"), *value)).collect();
    move |view| view.listed && shown(view) == names
}

#[tokio::test]
async fn fake_a_streaming_list_counts_at_its_mark_and_changes_after_it_count_at_once() {
    let (say, script) = fake::stream();
    let fake = Fake::start(fake::once(Reply::Stream(script))).await;
    let mut view = follow(&fake).await;
    say.send(event("ADDED", &thing("a", 1))).unwrap();
    say.send(event("ADDED", &thing("b", 2))).unwrap();
    say.send(fake::bookmark("2", false)).unwrap();
    sleep(Duration::from_millis(200)).await;
    assert!(!view.borrow().listed && view.borrow().objects.is_empty(), "nothing counts before the mark");
    say.send(fake::bookmark("3", true)).unwrap();
    until(&mut view, "the list", has(&[("a", 1), ("b", 2)])).await;
    say.send(event("MODIFIED", &thing("a", 7))).unwrap();
    say.send(event("DELETED", &thing("b", 8))).unwrap();
    say.send(event("ADDED", &thing("c", 9))).unwrap();
    let seen = until(&mut view, "the changes", has(&[("a", 7), ("c", 9)])).await;
    assert_eq!(seen.stale, None);
    let asked = fake.asked();
    assert!(asked[0].contains("sendInitialEvents=true") && asked[0].ends_with("resourceVersion="), "{asked:?}");
}

#[tokio::test]
async fn fake_a_server_without_streaming_lists_is_listed_in_pages() {
    let gate = Arc::new(Notify::new());
    let (_say, script) = fake::stream();
    let opened = std::sync::Mutex::new(Some(script));
    let wait = Arc::clone(&gate);
    let fake = Fake::start(move |_, path: &str| match path {
        path if path.contains("sendInitialEvents") => unsupported(),
        path if path.contains("continue=more") => {
            Reply::After(Arc::clone(&wait), Box::new(page("5", "", &[thing("b", 2)])))
        }
        path if path.contains("watch=true") => opened.lock().unwrap().take().map_or(Reply::Silent, Reply::Stream),
        _ => page("", "more", &[thing("a", 1)]),
    })
    .await;
    let mut view = follow(&fake).await;
    fake.until_asked("continue=more").await;
    sleep(Duration::from_millis(100)).await;
    assert!(!view.borrow().listed && view.borrow().objects.is_empty(), "one page is not all");
    gate.notify_one();
    until(&mut view, "both pages", has(&[("a", 1), ("b", 2)])).await;
    fake.until_asked("resourceVersion=5").await;
    assert_eq!(view.borrow().stale, None, "a server may lack streaming lists");
}

#[tokio::test]
async fn fake_a_stream_that_ends_without_its_mark_is_followed_by_a_list_in_pages() {
    let fake = Fake::start(|_, path: &str| match path {
        path if path.contains("sendInitialEvents") => ended(&[event("ADDED", &thing("a", 1))]),
        path if path.contains("watch=true") => Reply::Silent,
        _ => page("5", "", &[thing("b", 2)]),
    })
    .await;
    let mut view = follow(&fake).await;
    until(&mut view, "the pages alone", has(&[("b", 2)])).await;
}

/// 410, then a list of which the second page breaks off, then one that lacks an object.
#[tokio::test]
async fn fake_a_half_failed_list_neither_shrinks_nor_grows_the_set_and_a_whole_one_does() {
    let lists = AtomicUsize::new(0);
    let fake = Fake::start(move |_, path: &str| match path {
        path if path.contains("sendInitialEvents") => unsupported(),
        path if path.contains("watch=true") && path.contains("resourceVersion=5") => ended(&[expired()]),
        path if path.contains("watch=true") => Reply::Silent,
        path if path.contains("continue=more") => Reply::Cut,
        _ => match lists.fetch_add(1, Ordering::Relaxed) {
            0 => page("5", "", &[thing("a", 1), thing("b", 2)]),
            // What stands on a first page is new, and one of the old ones is missing.
            1 | 2 => page("", "more", &[thing("b", 3), thing("new", 1)]),
            _ => page("9", "", &[thing("b", 3)]),
        },
    })
    .await;
    let mut view = follow(&fake).await;
    let before = until(&mut view, "the first list", has(&[("a", 1), ("b", 2)])).await;
    let stale = until(&mut view, "the broken list", |view| view.stale.is_some()).await;
    assert!(Arc::ptr_eq(&before.objects, &stale.objects), "{:?}", shown(&stale));
    assert_eq!(stale.stale.as_ref().map(|stale| stale.cause), Some(Cause::Down));
    assert!(stale.listed);
    let after = until(&mut view, "the whole list", has(&[("b", 3)])).await;
    assert_eq!(after.stale, None);
}

#[tokio::test]
async fn fake_what_is_said_while_the_api_is_lost_and_when_it_comes_back() {
    let refusals = AtomicUsize::new(0);
    let fake = Fake::start(move |_, path: &str| match path {
        path if path.contains("sendInitialEvents") => {
            ended(&[event("ADDED", &thing("a", 1)), fake::bookmark("3", true)])
        }
        _ => match refusals.fetch_add(1, Ordering::Relaxed) {
            0 => refused(403, "Forbidden", "things is forbidden\u{1b}[2J\nfor you"),
            1 => refused(404, "NotFound", "the server could not find the requested resource"),
            2 => refused(500, "InternalError", "etcd is away"),
            _ => Reply::Silent,
        },
    })
    .await;
    let mut view = follow(&fake).await;
    for (cause, text) in [
        (Cause::Down, "at once"),
        (Cause::Forbidden, "things is forbidden [2J for you (403)"),
        (Cause::NoSuchKind, "could not find"),
        (Cause::Down, "etcd is away (500)"),
    ] {
        let is_it = |stale: &Stale| stale.cause == cause && stale.error.contains(text);
        let seen = until(&mut view, text, |view| view.stale.as_ref().is_some_and(is_it)).await;
        assert!(has(&[("a", 1)])(&seen), "the last list stays");
    }
    // The server does not answer the next watch at all, and that is no answer either.
    fake.until_asked("resourceVersion=3").await;
    assert!(view.borrow().stale.is_some());
}

#[tokio::test]
async fn fake_a_server_that_is_away_at_the_start_is_waited_for() {
    let port = fake::free_port();
    let cluster = fake::cluster_at(port).await;
    let kind = ApiResource::from_gvk(&GroupVersionKind::gvk("example.dev", "v1", "Thing"));
    let trim = |object: DynamicObject| object.data["spec"]["value"].as_u64();
    let mut view = cluster.follow::<DynamicObject, u64>(&kind, &Which::fields("spec.nodeName=n1"), trim);
    let seen = until(&mut view, "the trouble", |view| view.stale.is_some()).await;
    assert!(!seen.listed);
    let (say, script) = fake::stream();
    say.send(fake::bookmark("3", true)).unwrap();
    let fake = Fake::start_at(port, fake::once(Reply::Stream(script))).await;
    let seen = until(&mut view, "the empty list", |view| view.listed).await;
    assert_eq!((seen.objects.len(), seen.stale), (0, None));
    assert!(fake.asked()[0].contains("fieldSelector=spec.nodeName%3Dn1"), "{:?}", fake.asked());
}

#[tokio::test]
async fn fake_a_flood_of_events_wakes_listeners_seldom_and_noise_never() {
    let (say, script) = fake::stream();
    say.send(fake::bookmark("1", true)).unwrap();
    let fake = Fake::start(fake::once(Reply::Stream(script))).await;
    let mut view = follow(&fake).await;
    until(&mut view, "the list", |view| view.listed).await;
    let (begin, mut wakes) = (Instant::now(), 0);
    for number in 0..2_000 {
        say.send(event("ADDED", &thing(&format!("t{number}"), number))).unwrap();
    }
    while view.borrow_and_update().objects.len() < 2_000 {
        timeout(SOON, view.changed()).await.unwrap().unwrap();
        wakes += 1;
    }
    let most = 2 + begin.elapsed().as_millis() / 10;
    assert!(wakes <= most, "{wakes} wakes, and {most} at most");
    let before = view.borrow_and_update().clone();
    for number in 0..100 {
        say.send(event("MODIFIED", &thing(&format!("t{number}"), number))).unwrap();
    }
    sleep(Duration::from_millis(300)).await;
    assert!(!view.has_changed().unwrap(), "the values are as before");
    assert!(Arc::ptr_eq(&before.objects, &view.borrow().objects));
}

#[tokio::test]
async fn fake_a_server_that_ends_every_watch_at_once_is_asked_ever_more_seldom() {
    let fake = Fake::start(|_, path: &str| match path {
        path if path.contains("sendInitialEvents") => ended(&[fake::bookmark("3", true)]),
        _ => ended(&[]),
    })
    .await;
    let mut view = follow(&fake).await;
    until(&mut view, "the list", |view| view.listed).await;
    sleep(Duration::from_secs(3)).await;
    assert!(fake.asked().len() <= 8, "{:?}", fake.asked());
    assert!(view.borrow().stale.is_some() && view.borrow().listed);
}

#[tokio::test]
async fn fake_nobody_is_asked_for_a_listener_that_is_gone() {
    let fake = Fake::start(|_, _: &str| refused(500, "InternalError", "no")).await;
    let mut view = follow(&fake).await;
    until(&mut view, "an answer", |view| view.stale.is_some()).await;
    drop(view);
    sleep(Duration::from_millis(100)).await;
    let before = fake.asked().len();
    sleep(Duration::from_secs(2)).await;
    assert_eq!(fake.asked().len(), before);
}

#[tokio::test]
async fn a_cluster_needs_a_kubeconfig_that_is_one() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("kubeconfig");
    let open = async || Cluster::open(&Config { kubeconfig: Some(path.clone()), node: "n1".to_owned() }).await;
    let error = open().await.unwrap_err().to_string();
    assert!(error.starts_with("cannot read the kubeconfig: "), "{error}");
    std::fs::write(&path, "nonsense: [").unwrap();
    assert!(matches!(open().await, Err(ConnectError::Kubeconfig(_))));
    fake::write_kubeconfig(&path, 1);
    let cluster = open().await.unwrap();
    assert_eq!((cluster.node(), cluster.server()), ("n1", "http://127.0.0.1:1"));
}
