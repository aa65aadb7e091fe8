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
        beside::{Beside, idle},
        tiers::{Suites, Tier, suites, unit_test_packages},
    },
    workspace::Workspace,
};

/// Set to 1 by a person without root; never by CI.
const SKIP: &str = "ENFORCER_SKIP_PRIV";

/// The test file of tier 2 that takes the most time. Its tests wait more than they work, and each has namespaces of its own: two
/// run side by side.
const LARGEST: &str = "lifecycle";
/// Test files that wait for containers and clusters most of the time, and run beside all others of their tier.
const BESIDE: [&str; 6] = ["workload_podman", "podman", "docker", "demo", "readme", "cluster"];
/// Modules of the largest whose tests measure time: two run side by side, with nothing else.
const MEASURED: [&str; 6] = ["opening::", "policy_change::", "restart::", "room::", "vouchers::", "writers::"];
/// Modules of the largest whose tests run alone: they count packets while a machine is busy.
const ALONE: [&str; 4] = ["bulk::", "flood::", "half_open::", "kills::"];

/// Calls of cargo that run beside each other: the first in sight, what the others say follows at their end.
struct Round {
    runs: Vec<Run>,
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
    let mut compiling = None;
    if suites.keys().any(|tier| tier.is_privileged()) {
        compiling = prepare(workspace, &suites.keys().copied().collect::<Vec<_>>())?;
    }
    all(workspace, &suites, compiling)
}

fn skips(value: Option<&OsStr>) -> bool {
    value == Some(OsStr::new("1"))
}

/// What the privileged tiers need. It comes before tier 0, since a new object means that `enforcer` is built anew. Returns what
/// goes on beside the tests.
fn prepare(workspace: &Workspace, tiers: &[Tier]) -> Result<Option<Beside>> {
    require(kernel::is_root(), Kernel::running()?)?;
    setup::ensure_needs(workspace, &needs(tiers))?;
    // Where nothing is cached it takes minutes of both processors, and all that comes before tier 3 leaves some of them.
    let compiling = tiers.contains(&Tier::Three).then(|| compile(workspace));
    build_ebpf::run(workspace)?;
    // All at once: what cargo compiles one by one leaves a processor idle. The daemon that tests start is among it.
    tests_of(workspace, unit_test_packages()).args(["--no-run", "--lib", "--bins", "--tests"]).status()?;
    compiling.transpose()
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
fn all(workspace: &Workspace, suites: &BTreeMap<Tier, Suites>, mut compiling: Option<Beside>) -> Result<()> {
    let mut failed = Vec::new();
    for (tier, suites) in suites {
        println!("tier {}", tier.number());
        let mut compiled = || compiling.take().map(|mut compiling| compiling.end());
        if *tier == Tier::Three {
            let _ = compiled();
            // What has failed above fails again here, in sight.
            if let Err(error) = cluster::build(workspace) {
                failed.push(format!("tier 3: none of its tests ran, for want of the cluster's programs: {error:#}"));
                continue;
            }
        }
        for round in rounds(workspace, *tier, suites) {
            if round.is_alone {
                let _ = compiled();
            }
            let errors = together(workspace, round.runs).into_iter().filter_map(Result::err);
            failed.extend(errors.map(|error| format!("tier {}: {error:#}", tier.number())));
        }
    }
    if !failed.is_empty() {
        bail!("tests failed:\n  {}", failed.join("\n  "));
    }
    Ok(())
}

/// Runs the calls of a round, and shows what all of them say.
fn together(workspace: &Workspace, runs: Vec<Run>) -> Vec<Result<()>> {
    let mut runs = runs.into_iter();
    let first = runs.next();
    let beside: Vec<Result<Beside>> = (1..)
        .zip(runs)
        .map(|(number, run)| Beside::start(run, &workspace.target().join(format!("tests-beside-{number}.log"))))
        .collect();
    let mut results: Vec<Result<()>> = first.map(Run::status).into_iter().collect();
    results.extend(beside.into_iter().map(|beside| {
        let mut beside = beside?;
        let ended = beside.end();
        print!("{}", beside.said()?);
        ended
    }));
    results
}

/// Compiles what clusters consist of, beside the tests.
fn compile(workspace: &Workspace) -> Result<Beside> {
    let own = std::env::current_exe().context("this program has no path")?;
    let run = idle(&own.to_string_lossy()).args(["cluster", "build"]);
    Beside::start(run, &workspace.target().join("cluster-build.log"))
}

fn tests_of<'a>(workspace: &Workspace, packages: impl IntoIterator<Item = &'a str>) -> Run {
    let packages = packages.into_iter().flat_map(|name| ["--package", name]);
    Run::new("cargo").args(["test", "--locked", "--no-fail-fast"]).args(packages).directory(workspace.root())
}

fn rounds(workspace: &Workspace, tier: Tier, suites: &Suites) -> Vec<Round> {
    let named =
        |tests: &[&str]| tests.iter().flat_map(|test| ["--test".to_owned(), (*test).to_owned()]).collect::<Vec<_>>();
    let all: Vec<&str> = suites.tests.iter().map(|(_, test)| test.as_str()).collect();
    let round = |runs: Vec<Run>| Round { runs, is_alone: false };
    match tier {
        Tier::Zero => vec![
            round(vec![tests_of(workspace, ["enforcer", "enforcer-common"]).arg("--doc")]),
            round(vec![tests_of(workspace, unit_test_packages()).args(["--lib", "--bins"]).args(named(&all))]),
        ],
        Tier::One => vec![round(vec![tests_of(workspace, suites.packages()).args(named(&all))])],
        Tier::Two | Tier::Three => {
            let tests = |tests: &[&str], threads: &str| {
                tests_of(workspace, suites.packages()).args(named(tests)).args(["--", threads])
            };
            let has_largest = all.contains(&LARGEST);
            let (beside, others): (Vec<&str>, Vec<&str>) =
                all.iter().filter(|test| **test != LARGEST).partition(|test| BESIDE.contains(test));
            let mut runs = Vec::new();
            if has_largest {
                let skipped = MEASURED.iter().chain(&ALONE).flat_map(|module| ["--skip", module]);
                runs.push(tests(&[LARGEST], "--test-threads=2").args(skipped));
            }
            let lanes = [others, beside].into_iter().filter(|lane| !lane.is_empty());
            runs.extend(lanes.map(|lane| tests(&lane, "--test-threads=1")));
            let mut rounds = vec![round(runs)];
            if has_largest {
                let later = [
                    tests(&[LARGEST], "--test-threads=2").args(MEASURED),
                    tests(&[LARGEST], "--test-threads=1").args(ALONE),
                ];
                rounds.extend(later.map(|run| Round { runs: vec![run], is_alone: true }));
            }
            rounds
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
    use std::path::Path;

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
        let lines = |tier, tests: &[&str]| -> Vec<Vec<String>> {
            let suites = Suites { tests: tests.iter().map(|test| ("p".into(), (*test).into())).collect() };
            let rounds = rounds(&workspace, tier, &suites);
            assert!(rounds.iter().all(|round| !round.is_alone || round.runs.len() == 1));
            rounds.iter().map(|round| round.runs.iter().map(Run::line).collect()).collect()
        };
        assert_eq!(
            lines(Tier::One, &["a", "b"]),
            [["cargo test --locked --no-fail-fast --package p --test a --test b"]]
        );
        let one = lines(Tier::Two, &["a", "b"]);
        assert!(one.len() == 1 && one[0].len() == 1, "nothing runs by two, alone or beside others: {one:#?}");
        assert!(one[0][0].ends_with("--test a --test b -- --test-threads=1"));
        let two = lines(Tier::Two, &["a", LARGEST, "podman", "b"]);
        assert_eq!(two.iter().map(Vec::len).collect::<Vec<_>>(), [3, 1, 1], "{two:#?}");
        assert!(two[0][1].ends_with("--package p --test a --test b -- --test-threads=1"), "{two:#?}");
        assert!(two[0][2].ends_with("--package p --test podman -- --test-threads=1"), "{two:#?}");
        // What one call leaves out is what the other runs.
        assert!(two[0][0].contains("--test lifecycle -- --test-threads=2 --skip opening:: --skip"), "{two:#?}");
        assert!(two[1][0].contains("--test lifecycle -- --test-threads=2 opening:: policy_change::"), "{two:#?}");
        assert!(two[2][0].contains("--package p --test lifecycle -- --test-threads=1 bulk:: flood::"), "{two:#?}");
        assert_eq!(two[0][0].matches("--skip").count(), MEASURED.len() + ALONE.len());
        let three = lines(Tier::Three, &["cluster_pods", "cluster", "b"]);
        assert!(three[0][0].ends_with("--test cluster_pods --test b -- --test-threads=1"), "{three:#?}");
        assert!(three[0][1].ends_with("--test cluster -- --test-threads=1"), "{three:#?}");
        let zero = lines(Tier::Zero, &["a", "b"]);
        assert!(
            zero[0][0].ends_with("--doc") && zero[1][0].ends_with("--package xtask --lib --bins --test a --test b"),
            "{zero:#?}"
        );
    }

    #[test]
    fn who_runs_beside_others_is_there_and_fails_the_whole() {
        let place = tempfile::tempdir().unwrap();
        let here = place.path().to_str().unwrap();
        let workspace = Workspace::at(here, here);
        let run = |script: &str| Run::new("sh").args(["-c", script]);
        let (met, waits) = (place.path().join("met"), place.path().join("waits"));
        // Each waits for the other, so they end only if they run at one time.
        let meet = |own: &Path, other: &Path, then: &str| {
            let wait =
                format!("for i in $(seq 200); do test -e {0} && break; sleep 0.1; done; test -e {0}", other.display());
            run(&format!("touch {}; {wait} || exit 9; {then}", own.display()))
        };
        let results = together(&workspace, vec![meet(&met, &waits, "exit 0"), meet(&waits, &met, "exit 3")]);
        let errors: Vec<String> =
            results.into_iter().filter_map(Result::err).map(|error| format!("{error:#}")).collect();
        assert!(errors.len() == 1 && errors[0].starts_with("exit status: 3: sh"), "{errors:#?}");
        // What cannot be started is told too, and the others run.
        let errors = together(&workspace, vec![run("exit 0"), Run::new("/nothing-is-here"), run("exit 4")]);
        assert_eq!(errors.iter().filter(|result| result.is_err()).count(), 2, "{errors:#?}");
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
