//! The tree of one command: unpacked from an archive, and gone afterwards.
//!
//! ```text
//! root     a directory of the user's choice: unpacked there for this run alone
//! cache    one copy per archive content, an overlay on it per run
//!   index    which archive files are known, so that none is hashed twice
//!   overlay  the mount
//!   run      a directory of this run, and what killed runs have left
//! apt      the packages that the command needs
//! ```
//!
//! Whatever a run makes lies in a directory that it holds a lock on. The kernel gives the lock back
//! when the run ends, in whatever way: so a directory without a holder is a leftover, and the next
//! run removes it.
//!
//! To be called as root of the place that the trees belong to. Nothing here may have to be undone
//! by the caller: `root` and `run` say how.

pub mod apt;
pub mod cache;
pub mod index;
pub mod overlay;
pub mod root;
pub mod run;

use std::fs::File;
use std::io;
use std::os::fd::{BorrowedFd, OwnedFd};

use rustix::fs::{Dir, FlockOperation, Mode, OFlags, flock, openat};
use rustix::io::Errno;
use rustix::process::{Resource, getrlimit, setrlimit};

use crate::error::{FileError, PathContext, describe};
use crate::input::{self, Input};
use crate::progress::Progress;
use crate::{remove, unpack};

/// Why there is no tree.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A system call failed.
    #[error(transparent)]
    File(#[from] FileError),
    /// The archive cannot be unpacked.
    #[error(transparent)]
    Unpack(#[from] unpack::Error),
    /// Something that is not needed any more cannot be removed.
    #[error("remove what is not needed any more: {0}")]
    Remove(#[from] remove::Failed),
    /// The archive cannot be read.
    #[error("read the archive: {}", describe(.0))]
    Archive(io::Error),
    /// The archive is a pipe or the like, which cannot be found again.
    #[error("the archive must be a regular file to be kept in a cache; --root takes others")]
    NotAFile,
    /// Somebody writes to the archive.
    #[error("the archive was changed while it was being read; run this again when it is finished")]
    Changed,
    /// Another run has the directory.
    #[error("another run of imager uses this directory: give each its own, or wait for its end")]
    Busy,
    /// There is something in the directory that no run of imager has left.
    #[error(
        "the directory is not empty, and nothing that imager has left: remove it first, or name another one"
    )]
    NotEmpty,
}

/// An archive, and how it is unpacked.
pub struct Archive<'a> {
    /// The file, at its beginning.
    pub file: &'a File,
    /// How it is read.
    pub input: input::Options,
    /// What of it becomes files.
    pub options: unpack::Options,
    /// How far it is.
    pub progress: &'a Progress,
}

impl Archive<'_> {
    /// Unpacks it into the empty directory `root`. What it leaves there when it fails is the
    /// caller's to remove. Gives the bytes of data.
    pub fn unpack(&self, root: BorrowedFd<'_>) -> Result<u64, Error> {
        let file = self.file.try_clone().map_err(Error::Archive)?;
        let mut input = Input::open(file, &self.input).map_err(unpack::Error::from)?;
        let unpacking = unpack::Unpacking::prepare(root, input.content(), &self.options)?;
        // Unpacking raises it, and some programs do something for each file that they might have
        // open.
        let limit = getrlimit(Resource::Nofile);
        let unpacked = unpacking.run(&mut input, None, self.progress);
        setrlimit(Resource::Nofile, limit).at("", "set the limit of open files")?;
        Ok(unpacked?.data_bytes)
    }
}

/// A directory in `above`, open for reading, which a lock needs.
fn open(above: BorrowedFd<'_>, name: &[u8]) -> Result<OwnedFd, Errno> {
    openat(
        above,
        name,
        OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC,
        Mode::empty(),
    )
}

/// Locks without waiting; false when somebody else has a lock that forbids this one.
fn try_lock(file: &OwnedFd, shared: bool) -> Result<bool, Errno> {
    let how = if shared {
        FlockOperation::NonBlockingLockShared
    } else {
        FlockOperation::NonBlockingLockExclusive
    };
    match flock(file, how) {
        Ok(()) => Ok(true),
        Err(Errno::AGAIN) => Ok(false),
        Err(error) => Err(error),
    }
}

/// The names in a directory that is open for reading, without `.` and `..`.
fn names(directory: &OwnedFd, shown: &str) -> Result<Vec<Vec<u8>>, FileError> {
    let act = "list the directory";
    let mut names = Vec::new();
    for entry in Dir::read_from(directory).at(shown, act)? {
        let name = entry.at(shown, act)?.file_name().to_bytes().to_vec();
        if name != b"." && name != b".." {
            names.push(name);
        }
    }
    Ok(names)
}

/// How trees are removed here: by all processors, with nothing left to whoever is outside.
fn removal(threads: usize) -> remove::Options {
    remove::Options {
        threads,
        dry_run: false,
        take_group: false,
    }
}
