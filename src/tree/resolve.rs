//! Path resolution: within a tree as the root directory, and relative to a directory.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use rustix::fs::{Mode, OFlags, ResolveFlags, fstat, openat, openat2};
use rustix::io::Errno;

use crate::error::{FileError, PathContext};

/// Opens a path as if `root` were the root directory, so that symbolic links of the tree stay
/// within it.
pub fn open_in_root(root: BorrowedFd<'_>, path: &[u8], flags: OFlags) -> Result<OwnedFd, Errno> {
    let resolve = ResolveFlags::IN_ROOT | ResolveFlags::NO_MAGICLINKS;
    openat2(root, path, flags | OFlags::CLOEXEC, Mode::empty(), resolve)
}

/// True if the directory that holds `path`, or one above it, is `tree`. The last component need not
/// exist and is not followed.
pub fn is_inside(path: &Path, tree: BorrowedFd<'_>) -> Result<bool, FileError> {
    let shown = path.as_os_str().as_bytes();
    let id = |fd: BorrowedFd<'_>| {
        fstat(fd)
            .map(|stat| (stat.st_dev, stat.st_ino))
            .at(shown, "resolve")
    };
    let tree = id(tree)?;
    let mut at = open_parent(path)?;
    let mut here = id(at.as_fd())?;
    while here != tree {
        // Stop at a directory that cannot be searched: the tree was reached another way then.
        let Ok(above) = openat(&at, c"..", OFlags::PATH | OFlags::CLOEXEC, Mode::empty()) else {
            return Ok(false);
        };
        let next = id(above.as_fd())?;
        if next == here {
            return Ok(false);
        }
        (at, here) = (above, next);
    }
    Ok(true)
}

/// The directory that holds `path`.
pub fn open_parent(path: &Path) -> Result<OwnedFd, FileError> {
    let parent = path
        .parent()
        .filter(|parent| !parent.as_os_str().is_empty())
        .unwrap_or(Path::new("."));
    rustix::fs::open(
        parent,
        OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC,
        Mode::empty(),
    )
    .at(parent.as_os_str().as_bytes(), "open the directory")
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use std::fs;

    use super::*;

    #[test]
    fn a_path_is_inside_whichever_way_it_leads_there() {
        let scratch = tempfile::tempdir().unwrap();
        fs::create_dir_all(scratch.path().join("rootfs/etc")).unwrap();
        std::os::unix::fs::symlink("rootfs/etc", scratch.path().join("link")).unwrap();
        let root =
            rustix::fs::open(scratch.path().join("rootfs"), OFlags::PATH, Mode::empty()).unwrap();
        for (path, inside) in [
            ("rootfs/a", true),
            ("rootfs/etc/a", true),
            ("link/a", true),
            ("a", false),
            ("rootfs/../a", false),
        ] {
            assert_eq!(
                is_inside(&scratch.path().join(path), root.as_fd()).unwrap(),
                inside,
                "{path}"
            );
        }
    }
}
