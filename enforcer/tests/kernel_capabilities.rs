//! How few rights are enough: `CAP_BPF`, `CAP_NET_ADMIN`, and `CAP_PERFMON` to load the programs. Never `CAP_SYS_ADMIN`.

#![allow(clippy::unwrap_used, reason = "part of tests, though the lint cannot tell")]

mod kernel_support;

use std::process::Command;

use enforcer::kernel::{Kernel, KernelConfig, KernelError, status};
use enforcer_common::image::Cell;
use kernel_support::{A, ISOLATED, Rig, TestImage, apply, chain, flush, with_rig};

/// Names the pin directory to the child.
const CHILD: &str = "ENFORCER_TEST_PIN_DIR";

/// Not a test of its own: what the others run with few rights.
#[test]
fn child() {
    let Some(pin_dir) = std::env::var_os(CHILD) else { return };
    let config = KernelConfig {
        pin_dir: pin_dir.into(),
        flows: 4096,
        flow_quota: 1024,
        icmp_error_bytes: 1280,
        judge_services: false,
        object: None,
    };
    let deny = TestImage::new(Cell::Deny);
    for _ in 0..2 {
        let mut kernel = Kernel::open(&config).unwrap_or_else(|error| panic!("{}", chain(&error)));
        let _ = apply(&mut kernel, &deny.plan(ISOLATED));
        kernel.detach(A).unwrap();
        kernel.attach_unknown(A).unwrap();
        kernel.sweep().unwrap();
        flush(&mut kernel.denials().unwrap());
        assert_eq!(kernel.verify().unwrap(), []);
        status::read(&config.pin_dir).unwrap();
    }
}

/// Runs the child with some capabilities; gives what it prints if it fails.
fn run(rig: &Rig, capabilities: &str) -> Result<(), String> {
    let output = Command::new("setpriv")
        .arg(format!("--bounding-set=-all,{capabilities}"))
        .arg(format!("--inh-caps=-all,{capabilities}"))
        .arg(std::env::current_exe().unwrap())
        .args(["--exact", "child", "--nocapture"])
        .env(CHILD, &rig.config.pin_dir)
        .output()
        .unwrap();
    if output.status.success() { Ok(()) } else { Err(String::from_utf8_lossy(&output.stderr).into_owned()) }
}

#[test]
fn a_first_start_needs_three_capabilities_and_the_next_two() {
    with_rig(|rig| {
        run(rig, "+bpf,+net_admin,+perfmon").unwrap();
        assert_eq!(rig.arrive(80, 2), 0);
        run(rig, "+bpf,+net_admin").unwrap();
        assert_eq!(rig.arrive(80, 2), 0);
    });
}

#[test]
fn a_missing_capability_is_named() {
    with_rig(|rig| {
        let missing = KernelError::MissingCapabilities { missing: vec!["CAP_NET_ADMIN"] };
        let error = run(rig, "+bpf").unwrap_err();
        assert!(error.contains(&missing.to_string()), "{error}");
        assert!(!rig.config.pin_dir.exists(), "nothing was made");
    });
}
