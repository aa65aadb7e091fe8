//! Chooses the bucket width for the index of a range table, so that the binary search in a bucket stays short.

use enforcer_common::id::PeerClass;
use enforcer_common::image::RangeTable;

/// Buckets at most: 256 KiB of index.
const MAX_BUCKETS: usize = 1 << 16;

/// How the ranges of a family are cut into buckets.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) struct Buckets {
    pub(super) base: u64,
    pub(super) shift: u32,
    pub(super) count: usize,
}

impl Buckets {
    /// For ranges whose index words are `words`, in order. The first starts at the lowest address and says nothing of where
    /// the others lie.
    pub(super) fn choose(words: &[u64]) -> Self {
        let [_, second, ..] = words else {
            return Self { base: 0, shift: 0, count: 1 };
        };
        let (base, last) = (*second, words[words.len() - 1]);
        let most = (2 * words.len()).next_power_of_two().min(MAX_BUCKETS) as u64;
        let span = last - base;
        let shift = (0..63).find(|shift| span >> shift < most).unwrap_or(63);
        Self { base, shift, count: (span >> shift) as usize + 1 }
    }

    fn bucket(self, word: u64) -> usize {
        RangeTable::bucket(self.base, self.shift, self.count as u32, word) as usize
    }

    /// First range of each bucket, and the number of ranges.
    pub(super) fn index(self, words: &[u64]) -> Vec<u32> {
        let mut index = Vec::with_capacity(self.count + 1);
        for (place, word) in words.iter().enumerate() {
            let bucket = self.bucket(*word);
            while index.len() <= bucket {
                index.push(place as u32);
            }
        }
        index.resize(self.count + 1, words.len() as u32);
        index
    }
}

/// The word by which ranges of a family are indexed.
pub(super) fn word(v4: bool, start: u128) -> u64 {
    if v4 { start as u64 } else { (start >> 64) as u64 }
}

/// The index words of some ranges.
pub(super) fn words(v4: bool, ranges: &[(u128, PeerClass)]) -> Vec<u64> {
    ranges.iter().map(|(start, _)| word(v4, *start)).collect()
}
