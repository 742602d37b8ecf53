//! Which directories this program works with: one rule for all commands.
//!
//! A process that works as another user, or as root of a namespace, must not be led to files that a
//! third user has prepared. So:
//!
//! 1. **Own.** A directory that an operation fills or replaces, and every file that it
//!    believes (a cache entry, the state of an archive), belongs to the caller or to an id of the
//!    caller's namespace. It is checked on the open descriptor, which is used from then on. For
//!    real root without a namespace every owner will do.
//! 2. **Reached safely.** A directory that keeps files for later runs (cache, states, downloads)
//!    cannot be exchanged by another user: each directory above it belongs to root, to the caller
//!    or to an id of the namespace, and only its owner can write to it; or it is sticky, and the
//!    entry in it belongs to one of them. Writing by the group counts as writing by others, unless
//!    the group is the caller's own and has the caller's number (a user private group).

use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::{DirBuilderExt, MetadataExt};
use std::path::{Path, PathBuf};

use rustix::fs::{CWD, Mode, OFlags, Stat, fstat, openat};
use rustix::io::Errno;
use rustix::process::{getegid, geteuid};

use crate::error::{Error, ErrorKind, FileError, PathContext, bytes};
use crate::userns::Isolation;

/// True if other users may search the directory and all above it, by their modes.
pub fn is_open_to_others(directory: &Path) -> bool {
    let is_open =
        |path: &Path| std::fs::metadata(path).is_ok_and(|found| found.mode() & 0o001 != 0);
    directory
        .canonicalize()
        .is_ok_and(|path| path.ancestors().all(is_open))
}

/// The ids that a caller trusts.
pub struct Trust<'a> {
    isolation: &'a Isolation,
    uid: u32,
    gid: u32,
}

/// Directories above one another; more do not occur, so that this only bounds work.
const MAX_LEVELS: usize = 4096;

impl<'a> Trust<'a> {
    /// Of this process, which works in `isolation`.
    pub fn new(isolation: &'a Isolation) -> Trust<'a> {
        Trust {
            isolation,
            uid: geteuid().as_raw(),
            gid: getegid().as_raw(),
        }
    }

    /// True for the caller and the ids of its namespace.
    fn is_own(&self, uid: u32) -> bool {
        uid == self.uid
            || match self.isolation {
                Isolation::None => false,
                Isolation::Namespace(maps) => maps.uids.to_inner(uid).is_some(),
            }
    }

    fn is_writable_by_others(&self, stat: &Stat) -> bool {
        let is_private_group = stat.st_gid == self.gid && self.gid == self.uid;
        stat.st_mode & 0o002 != 0 || (stat.st_mode & 0o020 != 0 && !is_private_group)
    }

    /// Rule 1: `file` belongs to the caller or to an id of the namespace.
    pub fn own(&self, file: BorrowedFd<'_>, path: &Path) -> Result<Stat, Error> {
        let stat = fstat(file).at(bytes(path), "stat")?;
        let is_real_root = self.uid == 0 && *self.isolation == Isolation::None;
        if is_real_root || self.is_own(stat.st_uid) {
            return Ok(stat);
        }
        Err(Error::new(
            ErrorKind::Untrusted,
            self.foreign(path, stat.st_uid),
        ))
    }

    /// `error` of work in the directory at `path`. If permission was denied and the directory
    /// belongs to none of the caller's ids, the message says so.
    pub fn explain(&self, error: Error, path: &Path) -> Error {
        match std::fs::metadata(path) {
            Ok(found)
                if error.kind() == ErrorKind::PermissionDenied
                    && self.uid != 0
                    && !self.is_own(found.uid()) =>
            {
                let text = format!("{error}; {}", self.foreign(path, found.uid()));
                Error::new(error.kind(), text)
            }
            _ => error,
        }
    }

    /// What is said of a file that belongs to none of the caller's ids.
    fn foreign(&self, path: &Path, uid: u32) -> String {
        let mut own = vec![self.uid.to_string()];
        if let Isolation::Namespace(maps) = self.isolation {
            let others = maps.uids.extents().iter();
            let others = others.filter(|extent| extent.outer != self.uid);
            own.extend(
                others.map(|extent| {
                    format!("{}-{}", extent.outer, extent.outer + (extent.count - 1))
                }),
            );
        }
        format!(
            "{path:?} belongs to uid {uid}, which is none of yours ({}): another user created it, \
             or you under another id map, as in a container; use or remove it there",
            own.join(", ")
        )
    }

    /// Rule 1 for a directory with a name that this program chose: even real root uses none of
    /// another user, who may have created it to own a part of the result.
    pub fn created(&self, file: BorrowedFd<'_>, path: &Path) -> Result<(), Error> {
        let stat = fstat(file).at(bytes(path), "stat")?;
        match self.is_own(stat.st_uid) {
            true => Ok(()),
            false => Err(Error::new(
                ErrorKind::Untrusted,
                format!(
                    "{path:?} belongs to uid {}: let its owner remove it",
                    stat.st_uid
                ),
            )),
        }
    }

    /// Rule 1 for a directory or file whose content is believed: only its owner can write to it.
    /// Files of real root are believed, too.
    pub fn own_and_closed(&self, file: BorrowedFd<'_>, path: &Path) -> Result<(), Error> {
        let stat = fstat(file).at(bytes(path), "stat")?;
        if stat.st_uid != 0 && !self.is_own(stat.st_uid) {
            return Err(untrusted(
                path,
                path,
                &format!("belongs to uid {}", stat.st_uid),
            ));
        }
        if self.is_writable_by_others(&stat) {
            let why = format!(
                "can be written by other users (mode {:04o})",
                stat.st_mode & 0o7777
            );
            return Err(untrusted(path, path, &why));
        }
        Ok(())
    }

    /// Opens a directory that keeps files for later runs, for reading, and creates what is missing
    /// of its path. Both rules hold for it; where rule 2 does not, nothing is created.
    pub fn open_or_create(&self, path: &Path) -> Result<OwnedFd, Error> {
        let shown = bytes(path);
        let open = |path: &Path| {
            let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
            openat(CWD, path, flags, Mode::empty())
        };
        if let Err(Errno::NOENT) = open(path) {
            let absolute = std::path::absolute(path).at(shown, "find its absolute path")?;
            let above = absolute
                .ancestors()
                .skip(1)
                .find_map(|above| open(above).ok());
            if let Some(above) = above {
                // What is created in it will be the caller's.
                self.chain_is_safe(above, self.uid, path)?;
            }
            // Whatever the umask is: rule 2 must hold for it.
            let created = std::fs::DirBuilder::new()
                .recursive(true)
                .mode(0o755)
                .create(path);
            created.at(shown, "create the directory")?;
        }
        let directory = open(path).at(shown, "open the directory")?;
        self.reached_safely(directory.as_fd(), path)?;
        Ok(directory)
    }

    /// Rule 2: no other user can exchange `directory`, opened by `path`.
    pub fn reached_safely(&self, directory: BorrowedFd<'_>, path: &Path) -> Result<(), Error> {
        self.own_and_closed(directory, path)?;
        let own = fstat(directory).at(bytes(path), "stat")?;
        let above = open_above(directory, path)?;
        let found = fstat(&above).at(bytes(path), "stat")?;
        match (own.st_dev, own.st_ino) == (found.st_dev, found.st_ino) {
            // It is `/`.
            true => Ok(()),
            false => self.chain_is_safe(above, own.st_uid, path),
        }
    }

    /// Checks `directory` and all directories above it. `owner` is that of the entry in it.
    fn chain_is_safe(
        &self,
        mut directory: OwnedFd,
        mut owner: u32,
        path: &Path,
    ) -> Result<(), Error> {
        let stat = |fd: &OwnedFd| fstat(fd).at(bytes(path), "stat");
        let is_trusted = |uid: u32| uid == 0 || self.is_own(uid);
        let mut found = stat(&directory)?;
        for _ in 0..MAX_LEVELS {
            let shown = shown(directory.as_fd());
            if !is_trusted(found.st_uid) {
                let why = format!("belongs to uid {}", found.st_uid);
                return Err(untrusted(path, &shown, &why));
            }
            let is_sticky = found.st_mode & 0o1000 != 0;
            if self.is_writable_by_others(&found) && !(is_sticky && is_trusted(owner)) {
                let mode = found.st_mode & 0o7777;
                let why = format!("can be written by other users (mode {mode:04o})");
                return Err(untrusted(path, &shown, &why));
            }
            let above = open_above(directory.as_fd(), path)?;
            let next = stat(&above)?;
            if (next.st_dev, next.st_ino) == (found.st_dev, found.st_ino) {
                return Ok(());
            }
            owner = found.st_uid;
            (directory, found) = (above, next);
        }
        Ok(())
    }
}

fn open_above(directory: BorrowedFd<'_>, path: &Path) -> Result<OwnedFd, FileError> {
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    openat(directory, c"..", flags, Mode::empty()).at(bytes(path), "open a directory above it")
}

/// The path of an open directory as the kernel knows it, for messages.
fn shown(directory: BorrowedFd<'_>) -> PathBuf {
    let link = format!("/proc/self/fd/{}", directory.as_raw_fd());
    std::fs::read_link(link).unwrap_or_else(|_| "a directory above it".into())
}

fn untrusted(path: &Path, culprit: &Path, why: &str) -> Error {
    let subject = match path == culprit {
        true => format!("{path:?} {why}"),
        false => format!("{path:?} can be exchanged by another user: {culprit:?} {why}"),
    };
    Error::new(
        ErrorKind::Untrusted,
        format!("{subject}: use a directory that only you and root can change"),
    )
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use std::fs::{self, File, Permissions};
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[test]
    fn a_directory_that_others_can_write_to_is_refused_at_any_level() {
        let scratch = tempfile::tempdir().unwrap();
        let deep = scratch.path().join("a/b/c");
        fs::create_dir_all(&deep).unwrap();
        let set =
            |path: &Path, mode| fs::set_permissions(path, Permissions::from_mode(mode)).unwrap();
        let check = || {
            let open = File::open(&deep).unwrap();
            Trust::new(&Isolation::None).reached_safely(open.as_fd(), &deep)
        };
        set(&deep, 0o755);
        check().unwrap();
        for level in [
            &deep,
            &scratch.path().join("a/b"),
            &scratch.path().join("a"),
        ] {
            set(level, 0o777);
            let error = check().unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Untrusted);
            assert!(error.to_string().contains("0777"), "{error}");
            set(level, 0o755);
        }
        // Sticky: the entry in it is the caller's, so no other user can exchange it.
        set(&scratch.path().join("a"), 0o1777);
        check().unwrap();
    }
}
