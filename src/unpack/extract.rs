//! Extraction of members into the tree.

use std::collections::HashSet;
use std::hash::{BuildHasher, RandomState};
use std::ops::Range;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;

use rustix::fs::{AtFlags, FileType, Mode, OFlags, linkat, makedev, mknodat, openat, symlinkat};
use rustix::io::Errno;

use super::attributes::{Attributes, Handle, Own};
use super::directories::{Directories, Id};
use super::error::{Error, Refusal};
use super::names::split;
use super::refusal::{link_target, must_be_directory};
use super::root;
use super::workers::{Batch, Job, OpenFile, Piece};
use super::{Devices, Options, Summary};
use crate::archive::reader::Member;
use crate::entry::Kind;
use crate::error::PathContext;
use crate::input::Chunk;
use crate::tree::selection::Selection;

/// Memory for a hash in a set, in bytes: 9, and as much again in a set that is being enlarged.
const PER_HASH: usize = 32;

/// Extracts members in archive order.
pub struct Extractor<'a> {
    options: &'a Options,
    own: Own,
    directories: Directories<'a>,
    batch: Batch<'a>,
    selection: Selection,
    summary: Summary,
    /// Number of members read, including those left out.
    read: u64,
    /// Hashes of the paths of all members except directories. The hash has a random key, so no
    /// archive can be made to contain colliding paths.
    unpacked: HashSet<u64>,
    hasher: RandomState,
    /// Hashes of the paths of skipped device nodes, likewise.
    skipped_devices: HashSet<u64>,
    /// The file whose data is being read, if it is selected.
    current: Option<Job>,
}

/// A member that is not a directory, with its destination.
struct Placed<'m> {
    member: &'m [u8],
    path: &'m [u8],
    above: Id,
}

impl<'a> Extractor<'a> {
    /// An extractor into the tree of `directories`.
    pub fn new(
        options: &'a Options,
        own: Own,
        directories: Directories<'a>,
        batch: Batch<'a>,
    ) -> Extractor<'a> {
        Extractor {
            options,
            own,
            directories,
            batch,
            selection: options.selection.clone(),
            summary: Summary::default(),
            read: 0,
            unpacked: HashSet::new(),
            hasher: RandomState::new(),
            skipped_devices: HashSet::new(),
            current: None,
        }
    }

    /// Begins a member.
    pub fn member(&mut self, member: Box<Member>) -> Result<(), Error> {
        self.summary.skipped_xattrs += member.global_attributes;
        let is_unknown = !member.has_known_type();
        let Member {
            mut entry, name, ..
        } = *member;
        let refused = |cause: Refusal| Error::refused(&name, cause);
        self.read += 1;
        if self
            .options
            .limit_members
            .is_some_and(|limit| self.read > limit)
        {
            return Err(Error::Members(
                self.options.limit_members.unwrap_or_default(),
            ));
        }
        let path = self
            .options
            .names
            .path(&entry.path)
            .map_err(|error| refused(Refusal::Name(error)))?;
        let Some(path) = path.filter(|path| self.is_wanted(path)) else {
            self.summary.left_out += 1;
            self.options
                .allowance
                .take(self.options.exclude.newly_kept())?;
            return Ok(());
        };
        if path.is_empty() {
            must_be_directory(&entry.kind).map_err(refused)?;
        }
        if let Kind::HardLink { target } = &entry.kind {
            let target = link_target(target, &self.options.names).map_err(refused)?;
            return self.hard_link(&path, &target, &name);
        }
        if entry.kind.is_device() && self.options.devices == Devices::Skip {
            return self.skip_device(&path);
        }
        self.summary.members.total += 1;
        self.summary.unknown_types += u64::from(is_unknown);
        let (attributes, skipped) =
            Attributes::of(&entry, &self.options.maps, self.options.xattrs).map_err(refused)?;
        self.summary.skipped_xattrs += skipped;
        if entry.kind == Kind::Directory {
            self.summary.members.directories += 1;
            return self.directories.describe(&path, attributes, &name);
        }
        self.summary.setuid_root += u64::from(attributes.is_setuid_root());
        let above = self.directories.enter(split(&path).0, &name)?;
        let path = self.directories.real(above, &path).into_owned();
        self.directories.note(above, &path, &name)?;
        let placed = Placed {
            member: &name,
            path: &path,
            above,
        };
        self.summary.members.add(&entry.kind);
        match std::mem::replace(&mut entry.kind, Kind::Fifo) {
            Kind::File { size, extents } => {
                let end = extents.as_ref().map(|extents| {
                    extents
                        .last()
                        .map_or(0, |last| last.offset.saturating_add(last.length))
                });
                self.file(
                    &placed,
                    attributes,
                    end.filter(|end| *end < size).map(|_| size),
                )?;
            }
            Kind::Symlink { target } => self.symlink(&placed, &target, &attributes)?,
            kind => self.special(&placed, &kind, &attributes)?,
        }
        self.note_unpacked(&path)
    }

    /// Remembers what hard links may lead to.
    fn note_unpacked(&mut self, path: &[u8]) -> Result<(), Error> {
        if self.unpacked.insert(self.hasher.hash_one(path)) {
            self.options.allowance.take(PER_HASH)?;
        }
        Ok(())
    }

    /// Skips a device node, or a hard link to one.
    fn skip_device(&mut self, path: &[u8]) -> Result<(), Error> {
        self.summary.skipped_devices += 1;
        if self.skipped_devices.insert(self.hasher.hash_one(path)) {
            self.options.allowance.take(PER_HASH)?;
        }
        Ok(())
    }

    fn is_wanted(&mut self, path: &[u8]) -> bool {
        self.selection.takes(path) && !self.options.exclude.leaves_out(path)
    }

    /// Adds data of the member: `bytes` of `chunk`, at `offset` of the file.
    pub fn data(&mut self, offset: u64, chunk: &Chunk, bytes: Range<usize>) {
        if let Some(job) = &mut self.current {
            self.summary.data_bytes += bytes.len() as u64;
            job.pieces.push(Piece {
                offset,
                chunk: chunk.clone(),
                bytes,
            });
        }
    }

    /// Ends the data of the member.
    pub fn member_end(&mut self) -> Result<(), Error> {
        match self.current.take() {
            Some(job) => self.batch.push(job),
            None => Ok(()),
        }
    }

    /// Queues the collected jobs. Call it before waiting for more input.
    pub fn flush(&mut self) -> Result<(), Error> {
        if let Some(job) = self.current.as_mut().filter(|job| !job.pieces.is_empty()) {
            let pieces = std::mem::take(&mut job.pieces);
            let file = Arc::clone(&job.file);
            self.batch.push(Job { file, pieces })?;
        }
        self.batch.flush()
    }

    /// Ends the extraction. The rest is done by the workers and in the directories.
    pub fn finish(mut self) -> Result<(Summary, Directories<'a>), Error> {
        self.flush()?;
        let missing = self.selection.missing();
        if missing.is_empty() {
            Ok((self.summary, self.directories))
        } else {
            Err(Error::NotFound(missing))
        }
    }

    /// Creates a file in the directory of `placed`, after removing an existing one.
    fn place<T>(
        &mut self,
        placed: &Placed<'_>,
        act: &'static str,
        make: impl Fn(BorrowedFd<'_>, &[u8]) -> Result<T, Errno>,
    ) -> Result<T, Error> {
        let (_, name) = split(placed.path);
        let made = match make(
            self.directories.descriptor(placed.above, placed.member)?,
            name,
        ) {
            Err(Errno::EXIST) => {
                self.directories
                    .clear(placed.above, placed.path, placed.member)?;
                make(
                    self.directories.descriptor(placed.above, placed.member)?,
                    name,
                )
            }
            made => made,
        };
        Ok(made.at(placed.path, act)?)
    }

    fn file(
        &mut self,
        placed: &Placed<'_>,
        attributes: Attributes,
        length: Option<u64>,
    ) -> Result<(), Error> {
        let flags =
            OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let mode = Mode::from_raw_mode(attributes.initial_mode());
        let file = self.place(placed, "create the file", |above, name| {
            openat(above, name, flags, mode)
        })?;
        let has_inherited = self.directories.passes_on(placed.above);
        let file = Arc::new(OpenFile {
            file,
            path: placed.path.into(),
            attributes,
            length,
            has_inherited,
        });
        self.current = Some(Job {
            file,
            pieces: Vec::new(),
        });
        Ok(())
    }

    fn symlink(
        &mut self,
        placed: &Placed<'_>,
        target: &[u8],
        attributes: &Attributes,
    ) -> Result<(), Error> {
        self.place(placed, "create the symbolic link", |above, name| {
            symlinkat(target, above, name)
        })?;
        let link = self.open_made(placed, FileType::Symlink)?;
        let mode = (!self.directories.passes_on(placed.above)).then_some(0o777);
        let handle = Handle {
            file: link.as_fd(),
            is_path: true,
            path: placed.path,
            mode,
        };
        Ok(attributes.apply_to_symlink(handle, self.own)?)
    }

    /// Creates a named pipe or a device.
    fn special(
        &mut self,
        placed: &Placed<'_>,
        kind: &Kind,
        attributes: &Attributes,
    ) -> Result<(), Error> {
        let (file_type, device) = match *kind {
            Kind::CharDevice { major, minor } => (FileType::CharacterDevice, makedev(major, minor)),
            Kind::BlockDevice { major, minor } => (FileType::BlockDevice, makedev(major, minor)),
            _ => (FileType::Fifo, 0),
        };
        let mode = attributes.initial_mode();
        let act = if file_type == FileType::Fifo {
            "create the named pipe"
        } else {
            "create the device"
        };
        self.place(placed, act, |above, name| {
            mknodat(above, name, file_type, Mode::from_raw_mode(mode), device)
        })?;
        let made = self.open_made(placed, file_type)?;
        let mode = (!self.directories.passes_on(placed.above)).then_some(mode);
        Ok(attributes.apply(
            Handle {
                file: made.as_fd(),
                is_path: true,
                path: placed.path,
                mode,
            },
            self.own,
        )?)
    }

    /// Opens a file that was just created by name, and checks that another process has not replaced
    /// it.
    fn open_made(&mut self, placed: &Placed<'_>, kind: FileType) -> Result<OwnedFd, Error> {
        let above = self.directories.descriptor(placed.above, placed.member)?;
        let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let made =
            openat(above, split(placed.path).1, flags, Mode::empty()).at(placed.path, "open")?;
        let stat = root::stat(made.as_fd(), b"").at(placed.path, "stat")?;
        if FileType::from_raw_mode(stat.stx_mode.into()) == kind && stat.stx_nlink == 1 {
            Ok(made)
        } else {
            Err(Error::refused(
                placed.member,
                Refusal::Replaced {
                    path: placed.path.to_vec(),
                },
            ))
        }
    }

    /// True if a member that is not a directory was unpacked to `path`.
    fn is_unpacked(&self, path: &[u8]) -> bool {
        self.unpacked.contains(&self.hasher.hash_one(path))
    }

    /// Creates a hard link to a file that was unpacked before. Does not follow a symbolic link.
    fn hard_link(&mut self, path: &[u8], target: &[u8], member: &[u8]) -> Result<(), Error> {
        let is_unpacked = self.is_unpacked(target);
        let is_device = self.skipped_devices.contains(&self.hasher.hash_one(target));
        if is_device && !is_unpacked {
            return self.skip_device(path);
        }
        let no_target = || {
            Error::refused(
                member,
                Refusal::Target {
                    target: target.to_vec(),
                },
            )
        };
        if !is_unpacked && !self.options.keep_directory_symlink {
            return Err(no_target());
        }
        let above = self.directories.enter(split(path).0, member)?;
        let target_above = self.directories.enter(split(target).0, member)?;
        let path = &*self.directories.real(above, path);
        let target = &*self.directories.real(target_above, target);
        if !self.is_unpacked(target) {
            return Err(no_target());
        }
        self.summary.members.total += 1;
        self.summary.members.hard_links += 1;
        if path == target {
            return Ok(());
        }
        self.directories.note(above, path, member)?;
        let (from, to) = (split(target).1, split(path).1);
        let link = |directories: &mut Directories<'_>| {
            let (target_above, above) = directories.two_descriptors(target_above, above, member)?;
            Ok::<_, Error>(linkat(target_above, from, above, to, AtFlags::empty()))
        };
        let linked = match link(&mut self.directories)? {
            Err(Errno::EXIST) => {
                self.directories.clear(above, path, member)?;
                link(&mut self.directories)?
            }
            linked => linked,
        };
        match linked {
            Err(Errno::NOENT) => return Err(no_target()),
            linked => linked.at(path, "create the hard link")?,
        }
        self.note_unpacked(path)
    }
}
