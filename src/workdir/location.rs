//! Where directories are, and which of them must not be removed or replaced.

use std::ffi::{CStr, CString, OsStr};
use std::fs;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use rustix::fs::{
    AtFlags, CWD, FileType, Mode, OFlags, Statx, StatxAttributes, fstat, openat, statat,
};
use rustix::io::Errno;
use sha2::{Digest, Sha256};

use crate::error::{Classify, ErrorKind, Escaped, FileError, PathContext};
use crate::pack::hex;
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

impl Classify for Refused {
    fn kind(&self) -> ErrorKind {
        match self {
            Refused::File(error) => error.kind(),
            _ => ErrorKind::InvalidInput,
        }
    }
}

/// Longer names are shortened in hidden names, in bytes.
const MAX_NAME: usize = 200;

/// Where a directory is, or is to be: the open directory above it and its name there.
#[derive(Debug)]
pub struct Location {
    parent: OwnedFd,
    name: CString,
    path: PathBuf,
}

impl Location {
    /// Of `path`, whose last component must be a name. `None` when the directory above is missing.
    pub fn of(path: &Path) -> Result<Option<Location>, Refused> {
        let shown = path.as_os_str().as_bytes();
        let (above, name) = split(shown).ok_or_else(|| Refused::NoName(shown.to_vec()))?;
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let parent = match openat(CWD, above, flags, Mode::empty()) {
            Err(Errno::NOENT) => return Ok(None),
            opened => opened.at(shown, "open the directory above it")?,
        };
        let path = path.to_owned();
        Ok(Some(Location { parent, name, path }))
    }

    /// The path as the user gave it.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Its name in the directory above.
    pub fn name(&self) -> &CStr {
        &self.name
    }

    /// The directory above, open with `O_PATH`.
    pub fn parent(&self) -> BorrowedFd<'_> {
        self.parent.as_fd()
    }

    /// A hidden name beside it: `.NAME.SUFFIX`.
    pub fn sibling(&self, suffix: &str) -> CString {
        let name = self.name.to_bytes();
        // A name has at most 255 bytes. A digest tells long names with the same front apart.
        let front = match name.get(..MAX_NAME) {
            Some(front) if name.len() > MAX_NAME => {
                let digest: [u8; 32] = Sha256::digest(name).into();
                [front, &hex(&digest).as_bytes()[..16]].concat()
            }
            _ => name.to_vec(),
        };
        CString::new([b".", front.as_slice(), b".", suffix.as_bytes()].concat()).unwrap_or_default()
    }

    /// Opens what has this name, with `O_PATH` and without following a symbolic link; `None` when
    /// it is missing.
    pub fn open(&self) -> Result<Option<OwnedFd>, FileError> {
        self.open_name(&self.name)
    }

    /// [`Location::open`] for another name in the directory above.
    pub fn open_name(&self, name: &CStr) -> Result<Option<OwnedFd>, FileError> {
        let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        match openat(&self.parent, name, flags, Mode::empty()) {
            Err(Errno::NOENT) => Ok(None),
            opened => Ok(Some(opened.at(self.shown(), "open")?)),
        }
    }

    /// True if `name` in the directory above is the open `file`.
    pub fn is_name_of(&self, name: &CStr, file: BorrowedFd<'_>) -> bool {
        is_name_of(self.parent.as_fd(), name, file)
    }

    /// Refuses what must not be removed or replaced: anything but a directory, `/`, one of `homes`,
    /// mount points and directories with a mount below.
    pub fn refuse_precious(
        &self,
        directory: BorrowedFd<'_>,
        homes: &[PathBuf],
    ) -> Result<(), Refused> {
        let path = self.shown();
        let own = walk::stat(directory, c"", path)?;
        match FileType::from_raw_mode(own.stx_mode.into()) {
            FileType::Directory => {}
            FileType::Symlink => return Err(Refused::Symlink(path.to_vec())),
            _ => return Err(Refused::NotADirectory(path.to_vec())),
        }
        let is_same = |other: &Path| {
            let name = CString::new(other.as_os_str().as_bytes()).unwrap_or_default();
            walk::stat(CWD, &name, path).is_ok_and(|other| file(&other) == file(&own))
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
        match mount_below(directory) {
            Some(mounted) => Err(Refused::MountBelow {
                path: path.to_vec(),
                mounted,
            }),
            None => Ok(()),
        }
    }

    fn shown(&self) -> &[u8] {
        self.path.as_os_str().as_bytes()
    }
}

/// True if `name` in the directory `parent` is the open `file`.
pub fn is_name_of(parent: BorrowedFd<'_>, name: &CStr, file: BorrowedFd<'_>) -> bool {
    let found = statat(parent, name, AtFlags::SYMLINK_NOFOLLOW);
    match (found, fstat(file)) {
        (Ok(found), Ok(file)) => (found.st_dev, found.st_ino) == (file.st_dev, file.st_ino),
        _ => false,
    }
}

/// Looks ahead, so that nothing is removed from a tree with a mount in it. Where `/proc` does not
/// tell, the removal stops at the mount.
fn mount_below(directory: BorrowedFd<'_>) -> Option<Vec<u8>> {
    let path = fs::read_link(format!("/proc/self/fd/{}", directory.as_raw_fd())).ok()?;
    let mountinfo = fs::read("/proc/self/mountinfo").ok()?;
    mounts::below(&mountinfo, path.as_os_str().as_bytes())
        .into_iter()
        .next()
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

/// The home directories of all users, and the caller's by `HOME`.
pub fn homes() -> Vec<PathBuf> {
    let mut homes = homes_of(&fs::read("/etc/passwd").unwrap_or_default());
    let own = std::env::var_os("HOME").filter(|home| !home.is_empty());
    homes.extend(own.map(PathBuf::from));
    homes
}

/// The home directories in the text of `/etc/passwd`.
fn homes_of(passwd: &[u8]) -> Vec<PathBuf> {
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
        assert_eq!(
            homes_of(passwd),
            [Path::new("/root"), Path::new("/home/anna")]
        );
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
        let refused = |path: PathBuf| {
            let location = Location::of(&path)?.unwrap();
            let opened = location.open()?.unwrap();
            location.refuse_precious(opened.as_fd(), &homes)
        };
        let refused = |path: PathBuf| refused(path).unwrap_err();
        assert!(matches!(refused(at("home")), Refused::Home(_)));
        assert!(matches!(refused(at("link")), Refused::Symlink(_)));
        assert!(matches!(refused(at("link/")), Refused::Symlink(_)));
        assert!(matches!(refused(at("file")), Refused::NotADirectory(_)));
        assert!(matches!(refused(at("tree/.")), Refused::NoName(_)));
        assert!(matches!(refused("/proc".into()), Refused::MountPoint(_)));
        let location = |name: &str| Location::of(&at(name)).unwrap();
        assert!(location("missing").unwrap().open().unwrap().is_none());
        assert!(location("missing/below").is_none());
        let tree = location("tree").unwrap();
        let opened = tree.open().unwrap().unwrap();
        tree.refuse_precious(opened.as_fd(), &homes).unwrap();
        assert!(tree.is_name_of(tree.name(), opened.as_fd()));
        assert_eq!(tree.sibling("new").to_bytes(), b".tree.new");
    }
}
