//! What there is: `cargo xtask cluster status`. Input: the state files. Output: each cluster's parts and whether they live,
//! for people or as JSON.

use anyhow::Result;
use serde_json::{Value, json};

use crate::cluster::{directory::Directory, state::State};

/// All clusters, for people.
pub(crate) fn list() -> Result<()> {
    let names = Directory::names();
    if names.is_empty() {
        println!("there is no cluster");
    }
    for name in names {
        show(&Directory::of(&name))?;
    }
    Ok(())
}

/// One cluster, for people.
pub(crate) fn show(directory: &Directory) -> Result<()> {
    let name = directory.name();
    let Some(state) = State::find(directory)? else {
        println!("{name}: no state; `cargo xtask cluster down --name {name}` removes what is left");
        return Ok(());
    };
    let stage = if state.ready { "was started" } else { "its start was not finished" };
    println!("{name}: Kubernetes {}, {stage}; {}", state.version, directory.file("").display());
    for member in &state.members {
        let life = life(member.is_alive());
        println!("  {:<32} {life:<8} {:<8} {}", member.name, member.pid, member.addresses.join(" "));
    }
    for part in &state.parts {
        println!("  {:<32} {:<8} {:<8} {}", part.name, life(part.is_alive()), part.pid, part.log.display());
    }
    Ok(())
}

/// One cluster, for programs: the state file, and for each member and part whether it is alive.
pub(crate) fn json(directory: &Directory) -> Result<()> {
    let state = State::load(directory)?;
    let mut value = serde_json::to_value(&state)?;
    let members = state.members.iter().map(super::member::Member::is_alive);
    let parts = state.parts.iter().map(super::part::Part::is_alive);
    mark(&mut value["members"], members);
    mark(&mut value["parts"], parts);
    println!("{value:#}");
    Ok(())
}

fn mark(values: &mut Value, alive: impl Iterator<Item = bool>) {
    for (value, alive) in values.as_array_mut().into_iter().flatten().zip(alive) {
        value["alive"] = json!(alive);
    }
}

fn life(alive: bool) -> &'static str {
    if alive { "alive" } else { "gone" }
}
