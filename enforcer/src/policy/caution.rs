//! The warnings about a policy file: it is valid, but its author may have meant something else.
//!
//! Input: facts from the parser. Output: a sentence on what was read (`Display`), and one on what to do (`help`).

use ipnetwork::IpNetwork;

/// Something that is legal, and may not be what its author meant.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
pub enum Caution {
    /// A CIDR with host bits, in a NetworkPolicy (N17).
    #[error("`{text}` has bits set after its prefix, so it is read as `{network}`")]
    HostBits {
        /// The text.
        text: String,
        /// How it is read.
        network: IpNetwork,
    },
    /// An empty list that Kubernetes reads as "everybody" or "every port" (N7).
    #[error("the empty list `{field}` means {meaning}")]
    EmptyMeansAll {
        /// The field.
        field: &'static str,
        /// What it means.
        meaning: &'static str,
    },
    /// A field without a value where Kubernetes reads an empty one, and the policy isolates more for it (D9).
    #[error("`{field}` has no value, so it is read as `{empty}`")]
    NullIsEmpty {
        /// The field.
        field: &'static str,
        /// How it is read.
        empty: &'static str,
    },
    /// Rules in a direction that `policyTypes` does not list.
    #[error("`{field}` has no effect, because `policyTypes` does not list `{direction}`")]
    NoEffect {
        /// `ingress` or `egress`.
        field: &'static str,
        /// What `policyTypes` would have to list.
        direction: &'static str,
    },
    /// `egress: []` without `policyTypes` (N3).
    #[error("`egress: []` without `policyTypes` does not isolate egress")]
    EmptyEgress,
    /// No `podSelector`.
    #[error("without `podSelector` the policy selects every pod of its namespace")]
    NoPodSelector,
    /// Warnings that are not shown.
    #[error("the document has {count} more warnings")]
    More {
        /// How many.
        count: usize,
    },
}

impl Caution {
    /// What to do about it.
    pub fn help(&self) -> Option<String> {
        let text = match self {
            Self::HostBits { network, .. } => return Some(format!("write `{network}`")),
            Self::NoEffect { direction, .. } => {
                return Some(format!("add `{direction}` to `policyTypes`, or remove the rules"));
            }
            Self::EmptyMeansAll { .. } => "remove the field if you mean that",
            Self::NullIsEmpty { field: "podSelector", .. } => {
                "write `podSelector: {}` if the policy is for every pod of its namespace"
            }
            Self::NullIsEmpty { field, empty } => return Some(format!("write `{field}: {empty}` if you mean that")),
            Self::EmptyEgress => "add `policyTypes: [Ingress, Egress]` to deny egress",
            Self::NoPodSelector => "write `podSelector: {}` if you mean that",
            Self::More { .. } => return None,
        };
        Some(text.to_owned())
    }
}
