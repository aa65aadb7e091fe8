//! Checks whether this process can enforce on this kernel. Input: the process, the kernel and a path. Output: the first
//! reason why not, as an error that says what to do.

use std::os::fd::AsFd;
use std::path::Path;

use caps::{CapSet, Capability};
use nix::sys::statfs::{FsType, statfs};

use crate::kernel::error::{KernelError, at};

/// The oldest kernel that can enforce: it brought tcx.
pub const OLDEST_KERNEL: (u32, u32) = (6, 6);
/// `BPF_FS_MAGIC`.
const BPFFS: FsType = FsType(0xcafe_4a11);

/// Numbers of capabilities, from the kernel's uapi.
const NET_ADMIN: u32 = 12;
const SYS_ADMIN: u32 = 21;
const PERFMON: u32 = 38;
const BPF: u32 = 39;

/// Checks capabilities, kernel and file system, in this order.
pub(crate) fn check(pin_dir: &Path) -> Result<(), KernelError> {
    check_capabilities(&read_status()?)?;
    check_kernel(nix::sys::utsname::uname().map_err(system("uname"))?.release().to_string_lossy().into_owned())?;
    check_bpffs(pin_dir)
}

/// Whether the pin directory, or what it will be made in, is on a bpf file system.
pub(crate) fn check_bpffs(pin_dir: &Path) -> Result<(), KernelError> {
    let existing = pin_dir.ancestors().find(|path| path.exists()).unwrap_or(pin_dir);
    let found = statfs(existing).map_err(|error| at(existing, "statfs")(error.into()))?;
    if found.filesystem_type() == BPFFS { Ok(()) } else { Err(KernelError::NoBpffs { path: pin_dir.to_path_buf() }) }
}

fn read_status() -> Result<String, KernelError> {
    let path = Path::new("/proc/self/status");
    std::fs::read_to_string(path).map_err(at(path, "read"))
}

/// Whether the verifier may be told to trust this process: some programs load only so.
pub(crate) fn may_skip_speculation_checks() -> Result<bool, KernelError> {
    let effective = effective(&read_status()?);
    Ok([PERFMON, SYS_ADMIN].into_iter().any(|capability| effective >> capability & 1 == 1))
}

/// Gives up `CAP_PERFMON`, which only the loading of programs needs, for this thread and those that it starts later.
/// Call it after the kernel side is open and before there are other threads.
pub fn give_up_loading() -> Result<(), KernelError> {
    for set in [CapSet::Ambient, CapSet::Inheritable, CapSet::Effective, CapSet::Permitted] {
        caps::drop(None, set, Capability::CAP_PERFMON)
            .map_err(|error| KernelError::System { call: "capset", source: std::io::Error::other(error) })?;
    }
    Ok(())
}

fn effective(status: &str) -> u64 {
    let mask = status.lines().find_map(|line| line.strip_prefix("CapEff:"));
    mask.and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok()).unwrap_or(0)
}

fn check_capabilities(status: &str) -> Result<(), KernelError> {
    let effective = effective(status);
    let has = |capability: u32| effective >> capability & 1 == 1;
    let mut missing = Vec::new();
    if !has(BPF) && !has(SYS_ADMIN) {
        missing.push("CAP_BPF");
    }
    if !has(NET_ADMIN) {
        missing.push("CAP_NET_ADMIN");
    }
    if missing.is_empty() { Ok(()) } else { Err(KernelError::MissingCapabilities { missing }) }
}

fn check_kernel(release: String) -> Result<(), KernelError> {
    let mut numbers = release.split(|c: char| !c.is_ascii_digit()).map_while(|part| part.parse().ok());
    let version = (numbers.next().unwrap_or(0), numbers.next().unwrap_or(0));
    if version >= OLDEST_KERNEL { Ok(()) } else { Err(KernelError::KernelTooOld { release }) }
}

/// A number that tells this network namespace from every other since boot.
pub(crate) fn namespace_cookie() -> Result<u64, KernelError> {
    use nix::sys::socket::{AddressFamily, SockFlag, SockType, socket};
    let socket =
        socket(AddressFamily::Unix, SockType::Datagram, SockFlag::SOCK_CLOEXEC, None).map_err(system("socket"))?;
    let cookie = crate::kernel::sys::namespace_cookie(socket.as_fd());
    cookie.map_err(|source| KernelError::System { call: "SO_NETNS_COOKIE", source })
}

fn system(call: &'static str) -> impl FnOnce(nix::errno::Errno) -> KernelError {
    move |error| KernelError::System { call, source: error.into() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_kernel_before_tcx_is_refused() {
        for (release, good) in [
            ("6.5.13-amd64", false),
            ("6.1.0-32-amd64", false),
            ("5.15.0", false),
            ("6.6.0", true),
            ("6.18.44-fc", true),
            ("7.0", true),
            ("nonsense", false),
        ] {
            match check_kernel(release.to_owned()) {
                Ok(()) => assert!(good, "{release}"),
                Err(error) => {
                    assert!(!good, "{release}: {error}");
                    assert!(matches!(error, KernelError::KernelTooOld { .. }), "{error}");
                    let said = error.to_string();
                    assert!(said.contains(release) && said.contains("Linux 6.6 or later"), "{said}");
                }
            }
        }
    }

    #[test]
    fn each_missing_capability_is_named() {
        let missing = |mask: u64| match check_capabilities(&format!("CapInh:\t0\nCapEff:\t{mask:016x}\n")) {
            Err(KernelError::MissingCapabilities { missing }) => missing,
            Ok(()) => Vec::new(),
            Err(other) => panic!("{other}"),
        };
        assert_eq!(missing(0), ["CAP_BPF", "CAP_NET_ADMIN"]);
        assert_eq!(missing(1 << 12), ["CAP_BPF"]);
        assert_eq!(missing(1 << 39), ["CAP_NET_ADMIN"]);
        assert_eq!(missing(1 << 39 | 1 << 12), [""; 0]);
        assert_eq!(missing(1 << 21 | 1 << 12), [""; 0], "the old capability holds the new one");
    }
}
