//! What all nodes say, as the status of one FlowPolicy.
//!
//! Input: the policy, the reports of the nodes, and the time. Output: its status. Pure. The texts of errors come from nodes,
//! and people read them in terminals, so they are one printable line of bounded length.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

use super::told::{Node, Policy, Refused, Says};
use crate::flow::text::{cut, printable};
use crate::kubernetes::Key;
use crate::policy::schema::status::{Condition, MESSAGE, Status};

/// Names of nodes in a message.
const NAMED: usize = 5;

/// Whether something holds, and why.
struct Finding {
    status: &'static str,
    reason: &'static str,
    message: String,
}

/// The nodes by what they say.
#[derive(Default)]
struct Tally<'a> {
    in_force: u64,
    refuse: Names<'a>,
    /// What the first of these says.
    refusal: Option<&'a Refused>,
    behind: Names<'a>,
    not_listed: Names<'a>,
}

/// Names of nodes, of which the first are shown.
#[derive(Default)]
struct Names<'a>(Vec<&'a str>);

impl fmt::Display for Names<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let shown = &self.0[..self.0.len().min(NAMED)];
        f.write_str(&shown.join(", "))?;
        match self.0.len() - shown.len() {
            0 => Ok(()),
            more => write!(f, " and {more} more"),
        }
    }
}

/// The status of a policy. `now` counts for conditions that are not as they were.
pub(super) fn fold(policy: &Policy, nodes: &BTreeMap<Key, Arc<Node>>, now: &str) -> Status {
    let mut tally = Tally::default();
    for (key, node) in nodes {
        match node.says_of(&policy.uid, policy.generation) {
            Says::InForce => tally.in_force += 1,
            Says::Refuses(refusal) => {
                tally.refuse.0.push(&key.name);
                tally.refusal = tally.refusal.or(refusal);
            }
            Says::Behind => tally.behind.0.push(&key.name),
            Says::NotListed => tally.not_listed.0.push(&key.name),
        }
    }
    let (accepted, enforced) = (tally.accepted(), tally.enforced(nodes.len()));
    let is_refused = accepted.status == "False";
    // What is not accepted is not enforced, and the first says why.
    let decides = if is_refused { &accepted } else { &enforced };
    let ready = Finding { message: decides.message.clone(), ..*decides };
    let stalled = if is_refused {
        Finding { status: "True", message: accepted.message.clone(), ..accepted }
    } else {
        Finding { status: "False", reason: "NotRefused", message: String::new() }
    };
    let conditions = [("Accepted", accepted), ("Enforced", enforced), ("Ready", ready), ("Stalled", stalled)];
    Status {
        observed_generation: policy.generation,
        nodes_total: nodes.len() as u64,
        nodes_programmed: tally.in_force,
        conditions: conditions.map(|(kind, finding)| condition(policy, kind, finding, now)).into(),
    }
}

impl Tally<'_> {
    fn accepted(&self) -> Finding {
        if !self.refuse.0.is_empty() {
            let error = self.refusal.map_or("it refuses more objects than it lists", |refusal| refusal.error.as_str());
            return Finding {
                status: "False",
                reason: "Refused",
                message: format!("refused on {}: {error}", self.refuse),
            };
        }
        match self.in_force {
            0 => Finding {
                status: "Unknown",
                reason: "NotReported",
                message: "no node has told of this version yet".to_owned(),
            },
            _ => Finding { status: "True", reason: "Accepted", message: "no node refuses this version".to_owned() },
        }
    }

    fn enforced(&self, total: usize) -> Finding {
        if total == 0 {
            let message = "no agent has told of its node yet".to_owned();
            return Finding { status: "Unknown", reason: "NoNodes", message };
        }
        if !self.refuse.0.is_empty() {
            let instead = match self.refusal.map(|refusal| refusal.instead.as_str()) {
                Some("LastGood") => "the last good version stays in force",
                Some("Nothing") => "the policy changes nothing",
                Some(_) | None => "what it selects is isolated and gets nothing",
            };
            let message = format!("refused on {} of {total} nodes; there {instead}", self.refuse.0.len());
            return Finding { status: "False", reason: "Refused", message };
        }
        if !self.behind.0.is_empty() {
            let message = format!("not in force on {} of {total} nodes: {}", self.behind.0.len(), self.behind);
            return Finding { status: "False", reason: "NotEverywhere", message };
        }
        if !self.not_listed.0.is_empty() {
            let message = format!("these nodes have more policies than they list: {}", self.not_listed);
            return Finding { status: "Unknown", reason: "NotListed", message };
        }
        Finding { status: "True", reason: "InForce", message: format!("in force on all {total} nodes") }
    }
}

fn condition(policy: &Policy, kind: &str, finding: Finding, now: &str) -> Condition {
    let Finding { status, reason, message } = finding;
    let mut before = policy.status.iter().flat_map(|status| &status.conditions);
    let before = before.rfind(|condition| condition.kind == kind && condition.status == status);
    // Lines of an error in one; the mark of a cut is one character more.
    let message = message.split_whitespace().collect::<Vec<_>>().join(" ");
    Condition {
        kind: kind.to_owned(),
        status: status.to_owned(),
        observed_generation: policy.generation,
        last_transition_time: before.map_or(now, |before| &before.last_transition_time).to_owned(),
        reason: reason.to_owned(),
        message: cut(&printable(&message), MESSAGE - 1).into_owned(),
    }
}

#[cfg(test)]
mod tests;
