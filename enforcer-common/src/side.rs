//! The two sides of a device on which a workload's packets are judged.
//!
//! Input: a side. Output: the direction that its program judges, the name of the program, and the ending of its pins. Only
//! the file of each hook in user space knows what the kernel calls that side.

use crate::id::Direction;

/// One side of a device that leads to a workload.
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub enum Side {
    /// What the workload sends: the host side of its veth receives it.
    FromWorkload,
    /// What the workload gets: the host side of its veth transmits it.
    ToWorkload,
}

impl Side {
    /// Both sides. What the workload sends comes first, since that is what harms others.
    pub const ALL: [Self; 2] = [Self::FromWorkload, Self::ToWorkload];

    /// The direction that is judged, as the workload sees it.
    pub const fn direction(self) -> Direction {
        match self {
            Self::FromWorkload => Direction::Egress,
            Self::ToWorkload => Direction::Ingress,
        }
    }

    /// Name of the program in the object.
    pub const fn program(self) -> &'static str {
        match self {
            Self::FromWorkload => "from_workload",
            Self::ToWorkload => "to_workload",
        }
    }

    /// How the name of a link's pin ends.
    pub const fn pin(self) -> &'static str {
        match self {
            Self::FromWorkload => "from",
            Self::ToWorkload => "to",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_two_sides_share_a_direction_a_program_or_a_pin() {
        let [from, to] = Side::ALL;
        assert_eq!((from as usize, to as usize), (0, 1), "a side is a place in an array of two");
        assert_ne!(from.direction() as u8, to.direction() as u8);
        assert_ne!(from.program(), to.program());
        assert_ne!(from.pin(), to.pin());
    }
}
