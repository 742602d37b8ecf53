//! Opening files beneath a directory without following symbolic links.

use std::cell::Cell;
use std::ffi::CString;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::fs::{
    AtFlags, FileType, Mode, OFlags, ResolveFlags, Statx, StatxFlags, openat, openat2,
};
use rustix::io::Errno;

use crate::sys;

/// Number of retries of openat2(2) after EAGAIN, which it returns while other processes rename
/// directories.
const ATTEMPTS: usize = 64;

const DIRECTORY: OFlags = OFlags::RDONLY
    .union(OFlags::DIRECTORY)
    .union(OFlags::NOFOLLOW)
    .union(OFlags::CLOEXEC);

/// The directory that contains everything.
pub struct Root<'a> {
    directory: BorrowedFd<'a>,
    /// Cleared permanently if the kernel lacks openat2(2) (before Linux 5.6) or a seccomp filter
    /// denies it.
    has_openat2: Cell<bool>,
}

/// Identifies a directory.
pub type Identity = (u32, u32, u64);

impl<'a> Root<'a> {
    /// `directory` must be open for reading.
    pub fn new(directory: BorrowedFd<'a>) -> Root<'a> {
        Root {
            directory,
            has_openat2: Cell::new(true),
        }
    }

    /// The directory itself.
    pub fn directory(&self) -> BorrowedFd<'a> {
        self.directory
    }

    /// Opens the directory at `path` (components joined by single slashes, no `..`) for reading.
    /// Fails with ELOOP or ENOTDIR if a component is a symbolic link or another file.
    pub fn open_directory(&self, path: &[u8]) -> Result<OwnedFd, Errno> {
        if path.is_empty() {
            return openat(self.directory, c".", DIRECTORY, Mode::empty());
        }
        if self.has_openat2.get() {
            match self.open_in_one(path) {
                Err(Errno::NOSYS | Errno::PERM) => self.has_openat2.set(false),
                opened => return opened,
            }
        }
        self.open_by_components(path)
    }

    fn open_in_one(&self, path: &[u8]) -> Result<OwnedFd, Errno> {
        let beneath =
            ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_MAGICLINKS;
        let path = CString::new(path).map_err(|_| Errno::INVAL)?;
        for _ in 0..ATTEMPTS {
            match openat2(self.directory, &path, DIRECTORY, Mode::empty(), beneath) {
                Err(Errno::AGAIN | Errno::INTR) => {}
                opened => return opened,
            }
        }
        Err(Errno::AGAIN)
    }

    /// Does the same without openat2(2). Each step opens a single name in an open directory, so
    /// changes by other processes cannot lead out of the tree.
    fn open_by_components(&self, path: &[u8]) -> Result<OwnedFd, Errno> {
        let mut opened: Option<OwnedFd> = None;
        for name in path.split(|byte| *byte == b'/') {
            if matches!(name, b"" | b"." | b"..") {
                return Err(Errno::INVAL);
            }
            let above = opened.as_ref().map_or(self.directory, AsFd::as_fd);
            opened = Some(openat(above, name, DIRECTORY, Mode::empty())?);
        }
        opened.ok_or(Errno::INVAL)
    }
}

/// Opens the directory `name` in `above`. Fails for a symbolic link.
pub fn open_directory_in(above: BorrowedFd<'_>, name: &[u8]) -> Result<OwnedFd, Errno> {
    openat(above, name, DIRECTORY, Mode::empty())
}

/// Calls statx(2) for `name` in a directory, or for the open file itself if the name is empty. Does
/// not follow symbolic links.
pub fn stat(directory: BorrowedFd<'_>, name: &[u8]) -> Result<Statx, Errno> {
    let flags = AtFlags::SYMLINK_NOFOLLOW | AtFlags::NO_AUTOMOUNT | AtFlags::EMPTY_PATH;
    let name = CString::new(name).map_err(|_| Errno::INVAL)?;
    sys::statx(directory, &name, flags, StatxFlags::BASIC_STATS)
}

/// The file type of `name` in a directory.
pub fn kind(directory: BorrowedFd<'_>, name: &[u8]) -> Result<FileType, Errno> {
    stat(directory, name).map(|stat| FileType::from_raw_mode(stat.stx_mode.into()))
}

/// Device and inode.
pub fn identity(stat: &Statx) -> Identity {
    (stat.stx_dev_major, stat.stx_dev_minor, stat.stx_ino)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use std::fs::{self, File};
    use std::os::unix::fs::symlink;

    use super::*;

    /// Both ways must give the same result for every kind of file.
    #[test]
    fn with_and_without_openat2_the_same_is_opened_and_refused() {
        let scratch = tempfile::tempdir().unwrap();
        let at = |name: &str| scratch.path().join(name);
        fs::create_dir_all(at("tree/a/b")).unwrap();
        fs::create_dir(at("outside")).unwrap();
        fs::write(at("tree/a/file"), "").unwrap();
        symlink(at("outside"), at("tree/absolute")).unwrap();
        symlink("../outside", at("tree/relative")).unwrap();
        symlink("a", at("tree/inside")).unwrap();
        let root = File::open(at("tree")).unwrap();
        for (path, opens) in [
            ("", true),
            ("a", true),
            ("a/b", true),
            ("a/c", false),
            ("a/file", false),
            ("a/file/b", false),
            ("absolute", false),
            ("relative", false),
            ("inside", false),
            ("inside/b", false),
        ] {
            let results = [true, false].map(|has_openat2| {
                let root = Root {
                    directory: root.as_fd(),
                    has_openat2: Cell::new(has_openat2),
                };
                let opened = root.open_directory(path.as_bytes());
                assert_eq!(root.has_openat2.get(), has_openat2, "this kernel has it");
                opened.map(|directory| identity(&stat(directory.as_fd(), b"").unwrap()))
            });
            assert_eq!(results[0].is_ok(), opens, "{path}: {results:?}");
            assert_eq!(results[0].ok(), results[1].ok(), "{path}");
        }
        let by_components = Root {
            directory: root.as_fd(),
            has_openat2: Cell::new(false),
        };
        for path in ["..", "a/..", "/etc", "a//b"] {
            assert_eq!(
                by_components.open_directory(path.as_bytes()).unwrap_err(),
                Errno::INVAL,
                "{path}"
            );
        }
    }
}
