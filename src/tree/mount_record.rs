//! The record of the mount points that `chroot` has created in a tree.
//!
//! It is a file at the root of the tree. As long as it exists, the tree has mount points that are
//! not its own, and directories whose modification times changed with them. [`Added`] tells a walk
//! what to leave out and which times the tree itself has, so that an archive does not depend on
//! whether a command runs in the tree.
//!
//! Each entry ends with NUL:
//!
//! | entry | meaning |
//! |---|---|
//! | `d` PATH | a directory that is about to be created |
//! | `f` PATH | a file that is about to be created |
//! | `b` INODE SECONDS NANOSECONDS PATH | the modification time of a directory before a name was added |
//! | `a` INODE SECONDS NANOSECONDS PATH | the same after it was added |

use std::collections::{HashMap, HashSet};
use std::fs::File;
use std::io::Read;
use std::os::fd::{AsFd, BorrowedFd};

use rustix::fs::{FileType, Mode, OFlags, RawDir, openat};
use rustix::io::Errno;

use super::resolve::{open_in_root, parent_in_root};
use super::walk;
use crate::entry::Timestamp;
use crate::error::{FileError, PathContext};

/// Name of the record in the root of the tree.
pub const NAME: &str = ".isar-tarball-mount-points";

/// Largest record that a walk reads, in bytes.
const LARGEST: u64 = 1 << 20;

/// Type of a mount point.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// For directories.
    Directory,
    /// For everything else.
    File,
}

/// When the time of a directory was read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum When {
    /// Before a name was added.
    Before,
    /// After it.
    After,
}

/// The entry for a mount point.
pub fn point_entry(path: &[u8], kind: Kind) -> Vec<u8> {
    let letter: &[u8] = match kind {
        Kind::Directory => b"d",
        Kind::File => b"f",
    };
    [letter, path, b"\0"].concat()
}

/// The entry for the modification time of the directory at `path`.
pub fn time_entry(path: &[u8], inode: u64, mtime: Timestamp, when: When) -> Vec<u8> {
    let letter = match when {
        When::Before => 'b',
        When::After => 'a',
    };
    let Timestamp {
        seconds,
        nanoseconds,
    } = mtime;
    let front = format!("{letter}{inode} {seconds} {nanoseconds} ");
    [front.as_bytes(), path, b"\0"].concat()
}

/// The text of a record, decoded.
#[derive(Debug, Default)]
pub struct Record {
    /// The mount points in the order of their creation.
    pub points: Vec<(Vec<u8>, Kind)>,
    directories: HashMap<u64, Directory>,
}

/// A directory to which mount points were added.
#[derive(Debug)]
struct Directory {
    path: Vec<u8>,
    /// Its time without them.
    original: Timestamp,
    /// The times that it got with them.
    added: Vec<Timestamp>,
    /// How many mount points are being added, or were when a run was killed.
    unfinished: u32,
}

impl Record {
    /// Decodes a record. Ignores an unterminated last entry, which was not acted upon, and what it
    /// does not know.
    pub fn parse(text: &[u8]) -> Record {
        let mut record = Record::default();
        let end = text.iter().rposition(|byte| *byte == 0).unwrap_or(0);
        for entry in text.get(..end).unwrap_or_default().split(|byte| *byte == 0) {
            match entry.split_first() {
                Some((b'd', path)) => record.points.push((path.to_vec(), Kind::Directory)),
                Some((b'f', path)) => record.points.push((path.to_vec(), Kind::File)),
                Some((b'b', rest)) => record.add_time(rest, When::Before),
                Some((b'a', rest)) => record.add_time(rest, When::After),
                _ => {}
            }
        }
        record
    }

    fn add_time(&mut self, fields: &[u8], when: When) {
        let mut fields = fields.splitn(4, |byte| *byte == b' ');
        let mut number = || {
            std::str::from_utf8(fields.next()?)
                .ok()?
                .parse::<i128>()
                .ok()
        };
        let (inode, seconds, nanoseconds) = (number(), number(), number());
        let time = (|| {
            Some(Timestamp {
                seconds: i64::try_from(seconds?).ok()?,
                nanoseconds: u32::try_from(nanoseconds?).ok()?,
            })
        })();
        let inode = inode.and_then(|inode| u64::try_from(inode).ok());
        let (Some(inode), Some(time), Some(path)) = (inode, time, fields.next()) else {
            return;
        };
        let directory = self.directories.entry(inode).or_insert_with(|| Directory {
            path: path.to_vec(),
            original: time,
            added: Vec::new(),
            unfinished: 0,
        });
        match when {
            When::Before => {
                // Something else changed the directory since the last mount point.
                if directory.unfinished == 0 && !directory.added.contains(&time) {
                    directory.original = time;
                }
                directory.unfinished += 1;
            }
            When::After => {
                directory.added.push(time);
                directory.unfinished = directory.unfinished.saturating_sub(1);
            }
        }
    }

    /// The directories whose times changed: inode number and path.
    pub fn directories(&self) -> impl Iterator<Item = (u64, &[u8])> {
        self.directories
            .iter()
            .map(|(inode, directory)| (*inode, directory.path.as_slice()))
    }

    /// The modification time that the directory would have without the mount points, if it has
    /// `now` with them: that of the last change of something else.
    pub fn own_time(&self, inode: u64, now: Timestamp) -> Timestamp {
        match self.directories.get(&inode) {
            Some(directory) if directory.unfinished > 0 || directory.added.contains(&now) => {
                directory.original
            }
            _ => now,
        }
    }
}

/// A file by device and inode number.
type FileId = ((u32, u32), u64);

/// What mount points have added to a tree.
#[derive(Debug, Default)]
pub struct Added {
    files: HashSet<FileId>,
    times: HashMap<FileId, Timestamp>,
}

impl Added {
    /// Reads the record of the tree at `root`, open in any mode; nothing if it has none.
    pub fn read(root: BorrowedFd<'_>) -> Result<Added, FileError> {
        let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
        let file = match openat(root, NAME, flags, Mode::empty()) {
            // A link or device of this name is no record.
            Err(Errno::NOENT | Errno::LOOP | Errno::NXIO) => return Ok(Added::default()),
            opened => File::from(opened.at(NAME, "open")?),
        };
        if !file.metadata().at(NAME, "stat")?.is_file() {
            return Ok(Added::default());
        }
        let mut text = Vec::new();
        file.take(LARGEST).read_to_end(&mut text).at(NAME, "read")?;
        let record = Record::parse(&text);
        let mut added = Added::default();
        // What is in a directory was created after it.
        for (path, kind) in record.points.iter().rev() {
            if let Some(id) = added.removable(root, path, *kind) {
                added.files.insert(id);
            }
        }
        for (inode, path) in record.directories() {
            // A directory that is gone has no time.
            let flags = OFlags::PATH | OFlags::DIRECTORY;
            if let Ok(directory) = open_in_root(root, path, flags)
                && let Ok(stat) = walk::stat(directory.as_fd(), c"", path)
                && stat.stx_ino == inode
            {
                let now = Timestamp {
                    seconds: stat.stx_mtime.tv_sec,
                    nanoseconds: stat.stx_mtime.tv_nsec,
                };
                let own = record.own_time(inode, now);
                added
                    .times
                    .insert(((stat.stx_dev_major, stat.stx_dev_minor), inode), own);
            }
        }
        Ok(added)
    }

    /// The id of a mount point that has nothing in it but other mount points; `None` if there is
    /// more, or it is gone.
    fn removable(&self, root: BorrowedFd<'_>, path: &[u8], kind: Kind) -> Option<FileId> {
        let (above, name) = parent_in_root(root, path).ok()?;
        let stat = walk::stat(above.as_fd(), &name, path).ok()?;
        let id = ((stat.stx_dev_major, stat.stx_dev_minor), stat.stx_ino);
        match (kind, FileType::from_raw_mode(stat.stx_mode.into())) {
            (Kind::File, FileType::RegularFile) => (stat.stx_size == 0).then_some(id),
            (Kind::Directory, FileType::Directory) => {
                let flags = OFlags::RDONLY | OFlags::DIRECTORY;
                let directory = walk::open(above.as_fd(), name.to_bytes(), flags).ok()?;
                let mut buffer = Vec::with_capacity(4 << 10);
                let mut entries = RawDir::new(&directory, buffer.spare_capacity_mut());
                while let Some(entry) = entries.next() {
                    let entry = entry.ok()?;
                    if matches!(entry.file_name().to_bytes(), b"." | b"..") {
                        continue;
                    }
                    let stat = walk::stat(directory.as_fd(), entry.file_name(), path).ok()?;
                    let id = ((stat.stx_dev_major, stat.stx_dev_minor), stat.stx_ino);
                    if !self.files.contains(&id) {
                        return None;
                    }
                }
                Some(id)
            }
            _ => None,
        }
    }

    /// True if the file is a mount point and not part of the tree.
    pub fn contains(&self, device: (u32, u32), inode: u64) -> bool {
        self.files.contains(&(device, inode))
    }

    /// The modification time of a directory without the mount points in it; `None` if none was
    /// added there.
    pub fn own_time(&self, device: (u32, u32), inode: u64) -> Option<Timestamp> {
        self.times.get(&(device, inode)).copied()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(seconds: i64) -> Timestamp {
        Timestamp {
            seconds,
            nanoseconds: 5,
        }
    }

    #[test]
    fn a_directory_keeps_the_time_of_the_last_change_of_something_else() {
        let entries = |times: &[(When, i64)]| -> Vec<u8> {
            times
                .iter()
                .flat_map(|(when, time)| time_entry(b"mnt", 7, at(*time), *when))
                .collect()
        };
        use When::{After, Before};
        for (times, now, own) in [
            (&[(Before, 1), (After, 2)][..], 2, 1),
            (&[(Before, 1), (After, 2), (Before, 2), (After, 3)], 3, 1),
            // A command has changed the directory: before the second mount point, or after it.
            (&[(Before, 1), (After, 2), (Before, 9), (After, 10)], 10, 9),
            (&[(Before, 1), (After, 2)], 9, 9),
            // Two commands at once.
            (&[(Before, 1), (Before, 1), (After, 2), (After, 3)], 3, 1),
            (&[(Before, -1), (After, 2)], 2, -1),
            // Killed while it added a mount point, and another one added after that.
            (&[(Before, 1)], 2, 1),
            (&[(Before, 1), (Before, 2), (After, 3)], 3, 1),
        ] {
            let record = Record::parse(&entries(times));
            assert_eq!(record.own_time(7, at(now)), at(own), "{times:?}");
            assert_eq!(record.own_time(8, at(now)), at(now));
        }
    }

    #[test]
    fn an_entry_that_is_cut_off_or_unknown_is_ignored() {
        let text = [
            point_entry(b"mnt", Kind::Directory),
            b"x?\0b1 2\0b1 2 3\0a-1 2 3 p\0b99999999999999999999 1 1 p\0".to_vec(),
            point_entry(b"mnt/a b\nc", Kind::File),
            b"d/cut".to_vec(),
        ]
        .concat();
        let record = Record::parse(&text);
        assert_eq!(
            record.points,
            [
                (b"mnt".to_vec(), Kind::Directory),
                (b"mnt/a b\nc".to_vec(), Kind::File)
            ]
        );
        assert_eq!(record.directories().count(), 0);
        for text in [&b""[..], b"\0", b"d"] {
            assert!(Record::parse(text).points.is_empty());
        }
    }
}
