//! A tar stream into a directory, and nothing outside of it.
//!
//! ```text
//! input: decodes ahead ──> reader: members in archive order ──> this thread: names ──> workers: data, attributes, close
//!                                                                  │
//!                                                                  └─> directories: held open, attributes at the end
//! ```
//!
//! One thread makes, replaces and links names, in archive order; what takes time and has no order
//! is done by others, through descriptors. Every name is made in an open directory that was reached
//! beneath the root without following a link, and never through a path.

mod attributes;
mod digest;
mod directories;
mod error;
mod extract;
pub mod names;
mod root;
mod undo_journal;
mod workers;

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::atomic::Ordering;
use std::thread;

use rustix::fs::{Dir, FsWord, Mode, OFlags, fchmod, fchown, fstat, fstatfs, fstatvfs, openat};
use rustix::process::{Gid, Resource, Rlimit, Uid, getegid, geteuid, getrlimit, setrlimit, umask};

use crate::archive::reader::{Event, Limits, Reader};
use crate::error::{FileError, PathContext};
use crate::ids::IdMaps;
use crate::input::Input;
use crate::members::Members;
use crate::progress::Progress;
use crate::remove;
use crate::tree::exclude::Patterns;
use crate::tree::selection::Selection;
use attributes::{Attributes, Own};
pub use digest::{Hashed, sha256};
use directories::Directories;
pub use error::{CapabilityError, Error, Refusal};
use extract::Extractor;
pub use undo_journal::UndoJournal;
use workers::{Batch, Queue};

/// What to do with device nodes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Devices {
    /// Leave them out, and links to them.
    Skip,
    /// Make them, which only real root may.
    Create,
}

/// What DIR is like before.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TargetState {
    /// Just made for this.
    New,
    /// There, and to be empty.
    Empty,
    /// There, with files that the archive may replace.
    Tree,
}

/// What is unpacked, and how.
#[derive(Clone, Debug)]
pub struct Options {
    /// Which members.
    pub selection: Selection,
    /// Which not, with all below.
    pub exclude: Patterns,
    /// How names are changed.
    pub names: names::Rules,
    /// Device nodes.
    pub devices: Devices,
    /// Restore extended attributes and ACLs.
    pub xattrs: bool,
    /// Threads that write, at least 1.
    pub threads: usize,
    /// Bytes of data that may be held for them.
    pub memory: u64,
    /// The most bytes that the tar stream may have.
    pub limit_size: Option<u64>,
    /// The most members.
    pub limit_members: Option<u64>,
    /// The ids that files can have.
    pub maps: IdMaps,
    /// What DIR is like before.
    pub found: TargetState,
}

/// What was unpacked.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Summary {
    /// The members that were unpacked.
    pub members: Members,
    /// Bytes of data in them.
    pub data_bytes: u64,
    /// Bytes of the tar stream.
    pub tar_bytes: u64,
    /// Members that were not asked for, or excluded.
    pub left_out: u64,
    /// Device nodes, and links to them, that were not made.
    pub skipped_devices: u64,
    /// Extended attributes that were not restored.
    pub skipped_xattrs: u64,
    /// Files that run as id 0 of the tree, or as its group, for whoever starts them.
    pub setuid_root: u64,
}

/// Descriptors that are neither files nor directories being unpacked.
const OTHER_DESCRIPTORS: usize = 64;

/// More directories than this are not held open at a time.
const MAX_DIRECTORIES: usize = 32 << 10;

/// A directory that an archive may be unpacked into.
pub struct Unpacking<'a> {
    root: OwnedFd,
    options: &'a Options,
}

impl<'a> Unpacking<'a> {
    /// Looks at the directory `root` (open in any mode) before anything is changed: is it empty, is
    /// there room for the `content` bytes that the archive says it has?
    pub fn prepare(
        root: BorrowedFd<'_>,
        content: Option<u64>,
        options: &'a Options,
    ) -> Result<Unpacking<'a>, Error> {
        let root = reopen(root)?;
        if options.found != TargetState::Tree {
            must_be_empty(root.as_fd())?;
        }
        if options.selection.is_everything() && options.exclude.is_empty() {
            must_fit(root.as_fd(), content, options)?;
        }
        Ok(Unpacking { root, options })
    }

    /// Unpacks `input`. With [`TargetState::Tree`] and `made`, what is new is noted there. When this
    /// fails, call [`undo`], from this process or another.
    pub fn run(
        self,
        input: &mut Input,
        made: Option<&UndoJournal>,
        progress: &Progress,
    ) -> Result<Summary, Error> {
        let Unpacking { root, options } = self;
        unpack(
            input,
            root.as_fd(),
            options,
            made.filter(|_| options.found == TargetState::Tree),
            progress,
        )
    }
}

fn unpack(
    input: &mut Input,
    root: BorrowedFd<'_>,
    options: &Options,
    made: Option<&UndoJournal>,
    progress: &Progress,
) -> Result<Summary, Error> {
    let _umask = Umask::cleared();
    let own = Own {
        uid: geteuid().as_raw(),
        gid: getegid().as_raw(),
    };
    let max_open = open_file_limit()
        .saturating_sub(OTHER_DESCRIPTORS + workers::open_files(options.threads))
        .clamp(2, MAX_DIRECTORIES);
    let mut directories = Directories::new(root, own, max_open, made)?;
    if options.found == TargetState::New {
        directories.describe_root(Attributes::of_implied_directory(own));
    }
    let queue = Queue::new(options.memory);
    let extracted = thread::scope(|scope| {
        for number in 0..options.threads.max(1) {
            let started = thread::Builder::new().spawn_scoped(scope, || queue.work(own));
            if let Err(error) = started
                && number == 0
            {
                return Err(Error::Thread(error));
            }
        }
        let extractor = Extractor::new(options, own, directories, Batch::new(&queue));
        let extracted = extract(input, extractor, options, progress);
        match extracted {
            Ok(_) => queue.close(),
            Err(_) => queue.give_up(),
        }
        extracted
    });
    // A worker's error is the reason why the rest was given up.
    if let Some(error) = queue.take_error() {
        return Err(error);
    }
    let (summary, directories) = extracted?;
    directories.finish()?;
    Ok(summary)
}

fn extract<'a>(
    input: &mut Input,
    mut extractor: Extractor<'a>,
    options: &Options,
    progress: &Progress,
) -> Result<(Summary, Directories<'a>), Error> {
    let mut reader = Reader::new(Limits::default());
    while let Some(chunk) = input.next()? {
        let mut rest: &[u8] = &chunk;
        while let Some(event) = reader.next(&mut rest)? {
            match event {
                Event::Member(member) => extractor.member(member)?,
                // The reader has just taken these bytes, so they end where the rest begins.
                Event::Data(offset, data) => {
                    let end = chunk.len() - rest.len();
                    extractor.data(offset, &chunk, end - data.len()..end);
                }
                Event::MemberEnd => extractor.member_end()?,
            }
        }
        if let Some(limit) = options.limit_size.filter(|limit| reader.offset() > *limit) {
            return Err(Error::Size(limit));
        }
        progress.done.store(input.consumed(), Ordering::Relaxed);
        extractor.flush()?;
    }
    reader.finish()?;
    let (mut summary, directories) = extractor.finish()?;
    summary.tar_bytes = reader.offset();
    Ok((summary, directories))
}

/// Owner and mode of DIR, which an extraction changes at its end.
#[derive(Clone, Copy, Debug)]
pub struct OriginalAttributes {
    /// The owner, as an id of the place where the work is done; `None` when it has none there.
    pub uid: Option<u32>,
    /// The group, likewise.
    pub gid: Option<u32>,
    /// The permissions.
    pub mode: Mode,
}

impl OriginalAttributes {
    /// What `root` is like now.
    pub fn of(root: BorrowedFd<'_>) -> Result<OriginalAttributes, FileError> {
        let stat = fstat(root).at(b"", "read its attributes")?;
        Ok(OriginalAttributes {
            uid: Some(stat.st_uid),
            gid: Some(stat.st_gid),
            mode: Mode::from_raw_mode(stat.st_mode),
        })
    }

    /// Gives `root` its owner and its mode back, where they are others by now.
    fn restore(self, root: BorrowedFd<'_>) -> Result<(), FileError> {
        let now = OriginalAttributes::of(root)?;
        let uid = self.uid.filter(|_| self.uid != now.uid).map(Uid::from_raw);
        let gid = self.gid.filter(|_| self.gid != now.gid).map(Gid::from_raw);
        if uid.is_some() || gid.is_some() {
            fchown(root, uid, gid).at(b"", "give it its owner back")?;
        }
        if OriginalAttributes::of(root)?.mode != self.mode {
            fchmod(root, self.mode).at(b"", "give it its mode back")?;
        }
        Ok(())
    }
}

/// Removes from `root` what a failed extraction has made: what is noted in `made`, or without that
/// everything. Then it is as `before` says.
pub fn undo(
    root: BorrowedFd<'_>,
    made: Option<&UndoJournal>,
    before: OriginalAttributes,
    threads: usize,
) -> Result<(), Error> {
    let options = remove::Options {
        threads,
        dry_run: false,
        take_group: false,
    };
    let root = reopen(root)?;
    match made {
        Some(made) => made.remove(root.as_fd(), &options)?,
        None => {
            directories::gather(root.as_fd());
            remove::contents(root.as_fd(), &options)?;
        }
    }
    Ok(before.restore(root.as_fd())?)
}

/// The same directory, open for reading.
fn reopen(root: BorrowedFd<'_>) -> Result<OwnedFd, FileError> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    openat(root, c".", flags, Mode::empty()).at(b"", "open the directory")
}

fn must_be_empty(root: BorrowedFd<'_>) -> Result<(), Error> {
    for entry in Dir::read_from(root).at(b"", "list the directory")? {
        let entry = entry.at(b"", "list the directory")?;
        if !matches!(entry.file_name().to_bytes(), b"." | b"..") {
            return Err(Error::NotEmpty);
        }
    }
    Ok(())
}

/// Is there room for what the archive says that it holds, and is it allowed?
fn must_fit(root: BorrowedFd<'_>, content: Option<u64>, options: &Options) -> Result<(), Error> {
    let Some(needed) = content else { return Ok(()) };
    if let Some(limit) = options.limit_size.filter(|limit| needed > *limit) {
        return Err(Error::Size(limit));
    }
    let fs = fstatvfs(root).at(b"", "look at its file system")?;
    let free = fs.f_bfree.saturating_mul(fs.f_frsize);
    // A file system without blocks of its own does not tell.
    if fs.f_blocks == 0 || needed <= free {
        return Ok(());
    }
    let kind = fstatfs(root).at(b"", "look at its file system")?.f_type;
    if may_compress(kind) {
        Ok(())
    } else {
        Err(Error::Space { needed, free })
    }
}

/// Does a file system of this type (`f_type` of statfs(2)) store content in less room than it is
/// long? Then only trying tells whether it fits.
fn may_compress(kind: FsWord) -> bool {
    // From linux/magic.h, the last from OpenZFS.
    const BTRFS: u32 = 0x9123_683e;
    const F2FS: u32 = 0xf2f5_2010;
    const BCACHEFS: u32 = 0xca45_1a4e;
    const ZFS: u32 = 0x2fc1_2fc1;
    // Where a word has 32 bits, the upper ones of these numbers make it negative.
    [BTRFS, F2FS, BCACHEFS, ZFS].contains(&(kind as u32))
}

/// How many files this process may open, after raising the limit as far as it may.
fn open_file_limit() -> usize {
    let limit = getrlimit(Resource::Nofile);
    if limit.current < limit.maximum {
        let raised = Rlimit {
            current: limit.maximum,
            ..limit
        };
        if setrlimit(Resource::Nofile, raised).is_ok() {
            return limit.maximum.map_or(usize::MAX, |maximum| {
                usize::try_from(maximum).unwrap_or(usize::MAX)
            });
        }
    }
    limit.current.map_or(usize::MAX, |current| {
        usize::try_from(current).unwrap_or(usize::MAX)
    })
}

/// Modes are as the archive has them while this lives.
struct Umask(Mode);

impl Umask {
    fn cleared() -> Umask {
        Umask(umask(Mode::empty()))
    }
}

impl Drop for Umask {
    fn drop(&mut self) {
        umask(self.0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn file_systems_that_compress_are_known() {
        // As stat -f -c %t shows them: btrfs, f2fs, bcachefs, zfs; ext4, xfs, tmpfs, overlay.
        for (kind, compresses) in [
            (0x9123_683e_u32, true),
            (0xf2f5_2010, true),
            (0xca45_1a4e, true),
            (0x2fc1_2fc1, true),
            (0xef53, false),
            (0x5846_5342, false),
            (0x0102_1994, false),
            (0x794c_7630, false),
        ] {
            assert_eq!(may_compress(kind as FsWord), compresses, "{kind:x}");
        }
    }
}
