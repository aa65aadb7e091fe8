//! The unit of an image: a line of 64 bytes, which is written and read by words.

/// 64 bytes of an image.
///
/// The kernel rounds array values up to 8 bytes, so packing small values into lines saves up to seven of eight; an
/// offset masked to the line needs no bounds check.
#[repr(C, align(8))]
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Line([u32; 16]);
const _: () = assert!(size_of::<Line>() == 64);

impl Line {
    /// All zero.
    pub const ZERO: Self = Self([0; 16]);

    /// From its bytes as they lie in memory.
    pub fn from_bytes(bytes: &[u8; 64]) -> Self {
        let mut words = [0; 16];
        for (word, bytes) in words.iter_mut().zip(bytes.as_chunks::<4>().0) {
            *word = u32::from_ne_bytes(*bytes);
        }
        Self(words)
    }

    /// These words, and zeros behind them.
    pub(super) fn of(words: &[u32]) -> Self {
        let mut line = [0; 16];
        line[..words.len()].copy_from_slice(words);
        Self(line)
    }

    /// Word `n`, modulo 16.
    pub fn word(&self, n: usize) -> u32 {
        self.0[n % 16]
    }

    /// Overwrites bytes from `at` on.
    pub fn write(&mut self, at: usize, part: &[u8]) {
        let mut bytes = self.to_bytes();
        bytes[at..at + part.len()].copy_from_slice(part);
        *self = Self::from_bytes(&bytes);
    }

    /// Its bytes as they lie in memory.
    pub fn to_bytes(&self) -> [u8; 64] {
        let mut bytes = [0; 64];
        for (place, word) in bytes.as_chunks_mut::<4>().0.iter_mut().zip(self.0) {
            *place = word.to_ne_bytes();
        }
        bytes
    }

    // By words and shifts: the bpf target reads what may be unaligned byte by byte.

    #[inline(always)]
    pub(super) fn u8(&self, at: u32) -> u8 {
        let place = if cfg!(target_endian = "little") { at } else { 3 - (at & 3) };
        (self.u32(at) >> (8 * (place & 3))) as u8
    }

    #[inline(always)]
    pub(super) fn u16(&self, at: u32) -> u16 {
        let place = if cfg!(target_endian = "little") { at } else { at ^ 2 };
        (self.u32(at) >> (8 * (place & 2))) as u16
    }

    #[inline(always)]
    pub(super) fn u32(&self, at: u32) -> u32 {
        self.0[(at as usize / 4) % 16]
    }

    #[inline(always)]
    pub(super) fn u64(&self, at: u32) -> u64 {
        let [low, high] = if cfg!(target_endian = "little") { [at, at + 4] } else { [at + 4, at] };
        u64::from(self.u32(high)) << 32 | u64::from(self.u32(low))
    }
}
