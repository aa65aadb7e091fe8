//! What the programs do with a packet, from its first byte to the verdict: the same source in the kernel and in tests.
//!
//! Input: a frame, where it came by, and a [`World`] of tables. Output: a verdict; flow state is kept in the world.
//!
//! Ports of a flow key: those of the packets, seen from the workload. ICMP echo: the id stands in the local port if the
//! workload asked and in the peer port if it was asked, so an id cannot be turned round. Other protocols: the protocol
//! number in the local port.

use core::sync::atomic::Ordering::Relaxed;

use crate::decide::decide;
use crate::endpoint::Endpoint;
use crate::flow_state::{FlowKey, FlowValue, FlowWord, Role, state, step};
use crate::hygiene::{self, Discovery};
use crate::id::{Address, Direction, OwnerId, PolicyWord, Row};
use crate::image::{AddressEntry, Image, PortKey};
use crate::packet::{self, Frame, Kind, Packet, PacketBytes, ProtocolClass, Seen, icmp, tcp};
use crate::verdict::{Reason, Verdict};

/// The tables that a run reads and the flow state that it keeps.
pub trait World {
    /// The tables of one image.
    type Image: Image;
    /// The policy in force. Asked once a run.
    fn word(&self) -> PolicyWord;
    /// The image in a slot.
    fn image(&self, slot: usize) -> Option<Self::Image>;
    /// The endpoint of a device.
    fn endpoint(&self, ifindex: u32) -> Option<&Endpoint>;
    /// Whether a device leads to the outside.
    fn is_uplink(&self, ifindex: u32) -> bool;
    /// The state of a flow.
    fn flow(&self, key: &FlowKey) -> Option<&FlowValue>;
    /// Adds a flow unless its workload's quota or the table is full; another run may have added it meanwhile.
    fn insert(&self, key: &FlowKey, value: &FlowValue) -> Result<(), Reason>;
    /// A clock of about one second a tick, for idle flows.
    fn tick(&self) -> u32;
    /// CLOCK_BOOTTIME in ns.
    fn boot_time(&self) -> u64;
}

/// Where a frame came by.
#[derive(Clone, Copy, Debug)]
pub struct Meta {
    /// The host side of the workload's veth.
    pub ifindex: u32,
    /// The device by which the frame came into this namespace; 0: this node made it.
    pub ingress_ifindex: u32,
    /// It carries an accelerated VLAN tag.
    pub vlan: bool,
}

/// Of whom and under what a verdict was given, for the record of a denial.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct Subject {
    /// The workload; [`OwnerId::NONE`] if the device is not known.
    pub workload: OwnerId,
    /// Revision in force.
    pub revision: u32,
    /// What was read of the frame.
    pub seen: Seen,
    /// Source port.
    pub source_port: u16,
    /// Destination port; ICMP type for ICMP.
    pub destination_port: u16,
    /// TCP flags.
    pub tcp_flags: u8,
}

/// Judges a frame in a direction. `subject` is filled as far as the frame could be read.
#[inline(always)]
pub fn run<W: World, B: PacketBytes>(
    world: &W,
    direction: Direction,
    meta: &Meta,
    bytes: &B,
    subject: &mut Subject,
) -> Verdict {
    match judge_frame(world, direction, meta, bytes, subject) {
        Ok(()) => Verdict::Allow,
        Err(reason) => Verdict::Deny(reason),
    }
}

#[inline(always)]
fn judge_frame<W: World, B: PacketBytes>(
    world: &W,
    direction: Direction,
    meta: &Meta,
    bytes: &B,
    subject: &mut Subject,
) -> Result<(), Reason> {
    let word = world.word();
    let slot = word.slot();
    let endpoint = world.endpoint(meta.ifindex);
    subject.revision = word.revision;
    if let Some(endpoint) = endpoint {
        subject.workload = endpoint.id;
    }
    if meta.vlan {
        return Err(Reason::Vlan);
    }
    let packet = match packet::parse(bytes, &mut subject.seen)? {
        // Longer ones would carry something else.
        Frame::Arp if bytes.length() > 64 => return Err(Reason::Ethertype),
        Frame::Arp => return Ok(()),
        Frame::Ip(packet) => packet,
    };
    subject.source_port = packet.source_port;
    subject.destination_port = packet.destination_port | u16::from(packet.icmp_type);
    subject.tcp_flags = packet.tcp_flags;
    subject.seen.protocol = packet.protocol;

    let known = endpoint.filter(|endpoint| endpoint.flags[slot] & Endpoint::UNKNOWN == 0);
    let (local, peer) = match direction {
        Direction::Egress => (&packet.source, &packet.destination),
        Direction::Ingress => (&packet.destination, &packet.source),
    };
    let owner = known.and_then(|endpoint| endpoint.owner_of(local));
    let discovery = hygiene::discovery(world.image(slot).as_ref(), direction, &packet);
    let endpoint = match (known, discovery) {
        (_, Discovery::Deny(reason)) => return Err(reason),
        // Of an unknown workload no address is known, and it can use none that it claims.
        (None, Discovery::Pass) => return Ok(()),
        (None, Discovery::Judge) => return Err(Reason::UnknownWorkload),
        (Some(endpoint), Discovery::Pass | Discovery::Judge) => endpoint,
    };
    if word.revision == 0 {
        return Err(Reason::NoPolicy);
    }
    let case = Case { world, word, meta, endpoint, direction, packet: &packet, local, peer, own: owner.is_some() };
    if matches!(discovery, Discovery::Pass) {
        return case.clear().map(|_| ());
    }
    match packet.kind {
        Kind::Opening | Kind::Following => {
            let key = flow_key(owner.unwrap_or(endpoint.id), direction, &packet, peer);
            if matches!(packet.kind, Kind::Opening) { case.open(&key) } else { case.follow(&key) }
        }
        Kind::IcmpError => case.icmp_error(bytes),
        Kind::IcmpOther => case.judge().map(|_| ()),
    }
}

#[inline(always)]
fn flow_key(owner: OwnerId, direction: Direction, packet: &Packet, peer: &Address) -> FlowKey {
    let from_workload = matches!(direction, Direction::Egress);
    let (local_port, peer_port) = match packet.class {
        ProtocolClass::Icmp | ProtocolClass::Icmpv6 => {
            echo_ports(from_workload == matches!(packet.kind, Kind::Opening), packet.echo_id)
        }
        ProtocolClass::Other => (u16::from(packet.protocol), 0),
        ProtocolClass::Tcp | ProtocolClass::Udp | ProtocolClass::Sctp if from_workload => {
            (packet.source_port, packet.destination_port)
        }
        ProtocolClass::Tcp | ProtocolClass::Udp | ProtocolClass::Sctp => (packet.destination_port, packet.source_port),
    };
    FlowKey::new(owner, packet.class, local_port, peer_port, peer)
}

#[inline(always)]
fn echo_ports(workload_asked: bool, id: u16) -> (u16, u16) {
    if workload_asked { (id, 0) } else { (0, id) }
}

/// The port that policy judges a flow by, from its key.
#[inline(always)]
fn service_port(role: Role, class: ProtocolClass, protocol: u8, key: &FlowKey) -> PortKey {
    let port = match role {
        Role::WorkloadOpened => key.peer_port(),
        Role::PeerOpened | Role::NodeOpened => key.local_port(),
    };
    let request = if matches!(class, ProtocolClass::Icmp) { icmp::ECHO_REQUEST } else { icmp::V6_ECHO_REQUEST };
    packet::port_key(class, protocol, port, request)
}

/// One packet of a known workload that has to be judged.
struct Case<'a, W: World> {
    world: &'a W,
    word: PolicyWord,
    meta: &'a Meta,
    endpoint: &'a Endpoint,
    direction: Direction,
    packet: &'a Packet,
    local: &'a Address,
    peer: &'a Address,
    own: bool,
}

/// The guardrails passed, and what policy needs next.
struct Cleared<I> {
    image: I,
    peer: Option<AddressEntry>,
    /// The node itself made the packet (D3).
    from_node: bool,
}

impl<W: World> Case<'_, W> {
    /// A packet that opens a flow: judged as new whatever state there is.
    #[inline(always)]
    fn open(&self, key: &FlowKey) -> Result<(), Reason> {
        let role = self.judge()?;
        match self.world.flow(key) {
            // Once more if another CPU changed the state bits in between. If the element is another flow's by now, the
            // entry is gone.
            Some(flow) if self.take_over(flow, key, role as u8) || self.take_over(flow, key, role as u8) => Ok(()),
            Some(_) | None => self.insert(key, role, self.ingress()),
        }
    }

    /// A packet that may belong to a live flow.
    #[inline(always)]
    fn follow(&self, key: &FlowKey) -> Result<(), Reason> {
        if !self.own {
            // Addresses without an id share one: an entry of theirs does not vouch for this one.
            self.clear()?;
        }
        let tag = key.tag();
        if let Some(flow) = self.world.flow(key) {
            let current = FlowWord(flow.word.load(Relaxed));
            let same_way = match self.direction {
                Direction::Egress => true,
                Direction::Ingress => flow.ingress.load(Relaxed) == self.meta.ingress_ifindex,
            };
            if same_way && current.is_current(self.word.epoch, tag) {
                flow.touch(self.world.tick());
                let next = step(current.state(), self.direction, self.packet);
                if next != current.state() {
                    // A lost race only leaves the idle limit longer or shorter by one packet.
                    let _ = flow.word.compare_exchange(current.0, current.with_state(next).0, Relaxed, Relaxed);
                }
                return Ok(());
            }
            if current.has_tag(tag)
                && let Some(role) = current.role()
            {
                return self.judge_again(flow, key, role, current);
            }
        }
        self.judge_first(key)
    }

    /// A packet without state that does not open a flow (D10): a new flow in its own direction.
    #[inline(always)]
    fn judge_first(&self, key: &FlowKey) -> Result<(), Reason> {
        let cleared = self.clear()?;
        if cleared.from_node {
            // What answers a workload must not open a way back to the node that policy has closed.
            let answers = self.packet.tcp_flags & (tcp::SYN | tcp::RST) != 0 || self.packet.is_echo_reply();
            return if answers { Ok(()) } else { self.insert(key, Role::NodeOpened, self.ingress()) };
        }
        let role = Role::of_sender(self.direction);
        match self.policy(&cleared, role.direction(), self.peer, self.packet.port_key()) {
            Verdict::Allow => self.insert(key, self.kept_role(role, &cleared, key), self.ingress()),
            Verdict::Deny(reason) if reason.is_policy() => match self.older_connection(&cleared, key) {
                Some(role) => self.insert(key, role, FlowValue::UNKNOWN),
                None => Err(reason),
            },
            Verdict::Deny(reason) => Err(reason),
        }
    }

    /// The role under which a connection without state is kept, once its own direction allows it. Where the other
    /// direction is isolated and allows it too, the connection may be the other side's: kept so, a later change of that
    /// policy cuts it. Else a server would turn its clients' connections into its own by outliving their state.
    #[inline(always)]
    fn kept_role(&self, role: Role, cleared: &Cleared<W::Image>, key: &FlowKey) -> Role {
        let other = match role {
            Role::WorkloadOpened => Role::PeerOpened,
            Role::PeerOpened | Role::NodeOpened => Role::WorkloadOpened,
        };
        let isolated = self.endpoint.row(self.word.slot(), other.direction()) != Row::NOT_ISOLATED;
        if !self.is_midstream() || !isolated {
            return role;
        }
        let port = service_port(other, self.packet.class, self.packet.protocol, key);
        match self.policy(cleared, other.direction(), self.peer, port) {
            Verdict::Allow => other,
            Verdict::Deny(_) => role,
        }
    }

    /// A TCP segment with ACK and without SYN.
    #[inline(always)]
    fn is_midstream(&self) -> bool {
        matches!(self.packet.class, ProtocolClass::Tcp) && self.packet.tcp_flags & (tcp::SYN | tcp::ACK) == tcp::ACK
    }

    /// D10's window: a segment of a connection that is older than the first attach passes as the reply that it is.
    #[inline(always)]
    fn older_connection(&self, cleared: &Cleared<W::Image>, key: &FlowKey) -> Option<Role> {
        if !self.is_midstream() || self.endpoint.window_end == 0 || self.world.boot_time() >= self.endpoint.window_end {
            return None;
        }
        let role = match self.direction {
            Direction::Ingress => Role::WorkloadOpened,
            Direction::Egress if cleared.peer.is_some_and(AddressEntry::is_node) => return Some(Role::NodeOpened),
            Direction::Egress => Role::PeerOpened,
        };
        let port = service_port(role, self.packet.class, self.packet.protocol, key);
        match self.policy(cleared, role.direction(), self.peer, port) {
            Verdict::Allow => Some(role),
            Verdict::Deny(_) => None,
        }
    }

    /// A packet of a live flow that was judged under another epoch, or that came in by another device.
    #[inline(always)]
    fn judge_again(&self, flow: &FlowValue, key: &FlowKey, role: Role, current: FlowWord) -> Result<(), Reason> {
        let cleared = self.clear()?;
        let resets = self.packet.tcp_flags & (tcp::SYN | tcp::RST) != 0;
        let judged_as = match (role, self.direction) {
            (Role::NodeOpened, Direction::Ingress) if cleared.from_node => Role::NodeOpened,
            // Whatever the peer's side did before, now it is the node; unless it only answers for a peer, as a firewall
            // does that rejects.
            (Role::PeerOpened, Direction::Ingress) if cleared.from_node && !resets => Role::NodeOpened,
            (Role::NodeOpened, Direction::Ingress) => Role::PeerOpened,
            (role, _) => role,
        };
        let verdict = if matches!(judged_as, Role::NodeOpened) {
            Verdict::Allow
        } else {
            let port = service_port(judged_as, self.packet.class, self.packet.protocol, key);
            self.policy(&cleared, judged_as.direction(), self.peer, port)
        };
        match verdict {
            Verdict::Allow => {
                let roleless = current.state() & !state::ROLE;
                self.take_over(flow, key, step(roleless | judged_as as u8, self.direction, self.packet));
                Ok(())
            }
            Verdict::Deny(reason) => {
                self.keep_closed(flow, role, current);
                // The node may always send (D3), but it does not renew what the workload opened and policy has closed.
                if cleared.from_node { Ok(()) } else { Err(reason) }
            }
        }
    }

    /// Keeps the entry of a connection that policy has closed for as long as the answering side goes on: freed, the next
    /// segment would come back as a new flow of that side.
    #[inline(always)]
    fn keep_closed(&self, flow: &FlowValue, role: Role, current: FlowWord) {
        let connection = matches!(self.packet.class, ProtocolClass::Tcp | ProtocolClass::Sctp);
        if connection && role.direction() as u8 != self.direction as u8 {
            let kept = current.with_state(role as u8 | state::REPLIED);
            if flow.word.compare_exchange(current.0, kept.0, Relaxed, Relaxed).is_ok() {
                flow.touch(self.world.tick());
            }
        }
    }

    /// An ICMP error passes with the flow that it quotes; else policy judges it.
    #[inline(always)]
    fn icmp_error<B: PacketBytes>(&self, bytes: &B) -> Result<(), Reason> {
        let cleared = self.clear()?;
        if cleared.from_node || self.quotes_live_flow(&cleared, bytes) {
            return Ok(());
        }
        self.policy(&cleared, self.direction, self.peer, self.packet.port_key()).into_result()
    }

    #[inline(always)]
    fn quotes_live_flow<B: PacketBytes>(&self, cleared: &Cleared<W::Image>, bytes: &B) -> bool {
        let Some(quote) = packet::quote(bytes, self.packet) else {
            return false;
        };
        let from_workload = matches!(self.direction, Direction::Egress);
        // The workload sends an error about what it received, and receives one about what it sent.
        let (local, peer) =
            if from_workload { (&quote.destination, &quote.source) } else { (&quote.source, &quote.destination) };
        if from_workload && self.packet.destination != *peer {
            return false;
        }
        let routes = self.endpoint.flags[self.word.slot()] & Endpoint::ROUTES != 0;
        let Some(owner) = self.endpoint.owner_of(local).or(routes.then_some(self.endpoint.id)) else { return false };
        let [source_port, destination_port] = quote.ports;
        let (local_port, peer_port) = match quote.class {
            ProtocolClass::Icmp | ProtocolClass::Icmpv6 => {
                echo_ports(from_workload != quote.echo_request, quote.echo_id)
            }
            ProtocolClass::Other => (u16::from(quote.protocol), 0),
            ProtocolClass::Tcp | ProtocolClass::Udp | ProtocolClass::Sctp if from_workload => {
                (destination_port, source_port)
            }
            ProtocolClass::Tcp | ProtocolClass::Udp | ProtocolClass::Sctp => (source_port, destination_port),
        };
        let key = FlowKey::new(owner, quote.class, local_port, peer_port, peer);
        let Some(flow) = self.world.flow(&key) else {
            return false;
        };
        let (current, tag) = (FlowWord(flow.word.load(Relaxed)), key.tag());
        if current.is_current(self.word.epoch, tag) {
            return true;
        }
        match current.role() {
            Some(role) if current.has_tag(tag) => {
                let port = service_port(role, quote.class, quote.protocol, &key);
                let quoted = Cleared { image: &cleared.image, peer: cleared.image.address(peer), from_node: false };
                matches!(role, Role::NodeOpened) || self.policy(&quoted, role.direction(), peer, port) == Verdict::Allow
            }
            Some(_) | None => false,
        }
    }

    /// The role of a new flow in the packet's own direction, if it is allowed.
    #[inline(always)]
    fn judge(&self) -> Result<Role, Reason> {
        let cleared = self.clear()?;
        if cleared.from_node {
            return Ok(Role::NodeOpened);
        }
        self.policy(&cleared, self.direction, self.peer, self.packet.port_key()).into_result()?;
        Ok(Role::of_sender(self.direction))
    }

    #[inline(always)]
    fn clear(&self) -> Result<Cleared<W::Image>, Reason> {
        let slot = self.word.slot();
        let image = self.world.image(slot).ok_or(Reason::Internal)?;
        let peer = image.address(self.peer);
        let source = match self.direction {
            Direction::Ingress => peer,
            Direction::Egress if self.own => None,
            Direction::Egress => image.address(self.local),
        };
        let destination = match self.direction {
            Direction::Ingress if !self.own => image.address(self.local),
            Direction::Ingress | Direction::Egress => None,
        };
        let ingress = matches!(self.direction, Direction::Ingress);
        let place = hygiene::Place {
            endpoint: self.endpoint,
            slot,
            direction: self.direction,
            own: self.own,
            source,
            destination,
            from_uplink: ingress && self.world.is_uplink(self.meta.ingress_ifindex),
        };
        hygiene::check(&place, self.packet)?;
        Ok(Cleared { image, peer, from_node: ingress && self.meta.ingress_ifindex == 0 })
    }

    #[inline(always)]
    fn policy<I: Image>(&self, cleared: &Cleared<I>, direction: Direction, peer: &Address, port: PortKey) -> Verdict {
        // A workload cannot block access to itself (N19).
        if self.endpoint.owner_of(peer).is_some() {
            return Verdict::Allow;
        }
        decide(&cleared.image, self.endpoint.row(self.word.slot(), direction), peer, cleared.peer, port)
    }

    /// The device of the peer's side, as far as this packet shows it.
    #[inline(always)]
    fn ingress(&self) -> u32 {
        match self.direction {
            Direction::Ingress => self.meta.ingress_ifindex,
            Direction::Egress => FlowValue::UNKNOWN,
        }
    }

    #[inline(always)]
    fn insert(&self, key: &FlowKey, role: Role, ingress: u32) -> Result<(), Reason> {
        let word = FlowWord::new(self.word.epoch, key.tag(), step(role as u8, self.direction, self.packet));
        let value = FlowValue::new(word, self.world.tick(), ingress, self.endpoint.workload);
        match (self.world.insert(key, &value), role) {
            // The node's own packets are always let in (D3), with state or without.
            (Err(_), Role::NodeOpened) => Ok(()),
            (result, _) => result,
        }
    }

    /// Renews an entry under the epoch in force. If it was freed and reused meanwhile its tag or word has changed, and it
    /// is left alone: the next packet is judged.
    #[inline(always)]
    fn take_over(&self, flow: &FlowValue, key: &FlowKey, flow_state: u8) -> bool {
        let current = flow.word.load(Relaxed);
        let next = FlowWord::new(self.word.epoch, key.tag(), flow_state);
        let renewed = FlowWord(current).has_tag(key.tag())
            && flow.word.compare_exchange(current, next.0, Relaxed, Relaxed).is_ok();
        if renewed {
            if matches!(self.direction, Direction::Ingress) {
                flow.ingress.store(self.meta.ingress_ifindex, Relaxed);
            }
            flow.touch(self.world.tick());
        }
        renewed
    }
}
