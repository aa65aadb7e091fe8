//! Programs of types that aya cannot load: those of type syscall, which run in the context of the caller and not on a packet,
//! and those of type netfilter.

use std::ffi::CStr;
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, OwnedFd};

use aya_obj::btf::FuncSecInfo;
use aya_obj::generated::bpf_insn;

use super::{address, bpf, command, owned};

/// `BPF_F_SLEEPABLE`; the kernel takes no other program of type syscall.
const SLEEPABLE: u32 = 1 << 4;

/// A type of program.
#[derive(Clone, Copy, Debug)]
pub(crate) enum ProgramType {
    /// `BPF_PROG_TYPE_SYSCALL`.
    Syscall,
    /// `BPF_PROG_TYPE_NETFILTER`.
    Netfilter,
}

impl ProgramType {
    /// Its number, its flags, and where it may be attached.
    const fn numbers(self) -> [u32; 3] {
        match self {
            Self::Syscall => [31, SLEEPABLE, 0],
            Self::Netfilter => [32, 0, super::NETFILTER],
        }
    }
}
/// Bytes for the verifier's log. If the log does not fit, Linux 6.4 and later keep its end.
const LOG: usize = 1 << 20;

/// What makes a program.
#[derive(Clone, Copy, Debug)]
pub(crate) struct NewProgram<'a> {
    /// Its type.
    pub(crate) kind: ProgramType,
    /// Name of the program, of which the kernel keeps at most 15 bytes.
    pub(crate) name: &'a str,
    /// Instructions of the program after relocation.
    pub(crate) instructions: &'a [bpf_insn],
    /// Licence that the program states.
    pub(crate) license: &'a CStr,
    /// The BTF types of the object, as the kernel has loaded them.
    pub(crate) btf: BorrowedFd<'a>,
    /// The functions in `instructions`. Without this list the kernel refuses callbacks.
    pub(crate) functions: &'a FuncSecInfo,
}

/// Loads BTF types into the kernel.
pub(crate) fn btf_load(btf: &[u8]) -> io::Result<OwnedFd> {
    #[repr(C)]
    struct Load {
        btf: u64,
        log_buf: u64,
        size: u32,
        log_size: u32,
        log_level: u32,
        pad: u32,
    }
    let mut load =
        Load { btf: address(btf.as_ptr()), log_buf: 0, size: btf.len() as u32, log_size: 0, log_level: 0, pad: 0 };
    // SAFETY: the layout is this command's; the types are as long as said, are only read, and outlive the call.
    Ok(owned(unsafe { bpf(command::BTF_LOAD, &mut load) }?))
}

/// Loads a program. The error comes with what the verifier says.
pub(crate) fn program_load(program: &NewProgram<'_>) -> Result<OwnedFd, (io::Error, String)> {
    if let Ok(fd) = load(program, &mut []) {
        return Ok(fd);
    }
    let mut log = vec![0; LOG];
    load(program, &mut log).map_err(|error| {
        let text = CStr::from_bytes_until_nul(&log).map(|text| text.to_string_lossy().into_owned());
        (error, text.unwrap_or_default())
    })
}

fn load(program: &NewProgram<'_>, log: &mut [u8]) -> io::Result<OwnedFd> {
    #[repr(C)]
    struct Load {
        kind: u32,
        instruction_count: u32,
        instructions: u64,
        license: u64,
        log_level: u32,
        log_size: u32,
        log_buf: u64,
        kernel_version: u32,
        flags: u32,
        name: [u8; 16],
        ifindex: u32,
        attach_type: u32,
        btf_fd: i32,
        function_size: u32,
        functions: u64,
        function_count: u32,
        line_size: u32,
    }
    // Two words for each: where it starts, and its type.
    let functions = program.functions.func_info_bytes();
    let [kind, flags, attach_type] = program.kind.numbers();
    let mut load = Load {
        kind,
        instruction_count: program.instructions.len() as u32,
        instructions: address(program.instructions.as_ptr().cast()),
        license: address(program.license.as_ptr().cast()),
        log_level: u32::from(!log.is_empty()),
        log_size: log.len() as u32,
        log_buf: if log.is_empty() { 0 } else { address(log.as_mut_ptr()) },
        kernel_version: 0,
        flags,
        name: [0; 16],
        ifindex: 0,
        attach_type,
        btf_fd: program.btf.as_raw_fd(),
        function_size: 8,
        functions: address(functions.as_ptr()),
        function_count: program.functions.len() as u32,
        line_size: 0,
    };
    // One byte stays for the end of the string.
    for (place, byte) in load.name.iter_mut().take(15).zip(program.name.bytes()) {
        *place = byte;
    }
    // SAFETY: the layout is this command's; all that is pointed to is as long as said and outlives the call, and of it
    // only the log, which is borrowed for writing, is written to.
    Ok(owned(unsafe { bpf(command::PROG_LOAD, &mut load) }?))
}

/// Runs a program once, with its context, and gives its return value.
pub(crate) fn syscall_run(program: BorrowedFd<'_>, context: &mut [u32]) -> io::Result<u32> {
    #[repr(C)]
    struct TestRun {
        prog_fd: i32,
        retval: u32,
        data_sizes: [u32; 2],
        data: [u64; 2],
        repeat: u32,
        duration: u32,
        ctx_size_in: u32,
        ctx_size_out: u32,
        ctx_in: u64,
        ctx_out: u64,
        flags: u32,
        cpu: u32,
        batch_size: u32,
        pad: u32,
    }
    let mut run = TestRun {
        prog_fd: program.as_raw_fd(),
        retval: 0,
        data_sizes: [0; 2],
        data: [0; 2],
        repeat: 0,
        duration: 0,
        ctx_size_in: size_of_val(context) as u32,
        ctx_size_out: 0,
        ctx_in: address(context.as_mut_ptr().cast()),
        ctx_out: 0,
        flags: 0,
        cpu: 0,
        batch_size: 0,
        pad: 0,
    };
    // SAFETY: the layout is this command's; the kernel copies the context, as long as said, and writes it back afterwards.
    unsafe { bpf(command::PROG_TEST_RUN, &mut run) }?;
    Ok(run.retval)
}
