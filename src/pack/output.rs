//! A file that appears whole or not at all: written under a temporary name beside its place, then
//! renamed.

use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::io::{self, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};

use rustix::fs::{
    AtFlags, Dir, FileType, FlockOperation, Mode, OFlags, flock, fstat, fsync, openat, renameat,
    statat, unlinkat,
};
use rustix::io::Errno;

use crate::error::{FileError, PathContext};
use crate::sys::{piece, start_writeback};
use crate::tree::resolve::{is_inside, open_parent};

/// A place where nothing can be written.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A system call failed.
    #[error(transparent)]
    File(#[from] FileError),
    /// The path has no last component: `/`, `..`.
    #[error("{0:?} names no file")]
    NoName(PathBuf),
    /// Something stands there that a file must not replace.
    #[error("{path:?} is a {kind}, not a file; give - to write to a stream")]
    NotAFile {
        /// The path.
        path: PathBuf,
        /// What it is.
        kind: &'static str,
    },
    /// The place lies inside the tree that is to be packed.
    #[error("{path:?} lies inside the tree that is packed; choose a place outside of it")]
    InsideTree {
        /// The path.
        path: PathBuf,
    },
}

/// A file being written. Dropped before [`Output::publish`], it leaves nothing behind.
#[derive(Debug)]
pub struct Output {
    path: PathBuf,
    directory: OwnedFd,
    name: OsString,
    temporary: OsString,
    file: File,
    is_published: bool,
}

impl Output {
    /// Makes the temporary file beside `path`, with mode 0666 less the umask, and removes those
    /// that killed runs have left there.
    pub fn create(path: &Path) -> Result<Output, Error> {
        let shown = path.as_os_str().as_bytes();
        let no_name = || Error::NoName(path.to_owned());
        let name = path
            .file_name()
            .filter(|_| !shown.ends_with(b"/"))
            .ok_or_else(no_name)?
            .to_owned();
        let directory = open_parent(path)?;
        refuse_special(&directory, &name, path)?;
        remove_abandoned(&directory, &name).at(shown, "remove what an earlier run has left")?;
        let (temporary, file) =
            create_temporary(&directory, &name).at(shown, "create a file beside it")?;
        Ok(Output {
            path: path.to_owned(),
            directory,
            name,
            temporary,
            file,
            is_published: false,
        })
    }

    /// The temporary file, open for reading and writing.
    pub fn file(&self) -> &File {
        &self.file
    }

    /// Would `other` replace what this puts into its place?
    pub fn is_place_of(&self, other: &Output) -> Result<bool, FileError> {
        let id = |output: &Output| {
            let stat = fstat(&output.directory)
                .at(output.path.as_os_str().as_bytes(), "find its place")?;
            Ok((stat.st_dev, stat.st_ino))
        };
        Ok(self.name == other.name && id(self)? == id(other)?)
    }

    /// Puts the file into its place, in one step. Its content must have been synced.
    pub fn publish(&mut self) -> Result<(), FileError> {
        let shown = self.path.as_os_str().as_bytes();
        renameat(
            &self.directory,
            &self.temporary,
            &self.directory,
            &self.name,
        )
        .at(shown, "rename the finished file")?;
        self.is_published = true;
        fsync(&self.directory).at(shown, "sync its directory")
    }
}

impl Drop for Output {
    fn drop(&mut self) {
        if !self.is_published {
            // Nobody is left to tell; the next run tries again.
            let _ = unlinkat(&self.directory, &self.temporary, AtFlags::empty());
        }
    }
}

/// Writes a file from where it stands on, no more at a time than is cheap, and has the disk begin
/// with what has been written: else all of it waits for the sync at the end.
#[derive(Debug)]
pub struct WritebackWriter<'f> {
    file: &'f File,
    written: u64,
    begun: u64,
}

impl<'f> WritebackWriter<'f> {
    /// A writer of `file`, which is empty.
    pub fn new(file: &'f File) -> WritebackWriter<'f> {
        WritebackWriter {
            file,
            written: 0,
            begun: 0,
        }
    }
}

impl Write for WritebackWriter<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let count = self.file.write(piece(bytes))?;
        self.written += count as u64;
        if self.written - self.begun >= STRETCH {
            // Only a hint: a pipe has no disk, and the sync tells what goes wrong.
            let _ = start_writeback(self.file.as_fd(), self.begun, self.written - self.begun);
            self.begun = self.written;
        }
        Ok(count)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// How much is handed to the disk at a time, in bytes.
const STRETCH: u64 = 8 << 20;

/// Refuses a place inside the directory `tree`, whichever way `path` leads there. To be asked
/// before anything is made: a temporary file would change the tree.
pub fn refuse_inside(path: &Path, tree: &OwnedFd) -> Result<(), Error> {
    if is_inside(path, tree.as_fd())? {
        Err(Error::InsideTree {
            path: path.to_owned(),
        })
    } else {
        Ok(())
    }
}

fn refuse_special(directory: &OwnedFd, name: &OsStr, path: &Path) -> Result<(), Error> {
    let kind = match statat(directory, name, AtFlags::SYMLINK_NOFOLLOW) {
        Ok(stat) => FileType::from_raw_mode(stat.st_mode),
        Err(Errno::NOENT) => return Ok(()),
        Err(error) => {
            return Err(FileError::new(path.as_os_str().as_bytes(), "look at it", error).into());
        }
    };
    let kind = match kind {
        // A rename replaces a symbolic link, whatever it points to.
        FileType::RegularFile | FileType::Symlink => return Ok(()),
        FileType::Directory => "directory",
        FileType::Fifo => "named pipe",
        FileType::Socket => "socket",
        _ => "device",
    };
    Err(Error::NotAFile {
        path: path.to_owned(),
        kind,
    })
}

/// Temporary names begin with this, so that a dot hides them from sbuild, which takes any `NAME.t*`
/// in its cache for a chroot.
fn temporary_prefix(name: &OsStr) -> Vec<u8> {
    let name = name.as_bytes();
    // A name may have 255 bytes; the rest is for the dots, the number and the ending.
    [b".", name.get(..200).unwrap_or(name), b"."].concat()
}

const TEMPORARY_SUFFIX: &[u8] = b".part";

fn create_temporary(directory: &OwnedFd, name: &OsStr) -> io::Result<(OsString, File)> {
    for attempt in 0u32.. {
        let mut temporary = temporary_prefix(name);
        temporary.extend_from_slice(format!("{}-{attempt}", std::process::id()).as_bytes());
        temporary.extend_from_slice(TEMPORARY_SUFFIX);
        let temporary = OsString::from_vec(temporary);
        let flags =
            OFlags::RDWR | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        match openat(directory, &temporary, flags, Mode::from_raw_mode(0o666)) {
            Ok(file) => {
                // The lock says that somebody still writes. Whoever had it for a moment took the
                // file for abandoned and has removed it.
                flock(&file, FlockOperation::LockExclusive)?;
                if fstat(&file)?.st_nlink > 0 {
                    return Ok((temporary, File::from(file)));
                }
            }
            Err(Errno::EXIST) => {}
            Err(error) => return Err(error.into()),
        }
    }
    Err(io::ErrorKind::AlreadyExists.into())
}

/// Removes the temporary files of runs that were killed: those that nobody has locked.
fn remove_abandoned(directory: &OwnedFd, name: &OsStr) -> io::Result<()> {
    let prefix = temporary_prefix(name);
    for entry in Dir::read_from(directory)? {
        let entry = entry?;
        let found = entry.file_name().to_bytes();
        let numbers = found
            .strip_prefix(prefix.as_slice())
            .and_then(|rest| rest.strip_suffix(TEMPORARY_SUFFIX));
        if !numbers.is_some_and(|numbers| {
            numbers
                .iter()
                .all(|byte| byte.is_ascii_digit() || *byte == b'-')
        }) {
            continue;
        }
        let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
        let Ok(file) = openat(directory, entry.file_name(), flags, Mode::empty()) else {
            continue;
        };
        if flock(file.as_fd(), FlockOperation::NonBlockingLockExclusive).is_ok() {
            match unlinkat(directory, entry.file_name(), AtFlags::empty()) {
                Ok(()) | Err(Errno::NOENT) => {}
                Err(error) => return Err(error.into()),
            }
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use std::fs;

    use super::*;

    fn names(directory: &Path) -> Vec<String> {
        let mut names: Vec<_> = fs::read_dir(directory)
            .unwrap()
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .collect();
        names.sort();
        names
    }

    #[test]
    fn nothing_stands_there_before_it_is_published() {
        let scratch = tempfile::tempdir().unwrap();
        let path = scratch.path().join("schroot.tar.zst");
        fs::write(&path, "old").unwrap();
        let mut output = Output::create(&path).unwrap();
        output.file().write_all(b"new").unwrap();
        assert_eq!(fs::read(&path).unwrap(), b"old");
        output.publish().unwrap();
        drop(output);
        assert_eq!(fs::read(&path).unwrap(), b"new");
        assert_eq!(names(scratch.path()), ["schroot.tar.zst"]);
    }

    #[test]
    fn an_output_that_is_given_up_leaves_nothing() {
        let scratch = tempfile::tempdir().unwrap();
        drop(Output::create(&scratch.path().join("a")).unwrap());
        assert!(names(scratch.path()).is_empty());
    }

    #[test]
    fn the_next_run_removes_what_a_killed_one_left_but_not_what_another_writes() {
        let scratch = tempfile::tempdir().unwrap();
        let path = scratch.path().join("a");
        for name in [".a.1-0.part", ".a.b.part", ".ab.1-0.part"] {
            fs::write(scratch.path().join(name), "x").unwrap();
        }
        let other = Output::create(&path).unwrap();
        let mine = Output::create(&path).unwrap();
        let left = names(scratch.path());
        assert!(!left.contains(&".a.1-0.part".to_owned()), "{left:?}");
        assert_eq!(left.len(), 4, "{left:?}");
        drop((other, mine));
        assert_eq!(names(scratch.path()), [".a.b.part", ".ab.1-0.part"]);
    }

    #[test]
    fn directories_and_nameless_paths_are_refused() {
        let scratch = tempfile::tempdir().unwrap();
        fs::create_dir(scratch.path().join("d")).unwrap();
        assert!(matches!(
            Output::create(&scratch.path().join("d")),
            Err(Error::NotAFile {
                kind: "directory",
                ..
            })
        ));
        assert!(matches!(
            Output::create(&scratch.path().join("x/")),
            Err(Error::NoName(_))
        ));
        assert!(matches!(
            Output::create(Path::new("/")),
            Err(Error::NoName(_))
        ));
        assert!(matches!(
            Output::create(Path::new("/dev/null")),
            Err(Error::NotAFile { kind: "device", .. })
        ));
    }

    #[test]
    fn two_outputs_for_one_place_are_told_apart_from_neighbours() {
        let scratch = tempfile::tempdir().unwrap();
        fs::create_dir(scratch.path().join("d")).unwrap();
        let first = Output::create(&scratch.path().join("a")).unwrap();
        for (path, same) in [("a", true), ("d/../a", true), ("b", false), ("d/a", false)] {
            let other = Output::create(&scratch.path().join(path)).unwrap();
            assert_eq!(first.is_place_of(&other).unwrap(), same, "{path}");
        }
    }
}
