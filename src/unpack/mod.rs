//! Unpacking a tar stream into a directory, and nowhere else.
//!
//! ```text
//! input: decodes ahead ──> reader: members in archive order ──> this thread: names ──> workers: data, attributes, close
//!                                                                  │
//!                                                                  └─> directories: held open, attributes at the end
//! ```
//!
//! One thread creates, replaces and links names in archive order. Workers do the slow work, which
//! needs no order, through descriptors. Every name is created in an open directory that was reached
//! from the root without following a symbolic link, never through a path.

mod attributes;
mod directories;
mod error;
mod extract;
pub mod names;
mod refusal;
mod root;
mod undo_journal;
mod workers;

use serde::{Deserialize, Serialize};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::atomic::Ordering;
use std::thread;

use rustix::fs::{Dir, FsWord, Mode, OFlags, fchmod, fchown, fstat, fstatfs, fstatvfs, openat};
use rustix::process::{Gid, Resource, Rlimit, Uid, getegid, geteuid, getrlimit, setrlimit, umask};

use crate::allowance::Allowance;
use crate::archive::reader::{Event, Limits, Reader};
use crate::error::{FileError, PathContext};
use crate::ids::IdMaps;
use crate::input::Input;
use crate::members::Members;
use crate::parallel;
use crate::progress::Progress;
use crate::tree::exclude::Patterns;
use crate::tree::selection::Selection;
use crate::workdir::removal;
use attributes::{Attributes, Own};
use directories::Directories;
pub use error::{Error, Refusal};
use extract::Extractor;
pub use refusal::refusal;
pub use undo_journal::UndoJournal;
use workers::{Batch, Queue};

/// Handling of device nodes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Devices {
    /// Skip them, and hard links to them.
    Skip,
    /// Create them, which only real root is permitted to.
    Create,
}

/// State of the target directory before unpacking.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TargetState {
    /// Newly created.
    New,
    /// Existing; must be empty.
    Empty,
    /// Existing, with files that the archive may replace.
    Tree,
}

/// Which extended attributes and ACLs are restored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Xattrs {
    /// All that a user namespace can restore.
    All,
    /// All but those of overlay file systems (`user.overlay.*`), for the lower directory of one.
    AllButOverlays,
    /// None.
    None,
}

/// Options of unpacking.
#[derive(Clone, Debug)]
pub struct Options {
    /// The selected members.
    pub selection: Selection,
    /// Excluded members, with everything below them.
    pub exclude: Patterns,
    /// Changes of names.
    pub names: names::Rules,
    /// Handling of device nodes.
    pub devices: Devices,
    /// Follow symbolic links to directories of the tree.
    pub keep_directory_symlink: bool,
    /// Which extended attributes and ACLs are restored.
    pub xattrs: Xattrs,
    /// Number of writing threads, at least 1.
    pub threads: usize,
    /// Memory for data that waits to be written, in bytes.
    pub memory: u64,
    /// Memory for what must be remembered about members: the attributes of directories, which are
    /// set at the end, and what hard links may lead to.
    pub allowance: Allowance,
    /// Maximum length of the tar stream, in bytes.
    pub limit_size: Option<u64>,
    /// Maximum number of members.
    pub limit_members: Option<u64>,
    /// The id maps, which have the ids that files can have.
    pub maps: IdMaps,
    /// State of the target directory before unpacking.
    pub found: TargetState,
}

/// Summary of an unpacking.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Summary {
    /// The unpacked members.
    pub members: Members,
    /// Bytes of data in them.
    pub data_bytes: u64,
    /// Bytes of the tar stream.
    pub tar_bytes: u64,
    /// Members that were not selected, or excluded.
    pub left_out: u64,
    /// Skipped device nodes and hard links to them.
    pub skipped_devices: u64,
    /// Extended attributes that were not restored.
    pub skipped_xattrs: u64,
    /// Members of an unknown type, which were unpacked as regular files.
    pub unknown_types: u64,
    /// Files that are setuid with owner 0 or setgid with group 0, as numbered in the tree.
    pub setuid_root: u64,
}

/// Maximum number of open directories.
const MAX_DIRECTORIES: usize = 32 << 10;

/// A checked target directory.
pub struct Unpacking<'a> {
    root: OwnedFd,
    options: &'a Options,
}

impl<'a> Unpacking<'a> {
    /// Checks the directory `root` (open in any mode) before changing anything: whether it is
    /// empty, and whether the file system has room for the content of the archive.
    ///
    /// `stream` is the length of the tar stream, if known. Headers take much of it where files are
    /// small, so if it does not fit, `content` is asked for the bytes of data alone.
    pub fn prepare<E: From<Error>>(
        root: BorrowedFd<'_>,
        stream: Option<u64>,
        content: impl FnOnce() -> Result<u64, E>,
        options: &'a Options,
    ) -> Result<Unpacking<'a>, E> {
        let root = reopen(root).map_err(Error::from)?;
        if options.found != TargetState::Tree {
            must_be_empty(root.as_fd())?;
        }
        if options.selection.is_everything()
            && options.exclude.is_empty()
            && let Some(free) = lacks_space(root.as_fd(), stream, options)?
        {
            let needed = content()?;
            if needed > free {
                return Err(Error::Space { needed, free }.into());
            }
        }
        Ok(Unpacking { root, options })
    }

    /// Unpacks `input`. With [`TargetState::Tree`] and `made`, notes new files there. After an
    /// error call [`undo`], in this process or another.
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
    raise_open_file_limit();
    let descriptors = parallel::descriptors();
    let queue = Queue::new(options.threads.max(1), options.memory, descriptors / 2);
    let max_open = descriptors
        .saturating_sub(queue.max_open())
        .clamp(2, MAX_DIRECTORIES);
    let mut directories = Directories::new(root, own, max_open, options, made)?;
    if options.found == TargetState::New {
        directories.describe_root(Attributes::of_implied_directory(own));
    }
    let extracted = thread::scope(|scope| {
        for number in 0..options.threads.max(1) {
            match parallel::spawn(scope, || queue.work(own)) {
                Err(error) if number == 0 => return Err(error.into()),
                // With fewer threads it takes longer.
                Err(_) => break,
                Ok(_) => {}
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
    // The error of a worker is the cause of the others.
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
                // The reader has just consumed these bytes, so they end where the rest begins.
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
        progress.done().store(input.consumed(), Ordering::Relaxed);
        extractor.flush()?;
    }
    reader.finish()?;
    let (mut summary, directories) = extractor.finish()?;
    summary.tar_bytes = reader.offset();
    Ok((summary, directories))
}

/// Owner and mode of the target directory, which unpacking changes at its end.
#[derive(Clone, Copy, Debug)]
pub struct OriginalAttributes {
    /// The owner, as an id in this namespace; `None` if not mapped.
    pub uid: Option<u32>,
    /// The group, likewise.
    pub gid: Option<u32>,
    /// The permissions.
    pub mode: Mode,
}

impl OriginalAttributes {
    /// Reads the attributes of `root`.
    pub fn of(root: BorrowedFd<'_>) -> Result<OriginalAttributes, FileError> {
        let stat = fstat(root).at(b"", "stat")?;
        Ok(OriginalAttributes {
            uid: Some(stat.st_uid),
            gid: Some(stat.st_gid),
            mode: Mode::from_raw_mode(stat.st_mode),
        })
    }

    /// Restores the owner and mode of `root`, if they have changed.
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

/// Removes the files that a failed unpacking has created in `root`: those noted in `made`, or
/// everything without `made`. Then restores the attributes in `before`.
pub fn undo(
    root: BorrowedFd<'_>,
    made: Option<&UndoJournal>,
    before: OriginalAttributes,
    threads: usize,
) -> Result<(), Error> {
    let options = removal::Options::all(threads);
    let root = reopen(root)?;
    match made {
        Some(made) => made.remove(root.as_fd(), &options)?,
        None => {
            directories::gather(root.as_fd());
            removal::contents(root.as_fd(), &options)?;
        }
    }
    Ok(before.restore(root.as_fd())?)
}

/// Opens the same directory for reading.
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

/// Checks the length of the tar stream against the limit. Returns the free space, in bytes, if the
/// stream is longer.
fn lacks_space(
    root: BorrowedFd<'_>,
    stream: Option<u64>,
    options: &Options,
) -> Result<Option<u64>, Error> {
    let Some(stream) = stream else {
        return Ok(None);
    };
    if let Some(limit) = options.limit_size.filter(|limit| stream > *limit) {
        return Err(Error::Size(limit));
    }
    let fs = fstatvfs(root).at(b"", "statfs")?;
    let free = fs.f_bfree.saturating_mul(fs.f_frsize);
    // A file system without block counts cannot tell.
    let fits =
        fs.f_blocks == 0 || stream <= free || may_compress(fstatfs(root).at(b"", "statfs")?.f_type);
    Ok((!fits).then_some(free))
}

/// True if a file system of this type (`f_type` of statfs(2)) may compress data, so that only a try
/// can tell whether it fits.
fn may_compress(kind: FsWord) -> bool {
    // From linux/magic.h, the last from OpenZFS.
    const BTRFS: u32 = 0x9123_683e;
    const F2FS: u32 = 0xf2f5_2010;
    const BCACHEFS: u32 = 0xca45_1a4e;
    const ZFS: u32 = 0x2fc1_2fc1;
    // With 32-bit words, some of these numbers are negative.
    [BTRFS, F2FS, BCACHEFS, ZFS].contains(&(kind as u32))
}

/// Raises the limit on open files as far as permitted.
fn raise_open_file_limit() {
    let limit = getrlimit(Resource::Nofile);
    let raised = Rlimit {
        current: limit.maximum,
        ..limit
    };
    // Without it, fewer files are open at a time.
    let _ = setrlimit(Resource::Nofile, raised);
}

/// Sets the umask to 0 while it exists, so that new files get the modes of the archive.
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
        // Values of `stat -f -c %t` for btrfs, f2fs, bcachefs, zfs; ext4, xfs, tmpfs, overlay.
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
