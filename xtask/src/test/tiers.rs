//! Which test file stands in which tier: the one table. Input: the files that are there. Output: the suites of a tier, or
//! an error where table and files disagree, so that no test is left out in silence.

use std::{collections::BTreeMap, fs, path::Path};

use anyhow::{Context, Result, bail};

/// What a tier needs and proves.
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub(crate) enum Tier {
    /// No privilege, no bpf toolchain.
    Zero,
    /// The loaded programs on packets of our making.
    One,
    /// Real traffic: namespaces, containers, the daemon.
    Two,
    /// A real Kubernetes cluster.
    Three,
}

impl Tier {
    /// What `cargo xtask test` runs, in this order.
    pub(crate) const ALL: [Self; 4] = [Self::Zero, Self::One, Self::Two, Self::Three];

    pub(crate) fn number(self) -> u8 {
        match self {
            Self::Zero => 0,
            Self::One => 1,
            Self::Two => 2,
            Self::Three => 3,
        }
    }

    pub(crate) fn is_privileged(self) -> bool {
        self != Self::Zero
    }
}

/// Test files, by package, that are listed one by one.
const TABLE: &[(&str, &str, Tier)] = &[
    ("enforcer-tests", "conformance", Tier::Zero),
    ("enforcer-tests", "datapath", Tier::Zero),
    ("enforcer-tests", "documents", Tier::Zero),
    ("enforcer-tests", "golden", Tier::Zero),
    ("enforcer-tests", "oracle", Tier::Zero),
    ("enforcer-tests", "bytecode", Tier::One),
    ("enforcer", "kernel_capabilities", Tier::Two),
    ("enforcer", "kernel_grace", Tier::Two),
    ("enforcer", "kernel_kill", Tier::Two),
    ("enforcer", "kernel_layouts", Tier::Two),
    ("enforcer", "kernel_lifecycle", Tier::Two),
    ("enforcer", "kernel_tables", Tier::Two),
    ("enforcer", "kernel_traffic", Tier::Two),
    ("enforcer", "lab", Tier::Two),
    ("enforcer", "workload_netlink", Tier::Two),
    ("enforcer", "workload_podman", Tier::Two),
    ("enforcer-tests", "netns", Tier::Two),
    ("enforcer-tests", "lifecycle", Tier::Two),
    ("enforcer-tests", "podman", Tier::Two),
    ("enforcer-tests", "docker", Tier::Two),
    ("enforcer-tests", "demo", Tier::Two),
    ("enforcer-tests", "readme", Tier::Two),
    ("enforcer-tests", "cluster_pods", Tier::Three),
    ("xtask", "cluster", Tier::Three),
    ("enforcer-tests", "cluster_definitions", Tier::Three),
    ("enforcer-tests", "cluster_policies", Tier::Three),
    ("enforcer-tests", "cluster_services", Tier::Three),
];

/// Every package with its directory, and the tier of a test file that the table does not list. The tests crate has none
/// to fall back on: a new file there must be given its tier.
const PACKAGES: &[(&str, &str, Option<Tier>)] = &[
    ("enforcer", "enforcer", Some(Tier::Zero)),
    ("enforcer-common", "enforcer-common", Some(Tier::Zero)),
    ("enforcer-tests", "tests", None),
    ("xtask", "xtask", Some(Tier::Zero)),
];

/// One tier's test files, as cargo names them.
#[derive(Debug, Default, Eq, PartialEq)]
pub(crate) struct Suites {
    /// Package and test, in the order of the table; what is not listed follows.
    pub(crate) tests: Vec<(String, String)>,
}

impl Suites {
    /// Packages with tests here, each once.
    pub(crate) fn packages(&self) -> Vec<&str> {
        let mut packages: Vec<&str> = self.tests.iter().map(|(package, _)| package.as_str()).collect();
        packages.sort_unstable();
        packages.dedup();
        packages
    }
}

/// Packages whose unit tests stand in tier 0.
pub(crate) fn unit_test_packages() -> impl Iterator<Item = &'static str> {
    PACKAGES.iter().map(|(package, _, _)| *package)
}

/// The test files of each tier. Fails for a file of no tier, and for a listed file of `tiers` that is not there.
pub(crate) fn suites(root: &Path, tiers: &[Tier]) -> Result<BTreeMap<Tier, Suites>> {
    let mut complaints = Vec::new();
    let mut found: BTreeMap<Tier, Suites> = tiers.iter().map(|tier| (*tier, Suites::default())).collect();
    let mut add = |tier: Tier, package: &str, test: &str| {
        if let Some(suites) = found.get_mut(&tier) {
            suites.tests.push((package.to_owned(), test.to_owned()));
        }
    };
    let mut present: BTreeMap<&str, Vec<String>> = BTreeMap::new();
    for (package, directory, _) in PACKAGES {
        present.insert(package, test_files(&root.join(directory).join("tests"))?);
    }
    for (package, test, tier) in TABLE {
        let there = present.get(package).is_some_and(|tests| tests.iter().any(|name| name == test));
        if there {
            add(*tier, package, test);
        } else if tiers.contains(tier) {
            complaints.push(format!("tier {} lists {package}'s test {test}, which is not there", tier.number()));
        }
    }
    for (package, _, fallback) in PACKAGES {
        for test in present.get(package).into_iter().flatten().filter(|test| !is_listed(package, test)) {
            match fallback {
                Some(tier) => add(*tier, package, test),
                None => complaints.push(format!("{package}'s test {test} stands in no tier")),
            }
        }
    }
    // cargo picks tests by name alone.
    let names: Vec<&String> = present.values().flatten().collect();
    for (package, tests) in &present {
        for test in tests.iter().filter(|test| names.iter().filter(|name| *name == test).count() > 1) {
            complaints.push(format!("{package}'s test {test} has a namesake in another package"));
        }
    }
    if !complaints.is_empty() {
        bail!("xtask/src/test/tiers.rs and the test files disagree:\n  {}", complaints.join("\n  "));
    }
    Ok(found)
}

fn is_listed(package: &str, test: &str) -> bool {
    TABLE.iter().any(|(other, name, _)| *other == package && *name == test)
}

/// What cargo takes for tests: `NAME.rs` and `NAME/main.rs`. A directory that is missing has none.
fn test_files(directory: &Path) -> Result<Vec<String>> {
    let mut names = Vec::new();
    if !directory.exists() {
        return Ok(names);
    }
    for entry in fs::read_dir(directory).with_context(|| format!("cannot read {}", directory.display()))? {
        let path = entry?.path();
        let is_test = path.extension().is_some_and(|extension| extension == "rs") || path.join("main.rs").exists();
        if let (true, Some(stem)) = (is_test, path.file_stem()) {
            names.push(stem.to_string_lossy().into_owned());
        }
    }
    names.sort();
    Ok(names)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn workspace() -> tempfile::TempDir {
        let root = tempfile::tempdir().unwrap();
        for (package, test, _) in TABLE {
            file(&root, package, test);
        }
        root
    }

    fn file(root: &tempfile::TempDir, package: &str, test: &str) {
        let (_, directory, _) = PACKAGES.iter().find(|(name, _, _)| *name == package).unwrap();
        let directory = root.path().join(directory).join("tests");
        fs::create_dir_all(&directory).unwrap();
        fs::write(directory.join(format!("{test}.rs")), "").unwrap();
    }

    #[test]
    fn every_listed_file_runs_in_its_tier_and_in_no_other() {
        let root = workspace();
        let suites = suites(root.path(), &Tier::ALL).unwrap();
        for (package, test, tier) in TABLE {
            for (other, suites) in &suites {
                let entry = ((*package).to_owned(), (*test).to_owned());
                assert_eq!(suites.tests.contains(&entry), other == tier, "{test} in {other:?}");
            }
        }
    }

    #[test]
    fn a_listed_file_that_is_missing_fails_its_tier_alone() {
        let root = workspace();
        fs::remove_file(root.path().join("tests/tests/bytecode.rs")).unwrap();
        let error = suites(root.path(), &[Tier::One]).unwrap_err().to_string();
        assert!(error.contains("tier 1 lists enforcer-tests's test bytecode, which is not there"), "{error}");
        suites(root.path(), &[Tier::Zero]).unwrap();
    }

    #[test]
    fn a_file_of_no_tier_fails_every_tier() {
        let root = workspace();
        file(&root, "enforcer-tests", "forgotten");
        for tier in Tier::ALL {
            let error = suites(root.path(), &[tier]).unwrap_err().to_string();
            assert!(error.contains("enforcer-tests's test forgotten stands in no tier"), "{error}");
        }
    }

    #[test]
    fn other_packages_tests_need_no_privilege_unless_listed() {
        let root = workspace();
        file(&root, "enforcer", "validate");
        let suites = suites(root.path(), &Tier::ALL).unwrap();
        let entry = ("enforcer".to_owned(), "validate".to_owned());
        assert!(suites[&Tier::Zero].tests.contains(&entry));
        assert!(!suites[&Tier::Two].tests.contains(&entry));
    }

    #[test]
    fn two_tests_of_one_name_are_refused() {
        let root = workspace();
        file(&root, "enforcer", "netns");
        assert!(suites(root.path(), &[Tier::Zero]).unwrap_err().to_string().contains("namesake"));
    }

    #[test]
    fn a_test_in_a_directory_counts() {
        let root = workspace();
        let directory = root.path().join("tests/tests/forgotten");
        fs::create_dir_all(&directory).unwrap();
        fs::write(directory.join("main.rs"), "").unwrap();
        assert!(suites(root.path(), &[Tier::Zero]).is_err());
    }
}
