//! A tree that can be written to over one that stays as it is.

use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};

use rustix::fs::{Mode, OFlags, chmod, chown, fstat, mkdirat, openat};
use rustix::mount::{
    FsMountFlags, FsOpenFlags, MountAttrFlags, UnmountFlags, fsconfig_create, fsconfig_set_flag,
    fsconfig_set_string, fsmount, fsopen, unmount,
};
use rustix::process::{Gid, Uid};

use crate::chroot::mounts::attach;
use crate::error::{FileError, PathContext};

/// An overlay that is mounted.
pub struct Overlay {
    root: OwnedFd,
}

impl Overlay {
    /// Mounts over the directory `tree` of `run` what `lower` shows; what is changed there goes to
    /// other new directories in `run`. `tree` must exist, and both descriptors be from this mount
    /// namespace, in any mode.
    ///
    /// # Errors
    ///
    /// That of the kernel where it makes no overlay: in a user namespace before Linux 5.11, and
    /// with `run` on an overlay.
    pub fn mount(lower: BorrowedFd<'_>, run: BorrowedFd<'_>) -> io::Result<Overlay> {
        let mount = file_system(lower, run)?;
        attach(&mount, open(run, "tree")?.as_fd())?;
        // The descriptor from before shows what is below the mount.
        Ok(Overlay {
            root: open(run, "tree")?,
        })
    }

    /// Its root, open with `O_PATH`.
    pub fn root(&self) -> BorrowedFd<'_> {
        self.root.as_fd()
    }

    /// Takes it away. Whoever still uses it keeps it for so long.
    pub fn unmount(self) -> Result<(), FileError> {
        unmount(path(&self.root), UnmountFlags::DETACH).at("", "unmount the overlay")
    }
}

/// Makes an overlay in the empty directory `run`, as [`Overlay::mount`] would, and lets go of it
/// again.
pub fn probe(run: BorrowedFd<'_>) -> io::Result<()> {
    mkdirat(run, "tree", Mode::RWXU)?;
    file_system(open(run, "tree")?.as_fd(), run).map(drop)
}

fn file_system(lower: BorrowedFd<'_>, run: BorrowedFd<'_>) -> io::Result<OwnedFd> {
    for name in ["upper", "work"] {
        mkdirat(run, name, Mode::RWXU)?;
    }
    let (upper, work) = (open(run, "upper")?, open(run, "work")?);
    // The root of the overlay is the upper directory's.
    let root = fstat(lower)?;
    chown(
        path(&upper),
        Some(Uid::from_raw(root.st_uid)),
        Some(Gid::from_raw(root.st_gid)),
    )?;
    chmod(path(&upper), Mode::from_raw_mode(root.st_mode))?;
    // What the run leaves is thrown away, so nothing has to reach the disk. Before Linux 5.10 that
    // cannot be said.
    make(lower, &upper, &work, true).or_else(|_| make(lower, &upper, &work, false))
}

fn make(
    lower: BorrowedFd<'_>,
    upper: &OwnedFd,
    work: &OwnedFd,
    volatile: bool,
) -> io::Result<OwnedFd> {
    let made = fsopen(c"overlay", FsOpenFlags::FSOPEN_CLOEXEC)?;
    for (key, directory) in [
        (c"lowerdir", lower),
        (c"upperdir", upper.as_fd()),
        (c"workdir", work.as_fd()),
    ] {
        fsconfig_set_string(&made, key, path(directory))?;
    }
    // The overlay's own attributes: root of a user namespace may not set those that it has by
    // default.
    fsconfig_set_flag(&made, c"userxattr")?;
    if volatile {
        fsconfig_set_flag(&made, c"volatile")?;
    }
    fsconfig_create(&made)?;
    Ok(fsmount(
        &made,
        FsMountFlags::FSMOUNT_CLOEXEC,
        MountAttrFlags::empty(),
    )?)
}

fn open(above: BorrowedFd<'_>, name: &str) -> io::Result<OwnedFd> {
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    Ok(openat(above, name, flags, Mode::empty())?)
}

/// A path for calls that take no descriptor.
fn path(directory: impl AsFd) -> String {
    format!("/proc/self/fd/{}", directory.as_fd().as_raw_fd())
}
