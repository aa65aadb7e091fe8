//! The fast path: it handles TCP and UDP packets of live flows without IP options or extension headers, if the packet changes
//! only the flow's last-seen time. Most packets are of this kind.
//!
//! Input: a frame, and the device and direction of it. Output: whether its flow lets it pass. All other packets go to
//! `datapath::judge_frame`, which would also pass whatever passes here. A property test compares the two.

use core::sync::atomic::Ordering::Relaxed;

use crate::endpoint::Endpoint;
use crate::flow_key::FlowKey;
use crate::flow_state::{FlowWord, is_settled};
use crate::id::{Direction, Revision};
use crate::opaque::Flag;
use crate::packet::{self, PacketBytes, tcp};
use crate::tables::{Clock, Devices, Flows, PolicyTables};
use crate::work::Meta;

/// Whether the packet's flow is live. `absent` is raised if the packet could only follow a flow and there is none.
#[inline(always)]
pub fn look<T: PolicyTables + Devices + Flows + Clock, B: PacketBytes>(
    tables: &T,
    direction: Direction,
    meta: &Meta,
    bytes: &B,
    absent: &mut Flag,
) -> bool {
    // Each family on its own: addresses that meet from both would all have to be kept on the stack.
    let live = match bytes.ethertype() {
        _ if meta.vlan => None,
        Some(0x0800) => look_in::<T, B>(tables, direction, meta, bytes, true, absent),
        Some(0x86dd) => look_in::<T, B>(tables, direction, meta, bytes, false, absent),
        Some(_) | None => None,
    };
    live.is_some()
}

#[inline(always)]
fn look_in<T: PolicyTables + Devices + Flows + Clock, B: PacketBytes>(
    tables: &T,
    direction: Direction,
    meta: &Meta,
    bytes: &B,
    v4: bool,
    absent: &mut Flag,
) -> Option<()> {
    let packet = packet::plain(bytes, v4)?;
    if packet.tcp_flags & (tcp::SYN | tcp::FIN | tcp::RST) != 0 {
        return None;
    }
    let endpoint = tables.endpoint(meta.ifindex)?;
    let word = tables.word();
    if word.revision == Revision::NONE || endpoint.flags[word.slot().index()] & Endpoint::UNKNOWN != 0 {
        return None;
    }
    let (local, peer) = packet.sides(direction);
    let key = FlowKey::of_packet(endpoint.owner_of(local)?, direction, &packet, peer);
    let Some(flow) = tables.flow(&key) else {
        absent.raise();
        return None;
    };
    let current = FlowWord(flow.word.load(Relaxed));
    if !flow.vouches(current, direction, meta.ingress_ifindex, word.epoch, key.tag())
        || !is_settled(current.state(), direction, packet.class)
    {
        return None;
    }
    flow.note(direction, &packet);
    flow.touch(tables.tick());
    Some(())
}
