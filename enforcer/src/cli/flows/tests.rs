use std::fs::{self, OpenOptions};
use std::io::Write as _;
use std::path::Path;
use std::sync::mpsc;
use std::time::{Duration, Instant};

use proptest::prelude::*;

use super::*;
use crate::flow::text::misleads;

/// The golden records of the flow log.
fn golden() -> String {
    let snapshot = include_str!(
        "../../flow/sink/json/snapshots/enforcer__flow__sink__json__tests__every_kind_of_record_as_it_is_written.snap"
    );
    snapshot.lines().filter(|line| line.starts_with('{')).flat_map(|line| [line, "\n"]).collect()
}

fn args(file: &Path, more: &[&str]) -> Args {
    let words = ["flows", file.to_str().unwrap()].into_iter().chain(more.iter().copied());
    Args::try_parse_from(words).unwrap()
}

/// What is printed of a log, the messages, and how many lines were bad.
fn printed(log: impl AsRef<[u8]>, more: &[&str]) -> (String, String, u64) {
    let file = tempfile::NamedTempFile::new().unwrap();
    fs::write(&file, log).unwrap();
    let (mut out, mut messages) = (Vec::new(), Vec::new());
    let Ok(bad) = print(&args(file.path(), more), &mut out, &mut messages) else {
        panic!("the log can be read");
    };
    let messages = String::from_utf8(messages).unwrap();
    let messages = messages.replace(file.path().to_str().unwrap(), "LOG");
    (String::from_utf8(out).unwrap(), messages, bad)
}

#[test]
fn every_kind_of_record_for_people() {
    let (out, messages, bad) = printed(golden(), &[]);
    assert_eq!((&*messages, bad), ("", 0));
    assert_eq!(out.lines().count(), golden().lines().count());
    insta::assert_snapshot!(out);
}

#[test]
fn json_is_the_log_itself() {
    for format in ["json", "jsonpb"] {
        assert_eq!(printed(golden(), &["-o", format]), (golden(), String::new(), 0));
    }
}

#[test]
fn the_last_lines_are_those_that_pass() {
    let (out, ..) = printed(golden(), &["--last", "2", "--from", "shop/db"]);
    assert_eq!(out.lines().count(), 2);
    assert!(out.contains("EVENTS LOST"), "{out}");
    assert_eq!(printed(golden(), &["--last", "0"]).0, "");
}

#[test]
fn a_flow_meets_one_value_of_each_filter() {
    let count = |more: &[&str]| {
        let (out, ..) = printed(golden(), more);
        out.lines().filter(|line| !line.contains("EVENTS LOST")).count()
    };
    let all = count(&[]);
    for (filters, expected) in [
        (&["--verdict", "dropped"][..], all),
        (&["--verdict", "FORWARDED"], 0),
        (&["--reason", "fragment"], 1),
        (&["--reason", "fragment", "--reason", "ethertype"], 2),
        (&["--to", "10.99.0.7"], 1),
        (&["--to", "billing"], 1),
        (&["--to", "shop/billing"], 1),
        (&["--to", "other/billing"], 0),
        (&["--to", "shop/bill"], 0),
        (&["--from", "2001:db8::1"], 0),
        (&["--to", "2001:0db8::0001"], 1),
        (&["--from", "web", "--reason", "ethertype"], 1),
        (&["--from", "db", "--reason", "ethertype"], 0),
        (&["--from", "other/"], 0),
    ] {
        assert_eq!(count(filters), expected, "{filters:?}");
    }
    assert!((1..all).contains(&count(&["--from", "shop/"])));
}

#[test]
fn a_misspelt_filter_is_refused() {
    for more in [["--reason", "no-rules"], ["--verdict", "denied"], ["-o", "yaml"]] {
        Args::try_parse_from(["flows", "log"].into_iter().chain(more)).unwrap_err();
    }
}

#[test]
fn bad_lines_are_named_and_the_rest_is_printed() {
    let good = golden().lines().next().unwrap().to_owned();
    let long = "x".repeat(input::LINE_MOST + 1);
    let mut log = format!("{good}\nnot json\n\n{{}}\n{{\"flow\":7}}\n{long}\n").into_bytes();
    log.extend_from_slice(b"{\"node_name\":\"\xff\"}\n");
    log.extend_from_slice(&good.as_bytes()[..100]);
    let (out, messages, bad) = printed(log, &[]);
    assert_eq!((out.lines().count(), bad), (1, 6), "{messages}");
    insta::assert_snapshot!(messages);
}

#[test]
fn unknown_fields_of_other_producers_are_passed_over() {
    let line =
        r#"{"flow":{"verdict":"FORWARDED","l7":{"type":"REQUEST"},"l4":{"VRRP":{"vrid":1}},"auth_type":"SPIRE"}}"#;
    let (out, _, bad) = printed(line, &[]);
    assert_eq!((out.lines().count(), bad), (1, 0));
}

/// Another program, or a hostile workload by way of one, wrote this log.
#[test]
fn nothing_in_a_log_steers_the_terminal() {
    let name = "web\\u001b[2J\\u202e\\n\u{9b}31m\u{202e}";
    let line = format!(
        r#"{{"flow":{{"verdict":"{name}","Summary":"{name}","source":{{"pod_name":"{name}","namespace":"{name}"}},"event_type":{{"type":5}},"traffic_direction":"{name}"}},"time":"{name}"}}"#
    );
    for format in ["compact", "json"] {
        let (out, _, bad) = printed(&line, &["-o", format]);
        assert_eq!((out.lines().count(), bad), (1, 0), "{out:?}");
        assert!(!out.trim_end().chars().any(misleads), "{out:?}");
    }
    let (_, messages, bad) = printed("{\"\u{1b}[2J\u{202e}", &[]);
    assert!(bad == 1 && !messages.trim_end().chars().any(misleads), "{messages:?}");
}

#[test]
fn each_outcome_has_its_exit_code() {
    let none = args(Path::new("/nonexistent/flows.json"), &[]);
    let code = |code: ExitCode| format!("{code:?}");
    assert_eq!(code(run(&none).unwrap()), code(ExitCode::from(2)));
    let outcome = |printed| exit_code(&none, printed).map(code);
    assert_eq!(outcome(Ok(0)).unwrap(), code(ExitCode::SUCCESS));
    assert_eq!(outcome(Ok(3)).unwrap(), code(ExitCode::from(1)));
    let pipe = Failure::Output(io::ErrorKind::BrokenPipe.into());
    assert_eq!(outcome(Err(pipe)).unwrap(), code(ExitCode::SUCCESS));
    outcome(Err(Failure::Output(io::ErrorKind::StorageFull.into()))).unwrap_err();
}

/// Hands each write on.
struct Sender(mpsc::Sender<String>);

impl Write for Sender {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let text = String::from_utf8_lossy(bytes).into_owned();
        // The test is over: so is the printing.
        self.0.send(text).map_err(|_| io::ErrorKind::BrokenPipe)?;
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[test]
fn following_goes_on_through_growth_rotation_and_truncation() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("flows.json");
    let lost = |n: u32| format!("{{\"lost_events\":{{\"num_events_lost\":{n}}}}}\n");
    fs::write(&path, lost(1) + &lost(2)).unwrap();
    let (sender, received) = mpsc::channel();
    let (followed, mut messages) = (args(&path, &["--follow", "--last", "1"]), Vec::new());
    std::thread::spawn(move || print(&followed, &mut Sender(sender), &mut messages).map_err(|_| ()));
    let mut seen = String::new();
    let mut wait_for = |what: &str| {
        let start = Instant::now();
        while !seen.contains(what) {
            assert!(start.elapsed() < Duration::from_secs(20), "{what} in {seen}");
            seen.extend(received.recv_timeout(Duration::from_millis(50)));
        }
        seen.clone()
    };
    let first = wait_for("EVENTS LOST:  2\n");
    assert!(!first.contains(" 1\n"), "only the last: {first}");

    let mut file = OpenOptions::new().append(true).open(&path).unwrap();
    let half = lost(3);
    file.write_all(&half.as_bytes()[..20]).unwrap();
    std::thread::sleep(Duration::from_millis(300));
    file.write_all(&half.as_bytes()[20..]).unwrap();
    wait_for("EVENTS LOST:  3\n");

    fs::rename(&path, directory.path().join("flows.json.1")).unwrap();
    file.write_all(lost(4).as_bytes()).unwrap();
    wait_for("EVENTS LOST:  4\n");
    fs::write(&path, lost(6) + &lost(7)).unwrap();
    // Who writes to the old file may be late to learn that there is a new one.
    file.write_all(lost(5).as_bytes()).unwrap();
    wait_for("EVENTS LOST:  7\n");

    fs::write(&path, lost(8)).unwrap();
    let all = wait_for("EVENTS LOST:  8\n");
    for number in 2..=8 {
        assert_eq!(all.matches(&format!(" {number}\n")).count(), 1, "once each: {all}");
    }
}

proptest! {
    #[test]
    fn any_bytes_are_lines_or_errors(log in proptest::collection::vec(any::<u8>(), 0..300)) {
        let (out, messages, bad) = printed(&log, &[]);
        prop_assert_eq!(messages.lines().count() as u64, bad);
        prop_assert!(out.is_empty() || bad < log.len() as u64);
    }
}
