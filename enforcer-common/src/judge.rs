//! What a packet is judged by when no live flow vouches for it: guardrails, then the node's own traffic (D3), then policy.
//!
//! Input: a [`World`] of tables and a parsed packet. Output: a verdict; flow state is written after an allow verdict only.

use core::sync::atomic::Ordering::Relaxed;

use crate::datapath::{Meta, Work, World};
use crate::decide::Question;
use crate::endpoint::Endpoint;
use crate::flow_state::{FlowKey, FlowValue, FlowWord, Role, state, step};
use crate::hygiene::{self, Discovery};
use crate::id::{Address, Direction, OwnerId, PolicyWord};
use crate::image::{AddressEntry, Image, PortKey};
use crate::packet::{Kind, Packet, ProtocolClass, icmp, tcp};
use crate::verdict::{Reason, Verdict};

/// Judges a packet.
#[inline(always)]
pub fn judge<W: World>(world: &W, work: &Work) -> Result<(), Reason> {
    let Work {
        word,
        ref meta,
        direction,
        flow,
        quotes_live_flow,
        owner,
        ref key,
        ref packet,
        ..
    } = *work;
    let slot = word.slot();
    let known = world
        .endpoint(meta.ifindex)
        .filter(|endpoint| endpoint.flags[slot] & Endpoint::UNKNOWN == 0);
    let (local, peer) = packet.sides(direction);
    let own = owner != OwnerId::NONE;
    if matches!(packet.class, ProtocolClass::Icmpv6) {
        match hygiene::discovery(world.image(slot).as_ref(), direction, packet) {
            Discovery::Pass => {
                let claims = matches!(direction, Direction::Egress) && packet.source != Address::UNSPECIFIED;
                // Of an unknown workload no address is known, and it can use none that it claims.
                return if claims && known.is_some() && !own {
                    Err(Reason::SpoofedSource)
                } else {
                    Ok(())
                };
            }
            Discovery::Deny(reason) => return Err(reason),
            Discovery::Judge => {}
        }
    }
    let Some(endpoint) = known else {
        return Err(Reason::UnknownWorkload);
    };
    if word.revision == 0 {
        return Err(Reason::NoPolicy);
    }
    let case = Case {
        world,
        work,
        word,
        meta,
        endpoint,
        direction,
        packet,
        local,
        peer,
        own,
    };
    case.judge(key, flow, quotes_live_flow)
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
    work: &'a Work,
    word: PolicyWord,
    meta: &'a Meta,
    endpoint: &'a Endpoint,
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
    fn judge(&self, key: &FlowKey, stored: u8, quotes_live_flow: bool) -> Result<(), Reason> {
        let entry = self.clear()?;
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
        match self.packet.kind {
            Kind::IcmpError | Kind::IcmpOther => verdict.into_result(),
            Kind::Opening => {
                verdict.into_result()?;
                self.open(key, role)
            }
            Kind::Following => match (stale, verdict) {
                (Some(_), Verdict::Allow) => {
                    // Freed meanwhile: the next packet is judged without state.
                    if let Some(flow) = self.world.flow(key) {
                        let state = step(stored & !state::ROLE | role as u8, self.direction, self.packet);
                        self.take_over(flow, key, state);
                    }
                    Ok(())
                }
                // The node may always send (D3), but it does not renew what the workload opened and policy has closed since.
                (Some(_), Verdict::Deny(_)) if from_node => Ok(()),
                (Some(_), Verdict::Deny(reason)) => Err(reason),
                // What answers a workload must not open a way back to the node that policy has closed.
                (None, Verdict::Allow) if from_node && self.answers() => Ok(()),
                (None, Verdict::Allow) => self.insert(key, role, self.ingress()).map(|_| ()),
                (None, Verdict::Deny(reason)) => match self.older_connection(entry, key) {
                    Some(role) => self.insert(key, role, FlowValue::UNKNOWN).map(|_| ()),
                    None => Err(reason),
                },
            },
        }
    }

    /// State for a packet that opens a flow. Most are new, so the entry that may be there is looked for last.
    #[inline(always)]
    fn open(&self, key: &FlowKey, role: Role) -> Result<(), Reason> {
        let added = self.insert(key, role, self.ingress());
        if !matches!(added, Ok(true))
            && let Some(flow) = self.world.flow(key)
        {
            self.take_over(flow, key, role as u8);
            return Ok(());
        }
        added.map(|_| ())
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
            let entry = self
                .world
                .image(self.word.slot())
                .and_then(|image| image.address(key.peer()));
            let verdict = self.policy(key.peer(), entry, role.direction(), service_port(role, key));
            if verdict == Verdict::Allow {
                return Ok(());
            }
        }
        self.policy(self.peer, entry, self.direction, self.packet.port_key())
            .into_result()
    }

    /// The role that a packet is judged in: that of its flow if it has one, whatever the packet's own direction.
    #[inline(always)]
    fn role(&self, stored: Option<Role>, from_node: bool) -> Role {
        match (stored, self.direction) {
            // Whatever the peer's side did before, now it is the node.
            (Some(Role::PeerOpened | Role::NodeOpened) | None, Direction::Ingress) if from_node => Role::NodeOpened,
            (Some(Role::NodeOpened), Direction::Ingress) => Role::PeerOpened,
            (Some(role), _) => role,
            (None, direction) => Role::of_sender(direction),
        }
    }

    #[inline(always)]
    fn answers(&self) -> bool {
        self.packet.tcp_flags & (tcp::SYN | tcp::RST) != 0 || self.packet.is_echo_reply()
    }

    /// D10's window: a segment of a connection that is older than the first attach passes as the reply that it is.
    #[inline(always)]
    fn older_connection(&self, entry: Option<AddressEntry>, key: &FlowKey) -> Option<Role> {
        let candidate = matches!(self.packet.class, ProtocolClass::Tcp)
            && self.packet.tcp_flags & (tcp::SYN | tcp::ACK) == tcp::ACK
            && self.endpoint.window_end != 0;
        if !candidate || self.world.boot_time() >= self.endpoint.window_end {
            return None;
        }
        let role = match self.direction {
            Direction::Ingress => Role::WorkloadOpened,
            Direction::Egress if entry.is_some_and(AddressEntry::is_node) => return Some(Role::NodeOpened),
            Direction::Egress => Role::PeerOpened,
        };
        match self.policy(self.peer, entry, role.direction(), service_port(role, key)) {
            Verdict::Allow => Some(role),
            Verdict::Deny(_) => None,
        }
    }

    /// The guardrails; what the image knows of the peer.
    #[inline(always)]
    fn clear(&self) -> Result<Option<AddressEntry>, Reason> {
        let slot = self.word.slot();
        let image = self.world.image(slot).ok_or(Reason::Internal)?;
        let peer = image.address(self.peer);
        let source = match self.direction {
            Direction::Ingress => peer,
            Direction::Egress if self.own => None,
            Direction::Egress => image.address(self.local),
        };
        let ingress = matches!(self.direction, Direction::Ingress);
        let place = hygiene::Place {
            endpoint: self.endpoint,
            slot,
            direction: self.direction,
            own: self.own,
            source,
            from_uplink: ingress && self.world.is_uplink(self.meta.ingress_ifindex),
        };
        hygiene::check(&place, self.packet)?;
        Ok(peer)
    }

    #[inline(always)]
    fn policy(&self, peer: &Address, entry: Option<AddressEntry>, direction: Direction, port: PortKey) -> Verdict {
        let question = Question {
            direction,
            peer,
            entry,
            port,
        };
        self.world.policy(self.work, &question)
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
    fn insert(&self, key: &FlowKey, role: Role, ingress: u32) -> Result<bool, Reason> {
        let word = FlowWord::new(
            self.word.epoch,
            key.tag(),
            step(role as u8, self.direction, self.packet),
        );
        self.world.insert(
            key,
            &FlowValue::new(word, self.world.tick(), ingress, self.endpoint.workload),
        )
    }

    /// Renews an entry under the epoch in force. If it was freed and reused meanwhile its tag or word has changed, and it
    /// is left alone: the next packet is judged.
    #[inline(always)]
    fn take_over(&self, flow: &FlowValue, key: &FlowKey, flow_state: u8) {
        let current = flow.word.load(Relaxed);
        let next = FlowWord::new(self.word.epoch, key.tag(), flow_state);
        if FlowWord(current).has_tag(key.tag()) && flow.word.compare_exchange(current, next.0, Relaxed, Relaxed).is_ok()
        {
            if matches!(self.direction, Direction::Ingress) {
                flow.ingress.store(self.meta.ingress_ifindex, Relaxed);
            }
            flow.touch(self.world.tick());
        }
    }
}
