//! The running kernel and our privilege. Input: /proc. Output: whether programs can be loaded here.

use std::fmt;

use anyhow::{Context, Result};

/// tcx links came with it.
const MINIMUM: (u32, u32) = (6, 6);

/// Version of the running kernel.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) struct Kernel {
    version: (u32, u32),
}

impl Kernel {
    pub(crate) fn running() -> Result<Self> {
        let release =
            std::fs::read_to_string("/proc/sys/kernel/osrelease").context("cannot read the kernel's version")?;
        Self::parse(&release).with_context(|| format!("unknown kernel version {release:?}"))
    }

    pub(crate) fn parse(release: &str) -> Option<Self> {
        let mut numbers = release.split(|c: char| !c.is_ascii_digit()).map(str::parse);
        Some(Self { version: (numbers.next()?.ok()?, numbers.next()?.ok()?) })
    }

    pub(crate) fn can_enforce(self) -> bool {
        self.version >= MINIMUM
    }
}

impl fmt::Display for Kernel {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (major, minor) = self.version;
        write!(formatter, "kernel {major}.{minor}: ")?;
        if self.can_enforce() {
            return formatter.write_str("builds, enforces and runs every tier of tests");
        }
        let (need_major, need_minor) = MINIMUM;
        write!(formatter, "builds and passes tier 0; enforcement and tiers 1 to 3 need {need_major}.{need_minor}")
    }
}

/// Whether this process is root, by its own entry in /proc: std has no call for it.
pub(crate) fn is_root() -> bool {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let ids = status.lines().find_map(|line| line.strip_prefix("Uid:")).unwrap_or_default();
    // Real, effective, saved, of the file system.
    ids.split_whitespace().nth(1) == Some("0")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_kernel_without_tcx_links_is_named() {
        let old = Kernel::parse("6.1.0-37-amd64\n").unwrap();
        assert!(!old.can_enforce());
        assert_eq!(old.to_string(), "kernel 6.1: builds and passes tier 0; enforcement and tiers 1 to 3 need 6.6");
    }

    #[test]
    fn versions_compare_as_numbers() {
        for (release, enforces) in
            [("6.5.13", false), ("6.6.0", true), ("6.18.44-fc", true), ("5.19.0", false), ("10.0", true)]
        {
            assert_eq!(Kernel::parse(release).unwrap().can_enforce(), enforces, "{release}");
        }
        assert_eq!(Kernel::parse("unknown"), None);
    }
}
