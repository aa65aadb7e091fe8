use std::io::{self, Write};
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::sync::Mutex;
use std::time::Instant;

use enforcer_common::denial::Denial;
use enforcer_common::id::Direction;
use enforcer_common::verdict::Reason;

use super::*;
use crate::flow::enrich::Enricher;
use crate::flow::fixture::{self, WEB, way};
use crate::flow::hubble::GetFlowsResponse;

const SOON: Duration = Duration::from_secs(20);

pub(super) fn record(count: u64) -> FlowRecord {
    let way = way(Reason::NoRule, Direction::Egress, WEB, "10.88.0.2", "10.88.0.3");
    let names = fixture::names(None);
    Enricher::new("n1").enrich(&names, Timestamp::UNIX_EPOCH, &Denial::Flow { way, count }).unwrap()
}

fn open(path: &Path) -> FlowLog {
    FlowLog::open(Target::File(path.to_owned()), None, "n1").unwrap()
}

/// Denied packets that a log accounts for: in its records, and as lost.
fn packets(text: &str) -> (u64, u64) {
    assert!(text.is_empty() || text.ends_with('\n'), "the last line is whole");
    let (mut counted, mut lost) = (0, 0);
    for line in text.lines() {
        let response: GetFlowsResponse = serde_json::from_str(line).unwrap_or_else(|error| panic!("{error}: {line}"));
        if let Some(event) = response.lost_events {
            lost += event.num_events_lost;
        }
        let log = response.flow.map(|flow| flow.policy_log).unwrap_or_default();
        counted += log.iter().find_map(|entry| entry.strip_prefix("count=")).map_or(0, |count| count.parse().unwrap());
    }
    (counted, lost)
}

fn wait_for(what: &str, mut done: impl FnMut() -> bool) {
    let start = Instant::now();
    while !done() {
        assert!(start.elapsed() < SOON, "{what}");
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// Takes at most `room` bytes, then fails as a full disk does, until there is room again.
#[derive(Clone, Default)]
struct Disk(Arc<Mutex<DiskState>>);

#[derive(Default)]
struct DiskState {
    text: Vec<u8>,
    room: usize,
    moved: bool,
    /// Put aside between lines from this size on, if it is not 0.
    limit: usize,
    older: Vec<Vec<u8>>,
}

impl Disk {
    fn text(&self) -> String {
        String::from_utf8(self.0.lock().unwrap().text.clone()).unwrap()
    }
}

impl Write for Disk {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let mut disk = self.0.lock().unwrap();
        let count = bytes.len().min(disk.room).min(100);
        if count == 0 {
            return Err(io::ErrorKind::StorageFull.into());
        }
        disk.room -= count;
        disk.text.extend_from_slice(&bytes[..count]);
        Ok(count)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Output for Disk {
    fn ready(&mut self, between_lines: bool) -> io::Result<bool> {
        let mut disk = self.0.lock().unwrap();
        if between_lines && disk.limit > 0 && disk.text.len() >= disk.limit {
            let full = std::mem::take(&mut disk.text);
            disk.older.push(full);
            return Ok(true);
        }
        if std::mem::take(&mut disk.moved) {
            disk.text.clear();
            return Ok(true);
        }
        Ok(false)
    }
}

#[test]
fn records_and_losses_are_lines_of_a_private_file() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("flows.json");
    let log = open(&path);
    log.push(record(7));
    log.lost_in_ring(Timestamp::UNIX_EPOCH, 12);
    log.push(record(1));
    let counts = log.finish(SOON);
    let text = std::fs::read_to_string(&path).unwrap();
    assert_eq!(packets(&text), (8, 12));
    assert_eq!(counts.lines, 3);
    assert_eq!((counts.lost_packets, counts.errors), (0, 0));
    let mode = std::fs::metadata(&path).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
}

#[test]
fn a_log_is_appended_to_and_a_torn_last_line_is_ended() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("flows.json");
    std::fs::write(&path, "{}\n{\"flow\":{\"ti").unwrap();
    let log = open(&path);
    log.push(record(1));
    log.finish(SOON);
    let text = std::fs::read_to_string(&path).unwrap();
    assert!(text.starts_with("{}\n{\"flow\":{\"ti\n{\"flow\""), "{text}");
    assert_eq!(text.lines().count(), 3);
}

#[test]
fn a_file_that_was_moved_away_is_made_anew() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("flows.json");
    let log = open(&path);
    log.push(record(1));
    wait_for("the first line", || log.counts().lines == 1);
    let moved = directory.path().join("flows.json.1");
    std::fs::rename(&path, &moved).unwrap();
    log.push(record(2));
    let counts = log.finish(SOON);
    assert_eq!(packets(&std::fs::read_to_string(&moved).unwrap()), (1, 0));
    assert_eq!(packets(&std::fs::read_to_string(&path).unwrap()), (2, 0));
    assert_eq!(counts.reopened, 1);
}

#[test]
fn a_file_that_another_one_took_the_place_of_is_left() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("flows.json");
    let log = open(&path);
    log.push(record(1));
    wait_for("the first line", || log.counts().lines == 1);
    let moved = directory.path().join("flows.json.1");
    std::fs::rename(&path, &moved).unwrap();
    std::fs::write(&path, "{}\n").unwrap();
    log.push(record(2));
    log.finish(SOON);
    assert_eq!(packets(&std::fs::read_to_string(&moved).unwrap()), (1, 0));
    assert_eq!(packets(&std::fs::read_to_string(&path).unwrap()), (2, 0));
}

#[test]
fn a_full_disk_tears_no_line_and_loses_no_count() {
    let disk = Disk::default();
    disk.0.lock().unwrap().room = 1500;
    let log = FlowLog::start(disk.clone(), "n1", 4).unwrap();
    for _ in 0..1000 {
        log.push(record(3));
        log.lost_in_ring(Timestamp::UNIX_EPOCH, 2);
    }
    wait_for("an error", || log.counts().errors > 0);
    assert!(log.counts().merged_records > 0, "the queue has four places");
    assert_eq!(disk.text().len(), 1500, "the disk ends in the middle of a line");
    disk.0.lock().unwrap().room = usize::MAX;
    wait_for("the log to go on", || packets_so_far(&disk) == (3000, 2000));
    let counts = log.finish(SOON);
    assert_eq!(packets(&disk.text()), (3000, 2000), "and it tells nothing twice");
    assert_eq!(counts.lost_packets, 0);
    assert!(disk.text().contains("flows not told apart"), "{}", disk.text());
}

#[test]
fn what_found_no_room_is_written_at_the_end() {
    let disk = Disk::default();
    let log = FlowLog::start(disk.clone(), "n1", 4).unwrap();
    log.push(record(1));
    wait_for("an error", || log.counts().errors > 0);
    for _ in 0..20 {
        log.push(record(1));
    }
    disk.0.lock().unwrap().room = usize::MAX;
    let counts = log.finish(SOON);
    assert_eq!(packets(&disk.text()), (21, 0));
    assert_eq!((counts.merged_records, counts.lost_packets), (16, 0));
}

fn packets_so_far(disk: &Disk) -> (u64, u64) {
    let text = disk.text();
    let whole = text.rfind('\n').map_or(0, |end| end + 1);
    packets(&text[..whole])
}

#[test]
fn a_line_that_was_half_written_when_the_file_moved_is_written_whole() {
    let disk = Disk::default();
    disk.0.lock().unwrap().room = 300;
    let log = FlowLog::start(disk.clone(), "n1", 100).unwrap();
    log.push(record(5));
    wait_for("an error", || log.counts().errors > 0);
    {
        let mut disk = disk.0.lock().unwrap();
        disk.moved = true;
        disk.room = usize::MAX;
    }
    let counts = log.finish(SOON);
    assert_eq!(packets(&disk.text()), (5, 0));
    assert_eq!((counts.lines, counts.reopened), (1, 1));
}

#[test]
fn a_half_written_line_is_ended_before_the_file_is_put_aside() {
    let disk = Disk::default();
    (disk.0.lock().unwrap().room, disk.0.lock().unwrap().limit) = (300, 100);
    let log = FlowLog::start(disk.clone(), "n1", 100).unwrap();
    log.push(record(5));
    wait_for("two attempts", || log.counts().errors > 1);
    disk.0.lock().unwrap().room = usize::MAX;
    wait_for("the first line", || log.counts().lines == 1);
    log.push(record(6));
    let counts = log.finish(SOON);
    let older = disk.0.lock().unwrap().older.clone();
    let files = older.iter().map(|text| String::from_utf8(text.clone()).unwrap()).chain([disk.text()]);
    let told: Vec<(u64, u64)> = files.map(|text| packets(&text)).filter(|told| *told != (0, 0)).collect();
    assert_eq!(told, [(5, 0), (6, 0)], "each line is whole, and in one file");
    assert_eq!(counts.reopened, older.len() as u64);
}

#[test]
fn what_cannot_be_written_at_the_end_is_counted_as_lost() {
    let output = FileOutput::new("/dev/full".into(), None).unwrap();
    let log = FlowLog::start(output, "n1", 2).unwrap();
    log.push(record(5));
    wait_for("an error", || log.counts().errors > 0);
    for _ in 0..6 {
        log.push(record(6));
    }
    let start = Instant::now();
    let counts = log.finish(SOON);
    assert!(start.elapsed() < SOON / 2, "an error is not waited on at the end");
    assert_eq!((counts.lines, counts.merged_records), (0, 4));
    assert_eq!(counts.lost_packets, 5 + 6 * 6);
}

#[test]
fn a_path_that_cannot_be_right_is_refused_at_once() {
    let directory = tempfile::tempdir().unwrap();
    for path in [directory.path().join("none/flows.json"), directory.path().to_owned()] {
        let refused = FlowLog::open(Target::File(path.clone()), None, "n1").map(|_| ()).unwrap_err();
        assert!(refused.to_string().contains(path.to_str().unwrap()), "{refused}");
    }
}

#[test]
fn a_stuck_output_never_stops_the_agent() {
    /// Says that it was asked to write, and never comes back.
    struct Stuck(std::sync::mpsc::SyncSender<()>);
    impl Write for Stuck {
        fn write(&mut self, _: &[u8]) -> io::Result<usize> {
            _ = self.0.send(());
            loop {
                std::thread::park();
            }
        }
        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }
    impl Output for Stuck {
        fn ready(&mut self, _: bool) -> io::Result<bool> {
            Ok(false)
        }
    }
    let (asked, stuck) = std::sync::mpsc::sync_channel(1);
    let log = FlowLog::start(Stuck(asked), "n1", 4).unwrap();
    log.push(record(1));
    stuck.recv_timeout(SOON).expect("the first record is being written");
    // From here on the writer takes nothing more. An agent that waits for it never gets to the end of this.
    let agent = std::thread::spawn(move || {
        for _ in 0..1000 {
            log.push(record(1));
        }
        log.finish(Duration::from_millis(100))
    });
    wait_for("the agent goes on", || agent.is_finished());
    let counts = agent.join().unwrap();
    assert_eq!((counts.lines, counts.merged_records), (0, 1000 - 4), "the queue has four places");
    assert_eq!(counts.lost_packets, 1001, "what never came out is not forgotten");
}

#[test]
fn a_log_that_grows_is_put_aside_and_loses_and_tears_no_line() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("flows.json");
    let rotation = Rotation { bytes: 20_000, kept: 1000 };
    let log = FlowLog::open(Target::File(path.clone()), Some(rotation), "n1").unwrap();
    for _ in 0..100 {
        for _ in 0..20 {
            log.push(record(3));
        }
        log.lost_in_ring(Timestamp::UNIX_EPOCH, 2);
        std::thread::sleep(Duration::from_millis(2));
    }
    let counts = log.finish(SOON);
    let mut files = 0;
    let (mut counted, mut lost, mut lines) = (0, 0, 0);
    for entry in std::fs::read_dir(directory.path()).unwrap() {
        let path = entry.unwrap().path();
        let text = std::fs::read_to_string(&path).unwrap();
        let (more, missing) = packets(&text);
        (counted, lost) = (counted + more, lost + missing);
        lines += text.lines().count() as u64;
        assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600, "{}", path.display());
        // A batch ends above the limit.
        assert!(text.len() < 20_000 + 2 * 256 * 1024, "{} has {} bytes", path.display(), text.len());
        files += 1;
    }
    assert!(files > 3, "{files} files");
    assert_eq!((counted, lost), (6_000, 200));
    assert_eq!((counts.lines, counts.reopened, counts.errors), (lines, files - 1, 0));
}

#[test]
fn a_log_that_cannot_be_put_aside_goes_on() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("flows.json");
    // A directory with something in it cannot be replaced by a file.
    std::fs::create_dir_all(directory.path().join("flows.json.1/full")).unwrap();
    let log = FlowLog::open(Target::File(path.clone()), Some(Rotation { bytes: 1, kept: 1 }), "n1").unwrap();
    for lines in 1..=3 {
        log.push(record(1));
        wait_for("the line", || log.counts().lines == lines);
    }
    let counts = log.finish(SOON);
    assert_eq!(packets(&std::fs::read_to_string(&path).unwrap()), (3, 0));
    assert_eq!((counts.errors, counts.reopened), (0, 0));
}
