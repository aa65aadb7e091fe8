//! Checks the README and the page on architecture: commands, outputs and flags of the one, and map layouts of the other.

#![allow(clippy::unwrap_used, reason = "a failed step ends the test")]
#![allow(clippy::print_stdout, reason = "what the walk-through prints is for whoever has to change the README")]

use std::collections::BTreeMap;
use std::fs;
use std::mem::offset_of;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::thread::sleep;
use std::time::{Duration, Instant};

use enforcer::kernel::group_directory;
use enforcer_common::denial::{BusyKey, Counts, DenialKey, Way};
use enforcer_common::endpoint::Endpoint;
use enforcer_common::event::DenialEvent;
use enforcer_common::flow_key::FlowKey;
use enforcer_common::flow_state::FlowValue;
use enforcer_common::half_open::HalfOpen;
use enforcer_common::image::{Header, RangeTable};
use enforcer_common::quota::Quota;
use enforcer_common::schema::{self, Entries, Group, Kind};
use enforcer_tests::cargo::program;
use enforcer_tests::daemon::{BOUND, binary};
use enforcer_tests::podman::Host;
use enforcer_tests::podman::shell::Shell;
use enforcer_tests::podman::walk::{Step, prints, steps};

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

fn readme() -> String {
    fs::read_to_string(root().join("README.md")).unwrap()
}

#[test]
fn the_walk_through_runs_as_it_is_written() {
    let steps = steps(&readme(), "Your first policy");
    assert!(steps.len() > 15, "the walk-through is not where it was: {steps:?}");
    let host = Host::new();
    let mut shell = Shell::on(&host);
    for step in &steps {
        match step {
            Step::File { path, text } => {
                // As an editor does it: written beside, renamed over.
                let (path, beside) = (host.file("home").join(path), host.file("edited"));
                fs::write(&beside, text).unwrap();
                fs::rename(beside, path).unwrap();
            }
            Step::Command { line, prints: shown, code } => {
                // What the daemon tells of itself and of denials is up to a second old; a reader looks again.
                let looks_again = ["enforcer status", "enforcer flows"].iter().any(|look| line.starts_with(look));
                let end = Instant::now() + BOUND;
                loop {
                    let (printed, ended) = shell.run(line);
                    println!("$ {line}\n{printed}");
                    if ended == *code && prints(shown, &printed) {
                        break;
                    }
                    assert!(
                        looks_again && Instant::now() < end,
                        "{step}\nends with {ended}, and the README says {code}; prints\n{printed}\nand the README says\n{}\n\
                         daemon: {}",
                        shown.join("\n"),
                        fs::read_to_string(host.file("home/enforcer.log")).unwrap_or_default()
                    );
                    sleep(Duration::from_millis(100));
                }
            }
        }
    }
}

#[test]
fn the_demo_prints_what_the_readme_shows() {
    let steps = steps(&readme(), "The demo");
    let [Step::Command { line, prints: shown, code: 0 }] = &steps[..] else { panic!("one command: {steps:?}") };
    assert_eq!(line, "cargo xtask demo");
    // What cargo prints while it builds stands before it.
    let output = Command::new(binary()).arg("demo").output().unwrap();
    let printed = String::from_utf8(output.stdout).unwrap();
    assert!(output.status.success() && prints(shown, &printed), "{printed}{}", String::from_utf8_lossy(&output.stderr));
    assert!(shown.len() > 10 && !shown[1..].iter().any(|line| line.contains("...")), "the output is shown whole");
}

/// Code of a Markdown text: fenced lines and spans between backticks.
fn code(markdown: &str) -> Vec<String> {
    let mut code = Vec::new();
    let mut fenced = false;
    for line in markdown.lines() {
        if line.starts_with("```") {
            fenced = !fenced;
        } else if fenced {
            code.push(line.strip_prefix("$ ").unwrap_or(line).to_owned());
        } else {
            code.extend(line.split('`').skip(1).step_by(2).map(str::to_owned));
        }
    }
    code
}

fn help(arguments: &[&str]) -> String {
    let output = Command::new(binary()).args(arguments).arg("--help").output().unwrap();
    assert!(output.status.success(), "enforcer {arguments:?} --help: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

/// Whether a help text has a flag of exactly this name.
fn has_flag(help: &str, flag: &str) -> bool {
    help.split(|c: char| !(c.is_ascii_alphanumeric() || c == '-')).any(|word| word == flag)
}

#[test]
fn every_command_and_flag_of_the_readme_exists() {
    let commands = ["run", "demo", "validate", "explain", "flows", "status", "purge"];
    let helps: BTreeMap<&str, String> = commands.iter().map(|command| (*command, help(&[command]))).collect();
    for (command, help) in &helps {
        assert!(help.contains("Exit codes: 0 "), "`enforcer {command} --help` does not say how it exits: {help}");
    }
    let all = help(&[]);
    let (mut checked, mut mentioned) = (0, Vec::new());
    for text in code(&readme()) {
        let words: Vec<&str> = text.split_whitespace().collect();
        let flags = words.iter().filter(|word| word.starts_with("--") && word.len() > 2);
        let flags: Vec<&str> = flags.map(|word| word.split('=').next().unwrap()).collect();
        match words[..] {
            ["enforcer", command, ..] if command.chars().all(|c| c.is_ascii_lowercase()) => {
                let help = helps.get(command).unwrap_or_else(|| panic!("`{text}`: no such command: {all}"));
                assert!(all.contains(&format!("  {command} ")), "`enforcer --help` does not list {command}");
                for flag in &flags {
                    assert!(has_flag(help, flag), "`{text}`: `enforcer {command} --help` has no {flag}");
                    checked += 1;
                }
                mentioned.push(command.to_owned());
            }
            [first, ..] if first.starts_with("--") => {
                for flag in flags {
                    assert!(helps.values().any(|help| has_flag(help, flag)), "`{text}`: no command has {flag}");
                    checked += 1;
                }
            }
            _ => {}
        }
    }
    mentioned.sort();
    mentioned.dedup();
    assert_eq!(mentioned.len(), commands.len() - 1, "the README shows every command but demo: {mentioned:?}");
    assert!(checked > 8, "only {checked} flags were found");
}

#[test]
fn every_task_of_the_readme_exists() {
    let output = Command::new(program("xtask")).arg("--help").output().unwrap();
    let help = String::from_utf8(output.stdout).unwrap();
    let tasks: Vec<String> = code(&readme())
        .iter()
        .filter_map(|text| Some(text.strip_prefix("cargo xtask ")?.split(' ').next()?.to_owned()))
        .collect();
    assert!(tasks.iter().any(|task| task == "demo") && tasks.iter().any(|task| task == "test"), "{tasks:?}");
    for task in tasks {
        assert!(help.contains(&format!("  {task} ")), "`cargo xtask {task}`: {help}");
    }
}

#[test]
fn every_link_leads_somewhere() {
    for page in ["README.md", "docs/architecture.md"] {
        let path = root().join(page);
        let text = fs::read_to_string(&path).unwrap();
        let links: Vec<&str> = text.split("](").skip(1).filter_map(|rest| rest.split(')').next()).collect();
        assert!(!links.is_empty(), "{page} has no links");
        for link in links {
            let file = link.split('#').next().unwrap();
            assert!(file.is_empty() || path.parent().unwrap().join(file).exists(), "{page}: {link}");
        }
    }
}

fn architecture() -> String {
    fs::read_to_string(root().join("docs/architecture.md")).unwrap()
}

/// The rows of the first table under a heading, without the one that names the columns.
fn table(page: &str, heading: &str) -> Vec<Vec<String>> {
    let mut lines = page.lines().skip_while(|line| *line != heading).skip(1);
    let first = lines.find(|line| line.starts_with('|') || line.starts_with('#'));
    assert!(first.is_some_and(|line| line.starts_with('|')), "there is no table under {heading}");
    let rows = lines.take_while(|line| line.starts_with('|')).skip(1);
    rows.map(|row| row.trim_matches('|').split('|').map(|cell| cell.trim().to_owned()).collect()).collect()
}

#[test]
fn the_page_shows_every_map_as_it_is() {
    let expected: Vec<Vec<String>> = schema::ALL
        .iter()
        .map(|row| {
            let kind = match row.kind {
                Kind::Array => "array",
                Kind::Hash => "hash",
                Kind::PerCpuArray => "per-CPU array",
                Kind::PerCpuHash => "per-CPU hash",
                Kind::ArrayOfMaps => "array of maps",
                Kind::RingBuffer => "ring buffer",
            };
            let entries = match row.entries {
                Entries::Fixed(entries) | Entries::Setting(entries) | Entries::HalfOpen(entries) => entries.to_string(),
                Entries::EachCpu(entries) => format!("{entries} a CPU"),
                Entries::Image => panic!("{} has no size of its own", row.name),
            };
            let name = format!("`{}`", row.name);
            vec![
                name,
                row.group.name().to_owned(),
                kind.to_owned(),
                row.key.to_string(),
                row.value.to_string(),
                entries,
            ]
        })
        .collect();
    let shown: Vec<Vec<String>> = table(&architecture(), "## Maps").into_iter().map(|row| row[..6].to_vec()).collect();
    assert_eq!(shown, expected);
    assert_eq!((schema::IMAGE_ADDRESSES.key, schema::IMAGE_ADDRESSES.value), (16, 4), "the inner map of ADDRESSES");
}

#[test]
fn the_page_shows_the_directory_of_each_group() {
    let page = architecture();
    for group in Group::ALL {
        let directory = group_directory(group);
        assert!(page.contains(&format!("{directory}/maps/NAME")), "{directory}");
    }
}

/// The maps that a daemon pins are those of the page, all of them, as the kernel has them.
#[test]
fn the_page_shows_the_maps_that_a_daemon_pins() {
    let mut host = Host::new();
    host.serve();
    host.start(&[]);
    host.until("everything is pinned", |host| host.status().0["revision"] == 1);
    let mut pinned = host.pins("maps");
    pinned.sort();
    let mut shown: Vec<String> =
        table(&architecture(), "## Maps").into_iter().map(|row| row[0].trim_matches('`').to_owned()).collect();
    shown.sort();
    assert_eq!(pinned, shown);
    host.purge();
}

#[test]
fn the_page_shows_every_layout_as_it_is() {
    macro_rules! layout {
        ($name:ident: $($field:ident),*) => {
            (stringify!($name), size_of::<$name>(), vec![$((stringify!($field), offset_of!($name, $field))),*])
        };
    }
    let layouts = [
        layout!(Endpoint: ifindex, quota, id, owned, flags, rows, window_end, owners, addresses),
        layout!(Quota: flows, limit, reserve, id, pad),
        layout!(HalfOpen: key, next, pad),
        layout!(FlowValue: word, last_seen, ingress, home, mark, acknowledged, pad),
        layout!(DenialKey: workload, revision, peer, destination_port, ethertype, protocol, direction, reason, pad),
        layout!(Way: generation, tick, total, source_port, tcp_flags, pad, key, local),
        layout!(Counts: logged, suppressed, lost),
        layout!(BusyKey: workload, direction, reason, pad),
        layout!(DenialEvent: version, kind, cpu, set, place, way),
        layout!(Header: magic, lines, flags, port_classes, peer_classes, rows, vectors, ports_at, rows_at, vectors_at,
            addresses),
        layout!(RangeTable: base, shift, buckets, count, index_at, starts_at, classes_at),
        // Its fields are private; that they follow each other and fill it is checked as for the others.
        ("FlowKey", size_of::<FlowKey>(), vec![("owner_and_class", 0), ("ports", 4), ("peer", 8)]),
    ];
    let page = architecture();
    for (name, size, fields) in layouts {
        let mut end = 0;
        let mut shown = Vec::new();
        for row in table(&page, &format!("### `{name}`")) {
            let [offset, bytes]: [usize; 2] = [row[0].parse().unwrap(), row[1].parse().unwrap()];
            assert_eq!(offset, end, "{name}: {row:?} does not follow the row before it");
            end = offset + bytes;
            shown.push((row[2].trim_matches('`').to_owned(), offset));
        }
        let fields: Vec<(String, usize)> = fields.into_iter().map(|(field, at)| (field.to_owned(), at)).collect();
        assert_eq!((shown, end), (fields, size), "{name}");
    }
    let headings = page.lines().filter(|line| line.starts_with("### `")).count();
    assert_eq!(headings, 12, "each layout of the page is checked here");
}
