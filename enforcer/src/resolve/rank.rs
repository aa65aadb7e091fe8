//! The order in which rules decide. Precedence is defined here and nowhere else.
//!
//! Input: tier, priority and action of a rule. Output: its [`Rank`], one number. Of all rules that match a flow, the rule
//! with the highest rank decides. `decision` and `compile` compare ranks and nothing else. The kernel compares nothing,
//! because `compile` leaves one cell for each flow.

use enforcer_common::image::Cell;

use crate::policy::model::{Action, Priority, Tier};

/// Where a rule stands among all rules, and what it says there. The greater rank decides.
///
/// From the highest to the lowest, ranks are ordered:
///
/// 1. by tier (C1);
/// 2. in a tier by priority, the lower number first (C2);
/// 3. at one priority deny before allow (D2).
///
/// The defaults are ranks too. [`Rank::ISOLATED`] is below every rule of the NetworkPolicy tier and above whatever
/// comes after that tier. [`Rank::NOT_ISOLATED`] is below everything.
///
/// From its high bits to its low bits, the number holds tier (8), place in the tier (16) and action (8). It is never
/// stored: a new tier or action may renumber the others.
#[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub struct Rank(u32);

const TIER_SHIFT: u32 = 24;
const PLACE_SHIFT: u32 = 8;
const PLACE: u32 = 0xffff;
const ACTION: u32 = 0xff;

/// Behind the last tier.
const NO_TIER: u8 = 0;
/// Place of a tier's default: below those of its rules.
const DEFAULT: u16 = 0;
const ALLOW: u8 = 0;
const DENY: u8 = 1;

// The place of the highest priority fits: `place` cannot overflow.
const _: () = assert!(Priority::LOWEST.number() < u16::MAX);

impl Rank {
    /// No policy isolates the workload: every flow is allowed that no rule has decided (N1, C1).
    pub const NOT_ISOLATED: Self = Self::pack(NO_TIER, DEFAULT, ALLOW);
    /// A policy of the NetworkPolicy tier isolates the workload: every flow is denied that no rule has decided (N2, N6).
    pub const ISOLATED: Self = Self::pack(tier(Tier::NetworkPolicy), DEFAULT, DENY);

    /// The rank of a rule.
    pub const fn of_rule(in_tier: Tier, priority: Priority, action: Action) -> Self {
        let action = match action {
            Action::Allow => ALLOW,
            Action::Deny => DENY,
        };
        Self::pack(tier(in_tier), place(priority), action)
    }

    /// Whether a rule of this rank denies.
    pub const fn denies(self) -> bool {
        !matches!(self.cell(), Cell::Allow)
    }

    /// What the tables hold for a flow that this rank decides.
    pub const fn cell(self) -> Cell {
        if self.0 & ACTION == ALLOW as u32 {
            Cell::Allow
        } else if self.0 >> PLACE_SHIFT & PLACE == DEFAULT as u32 {
            Cell::Deny
        } else {
            Cell::RuleDeny
        }
    }

    const fn pack(tier: u8, place: u16, action: u8) -> Self {
        Self((tier as u32) << TIER_SHIFT | (place as u32) << PLACE_SHIFT | action as u32)
    }
}

/// The greater number decides first.
const fn tier(tier: Tier) -> u8 {
    match tier {
        Tier::NetworkPolicy => 1,
    }
}

/// From 1, for the lowest priority, upwards.
const fn place(priority: Priority) -> u16 {
    Priority::LOWEST.number() - priority.number() + 1
}

/// What decides: of the default and of everything that matches, the answer with the highest rank. Of equal ones it is
/// the first.
pub(super) fn deciding<T>(default: (Rank, T), matching: impl Iterator<Item = (Rank, T)>) -> (Rank, T) {
    matching.fold(default, |best, next| if next.0 > best.0 { next } else { best })
}

#[cfg(test)]
mod tests {
    use super::*;

    const TIER: Tier = Tier::NetworkPolicy;

    fn rank(priority: u16, action: Action) -> Rank {
        Rank::of_rule(TIER, Priority::new(priority).unwrap(), action)
    }

    #[test]
    fn every_rank_is_apart_and_in_its_order() {
        let priorities = Priority::HIGHEST.number()..=Priority::LOWEST.number();
        let rules = priorities.flat_map(|priority| [Action::Deny, Action::Allow].map(|action| rank(priority, action)));
        let all: Vec<Rank> = rules.chain([Rank::ISOLATED, Rank::NOT_ISOLATED]).collect();
        assert_eq!(all.len(), 2 * 1001 + 2);
        for pair in all.windows(2) {
            assert!(pair[0] > pair[1], "{pair:?}");
        }
    }

    #[test]
    fn a_priority_ends_where_the_order_does() {
        assert_eq!(Priority::new(0), Some(Priority::HIGHEST));
        assert_eq!(Priority::new(1000), Some(Priority::LOWEST));
        for beyond in [1001, u16::MAX] {
            assert_eq!(Priority::new(beyond), None, "{beyond}");
        }
        // The parts of the number do not reach into each other.
        assert_eq!(rank(0, Action::Deny), Rank(1 << 24 | 1001 << 8 | 1));
        assert_eq!(rank(1000, Action::Allow), Rank(1 << 24 | 1 << 8));
    }

    #[test]
    fn each_rank_has_its_cell() {
        for priority in [0, 1, 255, 256, 999, 1000] {
            assert_eq!(rank(priority, Action::Allow).cell(), Cell::Allow, "{priority}");
            assert_eq!(rank(priority, Action::Deny).cell(), Cell::RuleDeny, "{priority}");
        }
        assert_eq!(Rank::ISOLATED.cell(), Cell::Deny);
        assert_eq!(Rank::NOT_ISOLATED.cell(), Cell::Allow);
    }

    #[test]
    fn the_first_of_the_highest_decides() {
        let (low, deny, allow) = (rank(7, Action::Deny), rank(3, Action::Deny), rank(3, Action::Allow));
        let of = |matching: &[(Rank, &'static str)]| deciding((Rank::ISOLATED, "default"), matching.iter().copied()).1;
        assert_eq!(of(&[]), "default");
        assert_eq!(of(&[(Rank::NOT_ISOLATED, "open")]), "default");
        assert_eq!(of(&[(allow, "a"), (low, "b"), (allow, "c")]), "a");
        assert_eq!(of(&[(low, "a"), (allow, "b"), (deny, "c"), (deny, "d")]), "c");
    }
}
