//! The shared words: the policy word, the counter of owner ids, the seed of the denial hash, whether the first run is over,
//! how many lost packets were reported to the flow log, and the bound of ICMP errors.

use std::fs::File;
use std::io::Read;
use std::path::Path;

use enforcer_common::id::{OwnerId, PolicyWord, Revision};
use enforcer_common::limits::{Global, map};

use crate::kernel::error::{KernelError, at, on_map};
use crate::kernel::pins::FlowMaps;
use crate::kernel::tables::mmap::Mapped;

/// The words.
#[derive(Debug)]
pub(crate) struct Globals {
    words: Mapped,
}

impl Globals {
    /// Maps the words.
    pub(crate) fn open(maps: &FlowMaps, writable: bool) -> Result<Self, KernelError> {
        let words = Mapped::new(&maps.globals, writable).map_err(on_map(map::GLOBALS, "mmap"))?;
        Ok(Self { words })
    }

    /// The policy in force.
    pub(crate) fn word(&self) -> PolicyWord {
        PolicyWord::from_u64(self.words.read64(Global::Word as u32, 0))
    }

    /// Puts a policy in force, in one step.
    pub(crate) fn set_word(&self, word: PolicyWord) {
        self.words.write64(Global::Word as u32, 0, word.to_u64());
    }

    /// Gives a new counter a start above the ids that are in use: the pin of the counter may have been lost alone.
    pub(crate) fn skip_owners(&self, highest: OwnerId) {
        if self.next_owner() == 0 {
            self.set_next_owner(u64::from(highest.0) + 1);
        }
    }

    /// The counter of owner ids.
    pub(crate) fn next_owner(&self) -> u64 {
        self.words.read64(Global::NextOwner as u32, 0)
    }

    /// Moves the counter on, before an id below it is used.
    pub(crate) fn set_next_owner(&self, next: u64) {
        self.words.write64(Global::NextOwner as u32, 0, next);
    }

    /// Whether a first plan was once put in force and everything that it names attached to.
    pub(crate) fn has_begun(&self) -> bool {
        self.words.read64(Global::Begun as u32, 0) != 0
    }

    /// Notes that the first plan is through.
    pub(crate) fn begin(&self) {
        self.words.write64(Global::Begun as u32, 0, 1);
    }

    /// Bounds the ICMP errors that pass with the flow that they quote.
    pub(crate) fn set_error_bytes(&self, bytes: u32) {
        self.words.write64(Global::ErrorBytes as u32, 0, u64::from(bytes));
    }

    /// Tells the programs on veths whether a packet to a Service is judged again behind the node's translation.
    pub(crate) fn set_judges_backends(&self, judges: bool) {
        self.words.write64(Global::JudgesBackends as u32, 0, judges.into());
    }

    /// Takes note of how many packets are lost in all; how many of them are new. A count below the one noted is that of a map
    /// made anew.
    pub(crate) fn tell_lost(&self, lost: u64) -> u64 {
        let told = self.words.read64(Global::ToldLost as u32, 0);
        self.words.write64(Global::ToldLost as u32, 0, lost);
        lost.checked_sub(told).unwrap_or(lost)
    }

    /// Sets the seed unless it is set.
    pub(crate) fn seed(&self) -> Result<(), KernelError> {
        if self.words.read64(Global::Seed as u32, 0) != 0 {
            return Ok(());
        }
        let path = Path::new("/dev/urandom");
        let mut seed = [0; 8];
        let read = File::open(path).and_then(|mut file| file.read_exact(&mut seed));
        read.map_err(at(path, "read"))?;
        // 0 means unset.
        self.words.write64(Global::Seed as u32, 0, u64::from_ne_bytes(seed) | 1);
        Ok(())
    }
}

/// The word of the next image. The slot changes every time; revision 0 stands for no image.
pub(crate) fn next_word(word: PolicyWord) -> PolicyWord {
    let revision = match word.revision.0.wrapping_add(1) {
        0 => Revision(2),
        revision => Revision(revision),
    };
    PolicyWord { revision, epoch: word.epoch.wrapping_add(1) & PolicyWord::EPOCHS }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_slot_changes_with_every_revision_and_none_is_zero() {
        let mut word = PolicyWord { revision: Revision(u32::MAX - 2), epoch: PolicyWord::EPOCHS - 1 };
        for _ in 0..6 {
            let next = next_word(word);
            assert_ne!(next.revision, Revision::NONE);
            assert_ne!(next.slot(), word.slot(), "{word:?} -> {next:?}");
            assert_ne!(next.epoch, word.epoch);
            assert!(next.epoch <= PolicyWord::EPOCHS, "a flow's word has no more bits for it");
            word = next;
        }
    }
}
