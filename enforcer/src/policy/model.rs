//! The model of declared policy: valid by construction, independent of the kind of document it came from.
//!
//! Input: what `parse` accepted. Output: what `resolve` joins with the workloads.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use enforcer_common::id::Direction;
use ipnetwork::IpNetwork;

use super::origin::Origin;

/// Everything that one directory of policies says. Order: by file, then by place in the file.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct PolicySet {
    /// All policies. Sets of one source share those that have not changed.
    pub policies: Vec<Arc<Policy>>,
}

/// Place of a policy in its [`PolicySet`].
#[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub struct PolicyRef(pub u32);

/// Place of a rule in its [`PolicySet`].
#[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub struct RuleRef {
    /// The policy that has it.
    pub policy: PolicyRef,
    /// Which of the policy's two lists has it.
    pub direction: Direction,
    /// Its place in that list.
    pub place: u32,
}

impl PolicySet {
    /// The policy at a place.
    pub fn policy(&self, at: PolicyRef) -> Option<&Policy> {
        self.policies.get(at.0 as usize).map(Arc::as_ref)
    }

    /// The rule at a place.
    pub fn rule(&self, at: RuleRef) -> Option<&Rule> {
        self.policy(at.policy)?.rules(at.direction).get(at.place as usize)
    }
}

impl FromIterator<Policy> for PolicySet {
    fn from_iter<I: IntoIterator<Item = Policy>>(policies: I) -> Self {
        Self { policies: policies.into_iter().map(Arc::new).collect() }
    }
}

/// One policy.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Policy {
    /// The kind of document that declared it.
    pub kind: PolicyKind,
    /// Its namespace: it selects workloads of this namespace only (N2, N11).
    pub namespace: String,
    /// Its name, unique with kind and namespace.
    pub name: String,
    /// The line of `metadata.name`.
    pub at: Origin,
    /// The stage of policy that its rules belong to.
    pub tier: Tier,
    /// Where it stands among the policies of its tier.
    pub priority: Priority,
    /// Which workloads of `namespace` it selects.
    pub subject: LabelSelector,
    /// It isolates its workloads for what they receive (N2).
    pub isolates_ingress: bool,
    /// It isolates its workloads for what they send (N2).
    pub isolates_egress: bool,
    /// Its rules of what its workloads receive. Empty where `isolates_ingress` is false.
    pub ingress: Vec<Rule>,
    /// Its rules of what its workloads send. Empty where `isolates_egress` is false.
    pub egress: Vec<Rule>,
}

impl Policy {
    /// Whether it isolates its workloads in a direction (N2).
    pub fn isolates(&self, direction: Direction) -> bool {
        match direction {
            Direction::Ingress => self.isolates_ingress,
            Direction::Egress => self.isolates_egress,
        }
    }

    /// Its rules of a direction.
    pub fn rules(&self, direction: Direction) -> &[Rule] {
        match direction {
            Direction::Ingress => &self.ingress,
            Direction::Egress => &self.egress,
        }
    }
}

/// The stages of policy (C1). `resolve::rank` says in which order they decide.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub enum Tier {
    /// Policies that isolate the workloads that they select (N1, N2).
    NetworkPolicy,
}

/// Where a policy stands in its tier (C2). `resolve::rank` says in which order priorities decide.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub struct Priority(u16);

impl Priority {
    /// The first to decide.
    pub const HIGHEST: Self = Self(0);
    /// The last to decide.
    pub const LOWEST: Self = Self(1000);

    /// The priority with this number; `None` if it is beyond [`Priority::LOWEST`].
    pub const fn new(number: u16) -> Option<Self> {
        if number <= Self::LOWEST.0 { Some(Self(number)) } else { None }
    }

    /// Its number.
    pub const fn number(self) -> u16 {
        self.0
    }
}

/// The kinds of document that make a [`Policy`].
#[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub enum PolicyKind {
    /// `networking.k8s.io/v1` NetworkPolicy.
    NetworkPolicy,
    /// `enforcer.dev/v1alpha1` FlowPolicy.
    FlowPolicy,
}

impl PolicyKind {
    /// The `apiVersion` field of the document.
    pub const fn api_version(self) -> &'static str {
        match self {
            Self::NetworkPolicy => "networking.k8s.io/v1",
            Self::FlowPolicy => "enforcer.dev/v1alpha1",
        }
    }

    /// The `kind` field of the document.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::NetworkPolicy => "NetworkPolicy",
            Self::FlowPolicy => "FlowPolicy",
        }
    }
}

/// One rule: it matches a flow by peers AND ports (N7).
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Rule {
    /// The first line of the rule's list item.
    pub at: Origin,
    /// What becomes of a flow that it matches.
    pub action: Action,
    /// Who is on the other side.
    pub peers: Peers,
    /// On which ports of the destination.
    pub ports: Ports,
}

/// What becomes of a flow that a rule matches. `resolve::rank` says which of several rules decides.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub enum Action {
    /// It passes.
    Allow,
    /// It is dropped. No kind of document says so yet.
    Deny,
}

/// The peers of a rule.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Peers {
    /// Absent or empty `from`/`to`: everybody, the outside and the node included (N7).
    Any,
    /// At least one item; a peer that any item matches is matched.
    Only(Vec<Peer>),
}

/// One peer item.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Peer {
    /// Workloads by label, in namespaces by label: both must match (N11).
    Workloads {
        /// In which namespaces.
        namespaces: NamespaceScope,
        /// Which workloads there; the empty selector matches all of them (N12).
        workloads: LabelSelector,
    },
    /// Addresses (N14, N15, N29).
    Cidr {
        /// Network address; its host bits are zero.
        cidr: IpNetwork,
        /// Strict subsets of `cidr` that this item leaves out; host bits zero.
        except: Vec<IpNetwork>,
    },
}

/// The namespaces that a workload peer names.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum NamespaceScope {
    /// The policy's own (N11).
    Own,
    /// Those whose labels match; the empty selector matches all of them (N12).
    Matching(LabelSelector),
}

/// The ports of a rule.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Ports {
    /// Absent or empty `ports`: every protocol and port (N7).
    Any,
    /// At least one item; a port that any item matches is matched.
    Only(Vec<PortSpec>),
}

/// One port item, of the destination.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum PortSpec {
    /// Every port of a protocol (N8).
    Every(Transport),
    /// Ports `first..=last` of a protocol (N9); `1 <= first <= last`.
    Range {
        /// Protocol.
        transport: Transport,
        /// First port.
        first: u16,
        /// Last port.
        last: u16,
    },
    /// A port by the name that the destination workload gives it (N10).
    Named {
        /// Name.
        name: String,
        /// Protocol that the workload's port must have; `None` takes any.
        transport: Option<Transport>,
    },
    /// Every type of ICMP and ICMPv6 (D4).
    Icmp,
}

/// The protocols with ports (N8).
#[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub enum Transport {
    /// TCP.
    Tcp,
    /// UDP.
    Udp,
    /// SCTP.
    Sctp,
}

/// A label selector: all requirements hold. Without a requirement it matches everything (N12).
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct LabelSelector {
    /// What must hold.
    pub requirements: Vec<Requirement>,
}

/// One requirement of a selector. `matchLabels` entries are `In` with one value.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Requirement {
    /// The key is there with one of the values.
    In(String, BTreeSet<String>),
    /// The key is absent, or has none of the values.
    NotIn(String, BTreeSet<String>),
    /// The key is there.
    Exists(String),
    /// The key is absent.
    DoesNotExist(String),
}

impl Requirement {
    /// The key of the label that it is about.
    pub fn key(&self) -> &str {
        match self {
            Self::In(key, _) | Self::NotIn(key, _) | Self::Exists(key) | Self::DoesNotExist(key) => key,
        }
    }
}

impl LabelSelector {
    /// Whether `labels` meet every requirement.
    pub fn matches(&self, labels: &BTreeMap<String, String>) -> bool {
        self.requirements.iter().all(|requirement| match requirement {
            Requirement::In(key, values) => labels.get(key).is_some_and(|value| values.contains(value)),
            Requirement::NotIn(key, values) => labels.get(key).is_none_or(|value| !values.contains(value)),
            Requirement::Exists(key) => labels.contains_key(key),
            Requirement::DoesNotExist(key) => !labels.contains_key(key),
        })
    }
}
