//! A directory that many runs share, such as a cache.
//!
//! It belongs to the caller. In it is a directory for each id map, which belongs to root of the
//! namespace. A run holds a shared lock on the whole: no other operation removes it meanwhile.

use std::fs::{self, DirBuilder};
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::{DirBuilderExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::time::Duration;

use rustix::fs::{CWD, Mode, OFlags, openat};

use super::lock::{self, Mode as LockMode};
use super::trust::Trust;
use super::{Namespaces, handover};
use crate::error::{Context, Error, FileError, PathContext, bytes};
use crate::userns::Isolation;

/// How often the lock on a new directory is tried.
const LOCK_TRIES: u32 = 250;

/// Time between two tries.
const LOCK_INTERVAL: Duration = Duration::from_millis(20);

/// A part of a shared directory, in use by this run.
#[derive(Debug)]
pub struct SharedDir {
    path: PathBuf,
    directory: OwnedFd,
    _lock: OwnedFd,
}

impl SharedDir {
    /// Opens the directory at `whole`, and in it the one of this `name`. What is missing is
    /// created; any number of runs may do so at once, and be killed while they do.
    ///
    /// # Errors
    ///
    /// `Untrusted`; `InUse` while the directory is being removed.
    pub fn claim(whole: &Path, name: &str, namespaces: &Namespaces) -> Result<SharedDir, Error> {
        let trust = Trust::new(&namespaces.whole);
        let lock = trust.open_or_create(whole)?;
        lock::claim(&lock, LockMode::Shared, whole)?;
        let path = whole.join(name);
        let owner = match &namespaces.work {
            Isolation::Namespace(maps) => maps.uids.to_outer(0),
            Isolation::None => Some(rustix::process::geteuid().as_raw()),
        };
        let is_ready = || {
            fs::symlink_metadata(&path)
                .is_ok_and(|found| found.is_dir() && Some(found.uid()) == owner)
        };
        if !is_ready() {
            match DirBuilder::new().mode(0o700).create(&path) {
                // A run that was killed right after this has left it, or another one is at it.
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
                    trust.own(open(&path, OFlags::PATH)?.as_fd(), &path)?;
                }
                created => created.at(bytes(&path), "create the directory")?,
            }
            hand_over(&path, namespaces, is_ready).context(|| format!("{path:?}"))?;
        }
        let directory = open(&path, OFlags::PATH)?;
        trust.own_and_closed(directory.as_fd(), &path)?;
        Ok(SharedDir {
            path,
            directory,
            _lock: lock,
        })
    }

    /// Its path.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The directory, open with `O_PATH`.
    pub fn directory(&self) -> BorrowedFd<'_> {
        self.directory.as_fd()
    }
}

/// Makes root of the namespace the owner of the directory, unless another run has done so
/// meanwhile.
fn hand_over(
    path: &Path,
    namespaces: &Namespaces,
    is_ready: impl Fn() -> bool,
) -> Result<(), Error> {
    let Isolation::Namespace(maps) = &namespaces.work else {
        return Ok(());
    };
    let directory = match open(path, OFlags::RDONLY) {
        Err(_) if is_ready() => return Ok(()),
        opened => opened?,
    };
    // Another run holds the lock for as long as this takes it, some milliseconds.
    for _ in 0..LOCK_TRIES {
        if lock::try_lock(&directory, LockMode::Exclusive).at(bytes(path), "lock")? {
            break;
        }
        std::thread::sleep(LOCK_INTERVAL);
    }
    // Keeps the lock, or names the process that still has it.
    lock::claim(&directory, LockMode::Exclusive, path)?;
    match is_ready() {
        true => Ok(()),
        false => handover::to_root(directory.as_fd(), maps),
    }
}

fn open(path: &Path, mode: OFlags) -> Result<OwnedFd, FileError> {
    let flags = mode | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    openat(CWD, path, flags, Mode::empty()).at(bytes(path), "open")
}
