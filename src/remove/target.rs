//! The directory that is to be removed, and those that must not be.

use std::ffi::{CString, OsStr};
use std::fs;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use rustix::fs::{AtFlags, CWD, FileType, Mode, OFlags, Statx, StatxAttributes, openat, unlinkat};
use rustix::io::Errno;

use crate::error::{Escaped, FileError};
use crate::tree::mounts;
use crate::tree::walk::{self, Mount};

/// Why a directory is not touched at all.
#[derive(Debug, thiserror::Error)]
pub enum Refused {
    /// A system call failed.
    #[error(transparent)]
    File(#[from] FileError),
    /// The last component is `.`, `..` or missing.
    #[error("{}: give the name of a directory, not `.`, `..` or `/`", Escaped(.0))]
    NoName(Vec<u8>),
    /// A symbolic link.
    #[error("{}: it is a symbolic link; give the directory itself, or remove the link with rm", Escaped(.0))]
    Symlink(Vec<u8>),
    /// Neither directory nor link.
    #[error("{}: it is no directory", Escaped(.0))]
    NotADirectory(Vec<u8>),
    /// A home directory.
    #[error("{}: it is a home directory", Escaped(.0))]
    Home(Vec<u8>),
    /// It is what `/` is.
    #[error("{}: it is the root directory", Escaped(.0))]
    Root(Vec<u8>),
    /// A mount point.
    #[error("{}: something is mounted there; unmount it first", Escaped(.0))]
    MountPoint(Vec<u8>),
    /// Something is mounted below it.
    #[error(
        "{}: something is mounted at {}; unmount it first",
        Escaped(path),
        Escaped(mounted)
    )]
    MountBelow {
        /// The directory.
        path: Vec<u8>,
        /// The mount point.
        mounted: Vec<u8>,
    },
}

/// A directory that may be removed.
#[derive(Debug)]
pub struct Target {
    parent: OwnedFd,
    name: CString,
    directory: OwnedFd,
}

impl Target {
    /// Opens the directory at `path` as the caller; `None` when there is none. `homes` are not
    /// touched.
    pub fn open(path: &Path, homes: &[PathBuf]) -> Result<Option<Target>, Refused> {
        let shown = path.as_os_str().as_bytes();
        let (above, name) = split(shown).ok_or_else(|| Refused::NoName(shown.to_vec()))?;
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let parent = match openat(CWD, above, flags, Mode::empty()) {
            Err(Errno::NOENT) => return Ok(None),
            opened => opened
                .map_err(|error| FileError::new(shown, "open the directory above it", error))?,
        };
        let directory = match openat(
            &parent,
            &name,
            OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC,
            Mode::empty(),
        ) {
            Err(Errno::NOENT) => return Ok(None),
            opened => opened.map_err(|error| FileError::new(shown, "open", error))?,
        };
        let target = Target {
            parent,
            name,
            directory,
        };
        target.refuse(shown, homes)?;
        Ok(Some(target))
    }

    fn refuse(&self, path: &[u8], homes: &[PathBuf]) -> Result<(), Refused> {
        let own = walk::stat(self.directory.as_fd(), c"", path)?;
        match FileType::from_raw_mode(own.stx_mode.into()) {
            FileType::Directory => {}
            FileType::Symlink => return Err(Refused::Symlink(path.to_vec())),
            _ => return Err(Refused::NotADirectory(path.to_vec())),
        }
        let is_same = |other: &Path| {
            let other = walk::stat(
                CWD,
                &CString::new(other.as_os_str().as_bytes()).unwrap_or_default(),
                path,
            );
            other.is_ok_and(|other| file(&other) == file(&own))
        };
        if is_same(Path::new("/")) {
            return Err(Refused::Root(path.to_vec()));
        }
        if homes.iter().any(|home| is_same(home)) {
            return Err(Refused::Home(path.to_vec()));
        }
        let above = walk::stat(self.parent.as_fd(), c"", path)?;
        if own.stx_attributes.contains(StatxAttributes::MOUNT_ROOT)
            || Mount::of(&own) != Mount::of(&above)
        {
            return Err(Refused::MountPoint(path.to_vec()));
        }
        match self.mount_below() {
            Some(mounted) => Err(Refused::MountBelow {
                path: path.to_vec(),
                mounted,
            }),
            None => Ok(()),
        }
    }

    /// A look ahead, so that nothing is removed from a tree with a mount in it. Where `/proc` does
    /// not tell, the removal stops at the mount.
    fn mount_below(&self) -> Option<Vec<u8>> {
        let path = fs::read_link(format!("/proc/self/fd/{}", self.directory.as_raw_fd())).ok()?;
        let mountinfo = fs::read("/proc/self/mountinfo").ok()?;
        mounts::below(&mountinfo, path.as_os_str().as_bytes())
            .into_iter()
            .next()
    }

    /// The directory, open with `O_PATH`.
    pub fn directory(&self) -> BorrowedFd<'_> {
        self.directory.as_fd()
    }

    /// Removes the directory itself once it is empty.
    pub fn remove(&self) -> io::Result<()> {
        match unlinkat(&self.parent, &self.name, AtFlags::REMOVEDIR) {
            Ok(()) | Err(Errno::NOENT) => Ok(()),
            Err(error) => Err(error.into()),
        }
    }
}

fn file(stat: &Statx) -> (u32, u32, u64) {
    (stat.stx_dev_major, stat.stx_dev_minor, stat.stx_ino)
}

/// The directory above and the name in it. `Path::file_name` would take `a/.` for `a`.
fn split(path: &[u8]) -> Option<(&[u8], CString)> {
    let end = path.iter().rposition(|byte| *byte != b'/')? + 1;
    let path = path.get(..end)?;
    let (above, name) = match path.iter().rposition(|byte| *byte == b'/') {
        Some(slash) => (path.get(..slash + 1)?, path.get(slash + 1..)?),
        None => (&b"."[..], path),
    };
    if matches!(name, b"." | b"..") {
        return None;
    }
    Some((above, CString::new(name).ok()?))
}

/// The home directories in the text of `/etc/passwd`.
pub fn homes(passwd: &[u8]) -> Vec<PathBuf> {
    let lines = passwd.split(|byte| *byte == b'\n');
    let home = |line: &[u8]| {
        line.split(|byte| *byte == b':')
            .nth(5)
            .filter(|home| home.starts_with(b"/"))
            .map(<[u8]>::to_vec)
    };
    lines
        .filter_map(home)
        .map(|home| PathBuf::from(OsStr::from_bytes(&home)))
        .collect()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn the_last_component_must_be_a_name() {
        for (path, expected) in [
            ("a", Some((".", "a"))),
            ("a/b//", Some(("a/", "b"))),
            ("/a", Some(("/", "a"))),
            ("../a/", Some(("../", "a"))),
            ("a/.", None),
            ("a/..", None),
            (".", None),
            ("..//", None),
            ("/", None),
            ("", None),
            ("a\0b", None),
        ] {
            let found = split(path.as_bytes());
            let found = found
                .as_ref()
                .map(|(above, name)| (std::str::from_utf8(above).unwrap(), name.to_str().unwrap()));
            assert_eq!(found, expected, "{path:?}");
        }
    }

    #[test]
    fn homes_are_the_sixth_field() {
        let passwd =
            b"root:x:0:0:root:/root:/bin/sh\nbroken\nanna:x:1:1::/home/anna:\nnone:x:2:2:::\n";
        assert_eq!(homes(passwd), [Path::new("/root"), Path::new("/home/anna")]);
    }

    #[test]
    fn what_must_stay_is_refused_by_its_reason() {
        let scratch = tempfile::tempdir().unwrap();
        let at = |name: &str| scratch.path().join(name);
        fs::create_dir(at("home")).unwrap();
        fs::create_dir(at("tree")).unwrap();
        fs::write(at("file"), "").unwrap();
        std::os::unix::fs::symlink("tree", at("link")).unwrap();
        let homes = [at("home"), at("missing")];
        let refused = |path: PathBuf| Target::open(&path, &homes).unwrap_err();
        assert!(matches!(refused(at("home")), Refused::Home(_)));
        assert!(matches!(refused(at("link")), Refused::Symlink(_)));
        assert!(matches!(refused(at("link/")), Refused::Symlink(_)));
        assert!(matches!(refused(at("file")), Refused::NotADirectory(_)));
        assert!(matches!(refused(at("tree/.")), Refused::NoName(_)));
        assert!(matches!(refused("/proc".into()), Refused::MountPoint(_)));
        assert!(Target::open(&at("missing"), &homes).unwrap().is_none());
        assert!(
            Target::open(&at("missing/below"), &homes)
                .unwrap()
                .is_none()
        );
        Target::open(&at("tree"), &homes)
            .unwrap()
            .unwrap()
            .remove()
            .unwrap();
        assert!(!at("tree").exists());
    }
}
