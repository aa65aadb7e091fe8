//! An instance of the object of its own: nothing is pinned, so several can be there beside a running enforcer.

use std::{fs, path::PathBuf};

use anyhow::{Context, Result, ensure};
use aya::{Ebpf, EbpfLoader, programs::SchedClassifier};
use enforcer_common::limits;

/// Names of the programs.
pub const PROGRAMS: [&str; 3] = ["from_workload", "to_workload", "sweep"];

/// Where `cargo xtask build-ebpf` put its output: `OUT_DIR`'s target directory.
pub fn object_path() -> Result<PathBuf> {
    let test = std::env::current_exe()?;
    let target = test
        .ancestors()
        .find(|path| path.join("bpf/object").is_dir())
        .context("no bpf object in the target directory: run `cargo xtask build-ebpf`")?;
    Ok(target.join("bpf/object/enforcer.o"))
}

/// The object with maps of its own. `cpus` slices of denied flows.
pub fn load(flows: u32) -> Result<Ebpf> {
    let bytes = fs::read(object_path()?)?;
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
