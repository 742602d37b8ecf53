//! Mounts by descriptor: created detached, then attached to a descriptor.
//!
//! A detached mount can be moved to another mount namespace, an attached one cannot.

use std::ffi::CStr;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::fs::CWD;
use rustix::mount::{
    FsMountFlags, FsOpenFlags, MountAttrFlags, MoveMountFlags, OpenTreeFlags, fsconfig_create,
    fsconfig_set_string, fsmount, fsopen, move_mount, open_tree,
};

use crate::sys::{self, MountChange};

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
    let made = fsopen(kind, FsOpenFlags::FSOPEN_CLOEXEC)?;
    for (key, value) in options {
        fsconfig_set_string(&made, *key, *value)?;
    }
    fsconfig_create(&made)?;
    Ok(fsmount(&made, FsMountFlags::FSMOUNT_CLOEXEC, attributes)?)
}

/// Copies the mount of `file` (open in any mode, from this mount namespace) with the mounts below
/// it, detached and private.
pub fn copy(file: BorrowedFd<'_>) -> io::Result<OwnedFd> {
    let mount = open_tree(file, c"", COPY | OpenTreeFlags::AT_EMPTY_PATH)?;
    sys::change_mounts(mount.as_fd(), MountChange::Private)?;
    Ok(mount)
}

/// [`copy`] of an absolute path of this mount namespace.
pub fn copy_path(path: &CStr) -> io::Result<OwnedFd> {
    let mount = open_tree(CWD, path, COPY)?;
    sys::change_mounts(mount.as_fd(), MountChange::Private)?;
    Ok(mount)
}

const COPY: OpenTreeFlags = OpenTreeFlags::OPEN_TREE_CLONE
    .union(OpenTreeFlags::AT_RECURSIVE)
    .union(OpenTreeFlags::OPEN_TREE_CLOEXEC);

/// Makes a mount and those below it read-only.
pub fn make_read_only(mount: BorrowedFd<'_>) -> io::Result<()> {
    sys::change_mounts(mount, MountChange::ReadOnly)
}

/// Attaches a mount to the file or directory `at` of this mount namespace: a directory to a
/// directory, a file to a file.
pub fn attach(mount: &OwnedFd, at: BorrowedFd<'_>) -> io::Result<()> {
    let flags = MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH | MoveMountFlags::MOVE_MOUNT_T_EMPTY_PATH;
    Ok(move_mount(mount, c"", at, c"", flags)?)
}
