//! Asks the kernel for complete lists of links, addresses and routes, and for the nsid of a namespace's path.
//!
//! Output: the parts of a `NetworkView`. If a list changed while it was read, it is read again.

#![forbid(unsafe_code)]

use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::io;
use std::net::IpAddr;
use std::os::fd::AsRawFd;
use std::path::Path;

use enforcer_common::id::Ifindex;

use futures_util::StreamExt;
use netlink_packet_core::{NLM_F_DUMP, NLM_F_DUMP_INTR, NLM_F_REQUEST, NetlinkMessage, NetlinkPayload};
use netlink_packet_route::address::{AddressAttribute, AddressMessage};
use netlink_packet_route::link::{
    InfoBridge, InfoData, InfoKind, LinkAttribute, LinkExtentMask, LinkInfo, LinkMessage, LinkXdp, XdpAttached,
};
use netlink_packet_route::nsid::{NsidAttribute, NsidMessage};
use netlink_packet_route::route::RouteMessage;
use netlink_packet_route::tc::{TcHandle, TcHeader, TcMessage};
use netlink_packet_route::{AddressFamily, RouteNetlinkMessage};

use super::NetlinkError;
use super::devices::{Leads, is_up, kind_name, leads, netns_of};
use super::routes::{Routes, collect_routes};
use crate::workload::model::ForeignDevice;
use crate::workload::view::{Kind, Link, VethPeer};

/// A dump that keeps changing under us is taken as it is after this many tries: the change itself is an event, which
/// makes another dump.
const DUMP_TRIES: usize = 4;

/// So many addresses of one container's namespace are kept, the first that the kernel lists. A container chooses their
/// number; no more than a few can be its own.
const ADDRESSES_INSIDE: usize = 256;

/// More devices inside a namespace than any container needs.
const DEVICES_INSIDE: usize = 64;
/// So many of the devices of one namespace that pass no program are named, and of those that may.
const FOREIGN: usize = 8;

/// What is inside one container's namespace.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub(super) struct Inside {
    /// Addresses on any device but the loopback's own.
    pub(super) addresses: BTreeSet<IpAddr>,
    /// How many more there are.
    pub(super) unread: usize,
    /// MAC addresses of the ends of our veths, by ifindex. The numbers belong to the container's namespace.
    pub(super) macs: BTreeMap<u32, [u8; 6]>,
    /// Devices that end at none of our hooks, by name.
    pub(super) foreign: BTreeMap<String, ForeignDevice>,
    /// Veths to a namespace that is neither the node's nor their own.
    pub(super) far: Vec<FarVeth>,
    /// It has so many devices that reading them again and again would keep us from the others.
    pub(super) crowded: bool,
    /// We may not look.
    pub(super) refused: bool,
}

/// Addresses of one namespace.
#[derive(Default)]
struct Addresses {
    all: BTreeSet<IpAddr>,
    /// How many more there are.
    unread: usize,
    /// By the number of their device.
    at: BTreeMap<u32, BTreeSet<IpAddr>>,
}

/// A veth inside a namespace that leads to another one, but not to the node's.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(super) struct FarVeth {
    /// The nsid of the other namespace. The kernel gives it as the asking namespace numbers it, which is the node's.
    pub(super) there: i32,
    pub(super) name: String,
    pub(super) device: ForeignDevice,
}

/// Handle for requests. Opened in the namespace of the calling thread.
#[derive(Clone, Debug)]
pub(in crate::workload) struct Requests {
    handle: rtnetlink::Handle,
}

impl Requests {
    /// Opens the socket and spawns its task.
    pub(in crate::workload) fn open() -> Result<Self, NetlinkError> {
        // Without strict checking the kernel ignores the target nsid and answers with our own addresses.
        let (connection, handle, _) =
            rtnetlink::new_connection_with_strict_check().map_err(|source| NetlinkError::Open { source })?;
        tokio::spawn(connection);
        Ok(Self { handle })
    }

    /// All devices of this namespace.
    pub(super) async fn links(&self) -> Result<BTreeMap<Ifindex, Link>, NetlinkError> {
        let mut links = BTreeMap::new();
        for message in self.dump(RouteNetlinkMessage::GetLink(link_request(None))).await? {
            if let RouteNetlinkMessage::NewLink(link) = message {
                links.insert(Ifindex(link.header.index), link_of(&link));
            }
        }
        Ok(links)
    }

    /// One device of this namespace; `None` if it is gone.
    pub(super) async fn link(&self, index: Ifindex) -> Result<Option<Link>, NetlinkError> {
        let mut request = link_request(None);
        request.header.index = index.0;
        match self.ask(RouteNetlinkMessage::GetLink(request), NLM_F_REQUEST).await {
            Ok((messages, _)) => Ok(messages.iter().find_map(|message| match message {
                RouteNetlinkMessage::NewLink(link) => Some(link_of(link)),
                _ => None,
            })),
            Err(NetlinkError::Refused { source }) if source.raw_os_error() == Some(libc::ENODEV) => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Addresses of the node.
    pub(super) async fn node_addresses(&self) -> Result<BTreeSet<IpAddr>, NetlinkError> {
        Ok(self.addresses(None, usize::MAX).await?.all)
    }

    /// Routes of the node.
    pub(super) async fn routes(&self) -> Result<Routes, NetlinkError> {
        let mut routes = Routes::default();
        for family in [AddressFamily::Inet, AddressFamily::Inet6] {
            let mut request = RouteMessage::default();
            request.header.address_family = family;
            for message in self.dump(RouteNetlinkMessage::GetRoute(request)).await? {
                if let RouteNetlinkMessage::NewRoute(route) = message {
                    collect_routes(&route, &mut routes);
                }
            }
        }
        routes.routes.sort();
        routes.routes.dedup();
        Ok(routes)
    }

    /// Devices of the node with a qdisc whose filters see what they receive: one message for each qdisc of the node.
    pub(super) async fn filtered(&self) -> Result<BTreeSet<Ifindex>, NetlinkError> {
        let messages = match self.dump(RouteNetlinkMessage::GetQueueDiscipline(TcMessage::default())).await {
            // A kernel without traffic control.
            Err(NetlinkError::Refused { source }) if source.raw_os_error() == Some(libc::EOPNOTSUPP) => Vec::new(),
            messages => messages?,
        };
        Ok(messages.iter().filter_map(filtered_in).collect())
    }

    /// Addresses inside the namespace with this nsid and the MACs of these devices in it; nothing if it is gone. The numbers
    /// of the devices belong to that namespace.
    pub(super) async fn inside(&self, nsid: i32, devices: &BTreeSet<u32>) -> Result<Inside, NetlinkError> {
        let Addresses { all, unread, at } = match self.addresses(Some(nsid), ADDRESSES_INSIDE).await {
            Ok(found) => found,
            Err(NetlinkError::Refused { source }) => {
                let refused = source.kind() == io::ErrorKind::PermissionDenied;
                return Ok(Inside { refused, ..Inside::default() });
            }
            Err(error) => return Err(error),
        };
        let mut macs = BTreeMap::new();
        let mut home = None;
        // One by one: the container chooses how many devices a list would have.
        for index in devices {
            let mut request = link_request(Some(nsid));
            request.header.index = *index;
            match self.ask(RouteNetlinkMessage::GetLink(request), NLM_F_REQUEST).await {
                Ok((messages, _)) => {
                    for message in &messages {
                        if let RouteNetlinkMessage::NewLink(link) = message {
                            macs.extend(mac_of(link).map(|mac| (*index, mac)));
                            // Its far end is ours, so this is how the kernel calls our own namespace.
                            home = netns_of(link).or(home);
                        }
                    }
                }
                Err(NetlinkError::Refused { .. }) => {}
                Err(error) => return Err(error),
            }
        }
        let mut inside = Inside { addresses: all, unread, macs, ..Inside::default() };
        self.devices(nsid, home, &at, &mut inside).await?;
        Ok(inside)
    }

    /// Notes the devices inside the namespace with this nsid that end at none of our hooks, and whether there are many
    /// devices. `home`: how the kernel calls our own namespace there. `at`: the addresses of each device.
    async fn devices(
        &self,
        nsid: i32,
        home: Option<i32>,
        at: &BTreeMap<u32, BTreeSet<IpAddr>>,
        inside: &mut Inside,
    ) -> Result<(), NetlinkError> {
        let mut devices = 0;
        let request = RouteNetlinkMessage::GetLink(link_request(Some(nsid)));
        let read = self
            .each(request, NLM_F_REQUEST | NLM_F_DUMP, |message| {
                devices += 1;
                let RouteNetlinkMessage::NewLink(link) = message else { return };
                let leads = leads(&link, home);
                let (name, index) = (link_of(&link).name, link.header.index);
                let device = || ForeignDevice {
                    kind: kind_name(&link),
                    addresses: at.get(&index).cloned().unwrap_or_default(),
                    over_node: leads == Leads::OverNode,
                };
                match leads {
                    Leads::OverNode | Leads::Away if inside.foreign.len() < FOREIGN => {
                        inside.foreign.insert(name, device());
                    }
                    Leads::Far(there) if inside.far.len() < FOREIGN && is_up(&link) => {
                        inside.far.push(FarVeth { there, name, device: device() });
                    }
                    // A device over the node closes the workload, so it must not be crowded out.
                    Leads::OverNode if !inside.foreign.values().any(|known| known.over_node) => {
                        inside.foreign.insert(name, device());
                    }
                    Leads::Home | Leads::OverNode | Leads::Away | Leads::Far(_) => {}
                }
            })
            .await;
        match read {
            Ok(_) => {
                inside.crowded = devices > DEVICES_INSIDE;
                Ok(())
            }
            Err(NetlinkError::Refused { .. }) => {
                (inside.foreign, inside.far) = (BTreeMap::new(), Vec::new());
                Ok(())
            }
            Err(error) => Err(error),
        }
    }

    /// The nsid of the namespace that a path stands for; `None` if there is none, or no device of ours leads there.
    pub(in crate::workload) async fn nsid_of(&self, path: &Path) -> Result<Option<i32>, NetlinkError> {
        let Ok(file) = File::open(path) else { return Ok(None) };
        let mut request = NsidMessage::default();
        request.attributes.push(NsidAttribute::Fd(u32::try_from(file.as_raw_fd()).unwrap_or(u32::MAX)));
        match self.ask(RouteNetlinkMessage::GetNsId(request), NLM_F_REQUEST).await {
            Ok((messages, _)) => Ok(messages.iter().find_map(nsid_in)),
            // A path that is no network namespace.
            Err(NetlinkError::Refused { .. }) => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// The nsid of the namespace in which a process is; `None` if it is gone, or no device of ours leads there.
    pub(in crate::workload) async fn nsid_of_process(&self, pid: u32) -> Option<i32> {
        let mut request = NsidMessage::default();
        request.attributes.push(NsidAttribute::Pid(pid));
        let (messages, _) = self.ask(RouteNetlinkMessage::GetNsId(request), NLM_F_REQUEST).await.ok()?;
        messages.iter().find_map(nsid_in)
    }

    /// At most so many addresses, and how many more there are.
    async fn addresses(&self, nsid: Option<i32>, most: usize) -> Result<Addresses, NetlinkError> {
        let mut request = AddressMessage::default();
        request.attributes.extend(nsid.map(AddressAttribute::TargetNetNsId));
        let request = RouteNetlinkMessage::GetAddress(request);
        let mut tries = 1;
        loop {
            let Addresses { mut all, mut unread, mut at } = Addresses::default();
            let interrupted = self
                .each(request.clone(), NLM_F_REQUEST | NLM_F_DUMP, |message| {
                    if let RouteNetlinkMessage::NewAddress(message) = message
                        && let Some(address) = address_of(&message)
                    {
                        if all.len() < most || all.contains(&address) {
                            all.insert(address);
                            at.entry(message.header.index).or_default().insert(address);
                        } else {
                            unread += 1;
                        }
                    }
                })
                .await?;
            // Who shows so many that not all are read does not make us read them again and again.
            if !interrupted || tries == DUMP_TRIES || unread > 0 {
                return Ok(Addresses { all, unread, at });
            }
            tries += 1;
        }
    }

    async fn dump(&self, request: RouteNetlinkMessage) -> Result<Vec<RouteNetlinkMessage>, NetlinkError> {
        let mut tries = 1;
        loop {
            let (messages, interrupted) = self.ask(request.clone(), NLM_F_REQUEST | NLM_F_DUMP).await?;
            if !interrupted || tries == DUMP_TRIES {
                return Ok(messages);
            }
            tries += 1;
        }
    }

    async fn ask(
        &self,
        request: RouteNetlinkMessage,
        flags: u16,
    ) -> Result<(Vec<RouteNetlinkMessage>, bool), NetlinkError> {
        let mut messages = Vec::new();
        let interrupted = self.each(request, flags, |message| messages.push(message)).await?;
        Ok((messages, interrupted))
    }

    /// Hands on every answer; tells whether what they list changed meanwhile.
    async fn each(
        &self,
        request: RouteNetlinkMessage,
        flags: u16,
        mut take: impl FnMut(RouteNetlinkMessage),
    ) -> Result<bool, NetlinkError> {
        let mut message = NetlinkMessage::from(request);
        message.header.flags = flags;
        let mut handle = self.handle.clone();
        let mut answers = handle.request(message).map_err(|_| NetlinkError::Closed)?;
        let mut interrupted = false;
        while let Some(answer) = answers.next().await {
            interrupted |= answer.header.flags & NLM_F_DUMP_INTR != 0;
            match answer.payload {
                NetlinkPayload::InnerMessage(inner) => take(inner),
                NetlinkPayload::Error(error) if error.code.is_some() => {
                    return Err(NetlinkError::Refused { source: error.to_io() });
                }
                NetlinkPayload::Done(done) if done.code < 0 => {
                    return Err(NetlinkError::Refused { source: io::Error::from_raw_os_error(-done.code) });
                }
                NetlinkPayload::Overrun(_) => interrupted = true,
                _ => {}
            }
        }
        Ok(interrupted)
    }
}

fn nsid_in(message: &RouteNetlinkMessage) -> Option<i32> {
    let RouteNetlinkMessage::NewNsId(answer) = message else { return None };
    answer.attributes.iter().find_map(|attribute| match attribute {
        NsidAttribute::Id(id) if *id >= 0 => Some(*id),
        _ => None,
    })
}

/// The device of a qdisc, if that is one of the two kinds whose filters see what the device receives: the kernel puts both of
/// them under the same parent.
fn filtered_in(message: &RouteNetlinkMessage) -> Option<Ifindex> {
    let RouteNetlinkMessage::NewQueueDiscipline(qdisc) = message else { return None };
    let TcHeader { index, parent, .. } = qdisc.header;
    (parent == TcHandle::INGRESS).then(|| Ifindex(index.unsigned_abs()))
}

fn link_request(nsid: Option<i32>) -> LinkMessage {
    let mut request = LinkMessage::default();
    request.attributes.push(LinkAttribute::ExtMask(vec![LinkExtentMask::SkipStats]));
    request.attributes.extend(nsid.map(LinkAttribute::IfNetnsId));
    request
}

fn link_of(message: &LinkMessage) -> Link {
    let (mut name, mut kind, mut veth, mut by_vlan) = (String::new(), Kind::Plain, false, false);
    let (mut master, mut below, mut nsid) = (None, None, None);
    let mut xdp = false;
    for attribute in &message.attributes {
        match attribute {
            LinkAttribute::IfName(value) => name.clone_from(value),
            LinkAttribute::Controller(index) => master = Some(Ifindex(*index)),
            LinkAttribute::Link(index) => below = Some(Ifindex(*index)),
            LinkAttribute::LinkNetNsId(id) => nsid = Some(*id),
            LinkAttribute::Xdp(facts) => xdp = facts.iter().any(is_attached),
            LinkAttribute::LinkInfo(infos) => {
                for info in infos {
                    match info {
                        LinkInfo::Kind(value) => {
                            veth = *value == InfoKind::Veth;
                            kind = kind_of(value);
                        }
                        LinkInfo::Data(InfoData::Bridge(facts)) => {
                            by_vlan = facts.contains(&InfoBridge::VlanFiltering(true));
                        }
                        _ => {}
                    }
                }
            }
            _ => {}
        }
    }
    // A negative nsid: the far namespace is on its way out and has lost its id.
    let peer = nsid.filter(|_| veth).map(|id| VethPeer {
        nsid: (id >= 0).then_some(id),
        index: below.unwrap_or_default().0,
        mac: None,
    });
    if nsid.is_some() {
        below = None;
    }
    Link { name, kind, master, below, peer, mac: mac_of(message).filter(|_| !by_vlan), xdp }
}

fn is_attached(fact: &LinkXdp) -> bool {
    matches!(fact, LinkXdp::Attached(how) if *how != XdpAttached::None)
}

fn kind_of(kind: &InfoKind) -> Kind {
    match kind {
        InfoKind::Bridge => Kind::Bridge,
        InfoKind::Bond | InfoKind::Team => Kind::Master,
        InfoKind::Vrf => Kind::Vrf,
        InfoKind::Vlan | InfoKind::MacVlan | InfoKind::IpVlan => Kind::Stacked,
        _ => Kind::Plain,
    }
}

fn mac_of(message: &LinkMessage) -> Option<[u8; 6]> {
    message.attributes.iter().find_map(|attribute| match attribute {
        LinkAttribute::Address(bytes) => bytes.as_slice().try_into().ok(),
        _ => None,
    })
}

/// Local before Address: on a point-to-point link Address is the far end.
fn address_of(message: &AddressMessage) -> Option<IpAddr> {
    let find = |wanted: fn(&AddressAttribute) -> Option<IpAddr>| message.attributes.iter().find_map(wanted);
    find(|attribute| match attribute {
        AddressAttribute::Local(address) => Some(*address),
        _ => None,
    })
    .or_else(|| {
        find(|attribute| match attribute {
            AddressAttribute::Address(address) => Some(*address),
            _ => None,
        })
    })
    .filter(|address| !address.is_loopback())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_qdisc_for_what_a_device_receives_has_filters_there() {
        let of = |parent| {
            let mut qdisc = TcMessage::with_index(7);
            qdisc.header.parent = parent;
            filtered_in(&RouteNetlinkMessage::NewQueueDiscipline(qdisc))
        };
        let found = [TcHandle::CLSACT, TcHandle::INGRESS, TcHandle::ROOT, TcHandle::UNSPEC].map(of);
        assert_eq!(found, [Some(Ifindex(7)), Some(Ifindex(7)), None, None]);
    }

    #[test]
    fn an_xdp_program_is_seen_in_whichever_mode_it_runs() {
        let with = |how| {
            let mut message = LinkMessage::default();
            message.attributes.push(LinkAttribute::Xdp(vec![LinkXdp::Attached(how), LinkXdp::ProgId(1)]));
            link_of(&message).xdp
        };
        for how in [XdpAttached::Driver, XdpAttached::SocketBuffer, XdpAttached::Hardware, XdpAttached::Multiple] {
            assert!(with(how), "{how:?}");
        }
        assert!(!with(XdpAttached::None) && !link_of(&LinkMessage::default()).xdp);
    }
}
