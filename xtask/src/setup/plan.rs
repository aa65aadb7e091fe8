//! What is missing. Input: a machine. Output: the steps that would put it there, in order; none on a machine that is
//! ready. Nothing is changed here.

use std::path::Path;

use crate::{
    cluster::go,
    run::{Run, find_program},
    setup::tools::{COMPILER, GO, Need, Sign, TOOLS, Tool},
    toolchain::{BpfCompiler, LLVM_MAJOR, Machine},
};

/// Where a bpf file system belongs; pins live below it.
const BPFFS: &str = "/sys/fs/bpf";

/// Where the file systems of cgroups belong.
const CGROUPS: &str = "/sys/fs/cgroup";

/// One command of the set-up.
#[derive(Debug)]
pub(crate) struct Step {
    pub(crate) reason: String,
    pub(crate) run: Run,
    pub(crate) as_root: bool,
}

/// The steps that make `machine` able to do what `needs` names.
pub(crate) fn plan(machine: &Machine, needs: &[Need]) -> Vec<Step> {
    let compiler = machine.find_compiler();
    let lacks_go = needs.contains(&Need::Cluster) && go::find(machine).is_none();
    let mut steps = packages(machine, compiler, needs, if lacks_go { GO } else { &[] });
    if needs.contains(&Need::Build) && !machine.has_linker() {
        steps.push(linker());
    }
    if lacks_go {
        steps.push(go());
    }
    if needs.contains(&Need::Check) {
        steps.extend(components(machine, compiler));
    }
    let mounts = mounts(machine);
    if needs.contains(&Need::Load) && !mounts.contains(&(BPFFS.to_owned(), "bpf".to_owned())) {
        let run = Run::new("mount").args(["-t", "bpf", "bpf", BPFFS]);
        steps.push(Step { reason: "programs and maps are pinned in a bpf file system".into(), run, as_root: true });
    }
    if needs.contains(&Need::Cluster) && !mounts.iter().any(|(_, kind)| kind == "cgroup2") {
        // Beside the hierarchies of version 1 where there are some, as systemd does it.
        let beside = mounts.iter().any(|(place, _)| place == CGROUPS);
        let place = if beside { format!("{CGROUPS}/unified") } else { CGROUPS.to_owned() };
        let run = Run::new("mount").args(["-t", "cgroup2", "-o", "X-mount.mkdir", "cgroup2"]).arg(place);
        steps.push(Step { reason: "a test cluster's processes are ended by cgroup2".into(), run, as_root: true });
    }
    steps
}

fn packages(machine: &Machine, compiler: Option<BpfCompiler>, needs: &[Need], more: &[Tool]) -> Vec<Step> {
    let debian = if compiler == Some(BpfCompiler::Nightly) { &[] } else { COMPILER };
    // Without a usable compiler each of its packages is asked for: apt tells which of them are too old.
    let missing = |tool: &&Tool| !has(machine, tool) || (compiler.is_none() && is_compiler(tool));
    let missing: Vec<&Tool> =
        TOOLS.iter().chain(debian).chain(more).filter(|tool| needs.contains(&tool.need)).filter(missing).collect();
    if missing.is_empty() {
        return Vec::new();
    }
    let reasons: Vec<String> = missing.iter().map(|tool| format!("{}: {}", tool.package, tool.reason)).collect();
    // A fresh machine has no package lists, and an old one has lists of packages that are gone.
    let update = Run::new("apt-get").arg("update");
    let install = Run::new("apt-get")
        .env("DEBIAN_FRONTEND", "noninteractive")
        .args(["install", "--yes", "--no-install-recommends"])
        .args(missing.iter().map(|tool| tool.package));
    vec![
        Step { reason: "package lists".into(), run: update, as_root: true },
        Step { reason: reasons.join("\n  "), run: install, as_root: true },
    ]
}

fn is_compiler(tool: &Tool) -> bool {
    COMPILER.iter().any(|other| other.package == tool.package)
}

fn has(machine: &Machine, tool: &Tool) -> bool {
    match tool.sign {
        Sign::File(path) => machine.below_root(path).exists(),
        Sign::Program(name) => {
            let administrators = ["/usr/sbin", "/sbin"].map(|directory| machine.below_root(directory));
            machine.program(name).is_some()
                || administrators.iter().any(|directory| find_program(directory.as_os_str(), name).is_some())
        }
    }
}

fn linker() -> Step {
    let run = Run::new("cargo")
        .own_target()
        // Its build script searches elsewhere than where Debian puts LLVM.
        .env("LLVM_PREFIX", Path::new("/usr/lib").join(format!("llvm-{LLVM_MAJOR}")))
        .args(["install", "bpf-linker", "--version", "^0.13", "--locked", "--force", "--no-default-features", "--features"])
        .arg(format!("llvm-{LLVM_MAJOR}"));
    Step { reason: "bpf-linker: links the bpf programs and writes their BTF".into(), run, as_root: false }
}

fn go() -> Step {
    let run = Run::new("python3").args(["-m", "pip", "install", "--upgrade", "--target", go::CACHE, go::PACKAGE]);
    Step { reason: "Go: compiles the programs of the test cluster".into(), run, as_root: true }
}

fn components(machine: &Machine, compiler: Option<BpfCompiler>) -> Vec<Step> {
    let mut steps = Vec::new();
    let missing: Vec<&str> = [("rustfmt", "fmt"), ("clippy", "clippy")]
        .into_iter()
        .filter(|(_, subcommand)| !machine.has_component(None, subcommand))
        .map(|(component, _)| component)
        .collect();
    if !missing.is_empty() {
        let run = Run::new("rustup").args(["component", "add"]).args(missing);
        steps.push(Step { reason: "formatting and lints of user space".into(), run, as_root: false });
    }
    if compiler == Some(BpfCompiler::Nightly) && !machine.has_component(Some("nightly"), "clippy") {
        let run = Run::new("rustup").args(["component", "add", "clippy", "--toolchain", "nightly"]);
        steps.push(Step { reason: "lints of the bpf programs".into(), run, as_root: false });
    }
    steps
}

/// Place and kind of each file system that is mounted.
fn mounts(machine: &Machine) -> Vec<(String, String)> {
    let mounts = std::fs::read_to_string(machine.below_root("/proc/mounts")).unwrap_or_default();
    let words = mounts.lines().map(|line| line.split(' ').skip(1));
    words.filter_map(|mut words| Some((words.next()?.to_owned(), words.next()?.to_owned()))).collect()
}
