//! Counting what a removal would remove, with two open directories at a time.

use std::ffi::CString;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::fs::{FileType, OFlags, RawDir};
use rustix::io::Errno;

use super::{Error, Failed, NotOpened, Removed, open_below};
use crate::error::FileError;
use crate::tree::resolve::pieces;
use crate::tree::walk;

/// Counts everything below the directory `root` (open in any mode), but not the directory itself.
/// Goes on after an error.
pub fn count(root: BorrowedFd<'_>) -> Result<Removed, Failed> {
    let mut counter = Counter {
        root,
        removed: Removed::default(),
        failed: Failed::default(),
        waiting: vec![Vec::new()],
    };
    while let Some(path) = counter.waiting.pop() {
        if let Err(error) = counter.directory(&path) {
            counter.failed.add(error);
        }
    }
    match counter.failed.count {
        0 => Ok(counter.removed),
        _ => Err(counter.failed),
    }
}

struct Counter<'a> {
    root: BorrowedFd<'a>,
    removed: Removed,
    failed: Failed,
    /// Directories that are not counted yet, by their paths below the root.
    waiting: Vec<Vec<u8>>,
}

impl Counter<'_> {
    fn open(&self, path: &[u8]) -> Result<OwnedFd, NotOpened> {
        let path = if path.is_empty() { b"." } else { path };
        let (above, last) = pieces(path).map_err(NotOpened::Errno)?;
        let mut reached: Option<OwnedFd> = None;
        let open = |reached: &Option<OwnedFd>, piece: &[u8], access: OFlags| {
            let from = reached.as_ref().map_or(self.root, |above| above.as_fd());
            let piece = CString::new(piece).map_err(|_| NotOpened::Errno(Errno::INVAL))?;
            open_below(from, &piece, access)
        };
        for piece in above {
            reached = Some(open(&reached, piece, OFlags::PATH)?);
        }
        open(&reached, last, OFlags::RDONLY)
    }

    fn directory(&mut self, path: &[u8]) -> Result<(), Error> {
        let opened = self.open(path);
        let directory = opened.map_err(|error| error.at(path.to_vec(), "open"))?;
        if !path.is_empty() {
            self.removed.directories += 1;
        }
        let mut buffer = Vec::with_capacity(64 << 10);
        let mut entries = RawDir::new(&directory, buffer.spare_capacity_mut());
        while let Some(entry) = entries.next() {
            let entry = entry.map_err(|error| FileError::new(path, "list the directory", error))?;
            let name = entry.file_name();
            if matches!(name.to_bytes(), b"." | b"..") {
                continue;
            }
            let is_directory = match entry.file_type() {
                FileType::Directory => true,
                // Some file systems do not tell.
                FileType::Unknown => {
                    let stat = walk::stat(directory.as_fd(), name, path)?;
                    FileType::from_raw_mode(stat.stx_mode.into()) == FileType::Directory
                }
                _ => false,
            };
            if is_directory {
                let separator: &[u8] = if path.is_empty() { b"" } else { b"/" };
                self.waiting
                    .push([path, separator, name.to_bytes()].concat());
            } else {
                self.removed.files += 1;
            }
        }
        Ok(())
    }
}
