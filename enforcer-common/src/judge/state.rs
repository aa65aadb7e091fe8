//! Writes the flow state after a verdict.
//!
//! Input: the flow table, the clock, and the packet that is judged. Output: a flow that is added, renewed under the epoch in
//! force, or kept closed.

use core::sync::atomic::Ordering::Relaxed;

use crate::flow_key::FlowKey;
use crate::flow_state::{FlowValue, FlowWord, Role, state, step};
use crate::id::{Direction, Ifindex, PolicyWord, QuotaPlace};
use crate::packet::{Packet, ProtocolClass};
use crate::tables::{Clock, Flows};
use crate::verdict::Reason;
use crate::work::Meta;

/// The flow of a packet under judgement, whether the table has it or not.
pub(super) struct JudgedFlow<'a, T> {
    pub(super) tables: &'a T,
    pub(super) word: PolicyWord,
    pub(super) meta: &'a Meta,
    pub(super) direction: Direction,
    pub(super) packet: &'a Packet,
    pub(super) key: &'a FlowKey,
    /// Where a new flow is counted.
    pub(super) quota: QuotaPlace,
}

impl<T: Flows + Clock> JudgedFlow<'_, T> {
    /// State for a packet that opens a flow. Most are new, so the entry that may be there is looked for last.
    #[inline(always)]
    pub(super) fn open(&self, role: Role) -> Result<(), Reason> {
        let added = self.add(role, self.ingress());
        if !matches!(added, Ok(true))
            && let Some(flow) = self.tables.flow(self.key)
            // Once more if another CPU changed the state bits in between.
            && (self.take_over(flow, role as u8) || self.take_over(flow, role as u8))
        {
            return Ok(());
        }
        match added {
            // The entry that was in the way is gone.
            Ok(false) => self.insert(role),
            other => other.map(|_| ()),
        }
    }

    /// State in a role for a packet that has none; the packet shows by which device the peer's packets come in.
    #[inline(always)]
    pub(super) fn insert(&self, role: Role) -> Result<(), Reason> {
        self.add(role, self.ingress()).map(|_| ())
    }

    /// The same where the peer's packets may come in by another device.
    #[inline(always)]
    pub(super) fn insert_from_anywhere(&self, role: Role) -> Result<(), Reason> {
        self.add(role, FlowValue::UNKNOWN).map(|_| ())
    }

    /// Judged again and allowed, the flow goes on in this role. `stored` are its state bits.
    #[inline(always)]
    pub(super) fn go_on(&self, stored: u8, role: Role) {
        // Freed meanwhile: the next packet is judged without state.
        if let Some(flow) = self.tables.flow(self.key) {
            let state = step(stored & !state::ROLE | role as u8, self.direction, self.packet);
            self.take_over(flow, state);
        }
    }

    /// Keeps the entry of a connection that policy has closed for as long as the answering side goes on: freed, the next
    /// segment would come back as a new flow of that side.
    #[inline(always)]
    pub(super) fn keep_closed(&self, stored: u8) {
        let connection = matches!(self.packet.class, ProtocolClass::Tcp | ProtocolClass::Sctp);
        let answers = Role::of_state(stored).is_some_and(|role| role.direction() as u8 != self.direction as u8);
        if connection
            && answers
            && let Some(flow) = self.tables.flow(self.key)
        {
            let current = FlowWord(flow.word.load(Relaxed));
            let kept = current.with_state(stored & state::ROLE | state::REPLIED);
            if current.has_tag(self.key.tag())
                && flow.word.compare_exchange(current.0, kept.0, Relaxed, Relaxed).is_ok()
            {
                flow.touch(self.tables.tick());
            }
        }
    }

    /// The device of the peer's side, as far as this packet shows it.
    #[inline(always)]
    fn ingress(&self) -> Ifindex {
        match self.direction {
            Direction::Ingress => self.meta.ingress_ifindex,
            Direction::Egress => FlowValue::UNKNOWN,
        }
    }

    /// False: there is an entry already.
    #[inline(always)]
    fn add(&self, role: Role, ingress: Ifindex) -> Result<bool, Reason> {
        let word = FlowWord::new(self.word.epoch, self.key.tag(), step(role as u8, self.direction, self.packet));
        let value = FlowValue::new(word, self.tables.tick(), ingress, self.quota);
        match (self.tables.insert(self.key, &value), role) {
            // The node's own packets are always let in (D3), with state or without.
            (Err(_), Role::NodeOpened) => Ok(true),
            (result, _) => result,
        }
    }

    /// Renews an entry under the epoch in force. If it was freed and reused meanwhile its tag or word has changed, and it
    /// is left alone: the next packet is judged.
    #[inline(always)]
    fn take_over(&self, flow: &FlowValue, state: u8) -> bool {
        let current = flow.word.load(Relaxed);
        let next = FlowWord::new(self.word.epoch, self.key.tag(), state);
        let renewed = FlowWord(current).has_tag(self.key.tag())
            && flow.word.compare_exchange(current, next.0, Relaxed, Relaxed).is_ok();
        if renewed {
            if matches!(self.direction, Direction::Ingress) {
                flow.ingress.store(self.meta.ingress_ifindex.0, Relaxed);
            }
            flow.touch(self.tables.tick());
        }
        renewed
    }
}
