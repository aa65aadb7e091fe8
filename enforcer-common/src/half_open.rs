//! The flows that are half open: a ring of their keys for each direction, in which the oldest gives way to the newest.
//!
//! Input: a ring's place and the flow whose key stands there. Output: whether that flow has to go.
//!
//! Half-open flows count in nobody's share, since anybody can make them with forged sources. So a flood of them keeps no new
//! flow out: it only shortens the time that one has to be established.

use core::sync::atomic::Ordering::Relaxed;

use crate::atomic::AtomicU32;
use crate::flow_key::FlowKey;
use crate::flow_state::{FlowValue, FlowWord};
use crate::id::Direction;

/// Value of `HALF_OPEN`.
#[repr(C)]
#[derive(Debug)]
pub struct HalfOpen {
    /// Whose place it is; [`FlowKey::NONE`]: it is free.
    pub key: FlowKey,
    /// In the first place of a ring: how many flows have come. Else zero.
    pub next: AtomicU32,
    /// Zero.
    pub pad: u32,
}
const _: () = assert!(size_of::<HalfOpen>() == 32);

/// The first place of a direction's ring. `mask`: one less than the places of a ring, which are a power of two.
#[inline(always)]
pub fn first_place(share: Direction, mask: u32) -> u32 {
    match share {
        Direction::Ingress => 0,
        Direction::Egress => mask + 1,
    }
}

/// The word by which a flow is claimed that has to give way: it stands in `place` and is still half open.
#[inline(always)]
pub fn to_give_way(flow: &FlowValue, key: &FlowKey, place: u32) -> Option<FlowWord> {
    let word = FlowWord(flow.word.load(Relaxed));
    (word.has_tag(key.tag()) && word.share().is_none() && flow.home.half_open() == place).then_some(word)
}

/// Claims a flow for its deletion: whoever succeeds has to delete it, and knows by the word what it was counted as.
#[inline(always)]
pub fn claim(flow: &FlowValue, word: FlowWord) -> bool {
    flow.word.compare_exchange(word.0, FlowWord::FREED.0, Relaxed, Relaxed).is_ok()
}
