//! Loads and runs the program that frees idle flows. It is of type syscall, so packets are handled meanwhile, even on the CPU
//! on which it runs.
//!
//! Input: the bpf object and the maps. Output: the program, loaded over those maps, and its runs.

use std::collections::BTreeMap;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::Duration;

use enforcer_common::sweep::SweepArguments;

use crate::kernel::error::KernelError;
use crate::kernel::hooks::other;
use crate::kernel::sys::{self, ProgramType};

/// Name of the sweep program in the object.
pub(crate) const NAME: &str = "sweep";

/// What came of one run of the sweep.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Swept {
    /// Number of deleted flows. If it is the cap of the run, more idle flows may be left.
    pub deleted: u32,
    /// In what time the first of the flows that are left may be over; `None`: no flow is left.
    pub next: Option<Duration>,
}

/// The sweep program, loaded into the kernel.
#[derive(Debug)]
pub struct Sweep {
    fd: OwnedFd,
}

impl Sweep {
    /// Loads the sweep program from an object. `maps` has a map for each name of the object.
    pub fn load(object: &[u8], maps: &BTreeMap<&str, BorrowedFd<'_>>) -> Result<Self, KernelError> {
        let fd = other::load(object, NAME, ProgramType::Syscall, maps, &[])?;
        Ok(Self { fd })
    }

    /// Wraps the descriptor of a sweep program that was loaded before.
    pub(crate) fn loaded(fd: OwnedFd) -> Self {
        Self { fd }
    }

    /// Runs the sweep once.
    pub fn run(&self, arguments: SweepArguments) -> Result<Swept, KernelError> {
        let mut words = arguments.to_words();
        let deleted = sys::syscall_run(self.fd.as_fd(), &mut words)
            .map_err(|source| KernelError::System { call: "run the sweep", source })?;
        let [.., left_ms] = words;
        let next = (left_ms != SweepArguments::NEVER).then(|| Duration::from_millis(left_ms.into()));
        Ok(Swept { deleted, next })
    }
}

impl AsFd for Sweep {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}
