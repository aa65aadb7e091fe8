//! What the programs do with a packet, from its first byte to its verdict. The kernel and the tests compile the same source.
//!
//! Input: a frame, the device and the direction, and the tables. Output: a verdict. Flow state is kept in the tables.
//!
//! A packet goes through the modules in one direction: [`live`], then this one, then
//! [`icmp_error`](crate::icmp_error) if the packet is an ICMP error, then [`judge`](crate::judge), then
//! [`decide`](crate::decide). In the kernel, the steps to `icmp_error`, `judge` and `decide` go through a function of
//! `enforcer-ebpf/src/lookup.rs`, which calls the same code out of line.

use core::sync::atomic::Ordering::Relaxed;

use crate::endpoint::Endpoint;
use crate::flow_key::FlowKey;
use crate::flow_state::{Course, FlowWord, Role};
use crate::home::Station;
use crate::icmp_error::FindQuoted;
use crate::id::{Direction, Ifindex, IncarnationId, OwnerId, Revision};
use crate::judge::JudgeWork;
use crate::live;
use crate::opaque::{Flag, opaque};
use crate::packet::{self, Frame, Kind, PacketBytes};
use crate::tables::{Devices, PolicyTables};
use crate::verdict::{Reason, Verdict};
use crate::work::{Meta, Work};

/// Judges a frame in a direction. Whatever `work` held before is overwritten.
#[inline(always)]
pub fn run<T: JudgeWork + FindQuoted, B: PacketBytes>(
    tables: &T,
    direction: Direction,
    meta: &Meta,
    bytes: &B,
    work: &mut Work,
) -> Verdict {
    let mut absent = Flag::lowered();
    if live::look(tables, direction, meta, bytes, &mut absent) {
        return Verdict::Allow;
    }
    judge_frame(tables, direction, meta, bytes, absent.is_raised(), work)
}

/// The second half of [`run`], for a frame that [`live::look`] did not let pass. `absent` says that the packet has no
/// flow.
#[inline(always)]
pub fn judge_frame<T: JudgeWork + FindQuoted, B: PacketBytes>(
    tables: &T,
    direction: Direction,
    meta: &Meta,
    bytes: &B,
    absent: bool,
    work: &mut Work,
) -> Verdict {
    match read_and_judge(tables, direction, meta, bytes, absent, work) {
        Ok(()) => Verdict::Allow,
        Err(reason) => Verdict::Deny(reason),
    }
}

/// The verdict for a frame whose headers cannot be read.
#[inline(always)]
pub fn unreadable<T: PolicyTables + Devices>(
    tables: &T,
    direction: Direction,
    meta: &Meta,
    work: &mut Work,
) -> Verdict {
    begin(tables, direction, meta, work);
    packet::clear(&mut work.packet);
    Verdict::Deny(Reason::PullFailed)
}

#[inline(always)]
fn begin<'a, T: PolicyTables + Devices>(
    tables: &'a T,
    direction: Direction,
    meta: &Meta,
    work: &mut Work,
) -> Option<&'a Endpoint> {
    let endpoint = tables.endpoint(meta.ifindex);
    work.word = tables.word();
    work.meta = *meta;
    work.direction = direction;
    // With a zero of which the compiler knows, this and what follows would become a call of `memset`.
    work.flow = opaque(0) as u8;
    work.settled = false;
    work.quotes_live_flow = false;
    work.to_all = false;
    work.station = Station::default();
    work.owner = OwnerId::NONE;
    work.workload = endpoint.map_or(IncarnationId::NONE, |endpoint| endpoint.id);
    endpoint
}

#[inline(always)]
fn is_of_node(direction: Direction, meta: &Meta) -> bool {
    matches!(direction, Direction::Ingress) && meta.ingress_ifindex == Ifindex::NONE
}

#[inline(always)]
fn read_and_judge<T: JudgeWork + FindQuoted, B: PacketBytes>(
    tables: &T,
    direction: Direction,
    meta: &Meta,
    bytes: &B,
    absent: bool,
    work: &mut Work,
) -> Result<(), Reason> {
    let endpoint = begin(tables, direction, meta, work);
    if meta.vlan {
        packet::clear(&mut work.packet);
        return Err(Reason::Vlan);
    }
    match packet::parse(bytes, &mut work.packet)? {
        Frame::Arp if packet::is_arp(work.packet.ethertype, bytes.length()) => return Ok(()),
        // A bridge of the node and its stations say who they are, as they do without us; a workload says nothing of the kind.
        Frame::Neighbour if is_of_node(direction, meta) => return Ok(()),
        Frame::Arp | Frame::Neighbour => return Err(Reason::Ethertype),
        Frame::Ip => {}
    }
    if matches!(direction, Direction::Egress) {
        work.station = bytes.station();
    }
    if let Some(endpoint) = endpoint
        && endpoint.flags[work.word.slot().index()] & Endpoint::UNKNOWN == 0
    {
        let (local, peer) = work.packet.sides(direction);
        work.owner = tables.owner_of(endpoint, local).unwrap_or(OwnerId::NONE);
        if work.owner == OwnerId::NONE && matches!(direction, Direction::Ingress) && local.is_v4() {
            work.to_all = packet::is_to_all(bytes);
        }
        let id = if work.owner == OwnerId::NONE { endpoint.id.owner() } else { work.owner };
        work.key = FlowKey::of_packet(id, direction, &work.packet, peer);
        if matches!(work.packet.kind, Kind::Following)
            && work.word.revision != Revision::NONE
            && !absent
            && let Some(flow) = tables.flow(&work.key)
        {
            let current = FlowWord(flow.word.load(Relaxed));
            let tag = work.key.tag();
            // Addresses without an id share one: an entry of theirs does not vouch for this one.
            work.settled = flow.vouches(current, direction, work.meta.ingress_ifindex, work.word.epoch, tag);
            if current.has_tag(tag) {
                work.flow = current.state();
            }
            if work.settled
                && work.owner != OwnerId::NONE
                && let Some(role) = Role::of_state(work.flow)
            {
                // A lost race only leaves the state as it was for one packet.
                let course = Course { role, behind: current.is_behind() };
                return match (tables.follow(work, flow, current, course), role) {
                    // The node's own packets are always let in (D3), with state or without.
                    (Err(_), Role::NodeOpened) | (Ok(_), _) => Ok(()),
                    (Err(reason), _) => Err(reason),
                };
            }
        }
    }
    if matches!(work.packet.kind, Kind::IcmpError) {
        tables.find_quoted(bytes, work);
    }
    tables.judge_work(work, endpoint)
}
