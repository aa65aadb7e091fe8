//! Says where the kernel tells of every change of a file.
//!
//! Input: a directory. Output: whether only this kernel can change what is in it, so that no change goes without an event. A
//! file system that is not known here may belong to a server or to another host.

use std::path::Path;

use nix::sys::statfs::{
    BTRFS_SUPER_MAGIC, EXT4_SUPER_MAGIC, F2FS_SUPER_MAGIC, FsType, OVERLAYFS_SUPER_MAGIC, TMPFS_MAGIC, XFS_SUPER_MAGIC,
    statfs,
};

/// File systems that one kernel alone changes. The last two are ZFS and bcachefs.
const LOCAL: [FsType; 8] = [
    EXT4_SUPER_MAGIC,
    XFS_SUPER_MAGIC,
    BTRFS_SUPER_MAGIC,
    F2FS_SUPER_MAGIC,
    TMPFS_MAGIC,
    OVERLAYFS_SUPER_MAGIC,
    FsType(0x2fc1_2fc1),
    FsType(0xca45_1a4e),
];

/// Whether the kernel tells of every change in a directory.
pub(super) fn is_told_of(directory: &Path) -> bool {
    statfs(directory).is_ok_and(|found| LOCAL.contains(&found.filesystem_type()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_system_that_is_not_known_may_be_a_servers() {
        assert!(is_told_of(tempfile::tempdir().unwrap().path()));
        // Its files change without an event, as those of a server do.
        assert!(!is_told_of(Path::new("/proc/self")));
        assert!(!is_told_of(Path::new("/none")));
    }
}
