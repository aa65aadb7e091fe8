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
    /// A policy without a workload.
    #[error("{kind} `{namespace}/{name}` selects nobody: {}", nobody(.namespace, .namespaces.is_some()))]
    SelectsNobody {
        /// The kind of the policy.
        kind: &'static str,
        /// Its namespace.
        namespace: String,
        /// Its name.
        name: String,
        /// If its namespace has no workload, some of those that have one.
        namespaces: Option<Vec<String>>,
    },
    /// A rule whose selectors match no workload.
    #[error("no known workload is a peer of this rule, so the rule has no effect")]
    RuleForNobody,
    /// A port by a name that no destination gives to a port.
    #[error("no workload that the rule leads to has a port named `{name}`")]
    PortOfNobody {
        /// The name.
        name: String,
    },
    /// An egress rule for the address of a Service, and none for who is behind it (D5).
    #[error("{}, and a rule for it alone leads to nobody", services(*.cidr, .service.as_deref()))]
    ToService {
        /// What the rule names.
        cidr: IpNetwork,
        /// Whose address it is.
        service: Option<String>,
    },
    /// An ingress rule for the address of a Service.
    #[error("no packet comes from `{cidr}`: {}", services(*.cidr, .service.as_deref()))]
    FromService {
        /// What the rule names.
        cidr: IpNetwork,
        /// Whose address it is.
        service: Option<String>,
    },
    /// A directory, or a file, without a policy.
    #[error("no policy was read here")]
    NoPolicies,
    /// Warnings that are not shown.
    #[error("the document has {count} more warnings")]
    More {
        /// How many.
        count: usize,
    },
}

fn nobody(namespace: &str, is_empty: bool) -> String {
    if is_empty {
        format!("the namespace `{namespace}` has no workload")
    } else {
        "no workload of the namespace has the labels that it asks for".to_owned()
    }
}

fn services(cidr: IpNetwork, service: Option<&str>) -> String {
    match service {
        Some(service) => format!("`{cidr}` is the address of Service `{service}`"),
        None => format!("`{cidr}` holds addresses of Services only"),
    }
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
            Self::SelectsNobody { namespaces: Some(known), .. } if !known.is_empty() => {
                let known: Vec<String> = known.iter().map(|name| format!("`{name}`")).collect();
                return Some(format!(
                    "there are workloads in {}; a policy without `metadata.namespace` is for `default`",
                    known.join(", ")
                ));
            }
            Self::SelectsNobody { namespaces: Some(_), .. } => {
                "no workload has a name yet: `enforcer status` lists them"
            }
            Self::SelectsNobody { namespaces: None, .. } => "compare its selector with the labels of the workloads",
            Self::RuleForNobody => "compare its selectors with the labels and the namespaces of the workloads",
            Self::PortOfNobody { .. } => {
                "name the port in the inventory, or by a container label such as `enforcer.dev/port.http: 8080/tcp`"
            }
            Self::ToService { .. } => {
                "name the pods behind the Service by their labels, or by their own addresses and ports"
            }
            Self::FromService { .. } => "name the pods that send, by their labels",
            Self::NoPolicies => {
                "files that end in .yaml, .yml or .json are read, except *.cases.yaml, *.inventory.yaml and names that \
                 begin with a dot"
            }
            Self::EmptyEgress => "add `policyTypes: [Ingress, Egress]` to deny egress",
            Self::NoPodSelector => "write `podSelector: {}` if you mean that",
            Self::More { .. } => return None,
        };
        Some(text.to_owned())
    }
}
