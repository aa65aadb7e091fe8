//! Tells what policies say without an effect: in the log once, and in the report while it is so.
//!
//! Input: the policies and workloads in force. Output: lines for the report. It runs after a change is in force, and only
//! for a change.

use std::collections::BTreeSet;
use std::sync::Arc;

use crate::policy::model::PolicySet;
use crate::resolve::{ResolvedPolicy, no_ops};

/// Lines of the report. A directory of another machine's policies could have thousands.
const SHOWN: usize = 20;

/// What was said last.
#[derive(Debug, Default)]
pub(super) struct NoOps {
    of: Option<Arc<ResolvedPolicy>>,
    lines: Vec<String>,
    /// What the log has, for as long as the policies stay the same.
    told: BTreeSet<String>,
}

impl NoOps {
    /// The lines for what is in force now.
    pub(super) fn lines(&mut self, resolved: Option<&Arc<ResolvedPolicy>>) -> Vec<String> {
        if let Some(resolved) = resolved
            && !self.of.as_ref().is_some_and(|of| Arc::ptr_eq(of, resolved))
        {
            self.look(resolved);
        }
        self.lines.clone()
    }

    fn look(&mut self, resolved: &Arc<ResolvedPolicy>) {
        let policies: &PolicySet = resolved.policies();
        // What it is told by, and the line: advice changes with the workloads, and is no news.
        let all: Vec<(String, String)> = if policies.policies.is_empty() {
            let line = "no policy was read, so nothing is isolated".to_owned();
            // The warning about the directory is in the log.
            self.told.insert(line.clone());
            vec![(line.clone(), line)]
        } else {
            let found = no_ops(policies, resolved.roster());
            found.iter().map(|no_op| (format!("{}: {}", no_op.at, no_op.what), no_op.to_string())).collect()
        };
        if !self.of.as_ref().is_some_and(|of| of.policies() == resolved.policies()) {
            // What a container that comes and goes makes true again is not news; what somebody has written anew is.
            self.told.retain(|told| all.iter().any(|(key, _)| key == told));
        }
        let count = all.len();
        let mut fresh = 0;
        for (_, line) in all.iter().filter(|(key, _)| self.told.insert(key.clone())) {
            fresh += 1;
            if fresh <= SHOWN {
                tracing::warn!("{line}");
            }
        }
        if fresh > SHOWN {
            tracing::warn!("{} more policies, rules or port names have no effect", fresh - SHOWN);
        }
        self.lines = all.into_iter().map(|(_, line)| line).collect();
        self.lines.truncate(SHOWN);
        if count > SHOWN {
            self.lines.push(format!("{} more policies, rules or port names have no effect", count - SHOWN));
        }
        self.of = Some(Arc::clone(resolved));
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;
    use crate::policy::load::{SourceFile, from_sources};
    use crate::resolve::resolve;
    use crate::workload::inventory::Inventory;
    use crate::workload::offline;

    fn resolved(policies: &[&str], workloads: &[&str]) -> Arc<ResolvedPolicy> {
        let policy = |name: &&str| {
            format!(
                "---\napiVersion: networking.k8s.io/v1\nkind: NetworkPolicy\nmetadata: {{name: {name}}}\nspec: \
                 {{podSelector: {{matchLabels: {{app: {name}}}}}}}\n"
            )
        };
        let text: String = policies.iter().map(policy).collect();
        let set = from_sources(vec![SourceFile { path: "p.yaml".into(), text: text.into() }]).unwrap().set;
        let workload =
            |name: &&str| format!("  - {{name: {name}, labels: {{app: {name}}}, match: {{netns: {name}}}}}\n");
        let inventory = match workloads {
            [] => "workloads: []\n".to_owned(),
            some => format!("workloads:\n{}", some.iter().map(workload).collect::<String>()),
        };
        let inventory = Inventory::parse(Path::new("i.yaml"), &inventory).unwrap();
        Arc::new(resolve(set, Arc::new(offline::snapshot(&inventory))))
    }

    /// The lines of the report, and how many the log has had.
    fn said(no_ops: &mut NoOps, policies: &[&str], workloads: &[&str]) -> (usize, usize) {
        let lines = no_ops.lines(Some(&resolved(policies, workloads)));
        (lines.len(), no_ops.told.len())
    }

    #[test]
    fn each_is_told_once_and_reported_while_it_is_so() {
        let mut no_ops = NoOps::default();
        assert_eq!(no_ops.lines(None), [""; 0], "nothing is known yet");
        assert_eq!(said(&mut no_ops, &["web", "db"], &["web"]), (1, 1));
        assert_eq!(said(&mut no_ops, &["web", "db"], &["db"]), (1, 2), "the other one");
        assert_eq!(said(&mut no_ops, &["web", "db"], &["web"]), (1, 2), "again, without a word");
        assert_eq!(said(&mut no_ops, &["web", "db"], &["web", "db"]), (0, 2), "all have an effect");
        assert_eq!(said(&mut no_ops, &["web", "db"], &["x"]), (2, 2), "both again");
        assert_eq!(said(&mut no_ops, &["web", "db"], &[]), (2, 4), "for another reason");
        assert_eq!(said(&mut no_ops, &["web"], &["web", "db"]), (0, 0), "other policies: it may be told again");
        assert_eq!(said(&mut no_ops, &[], &["web"]), (1, 1), "no policy at all");
    }

    #[test]
    fn the_report_is_bounded() {
        let names: Vec<String> = (0..100).map(|number| format!("a{number}")).collect();
        let names: Vec<&str> = names.iter().map(String::as_str).collect();
        let lines = NoOps::default().lines(Some(&resolved(&names, &["web"])));
        assert_eq!(
            (lines.len(), lines[SHOWN].as_str()),
            (SHOWN + 1, "80 more policies, rules or port names have no effect")
        );
    }
}
