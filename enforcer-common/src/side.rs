//! The sides of devices on which packets are judged: both of a workload's veth, and the receiving one of any other device.
//!
//! Input: a side. Output: the direction that its program judges, the name of the program, and the ending of its pins. Only
//! the file of each hook in user space knows what the kernel calls that side.

use crate::id::Direction;

/// One side of a device.
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub enum Side {
    /// What the workload sends: the host side of its veth receives it.
    FromWorkload,
    /// What the workload gets: the host side of its veth transmits it.
    ToWorkload,
    /// What a device receives that leads to no workload.
    Guard,
}

impl Side {
    /// Both sides of a workload's veth. What the workload sends comes first, since that is what harms others.
    pub const OF_VETH: [Self; 2] = [Self::FromWorkload, Self::ToWorkload];
    /// Every side.
    pub const ALL: [Self; 3] = [Self::FromWorkload, Self::ToWorkload, Self::Guard];

    /// The direction that is judged, as the workload sees it.
    pub const fn direction(self) -> Direction {
        match self {
            Self::FromWorkload => Direction::Egress,
            // What comes in may be for a workload.
            Self::ToWorkload | Self::Guard => Direction::Ingress,
        }
    }

    /// Name of the program in the object.
    pub const fn program(self) -> &'static str {
        match self {
            Self::FromWorkload => "from_workload",
            Self::ToWorkload => "to_workload",
            Self::Guard => "guard",
        }
    }

    /// How the name of a link's pin ends.
    pub const fn pin(self) -> &'static str {
        match self {
            Self::FromWorkload => "from",
            Self::ToWorkload => "to",
            Self::Guard => "guard",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_two_sides_share_a_place_a_program_or_a_pin() {
        for (place, side) in Side::ALL.into_iter().enumerate() {
            assert_eq!(side as usize, place, "a side is a place in an array of all");
            for other in &Side::ALL[place + 1..] {
                assert_ne!(side.program(), other.program());
                assert_ne!(side.pin(), other.pin());
            }
        }
        let [from, to] = Side::OF_VETH;
        assert_ne!(from.direction() as u8, to.direction() as u8);
    }
}
