//! Mounts by descriptor: made apart from any tree, and attached where a descriptor says.
//!
//! A mount that is attached nowhere may go from one mount namespace to another, which one that is
//! attached may not.

use std::ffi::CStr;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::fs::CWD;
use rustix::mount::{
    FsMountFlags, FsOpenFlags, MountAttrFlags, MoveMountFlags, OpenTreeFlags, fsconfig_create,
    fsconfig_set_string, fsmount, fsopen, move_mount, open_tree,
};

use crate::sys::{self, MountChange};

/// What nothing needs on most file systems without programs and devices.
pub const NOTHING_SPECIAL: MountAttrFlags = MountAttrFlags::MOUNT_ATTR_NOSUID
    .union(MountAttrFlags::MOUNT_ATTR_NODEV)
    .union(MountAttrFlags::MOUNT_ATTR_NOEXEC);

/// A new file system of this type with these options and mount attributes.
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

/// A copy of what `file` (open in any mode, from this mount namespace) shows, with all that is
/// mounted below. Nothing that is mounted in it is seen elsewhere.
pub fn copy(file: BorrowedFd<'_>) -> io::Result<OwnedFd> {
    let mount = open_tree(file, c"", COPY | OpenTreeFlags::AT_EMPTY_PATH)?;
    sys::change_mounts(mount.as_fd(), MountChange::Private)?;
    Ok(mount)
}

/// [`copy`] of what an absolute path of this mount namespace leads to.
pub fn copy_path(path: &CStr) -> io::Result<OwnedFd> {
    let mount = open_tree(CWD, path, COPY)?;
    sys::change_mounts(mount.as_fd(), MountChange::Private)?;
    Ok(mount)
}

const COPY: OpenTreeFlags = OpenTreeFlags::OPEN_TREE_CLONE
    .union(OpenTreeFlags::AT_RECURSIVE)
    .union(OpenTreeFlags::OPEN_TREE_CLOEXEC);

/// Lets nobody write through a mount and those below it.
pub fn make_read_only(mount: BorrowedFd<'_>) -> io::Result<()> {
    sys::change_mounts(mount, MountChange::ReadOnly)
}

/// Puts a mount over the file or directory `at`, which is in this mount namespace. A directory goes
/// over a directory only, a file over a file.
pub fn attach(mount: &OwnedFd, at: BorrowedFd<'_>) -> io::Result<()> {
    let flags = MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH | MoveMountFlags::MOVE_MOUNT_T_EMPTY_PATH;
    Ok(move_mount(mount, c"", at, c"", flags)?)
}
