//! `cargo xtask mutants`: changes single lines of the code that decides, and lists the changes that no fast test notices.
//!
//! Input: how many changes, how long at most, and a seed. Output: a line for each change, and the survivors.
//! `docs/testing.md` says what to do with a survivor.

mod change;
mod scratch;

use std::{
    path::Path,
    time::{Duration, Instant},
};

use anyhow::{Context, Result};

use self::{
    change::{Change, changes},
    scratch::{OF_COMMON, OF_STAGES, Outcome, Scratch},
};
use crate::{
    source::{Source, sources},
    workspace::Workspace,
};

/// What is changed.
const COMMON: &str = "enforcer-common/src";
const STAGES: [&str; 2] = ["enforcer/src/resolve", "enforcer/src/compile"];

/// A change that takes so many times as long as the unchanged sources hangs.
const TIMES: u32 = 10;

/// Options of the command.
#[derive(Debug, clap::Args)]
pub(crate) struct Options {
    /// How many changes that compile are judged.
    #[arg(long, default_value_t = 100)]
    count: usize,
    /// Minutes after which no further change is begun.
    #[arg(long, default_value_t = 240)]
    minutes: u64,
    /// Which changes are chosen of all: the same number chooses the same ones.
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// How many of the chosen order are left out at its beginning, to go on with an earlier run.
    #[arg(long, default_value_t = 0)]
    skip: usize,
    /// Only changes in files whose path contains this text.
    #[arg(long, default_value = "")]
    only: String,
    /// List the chosen changes, and judge none.
    #[arg(long)]
    list: bool,
}

/// Judges the chosen changes.
pub(crate) fn run(workspace: &Workspace, options: &Options) -> Result<()> {
    let Options { count, minutes, seed, skip, only, list } = options;
    let sources: Vec<Source> = sources(workspace.root(), &["rs"])?
        .into_iter()
        .filter(|source| is_mutated(&source.path) && source.path.to_string_lossy().contains(only.as_str()))
        .collect();
    let mut all: Vec<Change> = sources.iter().flat_map(changes).collect();
    println!("{} changes in {} files; seed {seed}", all.len(), sources.len());
    shuffle(&mut all, *seed);
    all.drain(..all.len().min(*skip));
    if *list {
        for change in all.iter().take(*count) {
            println!("{}", shown(change));
        }
        return Ok(());
    }
    let scratch = Scratch::make(workspace)?;
    let patience = scratch.rehearse()? * TIMES + Duration::from_secs(30);
    let end = Instant::now() + Duration::from_secs(60 * minutes);
    let (mut judged, mut not_viable, mut survivors) = (0, 0, Vec::new());
    for (place, change) in all.iter().enumerate() {
        if judged == *count || Instant::now() >= end {
            println!("\nto go on from here: --seed {seed} --skip {}", skip + place);
            break;
        }
        let source = sources.iter().find(|source| source.path == change.path).context("a change of no source")?;
        let suites = if change.path.starts_with(COMMON) { OF_COMMON } else { OF_STAGES };
        let texts = [&*change.apply(&source.text), &*source.text];
        match scratch.judge(&change.path, texts, suites, patience)? {
            Outcome::NotViable => {
                not_viable += 1;
                continue;
            }
            Outcome::Killed(suite) => println!("killed by {suite}\n{}", shown(change)),
            Outcome::Hung(suite) => println!("killed, as {suite} does not end\n{}", shown(change)),
            Outcome::Survived => {
                println!("SURVIVED\n{}", shown(change));
                survivors.push(change);
            }
        }
        judged += 1;
    }
    println!("\n{judged} changes judged, {not_viable} did not compile, {} survived:", survivors.len());
    for change in &survivors {
        println!("{}", shown(change));
    }
    if judged < *count {
        println!("{judged} of {count} changes were judged: the time was up, or there are no more");
    }
    Ok(())
}

fn is_mutated(path: &Path) -> bool {
    path.starts_with(COMMON) || STAGES.iter().any(|stage| path.starts_with(stage))
}

fn shown(change: &Change) -> String {
    let Change { path, line, before, after } = change;
    format!("  {}:{line}\n    - {}\n    + {}", path.display(), before.trim(), after.trim())
}

/// Fisher and Yates, with a small generator (xorshift): the same order on every machine.
fn shuffle(all: &mut [Change], seed: u64) {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    for end in (1..all.len()).rev() {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        all.swap(end, usize::try_from(state % (end as u64 + 1)).unwrap_or(0));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_seed_chooses_the_same_changes() {
        let change = |line| Change { path: "a.rs".into(), line, before: String::new(), after: String::new() };
        let order = |seed| {
            let mut all: Vec<Change> = (0..50).map(change).collect();
            shuffle(&mut all, seed);
            all.iter().map(|change| change.line).collect::<Vec<_>>()
        };
        assert_eq!(order(1), order(1));
        assert_ne!(order(1), order(2));
        let mut sorted = order(1);
        sorted.sort_unstable();
        assert_eq!(sorted, (0..50).collect::<Vec<_>>());
    }

    #[test]
    fn only_the_code_that_decides_is_changed() {
        for (path, is) in [
            ("enforcer-common/src/judge/mod.rs", true),
            ("enforcer/src/resolve/peers.rs", true),
            ("enforcer/src/compile/walk.rs", true),
            ("enforcer/src/kernel/mod.rs", false),
            ("tests/src/oracle/mod.rs", false),
        ] {
            assert_eq!(is_mutated(Path::new(path)), is, "{path}");
        }
    }
}
