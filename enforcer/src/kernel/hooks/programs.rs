//! Loads the programs and pins them.
//!
//! Input: the bpf object and the pinned maps. Output: programs over those maps, pinned under a hash of both. So a restart of
//! the same build loads nothing, and the program of a link shows whether it is of this build.

use std::collections::BTreeMap;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::panic::resume_unwind;
use std::path::{Path, PathBuf};
use std::thread;

use aya::EbpfLoader;
use aya::programs::{ProgramError, SchedClassifier};
use enforcer_common::side::Side;
use nix::time::{ClockId, clock_getres};

use crate::kernel::error::{KernelError, at};
use crate::kernel::hooks::netfilter;
use crate::kernel::hooks::refused::refused;
use crate::kernel::hooks::sweep::{self, Sweep};
use crate::kernel::pins::Maps;
use crate::kernel::pins::layout::{self, Layout};
use crate::kernel::sys;

/// The object that `build.rs` embedded; empty in a build without the bpf compiler.
pub(crate) static EMBEDDED: &[u8] = aya::include_bytes_aligned!(env!("ENFORCER_BPF_OBJECT"));

/// One program of the object.
#[derive(Debug)]
struct Program {
    fd: OwnedFd,
    id: u32,
}

/// Name of the program in the object that drops all but ARP and uses no map.
const CLOSED: &str = "closed";

/// The programs of one object.
#[derive(Debug)]
pub(crate) struct Programs {
    /// By [`Side`].
    sides: [Program; 3],
    closed: Program,
    sweep: Sweep,
    /// `None`: this kernel cannot run it.
    translated: Option<Program>,
}

impl Programs {
    /// Takes over the programs of this object, or loads and pins them.
    pub(crate) fn open(layout: &Layout, maps: &Maps, object: &[u8]) -> Result<Self, KernelError> {
        let directory = directory(layout, maps, object);
        if let Some(mut programs) = Self::pinned(&directory)? {
            // A start without what the program needs must not decide for all later ones.
            if programs.translated.is_none() {
                programs.translated = load_translated(maps, object, Tick::of_kernel()?.shift);
                if let Some((fd, _)) = programs.translated() {
                    let path = directory.join(netfilter::NAME);
                    sys::object_pin(fd, &path).map_err(at(&path, "pin"))?;
                }
            }
            return Ok(programs);
        }
        let programs = Self::load(layout, maps, object)?;
        // Left by a start that was cut short.
        remove(&directory)?;
        std::fs::create_dir(&directory).map_err(at(&directory, "create"))?;
        let sides = Side::ALL.map(|side| (side.program(), programs.of(side).0));
        let others = [(CLOSED, programs.closed().0), (sweep::NAME, programs.sweep.as_fd())];
        let translated = programs.translated().map(|(fd, _)| (netfilter::NAME, fd));
        for (name, fd) in sides.into_iter().chain(others).chain(translated) {
            let path = directory.join(name);
            sys::object_pin(fd, &path).map_err(at(&path, "pin"))?;
        }
        Ok(programs)
    }

    /// Loads the programs without pinning them.
    pub(crate) fn load(layout: &Layout, maps: &Maps, object: &[u8]) -> Result<Self, KernelError> {
        if object.is_empty() {
            return Err(KernelError::NoObject);
        }
        let tick = Tick::of_kernel()?;
        let mut loader = EbpfLoader::new();
        loader.override_global("TICK_SHIFT", &tick.shift, true);
        // A ring for each direction.
        let half_open = maps.flows.half_open.attributes().entries / 2 - 1;
        loader.override_global("HALF_OPEN_MASK", &half_open, true);
        for (row, _) in maps.of_programs() {
            loader.map_pin_path(row.name, layout.map(row));
        }
        let mut ebpf = loader.load(object).map_err(Box::new)?;
        let mut found: BTreeMap<&str, &mut aya::programs::Program> = ebpf.programs_mut().collect();
        let mut wanted = |name: &'static str| (name, found.remove(name));
        let (sides, closed) = (Side::ALL.map(|side| wanted(side.program())), wanted(CLOSED));
        let fds = maps.of_programs().into_iter().map(|(row, map)| (row.name, map.fd())).collect();
        // The verifier takes most of a second for each of the two large ones, and works on several processors.
        let (sides, closed, sweep, translated) = thread::scope(|scope| {
            let sides = sides.map(|(name, program)| scope.spawn(move || verify(name, program)));
            let (closed, sweep) = (verify(closed.0, closed.1), Sweep::load(object, &fds));
            let translated = load_translated(maps, object, tick.shift);
            (sides.map(|side| side.join().unwrap_or_else(|panic| resume_unwind(panic))), closed, sweep, translated)
        });
        let [from, to, guard] = sides;
        Ok(Self { sides: [from?, to?, guard?], closed: closed?, sweep: sweep?, translated })
    }

    /// Opens the programs that are pinned in a directory. `None` means that a pin is missing.
    fn pinned(directory: &Path) -> Result<Option<Self>, KernelError> {
        let open = |name| {
            let path = directory.join(name);
            match sys::object_get(&path) {
                Ok(fd) => Ok(Some(fd)),
                Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
                Err(error) => Err(at(&path, "open pin")(error)),
            }
        };
        let [from, to, guard] = Side::ALL.map(|side| open(side.program()));
        let (Some(from), Some(to), Some(guard)) = (from?, to?, guard?) else {
            return Ok(None);
        };
        let (Some(closed), Some(sweep)) = (open(CLOSED)?, open(sweep::NAME)?) else {
            return Ok(None);
        };
        let sides = [program(from)?, program(to)?, program(guard)?];
        let translated = open(netfilter::NAME)?.map(program).transpose()?;
        Ok(Some(Self { sides, closed: program(closed)?, sweep: Sweep::loaded(sweep), translated }))
    }

    /// Removes the pins of other objects' programs.
    pub(crate) fn remove_others(layout: &Layout, maps: &Maps, object: &[u8]) -> Result<(), KernelError> {
        let own = directory(layout, maps, object);
        for name in layout::names(&layout.programs())? {
            let path = layout.programs().join(name);
            if path != own {
                remove(&path)?;
            }
        }
        Ok(())
    }

    /// The program of a side, and its id.
    pub(crate) fn of(&self, side: Side) -> (BorrowedFd<'_>, u32) {
        let program = &self.sides[side as usize];
        (program.fd.as_fd(), program.id)
    }

    /// The program for both sides of a veth for which there is no endpoint, and its id.
    pub(crate) fn closed(&self) -> (BorrowedFd<'_>, u32) {
        (self.closed.fd.as_fd(), self.closed.id)
    }

    /// The program behind the node's translation, and its id; `None`: this kernel cannot run it.
    pub(crate) fn translated(&self) -> Option<(BorrowedFd<'_>, u32)> {
        self.translated.as_ref().map(|program| (program.fd.as_fd(), program.id))
    }

    /// The program that frees flows.
    pub(crate) fn sweep(&self) -> &Sweep {
        &self.sweep
    }
}

/// Loads one program, which the kernel's verifier has to accept.
fn verify(name: &'static str, program: Option<&mut aya::programs::Program>) -> Result<Program, KernelError> {
    let failed = |error| not_loaded(name, error);
    let program = program.ok_or(KernelError::MissingProgram { name })?;
    let program: &mut SchedClassifier = program.try_into().map_err(|_| KernelError::MissingProgram { name })?;
    program.load().map_err(failed)?;
    let fd = program.fd().map_err(failed)?.as_fd().try_clone_to_owned();
    let fd = fd.map_err(|source| KernelError::System { call: "dup", source })?;
    let id = id(&fd)?;
    Ok(Program { fd, id })
}

/// Loads the program behind the node's translation. `None`: this kernel cannot run it, as the log says.
fn load_translated(maps: &Maps, object: &[u8], tick_shift: u32) -> Option<Program> {
    let fds = maps.of_programs().into_iter().map(|(row, map)| (row.name, map.fd())).collect();
    match netfilter::load(object, &fds, tick_shift).and_then(program) {
        Ok(program) => Some(program),
        Err(error) => {
            tracing::warn!(
                %error,
                "packets to Services are judged by the address of the Service: nothing can judge them by the backend here"
            );
            None
        }
    }
}

/// A program with its id.
fn program(fd: OwnedFd) -> Result<Program, KernelError> {
    let id = id(&fd)?;
    Ok(Program { fd, id })
}

fn not_loaded(name: &'static str, error: ProgramError) -> KernelError {
    match error {
        ProgramError::LoadError { io_error, verifier_log } => refused(name, io_error, &verifier_log.to_string()),
        other => refused(name, std::io::Error::other(other), ""),
    }
}

fn id(fd: &OwnedFd) -> Result<u32, KernelError> {
    sys::program_id(fd.as_fd()).map_err(|source| KernelError::System { call: "read a program's information", source })
}

/// The directory of the programs of one object over these maps. The ids of the maps are part of its name, because programs
/// over maps whose pins were lost must not be taken over.
fn directory(layout: &Layout, maps: &Maps, object: &[u8]) -> PathBuf {
    let maps = maps.of_programs().into_iter().flat_map(|(_, map)| map.id().to_ne_bytes());
    layout.programs().join(format!("{:016x}", hash(object.iter().copied().chain(maps))))
}

fn remove(directory: &Path) -> Result<(), KernelError> {
    if !directory.exists() {
        return Ok(());
    }
    std::fs::remove_dir_all(directory).map_err(at(directory, "remove"))
}

/// The 64-bit FNV-1a hash of some bytes. The hash tells builds apart and does not guard against an attacker.
fn hash(bytes: impl IntoIterator<Item = u8>) -> u64 {
    bytes
        .into_iter()
        .fold(0xcbf2_9ce4_8422_2325, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3))
}

/// How the programs turn jiffies into ticks of about a second.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) struct Tick {
    pub(crate) shift: u32,
    pub(crate) milliseconds: u32,
}

impl Tick {
    pub(crate) fn of_kernel() -> Result<Self, KernelError> {
        // The coarse clocks step once a jiffy, and this is the only place where user space can see how long that is.
        let jiffy = clock_getres(ClockId::CLOCK_MONOTONIC_COARSE)
            .map_err(|error| KernelError::System { call: "clock_getres", source: error.into() })?;
        Ok(Self::of(u64::try_from(jiffy.tv_nsec()).unwrap_or(0)))
    }

    /// The power of two of jiffies that is between two thirds and four thirds of a second.
    fn of(jiffy_ns: u64) -> Self {
        let hz = 1_000_000_000 / jiffy_ns.clamp(1_000_000, 100_000_000);
        let shift = (hz * 4 / 3).ilog2();
        Self { shift, milliseconds: ((1_u64 << shift) * 1000 / hz) as u32 }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_tick_is_about_a_second_at_every_rate() {
        for (hz, shift, milliseconds) in [(100, 7, 1280), (250, 8, 1024), (300, 8, 853), (1000, 10, 1024)] {
            assert_eq!(Tick::of(1_000_000_000 / hz), Tick { shift, milliseconds }, "{hz} Hz");
        }
    }

    #[test]
    fn the_hash_is_that_of_the_publication() {
        assert_eq!(hash(*b""), 0xcbf2_9ce4_8422_2325);
        assert_eq!(hash(*b"foobar"), 0x8594_4171_f739_67e8);
    }
}
