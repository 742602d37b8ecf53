//! A directory of the caller that appears whole or not at all: filled under a hidden name beside
//! it, then renamed.
//!
//! ```text
//! create: .NAME.XXXXXXXX.part, marked and locked ──> publish: rename to NAME
//!         a crash leaves the .part directory: the next output of NAME finds it
//!         marked and without a lock, and removes it
//! ```

use std::ffi::OsString;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};

use rustix::fs::{AtFlags, Mode, fsync, mkdirat, statat, unlinkat};
use rustix::io::Errno;

use super::directory::{mark, unmark};
use super::lock::{self, Mode as LockMode};
use super::opening::open_directory;
use super::output::{ATTEMPTS, Refused, part_name, remove_abandoned};
use super::removal;
use super::rename::rename_directory;
use crate::error::{Error, FileError, PathContext, bytes};
use crate::sys::sync_file_system;
use crate::tree::resolve::open_parent;

/// A directory to fill. Dropped before [`OutputDirectory::publish`], it leaves nothing behind.
#[derive(Debug)]
pub struct OutputDirectory {
    path: PathBuf,
    above: OwnedFd,
    name: OsString,
    part: OsString,
    /// Open for reading; carries the lock.
    directory: OwnedFd,
    is_published: bool,
}

impl OutputDirectory {
    /// Creates the directory beside `path`, which must not exist. Only the caller may enter it.
    /// Removes what killed runs have left there.
    pub fn create(path: &Path) -> Result<OutputDirectory, Error> {
        let shown = bytes(path);
        let name = path.file_name().map(OsString::from);
        let name = name.ok_or_else(|| Refused::NoName(path.to_owned()))?;
        let above = open_parent(path)?;
        match statat(&above, &name, AtFlags::SYMLINK_NOFOLLOW) {
            Err(Errno::NOENT) => {}
            Err(error) => return Err(FileError::new(shown, "stat", error).into()),
            Ok(_) => return Err(Refused::Exists(path.to_owned()).into()),
        }
        remove_abandoned(&above, &name).at(shown, "remove what an earlier run has left")?;
        let failed = |error| FileError::new(shown, "create a directory beside it", error);
        for _ in 0..ATTEMPTS {
            let part = part_name(&name);
            match mkdirat(&above, &part, Mode::RWXU) {
                Err(Errno::EXIST) => continue,
                created => created.map_err(failed)?,
            }
            let opened = open_directory(above.as_fd(), part.as_encoded_bytes());
            let directory = match opened {
                // Another run has taken it for an abandoned one.
                Err(Errno::NOENT) => continue,
                opened => opened.map_err(failed)?,
            };
            let created = OutputDirectory {
                path: path.to_owned(),
                above: above.try_clone().at(shown, "open once more")?,
                name: name.clone(),
                part,
                directory,
                is_published: false,
            };
            if lock::try_lock(&created.directory, LockMode::Exclusive).map_err(failed)? {
                mark(created.directory.as_fd()).map_err(failed)?;
                return Ok(created);
            }
        }
        Err(failed(Errno::EXIST).into())
    }

    /// The directory, open for reading.
    pub fn directory(&self) -> BorrowedFd<'_> {
        self.directory.as_fd()
    }

    /// Syncs the complete directory and gives it its name.
    pub fn publish(&mut self) -> Result<(), FileError> {
        let shown = bytes(&self.path);
        sync_file_system(&self.directory).at(shown, "sync")?;
        unmark(self.directory.as_fd()).at(shown, "remove the mark of the directory")?;
        rename_directory(self.above.as_fd(), &self.part, &self.name)
            .at(shown, "rename the finished directory")?;
        self.is_published = true;
        fsync(&self.above).at(shown, "sync its directory")
    }
}

impl Drop for OutputDirectory {
    fn drop(&mut self) {
        if !self.is_published {
            // The next run tries again.
            let _ = removal::contents(self.directory.as_fd(), &removal::Options::all(1));
            let _ = unlinkat(&self.above, &self.part, AtFlags::REMOVEDIR);
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use std::fs;

    use super::*;

    fn names(directory: &Path) -> Vec<OsString> {
        let entries = fs::read_dir(directory).unwrap();
        entries.map(|entry| entry.unwrap().file_name()).collect()
    }

    #[test]
    fn a_directory_has_its_name_once_it_is_published_and_else_leaves_nothing() {
        let scratch = tempfile::tempdir().unwrap();
        let path = scratch.path().join("out");
        let begin = || {
            let output = OutputDirectory::create(&path).unwrap();
            rustix::fs::mkdirat(output.directory(), "below", Mode::RWXU).unwrap();
            output
        };
        drop(begin());
        assert!(names(scratch.path()).is_empty());
        begin().publish().unwrap();
        assert!(path.join("below").is_dir());
        assert_eq!(names(scratch.path()), ["out"]);
        let refused = OutputDirectory::create(&path).unwrap_err().to_string();
        assert!(refused.contains("exists"), "{refused}");
    }

    #[test]
    fn the_next_run_removes_what_a_killed_one_left() {
        let scratch = tempfile::tempdir().unwrap();
        let path = scratch.path().join("out");
        let mut killed = OutputDirectory::create(&path).unwrap();
        fs::write(scratch.path().join(&killed.part).join("file"), "x").unwrap();
        // What a killed run does not do.
        killed.is_published = true;
        drop(killed);
        assert_eq!(names(scratch.path()).len(), 1);
        let running = OutputDirectory::create(&path).unwrap();
        let other = OutputDirectory::create(&path).unwrap();
        assert_eq!(names(scratch.path()).len(), 2);
        drop((running, other));
        assert!(names(scratch.path()).is_empty());
    }
}
