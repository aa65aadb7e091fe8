//! An instance of the object of its own: nothing is pinned, so several can be there beside a running enforcer.

use std::{fs, path::PathBuf};

use anyhow::{Context, Result, ensure};
use aya::{Ebpf, EbpfLoader, programs::SchedClassifier};
use enforcer_common::limits;

/// Names of the programs.
pub const PROGRAMS: [&str; 3] = ["from_workload", "to_workload", "sweep"];

/// What `cargo xtask build-ebpf` made, by its path below `bpf` in the target directory of this very program.
pub fn built(path: &str) -> Result<PathBuf> {
    let program = std::env::current_exe()?;
    program
        .ancestors()
        .map(|directory| directory.join("bpf").join(path))
        .find(|file| file.is_file())
        .with_context(|| format!("no bpf/{path} in the target directory: run `cargo xtask build-ebpf`"))
}

/// The object with maps of its own. `cpus` slices of denied flows.
pub fn load(flows: u32) -> Result<Ebpf> {
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
    Ok(ebpf)
}
