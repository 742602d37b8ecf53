//! Path resolution: within a tree as the root directory, and relative to a directory.

use std::ffi::CString;
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

/// Maximum length of a path in one system call, in bytes, with the NUL at its end (`PATH_MAX`).
const PATH_MAX: usize = 4096;

/// Opens a path of any length below `directory`. Does not follow a symbolic link at its end.
pub fn open_below(directory: BorrowedFd<'_>, path: &[u8], flags: OFlags) -> Result<OwnedFd, Errno> {
    let (above, last) = pieces(path)?;
    let mut reached: Option<OwnedFd> = None;
    let open = |reached: &Option<OwnedFd>, piece: &[u8], flags: OFlags| {
        let from = reached.as_ref().map_or(directory, |above| above.as_fd());
        let flags = flags | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        openat(from, piece, flags, Mode::empty())
    };
    for piece in above {
        reached = Some(open(&reached, piece, OFlags::PATH | OFlags::DIRECTORY)?);
    }
    open(&reached, last, flags)
}

/// Splits a path into pieces that one system call takes. Returns those of the directories above,
/// and the last one.
///
/// # Errors
///
/// `ENAMETOOLONG` for a single name that is too long.
pub fn pieces(path: &[u8]) -> Result<(Vec<&[u8]>, &[u8]), Errno> {
    let (mut above, mut rest) = (Vec::new(), path);
    while let Some(front) = rest.get(..PATH_MAX) {
        let slash = front.iter().rposition(|byte| *byte == b'/');
        let slash = slash.ok_or(Errno::NAMETOOLONG)?;
        above.push(rest.get(..slash).unwrap_or_default());
        rest = rest.get(slash + 1..).unwrap_or_default();
    }
    Ok((above, rest))
}

/// Opens the directory that holds `path` in the tree at `root`, as if `root` were the root
/// directory. Returns it, open with `O_PATH`, and the last component of the path.
pub fn parent_in_root(root: BorrowedFd<'_>, path: &[u8]) -> Result<(OwnedFd, CString), Errno> {
    let (above, name) = match path.iter().rposition(|byte| *byte == b'/') {
        Some(slash) => (
            path.get(..slash).unwrap_or_default(),
            path.get(slash + 1..).unwrap_or_default(),
        ),
        None => (&b"."[..], path),
    };
    let name = CString::new(name).map_err(|_| Errno::INVAL)?;
    let directory = open_in_root(root, above, OFlags::PATH | OFlags::DIRECTORY)?;
    Ok((directory, name))
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
    fn a_path_that_is_longer_than_a_system_call_takes_is_opened() {
        let scratch = tempfile::tempdir().unwrap();
        let root: OwnedFd = fs::File::open(scratch.path()).unwrap().into();
        let mut at = root.try_clone().unwrap();
        let name = "n".repeat(200);
        for _ in 0..50 {
            rustix::fs::mkdirat(&at, &name, Mode::RWXU).unwrap();
            at = open_below(at.as_fd(), name.as_bytes(), OFlags::PATH).unwrap();
        }
        let path = vec![name.as_bytes(); 50].join(&b'/');
        let found = open_below(root.as_fd(), &path, OFlags::RDONLY | OFlags::DIRECTORY).unwrap();
        assert_eq!(
            fstat(&found).unwrap().st_ino,
            fstat(&at).unwrap().st_ino,
            "{} bytes",
            path.len()
        );
        let missing = [path.as_slice(), b"/missing"].concat();
        let error = |path: &[u8]| open_below(root.as_fd(), path, OFlags::PATH).unwrap_err();
        assert_eq!(error(&missing), Errno::NOENT);
        assert_eq!(error(&[b'n'; 5000]), Errno::NAMETOOLONG);
    }

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
