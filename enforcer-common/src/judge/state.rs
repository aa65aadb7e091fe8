//! Writes the flow state after a verdict.
//!
//! Input: the flow table, the clock, and the packet that is judged. Output: a flow that is added, renewed under the epoch in
//! force, or kept closed.

use core::sync::atomic::Ordering::Relaxed;

use crate::flow_state::{Course, FlowValue, FlowWord, Home, Role, first, state};
use crate::follow::Follow;
use crate::id::{Direction, Ifindex, QuotaPlace};
use crate::packet::{Kind, ProtocolClass};
use crate::verdict::Reason;
use crate::work::Work;

/// The flow of a packet under judgement, whether the table has it or not.
pub(super) struct JudgedFlow<'a, T> {
    pub(super) tables: &'a T,
    pub(super) work: &'a Work,
    /// Where a new flow is counted.
    pub(super) quota: QuotaPlace,
}

impl<T: Follow> JudgedFlow<'_, T> {
    /// State for a packet that opens a flow. Most are new, so the entry that may be there is looked for last.
    #[inline(always)]
    pub(super) fn open(&self, course: Course) -> Result<(), Reason> {
        let added = self.add(course, self.ingress());
        if !matches!(added, Ok(true))
            && let Some(flow) = self.tables.flow(&self.work.key)
            // Once more if another CPU changed the state bits in between.
            && (self.follow(flow, course)? || self.follow(flow, course)?)
        {
            return Ok(());
        }
        match added {
            // The entry that was in the way is gone.
            Ok(false) => self.insert(course),
            other => other.map(|_| ()),
        }
    }

    /// State in a course for a packet that has none; the packet shows by which device the peer's packets come in.
    #[inline(always)]
    pub(super) fn insert(&self, course: Course) -> Result<(), Reason> {
        self.add(course, self.ingress()).map(|_| ())
    }

    /// The same where the peer's packets may come in by another device.
    #[inline(always)]
    pub(super) fn insert_from_anywhere(&self, course: Course) -> Result<(), Reason> {
        self.add(course, FlowValue::UNKNOWN).map(|_| ())
    }

    /// Judged again and allowed, or vouched for, the flow goes on so.
    #[inline(always)]
    pub(super) fn go_on(&self, course: Course) -> Result<(), Reason> {
        // Freed meanwhile: the next packet is judged without state.
        if let Some(flow) = self.tables.flow(&self.work.key) {
            self.follow(flow, course)?;
        }
        Ok(())
    }

    /// Keeps the entry of a connection that policy has closed for as long as the answering side goes on: freed, the next
    /// segment would come back as a new flow of that side. It is as old as that side's last packet, whatever was said of
    /// its end, since whoever goes on has not ended it.
    #[inline(always)]
    pub(super) fn keep_closed(&self, stored: u8) {
        let connection = matches!(self.work.packet.class, ProtocolClass::Tcp | ProtocolClass::Sctp);
        let answers = Role::of_state(stored).is_some_and(|role| role.direction() as u8 != self.work.direction as u8);
        if connection
            && answers
            && let Some(flow) = self.tables.flow(&self.work.key)
        {
            let current = FlowWord(flow.word.load(Relaxed));
            let kept = current.with_state(current.state() & (state::ROLE | state::REPLIED | state::ESTABLISHED));
            if current.has_tag(self.work.key.tag())
                && flow.word.compare_exchange(current.0, kept.0, Relaxed, Relaxed).is_ok()
            {
                flow.touch(self.tables.tick());
            }
        }
    }

    /// The device of the peer's side, as far as this packet shows it.
    #[inline(always)]
    fn ingress(&self) -> Ifindex {
        match self.work.direction {
            Direction::Ingress => self.work.meta.ingress_ifindex,
            Direction::Egress => FlowValue::UNKNOWN,
        }
    }

    /// False: there is an entry already.
    #[inline(always)]
    fn add(&self, course: Course, ingress: Ifindex) -> Result<bool, Reason> {
        let Work { word, direction, ref key, ref packet, .. } = *self.work;
        let role = course.role;
        let begin = first(role, direction, packet);
        let word = FlowWord::new(word.epoch, key.tag(), begin.state).with_behind(course.behind);
        // The number in a packet that opens a connection means nothing.
        let shown = if matches!(packet.kind, Kind::Opening) { 0 } else { packet.acknowledgement };
        let acknowledged = match direction {
            Direction::Ingress => [shown, 0],
            Direction::Egress => [0, shown],
        };
        let home = Home::new(self.quota, 0);
        let mut value = FlowValue::new(word, self.tables.tick(), ingress, home, begin.mark, acknowledged);
        match (self.tables.insert(key, &mut value), role) {
            // The node's own packets are always let in (D3), with state or without.
            (Err(_), Role::NodeOpened) => Ok(true),
            (result, _) => result,
        }
    }

    /// Records the packet in an entry, under the epoch in force.
    #[inline(always)]
    fn follow(&self, flow: &FlowValue, course: Course) -> Result<bool, Reason> {
        match (self.tables.follow(self.work, flow, FlowWord(flow.word.load(Relaxed)), course), course.role) {
            (Err(_), Role::NodeOpened) => Ok(true),
            (result, _) => result,
        }
    }
}
