//! Loads an instance of the object for one test. Nothing is pinned, so several instances can run beside a real daemon.

use std::{collections::BTreeMap, fs, os::fd::AsFd, path::PathBuf};

use anyhow::{Context, Result, bail, ensure};
use aya::{Ebpf, EbpfLoader, maps::Map, programs::SchedClassifier};
use enforcer::kernel::Sweep;
use enforcer_common::{limits, side::Side};

/// Names of the packet programs.
pub const PROGRAMS: [&str; 4] =
    [Side::FromWorkload.program(), Side::ToWorkload.program(), Side::Guard.program(), "closed"];

/// What `cargo xtask build-ebpf` made, by its path below `bpf` in the target directory of this very program.
pub fn built(path: &str) -> Result<PathBuf> {
    let program = std::env::current_exe()?;
    program
        .ancestors()
        .map(|directory| directory.join("bpf").join(path))
        .find(|file| file.is_file())
        .with_context(|| format!("no bpf/{path} in the target directory: run `cargo xtask build-ebpf`"))
}

/// The object with maps of its own, one slice of denied flows for each CPU, and the sweep over the same maps.
pub fn load(flows: u32) -> Result<(Ebpf, Sweep)> {
    let bytes = fs::read(built("object/enforcer.o")?)?;
    ensure!(!bytes.is_empty(), "the bpf object is a stub");
    let cpus = u32::try_from(aya::util::nr_cpus().map_err(|(_, error)| error)?)?;
    let mut ebpf = EbpfLoader::new()
        .map_max_entries(limits::map::DENIALS, cpus * limits::DENIAL_SETS)
        .map_max_entries(limits::map::FLOWS, flows)
        .load(&bytes)?;
    for name in PROGRAMS {
        let program: &mut SchedClassifier = ebpf.program_mut(name).context(name)?.try_into()?;
        program.load().with_context(|| format!("the kernel refuses {name}"))?;
    }
    let mut maps = BTreeMap::new();
    for name in [limits::map::FLOWS, limits::map::HALF_OPEN, limits::map::QUOTAS] {
        let (Map::HashMap(data) | Map::Array(data)) = ebpf.map(name).context(name)? else {
            bail!("{name} is neither a hash nor an array");
        };
        maps.insert(name, data.fd().as_fd());
    }
    let sweep = Sweep::load(&bytes, &maps).context("the kernel refuses the sweep")?;
    Ok((ebpf, sweep))
}
