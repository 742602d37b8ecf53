//! The directory of one run, locked for as long as the run lives; and what killed runs have left.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::fs::{AtFlags, Mode, fstat, mkdirat, statat, unlinkat};
use rustix::io::Errno;

use super::lock::{self, Mode as LockMode};
use super::opening::{names, open_directory as open};
use super::removal;
use crate::error::{Error, FileError, PathContext};

/// The directory that holds those of all runs.
pub struct Runs {
    directory: OwnedFd,
}

/// The directory of a run.
pub struct Run {
    name: Vec<u8>,
    directory: OwnedFd,
}

/// How many names are tried: no more runs of one process id, in different containers, share a
/// cache.
const NAMES: u32 = 10_000;

impl Runs {
    /// The directory, open for reading.
    pub fn new(directory: OwnedFd) -> Runs {
        Runs { directory }
    }

    /// Creates an empty directory for this run alone.
    pub fn begin(&self) -> Result<Run, FileError> {
        for number in 0..NAMES {
            let name = format!("{}-{number}", std::process::id()).into_bytes();
            match mkdirat(&self.directory, &name, Mode::RWXU) {
                Ok(()) => {}
                Err(Errno::EXIST) => continue,
                Err(error) => {
                    return Err(FileError::new(
                        name,
                        "make the directory of this run",
                        error,
                    ));
                }
            }
            // Another run that looks for leftovers right now may remove it.
            if let Some(directory) = self.lock(&name)? {
                return Ok(Run { name, directory });
            }
        }
        Err(FileError::new(
            "",
            "make the directory of this run",
            Errno::EXIST,
        ))
    }

    /// Removes the directories of runs that have ended without doing so. Goes on after an error,
    /// and gives the first one.
    pub fn clear_leftovers(&self, threads: usize) -> Result<(), Error> {
        let mut result = Ok(());
        for name in names(&self.directory, "runs")? {
            let cleared = match self.lock(&name) {
                Ok(None) => Ok(()),
                Ok(Some(directory)) => self.end(Run { name, directory }, threads),
                Err(error) => Err(error.into()),
            };
            result = result.and(cleared);
        }
        result
    }

    /// Removes the directory with all that is in it, where nothing may be mounted any more.
    pub fn end(&self, run: Run, threads: usize) -> Result<(), Error> {
        removal::contents(run.directory.as_fd(), &removal::Options::all(threads))?;
        match unlinkat(&self.directory, &run.name, AtFlags::REMOVEDIR) {
            Ok(()) | Err(Errno::NOENT) => Ok(()),
            Err(error) => {
                Err(FileError::new(&run.name, "remove the directory of a run", error).into())
            }
        }
    }

    /// The directory of this name, locked; `None` if another run holds it, or it is gone.
    fn lock(&self, name: &[u8]) -> Result<Option<OwnedFd>, FileError> {
        let directory = match open(self.directory.as_fd(), name) {
            Err(Errno::NOENT) => return Ok(None),
            opened => opened.at(name, "open")?,
        };
        let is_ours = lock::try_lock(&directory, LockMode::Exclusive).at(name, "lock")?
            && is_still(&self.directory, name, &directory)?;
        Ok(is_ours.then_some(directory))
    }
}

impl Run {
    /// Its directory.
    pub fn directory(&self) -> BorrowedFd<'_> {
        self.directory.as_fd()
    }

    /// Makes an empty directory in it, for root alone, and opens it for reading.
    pub fn make(&self, name: &str) -> Result<OwnedFd, FileError> {
        mkdirat(&self.directory, name, Mode::RWXU).at(name, "make the directory")?;
        open(self.directory.as_fd(), name.as_bytes()).at(name, "open")
    }
}

/// Does the name still lead to the directory that was opened by it?
pub fn is_still(above: &OwnedFd, name: &[u8], directory: &OwnedFd) -> Result<bool, FileError> {
    let opened = fstat(directory).at(name, "look at it")?;
    match statat(above, name, AtFlags::SYMLINK_NOFOLLOW) {
        Ok(found) => Ok((found.st_dev, found.st_ino) == (opened.st_dev, opened.st_ino)),
        Err(Errno::NOENT) => Ok(false),
        Err(error) => Err(FileError::new(name, "look at it", error)),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use std::fs::{self, File};
    use std::thread::sleep;
    use std::time::Duration;

    use super::*;

    #[test]
    fn only_directories_without_a_holder_are_leftovers() {
        let scratch = tempfile::tempdir().unwrap();
        let runs = Runs::new(File::open(scratch.path()).unwrap().into());
        let names = || super::names(&runs.directory, "").unwrap().len();
        let (one, other, killed) = (
            runs.begin().unwrap(),
            runs.begin().unwrap(),
            runs.begin().unwrap(),
        );
        killed.make("a").unwrap();
        drop(killed);
        fs::create_dir_all(scratch.path().join("older/deep/down")).unwrap();
        assert_eq!(names(), 4);
        // Another test may be forking: until its child runs a program, that holds all locks too.
        let is_cleared = |_| {
            runs.clear_leftovers(1).unwrap();
            names() == 2 || {
                sleep(Duration::from_millis(20));
                false
            }
        };
        assert!((0..500).any(is_cleared));
        one.make("b").unwrap();
        runs.end(one, 1).unwrap();
        runs.end(other, 1).unwrap();
        assert_eq!(names(), 0);
    }

    #[test]
    fn a_directory_that_was_replaced_is_not_the_one_that_was_locked() {
        let scratch = tempfile::tempdir().unwrap();
        let above: OwnedFd = File::open(scratch.path()).unwrap().into();
        fs::create_dir(scratch.path().join("a")).unwrap();
        let opened = open(above.as_fd(), b"a").unwrap();
        assert!(is_still(&above, b"a", &opened).unwrap());
        fs::rename(scratch.path().join("a"), scratch.path().join("b")).unwrap();
        assert!(!is_still(&above, b"a", &opened).unwrap());
        fs::create_dir(scratch.path().join("a")).unwrap();
        assert!(!is_still(&above, b"a", &opened).unwrap());
    }
}
