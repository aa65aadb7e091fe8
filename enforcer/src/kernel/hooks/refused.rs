//! Explains why the kernel refused a program. Input: the error, and the log of the verifier. Output: an error that says what
//! to do.

use std::io;

use crate::kernel::error::KernelError;
use crate::kernel::preflight;

/// Lines of the verifier's log that are shown. The whole log runs to megabytes; what is wrong stands at its end.
const LINES: usize = 4;

/// A program was refused.
pub(super) fn refused(name: &'static str, source: io::Error, log: &str) -> KernelError {
    let denied = source.kind() == io::ErrorKind::PermissionDenied;
    if denied && matches!(preflight::may_skip_speculation_checks(), Ok(false)) {
        return KernelError::MissingCapabilities { missing: vec!["CAP_PERFMON"] };
    }
    let lines: Vec<&str> = log.lines().filter(|line| !line.trim().is_empty()).collect();
    let last = lines.len().saturating_sub(LINES);
    let log = lines[last..].iter().map(|line| line.chars().take(200).collect()).collect();
    KernelError::Program { name, log, source }
}
