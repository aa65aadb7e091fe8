//! Real files, real events.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::Path;

use tempfile::TempDir;
use tokio::time::timeout;

use super::*;

/// Longer than a tick takes, and far shorter than the re-scan, so that only an event can make it.
const SOON: Duration = Duration::from_secs(3);

fn directory() -> TempDir {
    let directory = tempfile::tempdir().unwrap();
    fs::create_dir(directory.path().join("policies")).unwrap();
    fs::write(directory.path().join("policies/a.yaml"), "a").unwrap();
    directory
}

async fn ticks(stream: &mut ChangeStream, what: &str) {
    assert!(timeout(SOON, stream.changed()).await.is_ok(), "no tick: {what}");
}

async fn is_quiet(stream: &mut ChangeStream, what: &str) {
    assert!(timeout(Duration::from_millis(400), stream.changed()).await.is_err(), "a tick: {what}");
}

/// Reads everything, as the reader of a tick does.
fn read(path: &Path) {
    for entry in fs::read_dir(path).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            read(&path);
        } else {
            drop(fs::read(path));
        }
    }
}

#[tokio::test]
async fn changes_in_a_directory_tick_once_and_reading_does_not() {
    let directory = directory();
    let policies = directory.path().join("policies");
    let mut stream = watch(vec![policies.clone()]).unwrap();
    is_quiet(&mut stream, "nothing happened").await;

    fs::write(policies.join("a.yaml"), "b").unwrap();
    ticks(&mut stream, "edit in place").await;
    read(&policies);
    is_quiet(&mut stream, "only read").await;

    fs::write(directory.path().join("new"), "c").unwrap();
    is_quiet(&mut stream, "a neighbour of the directory").await;
    fs::rename(directory.path().join("new"), policies.join("a.yaml")).unwrap();
    ticks(&mut stream, "rename over").await;

    fs::create_dir(policies.join("sub")).unwrap();
    ticks(&mut stream, "new directory").await;
    fs::write(policies.join("sub/b.yaml"), "b").unwrap();
    ticks(&mut stream, "a file in the new directory").await;
    fs::remove_file(policies.join("sub/b.yaml")).unwrap();
    ticks(&mut stream, "delete").await;
    is_quiet(&mut stream, "everything told").await;
}

#[tokio::test]
async fn a_directory_made_again_under_its_name_is_watched() {
    let directory = directory();
    let policies = directory.path().join("policies");
    let mut stream = watch(vec![policies.clone()]).unwrap();
    fs::remove_dir_all(&policies).unwrap();
    ticks(&mut stream, "the directory is gone").await;
    fs::create_dir(&policies).unwrap();
    ticks(&mut stream, "the directory is back").await;
    fs::write(policies.join("a.yaml"), "a").unwrap();
    ticks(&mut stream, "a file in it").await;
}

#[tokio::test]
async fn a_swapped_link_to_the_directory_ticks() {
    let directory = directory();
    let root = directory.path();
    fs::create_dir(root.join("second")).unwrap();
    symlink("policies", root.join("current")).unwrap();
    // A link to a link: both names count.
    symlink(root.join("current"), root.join("link")).unwrap();
    let mut stream = watch(vec![root.join("link")]).unwrap();
    symlink("second", root.join("next")).unwrap();
    is_quiet(&mut stream, "a new link beside").await;
    fs::rename(root.join("next"), root.join("current")).unwrap();
    ticks(&mut stream, "the inner link swapped").await;
    fs::write(root.join("second/b.yaml"), "b").unwrap();
    ticks(&mut stream, "a file where it leads now").await;
    fs::write(root.join("policies/a.yaml"), "c").unwrap();
    is_quiet(&mut stream, "a file where it led before").await;
}

#[tokio::test]
async fn a_swapped_config_map_ticks() {
    let directory = directory();
    let policies = directory.path().join("policies");
    let version = |name: &str| {
        fs::create_dir(policies.join(name)).unwrap();
        fs::write(policies.join(name).join("shop.yaml"), name).unwrap();
    };
    version("..1");
    symlink("..1", policies.join("..data")).unwrap();
    symlink("..data/shop.yaml", policies.join("shop.yaml")).unwrap();
    let mut stream = watch(vec![policies.clone()]).unwrap();
    version("..2");
    symlink("..2", policies.join("..data_tmp")).unwrap();
    fs::rename(policies.join("..data_tmp"), policies.join("..data")).unwrap();
    fs::remove_dir_all(policies.join("..1")).unwrap();
    ticks(&mut stream, "the link `..data` swapped").await;
    is_quiet(&mut stream, "one swap, one tick").await;
    fs::write(policies.join("..2/shop.yaml"), "edited").unwrap();
    ticks(&mut stream, "the file that it leads to").await;
}

#[tokio::test]
async fn a_single_file_is_watched_and_may_appear_later() {
    let directory = directory();
    let file = directory.path().join("inventory.yaml");
    let mut stream = watch(vec![file.clone()]).unwrap();
    fs::write(directory.path().join("other.yaml"), "a").unwrap();
    is_quiet(&mut stream, "another file").await;
    fs::write(&file, "a").unwrap();
    ticks(&mut stream, "the file appears").await;
    fs::write(&file, "b").unwrap();
    ticks(&mut stream, "edit in place").await;
    fs::remove_file(&file).unwrap();
    ticks(&mut stream, "delete").await;
}

#[tokio::test]
async fn a_link_to_a_file_elsewhere_ticks_when_that_is_edited() {
    let directory = directory();
    let elsewhere = tempfile::tempdir().unwrap();
    fs::write(elsewhere.path().join("real.yaml"), "a").unwrap();
    symlink(elsewhere.path().join("real.yaml"), directory.path().join("policies/linked.yaml")).unwrap();
    let mut stream = watch(vec![directory.path().join("policies")]).unwrap();
    fs::write(elsewhere.path().join("real.yaml"), "b").unwrap();
    ticks(&mut stream, "the file behind the link").await;
}

#[tokio::test]
async fn events_without_end_do_not_put_off_a_tick_and_dropped_futures_lose_none() {
    let directory = directory();
    let file = directory.path().join("policies/a.yaml");
    let mut stream = watch(vec![directory.path().join("policies")]).unwrap();
    let start = Instant::now();
    let mut ticked = None;
    // Each write is within the quiet time of the one before, and each future is dropped before the quiet time ends.
    while ticked.is_none() && start.elapsed() < SOON {
        fs::write(&file, "x").unwrap();
        if timeout(Duration::from_millis(20), stream.changed()).await.is_ok() {
            ticked = Some(start.elapsed());
        }
    }
    let ticked = ticked.expect("a tick although the writes go on");
    assert!(ticked >= Duration::from_millis(900), "a burst is one tick, not after {ticked:?}");
    fs::write(&file, "y").unwrap();
    assert!(timeout(Duration::from_millis(30), stream.changed()).await.is_err());
    ticks(&mut stream, "the event that the dropped future saw").await;
}

/// A re-scan is due now, and the last tick was so long ago.
fn due(stream: &mut ChangeStream, since: Duration) {
    stream.rescan = Instant::now();
    stream.last_tick = Instant::now().checked_sub(since).unwrap();
}

#[tokio::test]
async fn where_events_are_enough_there_is_seldom_a_tick_without_one() {
    let directory = directory();
    let mut stream = watch(vec![directory.path().join("policies")]).unwrap();
    assert!(stream.is_told && stream.rescan > Instant::now() + RESCAN - SOON);
    due(&mut stream, 5 * RESCAN);
    is_quiet(&mut stream, "nothing can have changed").await;
    assert!(stream.rescan > Instant::now() + RESCAN - SOON, "the next look is set");
    due(&mut stream, SELDOM);
    ticks(&mut stream, "the last tick was long ago").await;
    assert!(stream.last_tick.elapsed() < SOON, "the next one is set");
}

#[tokio::test]
async fn where_the_kernel_does_not_tell_of_every_change_each_rescan_ticks() {
    let directory = directory();
    let mut stream = watch(vec![directory.path().join("policies")]).unwrap();
    stream.is_told = false;
    due(&mut stream, RESCAN);
    ticks(&mut stream, "the re-scan is due").await;
    assert!(stream.rescan > Instant::now() + RESCAN - SOON, "the next one is set");

    // No file system for which events are enough, though it and its parent have their watches.
    let mut stream = watch(vec!["/proc/sys/vm".into()]).unwrap();
    assert_eq!((stream.is_told, stream.watched.len()), (false, 2));
    due(&mut stream, RESCAN);
    ticks(&mut stream, "the re-scan of a directory that changes by itself").await;
}

#[tokio::test]
async fn the_next_look_sees_a_renamed_parent() {
    let directory = directory();
    let (parent, aside) = (directory.path().join("parent"), directory.path().join("aside"));
    let policies = parent.join("policies");
    fs::create_dir(&parent).unwrap();
    fs::rename(directory.path().join("policies"), &policies).unwrap();
    let mut stream = watch(vec![policies.clone()]).unwrap();
    fs::rename(&parent, aside).unwrap();
    fs::create_dir_all(&policies).unwrap();
    is_quiet(&mut stream, "no event tells of it").await;
    due(&mut stream, RESCAN);
    ticks(&mut stream, "another directory has the name").await;
    fs::write(policies.join("b.yaml"), "b").unwrap();
    ticks(&mut stream, "a file where the name leads now").await;
    due(&mut stream, RESCAN);
    is_quiet(&mut stream, "the new directory is known").await;
}

#[tokio::test]
async fn the_next_look_sees_a_file_that_was_changed_by_another_name() {
    let directory = directory();
    let (file, elsewhere) = (directory.path().join("inventory.yaml"), tempfile::tempdir_in(directory.path()).unwrap());
    fs::write(&file, "a").unwrap();
    fs::hard_link(&file, elsewhere.path().join("other")).unwrap();
    let mut stream = watch(vec![file.clone()]).unwrap();
    fs::write(elsewhere.path().join("other"), "longer").unwrap();
    is_quiet(&mut stream, "no event tells of it").await;
    due(&mut stream, RESCAN);
    ticks(&mut stream, "the file has another version").await;
    due(&mut stream, RESCAN);
    is_quiet(&mut stream, "the version is known").await;
}

#[tokio::test]
async fn a_rescan_does_not_cut_a_burst_short() {
    let directory = directory();
    let file = directory.path().join("policies/a.yaml");
    let half_way = Duration::from_millis(50);
    // It falls due after the first event, or together with it.
    for due in [Duration::from_millis(20), Duration::ZERO] {
        let mut stream = watch(vec![directory.path().join("policies")]).unwrap();
        if due.is_zero() {
            stream.shared.wake.notify_one();
        } else {
            stream.burst = Some((Instant::now(), Instant::now()));
        }
        stream.rescan = Instant::now() + due;
        assert!(timeout(half_way, stream.changed()).await.is_err(), "half a change is read, due in {due:?}");
        fs::write(&file, "the other half").unwrap();
        assert!(timeout(half_way, stream.changed()).await.is_err(), "the burst goes on, due in {due:?}");
        ticks(&mut stream, "the burst is over").await;
    }
}
