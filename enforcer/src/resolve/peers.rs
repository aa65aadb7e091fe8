//! The peers to which a rule applies.
//!
//! Input: what `resolver` found for the rule's peer items. Output: a [`PeerSet`], which still names groups and CIDRs.

use std::net::IpAddr;

use enforcer_common::id::Address;
use ipnetwork::IpNetwork;

use super::directory::GroupId;

/// The id of a set, for [`ResolvedPolicy::peer_set`](super::ResolvedPolicy::peer_set).
#[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub struct PeerSetId(pub u32);

/// Peers of a rule: an address is in the set if any part holds it.
#[derive(Clone, Debug, Default, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub struct PeerSet {
    /// Every address (N7).
    pub any: bool,
    /// All addresses of these groups of workloads. Sorted.
    pub groups: Vec<GroupId>,
    /// Single addresses of known workloads. Sorted.
    pub addresses: Vec<Address>,
    /// Address blocks, whoever has the address (N15). Sorted.
    pub blocks: Vec<Block>,
}

/// An `ipBlock` or `cidr` item (N14).
#[derive(Clone, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub struct Block {
    /// The block; its host bits are zero.
    pub cidr: IpNetwork,
    /// The parts that this item alone leaves out. They lie inside `cidr`, do not overlap, and are sorted.
    pub except: Vec<IpNetwork>,
}

impl Block {
    /// Makes a block. A part of `except` that lies in another part is dropped.
    pub(super) fn new(cidr: IpNetwork, except: &[IpNetwork]) -> Self {
        let mut sorted: Vec<IpNetwork> =
            except.iter().copied().filter(|part| part.is_ipv4() == cidr.is_ipv4()).collect();
        sorted.sort_unstable_by_key(|part| (part.network(), part.prefix()));
        let mut apart: Vec<IpNetwork> = Vec::with_capacity(sorted.len());
        for part in sorted {
            if !apart.last().is_some_and(|last| last.contains(part.network())) {
                apart.push(part);
            }
        }
        Self { cidr, except: apart }
    }

    /// Whether it holds an address. An IPv4 block says nothing of IPv6, and the other way round (N29).
    pub fn contains(&self, address: IpAddr) -> bool {
        self.cidr.contains(address) && !self.except.iter().any(|part| part.contains(address))
    }
}

impl PeerSet {
    /// Every address.
    pub(super) fn everybody() -> Self {
        Self { any: true, ..Self::default() }
    }

    /// Whether the set holds no address.
    pub fn is_empty(&self) -> bool {
        !self.any && self.groups.is_empty() && self.addresses.is_empty() && self.blocks.is_empty()
    }

    /// Whether the set holds an address. `group` is the group of the workload that has the address. Without `by_number`
    /// the address counts for nothing but that workload (D11).
    pub fn contains(&self, address: Address, group: Option<GroupId>, by_number: bool) -> bool {
        let numbered = || {
            self.addresses.binary_search(&address).is_ok()
                || self.blocks.iter().any(|block| block.contains(address.into()))
        };
        self.any || group.is_some_and(|group| self.groups.binary_search(&group).is_ok()) || by_number && numbered()
    }
}
