//! Decides which flows are printed.
//!
//! Input: the filters of the command line and a line of the log. Output: whether the line passes.

use std::convert::Infallible;
use std::net::IpAddr;
use std::str::FromStr;

use super::Args;
use crate::flow::hubble::{Endpoint, GetFlowsResponse};

/// The verdicts that can be asked for.
pub(super) const VERDICTS: [&str; 4] = ["FORWARDED", "DROPPED", "ERROR", "AUDIT"];

/// The filters of a command line: a flow meets one value of each that has any.
pub(super) struct Filter<'a> {
    verdict: &'a [String],
    reason: Vec<String>,
    from: &'a [PartyFilter],
    to: &'a [PartyFilter],
}

impl<'a> Filter<'a> {
    pub(super) fn new(args: &'a Args) -> Self {
        Self {
            verdict: &args.verdict,
            reason: args.reason.iter().map(|reason| format!("reason={reason}")).collect(),
            from: &args.from,
            to: &args.to,
        }
    }

    /// Whether a line is printed. What says that something is missing always is.
    pub(super) fn passes(&self, response: &GetFlowsResponse) -> bool {
        let Some(flow) = &response.flow else { return true };
        let (source, destination) = flow.ip.as_ref().map_or(("", ""), |ip| (&ip.source, &ip.destination));
        one_of(self.verdict, |verdict| flow.verdict.eq_ignore_ascii_case(verdict))
            && one_of(&self.reason, |reason| flow.policy_log.contains(reason))
            && one_of(self.from, |party| party.matches(flow.source.as_ref(), source))
            && one_of(self.to, |party| party.matches(flow.destination.as_ref(), destination))
    }
}

fn one_of<T>(wanted: &[T], meets: impl FnMut(&T) -> bool) -> bool {
    wanted.is_empty() || wanted.iter().any(meets)
}

/// Who is asked for.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum PartyFilter {
    /// One workload.
    Workload {
        /// Namespace.
        namespace: String,
        /// Name.
        name: String,
    },
    /// All workloads of a namespace.
    Namespace(String),
    /// Workloads of that name in any namespace.
    Name(String),
    /// An address.
    Address(IpAddr),
}

impl FromStr for PartyFilter {
    type Err = Infallible;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        Ok(match (text.parse(), text.split_once('/')) {
            (Ok(address), _) => Self::Address(address),
            (Err(_), Some((namespace, ""))) => Self::Namespace(namespace.to_owned()),
            (Err(_), Some((namespace, name))) => {
                Self::Workload { namespace: namespace.to_owned(), name: name.to_owned() }
            }
            (Err(_), None) => Self::Name(text.to_owned()),
        })
    }
}

impl PartyFilter {
    fn matches(&self, endpoint: Option<&Endpoint>, seen: &str) -> bool {
        let is = |namespace: Option<&String>, name: Option<&String>| {
            endpoint.is_some_and(|endpoint| {
                namespace.is_none_or(|namespace| endpoint.namespace == *namespace)
                    && name.is_none_or(|name| endpoint.pod_name == *name)
            })
        };
        match self {
            Self::Workload { namespace, name } => is(Some(namespace), Some(name)),
            Self::Namespace(namespace) => is(Some(namespace), None),
            Self::Name(name) => is(None, Some(name)),
            Self::Address(address) => seen.parse() == Ok(*address),
        }
    }
}
