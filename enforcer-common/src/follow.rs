//! Records one more packet in the flow that it belongs to, once that flow or policy has let it pass.
//!
//! Input: the flow, the role in which its packet was judged, and the packet. Output: the flow's state under the epoch in
//! force; and the counts of its workload, where the flow is established by it.

use core::sync::atomic::Ordering::Relaxed;

use crate::flow_key::FlowKey;
use crate::flow_state::{self, Course, FlowValue, FlowWord, Step, is_renewed, open_again, state, step};
use crate::id::Direction;
use crate::packet::Kind;
use crate::tables::{Clock, Flows};
use crate::verdict::Reason;
use crate::work::Work;

/// The out-of-line part that records a packet: tests run [`follow`] in line, the kernel's tables call it.
pub trait Follow: Flows + Clock {
    /// Records a packet, as the head of this module says. `current` is the flow's word as it was read.
    #[inline(always)]
    fn follow(&self, work: &Work, flow: &FlowValue, current: FlowWord, course: Course) -> Result<bool, Reason>
    where
        Self: Sized,
    {
        follow(self, work, flow, current, course)
    }
}

/// Records a packet, as the head of this module says. False: the word has changed since it was read, or is another flow's.
///
/// The error is that of a flow which would be established by the packet, but its share is full.
#[inline(always)]
pub fn follow<T: Flows + Clock>(
    tables: &T,
    work: &Work,
    flow: &FlowValue,
    current: FlowWord,
    course: Course,
) -> Result<bool, Reason> {
    let Work { word, direction, ref key, ref packet, .. } = *work;
    let role = course.role;
    let (tag, now) = (key.tag(), tables.tick());
    if !current.has_tag(tag) {
        return Ok(false);
    }
    let seen = flow.seen(direction, now);
    let (next, anew) = if matches!(packet.kind, Kind::Opening) {
        match open_again(current.state(), role, packet.class) {
            Some(next) => (Step { state: next, mark: seen.mark }, false),
            None => (flow_state::first(role, direction, packet), true),
        }
    } else {
        (step(current.state() & !state::ROLE | role as u8, direction, packet, seen), false)
    };
    if !rewrite(tables, key, flow, current, FlowWord::new(word.epoch, tag, next.state).with_behind(course.behind))? {
        return Ok(false);
    }
    if next.mark != seen.mark {
        flow.mark.store(next.mark, Relaxed);
    }
    if matches!(packet.kind, Kind::Opening) {
        // The numbers of a connection that is over say nothing of the next one.
        if anew || next.state & state::RESET != current.state() & state::RESET {
            flow.forget();
        }
    } else if !packet.is_reset() {
        flow.note(direction, packet);
    }
    if matches!(direction, Direction::Ingress) && flow.ingress.load(Relaxed) != work.meta.ingress_ifindex.0 {
        flow.ingress.store(work.meta.ingress_ifindex.0, Relaxed);
    }
    if anew || is_renewed(next.state, packet.class) {
        flow.touch(now);
    }
    Ok(true)
}

/// Rewrites a flow's word, and counts the flow where its new state says. False: the word has changed meanwhile.
#[inline(always)]
fn rewrite<T: Flows>(
    tables: &T,
    key: &FlowKey,
    flow: &FlowValue,
    current: FlowWord,
    next: FlowWord,
) -> Result<bool, Reason> {
    if current == next {
        return Ok(true);
    }
    let (before, after) = (current.share(), next.share());
    let moves = before != after;
    if moves && let Some(share) = after {
        tables.take(flow.home.quota(), share)?;
    }
    let done = flow.word.compare_exchange(current.0, next.0, Relaxed, Relaxed).is_ok();
    if moves {
        if let Some(share) = if done { before } else { after } {
            tables.give(flow.home.quota(), share);
        }
        if done && before.is_none() {
            tables.settle(key, flow.home);
        }
    }
    Ok(done)
}
