//! Judges packets without a live flow: by the guardrails, then as the node's own traffic (D3), then by policy.
//!
//! Input: the tables and a parsed packet. Output: a verdict. Flow state is written only after an allow verdict.

mod role;
mod state;

use crate::decide::{AskPolicy, Question};
use crate::endpoint::Endpoint;
use crate::flow_state::{Course, Role};
use crate::follow::Follow;
use crate::home::HomeKey;
use crate::hygiene;
use crate::id::{Address, Direction, Ifindex, OwnerId, Revision, Row};
use crate::image::{AddressEntry, PortKey, ReadImage};
use crate::link::{self, Upkeep};
use crate::opaque::opaque;
use crate::packet::{Kind, ProtocolClass};
use crate::tables::Devices;
use crate::verdict::{Reason, Verdict};
use crate::work::Work;

use state::JudgedFlow;

/// The out-of-line part that judges a packet: tests run [`judge_work`] in line, the kernel's tables call it.
pub trait JudgeWork: AskPolicy + Devices + Follow {
    /// Judges a packet. `endpoint` is that of its device.
    #[inline(always)]
    fn judge_work(&self, work: &Work, endpoint: Option<&Endpoint>) -> Result<(), Reason>
    where
        Self: Sized,
    {
        judge_work(self, work, endpoint)
    }
}

/// Judges a packet. `endpoint` is that of its device.
#[inline(always)]
pub fn judge_work<T: AskPolicy + Devices + Follow>(
    tables: &T,
    work: &Work,
    endpoint: Option<&Endpoint>,
) -> Result<(), Reason> {
    let Work { word, direction, settled, owner, ref packet, .. } = *work;
    let slot = word.slot();
    let known = endpoint.filter(|endpoint| endpoint.flags[slot.index()] & Endpoint::UNKNOWN == 0);
    let image = tables.image(slot);
    let (local, peer) = packet.sides(direction);
    let own = owner != OwnerId::NONE;
    let upkeep = link::upkeep(image.as_ref(), direction, packet, || tables.leads_out(work.meta.ingress_ifindex));
    let endpoint = match (known, upkeep) {
        (_, Upkeep::Deny(reason)) => return Err(reason),
        // No address of an unknown workload is known, so discovery and membership of groups pass whatever they claim. A claim
        // gains nothing, because all other IP packets of an unknown workload are denied. DHCP carries too much to be let out
        // in nobody's name, and its client asks again.
        (None, Upkeep::Pass) if !matches!(packet.class, ProtocolClass::Udp) => return Ok(()),
        (None, Upkeep::Pass | Upkeep::Judge) => return Err(Reason::UnknownWorkload),
        (Some(endpoint), Upkeep::Pass | Upkeep::Judge) => endpoint,
    };
    if word.revision == Revision::NONE {
        return Err(Reason::NoPolicy);
    }
    let image = &image.ok_or(Reason::Internal)?;
    let case = Case { flow: JudgedFlow { tables, work, quota: endpoint.quota }, endpoint, image, local, peer, own };
    let entry = case.clear()?;
    if settled && let Some(role) = Role::of_state(work.flow) {
        // Nothing but the guardrails was open.
        return case.flow.go_on(case.course(entry, role));
    }
    if matches!(upkeep, Upkeep::Pass) {
        return Ok(());
    }
    case.decide(entry)
}

/// One packet of a known workload that has to be judged.
struct Case<'a, T, I> {
    flow: JudgedFlow<'a, T>,
    endpoint: &'a Endpoint,
    image: &'a I,
    local: &'a Address,
    peer: &'a Address,
    own: bool,
}

impl<T: AskPolicy + Devices + Follow, I: ReadImage> Case<'_, T, I> {
    /// The guardrails; what the image knows of the peer.
    #[inline(always)]
    fn clear(&self) -> Result<Option<AddressEntry>, Reason> {
        let JudgedFlow { tables, work, .. } = self.flow;
        let Work { word, ref meta, direction, ref packet, .. } = *work;
        let image = self.image;
        let peer = image.address(self.peer);
        let source = match direction {
            Direction::Ingress => peer,
            Direction::Egress if self.own => None,
            Direction::Egress => image.address(self.local),
        };
        let destination = match direction {
            Direction::Ingress if !self.own => image.address(self.local),
            Direction::Ingress | Direction::Egress => None,
        };
        let place = hygiene::Place {
            endpoint: self.endpoint,
            slot: word.slot(),
            direction,
            own: self.own,
            source,
            destination,
        };
        let believed = || tables.believes(&packet.source, meta.ingress_ifindex);
        let for_all = || {
            tables.has_home(&HomeKey::for_all(packet.destination, meta.ifindex))
                || link::is_offer(direction, packet) && tables.leads_out(meta.ingress_ifindex)
                || self.flow.work.to_all && self.is_between_open_ones()
        };
        let is_from_itself = || tables.owner_of(self.endpoint, &packet.source).is_some();
        hygiene::check(&place, packet, believed, for_all, is_from_itself)?;
        // Not from the workload that shows the address, so without the rights of its labels: as from any other address.
        Ok(peer.filter(|entry| !(matches!(direction, Direction::Ingress) && entry.is_shown() && !believed())))
    }

    /// Nothing isolates the receiver from its senders, nor the sender from its receivers, if that is a workload of the same
    /// bridge. The sender may reach the receiver anyway, so nobody has to vouch for the subnet whose broadcast this is (N1).
    #[inline(always)]
    fn is_between_open_ones(&self) -> bool {
        let JudgedFlow { tables, work, .. } = self.flow;
        let (slot, sender) = (work.word.slot(), work.meta.ingress_ifindex);
        self.endpoint.row(slot, Direction::Ingress) == Row::NOT_ISOLATED
            && tables.endpoint(sender).is_some_and(|sender| sender.row(slot, Direction::Egress) == Row::NOT_ISOLATED)
    }

    /// A packet that no live flow vouches for: one that opens a flow (judged as new whatever state there is), one of a
    /// `stale` flow (judged under another epoch, or that came in by another device), or one without state.
    #[inline(always)]
    fn decide(&self, entry: Option<AddressEntry>) -> Result<(), Reason> {
        let Work { ref meta, direction, flow: stored, ref key, ref packet, .. } = *self.flow.work;
        // The node itself made the packet (D3).
        let from_node = matches!(direction, Direction::Ingress) && meta.ingress_ifindex == Ifindex::NONE;
        if matches!(packet.kind, Kind::IcmpError) {
            return self.icmp_error(entry, from_node);
        }
        let stale = Role::of_state(stored);
        // A reply that belongs to nothing which the workload sent is judged as anybody's: whoever sends the node a request
        // with the workload's address would reach the workload by it.
        let unasked = from_node && stale.is_none() && packet.is_icmp_reply();
        let role = role::of_packet(direction, packet, stale, from_node && !unasked);
        let verdict = if matches!(role, Role::NodeOpened) {
            Verdict::Allow
        } else {
            let port = match stale {
                Some(_) => key.service(role),
                None => packet.port_key(),
            };
            self.policy(self.peer, entry, role.direction(), port)
        };
        let course = self.course(entry, role);
        if course.behind && matches!(direction, Direction::Egress) && !self.may_be_judged_later() {
            return Err(Reason::NoRule);
        }
        match (packet.kind, stale, verdict) {
            (Kind::IcmpError | Kind::IcmpOther | Kind::Membership, _, verdict) => verdict.into_result(),
            (Kind::Opening, _, Verdict::Allow) => self.flow.open(course),
            (Kind::Following, Some(_), Verdict::Allow) => self.flow.go_on(course),
            (Kind::Following, Some(_), Verdict::Deny(reason)) => {
                self.flow.keep_closed(stored);
                // The node may always send (D3), but it does not renew what the workload opened and policy has closed.
                if from_node { Ok(()) } else { Err(reason) }
            }
            // What answers a workload must not open a way back to the node that policy has closed.
            (Kind::Following, None, Verdict::Allow) if from_node && role::answers(packet) => Ok(()),
            (Kind::Following, None, Verdict::Allow) if from_node => self.flow.insert(course),
            // A reset opens nothing: what it answers is gone, or there has been none.
            (Kind::Following, None, Verdict::Allow) if packet.is_reset() => Ok(()),
            (Kind::Following, None, Verdict::Allow) if packet.is_acceptance() => self.acceptance(entry, role),
            (Kind::Following, None, verdict) if role::is_midstream(packet) => self.midstream(entry, role, verdict),
            (Kind::Following, None, Verdict::Allow) => self.flow.insert(course),
            (Kind::Opening, _, Verdict::Deny(reason)) | (Kind::Following, None, Verdict::Deny(reason)) => Err(reason),
        }
    }

    /// A connection without state (D10): `verdict` is that of its segment's own direction, `role` that of the sender.
    ///
    /// Allowed: where the other direction is isolated and allows it too, the connection may be the other side's. Kept in
    /// that role, a later change of that policy cuts it; else a server would turn its clients' connections into its own by
    /// outliving their state. Denied: in the window after the first attach it passes as the reply that it may be.
    #[inline(always)]
    fn midstream(&self, entry: Option<AddressEntry>, role: Role, verdict: Verdict) -> Result<(), Reason> {
        let other = role::other(role);
        match verdict {
            Verdict::Allow => {
                let course = self.course(entry, role);
                if course.behind {
                    // In the other role it would vouch for frames that nobody judges later.
                    return self.flow.insert(course);
                }
                let kept = if self.is_isolated(other.direction()) && self.allows(entry, other) { other } else { role };
                self.flow.insert(self.course(entry, kept))
            }
            Verdict::Deny(reason) if !reason.is_policy() || !self.in_window() => Err(reason),
            Verdict::Deny(_) if self.is_to_node(entry) => {
                self.flow.insert_from_anywhere(self.course(entry, Role::NodeOpened))
            }
            Verdict::Deny(_) if self.allows(entry, other) => self.flow.insert_from_anywhere(self.course(entry, other)),
            Verdict::Deny(reason) => Err(reason),
        }
    }

    /// The acceptance of a connection without state, which its own direction allows: the other side has opened it, so policy
    /// must allow that as well. Else a connection that policy closed while it was half open would come about behind its entry.
    #[inline(always)]
    fn acceptance(&self, entry: Option<AddressEntry>, role: Role) -> Result<(), Reason> {
        if self.is_to_node(entry) {
            return self.flow.insert(self.course(entry, role));
        }
        let other = role::other(role);
        self.policy(self.peer, entry, other.direction(), self.flow.work.key.service(other)).into_result()?;
        let course = self.course(entry, role);
        // As in `midstream`.
        self.flow.insert(if course.behind { course } else { self.course(entry, other) })
    }

    #[inline(always)]
    fn is_to_node(&self, entry: Option<AddressEntry>) -> bool {
        matches!(self.flow.work.direction, Direction::Egress) && entry.is_some_and(AddressEntry::is_node)
    }

    #[inline(always)]
    fn in_window(&self) -> bool {
        self.endpoint.window_end != 0 && self.flow.tables.boot_time() < self.endpoint.window_end
    }

    /// An ICMP error passes with the flow that it quotes, which is judged again, but not renewed, if it is of another epoch;
    /// else policy judges the error itself, the node's too. A local workload speaks of its own flows only: as a router it would
    /// reach any workload of which it knows a flow.
    #[inline(always)]
    fn icmp_error(&self, entry: Option<AddressEntry>, from_node: bool) -> Result<(), Reason> {
        let Work { direction, flow: stored, quotes_live_flow, ref key, ref packet, .. } = *self.flow.work;
        let third = entry.is_some_and(AddressEntry::is_local) && self.peer != key.peer();
        let quoted = if third { None } else { Role::of_state(stored) };
        let behind = quoted.is_some_and(|role| self.course(entry, role).behind);
        if behind && matches!(direction, Direction::Egress) && !self.may_be_judged_later() {
            return Err(Reason::NoRule);
        }
        if quotes_live_flow && !third || quoted.is_some() && from_node || matches!(quoted, Some(Role::NodeOpened)) {
            return Ok(());
        }
        if let Some(role) = quoted {
            let entry = self.image.address(key.peer());
            let verdict = self.policy(key.peer(), entry, role.direction(), key.service(role));
            if verdict == Verdict::Allow {
                return Ok(());
            }
        }
        let to_service = matches!(direction, Direction::Egress) && entry.is_some_and(AddressEntry::is_service);
        if to_service && self.is_isolated(direction) {
            // Behind translation it would be taken for a packet of the connection that it quotes, which is somebody else's.
            return Err(Reason::NoRule);
        }
        self.policy(self.peer, entry, direction, packet.port_key()).into_result()
    }

    /// How a flow with this peer goes on if it was opened in `role` and policy allows it. What the node opens in the name of a
    /// Service is the late answer of a backend that is the node.
    #[inline(always)]
    fn course(&self, entry: Option<AddressEntry>, role: Role) -> Course {
        let to_service = !matches!(role, Role::PeerOpened) && entry.is_some_and(AddressEntry::is_service);
        Course { role, behind: to_service && self.is_isolated(Direction::Egress) }
    }

    /// Whether what the workload sends to a Service is judged once more where the node knows the backend (D5): it is found there
    /// by its source, so that has to be the workload's own, and the frame has to come to the node's own stack. A bridge would
    /// switch any other frame past it. An ICMP message that is no echo is translated nowhere, and connection tracking takes some of
    /// them for errors, so for packets of the connection that they quote.
    ///
    /// What the workload receives has not taken that way, and says nothing of what it will send.
    #[inline(always)]
    fn may_be_judged_later(&self) -> bool {
        let JudgedFlow { tables, work, .. } = self.flow;
        let Work { ref meta, direction, station, ref packet, .. } = *work;
        let is_for_node = || tables.has_home(&HomeKey::station(station, meta.ifindex));
        let may = matches!(direction, Direction::Ingress)
            || !matches!(packet.kind, Kind::IcmpOther | Kind::Membership) && is_for_node();
        self.own && tables.judges_backends() && may
    }

    #[inline(always)]
    fn is_isolated(&self, direction: Direction) -> bool {
        self.endpoint.row(self.flow.work.word.slot(), direction) != Row::NOT_ISOLATED
    }

    /// Whether policy allows the flow if it was opened in `role`.
    #[inline(always)]
    fn allows(&self, entry: Option<AddressEntry>, role: Role) -> bool {
        matches!(self.policy(self.peer, entry, role.direction(), self.flow.work.key.service(role)), Verdict::Allow)
    }

    #[inline(always)]
    fn policy(&self, peer: &Address, entry: Option<AddressEntry>, direction: Direction, port: PortKey) -> Verdict {
        let question = Question { direction, peer, entry, port };
        let tables = self.flow.tables;
        let known = AddressEntry(opaque(entry.map_or(0, |entry| u64::from(entry.0))) as u32);
        if matches!(direction, Direction::Egress) && known.is_service() {
            // Nobody knows yet who is behind the address.
            let passes = !self.is_isolated(direction) || self.may_be_judged_later();
            return if passes { Verdict::Allow } else { Verdict::Deny(Reason::NoRule) };
        }
        tables.ask_policy(self.flow.work.word.slot(), self.endpoint, &question)
    }
}
