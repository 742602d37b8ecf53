//! A private `/dev` with the devices that every program expects.

use std::ffi::{CStr, CString};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::fs::{Mode, OFlags, mkdirat, open, openat, symlinkat};
use rustix::io::Errno;
use rustix::mount::MountAttrFlags;

use super::mounts::{NOTHING_SPECIAL, attach, copy, file_system};
use crate::error::{FileError, PathContext, of_call};

/// Devices of the host that are bind-mounted.
const DEVICES: [&str; 6] = ["null", "zero", "full", "random", "urandom", "tty"];

/// Links into `/dev/pts` and `/proc`.
const LINKS: [(&str, &str); 5] = [
    ("ptmx", "pts/ptmx"),
    ("fd", "/proc/self/fd"),
    ("stdin", "/proc/self/fd/0"),
    ("stdout", "/proc/self/fd/1"),
    ("stderr", "/proc/self/fd/2"),
];

/// Creates the file system for `/dev` with its contents, detached. Call it while `/dev` is still
/// the host's.
pub fn make() -> Result<Dev, FileError> {
    let mount = file_system(c"tmpfs", &[(c"mode", c"755")], NOTHING_SPECIAL)
        .map_err(|error| of_call("fsconfig", "5.2", error))
        .at("/dev", "create the file system")?;
    let mut over = Vec::new();
    for name in DEVICES {
        let path = format!("/dev/{name}");
        let device = match open(path.as_str(), OFlags::PATH | OFlags::CLOEXEC, Mode::empty()) {
            // A container may lack some of them; then programs in the tree do without them too.
            Err(Errno::NOENT) => continue,
            opened => opened.at(&path, "open")?,
        };
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::CLOEXEC;
        openat(&mount, name, flags, Mode::from_raw_mode(0o666))
            .at(&path, "create the mount point")?;
        over.push((
            CString::new(name).unwrap_or_default(),
            copy(device.as_fd()).at(&path, "copy the mount")?,
        ));
    }
    for (name, target) in LINKS {
        symlinkat(target, &mount, name).at(format!("/dev/{name}"), "create the link")?;
    }
    for (name, made) in [(c"pts", pts()?), (c"shm", shm()?)] {
        mkdirat(&mount, name, Mode::from_raw_mode(0o755))
            .at(name.to_bytes(), "create the mount point")?;
        over.push((name.to_owned(), made));
    }
    Ok(Dev { mount, over })
}

/// A private instance, so that its terminals are separate. Group 5 is `tty` in every Debian.
fn pts() -> Result<OwnedFd, FileError> {
    let options: [(&CStr, &CStr); 3] = [(c"mode", c"620"), (c"ptmxmode", c"666"), (c"gid", c"5")];
    // Its ptmx is a device node.
    let attributes = MountAttrFlags::MOUNT_ATTR_NOSUID | MountAttrFlags::MOUNT_ATTR_NOEXEC;
    let made = match file_system(c"devpts", &options, attributes) {
        // A map of very few ids has no group 5.
        Err(error) if error.raw_os_error() == Some(libc::EINVAL) => {
            file_system(c"devpts", options.get(..2).unwrap_or_default(), attributes)
        }
        made => made,
    };
    made.at("/dev/pts", "create the file system")
}

fn shm() -> Result<OwnedFd, FileError> {
    let attributes = MountAttrFlags::MOUNT_ATTR_NOSUID | MountAttrFlags::MOUNT_ATTR_NODEV;
    file_system(c"tmpfs", &[(c"mode", c"1777")], attributes)
        .at("/dev/shm", "create the file system")
}

/// See [`make`].
pub struct Dev {
    mount: OwnedFd,
    over: Vec<(CString, OwnedFd)>,
}

impl Dev {
    /// Mounts it over the directory `at`.
    pub fn attach(&self, at: BorrowedFd<'_>) -> Result<(), FileError> {
        attach(&self.mount, at).at("/dev", "mount")?;
        for (name, mount) in &self.over {
            let point = openat(
                &self.mount,
                name,
                OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC,
                Mode::empty(),
            );
            let point = point.at(name.to_bytes(), "open")?;
            attach(mount, point.as_fd()).at(format!("/dev/{}", name.to_string_lossy()), "mount")?;
        }
        Ok(())
    }
}

/// Copies the host's `/sys` with the mounts below it: a new one would also need a network
/// namespace.
pub fn sys() -> Result<OwnedFd, FileError> {
    host(c"/sys")
}

/// Copies the host's `/proc`, if the kernel refuses a new one.
pub fn host_proc() -> Result<OwnedFd, FileError> {
    host(c"/proc")
}

fn host(path: &CStr) -> Result<OwnedFd, FileError> {
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let shown = path.to_bytes();
    let directory = open(path, flags, Mode::empty()).at(shown, "open")?;
    copy(directory.as_fd()).at(shown, "copy the mount")
}
