//! Loads and runs the program that frees idle flows. It is of type syscall, so packets are handled meanwhile, even on the CPU
//! on which it runs.
//!
//! Input: the bpf object and the maps. Output: the program, loaded over those maps, and its runs. aya reads the object but
//! cannot load a program of this type, so this module does the last step itself.

use std::collections::BTreeMap;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::time::Duration;

use aya::EbpfError;
use aya_obj::Object;
use aya_obj::btf::BtfFeatures;
use enforcer_common::sweep::SweepArguments;

use crate::kernel::error::KernelError;
use crate::kernel::hooks::refused::refused;
use crate::kernel::sys::{self, SyscallProgram};

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
        let mut object = Object::parse(object).map_err(boxed)?;
        // Each kernel with tcx has all of these features of BTF. aya would find that out by a call for each.
        let features = BtfFeatures::new(true, true, true, true, true, true, true, true);
        let btf = object.fixup_and_sanitize_btf(&features).map_err(boxed)?;
        let btf = btf.ok_or(KernelError::MissingProgram { name: NAME })?.to_bytes();
        let btf = sys::btf_load(&btf).map_err(|source| KernelError::System { call: "BPF_BTF_LOAD", source })?;

        object.programs.retain(|name, _| name == NAME);
        let text = object.functions.keys().map(|(section, _)| *section).collect();
        let own = std::mem::take(&mut object.maps);
        // The other functions of the object have maps that this one has not; without a descriptor the kernel would refuse
        // an instruction that uses one.
        let fds =
            own.iter().map(|(name, map)| (name.as_str(), maps.get(name.as_str()).map_or(-1, AsRawFd::as_raw_fd), map));
        object.relocate_maps(fds, &text).map_err(boxed)?;
        object.relocate_calls(&text).map_err(boxed)?;

        let program = object.programs.get(NAME).ok_or(KernelError::MissingProgram { name: NAME })?;
        let function = object.functions.get(&program.function_key());
        let function = function.ok_or(KernelError::MissingProgram { name: NAME })?;
        let loaded = sys::syscall_load(&SyscallProgram {
            name: NAME,
            instructions: &function.instructions,
            license: &program.license,
            btf: btf.as_fd(),
            functions: &function.func_info,
        });
        let fd = loaded.map_err(|(source, log)| refused(NAME, source, &log))?;
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

fn boxed<E>(error: E) -> Box<EbpfError>
where
    EbpfError: From<E>,
{
    Box::new(error.into())
}
