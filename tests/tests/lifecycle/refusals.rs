//! Cases in which the daemon does not start: its exit code, and a message that says what to do.

use std::fs;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Command, Stdio};

use enforcer::kernel::{Kernel, KernelConfig, KernelError};
use enforcer::lab::Layout;
use enforcer_tests::cases::Port;
use enforcer_tests::stage::Stage;

use super::common::{check, control, dropped, open, passes, stage};

/// The daemon ends with this code and says all of this.
fn refused(mut command: Command, code: i32, parts: &[&str]) {
    let output = command.stderr(Stdio::piped()).output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(code), "{said}");
    for part in parts {
        assert!(said.contains(part), "no `{part}` in {said}");
    }
}

fn one() -> Stage {
    let stage = stage(Layout::Bridged, &["a", "b"]);
    stage.policy("b.yaml", &open("b", "7000/tcp"));
    stage
}

#[test]
fn a_second_daemon() {
    let mut stage = one();
    stage.start();
    let pin_dir = stage.options.pin_dir.display().to_string();
    refused(stage.options.command(), 5, &["another enforcer is at work on", &pin_dir]);
    check(&stage, "the first one goes on", &[passes("a", "b", Port::Tcp(7000)), dropped("a", "b", Port::Tcp(7001))]);
    assert!(stage.view().daemon);
}

#[test]
fn the_right_to_load_is_given_up() {
    const PERFMON: u32 = 38;
    let mut stage = one();
    stage.start();
    let pid = stage.daemon().pid();
    let threads: Vec<_> =
        fs::read_dir(format!("/proc/{pid}/task")).unwrap().map(|thread| thread.unwrap().path()).collect();
    assert!(threads.len() > 1, "{threads:?}");
    for thread in threads {
        // A thread may have ended since.
        let Ok(status) = fs::read_to_string(thread.join("status")) else { continue };
        for set in ["CapInh:", "CapPrm:", "CapEff:", "CapAmb:"] {
            let line = status.lines().find_map(|line| line.strip_prefix(set)).expect(set);
            let mask = u64::from_str_radix(line.trim(), 16).unwrap();
            assert_eq!(mask >> PERFMON & 1, 0, "{set}{line} of {}", thread.display());
        }
    }
}

#[test]
fn not_root() {
    let mut stage = one();
    stage.start();
    stage.kill();
    for name in ["run", "status", "purge"] {
        let mut command = Command::new(enforcer_tests::daemon::binary());
        command.arg(name).arg("--pin-dir").arg(&stage.options.pin_dir).uid(65_534).gid(65_534);
        if name == "run" {
            command.arg("--policies").arg(&stage.options.policies).args(["--unknown", "strict"]);
        }
        let code = match name {
            "run" => 4,
            "status" => 2,
            _ => 1,
        };
        refused(command, code, &["CAP_BPF and CAP_NET_ADMIN are missing", "run as root"]);
    }
    check(&stage, "nothing has changed", &[passes("a", "b", Port::Tcp(7000)), dropped("a", "b", Port::Tcp(7001))]);
}

#[test]
fn no_bpf_file_system() {
    let mut stage = one();
    stage.options.pin_dir = stage.file("pins");
    refused(stage.options.command(), 4, &["is not on a bpf file system", "mount -t bpf"]);
}

#[test]
fn pins_of_others() {
    let stage = one();
    for (name, said) in [("abi-999", "holds pins of abi-999"), ("cilium", "is not the enforcer's")] {
        let foreign = stage.options.pin_dir.join(name);
        fs::create_dir_all(&foreign).unwrap();
        refused(stage.options.command(), 4, &[said]);
        fs::remove_dir(&foreign).unwrap();
    }
    control(&stage, &[passes("a", "b", Port::Tcp(7001))]);
}

#[test]
fn another_network_namespace() {
    let mut stage = one();
    stage.start();
    stage.kill();
    let mut options = stage.options.clone();
    options.netns = stage.lab.outside().path().to_owned();
    refused(options.command(), 4, &["enforces in another network namespace"]);
    check(&stage, "nothing has changed", &[passes("a", "b", Port::Tcp(7000)), dropped("a", "b", Port::Tcp(7001))]);
}

#[test]
fn a_build_without_programs() {
    let stage = one();
    let config = KernelConfig {
        pin_dir: stage.options.pin_dir.clone(),
        flows: 1024,
        flow_quota: 1024,
        icmp_error_bytes: 1280,
        judge_services: false,
        object: Some(Vec::new()),
    };
    let error = Kernel::open(&config).unwrap_err();
    assert!(matches!(error, KernelError::NoObject), "{error}");
    assert!(error.to_string().contains("cargo xtask setup"), "{error}");
    assert!(!stage.options.pin_dir.exists(), "nothing was made");
}

#[test]
fn wrong_usage() {
    let mut stage = one();
    stage.options.inventory = None;
    refused(stage.options.command(), 2, &["--unknown strict", "--unknown open"]);
    stage.settings("flow_qouta: 100\n");
    stage.options.unknown = Some("strict");
    refused(stage.options.command(), 2, &["flow_qouta"]);
    stage.settings("");
    stage.options.netns = Path::new("/run/netns/enf-none").to_owned();
    refused(stage.options.command(), 2, &["cannot open the network namespace /run/netns/enf-none"]);
}
