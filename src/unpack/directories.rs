//! The directories of the tree: kept open while files are created in them, with their attributes
//! set at the end.

mod links;

use std::collections::HashMap;
use std::fs;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;
use std::sync::Arc;

use rustix::fs::{
    AtFlags, FileType, IFlags, Mode, fgetxattr_query, fstat, fstatfs, ioctl_getflags,
    ioctl_setflags, major, minor, mkdirat, unlinkat,
};
use rustix::io::Errno;

use super::Options;
use super::attributes::{Attributes, DEFAULT_ACL, Handle, Own};
use super::error::{Error, Refusal};
use super::names::split;
use super::root::{self, Identity, Root};
use super::undo_journal::UndoJournal;
use crate::allowance::Allowance;
use crate::error::{FileError, PathContext};

/// `EXT4_SUPER_MAGIC` of `linux/magic.h`, which ext2 and ext3 share.
const EXT4: rustix::fs::FsWord = 0xef53;

/// The mode of a directory while files are created in it: no access for other users.
const UNFINISHED: u32 = 0o700;

/// Index of a directory.
pub type Id = usize;

/// Memory for a directory in addition to its path and attributes, in bytes: its entries in the table
/// and in the map. Both may be half empty, and need twice as much while they grow.
const PER_DIRECTORY: usize = 2 * size_of::<Directory>() + PER_PATH;

/// Memory for a path in the map in addition to its bytes.
const PER_PATH: usize = 128;

struct Directory {
    path: Arc<[u8]>,
    /// `None` while it is closed. Always set for the root, whose descriptor is the caller's.
    descriptor: Option<OwnedFd>,
    identity: Identity,
    /// Attributes to set at the end.
    attributes: Option<Box<Attributes>>,
    /// True if it is new.
    is_new: bool,
    /// True if new files inherit a group or an ACL from it.
    passes_on: bool,
    /// True if ext4 spreads its subdirectories until the end.
    is_spread: bool,
    /// True if a file has replaced it.
    is_gone: bool,
}

/// The directories that contain members.
pub struct Directories<'a> {
    root: Root<'a>,
    table: Vec<Directory>,
    ids: HashMap<Arc<[u8]>, Id>,
    last: Id,
    open: usize,
    max_open: usize,
    own: Own,
    spreads: bool,
    /// Symbolic links to directories of the tree are followed. Then `ids` also has paths through
    /// them.
    follows: bool,
    /// True if `ids` has a path through a link.
    has_followed: bool,
    made: Option<&'a UndoJournal>,
    allowance: &'a Allowance,
}

impl<'a> Directories<'a> {
    /// Index of the root.
    pub const ROOT: Id = 0;

    /// The directories below `root`, which is open for reading. Keeps at most `max_open` of them
    /// open. With `made`, existing files survive a failure, and new ones are noted.
    pub fn new(
        root: BorrowedFd<'a>,
        own: Own,
        max_open: usize,
        options: &'a Options,
        made: Option<&'a UndoJournal>,
    ) -> Result<Directories<'a>, Error> {
        let spreads = has_no_journal(root);
        let mut all = Directories {
            root: Root::new(root),
            table: Vec::new(),
            ids: HashMap::new(),
            last: Directories::ROOT,
            open: 0,
            max_open: max_open.max(2),
            own,
            spreads,
            follows: options.keep_directory_symlink,
            has_followed: false,
            made,
            allowance: &options.allowance,
        };
        all.add(b"", None, false)?;
        Ok(all)
    }

    /// Returns an open descriptor of the directory.
    pub fn descriptor(&mut self, id: Id, member: &[u8]) -> Result<BorrowedFd<'_>, Error> {
        if id != Directories::ROOT && self.table[id].descriptor.is_none() {
            let path = Arc::clone(&self.table[id].path);
            let replaced = || {
                Error::refused(
                    member,
                    Refusal::Replaced {
                        path: path.to_vec(),
                    },
                )
            };
            let opened = match self.root.open_directory(&path) {
                Err(Errno::LOOP | Errno::NOTDIR | Errno::NOENT) => return Err(replaced()),
                opened => opened.at(&path, "open")?,
            };
            if root::identity(&root::stat(opened.as_fd(), b"").at(&path, "stat")?)
                != self.table[id].identity
            {
                return Err(replaced());
            }
            self.hold(id, opened);
        }
        Ok(self.opened(id))
    }

    /// Returns open descriptors of two directories.
    pub fn two_descriptors(
        &mut self,
        one: Id,
        other: Id,
        member: &[u8],
    ) -> Result<(BorrowedFd<'_>, BorrowedFd<'_>), Error> {
        // Opening the second may close the first; reopening the first does not close the second,
        // because at least two stay open.
        self.descriptor(one, member)?;
        self.descriptor(other, member)?;
        self.descriptor(one, member)?;
        Ok((self.opened(one), self.opened(other)))
    }

    fn opened(&self, id: Id) -> BorrowedFd<'_> {
        self.table[id]
            .descriptor
            .as_ref()
            .map_or(self.root.directory(), AsFd::as_fd)
    }

    fn hold(&mut self, id: Id, descriptor: OwnedFd) {
        if self.open >= self.max_open {
            self.table
                .iter_mut()
                .for_each(|directory| directory.descriptor = None);
            self.open = 0;
        }
        self.table[id].descriptor = Some(descriptor);
        self.open += 1;
    }

    /// True if new files inherit a group or an ACL from the directory.
    pub fn passes_on(&self, id: Id) -> bool {
        self.table[id].passes_on
    }

    /// Returns the directory at `path`. Creates it and those above it if missing.
    pub fn enter(&mut self, path: &[u8], member: &[u8]) -> Result<Id, Error> {
        if *self.table[self.last].path == *path {
            return Ok(self.last);
        }
        let mut known = path;
        let mut id = loop {
            match self.ids.get(known) {
                Some(id) => break *id,
                None => known = split(known).0,
            }
        };
        while known.len() < path.len() {
            let begin = if known.is_empty() { 0 } else { known.len() + 1 };
            let end = path[begin..]
                .iter()
                .position(|byte| *byte == b'/')
                .map_or(path.len(), |length| begin + length);
            known = &path[..end];
            id = self.make(id, known, member, false)?;
        }
        self.last = id;
        Ok(id)
    }

    /// Adds a directory member: creates it if missing, and sets `attributes` at the end.
    pub fn describe(
        &mut self,
        path: &[u8],
        attributes: Attributes,
        member: &[u8],
    ) -> Result<(), Error> {
        let id = match self.ids.get(path) {
            Some(id) => *id,
            None => {
                let above = self.enter(split(path).0, member)?;
                self.make(above, path, member, true)?
            }
        };
        if self.is_through_link(path, id) {
            return Ok(());
        }
        let before = self.table[id].attributes.as_deref();
        let before = before.map_or(0, Attributes::bytes);
        self.allowance
            .take(attributes.bytes().saturating_sub(before))?;
        self.table[id].attributes = Some(Box::new(attributes));
        Ok(())
    }

    /// Sets attributes for the root, for an archive without a member for it.
    pub fn describe_root(&mut self, attributes: Attributes) {
        self.table[Directories::ROOT].attributes = Some(Box::new(attributes));
    }

    /// Creates the directory at `path` in `above`, or uses the existing one. With `replaces`, it
    /// replaces a file.
    fn make_directory(
        &mut self,
        above: Id,
        path: &[u8],
        member: &[u8],
        replaces: bool,
    ) -> Result<Id, Error> {
        let (_, name) = split(path);
        self.note(above, path, member)?;
        let parent = self.descriptor(above, member)?;
        let is_new = match mkdirat(parent, name, Mode::from_raw_mode(UNFINISHED)) {
            Ok(()) => true,
            Err(Errno::EXIST) => match root::kind(parent, name).at(path, "stat")? {
                FileType::Directory => false,
                FileType::Symlink => {
                    return Err(Error::refused(
                        member,
                        Refusal::Symlink {
                            path: path.to_vec(),
                        },
                    ));
                }
                _ if replaces => {
                    unlinkat(parent, name, AtFlags::empty()).at(path, "replace")?;
                    mkdirat(parent, name, Mode::from_raw_mode(UNFINISHED))
                        .at(path, "create the directory")?;
                    true
                }
                _ => {
                    return Err(Error::refused(
                        member,
                        Refusal::NotADirectory {
                            path: path.to_vec(),
                        },
                    ));
                }
            },
            Err(error) => return Err(FileError::new(path, "create the directory", error).into()),
        };
        let descriptor = match root::open_directory_in(parent, name) {
            Err(Errno::LOOP | Errno::NOTDIR | Errno::NOENT) => {
                return Err(Error::refused(
                    member,
                    Refusal::Replaced {
                        path: path.to_vec(),
                    },
                ));
            }
            opened => opened.at(path, "open")?,
        };
        let inherited = is_new && self.table[above].passes_on;
        if inherited {
            let handle = Handle {
                file: descriptor.as_fd(),
                is_path: false,
                path,
                mode: None,
            };
            handle
                .reset(self.own, UNFINISHED)
                .at(path, "take away what it inherited")?;
        }
        let id = self.add(path, Some(descriptor), is_new)?;
        if is_new {
            let attributes = Attributes::of_implied_directory(self.own);
            self.allowance.take(attributes.bytes())?;
            self.table[id].attributes = Some(Box::new(attributes));
        }
        Ok(id)
    }

    fn add(&mut self, path: &[u8], descriptor: Option<OwnedFd>, is_new: bool) -> Result<Id, Error> {
        self.allowance.take(PER_DIRECTORY + path.len())?;
        let id = self.table.len();
        let file = descriptor
            .as_ref()
            .map_or(self.root.directory(), AsFd::as_fd);
        let stat = root::stat(file, b"").at(path, "stat")?;
        let path: Arc<[u8]> = path.into();
        let is_spread = self.spreads
            && (is_new || (id == Directories::ROOT && self.made.is_none()))
            && spread(file);
        self.table.push(Directory {
            path: Arc::clone(&path),
            descriptor: None,
            identity: root::identity(&stat),
            attributes: None,
            is_new,
            passes_on: !is_new && (stat.stx_mode & 0o2000 != 0 || has_default_acl(file)),
            is_spread,
            is_gone: false,
        });
        self.ids.insert(path, id);
        if let Some(descriptor) = descriptor {
            self.hold(id, descriptor);
        }
        Ok(id)
    }

    /// Notes that `path` is about to be created, unless it exists or its directory is new.
    pub fn note(&mut self, above: Id, path: &[u8], member: &[u8]) -> Result<(), Error> {
        let Some(made) = self.made.filter(|_| !self.table[above].is_new) else {
            return Ok(());
        };
        let parent = self.descriptor(above, member)?;
        match root::stat(parent, split(path).1) {
            Err(Errno::NOENT) => {
                // The list is read as a whole to undo.
                self.allowance.take(2 * (path.len() + 1))?;
                made.note(path).map_err(Error::Note)
            }
            _ => Ok(()),
        }
    }

    /// Removes an existing file at the path of a member that is not a directory.
    pub fn clear(&mut self, above: Id, path: &[u8], member: &[u8]) -> Result<(), Error> {
        let (_, name) = split(path);
        let parent = self.descriptor(above, member)?;
        let kind = root::kind(parent, name);
        match kind {
            Ok(FileType::Directory) => match unlinkat(parent, name, AtFlags::REMOVEDIR) {
                Err(Errno::NOTEMPTY | Errno::EXIST) => {
                    return Err(Error::refused(member, Refusal::DirectoryInPlace));
                }
                removed => removed.at(path, "replace")?,
            },
            Ok(_) => unlinkat(parent, name, AtFlags::empty()).at(path, "replace")?,
            Err(Errno::NOENT) => {}
            Err(error) => return Err(FileError::new(path, "stat", error).into()),
        }
        let may_be_on_the_way = matches!(kind, Ok(FileType::Directory | FileType::Symlink));
        if may_be_on_the_way && std::mem::take(&mut self.has_followed) {
            // Paths through links may lead elsewhere now.
            let table = &self.table;
            self.ids.retain(|path, id| *table[*id].path == **path);
            self.last = Directories::ROOT;
        }
        if let Some(id) = self.ids.remove(path) {
            self.open -= usize::from(self.table[id].descriptor.take().is_some());
            self.table[id].is_gone = true;
            self.last = Directories::ROOT;
        }
        Ok(())
    }

    /// Sets the attributes of all directories, those below before those above, because the mode of
    /// the latter may deny access.
    pub fn finish(mut self) -> Result<(), Error> {
        for id in (0..self.table.len()).rev() {
            if self.table[id].is_gone {
                continue;
            }
            let attributes = self.table[id].attributes.take();
            if attributes.is_none() && !self.table[id].is_spread {
                continue;
            }
            let path = Arc::clone(&self.table[id].path);
            let own = self.own;
            let Directory {
                is_new, is_spread, ..
            } = self.table[id];
            let mode = is_new.then_some(UNFINISHED);
            let file = self.descriptor(id, &path)?;
            if is_spread {
                gather(file);
            }
            if let Some(attributes) = attributes {
                attributes.apply(
                    Handle {
                        file,
                        is_path: false,
                        path: &path,
                        mode,
                    },
                    own,
                )?;
            }
        }
        Ok(())
    }
}

/// True for an ext4 without a journal, according to `journal_task` in sysfs. False if that file
/// cannot be read.
fn has_no_journal(directory: BorrowedFd<'_>) -> bool {
    let is_ext4 = fstatfs(directory).is_ok_and(|fs| fs.f_type == EXT4);
    let Some(device) = fstat(directory)
        .ok()
        .filter(|_| is_ext4)
        .map(|stat| stat.st_dev)
    else {
        return false;
    };
    let link = fs::read_link(format!(
        "/sys/dev/block/{}:{}",
        major(device),
        minor(device)
    ));
    let name = link
        .ok()
        .and_then(|link| link.file_name().map(ToOwned::to_owned));
    name.and_then(|name| {
        fs::read_to_string(Path::new("/sys/fs/ext4").join(name).join("journal_task")).ok()
    })
    .is_some_and(|task| task.trim() == "<none>")
}

/// Makes ext4 put each subdirectory, and so its files, into another block group, as it does in the
/// top directory.
///
/// Files are allocated near their directory. Without a journal, the kernel does not reuse the
/// inodes of removed files for a minute or more (`recently_deleted()` in `fs/ext4/ialloc.c`), and
/// skips all of them for every new file. New directories in other block groups avoid this. Errors
/// are ignored, because this is an optimisation.
fn spread(directory: BorrowedFd<'_>) -> bool {
    let set = |flags: IFlags| ioctl_setflags(directory, flags | IFlags::TOPDIR);
    match ioctl_getflags(directory) {
        Ok(flags) if !flags.contains(IFlags::TOPDIR) => set(flags).is_ok(),
        _ => false,
    }
}

/// Reverts [`spread`].
pub fn gather(directory: BorrowedFd<'_>) {
    if let Ok(flags) = ioctl_getflags(directory) {
        // The flag only affects directories that are created later.
        let _ = ioctl_setflags(directory, flags - IFlags::TOPDIR);
    }
}

fn has_default_acl(directory: BorrowedFd<'_>) -> bool {
    fgetxattr_query(directory, DEFAULT_ACL).is_ok_and(|length| length > 0)
}
