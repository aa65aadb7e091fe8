//! Decides which lists have to be read again after a netlink event.
//!
//! Input: the kind of the message and the namespace that sent it. The content of the message is not used: a later dump
//! reads it. Output: marks on the lists that are stale.

#![forbid(unsafe_code)]

use std::collections::BTreeSet;

use enforcer_common::id::Ifindex;

use netlink_packet_core::{NetlinkMessage, NetlinkPayload};
use netlink_packet_route::RouteNetlinkMessage;
use netlink_packet_route::nsid::NsidAttribute;

use super::listen::Heard;

/// Length of `struct nlmsghdr`.
const NETLINK_HEADER_LEN: usize = 16;
const RTM_DELNSID: u16 = 89;

/// What may have changed since it was read.
#[expect(clippy::struct_excessive_bools, reason = "one for each list that can be read by itself")]
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub(super) struct Stale {
    pub(super) links: bool,
    pub(super) routes: bool,
    pub(super) node: bool,
    pub(super) qdiscs: bool,
    pub(super) gone: BTreeSet<i32>,
    /// Devices of the node's namespace to ask for one by one: a list of hundreds costs tens of milliseconds.
    pub(super) single_links: BTreeSet<Ifindex>,
    inside: BTreeSet<i32>,
    all_inside: bool,
}

impl Stale {
    pub(super) fn everything() -> Self {
        Self { links: true, routes: true, node: true, qdiscs: true, all_inside: true, ..Self::default() }
    }

    pub(super) fn any(&self) -> bool {
        *self != Self::default()
    }

    /// Some device is new, gone or changed.
    pub(super) fn any_link(&self) -> bool {
        self.links || !self.single_links.is_empty()
    }

    /// Notes that everything was read except the inside of these namespaces. Namespaces that are gone must still be
    /// reported.
    pub(super) fn all_read_but(&mut self, inside: BTreeSet<i32>) {
        *self = Self { gone: std::mem::take(&mut self.gone), inside, ..Self::default() };
    }

    pub(super) fn inside_of(&self, nsid: i32) -> bool {
        self.all_inside || self.inside.contains(&nsid)
    }

    pub(super) fn mark(&mut self, heard: Heard) {
        match heard {
            Heard::Overrun => self.add_everything(),
            Heard::Datagram(nsid, bytes) => {
                let mut rest = bytes.as_slice();
                while rest.len() >= NETLINK_HEADER_LEN {
                    let length = u32::from_ne_bytes([rest[0], rest[1], rest[2], rest[3]]) as usize;
                    let kind = u16::from_ne_bytes([rest[4], rest[5]]);
                    if length < NETLINK_HEADER_LEN || length > rest.len() {
                        self.add_everything();
                        return;
                    }
                    self.mark_message(nsid, kind, &rest[..length]);
                    rest = &rest[length.next_multiple_of(4).min(rest.len())..];
                }
            }
        }
    }

    pub(super) fn add_everything(&mut self) {
        let gone = std::mem::take(&mut self.gone);
        *self = Self { gone, ..Self::everything() };
    }

    fn mark_message(&mut self, nsid: Option<i32>, kind: u16, bytes: &[u8]) {
        match (kind, nsid) {
            // A link that goes takes its IPv4 routes with it, and the kernel says nothing about those. It may also be
            // the far end of another one, which then leads elsewhere.
            (libc::RTM_NEWLINK | libc::RTM_DELLINK, None) => {
                match ifindex_in(bytes).filter(|_| kind == libc::RTM_NEWLINK) {
                    Some(index) => _ = self.single_links.insert(index),
                    None => self.links = true,
                }
                self.routes = true;
                self.node = true;
                // Nothing is said of its qdiscs either, and another device may get its number.
                self.qdiscs |= kind == libc::RTM_DELLINK;
            }
            (libc::RTM_NEWQDISC | libc::RTM_DELQDISC, None) => self.qdiscs = true,
            // A veth's far end that moves on is heard of only in the namespace that it leaves.
            (libc::RTM_DELLINK, Some(nsid)) => {
                self.links = true;
                self.inside.insert(nsid);
            }
            (libc::RTM_NEWADDR | libc::RTM_DELADDR, None) => {
                self.node = true;
                self.routes = true;
            }
            (libc::RTM_NEWLINK | libc::RTM_NEWADDR | libc::RTM_DELADDR, Some(nsid)) => {
                self.inside.insert(nsid);
            }
            (libc::RTM_NEWROUTE | libc::RTM_DELROUTE, None) => self.routes = true,
            (RTM_DELNSID, None) => {
                self.links = true;
                match nsid_in(bytes) {
                    Some(id) => _ = self.gone.insert(id),
                    None => self.add_everything(),
                }
            }
            _ => {}
        }
    }
}

/// `ifi_index` of `struct ifinfomsg`.
fn ifindex_in(bytes: &[u8]) -> Option<Ifindex> {
    bytes.get(NETLINK_HEADER_LEN + 4..)?.first_chunk::<4>().map(|index| Ifindex(u32::from_ne_bytes(*index)))
}

fn nsid_in(bytes: &[u8]) -> Option<i32> {
    let message = NetlinkMessage::<RouteNetlinkMessage>::deserialize(bytes).ok()?;
    let NetlinkPayload::InnerMessage(RouteNetlinkMessage::DelNsId(message)) = message.payload else {
        return None;
    };
    message.attributes.iter().find_map(|attribute| match attribute {
        NsidAttribute::Id(id) => Some(*id),
        _ => None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn message(kind: u16, length: u32) -> Vec<u8> {
        let mut bytes = vec![0; NETLINK_HEADER_LEN];
        bytes[..4].copy_from_slice(&length.to_ne_bytes());
        bytes[4..6].copy_from_slice(&kind.to_ne_bytes());
        bytes
    }

    fn stale_after(nsid: Option<i32>, kind: u16) -> Stale {
        let mut stale = Stale::default();
        stale.mark(Heard::Datagram(nsid, message(kind, 16)));
        stale
    }

    #[test]
    fn an_address_inside_concerns_that_namespace_only() {
        let stale = stale_after(Some(7), libc::RTM_NEWADDR);
        assert!(stale.inside_of(7) && !stale.inside_of(8));
        assert!(!stale.links && !stale.routes && !stale.node);
    }

    #[test]
    fn a_route_inside_concerns_nobody() {
        assert!(!stale_after(Some(7), libc::RTM_NEWROUTE).any());
        assert!(stale_after(None, libc::RTM_NEWROUTE).routes);
    }

    #[test]
    fn a_qdisc_concerns_the_devices_of_the_node_and_goes_with_its_device() {
        let only = Stale { qdiscs: true, ..Stale::default() };
        for kind in [libc::RTM_NEWQDISC, libc::RTM_DELQDISC] {
            assert_eq!((stale_after(None, kind), stale_after(Some(7), kind)), (only.clone(), Stale::default()));
        }
        assert!(stale_after(None, libc::RTM_DELLINK).qdiscs && !stale_after(None, libc::RTM_NEWLINK).qdiscs);
        assert!(!stale_after(None, libc::RTM_NEWTFILTER).any(), "the qdisc counts, whatever its filters do");
    }

    #[test]
    fn a_changed_link_is_asked_for_alone_and_a_gone_one_makes_all_stale() {
        let mut changed = message(libc::RTM_NEWLINK, 32);
        changed.extend([0, 0, 0, 0]);
        changed.extend(7_u32.to_ne_bytes());
        changed.extend([0; 8]);
        let mut stale = Stale::default();
        stale.mark(Heard::Datagram(None, changed));
        assert_eq!((stale.links, &stale.single_links), (false, &BTreeSet::from([Ifindex(7)])));
        assert!(stale_after(None, libc::RTM_DELLINK).links);
        assert!(stale_after(None, libc::RTM_NEWLINK).links, "no index in it");
    }

    #[test]
    fn a_link_inside_may_be_a_veth_that_moved_on() {
        assert!(stale_after(Some(7), libc::RTM_DELLINK).links);
    }

    #[test]
    fn a_lying_length_and_an_overrun_make_everything_stale_and_forget_no_namespace() {
        for heard in [Heard::Datagram(None, message(libc::RTM_NEWROUTE, 4096)), Heard::Overrun] {
            let mut stale = Stale { gone: BTreeSet::from([3]), ..Stale::default() };
            stale.mark(heard);
            assert_eq!(stale, Stale { gone: BTreeSet::from([3]), ..Stale::everything() });
        }
    }
}
