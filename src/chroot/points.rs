//! Missing mount points of a tree: created while processes work in the tree, and removed by the
//! last one.
//!
//! Each mount point is first recorded in a file at the top of the tree, with the modification time
//! of the directory that gets it (see [`mount_record`]). Every run holds a shared lock on this
//! file. A run that gets the exclusive lock is alone: it removes the recorded mount points and
//! restores the times. So a killed run leaves at most empty mount points and that file, which other
//! commands do not take for a part of the tree, and the next run removes both.

use std::fs::File;
use std::io::{Read, Seek, Write};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::fs::{
    AtFlags, FileType, Mode, OFlags, Timespec, Timestamps, UTIME_OMIT, fstat, futimens, mkdirat,
    openat, statat, unlinkat,
};
use rustix::io::Errno;

use crate::entry::Timestamp;
use crate::error::{FileError, PathContext};
use crate::tree::mount_record::{self, Record, When};
pub use crate::tree::mount_record::{Kind, NAME as RECORD};
use crate::tree::resolve::{open_in_root as open_in, parent_in_root as parent, split};
use crate::workdir::lock::{self, Mode as LockMode};

/// The mount points that a tree lacks.
pub struct MountPoints {
    root: OwnedFd,
    /// The record; `None` as long as no run has created a mount point.
    record: Option<File>,
}

impl MountPoints {
    /// For the directory `root`, open in any mode. Removes the mount points of killed runs, unless
    /// another run works there.
    pub fn new(root: OwnedFd) -> Result<MountPoints, FileError> {
        let mut points = MountPoints { root, record: None };
        if let Some(record) = points.open_record(OFlags::empty())? {
            points.record = Some(record);
            points.clear()?;
            // Other runs must not remove mount points that this run uses.
            points.record = points.open_record(OFlags::empty())?;
        }
        Ok(points)
    }

    /// Creates a mount point of this type at `path`, an absolute path within the tree, unless it
    /// exists.
    pub fn provide(&mut self, path: &[u8], kind: Kind) -> Result<(), FileError> {
        for (prefix, kind) in prefixes(path, kind)? {
            if is_missing(self.root.as_fd(), &prefix)? {
                self.begin_record()?;
                let (above, _) = split(&prefix);
                let (inode, before) = self.time(above)?;
                self.write_down(&mount_record::time_entry(
                    above,
                    inode,
                    before,
                    When::Before,
                ))?;
                self.write_down(&mount_record::point_entry(&prefix, kind))?;
                make(self.root.as_fd(), &prefix, kind)?;
                let (inode, after) = self.time(above)?;
                self.write_down(&mount_record::time_entry(above, inode, after, When::After))?;
            }
        }
        Ok(())
    }

    /// Creates the record, which itself changes the root of the tree.
    fn begin_record(&mut self) -> Result<(), FileError> {
        if self.record.is_some() {
            return Ok(());
        }
        let (inode, before) = self.time(b".")?;
        self.record = self.open_record(OFlags::CREATE)?;
        let (_, after) = self.time(b".")?;
        self.write_down(&mount_record::time_entry(b".", inode, before, When::Before))?;
        self.write_down(&mount_record::time_entry(b".", inode, after, When::After))
    }

    /// Inode number and modification time of a directory of the tree.
    fn time(&self, path: &[u8]) -> Result<(u64, Timestamp), FileError> {
        let directory = open_in(self.root.as_fd(), path, OFlags::PATH | OFlags::DIRECTORY)
            .at(path, "open the directory")?;
        let stat = fstat(&directory).at(path, "stat")?;
        let mtime = Timestamp {
            seconds: stat.st_mtime,
            nanoseconds: stat.st_mtime_nsec as u32,
        };
        Ok((stat.st_ino, mtime))
    }

    fn write_down(&mut self, entry: &[u8]) -> Result<(), FileError> {
        match &mut self.record {
            Some(record) => record.write_all(entry).at(RECORD, "write"),
            None => Err(FileError::new(RECORD, "create", Errno::NOENT)),
        }
    }

    /// Opens the record and waits for a concurrent removal to finish; `None` if there is no record.
    fn open_record(&self, create: OFlags) -> Result<Option<File>, FileError> {
        let flags = OFlags::RDWR
            | OFlags::APPEND
            | OFlags::NOFOLLOW
            | OFlags::NONBLOCK
            | OFlags::CLOEXEC
            | create;
        let act = match create.contains(OFlags::CREATE) {
            true => "create",
            false => "open",
        };
        loop {
            let file = match openat(&self.root, RECORD, flags, Mode::from_raw_mode(0o600)) {
                Err(Errno::NOENT) => return Ok(None),
                opened => opened.at(RECORD, act)?,
            };
            lock::lock(&file, LockMode::Shared).at(RECORD, "lock")?;
            if fstat(&file).at(RECORD, "stat")?.st_nlink > 0 {
                return Ok(Some(file.into()));
            }
        }
    }

    /// Removes the recorded mount points, unless another run works in the tree.
    pub fn clear(&mut self) -> Result<(), FileError> {
        let Some(mut record) = self.record.take() else {
            return Ok(());
        };
        if !lock::try_lock(&record, LockMode::Exclusive).at(RECORD, "lock")? {
            return Ok(());
        }
        let mut text = Vec::new();
        record
            .rewind()
            .and_then(|()| record.read_to_end(&mut text))
            .at(RECORD, "read")?;
        let record = Record::parse(&text);
        // Removing mount points changes the times again.
        let times: Vec<(&[u8], u64, Timestamp)> = record
            .directories()
            .filter_map(|(inode, path)| match self.time(path) {
                Ok((found, now)) if found == inode => {
                    Some((path, inode, record.own_time(inode, now)))
                }
                _ => None,
            })
            .collect();
        for (path, kind) in record.points.iter().rev() {
            self.remove(path, *kind)?;
        }
        unlinkat(&self.root, RECORD, AtFlags::empty()).at(RECORD, "remove")?;
        times
            .into_iter()
            .try_for_each(|(path, inode, time)| self.set_time(path, inode, time))
    }

    /// Gives a directory its modification time, unless it is gone.
    fn set_time(&self, path: &[u8], inode: u64, time: Timestamp) -> Result<(), FileError> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY;
        let directory = match open_in(self.root.as_fd(), path, flags) {
            Err(Errno::NOENT | Errno::NOTDIR) => return Ok(()),
            opened => opened.at(path, "open the directory")?,
        };
        if fstat(&directory).at(path, "stat")?.st_ino != inode {
            return Ok(());
        }
        let times = Timestamps {
            last_access: Timespec {
                tv_sec: 0,
                tv_nsec: UTIME_OMIT,
            },
            last_modification: Timespec {
                tv_sec: time.seconds,
                tv_nsec: time.nanoseconds.into(),
            },
        };
        futimens(&directory, &times).at(path, "restore the time of the directory")
    }

    /// Keep mount points that are no longer empty.
    fn remove(&self, path: &[u8], kind: Kind) -> Result<(), FileError> {
        let Ok((parent, name)) = parent(self.root.as_fd(), path) else {
            return Ok(());
        };
        let flags = match (kind, statat(&parent, &name, AtFlags::SYMLINK_NOFOLLOW)) {
            (Kind::Directory, _) => AtFlags::REMOVEDIR,
            (Kind::File, Ok(file))
                if file.st_size == 0 && FileType::from_raw_mode(file.st_mode).is_file() =>
            {
                AtFlags::empty()
            }
            (Kind::File, _) => return Ok(()),
        };
        match unlinkat(&parent, &name, flags) {
            Err(Errno::NOENT | Errno::NOTEMPTY | Errno::NOTDIR) => Ok(()),
            removed => removed.at(path, "remove the mount point"),
        }
    }
}

/// [`MountPoints::provide`] on a temporary file system, without a record.
pub fn provide(root: BorrowedFd<'_>, path: &[u8], kind: Kind) -> Result<(), FileError> {
    for (prefix, kind) in prefixes(path, kind)? {
        if is_missing(root, &prefix)? {
            make(root, &prefix, kind)?;
        }
    }
    Ok(())
}

/// The parent directories of `path` and the path itself, relative to the root.
fn prefixes(path: &[u8], kind: Kind) -> Result<Vec<(Vec<u8>, Kind)>, FileError> {
    let names: Vec<&[u8]> = path
        .split(|byte| *byte == b'/')
        .filter(|name| !matches!(*name, b"" | b"."))
        .collect();
    if names.contains(&&b".."[..]) {
        return Err(FileError::new(
            path,
            "create the mount point: `..` in it",
            Errno::INVAL,
        ));
    }
    let prefix = |end: usize| names.get(..end).unwrap_or_default().join(&b'/');
    let kind_of = |end: usize| {
        if end == names.len() {
            kind
        } else {
            Kind::Directory
        }
    };
    Ok((1..=names.len())
        .map(|end| (prefix(end), kind_of(end)))
        .collect())
}

fn is_missing(root: BorrowedFd<'_>, path: &[u8]) -> Result<bool, FileError> {
    match open_in(root, path, OFlags::PATH) {
        Ok(_) => Ok(false),
        Err(Errno::NOENT) => Ok(true),
        Err(error) => Err(FileError::new(path, "find the mount point", error)),
    }
}

fn make(root: BorrowedFd<'_>, path: &[u8], kind: Kind) -> Result<(), FileError> {
    let (parent, name) = parent(root, path).at(path, "create the mount point")?;
    let made = match kind {
        Kind::Directory => mkdirat(&parent, &name, Mode::from_raw_mode(0o755)),
        Kind::File => {
            let flags =
                OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
            openat(&parent, &name, flags, Mode::from_raw_mode(0o644)).map(drop)
        }
    };
    match made {
        // Another run created it first.
        Err(Errno::EXIST) if open_in(root, path, OFlags::PATH).is_ok() => Ok(()),
        Err(Errno::EXIST) => Err(FileError::new(
            path,
            "create the mount point: it is a dangling symbolic link",
            Errno::EXIST,
        )),
        made => made.at(path, "create the mount point"),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use std::fs;
    use std::os::unix::fs::symlink;
    use std::path::Path;

    use super::*;

    fn points(root: &Path) -> MountPoints {
        MountPoints::new(File::open(root).unwrap().into()).unwrap()
    }

    fn names(root: &Path) -> Vec<String> {
        let mut names: Vec<_> = fs::read_dir(root)
            .unwrap()
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .collect();
        names.sort();
        names
    }

    #[test]
    fn what_is_missing_is_made_within_the_tree_and_taken_away_again() {
        let scratch = tempfile::tempdir().unwrap();
        let root = scratch.path().join("root");
        fs::create_dir_all(root.join("var")).unwrap();
        fs::create_dir_all(root.join("run")).unwrap();
        symlink("/run", root.join("var/run")).unwrap();
        symlink("../../..", root.join("out")).unwrap();
        let mut points = points(&root);
        points.provide(b"/var/run/a/b", Kind::Directory).unwrap();
        points.provide(b"out/c", Kind::File).unwrap();
        points.provide(b"/var", Kind::Directory).unwrap();
        assert!(root.join("run/a/b").is_dir() && root.join("c").is_file());
        points.clear().unwrap();
        assert_eq!(names(&root), ["out", "run", "var"]);
        assert_eq!(names(&root.join("run")), Vec::<String>::new());
        assert_eq!(names(scratch.path()), ["root"]);
    }

    #[test]
    fn links_to_nowhere_and_dots_are_refused() {
        let scratch = tempfile::tempdir().unwrap();
        symlink("missing", scratch.path().join("link")).unwrap();
        let mut points = points(scratch.path());
        let message = points
            .provide(b"/link", Kind::Directory)
            .unwrap_err()
            .to_string();
        assert!(message.contains("a dangling symbolic link"), "{message}");
        assert!(
            points
                .provide(b"/a/../b", Kind::Directory)
                .unwrap_err()
                .to_string()
                .contains("`..`")
        );
        points.clear().unwrap();
        assert_eq!(names(scratch.path()), ["link"]);
    }

    #[test]
    fn the_last_of_several_runs_takes_away_and_one_after_a_kill_too() {
        let scratch = tempfile::tempdir().unwrap();
        let mut one = points(scratch.path());
        one.provide(b"/a", Kind::Directory).unwrap();
        let mut other = points(scratch.path());
        other.provide(b"/a", Kind::Directory).unwrap();
        one.clear().unwrap();
        assert!(scratch.path().join("a").exists());
        other.clear().unwrap();
        assert!(names(scratch.path()).is_empty());
        let mut killed = points(scratch.path());
        killed.provide(b"/b/c", Kind::File).unwrap();
        drop(killed);
        assert_eq!(names(scratch.path()), [RECORD, "b"]);
        let mut next = points(scratch.path());
        assert!(names(scratch.path()).is_empty());
        next.clear().unwrap();
    }

    #[test]
    fn directories_get_their_times_back_unless_a_command_changed_them() {
        let scratch = tempfile::tempdir().unwrap();
        let old =
            std::time::SystemTime::UNIX_EPOCH + std::time::Duration::from_nanos(1_000_000_007);
        for directory in ["mnt", "opt", "srv"] {
            fs::create_dir(scratch.path().join(directory)).unwrap();
        }
        let set = |path: &str| {
            let directory = File::open(scratch.path().join(path)).unwrap();
            directory.set_modified(old).unwrap();
        };
        let time = |path: &str| {
            let found = fs::metadata(scratch.path().join(path)).unwrap();
            found.modified().unwrap()
        };
        ["mnt", "opt", "srv", "."].into_iter().for_each(set);
        let mut one = points(scratch.path());
        one.provide(b"/mnt/x/y", Kind::Directory).unwrap();
        let mut other = points(scratch.path());
        other.provide(b"/mnt/z", Kind::File).unwrap();
        other.provide(b"/opt/a", Kind::File).unwrap();
        std::thread::sleep(std::time::Duration::from_millis(20));
        fs::write(scratch.path().join("opt/new"), "x").unwrap();
        let changed = time("opt");
        one.clear().unwrap();
        assert_ne!(time("."), old);
        // A killed run: the next one clears.
        drop(other);
        points(scratch.path()).clear().unwrap();
        assert_eq!(names(scratch.path()), ["mnt", "opt", "srv"]);
        assert_eq!([time("mnt"), time("srv"), time(".")], [old; 3]);
        assert_eq!(time("opt"), changed);
    }

    #[test]
    fn what_was_filled_meanwhile_stays() {
        let scratch = tempfile::tempdir().unwrap();
        let mut points = points(scratch.path());
        points.provide(b"/d", Kind::Directory).unwrap();
        points.provide(b"/f", Kind::File).unwrap();
        fs::write(scratch.path().join("f"), "x").unwrap();
        fs::write(scratch.path().join("d/x"), "x").unwrap();
        points.clear().unwrap();
        assert_eq!(names(scratch.path()), ["d", "f"]);
    }
}
