//! Archives and trees that the caller names, opened; and how many threads work on them.

use std::fmt;
use std::fs::File;
use std::io;
use std::num::NonZeroUsize;
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};

use rustix::io::Errno;

use crate::error::{Classify, Error, ErrorKind, describe};
use crate::input;
use crate::parallel;
use crate::workdir::opening::open_path;
use crate::zst::SBUILD_WINDOW_LOG;

/// An archive by name, or a standard stream.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ArchivePath {
    /// A file.
    File(PathBuf),
    /// stdin where an archive is read, stdout where one is written.
    Stdio,
}

impl From<PathBuf> for ArchivePath {
    fn from(path: PathBuf) -> ArchivePath {
        ArchivePath::File(path)
    }
}

impl From<&str> for ArchivePath {
    fn from(path: &str) -> ArchivePath {
        ArchivePath::File(path.into())
    }
}

impl From<&Path> for ArchivePath {
    fn from(path: &Path) -> ArchivePath {
        ArchivePath::File(path.into())
    }
}

impl fmt::Display for ArchivePath {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            ArchivePath::File(path) => write!(out, "{path:?}"),
            ArchivePath::Stdio => write!(out, "{:?}", "-"),
        }
    }
}

impl ArchivePath {
    /// Opens it for reading, as the caller. The operation names the path with what it cannot do.
    pub(super) fn open(&self) -> Result<File, Error> {
        let file = match self {
            ArchivePath::Stdio => io::stdin().as_fd().try_clone_to_owned().map(File::from),
            ArchivePath::File(path) => File::open(path),
        };
        let file = file.map_err(|error| open_error("open", error))?;
        match file.metadata() {
            Ok(about) if about.is_dir() => Err(Error::new(
                ErrorKind::InvalidInput,
                "it is a directory, not an archive; pack it first",
            )),
            _ => Ok(file),
        }
    }
}

/// `act: cause`, for a path that the operation names itself.
pub(super) fn open_error(act: &'static str, cause: impl Into<io::Error>) -> Error {
    let cause: io::Error = cause.into();
    let kind = Classify::kind(&cause);
    Error::new(kind, format!("{act}: {}", describe(&cause)))
}

/// Opens a tree as the caller, who need not be able to read it.
pub(super) fn open_tree(rootfs: &Path) -> Result<OwnedFd, Error> {
    match open_path(rootfs) {
        Ok(root) => Ok(root),
        Err(Errno::NOTDIR) => Err(Error::new(
            ErrorKind::InvalidInput,
            "it is not a directory; unpack an archive first",
        )),
        Err(error) => Err(open_error("open the directory", error)),
    }
}

/// The number of threads to start where `count` are asked for: one for each processor that this
/// process may use, or fewer; 0 asks for all. Where few files may be open at a time it is less.
///
/// More would take turns on the same processors, each with memory of its own to touch: packing with
/// eight threads on two processors takes half as long again.
pub(super) fn threads(count: usize) -> usize {
    let available = std::thread::available_parallelism().map_or(1, NonZeroUsize::get);
    let available = available.min(parallel::most_threads());
    match count {
        0 => available,
        count => count.min(available),
    }
}

/// How an archive is read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Reading {
    /// Threads that decompress; 0 for one per CPU.
    pub threads: usize,
    /// Limit of memory, in bytes. [`Info`](super::Info) and [`List`](super::List) use it for
    /// decompressed data that waits to be processed.
    pub memory: u64,
    /// The widest zstd window to accept, as a power of two, from 10 to 31.
    pub window_log: u32,
}

impl Default for Reading {
    fn default() -> Reading {
        Reading {
            threads: 0,
            memory: 256 << 20,
            window_log: SBUILD_WINDOW_LOG,
        }
    }
}

impl Reading {
    pub(super) fn options(&self) -> input::Options {
        input::Options {
            threads: threads(self.threads),
            memory: self.memory,
            window_log: self.window_log,
            eager: true,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_more_threads_than_processors() {
        let all = threads(0);
        assert!(all >= 1);
        for (asked, started) in [(1, 1), (all, all), (all + 1, all), (usize::MAX, all)] {
            assert_eq!(threads(asked), started, "{asked}");
        }
    }
}
