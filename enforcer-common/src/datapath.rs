//! What the programs do with a packet, from its first byte to the verdict: the same source in the kernel and in tests.
//!
//! Input: a frame, where it came by, and a [`World`] of tables. Output: a verdict; flow state is kept in the world.
//!
//! Ports of a flow key: those of the packets, seen from the workload. ICMP echo: the id stands in the local port if the
//! workload asked and in the peer port if it was asked, so an id cannot be turned round. Other protocols: the protocol
//! number in the local port.

use core::sync::atomic::Ordering::Relaxed;

use crate::decide::{self, Question};
use crate::endpoint::Endpoint;
use crate::flow_state::{FlowKey, FlowValue, FlowWord, renew};
use crate::id::{Address, Direction, OwnerId, PolicyWord};
use crate::image::Image;
use crate::live;
use crate::opaque::Flag;
use crate::packet::{self, Frame, Kind, Packet, PacketBytes, ProtocolClass};
use crate::verdict::{Reason, Verdict};
use crate::{icmp_error, judge};

/// The tables that a run reads and the flow state that it keeps.
pub trait World {
    /// The tables of one image.
    type Image: Image;
    /// The policy in force. Asked once by each half of a run, and no verdict mixes two answers.
    fn word(&self) -> PolicyWord;
    /// The image in a slot.
    fn image(&self, slot: usize) -> Option<Self::Image>;
    /// The endpoint of a device.
    fn endpoint(&self, ifindex: u32) -> Option<&Endpoint>;
    /// Whether a device leads to the outside.
    fn is_uplink(&self, ifindex: u32) -> bool;
    /// The state of a flow.
    fn flow(&self, key: &FlowKey) -> Option<&FlowValue>;
    /// Adds a flow unless its workload's quota or the table is full. False: it is there already.
    fn insert(&self, key: &FlowKey, value: &FlowValue) -> Result<bool, Reason>;
    /// A clock of about one second a tick, for idle flows.
    fn tick(&self) -> u32;
    /// CLOCK_BOOTTIME in ns.
    fn boot_time(&self) -> u64;
    /// [`judge::judge`]; the kernel's tables call it out of line.
    #[inline(always)]
    fn judge(&self, work: &Work, endpoint: Option<&Endpoint>) -> Result<(), Reason>
    where
        Self: Sized,
    {
        judge::judge(self, work, endpoint)
    }
    /// [`decide::answer`]; the kernel's tables call it out of line.
    #[inline(always)]
    fn policy(&self, slot: usize, endpoint: &Endpoint, question: &Question<'_>) -> Verdict
    where
        Self: Sized,
    {
        decide::answer(self, slot, endpoint, question)
    }
    /// [`icmp_error::find_quoted`]; the kernel's tables call it out of line.
    #[inline(always)]
    fn find_quoted<B: PacketBytes>(&self, bytes: &B, work: &mut Work)
    where
        Self: Sized,
    {
        icmp_error::find_quoted(self, bytes, work);
    }
}

/// Where a frame came by.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct Meta {
    /// The host side of the workload's veth.
    pub ifindex: u32,
    /// The device by which the frame came into this namespace; 0: this node made it.
    pub ingress_ifindex: u32,
    /// It carries an accelerated VLAN tag.
    pub vlan: bool,
}

/// A packet under judgement: filled by [`run`] as far as the frame can be read. [`judge::judge`] and the record of a
/// denial need no more than this.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct Work {
    /// The policy in force, as read once for this half of the run.
    pub word: PolicyWord,
    /// Where the frame came by.
    pub meta: Meta,
    /// Which way it goes.
    pub direction: Direction,
    /// State bits of the packet's flow, or of the one that an ICMP error quotes, if it must be judged again; else 0.
    pub flow: u8,
    /// Its flow has been judged; only the guardrails are open, since its local address is not the workload's own.
    pub settled: bool,
    /// It is an ICMP error about a live flow.
    pub quotes_live_flow: bool,
    /// The workload; [`OwnerId::NONE`] if the device is not known.
    pub workload: OwnerId,
    /// Of the local address; [`OwnerId::NONE`]: it is not the workload's own.
    pub owner: OwnerId,
    /// Key of the packet's flow, or of the one that an ICMP error quotes.
    pub key: FlowKey,
    /// The headers.
    pub packet: Packet,
}

impl Work {
    /// Before a run.
    pub const EMPTY: Self = Self {
        word: PolicyWord { revision: 0, epoch: 0 },
        meta: Meta { ifindex: 0, ingress_ifindex: 0, vlan: false },
        direction: Direction::Ingress,
        flow: 0,
        settled: false,
        quotes_live_flow: false,
        workload: OwnerId::NONE,
        owner: OwnerId::NONE,
        key: FlowKey::NONE,
        packet: Packet::EMPTY,
    };
}

/// Judges a frame in a direction. Whatever `work` held before is overwritten.
#[inline(always)]
pub fn run<W: World, B: PacketBytes>(
    world: &W,
    direction: Direction,
    meta: &Meta,
    bytes: &B,
    work: &mut Work,
) -> Verdict {
    let mut absent = Flag::lowered();
    if live::look(world, direction, meta, bytes, &mut absent) {
        return Verdict::Allow;
    }
    judge(world, direction, meta, bytes, absent.is_raised(), work)
}

/// The second half of [`run`], for a frame of which [`live::look`] did not say that it passes. `absent`: there is no flow.
#[inline(always)]
pub fn judge<W: World, B: PacketBytes>(
    world: &W,
    direction: Direction,
    meta: &Meta,
    bytes: &B,
    absent: bool,
    work: &mut Work,
) -> Verdict {
    match judge_frame(world, direction, meta, bytes, absent, work) {
        Ok(()) => Verdict::Allow,
        Err(reason) => Verdict::Deny(reason),
    }
}

/// The verdict for a frame whose headers cannot be read.
#[inline(always)]
pub fn unreadable<W: World>(world: &W, direction: Direction, meta: &Meta, work: &mut Work) -> Verdict {
    begin(world, direction, meta, work);
    work.packet = Packet::EMPTY;
    Verdict::Deny(Reason::PullFailed)
}

#[inline(always)]
fn begin<'a, W: World>(world: &'a W, direction: Direction, meta: &Meta, work: &mut Work) -> Option<&'a Endpoint> {
    let endpoint = world.endpoint(meta.ifindex);
    work.word = world.word();
    work.meta = *meta;
    work.direction = direction;
    work.flow = 0;
    work.settled = false;
    work.quotes_live_flow = false;
    work.owner = OwnerId::NONE;
    work.workload = endpoint.map_or(OwnerId::NONE, |endpoint| endpoint.id);
    endpoint
}

#[inline(always)]
fn judge_frame<W: World, B: PacketBytes>(
    world: &W,
    direction: Direction,
    meta: &Meta,
    bytes: &B,
    absent: bool,
    work: &mut Work,
) -> Result<(), Reason> {
    let endpoint = begin(world, direction, meta, work);
    if meta.vlan {
        work.packet = Packet::EMPTY;
        return Err(Reason::Vlan);
    }
    match packet::parse(bytes, &mut work.packet)? {
        // Longer ones would carry something else.
        Frame::Arp if bytes.length() > 64 => return Err(Reason::Ethertype),
        Frame::Arp => return Ok(()),
        Frame::Ip => {}
    }
    if let Some(endpoint) = endpoint
        && endpoint.flags[work.word.slot()] & Endpoint::UNKNOWN == 0
    {
        let (local, peer) = work.packet.sides(direction);
        work.owner = endpoint.owner_of(local).unwrap_or(OwnerId::NONE);
        let id = if work.owner == OwnerId::NONE { endpoint.id } else { work.owner };
        work.key = flow_key(id, direction, &work.packet, peer);
        if matches!(work.packet.kind, Kind::Following)
            && work.word.revision != 0
            && !absent
            && let Some(flow) = world.flow(&work.key)
        {
            let current = FlowWord(flow.word.load(Relaxed));
            let tag = work.key.tag();
            // Addresses without an id share one: an entry of theirs does not vouch for this one.
            work.settled = flow.vouches(current, direction, work.meta.ingress_ifindex, work.word.epoch, tag);
            if work.settled && work.owner != OwnerId::NONE {
                renew(flow, current, direction, &work.packet, world.tick());
                return Ok(());
            }
            if current.has_tag(tag) {
                work.flow = current.state();
            }
        }
    }
    if matches!(work.packet.kind, Kind::IcmpError) {
        world.find_quoted(bytes, work);
    }
    world.judge(work, endpoint)
}

#[inline(always)]
pub(crate) fn flow_key(owner: OwnerId, direction: Direction, packet: &Packet, peer: &Address) -> FlowKey {
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
pub(crate) fn echo_ports(workload_asked: bool, id: u16) -> (u16, u16) {
    if workload_asked { (id, 0) } else { (0, id) }
}
