//! Path resolution: within a tree as the root directory, and relative to a directory.

use std::ffi::CString;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use rustix::fs::{FileType, Mode, OFlags, ResolveFlags, fstat, openat, openat2, readlinkat};
use rustix::io::Errno;

use crate::error::{FileError, PathContext};

/// Opens a path as if `root` were the root directory, so that symbolic links of the tree stay
/// within it.
pub fn open_in_root(root: BorrowedFd<'_>, path: &[u8], flags: OFlags) -> Result<OwnedFd, Errno> {
    let flags = flags | OFlags::CLOEXEC;
    let resolve = ResolveFlags::IN_ROOT | ResolveFlags::NO_MAGICLINKS;
    match openat2(root, path, flags, Mode::empty(), resolve) {
        // The call is missing before Linux 5.6, or a seccomp filter blocks it.
        Err(Errno::NOSYS | Errno::PERM) => open_by_components(root, path, flags),
        opened => opened,
    }
}

/// Symbolic links that one path may have, as for the kernel.
const MAX_LINKS: usize = 40;

/// [`open_in_root`] without openat2(2). Each step opens one name in an open directory, and `..`
/// goes back to a directory that was opened before, so changes by other processes cannot lead out
/// of the tree.
fn open_by_components(root: BorrowedFd<'_>, path: &[u8], flags: OFlags) -> Result<OwnedFd, Errno> {
    if path.is_empty() {
        return Err(Errno::NOENT);
    }
    let directory = OFlags::PATH | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    // The directories from below the root down to the current one, and the names still to go, the
    // next one last.
    let mut opened: Vec<OwnedFd> = Vec::new();
    let mut names: Vec<Vec<u8>> = components(path);
    let mut links = 0;
    while let Some(name) = names.pop() {
        let above = opened.last().map_or(root, AsFd::as_fd);
        let is_last = names.is_empty();
        match name.as_slice() {
            b"" | b"." => continue,
            b".." => {
                opened.pop();
                continue;
            }
            _ => {}
        }
        let found = openat(
            above,
            name.as_slice(),
            OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC,
            Mode::empty(),
        )?;
        match FileType::from_raw_mode(fstat(&found)?.st_mode) {
            FileType::Symlink if !is_last || !flags.contains(OFlags::NOFOLLOW) => {
                links += 1;
                if links > MAX_LINKS {
                    return Err(Errno::LOOP);
                }
                let target = readlinkat(&found, c"", Vec::new())?;
                if target.to_bytes().starts_with(b"/") {
                    opened.clear();
                }
                names.extend(components(target.to_bytes()));
            }
            FileType::Directory if !is_last => opened.push(found),
            _ if !is_last => return Err(Errno::NOTDIR),
            // A link that took its place meanwhile is refused.
            _ => {
                return openat(
                    above,
                    name.as_slice(),
                    flags | OFlags::NOFOLLOW,
                    Mode::empty(),
                );
            }
        }
    }
    let last = opened.last().map_or(root, AsFd::as_fd);
    openat(
        last,
        c".",
        flags & !OFlags::NOFOLLOW | (directory & OFlags::DIRECTORY),
        Mode::empty(),
    )
}

/// The names of a path, the first one last.
fn components(path: &[u8]) -> Vec<Vec<u8>> {
    path.rsplit(|byte| *byte == b'/')
        .map(<[u8]>::to_vec)
        .collect()
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

/// The path of the directory that holds `path`, `.` for a single component, and the last component.
pub fn split(path: &[u8]) -> (&[u8], &[u8]) {
    match path.iter().rposition(|byte| *byte == b'/') {
        Some(slash) => (
            path.get(..slash).unwrap_or_default(),
            path.get(slash + 1..).unwrap_or_default(),
        ),
        None => (b".", path),
    }
}

/// Opens the directory that holds `path` in the tree at `root`, as if `root` were the root
/// directory. Returns it, open with `O_PATH`, and the last component of the path.
pub fn parent_in_root(root: BorrowedFd<'_>, path: &[u8]) -> Result<(OwnedFd, CString), Errno> {
    let (above, name) = split(path);
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
    fn with_and_without_openat2_the_same_is_opened_and_refused() {
        let scratch = tempfile::tempdir().unwrap();
        let root = scratch.path().join("root");
        fs::create_dir_all(root.join("usr/lib/deep")).unwrap();
        fs::write(root.join("usr/lib/file"), "").unwrap();
        fs::write(scratch.path().join("outside"), "").unwrap();
        for (target, link) in [
            ("usr/lib", "lib"),
            ("/usr/lib", "absolute"),
            ("../../../..", "up"),
            ("loop", "loop"),
            ("../../outside", "usr/out"),
            ("missing", "dangling"),
            ("lib/file", "to-file"),
            ("/", "top"),
            ("lib/", "slash"),
        ] {
            std::os::unix::fs::symlink(target, root.join(link)).unwrap();
        }
        let root = rustix::fs::open(&root, OFlags::PATH, Mode::empty()).unwrap();
        let inode = |opened: Result<OwnedFd, Errno>| opened.map(|fd| fstat(fd).unwrap().st_ino);
        for path in [
            "",
            "/",
            ".",
            "..",
            "usr",
            "/usr/",
            "usr/lib/file",
            "usr/lib/file/",
            "lib/file",
            "absolute/deep",
            "absolute/deep/..",
            "absolute/../lib",
            "lib/..",
            "up",
            "up/usr",
            "up/outside",
            "loop",
            "loop/x",
            "usr/out",
            "dangling",
            "to-file",
            "to-file/x",
            "top",
            "top/usr",
            "slash",
            "slash/file",
            "missing/..",
            "usr/lib/file/..",
            "../outside",
            "to-file/",
            "usr//lib/./deep",
        ] {
            for extra in [
                OFlags::PATH,
                OFlags::PATH | OFlags::DIRECTORY,
                OFlags::PATH | OFlags::NOFOLLOW,
                OFlags::RDONLY,
            ] {
                assert_eq!(
                    inode(open_by_components(root.as_fd(), path.as_bytes(), extra)),
                    inode(open_in_root(root.as_fd(), path.as_bytes(), extra)),
                    "{path:?} {extra:?}"
                );
            }
        }
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
