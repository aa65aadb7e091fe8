//! Single parts of a running cluster: `cargo xtask cluster stop` and `start`. Input: a part's name. Output: the program is
//! killed, or runs again with the command line and the log that it had.

use std::{
    process::Command,
    thread::sleep,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail, ensure};

use crate::cluster::{directory::Directory, member, part::Part, state::State};

const PATIENCE: Duration = Duration::from_secs(30);

/// Kills a part as a crash would. What it started goes on.
pub(crate) fn stop(directory: &Directory, name: &str) -> Result<()> {
    let _lock = directory.lock()?;
    let state = State::load(directory)?;
    let part = find(&state, name)?;
    ensure!(part.is_alive(), "{name} does not run; `cargo xtask cluster start {name}` starts it");
    let mut kill = Command::new("kill");
    kill.args(["-KILL", &part.pid.to_string()]);
    member::output(kill)?;
    let end = Instant::now() + PATIENCE;
    while part.is_alive() {
        if Instant::now() >= end {
            bail!("{name} does not end");
        }
        sleep(Duration::from_millis(10));
    }
    Ok(())
}

/// Starts a part that is not running.
pub(crate) fn start(directory: &Directory, name: &str) -> Result<()> {
    let _lock = directory.lock()?;
    let mut state = State::load(directory)?;
    let part = find(&state, name)?;
    ensure!(!part.is_alive(), "{name} runs already; `cargo xtask cluster stop {name}` kills it");
    let started = Part::start(directory, state.member(part.member())?, part.command.clone())?;
    state.parts.retain(|part| part.name != name);
    state.parts.push(started);
    state.save(directory)
}

fn find<'a>(state: &'a State, name: &str) -> Result<&'a Part> {
    let known = state.parts.iter().map(|part| part.name.as_str()).collect::<Vec<_>>().join(", ");
    let found = state.parts.iter().find(|part| part.name == name);
    found.with_context(|| format!("the cluster {} has no part {name}, but {known}", state.name))
}
