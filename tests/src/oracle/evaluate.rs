//! The naive evaluator: it tests one flow against all policies, rule by rule, as the numbered semantics say.
//!
//! A test can leave out a number or get it wrong on purpose. If the verdict of a flow then changes, that number decides the
//! flow.

use std::net::IpAddr;

use enforcer::policy::model::{
    Action, LabelSelector, NamespaceScope, Peer, Peers, Policy, PolicySet, PortSpec, Ports, Requirement, Rule,
    Transport,
};
use enforcer::workload::model::{Identity, Labels, LocalWorkload, Snapshot, Voucher, WorkloadKey};
use enforcer_common::id::Direction;
use ipnetwork::IpNetwork;

use crate::world::Unknown;

/// What can be got wrong.
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub enum Number {
    /// A workload that no policy selects is closed.
    N1,
    /// A policy isolates workloads of other namespaces too.
    N2,
    /// Absent policy types isolate both directions. The policies themselves differ: see `declare`.
    N3,
    /// Only the first policy that isolates counts.
    N4,
    /// A rule that allows outweighs one that denies.
    D2,
    /// Only the sender's side counts.
    N5,
    /// A policy without rules does not isolate.
    N6,
    /// Without peers: any known workload. Without ports: TCP.
    N7,
    /// A protocol without ports is every protocol.
    N8,
    /// `endPort` is ignored.
    N9,
    /// A named port is the selected workload's, of whatever protocol.
    N10,
    /// Namespace and workload selector in one item: either is enough; alone, the latter selects everywhere.
    N11,
    /// An empty selector selects nothing.
    N12,
    /// Namespaces have no label of their name.
    N13,
    /// `except` is ignored.
    N14,
    /// A block holds no workloads.
    N15,
    /// The node is judged like any peer.
    N18,
    /// A workload may be cut off from itself.
    N19,
    /// Only the first address of a workload is known.
    N29,
    /// A workload that nobody has named is selected by the empty selector.
    UnknownPeer,
    /// A disputed address belongs to the first that shows it.
    Disputed,
    /// A block that allows something holds an address that a workload merely shows.
    D11,
    /// The node sends from the address of a workload.
    D12,
    /// The labels of containers that share a network namespace are united.
    D14,
}

impl Number {
    /// All of them.
    pub const ALL: [Self; 24] = [
        Self::N1,
        Self::N2,
        Self::N3,
        Self::N4,
        Self::D2,
        Self::N5,
        Self::N6,
        Self::N7,
        Self::N8,
        Self::N9,
        Self::N10,
        Self::N11,
        Self::N12,
        Self::N13,
        Self::N14,
        Self::N15,
        Self::N18,
        Self::N19,
        Self::N29,
        Self::UnknownPeer,
        Self::Disputed,
        Self::D11,
        Self::D12,
        Self::D14,
    ];
}

/// What a flow wants of its destination.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Wants {
    /// A port.
    Port(Transport, u16),
    /// An ICMP type of the flow's family.
    Icmp(u8),
    /// Another protocol.
    Other(u8),
}

/// A new flow, as far as this node sees it.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Flow {
    /// The local workload that sends.
    pub from: Option<WorkloadKey>,
    /// The local workload that receives.
    pub to: Option<WorkloadKey>,
    /// Source address.
    pub source: IpAddr,
    /// Destination address.
    pub destination: IpAddr,
    /// What it wants.
    pub wants: Wants,
    /// This node made it.
    pub from_node: bool,
}

/// The evaluator.
#[derive(Clone, Copy)]
pub struct Oracle<'a> {
    /// Declared policies.
    pub policies: &'a PolicySet,
    /// Who is where.
    pub snapshot: &'a Snapshot,
    /// What becomes of unknown workloads.
    pub unknown: Unknown,
    /// What is got wrong.
    pub without: Option<Number>,
}

impl<'a> Oracle<'a> {
    fn lacks(&self, number: Number) -> bool {
        self.without == Some(number)
    }

    /// Whether a flow passes: by the sender's side and by the receiver's (N5).
    pub fn allows(&self, flow: &Flow) -> bool {
        let sends =
            flow.from.is_none_or(|from| self.side(from, Direction::Egress, flow.destination, flow.wants, false));
        let receives =
            flow.to.is_none_or(|to| self.side(to, Direction::Ingress, flow.source, flow.wants, flow.from_node));
        // What a workload sends to its own address in a protocol without ports looks like the answer, too.
        let answers = flow.from == flow.to && flow.source == flow.destination && matches!(flow.wants, Wants::Other(_));
        if answers || self.lacks(Number::N5) && flow.from.is_some() {
            return sends;
        }
        let forged = flow.from_node && self.is_vouched(flow.source) && !self.lacks(Number::D12);
        sends && receives && !forged
    }

    /// One side of a flow.
    pub fn side(&self, of: WorkloadKey, direction: Direction, peer: IpAddr, wants: Wants, from_node: bool) -> bool {
        let Some(workload) = self.snapshot.local.get(&of) else {
            return false;
        };
        let Some(identity) = &workload.identity else {
            return self.unknown == Unknown::Open;
        };
        if from_node && !self.lacks(Number::N18) {
            return true;
        }
        let vouched = workload.addresses.get(&peer).is_some_and(|voucher| !voucher.is_nobody());
        if vouched && !self.lacks(Number::N19) {
            return true;
        }
        self.by_policy(identity, direction, peer, wants)
    }

    /// What the policies alone say.
    pub fn by_policy(&self, subject: &Identity, direction: Direction, peer: IpAddr, wants: Wants) -> bool {
        let mut isolating = self.policies.policies.iter().map(AsRef::as_ref).filter(|policy: &&Policy| {
            let namespace = policy.namespace == subject.name.namespace || self.lacks(Number::N2);
            let isolates = match direction {
                Direction::Ingress => policy.isolates_ingress,
                Direction::Egress => policy.isolates_egress,
            };
            let empty = rules(policy, direction).is_empty() && self.lacks(Number::N6);
            namespace && isolates && !empty && self.selects_one(&policy.subject, subject)
        });
        let Some(first) = isolating.next() else {
            return !self.lacks(Number::N1);
        };
        let says = |policy: &Policy, action: Action| {
            let mut rules = rules(policy, direction).iter().filter(|rule| rule.action == action);
            rules.any(|rule| self.rule_matches(policy, rule, subject, direction, peer, wants))
        };
        let others: Vec<&Policy> = if self.lacks(Number::N4) { Vec::new() } else { isolating.collect() };
        let any_says = |action| says(first, action) || others.iter().any(|policy| says(policy, action));
        any_says(Action::Allow) && (self.lacks(Number::D2) || !any_says(Action::Deny))
    }

    fn rule_matches(
        &self,
        policy: &Policy,
        rule: &Rule,
        subject: &Identity,
        direction: Direction,
        peer: IpAddr,
        wants: Wants,
    ) -> bool {
        let who = self.who(peer);
        let destination = match direction {
            Direction::Ingress => Some(subject),
            Direction::Egress if self.lacks(Number::N10) => Some(subject),
            Direction::Egress => who,
        };
        let peers = match &rule.peers {
            Peers::Any => !self.lacks(Number::N7) || who.is_some(),
            Peers::Only(items) => items.iter().any(|item| self.peer_matches(policy, (rule.action, item), peer, who)),
        };
        let ports = match &rule.ports {
            Ports::Any => !self.lacks(Number::N7) || matches!(wants, Wants::Port(Transport::Tcp, _)),
            Ports::Only(items) => items.iter().any(|item| self.port_matches(item, destination, wants)),
        };
        peers && ports
    }

    fn peer_matches(
        &self,
        policy: &Policy,
        (action, item): (Action, &Peer),
        peer: IpAddr,
        who: Option<&Identity>,
    ) -> bool {
        match item {
            Peer::Cidr { cidr, except } => {
                let known = self.lacks(Number::N15) && self.is_workload(peer);
                let left_out = !self.lacks(Number::N14) && except.iter().any(|part| holds(part, peer));
                let unvouched = action == Action::Allow && self.is_shown(peer) && !self.lacks(Number::D11);
                !known && !unvouched && holds(cidr, peer) && !left_out
            }
            Peer::Workloads { namespaces, workloads } => {
                let Some(who) = who else {
                    return self.lacks(Number::UnknownPeer)
                        && self.is_unknown(peer)
                        && workloads.requirements.is_empty();
                };
                let pod = self.selects_one(workloads, who);
                match namespaces {
                    NamespaceScope::Own => pod && (who.name.namespace == policy.namespace || self.lacks(Number::N11)),
                    NamespaceScope::Matching(selector) => {
                        let namespace = self.selects(selector, &self.namespace_labels(&who.name.namespace));
                        if self.lacks(Number::N11) { namespace || pod } else { namespace && pod }
                    }
                }
            }
        }
    }

    fn port_matches(&self, item: &PortSpec, destination: Option<&Identity>, wants: Wants) -> bool {
        match (item, wants) {
            (PortSpec::Every(protocol), Wants::Port(wanted, _)) => *protocol == wanted || self.lacks(Number::N8),
            (PortSpec::Every(_), _) => self.lacks(Number::N8),
            (PortSpec::Range { transport, first, last }, Wants::Port(wanted, port)) => {
                let last = if self.lacks(Number::N9) { first } else { last };
                *transport == wanted && *first <= port && port <= *last
            }
            (PortSpec::Named { name, transport }, Wants::Port(wanted, port)) => {
                let served = destination.and_then(|destination| destination.ports.get(name));
                served.is_some_and(|served| {
                    served.iter().any(|served| {
                        let protocol =
                            served.protocol == number(wanted) && transport.is_none_or(|transport| transport == wanted);
                        served.port == port && (protocol || self.lacks(Number::N10))
                    })
                })
            }
            (PortSpec::Icmp, Wants::Icmp(_)) => true,
            _ => false,
        }
    }

    /// The workload that selectors see behind an address.
    fn who(&self, address: IpAddr) -> Option<&'a Identity> {
        if self.snapshot.node.contains(&address) {
            return None;
        }
        let shows = |addresses: &mut dyn Iterator<Item = &IpAddr>| {
            let first = if self.lacks(Number::N29) { 1 } else { usize::MAX };
            addresses.take(first).any(|own| *own == address)
        };
        let mut local = self
            .snapshot
            .local
            .values()
            .filter(|workload| shows(&mut workload.addresses.keys()) || workload.disputed.contains_key(&address));
        if let Some(first) = local.next() {
            let disputed = first.disputed.contains_key(&address) || local.next().is_some();
            return if disputed && !self.lacks(Number::Disputed) { None } else { first.identity.as_ref() };
        }
        let mut remote = self.snapshot.remote.iter().filter(|workload| shows(&mut workload.addresses.iter()));
        let first = remote.next()?;
        if remote.next().is_some() && !self.lacks(Number::Disputed) {
            return None;
        }
        Some(&first.identity)
    }

    fn is_workload(&self, address: IpAddr) -> bool {
        let local = self.snapshot.local.values().any(|workload| workload.addresses.contains_key(&address));
        local || self.snapshot.remote.iter().any(|workload| workload.addresses.contains(&address))
    }

    fn is_shown(&self, address: IpAddr) -> bool {
        self.vouchers(address).any(Voucher::is_nobody)
    }

    fn is_vouched(&self, address: IpAddr) -> bool {
        self.vouchers(address).any(|voucher| !voucher.is_nobody())
    }

    fn vouchers(&self, address: IpAddr) -> impl Iterator<Item = &'a Voucher> {
        let voucher = move |workload: &'a LocalWorkload| {
            workload.addresses.get(&address).or_else(|| workload.disputed.get(&address))
        };
        self.snapshot.local.values().filter_map(voucher)
    }

    fn is_unknown(&self, address: IpAddr) -> bool {
        self.snapshot
            .local
            .values()
            .any(|workload| workload.identity.is_none() && workload.addresses.contains_key(&address))
    }

    fn namespace_labels(&self, namespace: &str) -> Labels {
        const NAME: &str = "kubernetes.io/metadata.name";
        let mut labels = match self.snapshot.namespaces.get(namespace) {
            Some(labels) => labels.clone(),
            None => Labels::from([(NAME.to_owned(), namespace.to_owned())]),
        };
        if self.lacks(Number::N13) {
            labels.remove(NAME);
        }
        labels
    }

    /// Whether a selector matches the labels of one container of a workload.
    fn selects_one(&self, selector: &LabelSelector, workload: &Identity) -> bool {
        if self.lacks(Number::D14) {
            return self.selects(selector, &workload.labels.iter().flatten().map(owned).collect());
        }
        workload.labels.iter().any(|container| self.selects(selector, container))
    }

    fn selects(&self, selector: &LabelSelector, labels: &Labels) -> bool {
        if selector.requirements.is_empty() {
            return !self.lacks(Number::N12);
        }
        selector.requirements.iter().all(|requirement| {
            let (key, present) = match requirement {
                Requirement::In(key, _)
                | Requirement::NotIn(key, _)
                | Requirement::Exists(key)
                | Requirement::DoesNotExist(key) => (key, labels.get(key)),
            };
            debug_assert!(!key.is_empty());
            match (requirement, present) {
                (Requirement::In(_, values), Some(value)) => values.contains(value),
                (Requirement::NotIn(_, values), Some(value)) => !values.contains(value),
                (Requirement::Exists(_), Some(_)) | (Requirement::NotIn(..) | Requirement::DoesNotExist(_), None) => {
                    true
                }
                (Requirement::In(..) | Requirement::Exists(_), None) | (Requirement::DoesNotExist(_), Some(_)) => false,
            }
        })
    }
}

fn owned((key, value): (&String, &String)) -> (String, String) {
    (key.clone(), value.clone())
}

fn rules(policy: &Policy, direction: Direction) -> &[Rule] {
    match direction {
        Direction::Ingress => &policy.ingress,
        Direction::Egress => &policy.egress,
    }
}

/// The IP protocol number of a protocol with ports.
pub fn number(transport: Transport) -> u8 {
    match transport {
        Transport::Tcp => 6,
        Transport::Udp => 17,
        Transport::Sctp => 132,
    }
}

/// Whether the first bits of an address are those of a block of the same family.
fn holds(block: &IpNetwork, address: IpAddr) -> bool {
    let (block_bits, address_bits, width) = match (block.ip(), address) {
        (IpAddr::V4(block), IpAddr::V4(address)) => (u128::from(block.to_bits()), u128::from(address.to_bits()), 32),
        (IpAddr::V6(block), IpAddr::V6(address)) => (block.to_bits(), address.to_bits(), 128),
        _ => return false,
    };
    let free = width - u32::from(block.prefix());
    free == 128 || block_bits >> free == address_bits >> free
}
