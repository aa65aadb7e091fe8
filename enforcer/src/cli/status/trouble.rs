//! What an operator has to look at, and why `enforcer status` then exits with 1.
//!
//! Input: the state in the kernel and the daemon's report. Output: troubles, each with a text that begins with a lead. Each
//! lead has an entry in `docs/troubleshooting.md`.

use std::fmt;

use enforcer_common::id::{Direction, Ifindex, Revision};

use super::names;
use crate::agent::report::Report;
use crate::flow::text::printable;
use crate::kernel::FullShare;
use crate::kernel::status::StatusView;

/// One trouble.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(super) enum Trouble {
    /// No process holds the pin directory.
    NoDaemon,
    /// Revision 0 is in force.
    NoPolicy,
    /// A program of a veth is missing, or it is not the first of its chain.
    NotAttached {
        /// The veth.
        ifindex: Ifindex,
    },
    /// A device that leads to no workload lacks its guard.
    NoGuard {
        /// The device.
        ifindex: Ifindex,
        /// Its name.
        name: String,
    },
    /// A veth is closed, because there is no endpoint for it.
    Closed {
        /// The veth.
        ifindex: Ifindex,
    },
    /// A workload is closed, because it has a device that lies on one of the node's.
    ReachesNode(String),
    /// A workload has devices that pass no program.
    PartlyEnforced(String),
    /// The newest policies were refused.
    Policies(String),
    /// What a source of policies said last may be out of date.
    Stale(String),
    /// The newest version of a source of workloads, such as the inventory, was refused.
    Source(String),
    /// The newest image could not be put in force.
    Apply(String),
    /// A part of the plan in force could not be done.
    Unfinished(String),
    /// A source of workloads has not given its first list.
    AwaitsSources,
    /// The kernel denied packets that the policies allow.
    Disagreements(u64),
    /// A workload has as many flows of a direction as it may have.
    FullShare {
        /// The workload, or its device if it has no name.
        workload: String,
        /// Whether it opened the flows, or they were opened to it.
        direction: Direction,
        /// How many there are.
        flows: u32,
    },
    /// What the flow table has beyond the reserves of the workloads is used up.
    FullTable {
        /// Flows beyond the reserves.
        shared: u32,
    },
}

impl Trouble {
    /// All troubles, in the order in which they are shown.
    pub(super) fn all(view: &StatusView, report: Option<&Report>) -> Vec<Self> {
        let mut troubles = Vec::new();
        if !view.daemon {
            troubles.push(Self::NoDaemon);
        }
        if view.word.revision == Revision::NONE {
            troubles.push(Self::NoPolicy);
        }
        let missing = view.endpoints.iter().filter(|endpoint| !endpoint.is_attached());
        troubles.extend(missing.map(|endpoint| Self::NotAttached { ifindex: endpoint.ifindex }));
        troubles.extend(view.flows.full.iter().map(|full| Self::of_share(view, report, *full)));
        if view.flows.shared >= view.flows.shared_room && view.flows.shared > 0 {
            troubles.push(Self::FullTable { shared: view.flows.shared });
        }
        troubles.extend(view.closed.iter().map(|ifindex| Self::Closed { ifindex: *ifindex }));
        if let Some(report) = report {
            let guarded = |ifindex| view.guards.get(&ifindex).is_some_and(|guard| guard.is_on(ifindex));
            let unguarded = report.others.iter().filter(|(ifindex, _)| !guarded(Ifindex(*ifindex)));
            troubles.extend(unguarded.map(|(ifindex, name)| {
                let name = printable(name).into_owned();
                Self::NoGuard { ifindex: Ifindex(*ifindex), name }
            }));
            troubles.extend(report.closed.iter().cloned().map(Self::ReachesNode));
            troubles.extend(report.partly_enforced.iter().cloned().map(Self::PartlyEnforced));
            troubles.extend(report.policy_error.clone().map(Self::Policies));
            troubles.extend(report.stale_sources.iter().cloned().map(Self::Stale));
            troubles.extend(report.refused_sources.iter().cloned().map(Self::Source));
            troubles.extend(report.apply_error.clone().map(Self::Apply));
            troubles.extend(report.unfinished.iter().cloned().map(Self::Unfinished));
            if report.awaits_sources {
                troubles.push(Self::AwaitsSources);
            }
            if report.disagreements > 0 {
                troubles.push(Self::Disagreements(report.disagreements));
            }
        }
        troubles
    }

    fn of_share(view: &StatusView, report: Option<&Report>, full: FullShare) -> Self {
        let endpoint = view.endpoints.iter().find(|endpoint| endpoint.id == full.id);
        let named =
            endpoint.and_then(|endpoint| names(report).get(&endpoint.ifindex.0).map(|(line, ..)| line.name.clone()));
        let workload = match (named.filter(|name| !name.is_empty()), endpoint) {
            (Some(name), _) => name,
            (None, Some(endpoint)) => format!("ifindex {}", endpoint.ifindex),
            (None, None) => format!("id {}", full.id.0),
        };
        Self::FullShare { workload, direction: full.direction, flows: full.flows }
    }

    /// How the text begins, whatever the details are.
    fn lead(&self) -> &'static str {
        match self {
            Self::NoDaemon => "no daemon runs",
            Self::NoPolicy => "no policy is in force yet",
            Self::NotAttached { .. } => "a veth lacks a program, or another program runs before it",
            Self::NoGuard { .. } => "a device that leads to no workload has no guard",
            Self::Closed { .. } => "a veth is closed, because the tables have no room for it",
            Self::ReachesNode(_) => "a workload has a device that bypasses its programs",
            Self::PartlyEnforced(_) => "a workload is partly enforced",
            Self::Policies(_) => "the newest policies are not in force",
            Self::Stale(_) => "the Kubernetes API is not heard",
            Self::Source(_) => "the newest names of workloads are not in force",
            Self::Apply(_) => "the newest state of policies and workloads is not in the kernel",
            Self::Unfinished(_) => "the daemon could not finish a change and tries again",
            Self::AwaitsSources => "the names of the workloads are not known yet",
            Self::Disagreements(_) => "the kernel denied packets that the policies allow",
            Self::FullShare { .. } => "a workload has as many connections as it may have",
            Self::FullTable { .. } => "the flow table has no room beyond the reserves of the workloads",
        }
    }
}

impl fmt::Display for Trouble {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: ", self.lead())?;
        match self {
            Self::NoDaemon => f.write_str("attached programs stay in force, but a new veth is unprotected"),
            Self::NoPolicy => f.write_str("the daemon has not finished its first start"),
            Self::NotAttached { ifindex } | Self::Closed { ifindex } => write!(f, "ifindex {ifindex}"),
            Self::NoGuard { ifindex, name } => {
                write!(
                    f,
                    "{name} (ifindex {ifindex}); the node may believe a packet with a workload's address from there"
                )
            }
            Self::ReachesNode(error)
            | Self::PartlyEnforced(error)
            | Self::Policies(error)
            | Self::Stale(error)
            | Self::Source(error)
            | Self::Apply(error)
            | Self::Unfinished(error) => f.write_str(error),
            Self::AwaitsSources => f.write_str("what is in force stays, and a new veth is closed"),
            Self::Disagreements(packets) => {
                write!(f, "{packets} packets; this is a defect of Enforcer, please report it")
            }
            Self::FullShare { workload, direction, flows } => {
                let whose = match direction {
                    Direction::Ingress => "were opened to it",
                    Direction::Egress => "it has opened",
                };
                write!(f, "{workload}: {flows} that {whose}; a new one of that kind is denied (flow-quota)")
            }
            Self::FullTable { shared } => {
                write!(
                    f,
                    "{shared} flows lie beyond them; who has used up its reserve gets no new one (flow-table-full)"
                )
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;
    use std::fs;
    use std::path::Path;

    use super::*;

    /// A trouble of every kind. The match does not compile while a kind is missing here.
    fn one_of_each() -> Vec<Trouble> {
        let mut found = BTreeMap::new();
        let mut next = Some(Trouble::NoDaemon);
        while let Some(trouble) = next {
            next = match &trouble {
                Trouble::NoDaemon => Some(Trouble::NoPolicy),
                Trouble::NoPolicy => Some(Trouble::NotAttached { ifindex: Ifindex(7) }),
                Trouble::NotAttached { .. } => Some(Trouble::Closed { ifindex: Ifindex(8) }),
                Trouble::Closed { .. } => Some(Trouble::NoGuard { ifindex: Ifindex(9), name: "tap0".to_owned() }),
                Trouble::NoGuard { .. } => Some(Trouble::ReachesNode("c".to_owned())),
                Trouble::ReachesNode(_) => Some(Trouble::PartlyEnforced("d".to_owned())),
                Trouble::PartlyEnforced(_) => Some(Trouble::Policies("a".to_owned())),
                Trouble::Policies(_) => Some(Trouble::Stale("f".to_owned())),
                Trouble::Stale(_) => Some(Trouble::Source("b".to_owned())),
                Trouble::Source(_) => Some(Trouble::Apply("c".to_owned())),
                Trouble::Apply(_) => Some(Trouble::Unfinished("d".to_owned())),
                Trouble::Unfinished(_) => Some(Trouble::AwaitsSources),
                Trouble::AwaitsSources => Some(Trouble::Disagreements(1)),
                Trouble::Disagreements(_) => {
                    Some(Trouble::FullShare { workload: "e".to_owned(), direction: Direction::Ingress, flows: 1 })
                }
                Trouble::FullShare { .. } => Some(Trouble::FullTable { shared: 1 }),
                Trouble::FullTable { .. } => None,
            };
            found.insert(trouble.lead(), trouble);
        }
        found.into_values().collect()
    }

    #[test]
    fn every_trouble_has_an_entry_on_the_page() {
        let page = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/troubleshooting.md");
        let page = fs::read_to_string(page).unwrap();
        let mut shown: Vec<&str> = page.lines().filter_map(|line| line.strip_prefix("### TROUBLE: ")).collect();
        let mut leads: Vec<&str> = one_of_each().iter().map(Trouble::lead).collect();
        shown.sort_unstable();
        leads.sort_unstable();
        assert_eq!(shown, leads, "docs/troubleshooting.md needs one `### TROUBLE: LEAD` for each trouble");
    }

    #[test]
    fn the_text_begins_with_the_lead() {
        for trouble in one_of_each() {
            assert!(trouble.to_string().starts_with(&format!("{}: ", trouble.lead())), "{trouble}");
        }
    }
}
