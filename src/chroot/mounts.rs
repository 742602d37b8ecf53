//! Mounts by descriptor: created detached, then attached to a descriptor.
//!
//! A detached mount can be moved to another mount namespace, an attached one cannot.

use std::ffi::CStr;
use std::fs;
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, OwnedFd};

use rustix::fs::{StatVfsMountFlags, statvfs};
use rustix::io::Errno;
use rustix::mount::{
    FsMountFlags, FsOpenFlags, MountAttrFlags, MountFlags, MoveMountFlags, OpenTreeFlags,
    fsconfig_create, fsconfig_set_string, fsmount, fsopen, mount_remount, move_mount, open_tree,
};

use crate::error::of_call;
use crate::{sys, tree};

/// The Linux version that has the system calls of this file.
const SINCE: &str = "5.2";

/// Mount attributes for file systems without programs and devices.
pub const NOTHING_SPECIAL: MountAttrFlags = MountAttrFlags::MOUNT_ATTR_NOSUID
    .union(MountAttrFlags::MOUNT_ATTR_NODEV)
    .union(MountAttrFlags::MOUNT_ATTR_NOEXEC);

/// Creates a file system of this type with these options and mount attributes, detached.
pub fn file_system(
    kind: &CStr,
    options: &[(&CStr, &CStr)],
    attributes: MountAttrFlags,
) -> io::Result<OwnedFd> {
    let made =
        fsopen(kind, FsOpenFlags::FSOPEN_CLOEXEC).map_err(|e| of_call("fsopen", SINCE, e))?;
    for (key, value) in options {
        fsconfig_set_string(&made, *key, *value).map_err(|e| of_call("fsconfig", SINCE, e))?;
    }
    fsconfig_create(&made).map_err(|error| match error {
        // The kernel refuses a new `/proc` where the old one is partly covered. The call itself works.
        Errno::PERM => error.into(),
        _ => of_call("fsconfig", SINCE, error),
    })?;
    let mount = fsmount(&made, FsMountFlags::FSMOUNT_CLOEXEC, attributes);
    mount.map_err(|error| of_call("fsmount", SINCE, error))
}

/// Copies the mount of `file` (open in any mode, from this mount namespace) with the mounts below
/// it, detached. The copy of a private mount is private.
pub fn copy(file: BorrowedFd<'_>) -> io::Result<OwnedFd> {
    let flags = OpenTreeFlags::OPEN_TREE_CLONE
        | OpenTreeFlags::AT_RECURSIVE
        | OpenTreeFlags::OPEN_TREE_CLOEXEC
        | OpenTreeFlags::AT_EMPTY_PATH;
    open_tree(file, c"", flags).map_err(|error| of_call("open_tree", SINCE, error))
}

/// Makes a detached mount and those below it read-only. False if this system cannot do so before
/// the mount is attached: see [`remount_read_only`].
pub fn make_read_only(mount: BorrowedFd<'_>) -> io::Result<bool> {
    match sys::make_mounts_read_only(mount) {
        Ok(()) => Ok(true),
        // The call is missing before Linux 5.12, or a seccomp filter blocks it.
        Err(error) if matches!(error.raw_os_error(), Some(libc::ENOSYS | libc::EPERM)) => Ok(false),
        Err(error) => Err(error),
    }
}

/// Makes an attached mount and those below it read-only by mount(2). The mount must be in the
/// mount namespace of this process and below its root directory, where `/proc` is mounted.
pub fn remount_read_only(mount: BorrowedFd<'_>) -> io::Result<()> {
    let info = fs::read(format!("/proc/self/fdinfo/{}", mount.as_raw_fd()))?;
    let table = fs::read("/proc/self/mountinfo")?;
    for point in tree::mounts::of_subtree(&table, &info).ok_or(io::ErrorKind::InvalidData)? {
        // A mount that came from another user namespace keeps these, and refuses to lose them.
        let kept = statvfs(point.as_slice())?.f_flag;
        let mut flags = MountFlags::BIND | MountFlags::RDONLY;
        for (is_set, flag) in [
            (StatVfsMountFlags::NOSUID, MountFlags::NOSUID),
            (StatVfsMountFlags::NODEV, MountFlags::NODEV),
            (StatVfsMountFlags::NOEXEC, MountFlags::NOEXEC),
        ] {
            flags.set(flag, kept.contains(is_set));
        }
        mount_remount(point.as_slice(), flags, c"")?;
    }
    Ok(())
}

/// Attaches a mount to the file or directory `at` of this mount namespace: a directory to a
/// directory, a file to a file.
pub fn attach(mount: &OwnedFd, at: BorrowedFd<'_>) -> io::Result<()> {
    let flags = MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH | MoveMountFlags::MOVE_MOUNT_T_EMPTY_PATH;
    move_mount(mount, c"", at, c"", flags).map_err(|error| of_call("move_mount", SINCE, error))
}
