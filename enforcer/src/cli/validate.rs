//! `enforcer validate`: checks policy files. It needs no privilege.
//!
//! Input: files and directories. Output: every error and warning on stdout, a count on stderr, and the exit code.

use std::path::PathBuf;
use std::process::ExitCode;

use super::out;
use crate::policy::Problem;
use crate::policy::load::Loaded;
use crate::policy::source::directory::load_paths;

/// Check policy files without applying them.
///
/// The command needs no privilege and no daemon. It reads all paths as one set, so it also finds a policy that two files
/// declare. In a directory it reads every *.yaml and *.yml file at any depth, except *.cases.yaml, *.inventory.yaml and
/// names that begin with a dot. It reads a file that you name directly whatever its name is.
#[derive(Debug, clap::Args)]
#[command(after_long_help = "\
Exit codes: 0 The policies have no errors. They may have warnings.
            1 The policies have errors, or they have warnings and --strict is given.
            2 A path cannot be read, or the command line is wrong.")]
pub struct Args {
    /// Policy files and directories to check.
    #[arg(required = true, value_name = "PATH")]
    pub paths: Vec<PathBuf>,
    /// Exit with 1 if there are warnings, too.
    #[arg(long)]
    pub strict: bool,
}

/// The policies have errors.
const FINDINGS: u8 = 1;
/// A path could not be read.
const UNREADABLE: u8 = 2;

/// Runs the command.
pub fn run(args: &Args) -> ExitCode {
    let Args { paths, strict } = args;
    match load_paths(paths) {
        Ok(Loaded { set, warnings, sources }) => {
            for warning in &warnings {
                out::tell(&format!("{warning}\n"));
            }
            out::note(&format!(
                "{} and {} in {}",
                count(set.policies.len(), "policy", "policies"),
                count(warnings.len(), "warning", "warnings"),
                count(sources.len(), "file", "files"),
            ));
            ExitCode::from(if *strict && !warnings.is_empty() { FINDINGS } else { 0 })
        }
        Err(refused) => {
            for warning in refused.warnings() {
                out::tell(&format!("{warning}\n"));
            }
            for error in refused.errors() {
                out::tell(&format!("{error}\n"));
            }
            out::note(&format!(
                "{} and {}",
                count(refused.errors().len(), "error", "errors"),
                count(refused.warnings().len(), "warning", "warnings"),
            ));
            let is_unreadable = refused.errors().iter().any(|error| matches!(error.what, Problem::Unreadable { .. }));
            ExitCode::from(if is_unreadable { UNREADABLE } else { FINDINGS })
        }
    }
}

fn count(number: usize, one: &str, many: &str) -> String {
    format!("{number} {}", if number == 1 { one } else { many })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_exit_code_tells_findings_from_unreadable_paths() {
        let directory = tempfile::tempdir().unwrap();
        let document = |name: &str, spec: &str| {
            let path = directory.path().join(name);
            let head = "apiVersion: networking.k8s.io/v1\nkind: NetworkPolicy\nmetadata: {name: web}\nspec: ";
            std::fs::write(&path, format!("{head}{spec}\n")).unwrap();
            path
        };
        let exit = |paths: &[&PathBuf], strict| run(&Args { paths: paths.iter().copied().cloned().collect(), strict });
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
