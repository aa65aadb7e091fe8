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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::flow_state::{Home, Role, state};
    use crate::id::{Address, OwnerId, QuotaPlace};
    use crate::packet::ProtocolClass;

    const PLACE: u32 = 7;

    fn key(port: u16) -> FlowKey {
        FlowKey::new(OwnerId(1), ProtocolClass::Tcp, port, 80, &Address([1, 2, 3, 4]))
    }

    fn flow(key: &FlowKey, bits: u8, place: u32) -> FlowValue {
        let word = FlowWord::new(9, key.tag(), Role::WorkloadOpened as u8 | bits);
        FlowValue::new(word, 0, FlowValue::UNKNOWN, Home::new(QuotaPlace(3), place), 0, [0; 2])
    }

    /// A flow that came back after its place was another's stands in a newer place, and has its time there.
    #[test]
    fn only_a_half_open_flow_of_the_key_that_stands_in_the_place_gives_way() {
        let (own, other) = (key(1), key(2));
        assert_ne!(own.tag(), other.tag());
        let gives_way = |flow: FlowValue| to_give_way(&flow, &own, PLACE).is_some();
        assert!(gives_way(flow(&own, 0, PLACE)));
        assert!(gives_way(flow(&own, state::REPLIED, PLACE)));
        assert!(!gives_way(flow(&own, state::ESTABLISHED, PLACE)), "it is established");
        assert!(!gives_way(flow(&other, 0, PLACE)), "the element is another flow's by now");
        assert!(!gives_way(flow(&own, 0, PLACE + 1)), "it stands in another place");
    }

    #[test]
    fn a_flow_is_claimed_once_and_only_as_it_was_read() {
        let own = flow(&key(1), 0, PLACE);
        let word = to_give_way(&own, &key(1), PLACE).unwrap();
        own.word.store(word.with_state(word.state() | state::REPLIED).0, Relaxed);
        assert!(!claim(&own, word), "it has gone on meanwhile");
        let word = to_give_way(&own, &key(1), PLACE).unwrap();
        assert!(claim(&own, word));
        assert_eq!(own.word.load(Relaxed), FlowWord::FREED.0);
        assert!(!claim(&own, word), "somebody else has claimed it");
    }
}
