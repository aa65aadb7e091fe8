//! Waiting for a part of a cluster. Input: a question about it. Output: the moment when the answer is yes, or an error with
//! the end of the log of the part that failed.

use std::{
    thread::sleep,
    time::{Duration, Instant},
};

use anyhow::{Result, bail};

use crate::cluster::{log::tail, part::Part, state::State};

/// For a machine that is busy with other things too.
const PATIENCE: Duration = Duration::from_mins(3);

/// The parts that have to stay alive meanwhile.
#[derive(Debug)]
pub(crate) struct Watch<'a> {
    parts: &'a [Part],
}

impl<'a> Watch<'a> {
    pub(crate) fn of(state: &'a State) -> Self {
        Self { parts: &state.parts }
    }

    /// Asks until the answer is yes. `part` is the one that it depends on.
    pub(crate) fn until(&self, part: &str, does: &str, mut ask: impl FnMut() -> Result<bool>) -> Result<()> {
        let end = Instant::now() + PATIENCE;
        loop {
            for part in self.parts {
                if !part.is_alive() {
                    bail!("{} has ended; {}", part.name, tail(&part.log));
                }
            }
            if ask()? {
                return Ok(());
            }
            if Instant::now() >= end {
                let log = self.parts.iter().find(|other| other.name == part).map(|part| tail(&part.log));
                let seconds = PATIENCE.as_secs();
                bail!("waited {seconds} s in vain until {part} {does}; {}", log.unwrap_or_default());
            }
            sleep(Duration::from_millis(100));
        }
    }
}
