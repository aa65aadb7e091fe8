//! `cargo run --release -p enforcer-tests --bin bench` measures the cost of a verdict beside a baseline program in the same
//! run, and the cost of the sweep. Arguments: numbers of rules, `sweep` for that part alone, or `control` for the cost of the
//! daemon itself. Behind `control` may stand the number of changes after which its memory is read, and the number of the only
//! node to measure, from 1. `cluster` measures the agents of a cluster. Behind it may stand the number of rounds, and the archive of
//! an image, which is otherwise that of `cargo xtask image`.
//!
//! Output: one JSON document on stdout, then the same numbers as a table. `cluster` first says how far its start is, and then prints
//! both for each of its parts as soon as it is there.
#![allow(clippy::print_stdout, reason = "a command's output")]

use std::path::PathBuf;

use anyhow::Result;
use enforcer_tests::bench::{self, Control, Ground, Scale};
use serde_json::json;

/// Rounds of each kind on a cluster.
const ROUNDS: usize = 100;
/// Changes behind which the memory of a daemon is read.
const CHANGES: usize = 1_000;

fn main() -> Result<()> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    match arguments.split_first() {
        Some((first, rest)) if first == "cluster" => cluster(rest),
        Some((first, rest)) if first == "control" => control(rest),
        _ => verdicts(&arguments),
    }
}

/// The agents of a cluster. Each part is told when it is there.
fn cluster(arguments: &[String]) -> Result<()> {
    let rounds = arguments.first().map_or(Ok(ROUNDS), |word| word.parse())?;
    let ground = Ground::new(arguments.get(1).map(PathBuf::from))?;
    let delays = ground.delays(rounds)?;
    println!("{}\n{delays}", serde_json::to_string_pretty(&json!({ "machine": machine()?, "delays": delays }))?);
    let loads = ground.loads()?;
    println!("{}\n{loads}", serde_json::to_string_pretty(&json!({ "machine": machine()?, "loads": loads }))?);
    Ok(())
}

/// The cost of the daemon itself.
fn control(arguments: &[String]) -> Result<()> {
    let number = |place: usize| arguments.get(place).map(|word| word.parse::<usize>()).transpose();
    let (changes, only) = (number(0)?.unwrap_or(CHANGES), number(1)?);
    let scales = (1..).zip(Scale::ALL).filter(|(place, _)| only.is_none_or(|only| only == *place));
    let all: Vec<Control> = scales.map(|(_, scale)| bench::control(scale, changes)).collect::<Result<_>>()?;
    println!("{}", serde_json::to_string_pretty(&json!({ "machine": machine()?, "control": all }))?);
    for one in &all {
        let Scale { workloads, policies, entries } = one.scale;
        println!("{workloads} workloads, {policies} policy files, {entries} inventory entries");
        println!(
            "  start until the first image is in force: {:.0} ms; of the next daemon: {:.0} ms",
            one.start_ms, one.restart_ms
        );
        println!("  at rest: {:.2} % of a processor", one.at_rest_percent);
        for (what, change) in [("one policy", &one.policy), ("one inventory entry", &one.entry)] {
            println!(
                "  {what} changed: {:.0} ms until it is in force, at worst {:.0}; {:.0} ms of processor time",
                change.median_ms, change.worst_ms, change.cpu_ms
            );
        }
        println!(
            "  resident memory: {:.0} MiB after the start, {:.0} after {} changes, {:.0} after {}",
            one.start_mib,
            one.early_mib,
            one.changes / 10,
            one.late_mib,
            one.changes
        );
    }
    Ok(())
}

/// The cost of a verdict and of the sweep.
fn verdicts(arguments: &[String]) -> Result<()> {
    let mut lines = Vec::new();
    for rules in rules(arguments)? {
        lines.extend(bench::measure(rules)?);
    }
    let sweep = bench::sweep()?;
    let document = json!({
        "machine": machine()?,
        "lines": lines,
        "sweep_of_a_full_table": sweep,
    });
    println!("{}", serde_json::to_string_pretty(&document)?);
    println!("{:<38} {:>7} {:>8} {:>8} {:>6} {:>5}", "work", "rules", "ns", "floor", "ratio", "goal");
    for line in &lines {
        println!(
            "{:<38} {:>7} {:>8.1} {:>8.1} {:>6.2} {:>5}{}",
            line.work,
            line.rules,
            line.ns,
            line.floor_ns,
            line.ratio,
            line.goal.map_or_else(String::new, |goal| format!("{goal:.2}")),
            if line.goal.is_some_and(|goal| line.ratio > goal) { "  over" } else { "" }
        );
    }
    println!(
        "sweep over a full table: {:.1} ms; deleting {}: {:.1} ms; deleting all: {:.1} ms",
        sweep.walk_ms, sweep.cap, sweep.deleting_its_cap_ms, sweep.deleting_all_ms
    );
    if let Some(stall) = &sweep.longest_stall {
        for (beside, stall) in [
            ("nothing", &stall.idle),
            ("the sweep", &stall.walking),
            ("the sweep deleting its cap", &stall.deleting),
            ("the same walk with softirqs off", &stall.softirqs_off),
        ] {
            println!(
                "longest stall of a packet beside {beside}: {:.2} ms, at worst {:.2}",
                stall.median_ms, stall.worst_ms
            );
        }
    }
    Ok(())
}

fn machine() -> Result<serde_json::Value> {
    Ok(json!({
        "kernel": read("/proc/sys/kernel/osrelease"),
        "cpu": read("/proc/cpuinfo").lines().find_map(|line| line.strip_prefix("model name")?.split_once(": ")).map(|(_, name)| name.to_owned()),
        "cpus": std::thread::available_parallelism()?.get(),
        "load": read("/proc/loadavg"),
    }))
}

/// Those of the arguments, else what the design speaks of. `sweep` alone: none.
fn rules(arguments: &[String]) -> Result<Vec<u32>> {
    if arguments == ["sweep"] {
        return Ok(Vec::new());
    }
    let given: Vec<u32> = arguments.iter().map(|word| word.parse()).collect::<Result<_, _>>()?;
    Ok(if given.is_empty() { vec![1, 1_000, 100_000] } else { given })
}

fn read(path: &str) -> String {
    std::fs::read_to_string(path).unwrap_or_default().trim().to_owned()
}
