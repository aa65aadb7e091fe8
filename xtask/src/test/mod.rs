//! `cargo xtask test`. Input: the tiers asked for. Output: cargo's own test output. A tier that cannot run here fails;
//! only `ENFORCER_SKIP_PRIV=1` skips the privileged ones, and says so.

mod beside;
mod tiers;

use std::{collections::BTreeMap, ffi::OsStr};

use anyhow::{Context, Result, bail};

use crate::{
    build_ebpf, cluster, kernel,
    kernel::Kernel,
    run::Run,
    setup::{self, tools::Need},
    test::{
        beside::Beside,
        tiers::{Suites, Tier, suites, unit_test_packages},
    },
    workspace::Workspace,
};

/// Set to 1 by a person without root; never by CI.
const SKIP: &str = "ENFORCER_SKIP_PRIV";

/// The test file of tier 2 that takes the most time.
const LARGEST: &str = "lifecycle";
/// Test files whose tests wait more than they work, and of which each test has namespaces of its own: two run side by side.
const BY_TWO: [&str; 1] = [LARGEST];
/// Modules of the largest whose tests run alone: they measure time, or count packets while a machine is busy.
const ALONE: [&str; 10] = [
    "bulk::",
    "flood::",
    "half_open::",
    "kills::",
    "opening::",
    "policy_change::",
    "restart::",
    "room::",
    "vouchers::",
    "writers::",
];

/// Tests that run in one call of cargo.
struct Call {
    run: Run,
    /// Nothing else may run beside it.
    is_alone: bool,
}

/// Runs one tier, or all in order.
pub(crate) fn run(workspace: &Workspace, tier: Option<u8>) -> Result<()> {
    let asked: Vec<Tier> = Tier::ALL.into_iter().filter(|each| tier.is_none_or(|tier| tier == each.number())).collect();
    // Table and files are compared for a skipped tier too.
    let mut suites = suites(workspace.root(), &asked)?;
    if skips(std::env::var_os(SKIP).as_deref()) {
        suites.retain(|tier, _| !tier.is_privileged());
        for tier in asked.iter().filter(|tier| tier.is_privileged()) {
            println!("SKIPPED tier {}: {SKIP}=1", tier.number());
        }
    }
    if suites.keys().any(|tier| tier.is_privileged()) {
        prepare(workspace, &suites.keys().copied().collect::<Vec<_>>())?;
    }
    all(workspace, &suites)
}

fn skips(value: Option<&OsStr>) -> bool {
    value == Some(OsStr::new("1"))
}

/// What the privileged tiers need. It comes before tier 0, since a new object means that `enforcer` is built anew.
fn prepare(workspace: &Workspace, tiers: &[Tier]) -> Result<()> {
    require(kernel::is_root(), Kernel::running()?)?;
    setup::ensure_needs(workspace, &needs(tiers))?;
    build_ebpf::run(workspace)?;
    // The tests start the daemon, and cargo builds no binary of another package for them.
    Run::new("cargo").args(["build", "--locked", "--package", "enforcer"]).directory(workspace.root()).status()
}

/// What `setup` installs for these tiers. Everything is installed before the first test, so that a package that cannot be
/// had is told at once.
fn needs(tiers: &[Tier]) -> Vec<Need> {
    let mut needs = vec![Need::Build, Need::Load, Need::Test];
    if tiers.contains(&Tier::Three) {
        needs.push(Need::Cluster);
    }
    needs
}

fn require(root: bool, kernel: Kernel) -> Result<()> {
    if !root {
        bail!(
            "tiers 1 to 3 need root; run `cargo xtask test` as root, run `cargo xtask test --tier 0` for tier 0 alone, \
             or set {SKIP}=1 to skip them"
        );
    }
    if !kernel.can_enforce() {
        bail!("{kernel}; run `cargo xtask test --tier 0` on this machine");
    }
    Ok(())
}

/// Runs every tier even after one failed, so that one run shows everything.
fn all(workspace: &Workspace, suites: &BTreeMap<Tier, Suites>) -> Result<()> {
    let (mut failed, mut compiling) = (Vec::new(), None);
    let has_clusters = suites.contains_key(&Tier::Three);
    for (tier, suites) in suites {
        println!("tier {}", tier.number());
        // Where nothing is cached it takes minutes of both processors, and these tests leave much of them. Tier 0 does not.
        if *tier == Tier::Two && has_clusters {
            compiling = compile(workspace).inspect_err(|error| println!("later, since {error:#}")).ok();
        }
        if *tier == Tier::Three {
            let _ = compiling.take().map(Beside::end);
            // What has failed above fails again here, in sight.
            if let Err(error) = cluster::build(workspace) {
                failed.push(format!("tier 3: none of its tests ran, for want of the cluster's programs: {error:#}"));
                continue;
            }
        }
        for Call { run, is_alone } in calls(workspace, *tier, suites) {
            if is_alone {
                let _ = compiling.take().map(Beside::end);
            }
            if let Err(error) = run.status() {
                failed.push(format!("tier {}: {error:#}", tier.number()));
            }
        }
    }
    if !failed.is_empty() {
        bail!("tests failed:\n  {}", failed.join("\n  "));
    }
    Ok(())
}

/// Compiles what clusters consist of, beside the tests.
fn compile(workspace: &Workspace) -> Result<Beside> {
    let own = std::env::current_exe().context("this program has no path")?;
    Beside::start(&[&own.to_string_lossy(), "cluster", "build"], &workspace.target().join("cluster-build.log"))
}

fn calls(workspace: &Workspace, tier: Tier, suites: &Suites) -> Vec<Call> {
    let cargo = || Run::new("cargo").args(["test", "--locked", "--no-fail-fast"]).directory(workspace.root());
    let of = |packages: Vec<&str>| {
        packages.into_iter().flat_map(|name| ["--package".to_owned(), name.to_owned()]).collect::<Vec<_>>()
    };
    let named =
        |tests: &[&str]| tests.iter().flat_map(|test| ["--test".to_owned(), (*test).to_owned()]).collect::<Vec<_>>();
    let all: Vec<&str> = suites.tests.iter().map(|(_, test)| test.as_str()).collect();
    let beside_others = |run: Run| Call { run, is_alone: false };
    match tier {
        Tier::Zero => vec![
            beside_others(cargo().args(of(vec!["enforcer", "enforcer-common"])).arg("--doc")),
            beside_others(cargo().args(of(unit_test_packages().collect())).args(["--lib", "--bins"]).args(named(&all))),
        ],
        Tier::One => vec![beside_others(cargo().args(of(suites.packages())).args(named(&all)))],
        Tier::Two | Tier::Three => {
            // All with the same packages: for others cargo would build with other features.
            let tests = |tests: &[&str], threads: &str| {
                cargo().args(of(suites.packages())).args(named(tests)).args(["--", threads])
            };
            let (by_two, singly): (Vec<&str>, Vec<&str>) = all.iter().partition(|test| BY_TWO.contains(test));
            let mut calls = Vec::new();
            // One at a time: they share the kernel and two or three processors, a cluster takes all while it starts, and some
            // tests measure time.
            if !singly.is_empty() {
                calls.push(beside_others(tests(&singly, "--test-threads=1")));
            }
            if !by_two.is_empty() {
                let run = tests(&by_two, "--test-threads=2");
                let skipped = ALONE.iter().flat_map(|module| ["--skip", module]);
                let has_alone = by_two.contains(&LARGEST);
                calls.push(beside_others(if has_alone { run.args(skipped) } else { run }));
                if has_alone {
                    calls.push(Call { run: tests(&[LARGEST], "--test-threads=1").args(ALONE), is_alone: true });
                }
            }
            calls
        }
    }
}

/// The tier of `--tier`.
pub(crate) fn parse_tier(text: &str) -> Result<u8> {
    let known = Tier::ALL.iter().map(|tier| tier.number());
    known.into_iter().find(|number| number.to_string() == text).context("the tiers are 0, 1, 2 and 3")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn kernel(release: &str) -> Kernel {
        Kernel::parse(release).unwrap()
    }

    #[test]
    fn a_privileged_tier_that_cannot_run_fails_and_says_why() {
        assert!(require(false, kernel("6.18.0")).unwrap_err().to_string().contains("need root"));
        assert!(require(true, kernel("6.1.0")).unwrap_err().to_string().contains("need 6.6"));
        require(true, kernel("6.6.0")).unwrap();
    }

    #[test]
    fn only_the_value_1_skips() {
        for (value, skipped) in
            [(None, false), (Some(""), false), (Some("0"), false), (Some("true"), false), (Some("1"), true)]
        {
            assert_eq!(skips(value.map(OsStr::new)), skipped, "{value:?}");
        }
    }

    #[test]
    fn each_tier_names_its_tests() {
        let workspace = Workspace::at("/w", "/w/target");
        let suites = Suites { tests: vec![("enforcer".into(), "a".into()), ("enforcer-tests".into(), "b".into())] };
        let lines = |tier| calls(&workspace, tier, &suites).iter().map(|call| call.run.line()).collect::<Vec<_>>();
        assert_eq!(
            lines(Tier::One),
            ["cargo test --locked --no-fail-fast --package enforcer --package enforcer-tests --test a --test b"]
        );
        assert_eq!(lines(Tier::Two).len(), 1, "nothing runs by two or alone: {:#?}", lines(Tier::Two));
        assert!(lines(Tier::Two)[0].ends_with("--test a --test b -- --test-threads=1"));
        let suites = Suites { tests: ["a", LARGEST].map(|test| ("p".into(), test.into())).into() };
        let two = calls(&workspace, Tier::Two, &suites);
        assert_eq!(two.iter().map(|call| call.is_alone).collect::<Vec<_>>(), [false, false, true]);
        let two: Vec<String> = two.iter().map(|call| call.run.line()).collect();
        assert!(two[0].ends_with("--package p --test a -- --test-threads=1"), "{two:#?}");
        // What one call leaves out is what the other runs.
        assert!(two[1].contains("--test lifecycle -- --test-threads=2 --skip bulk:: --skip"), "{two:#?}");
        assert!(two[2].contains("--package p --test lifecycle -- --test-threads=1 bulk:: flood::"), "{two:#?}");
        assert_eq!(two[1].matches("--skip").count(), ALONE.len());
        assert!(lines(Tier::Three)[0].ends_with("--test a --test b -- --test-threads=1"), "{:#?}", lines(Tier::Three));
        let zero = lines(Tier::Zero);
        assert!(
            zero[0].ends_with("--doc") && zero[1].ends_with("--package xtask --lib --bins --test a --test b"),
            "{zero:#?}"
        );
    }

    #[test]
    fn an_unknown_tier_is_refused() {
        assert_eq!(parse_tier("3").unwrap(), 3);
        for text in ["4", "-1", "03", "three"] {
            assert!(parse_tier(text).is_err(), "{text}");
        }
    }

    #[test]
    fn a_run_of_everything_includes_the_cluster_and_what_it_needs() {
        assert_eq!(Tier::ALL.last(), Some(&Tier::Three));
        assert!(needs(&Tier::ALL).contains(&Need::Cluster));
        assert!(!needs(&[Tier::Zero, Tier::One, Tier::Two]).contains(&Need::Cluster));
    }
}
