//! A directory that is going to be removed.
//!
//! ```text
//!            set aside                           remove
//!   NAME ──────────────> .NAME.isar-tarball-old ───────────> (none)
//!            put back    a crash leaves the hidden directory: the next
//!   NAME <──────────────   operation on NAME finds it without a lock and removes it
//! ```
//!
//! The tree gives up its name before the first file goes, so no other command ever takes the rest
//! of it for a tree. Where the directory above forbids renaming, it is removed under its own name.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};

use rustix::io::Errno;

use super::Namespaces;
use super::leftovers::{self, OLD};
use super::location::{self, Location};
use super::opening::lock_directory;
use super::rename::{discard, rename, replaced};
use crate::error::{Error, FileError, bytes};

/// A directory that may be removed, and that this operation has locked.
pub struct Retired<'n> {
    namespaces: &'n Namespaces,
    location: Location,
    /// Open for reading; carries the lock.
    directory: OwnedFd,
    is_aside: bool,
}

impl<'n> Retired<'n> {
    /// Locks the directory at `path`; `None` when there is none. What a killed operation left of an
    /// earlier directory of this name is removed.
    ///
    /// # Errors
    ///
    /// `InUse`; `InvalidInput` for what must not be removed.
    pub fn claim(path: &Path, namespaces: &'n Namespaces) -> Result<Option<Retired<'n>>, Error> {
        let Some(location) = Location::of(path)? else {
            return Ok(None);
        };
        let found = location.open()?;
        if let Some(found) = &found {
            location.refuse_precious(found.as_fd(), &location::homes())?;
        }
        leftovers::clear(&location, namespaces)?;
        let Some(found) = found else {
            return Ok(None);
        };
        let Some(directory) = lock_directory(found.as_fd(), path, namespaces)? else {
            return Ok(None);
        };
        Ok(Some(Retired {
            namespaces,
            location,
            directory,
            is_aside: false,
        }))
    }

    /// The directory, open for reading.
    pub fn directory(&self) -> BorrowedFd<'_> {
        self.directory.as_fd()
    }

    /// Takes the name away.
    ///
    /// # Errors
    ///
    /// `Changed` if another process has replaced the directory, which keeps its name then.
    pub fn set_aside(&mut self) -> Result<(), Error> {
        let old = self.location.sibling(OLD);
        match rename(&self.location, self.location.name(), &old, self.namespaces) {
            Ok(()) if self.location.is_name_of(&old, self.directory.as_fd()) => {
                self.is_aside = true;
                Ok(())
            }
            Ok(()) => {
                let _ = rename(&self.location, &old, self.location.name(), self.namespaces);
                Err(replaced(self.location.path()))
            }
            Err(Errno::ACCESS | Errno::PERM | Errno::ROFS | Errno::XDEV | Errno::INVAL) => Ok(()),
            Err(error) => {
                let path = bytes(self.location.path());
                Err(FileError::new(path, "rename it to a hidden name", error).into())
            }
        }
    }

    /// True once the directory has given up its name.
    pub fn is_aside(&self) -> bool {
        self.is_aside
    }

    /// The path by which it was claimed.
    pub fn original_path(&self) -> &Path {
        self.location.path()
    }

    /// The path that leads to it now.
    pub fn path(&self) -> PathBuf {
        match self.is_aside {
            true => {
                let old = self.location.sibling(OLD);
                leftovers::hidden_path(&self.location, &old)
            }
            false => self.location.path().to_owned(),
        }
    }

    /// Gives the name back to a directory that could not be removed. No error counts: the caller
    /// has one already.
    pub fn put_back(&mut self) {
        if self.is_aside {
            let old = self.location.sibling(OLD);
            let back = rename(&self.location, &old, self.location.name(), self.namespaces);
            self.is_aside = back.is_err();
        }
    }

    /// Removes the directory itself, which is empty.
    pub fn remove(&self) -> Result<(), Error> {
        let old = self.location.sibling(OLD);
        let name = if self.is_aside {
            &old
        } else {
            self.location.name()
        };
        discard(
            &self.location,
            name,
            self.directory.as_fd(),
            self.namespaces,
        )
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use std::fs;

    use super::*;
    use crate::error::ErrorKind;

    const NONE: &Namespaces = &Namespaces::NONE;

    #[test]
    fn a_directory_gives_up_its_name_first_and_gets_it_back_on_failure() {
        let scratch = tempfile::tempdir().unwrap();
        let path = scratch.path().join("tree");
        let old = scratch.path().join(".tree.isar-tarball-old");
        fs::create_dir_all(path.join("a")).unwrap();
        let mut retired = Retired::claim(&path, NONE).unwrap().unwrap();
        let busy = Retired::claim(&path, NONE).err().unwrap();
        assert_eq!(busy.kind(), ErrorKind::InUse);
        retired.set_aside().unwrap();
        assert!(!path.exists() && old.exists());
        retired.put_back();
        assert!(path.exists() && !old.exists());
        retired.set_aside().unwrap();
        fs::remove_dir(old.join("a")).unwrap();
        retired.remove().unwrap();
        assert!(!path.exists() && !old.exists());
        assert!(Retired::claim(&path, NONE).unwrap().is_none());
    }
}
