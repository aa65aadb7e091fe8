//! `cargo run --release -p enforcer-tests --bin bench` measures the cost of a verdict beside a baseline program in the same
//! run, and the cost of the sweep. Arguments: numbers of rules, or `sweep` for that part alone.
//!
//! Output: one JSON document on stdout, then the same numbers as a table.
#![allow(clippy::print_stdout, reason = "a command's output")]

use anyhow::Result;
use enforcer_tests::bench;
use serde_json::json;

fn main() -> Result<()> {
    let mut lines = Vec::new();
    for rules in rules()? {
        lines.extend(bench::measure(rules)?);
    }
    let sweep = bench::sweep()?;
    let machine = json!({
        "kernel": read("/proc/sys/kernel/osrelease"),
        "cpu": read("/proc/cpuinfo").lines().find_map(|line| line.strip_prefix("model name")?.split_once(": ")).map(|(_, name)| name.to_owned()),
        "cpus": std::thread::available_parallelism()?.get(),
        "load": read("/proc/loadavg"),
    });
    let document = json!({
        "machine": machine,
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

/// Those of the arguments, else what the design speaks of. `sweep` alone: none.
fn rules() -> Result<Vec<u32>> {
    if std::env::args().skip(1).eq(["sweep"]) {
        return Ok(Vec::new());
    }
    let given: Vec<u32> = std::env::args().skip(1).map(|word| word.parse()).collect::<Result<_, _>>()?;
    Ok(if given.is_empty() { vec![1, 1_000, 100_000] } else { given })
}

fn read(path: &str) -> String {
    std::fs::read_to_string(path).unwrap_or_default().trim().to_owned()
}
