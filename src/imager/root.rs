//! A directory that one run has for its tree.
//!
//! An extended attribute says that the tree in it is imager's: it lives and dies with the
//! directory, so no directory that a user makes is ever taken for a leftover. On a file system
//! without such attributes leftovers are not known as such, and refused like any other files.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::fs::{Mode, OFlags, XattrFlags, fgetxattr, fsetxattr, openat};
use rustix::io::Errno;

use super::{Error, names, removal, try_lock};
use crate::error::PathContext;
use crate::remove;

/// The attribute's name; it has an empty value.
const MARK: &str = "user.isar-tarball.imager";

/// A directory that no other run of imager uses.
pub struct Root {
    directory: OwnedFd,
}

impl Root {
    /// Locks the directory (open in any mode).
    pub fn lock(directory: BorrowedFd<'_>) -> Result<Root, Error> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let directory =
            openat(directory, c".", flags, Mode::empty()).at("", "open the directory")?;
        if try_lock(&directory, false).at("", "lock the directory")? {
            Ok(Root { directory })
        } else {
            Err(Error::Busy)
        }
    }

    /// Removes what a killed run has left, refuses anything else, and marks the directory as
    /// imager's.
    pub fn occupy(&self, threads: usize) -> Result<(), Error> {
        if !names(&self.directory, "")?.is_empty() {
            if fgetxattr(&self.directory, MARK, &mut [0; 0]).is_err() {
                return Err(Error::NotEmpty);
            }
            self.clear(threads)?;
        }
        match fsetxattr(&self.directory, MARK, b"", XattrFlags::empty()) {
            Ok(()) | Err(Errno::NOTSUP) => Ok(()),
            Err(error) => Err(error).at("", "mark the directory")?,
        }
    }

    /// The directory, open for reading.
    pub fn directory(&self) -> BorrowedFd<'_> {
        self.directory.as_fd()
    }

    /// Removes all that is in it.
    pub fn clear(&self, threads: usize) -> Result<(), Error> {
        remove::contents(self.directory.as_fd(), &removal(threads))?;
        Ok(())
    }
}
