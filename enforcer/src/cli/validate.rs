//! `enforcer validate`: checks policy files. It needs no privilege.
//!
//! Input: files and directories. Output: every error and warning on stdout, a count on stderr, and the exit code.

use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;

use ipnetwork::IpNetwork;

use super::out;
use crate::policy::load::{Loaded, SourceFile, warning_at};
use crate::policy::schema::rules;
use crate::policy::service;
use crate::policy::source::directory::load_paths;
use crate::policy::{PolicyError, PolicyWarning, Problem, Skipped};
use crate::resolve::{NoOp, Roster, for_services, no_ops};
use crate::workload::inventory::Inventory;
use crate::workload::offline;

/// Check policy files without applying them.
///
/// The command needs no privilege and no daemon. It reads all paths as one set, so it also finds a policy that two files
/// declare. In a directory it reads every *.yaml, *.yml and *.json file at any depth, except *.cases.yaml, *.inventory.yaml
/// and names that begin with a dot. It reads a file that you name directly whatever its name is. Documents of other kinds,
/// such as a Deployment, are skipped and counted. Each FlowPolicy has to obey the rules in its kind's
/// definition too, as on an API server.
#[derive(Debug, clap::Args)]
#[command(after_long_help = "\
Exit codes: 0 The policies have no errors. They may have warnings.
            1 The policies have errors, or --strict is given and there are warnings or skipped documents.
            2 A path cannot be read, or the command line is wrong.")]
pub struct Args {
    /// Policy files and directories to check.
    #[arg(required = true, value_name = "PATH")]
    pub paths: Vec<PathBuf>,
    /// Inventory file. With it, the command also warns of policies, rules and port names that have no effect on the workloads
    /// of the file.
    #[arg(long, value_name = "FILE")]
    pub inventory: Option<PathBuf>,
    /// Range of the cluster addresses of Services; may be given more than once. The command warns of policies that allow such an
    /// address and nobody behind it. It reads objects of the kinds Service and `ServiceCIDR` among the documents without this option.
    #[arg(long, value_name = "CIDR")]
    pub service_cidr: Vec<IpNetwork>,
    /// Exit with 1 if there are warnings or documents of other kinds, too.
    #[arg(long)]
    pub strict: bool,
}

/// The policies have errors.
const FINDINGS: u8 = 1;
/// A path could not be read.
const UNREADABLE: u8 = 2;

/// What is printed, and the exit code.
#[derive(Debug, Default)]
struct Answer {
    findings: Vec<String>,
    notes: Vec<String>,
    code: u8,
}

/// Runs the command.
pub fn run(args: &Args) -> ExitCode {
    let Answer { findings, notes, code } = answer(args, rules::broken);
    for finding in findings {
        out::tell(&format!("{finding}\n"));
    }
    for note in notes {
        out::note(&note);
    }
    ExitCode::from(code)
}

/// `broken`: what the files that the parser takes break of the rules that an API server has beside it.
fn answer(args: &Args, broken: fn(&[SourceFile]) -> Vec<PolicyError>) -> Answer {
    let Args { paths, inventory, service_cidr, strict } = args;
    let inventory = match inventory.as_deref().map(Inventory::load).transpose() {
        Ok(inventory) => inventory,
        Err(error) => {
            // With its cause.
            let finding = format!("error: {:#}", anyhow::Error::from(error));
            return Answer { findings: vec![finding], code: UNREADABLE, ..Answer::default() };
        }
    };
    match load_paths(paths) {
        Ok(Loaded { set, mut warnings, sources, skipped, stands_in: _ }) => {
            let errors = broken(&sources);
            if !errors.is_empty() {
                return refusal(&errors, &warnings, &skipped);
            }
            let mut services = service::services(&sources);
            services.ranges.extend(service_cidr);
            let to_services = for_services(&set, &services).into_iter();
            warnings.extend(to_services.map(|NoOp { at, what }| warning_at(&sources, &at, what)));
            if let Some(inventory) = &inventory {
                let without_effect = no_ops(&set, &Roster::of(Arc::new(offline::snapshot(inventory)))).into_iter();
                warnings.extend(without_effect.map(|NoOp { at, what }| warning_at(&sources, &at, what)));
            }
            let counts = format!(
                "{} and {} in {}",
                count(set.policies.len(), "policy", "policies"),
                count(warnings.len(), "warning", "warnings"),
                count(sources.len(), "file", "files"),
            );
            let is_strict = *strict && !(warnings.is_empty() && skipped.is_empty());
            Answer {
                findings: warnings.iter().map(ToString::to_string).collect(),
                notes: notes(counts, &skipped),
                code: if is_strict { FINDINGS } else { 0 },
            }
        }
        Err(refused) => refusal(refused.errors(), refused.warnings(), refused.skipped()),
    }
}

fn refusal(errors: &[PolicyError], warnings: &[PolicyWarning], skipped: &Skipped) -> Answer {
    let counts =
        format!("{} and {}", count(errors.len(), "error", "errors"), count(warnings.len(), "warning", "warnings"));
    let is_unreadable = errors.iter().any(|error| matches!(error.what, Problem::Unreadable { .. }));
    let warnings = warnings.iter().map(ToString::to_string);
    Answer {
        findings: warnings.chain(errors.iter().map(ToString::to_string)).collect(),
        notes: notes(counts, skipped),
        code: if is_unreadable { UNREADABLE } else { FINDINGS },
    }
}

fn notes(counts: String, skipped: &Skipped) -> Vec<String> {
    let skipped = (!skipped.is_empty()).then(|| format!("skipped {skipped}"));
    std::iter::once(counts).chain(skipped).collect()
}

fn count(number: usize, one: &str, many: &str) -> String {
    format!("{number} {}", if number == 1 { one } else { many })
}

#[cfg(test)]
mod tests {
    use std::fmt::Write as _;
    use std::fs;
    use std::path::Path;

    use enforcer_tests::flow_policies::{flow_policy, refused};

    use super::*;
    use crate::flow::text::printable_lines;
    use crate::policy::PolicyFinding;

    fn of(paths: Vec<PathBuf>) -> Args {
        Args { paths, inventory: None, service_cidr: Vec::new(), strict: false }
    }

    fn asked(args: &Args) -> Answer {
        answer(args, rules::broken)
    }

    /// Each object that a real API server refuses, or keeps for the agents to refuse.
    #[test]
    fn what_is_refused_on_a_cluster_is_refused_here_with_its_place_and_once() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("object.json");
        let all = refused();
        assert!(all.len() >= 65, "{}", all.len());
        for (what, spec, _) in all {
            fs::write(&path, format!("{:#}", flow_policy(&spec))).unwrap();
            let Answer { findings, code, .. } = asked(&of(vec![path.clone()]));
            assert_eq!((findings.len(), code), (1, FINDINGS), "{what}: {findings:?}");
            let place = findings[0].lines().nth(1).unwrap();
            assert!(place.contains("object.json:"), "{what}: {}", findings[0]);
        }
    }

    #[test]
    fn a_rule_of_the_api_server_that_the_parser_lacks_is_an_error() {
        let args = |name: &str| of(vec![name.into()]);
        let broken = |sources: &[SourceFile]| {
            let what = Problem::BrokenRule { message: "no".to_owned() };
            vec![PolicyFinding { file: Arc::clone(&sources[0].path), place: None, what }]
        };
        let Answer { findings, notes, code } = answer(&args("tests/data/validate/list.yaml"), broken);
        assert_eq!((code, notes.as_slice()), (FINDINGS, ["1 error and 0 warnings".to_owned()].as_slice()));
        assert!(findings[0].contains("an API server refuses this: no"), "{findings:?}");
        let bad = answer(&args("tests/data/validate/tab-indent.yaml"), broken);
        assert!(bad.findings.iter().all(|finding| !finding.contains("API server refuses")), "{bad:?}");
    }

    /// Files and directories as people have them, each with all that is said of it.
    #[test]
    fn what_is_said_of_files_that_people_have() {
        // Tests run in the directory of their package, so that the paths are the same everywhere.
        let directory = Path::new("tests/data/validate");
        let mut paths: Vec<_> = fs::read_dir(directory).unwrap().map(|entry| entry.unwrap().path()).collect();
        paths.sort();
        assert!(paths.len() > 33, "{}", paths.len());
        let mut said = String::new();
        for path in paths {
            let name = path.file_name().unwrap().to_string_lossy().into_owned();
            let Answer { findings, notes, code } = asked(&of(vec![path]));
            let lines = findings.into_iter().map(|finding| format!("{finding}\n")).chain(notes);
            let lines = lines.collect::<Vec<_>>().join("\n");
            write!(said, "\n## {name}: exit {code}\n{}\n", printable_lines(&lines)).unwrap();
        }
        insta::assert_snapshot!(said);
    }

    #[test]
    fn with_an_inventory_what_has_no_effect_is_told() {
        let directory = Path::new("tests/data/no_effect");
        let file = |name: &str| directory.join(name);
        let told = |paths: Vec<PathBuf>, inventory: Option<PathBuf>| asked(&Args { inventory, ..of(paths) });
        let policies = || vec![file("policies.yaml")];
        assert_eq!(told(policies(), None).findings, [""; 0], "nobody knows the workloads");
        let Answer { findings, notes, code } = told(policies(), Some(file("inventory.yaml")));
        assert_eq!((code, notes.as_slice()), (0, ["4 policies and 4 warnings in 1 file".to_owned()].as_slice()));
        insta::assert_snapshot!(findings.join("\n\n"));
        let bad = told(policies(), Some(file("policies.yaml")));
        assert_eq!(bad.code, 2, "{bad:?}");
        let missing = told(policies(), Some(file("missing.yaml")));
        assert_eq!(missing.code, 2);
        assert!(missing.findings[0].ends_with(": No such file or directory (os error 2)"), "{missing:?}");
    }

    #[test]
    fn a_range_of_services_is_told_by_an_option() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("p.yaml");
        let head = "apiVersion: networking.k8s.io/v1\nkind: NetworkPolicy\nmetadata: {name: web}\nspec:\n";
        let spec =
            "  podSelector: {}\n  policyTypes: [Egress]\n  egress:\n    - to: [{ipBlock: {cidr: 10.96.0.10/32}}]\n";
        fs::write(&path, format!("{head}{spec}")).unwrap();
        assert_eq!(asked(&of(vec![path.clone()])).findings, [""; 0], "nobody knows of Services");
        let service_cidr = vec!["10.96.0.0/12".parse().unwrap()];
        let Answer { findings, code, .. } = asked(&Args { service_cidr, ..of(vec![path]) });
        assert_eq!((findings.len(), code), (1, 0), "{findings:?}");
        assert!(findings[0].contains("p.yaml:8:5\n"), "{}", findings[0]);
        assert!(findings[0].contains("`10.96.0.10/32` holds addresses of Services only"), "{}", findings[0]);
    }

    #[test]
    fn strict_takes_no_warning_and_no_document_of_another_kind() {
        let strict =
            |name: &str, strict| asked(&Args { strict, ..of(vec![Path::new("tests/data/validate").join(name)]) }).code;
        for (name, expected) in [("list.yaml", 0), ("app-and-policy.yaml", 1), ("null-pod-selector.yaml", 1)] {
            assert_eq!((strict(name, false), strict(name, true)), (0, expected), "{name}");
        }
    }

    #[test]
    fn the_exit_code_tells_findings_from_unreadable_paths() {
        let directory = tempfile::tempdir().unwrap();
        let document = |name: &str, spec: &str| {
            let path = directory.path().join(name);
            let head = "apiVersion: networking.k8s.io/v1\nkind: NetworkPolicy\nmetadata: {name: web}\nspec: ";
            std::fs::write(&path, format!("{head}{spec}\n")).unwrap();
            path
        };
        let exit = |paths: &[&PathBuf], strict| run(&Args { strict, ..of(paths.iter().copied().cloned().collect()) });
        let good = document("good", "{podSelector: {}}");
        let doubtful = document("doubtful", "{podSelector: {}, egress: []}");
        let bad = document("bad", "{podSelectors: {}}");
        let missing = directory.path().join("missing");
        assert_eq!(exit(&[&good], true), ExitCode::SUCCESS);
        assert_eq!(exit(&[&doubtful], false), ExitCode::SUCCESS);
        assert_eq!(exit(&[&doubtful], true), ExitCode::from(1));
        assert_eq!(exit(&[&bad], false), ExitCode::from(1));
        assert_eq!(exit(&[&good, &doubtful], false), ExitCode::from(1), "the same policy twice");
        assert_eq!(exit(&[&good, &missing], false), ExitCode::from(2));
    }
}
