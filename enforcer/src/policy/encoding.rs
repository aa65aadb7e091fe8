//! Guesses what a file is written in that is not UTF-8.
//!
//! Input: its bytes. Output: the likely encoding, and the command that converts it.

use std::fmt;

/// What the bytes of a file look like.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Encoding {
    /// Two bytes a character.
    Utf16,
    /// One byte a character.
    SingleByte {
        /// The line of the first byte that is not UTF-8.
        line: usize,
        /// That byte.
        byte: u8,
    },
}

impl Encoding {
    /// Of bytes that are UTF-8 as far as `valid`.
    pub(super) fn of(bytes: &[u8], valid: usize) -> Self {
        if let [0xff, 0xfe, ..] | [0xfe, 0xff, ..] = bytes {
            return Self::Utf16;
        }
        let line = bytes.iter().take(valid).filter(|byte| **byte == b'\n').count() + 1;
        Self::SingleByte { line, byte: bytes.get(valid).copied().unwrap_or_default() }
    }

    /// What to do about it.
    pub(super) fn help(self) -> String {
        let from = match self {
            Self::Utf16 => "UTF-16",
            Self::SingleByte { .. } => "WINDOWS-1252",
        };
        format!("save the file as UTF-8 text, for example with `iconv -f {from} -t UTF-8 FILE > NEW`")
    }
}

impl fmt::Display for Encoding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Utf16 => f.write_str("it looks like UTF-16"),
            Self::SingleByte { line, byte } => {
                write!(f, "the byte 0x{byte:02X} in line {line} looks like Latin-1 or Windows-1252")
            }
        }
    }
}
