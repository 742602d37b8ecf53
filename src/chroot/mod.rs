//! Running a command in a tree: mounting, and removing the mount points.
//!
//! ```text
//! as the caller, in the new mount namespace      MountSources: the tree and the bound files, opened
//! as root of the namespace                       Prepared: copies of their mounts, attached nowhere; missing mount points made
//! in process 1, in a mount namespace of its own  enter: all is attached, the tree becomes the root
//! as root of the namespace, afterwards           clear: the mount points go
//! ```
//!
//! Nothing needs to be unmounted: the mount namespace disappears with its last process, and outside
//! of it the mounts are never visible.

pub mod dev;
pub mod mounts;
pub mod points;
pub mod proc;
pub mod resolv_conf;

use std::ffi::OsString;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use rustix::fs::{CWD, FileType, Mode, OFlags, fstat, openat};
use rustix::io::Errno;
use rustix::mount::{UnmountFlags, unmount};

use crate::error::{FileError, PathContext};
use crate::tree::resolve;
use points::{Kind, MountPoints};
use proc::Proc;

/// A bind mount of a file or directory of the host.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Bind {
    /// The source.
    pub host: PathBuf,
    /// The mount point, as an absolute path of the tree.
    pub inner: PathBuf,
    /// True for a read-only mount.
    pub read_only: bool,
}

/// The tree and the files to bind, open.
pub struct MountSources {
    root: OwnedFd,
    binds: Vec<(Bind, OwnedFd)>,
}

impl MountSources {
    /// Opens the sources of the binds. Call it as the caller, in the mount namespace in which
    /// [`Prepared::new`] will be called. The tree may be open in any mode.
    pub fn open(root: OwnedFd, binds: &[Bind]) -> Result<MountSources, FileError> {
        let open = |bind: &Bind| Ok((bind.clone(), open_path(&bind.host, OFlags::empty())?));
        Ok(MountSources {
            root,
            binds: binds.iter().map(open).collect::<Result<_, FileError>>()?,
        })
    }

    /// Replaces the tree by one opened later in the same mount namespace.
    pub fn for_tree(&self, root: BorrowedFd<'_>) -> Result<MountSources, FileError> {
        let again =
            |fd: BorrowedFd<'_>, path: &[u8]| fd.try_clone_to_owned().at(path, "open once more");
        let bind = |(bind, host): &(Bind, OwnedFd)| {
            Ok((
                bind.clone(),
                again(host.as_fd(), bind.host.as_os_str().as_bytes())?,
            ))
        };
        let binds = self
            .binds
            .iter()
            .map(bind)
            .collect::<Result<_, FileError>>()?;
        Ok(MountSources {
            root: again(root, b"")?,
            binds,
        })
    }

    /// The tree.
    pub fn root(&self) -> BorrowedFd<'_> {
        self.root.as_fd()
    }
}

fn open_path(path: &Path, flags: OFlags) -> Result<OwnedFd, FileError> {
    openat(
        CWD,
        path,
        OFlags::PATH | OFlags::CLOEXEC | flags,
        Mode::empty(),
    )
    .at(path.as_os_str().as_bytes(), "open")
}

/// A tree that is ready to run a command.
pub struct Prepared {
    /// A detached copy of the tree's mount.
    root: OwnedFd,
    binds: Vec<BoundMount>,
    points: MountPoints,
}

/// A detached copy of the mount of a file to bind.
struct BoundMount {
    bind: Bind,
    mount: OwnedFd,
    /// It is to be read-only, and is not yet.
    is_to_remount: bool,
}

impl Prepared {
    /// Copies the mounts and creates the mount points that the tree lacks. Call it as namespace
    /// root. On an error it removes them.
    pub fn new(sources: MountSources) -> Result<Prepared, FileError> {
        let MountSources { root, binds } = sources;
        let mut points = MountPoints::new(root.try_clone().at("", "open once more")?)?;
        let made = provide(&mut points, &binds).and_then(|()| {
            Ok((
                mounts::copy(root.as_fd()).at("", "copy the mount")?,
                copies(binds)?,
            ))
        });
        match made {
            Ok((root, binds)) => Ok(Prepared {
                root,
                binds,
                points,
            }),
            Err(error) => {
                // Report the first error.
                let _ = points.clear();
                Err(error)
            }
        }
    }

    /// In process 1: mounts everything, and makes the tree the root and the working directory.
    /// Returns whether `/proc` was mounted.
    pub fn enter(&self) -> Result<Proc, FileError> {
        let dev = dev::make()?;
        let sys = dev::sys()?;
        // Over the root of this mount namespace and not below it: a process in a plain chroot is
        // not permitted to create user namespaces.
        let top = open_path(Path::new("/"), OFlags::DIRECTORY)?;
        let host_proc = dev::host_proc()?;
        mounts::attach(&self.root, top.as_fd()).at("/", "mount the tree")?;
        dev.attach(self.at(b"/dev")?.as_fd())?;
        mounts::attach(&sys, self.at(b"/sys")?.as_fd()).at("/sys", "mount")?;
        let at_proc = self.at(b"/proc")?;
        let proc = proc::mount(at_proc.as_fd()).at("/proc", "mount")?;
        if proc == Proc::Masked {
            mounts::attach(&host_proc, at_proc.as_fd()).at("/proc", "mount")?;
        }
        for BoundMount { bind, mount, .. } in &self.binds {
            let inner = bind.inner.as_os_str().as_bytes();
            if bind.inner.starts_with("/dev") {
                // It disappears with the private file system there.
                points::provide(self.root.as_fd(), inner, kind(mount, inner)?)?;
            }
            mounts::attach(mount, self.at(inner)?.as_fd()).at(inner, "mount")?;
        }
        self.change_root().at("/", "change the root")?;
        for BoundMount { bind, mount, .. } in self.binds.iter().filter(|bound| bound.is_to_remount)
        {
            let inner = bind.inner.as_os_str().as_bytes();
            mounts::remount_read_only(mount.as_fd()).at(inner, "remount read-only")?;
        }
        Ok(proc)
    }

    /// Makes the tree the root of this mount namespace, and removes all other mounts from it: a
    /// command that leaves its root finds nothing of the host.
    fn change_root(&self) -> rustix::io::Result<()> {
        rustix::process::fchdir(&self.root)?;
        match rustix::process::pivot_root(c".", c".") {
            // The old root is now mounted over the new one.
            Ok(()) => unmount(c".", UnmountFlags::DETACH)?,
            // A root that is no mount point, or the initial RAM file system, cannot be exchanged.
            Err(Errno::INVAL) => {}
            Err(error) => return Err(error),
        }
        rustix::process::chroot(c".")
    }

    fn at(&self, inner: &[u8]) -> Result<OwnedFd, FileError> {
        resolve::open_in_root(self.root.as_fd(), inner, OFlags::PATH)
            .at(inner, "open the mount point")
    }

    /// Removes the created mount points. Call it in the process that called [`Prepared::new`],
    /// after the end of process 1.
    pub fn clear(mut self) -> Result<(), FileError> {
        self.points.clear()
    }
}

fn provide(points: &mut MountPoints, binds: &[(Bind, OwnedFd)]) -> Result<(), FileError> {
    for directory in [b"/dev", &b"/proc"[..], b"/sys"] {
        points.provide(directory, Kind::Directory)?;
    }
    for (bind, host) in binds {
        let inner = bind.inner.as_os_str().as_bytes();
        if !bind.inner.starts_with("/dev") {
            points.provide(inner, kind(host, inner)?)?;
        }
    }
    Ok(())
}

/// The kind of mount point for a file.
fn kind(file: &OwnedFd, path: &[u8]) -> Result<Kind, FileError> {
    let stat = fstat(file).at(path, "stat")?;
    Ok(
        if FileType::from_raw_mode(stat.st_mode) == FileType::Directory {
            Kind::Directory
        } else {
            Kind::File
        },
    )
}

fn copies(binds: Vec<(Bind, OwnedFd)>) -> Result<Vec<BoundMount>, FileError> {
    let copied = binds.into_iter().map(|(bind, host)| {
        let path = bind.host.as_os_str().as_bytes();
        let mount = mounts::copy(host.as_fd()).at(path, "copy the mount")?;
        let is_to_remount =
            bind.read_only && !mounts::make_read_only(mount.as_fd()).at(path, "make read-only")?;
        Ok(BoundMount {
            bind,
            mount,
            is_to_remount,
        })
    });
    copied.collect()
}

/// Directories of programs in Debian.
const SEARCH: [&str; 6] = [
    "/usr/local/sbin",
    "/usr/local/bin",
    "/usr/sbin",
    "/usr/bin",
    "/sbin",
    "/bin",
];

/// The caller's search path, extended by the directories of programs in the tree, which the search
/// path of a build tool often lacks.
pub fn search_path(callers: Option<OsString>) -> OsString {
    let mut dirs: Vec<PathBuf> = callers.iter().flat_map(std::env::split_paths).collect();
    let missing: Vec<PathBuf> = SEARCH
        .iter()
        .map(PathBuf::from)
        .filter(|dir| !dirs.contains(dir))
        .collect();
    dirs.extend(missing);
    // Joining fails only for a name with a colon, which splitting cannot produce.
    std::env::join_paths(dirs).unwrap_or_default()
}
