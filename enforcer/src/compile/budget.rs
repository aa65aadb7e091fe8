//! The limits on the size of an image. The sizes are counted before the image is written.

use std::fmt;

use enforcer_common::image::{AddressEntry, Header, Line, PortKey};
use enforcer_common::limits::{IMAGE_BUDGET, RANGES};

/// Why a policy set was refused. The image in force stays.
#[derive(Debug, thiserror::Error)]
pub enum CompileError {
    /// The image would pass its budget.
    #[error("the policies compile to {bytes} bytes of tables, but at most {budget} are allowed: {sizes}")]
    Budget {
        /// Bytes of the lines and of the exact addresses.
        bytes: u64,
        /// How many there may be.
        budget: u64,
        /// What they would hold.
        sizes: Sizes,
    },
    /// It would pass its budget so far that it was not counted to the end.
    #[error(
        "the policies compile to more than {at_least} bytes of tables, but at most {budget} are allowed: so far {sizes}"
    )]
    FarTooLarge {
        /// Bytes of the classes and vectors found so far.
        at_least: u64,
        /// How many there may be.
        budget: u64,
        /// What was found so far.
        sizes: Sizes,
    },
    /// Too many kinds of ports.
    #[error("the policies distinguish {count} kinds of ports, but at most {limit} fit; use fewer port ranges")]
    PortClasses {
        /// How many there are.
        count: usize,
        /// How many there may be.
        limit: usize,
    },
    /// Too many address ranges.
    #[error("the policies divide the {family} addresses into {count} ranges, but at most {limit} fit; use fewer CIDRs")]
    Ranges {
        /// `IPv4` or `IPv6`.
        family: &'static str,
        /// How many there are.
        count: usize,
        /// How many there may be.
        limit: u32,
    },
}

/// What an image holds.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct Sizes {
    /// Rows.
    pub rows: usize,
    /// Peer classes.
    pub peer_classes: usize,
    /// Port classes.
    pub port_classes: usize,
    /// Port vectors.
    pub vectors: usize,
    /// Ranges of IPv4 and of IPv6 addresses.
    pub ranges: [usize; 2],
    /// Buckets of the index of each.
    pub buckets: [usize; 2],
    /// Exact addresses.
    pub addresses: usize,
}

impl fmt::Display for Sizes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { rows, peer_classes, port_classes, vectors, ranges: [v4, v6], buckets: _, addresses } = self;
        write!(
            f,
            "{rows} rows, {peer_classes} peer classes, {port_classes} port classes, {vectors} vectors, {v4} IPv4 ranges, \
             {v6} IPv6 ranges, {addresses} addresses"
        )
    }
}

// Products of counts stay in 32 bits, and classes in an entry, because what passes the budget is refused.
const _: () = assert!(IMAGE_BUDGET < 1 << 32 && IMAGE_BUDGET / 2 <= AddressEntry::MAX_CLASS as u64);

/// Bytes of an entry of the hash of exact addresses: key and value.
const ADDRESS_BYTES: u64 = 16 + 4;

/// Bytes of an image that is in force, counted as [`Sizes::bytes`] does.
pub fn bytes(header: &Header) -> u64 {
    u64::from(header.lines) * size_of::<Line>() as u64 + u64::from(header.addresses) * ADDRESS_BYTES
}

impl Sizes {
    /// Whether port classes take two bytes.
    pub(super) fn wide_ports(&self) -> bool {
        self.port_classes > 256
    }

    /// Whether vector numbers take four bytes.
    pub(super) fn wide_vectors(&self) -> bool {
        self.vectors > 1 << 16
    }

    /// Lines of the whole image.
    pub(super) fn lines(&self) -> u64 {
        let lines = |count: usize, bytes: u64| (count as u64 * bytes).div_ceil(size_of::<Line>() as u64);
        let ranges: u64 = [4, 16]
            .into_iter()
            .enumerate()
            .map(|(family, start)| {
                let count = self.ranges[family];
                lines(self.buckets[family] + 1, 4) + lines(count, start) + lines(count, 4)
            })
            .sum();
        3 + ranges
            + lines(PortKey::COUNT as usize, if self.wide_ports() { 2 } else { 1 })
            + lines(self.rows * self.peer_classes, if self.wide_vectors() { 4 } else { 2 })
            + lines(self.vectors * self.port_classes, 1)
    }

    /// Bytes of the lines and of the exact addresses.
    pub fn bytes(&self) -> u64 {
        self.lines() * size_of::<Line>() as u64 + self.addresses as u64 * ADDRESS_BYTES
    }

    /// Refuses what is too large to be written.
    pub(super) fn check(&self) -> Result<(), CompileError> {
        for (family, count) in ["IPv4", "IPv6"].into_iter().zip(self.ranges) {
            if count > RANGES as usize {
                return Err(CompileError::Ranges { family, count, limit: RANGES });
            }
        }
        let bytes = self.bytes();
        if bytes > IMAGE_BUDGET {
            return Err(CompileError::Budget { bytes, budget: IMAGE_BUDGET, sizes: *self });
        }
        Ok(())
    }

    /// Refuses what is so large that counting it would itself take too much memory.
    pub(super) fn check_so_far(&self) -> Result<(), CompileError> {
        let cells = self.rows as u64 * self.peer_classes as u64 * 2;
        let at_least = cells + self.vectors as u64 * self.port_classes as u64;
        if at_least > 2 * IMAGE_BUDGET {
            return Err(CompileError::FarTooLarge { at_least, budget: IMAGE_BUDGET, sizes: *self });
        }
        Ok(())
    }
}
