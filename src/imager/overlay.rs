//! A writable tree over an unchanged one.

use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};

use rustix::fs::{Mode, OFlags, chmod, chown, fstat, mkdirat, openat};
use rustix::io::Errno;
use rustix::mount::{
    FsMountFlags, FsOpenFlags, MountAttrFlags, UnmountFlags, fsconfig_create, fsconfig_set_flag,
    fsconfig_set_string, fsmount, fsopen, unmount,
};
use rustix::process::{Gid, Uid};

use crate::chroot::mounts::attach;
use crate::error::{FileError, PathContext, of_call};

/// A mounted overlay.
pub struct Overlay {
    root: OwnedFd,
}

impl Overlay {
    /// Mounts an overlay with the lower directory `lower` on the directory `tree` of `run`. Creates
    /// the upper and work directories in `run`. `tree` must exist, and both descriptors must be
    /// from this mount namespace, in any mode.
    ///
    /// # Errors
    ///
    /// If the kernel refuses the overlay: in a user namespace before Linux 5.11, or if `run` is on
    /// an overlay.
    pub fn mount(lower: BorrowedFd<'_>, run: BorrowedFd<'_>) -> io::Result<Overlay> {
        let mount = file_system(lower, run)?;
        attach(&mount, open(run, "tree")?.as_fd())?;
        // The earlier descriptor refers to the directory below the mount.
        Ok(Overlay {
            root: open(run, "tree")?,
        })
    }

    /// The root, open with `O_PATH`.
    pub fn root(&self) -> BorrowedFd<'_> {
        self.root.as_fd()
    }

    /// Unmounts it lazily: processes that still use it keep it until they end.
    pub fn unmount(self) -> Result<(), FileError> {
        unmount(path(&self.root), UnmountFlags::DETACH).at("", "unmount the overlay")
    }
}

/// Tries whether an overlay can be created in the empty directory `run`, as [`Overlay::mount`]
/// does.
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
    // The result is discarded, so nothing needs to reach the disk. Before Linux 5.10 there is no
    // such option.
    match make(lower, &upper, &work, true) {
        Err(error) if error.raw_os_error() == Some(libc::EINVAL) => {
            make(lower, &upper, &work, false)
        }
        made => made,
    }
}

fn make(
    lower: BorrowedFd<'_>,
    upper: &OwnedFd,
    work: &OwnedFd,
    volatile: bool,
) -> io::Result<OwnedFd> {
    let call = |name: &'static str| move |error: Errno| of_call(name, "5.2", error);
    let made = fsopen(c"overlay", FsOpenFlags::FSOPEN_CLOEXEC).map_err(call("fsopen"))?;
    for (key, directory) in [
        (c"lowerdir", lower),
        (c"upperdir", upper.as_fd()),
        (c"workdir", work.as_fd()),
    ] {
        fsconfig_set_string(&made, key, path(directory)).map_err(call("fsconfig"))?;
    }
    // Store the overlay's attributes as `user.*`: namespace root is not permitted to set the
    // default `trusted.*`.
    fsconfig_set_flag(&made, c"userxattr")?;
    if volatile {
        fsconfig_set_flag(&made, c"volatile")?;
    }
    fsconfig_create(&made)?;
    let flags = FsMountFlags::FSMOUNT_CLOEXEC;
    fsmount(&made, flags, MountAttrFlags::empty()).map_err(call("fsmount"))
}

fn open(above: BorrowedFd<'_>, name: &str) -> io::Result<OwnedFd> {
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    Ok(openat(above, name, flags, Mode::empty())?)
}

/// A path for system calls that take no descriptor.
fn path(directory: impl AsFd) -> String {
    format!("/proc/self/fd/{}", directory.as_fd().as_raw_fd())
}
