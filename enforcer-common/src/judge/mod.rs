//! What a packet is judged by when no live flow vouches for it: guardrails, then the node's own traffic (D3), then policy.
//!
//! Input: a [`World`] of tables and a parsed packet. Output: a verdict; flow state is written after an allow verdict only.

use core::sync::atomic::Ordering::Relaxed;

use crate::datapath::{Meta, Work, World};
use crate::decide::Question;
use crate::endpoint::Endpoint;
use crate::flow_state::{FlowKey, FlowValue, FlowWord, Role, renew, state, step};
use crate::hygiene::{self, Discovery};
use crate::id::{Address, Direction, OwnerId, PolicyWord, Row};
use crate::image::{AddressEntry, Image, PortKey};
use crate::packet::{Kind, Packet, ProtocolClass, icmp, tcp};
use crate::verdict::{Reason, Verdict};

/// Judges a packet. `endpoint` is that of its device.
#[inline(always)]
pub fn judge<W: World>(world: &W, work: &Work, endpoint: Option<&Endpoint>) -> Result<(), Reason> {
    let Work { word, ref meta, direction, flow, settled, quotes_live_flow, owner, ref key, ref packet, .. } = *work;
    let slot = word.slot();
    let known = endpoint.filter(|endpoint| endpoint.flags[slot] & Endpoint::UNKNOWN == 0);
    let image = world.image(slot);
    let (local, peer) = packet.sides(direction);
    let own = owner != OwnerId::NONE;
    let discovery = match packet.class {
        ProtocolClass::Icmpv6 => hygiene::discovery(image.as_ref(), direction, packet),
        ProtocolClass::Tcp | ProtocolClass::Udp | ProtocolClass::Sctp | ProtocolClass::Icmp | ProtocolClass::Other => {
            Discovery::Judge
        }
    };
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
    let image = &image.ok_or(Reason::Internal)?;
    let case = Case { world, word, meta, endpoint, image, direction, packet, local, peer, own };
    let entry = case.clear()?;
    // Nothing but the guardrails was open.
    if settled && let Some(flow) = world.flow(key) {
        renew(flow, FlowWord(flow.word.load(Relaxed)), direction, packet, world.tick());
    }
    if settled || matches!(discovery, Discovery::Pass) {
        return Ok(());
    }
    case.judge(entry, key, flow, quotes_live_flow)
}

/// The port that policy judges a flow by, from its key.
#[inline(always)]
fn service_port(role: Role, key: &FlowKey) -> PortKey {
    let port = match role {
        Role::WorkloadOpened => key.peer_port(),
        Role::PeerOpened | Role::NodeOpened => key.local_port(),
    };
    match key.class() {
        ProtocolClass::Tcp => PortKey::tcp(port),
        ProtocolClass::Udp => PortKey::udp(port),
        ProtocolClass::Sctp => PortKey::sctp(port),
        ProtocolClass::Icmp => PortKey::icmp(icmp::ECHO_REQUEST),
        ProtocolClass::Icmpv6 => PortKey::icmpv6(icmp::V6_ECHO_REQUEST),
        ProtocolClass::Other => PortKey::other(key.local_port() as u8),
    }
}

/// One packet of a known workload that has to be judged.
struct Case<'a, W: World> {
    world: &'a W,
    word: PolicyWord,
    meta: &'a Meta,
    endpoint: &'a Endpoint,
    image: &'a W::Image,
    direction: Direction,
    packet: &'a Packet,
    local: &'a Address,
    peer: &'a Address,
    own: bool,
}

impl<W: World> Case<'_, W> {
    /// A packet that no live flow vouches for: one that opens a flow (judged as new whatever state there is), one of a
    /// `stale` flow (judged under another epoch, or that came in by another device), or one without state.
    #[inline(always)]
    fn judge(
        &self,
        entry: Option<AddressEntry>,
        key: &FlowKey,
        stored: u8,
        quotes_live_flow: bool,
    ) -> Result<(), Reason> {
        // The node itself made the packet (D3).
        let from_node = matches!(self.direction, Direction::Ingress) && self.meta.ingress_ifindex == 0;
        if matches!(self.packet.kind, Kind::IcmpError) {
            return self.icmp_error(entry, key, stored, quotes_live_flow || from_node);
        }
        let stale = Role::of_state(stored);
        let role = self.role(stale, from_node);
        let verdict = if matches!(role, Role::NodeOpened) {
            Verdict::Allow
        } else {
            let port = match stale {
                Some(_) => service_port(role, key),
                None => self.packet.port_key(),
            };
            self.policy(self.peer, entry, role.direction(), port)
        };
        match (self.packet.kind, stale, verdict) {
            (Kind::IcmpError | Kind::IcmpOther, _, verdict) => verdict.into_result(),
            (Kind::Opening, _, Verdict::Allow) => self.open(key, role),
            (Kind::Following, Some(_), Verdict::Allow) => {
                // Freed meanwhile: the next packet is judged without state.
                if let Some(flow) = self.world.flow(key) {
                    let state = step(stored & !state::ROLE | role as u8, self.direction, self.packet);
                    self.take_over(flow, key, state);
                }
                Ok(())
            }
            (Kind::Following, Some(_), Verdict::Deny(reason)) => {
                self.keep_closed(key, stored);
                // The node may always send (D3), but it does not renew what the workload opened and policy has closed.
                if from_node { Ok(()) } else { Err(reason) }
            }
            // What answers a workload must not open a way back to the node that policy has closed.
            (Kind::Following, None, Verdict::Allow) if from_node && self.answers() => Ok(()),
            (Kind::Following, None, Verdict::Allow) if from_node => self.insert(key, role, self.ingress()),
            (Kind::Following, None, verdict) if self.is_midstream() => self.midstream(entry, key, role, verdict),
            (Kind::Following, None, Verdict::Allow) => self.insert(key, role, self.ingress()),
            (Kind::Opening, _, Verdict::Deny(reason)) | (Kind::Following, None, Verdict::Deny(reason)) => Err(reason),
        }
    }

    /// State for a packet that opens a flow. Most are new, so the entry that may be there is looked for last.
    #[inline(always)]
    fn open(&self, key: &FlowKey, role: Role) -> Result<(), Reason> {
        let added = self.add(key, role, self.ingress());
        if !matches!(added, Ok(true))
            && let Some(flow) = self.world.flow(key)
            // Once more if another CPU changed the state bits in between.
            && (self.take_over(flow, key, role as u8) || self.take_over(flow, key, role as u8))
        {
            return Ok(());
        }
        match added {
            // The entry that was in the way is gone.
            Ok(false) => self.insert(key, role, self.ingress()),
            other => other.map(|_| ()),
        }
    }

    /// A TCP segment with ACK and without SYN: where it has no state, its connection is older than that.
    #[inline(always)]
    fn is_midstream(&self) -> bool {
        matches!(self.packet.class, ProtocolClass::Tcp) && self.packet.tcp_flags & (tcp::SYN | tcp::ACK) == tcp::ACK
    }

    /// A connection without state (D10): `verdict` is that of its segment's own direction, `role` that of the sender.
    ///
    /// Allowed: where the other direction is isolated and allows it too, the connection may be the other side's. Kept in
    /// that role, a later change of that policy cuts it; else a server would turn its clients' connections into its own by
    /// outliving their state. Denied: in the window after the first attach it passes as the reply that it may be.
    #[inline(always)]
    fn midstream(
        &self,
        entry: Option<AddressEntry>,
        key: &FlowKey,
        role: Role,
        verdict: Verdict,
    ) -> Result<(), Reason> {
        let other = match role {
            Role::WorkloadOpened => Role::PeerOpened,
            Role::PeerOpened | Role::NodeOpened => Role::WorkloadOpened,
        };
        let to_node = matches!(self.direction, Direction::Egress) && entry.is_some_and(AddressEntry::is_node);
        match verdict {
            Verdict::Allow => {
                let isolated = self.endpoint.row(self.word.slot(), other.direction()) != Row::NOT_ISOLATED;
                let kept = if isolated && self.allows(entry, other, key) { other } else { role };
                self.insert(key, kept, self.ingress())
            }
            Verdict::Deny(reason) if !reason.is_policy() || !self.in_window() => Err(reason),
            Verdict::Deny(_) if to_node => self.insert(key, Role::NodeOpened, FlowValue::UNKNOWN),
            Verdict::Deny(_) if self.allows(entry, other, key) => self.insert(key, other, FlowValue::UNKNOWN),
            Verdict::Deny(reason) => Err(reason),
        }
    }

    /// Whether policy allows the flow if it was opened in `role`.
    #[inline(always)]
    fn allows(&self, entry: Option<AddressEntry>, role: Role, key: &FlowKey) -> bool {
        matches!(self.policy(self.peer, entry, role.direction(), service_port(role, key)), Verdict::Allow)
    }

    #[inline(always)]
    fn in_window(&self) -> bool {
        self.endpoint.window_end != 0 && self.world.boot_time() < self.endpoint.window_end
    }

    /// Keeps the entry of a connection that policy has closed for as long as the answering side goes on: freed, the next
    /// segment would come back as a new flow of that side.
    #[inline(always)]
    fn keep_closed(&self, key: &FlowKey, stored: u8) {
        let connection = matches!(self.packet.class, ProtocolClass::Tcp | ProtocolClass::Sctp);
        let answers = Role::of_state(stored).is_some_and(|role| role.direction() as u8 != self.direction as u8);
        if connection
            && answers
            && let Some(flow) = self.world.flow(key)
        {
            let current = FlowWord(flow.word.load(Relaxed));
            let kept = current.with_state(stored & state::ROLE | state::REPLIED);
            if current.has_tag(key.tag()) && flow.word.compare_exchange(current.0, kept.0, Relaxed, Relaxed).is_ok() {
                flow.touch(self.world.tick());
            }
        }
    }

    /// The role that a packet is judged in: that of its flow if it has one, whatever the packet's own direction.
    #[inline(always)]
    fn role(&self, stored: Option<Role>, from_node: bool) -> Role {
        let resets = self.packet.tcp_flags & (tcp::SYN | tcp::RST) != 0;
        match (stored, self.direction) {
            (Some(Role::NodeOpened) | None, Direction::Ingress) if from_node => Role::NodeOpened,
            // Whatever the peer's side did before, now it is the node; unless it only answers for a peer, as a firewall
            // does that rejects.
            (Some(Role::PeerOpened), Direction::Ingress) if from_node && !resets => Role::NodeOpened,
            (Some(Role::NodeOpened), Direction::Ingress) => Role::PeerOpened,
            (Some(role), _) => role,
            (None, direction) => Role::of_sender(direction),
        }
    }

    #[inline(always)]
    fn answers(&self) -> bool {
        self.packet.tcp_flags & (tcp::SYN | tcp::RST) != 0 || self.packet.is_echo_reply()
    }

    /// An ICMP error passes with the flow that it quotes, which is judged again, but not renewed, if it is of another epoch;
    /// else policy judges the error itself.
    #[inline(always)]
    fn icmp_error(&self, entry: Option<AddressEntry>, key: &FlowKey, stored: u8, vouched: bool) -> Result<(), Reason> {
        let quoted = Role::of_state(stored);
        if vouched || matches!(quoted, Some(Role::NodeOpened)) {
            return Ok(());
        }
        if let Some(role) = quoted {
            let entry = self.image.address(key.peer());
            let verdict = self.policy(key.peer(), entry, role.direction(), service_port(role, key));
            if verdict == Verdict::Allow {
                return Ok(());
            }
        }
        self.policy(self.peer, entry, self.direction, self.packet.port_key()).into_result()
    }

    /// The guardrails; what the image knows of the peer.
    #[inline(always)]
    fn clear(&self) -> Result<Option<AddressEntry>, Reason> {
        let slot = self.word.slot();
        let image = self.image;
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
        Ok(peer)
    }

    #[inline(always)]
    fn policy(&self, peer: &Address, entry: Option<AddressEntry>, direction: Direction, port: PortKey) -> Verdict {
        let question = Question { direction, peer, entry, port };
        self.world.policy(self.word.slot(), self.endpoint, &question)
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
        self.add(key, role, ingress).map(|_| ())
    }

    /// False: there is an entry already.
    #[inline(always)]
    fn add(&self, key: &FlowKey, role: Role, ingress: u32) -> Result<bool, Reason> {
        let word = FlowWord::new(self.word.epoch, key.tag(), step(role as u8, self.direction, self.packet));
        let value = FlowValue::new(word, self.world.tick(), ingress, self.endpoint.workload);
        match (self.world.insert(key, &value), role) {
            // The node's own packets are always let in (D3), with state or without.
            (Err(_), Role::NodeOpened) => Ok(true),
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
