//! Copies of archives, unpacked once and used by many runs.
//!
//! ```text
//! index                 see `index`
//! copies/SHA256/        locked (shared) by every run that uses it; its mtime is the last use
//!               tree/   the tree, never written to again
//!               size    bytes of data, in decimal
//! runs/…                see `run`; a copy is unpacked there, and renamed when it is finished
//! ```
//!
//! Who changes the index or the copies holds a lock on the whole. A run that finds its copy needs
//! none: the shared lock keeps the copy from being removed.

use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::{SystemTime, UNIX_EPOCH};

use rustix::fs::{
    AtFlags, FileType, FlockOperation, Mode, OFlags, Timespec, Timestamps, UTIME_NOW, flock, fstat,
    futimens, mkdirat, openat, renameat, syncfs, unlinkat,
};
use rustix::io::Errno;
use sha2::{Digest, Sha256};

use super::index::{self, Identity, is_digest};
use super::overlay::{self, Overlay};
use super::run::{Run, Runs, is_still};
use super::{Archive, Error, names, open, removal, try_lock};
use crate::error::{FileError, PathContext};
use crate::ids::IdMaps;
use crate::pack::hex;
use crate::{remove, unpack};

/// A cache.
pub struct Cache {
    directory: OwnedFd,
    copies: OwnedFd,
    runs: Runs,
}

/// A copy in use.
pub struct Copy {
    /// Holds the lock.
    _directory: OwnedFd,
    tree: OwnedFd,
}

/// Where the tree of a run comes from.
#[derive(Debug)]
pub enum Origin {
    /// The copy was there.
    Found,
    /// It was unpacked for this run and those to come.
    Unpacked,
    /// There is no overlay, for this reason, so the archive was unpacked for this run alone.
    NoOverlay(io::Error),
}

/// The tree of a run, with what it lies on.
pub struct Tree {
    run: Run,
    layered: Option<(Overlay, Copy)>,
    root: OwnedFd,
    /// Where it comes from.
    pub origin: Origin,
}

impl Tree {
    /// Its root, in this mount namespace.
    pub fn root(&self) -> BorrowedFd<'_> {
        self.root.as_fd()
    }
}

/// The name of a directory for trees of these maps: what is unpacked for others has other owners.
pub fn name(maps: &IdMaps) -> String {
    let text = format!("{}/{}", maps.uids.kernel_text(), maps.gids.kernel_text());
    let mut name = hex(&Sha256::digest(text).into());
    name.truncate(16);
    format!("ids-{name}")
}

impl Cache {
    /// Opens the cache in `directory` (open in any mode), which belongs to root of the place; what
    /// it lacks is made.
    pub fn open(directory: BorrowedFd<'_>) -> Result<Cache, FileError> {
        let directory = open(directory, b".").at("", "open the directory")?;
        let part = |name: &str| {
            match mkdirat(&directory, name, Mode::RWXU) {
                Ok(()) | Err(Errno::EXIST) => {}
                Err(error) => return Err(FileError::new(name, "make the directory", error)),
            }
            open(directory.as_fd(), name.as_bytes()).at(name, "open")
        };
        let (copies, runs) = (part("copies")?, part("runs")?);
        Ok(Cache {
            directory,
            copies,
            runs: Runs::new(runs),
        })
    }

    /// Removes what killed runs have left.
    pub fn clear_leftovers(&self, threads: usize) -> Result<(), Error> {
        self.runs.clear_leftovers(threads)
    }

    /// The tree of the archive for one run.
    pub fn tree(&self, archive: &Archive<'_>) -> Result<Tree, Error> {
        let run = self.runs.begin()?;
        match self.provide(archive, &run) {
            Ok((root, layered, origin)) => Ok(Tree {
                run,
                layered,
                root,
                origin,
            }),
            Err(error) => {
                // The first error is the one to tell of.
                let _ = self.runs.end(run, archive.options.threads);
                Err(error)
            }
        }
    }

    fn provide(&self, archive: &Archive<'_>, run: &Run) -> Result<Provided, Error> {
        let tree = run.make("tree")?;
        let alone = |cause| {
            archive.unpack(tree.as_fd())?;
            Ok((
                tree.try_clone().at("", "open once more")?,
                None,
                Origin::NoOverlay(cause),
            ))
        };
        let (copy, origin) = match self.find(archive.file)? {
            Some(copy) => (copy, Origin::Found),
            None => {
                // A copy that nothing can be laid over would be of no use.
                if let Err(cause) = overlay::probe(run.make("probe")?.as_fd()) {
                    return alone(cause);
                }
                self.fill(archive, run)?
            }
        };
        match Overlay::mount(copy.tree.as_fd(), run.directory()) {
            Ok(overlay) => {
                let root = overlay
                    .root()
                    .try_clone_to_owned()
                    .at("", "open once more")?;
                Ok((root, Some((overlay, copy)), origin))
            }
            Err(cause) => alone(cause),
        }
    }

    /// Removes what a run has left of its tree. Nothing of its mount namespace may be in use any
    /// more.
    pub fn end(&self, tree: Tree, threads: usize) -> Result<(), Error> {
        let Tree {
            run, layered, root, ..
        } = tree;
        drop(root);
        if let Some((overlay, _copy)) = layered {
            overlay.unmount()?;
        }
        self.runs.end(run, threads)
    }

    /// The copy of a file that is known, without reading the file.
    fn find(&self, file: &File) -> Result<Option<Copy>, Error> {
        match index::find(&self.index()?, &identity(file)?) {
            Some(digest) => self.use_copy(&digest),
            None => Ok(None),
        }
    }

    /// Opens a copy and keeps it from being removed.
    fn use_copy(&self, digest: &str) -> Result<Option<Copy>, Error> {
        let name = digest.as_bytes();
        loop {
            let directory = match open(self.copies.as_fd(), name) {
                Err(Errno::NOENT) => return Ok(None),
                opened => opened.at(name, "open")?,
            };
            // Whoever has it for itself is about to move it away.
            flock(&directory, FlockOperation::LockShared).at(name, "lock")?;
            if is_still(&self.copies, name, &directory)? {
                let now = Timespec {
                    tv_sec: 0,
                    tv_nsec: UTIME_NOW,
                };
                futimens(
                    &directory,
                    &Timestamps {
                        last_access: now,
                        last_modification: now,
                    },
                )
                .at(name, "touch")?;
                let tree = open(directory.as_fd(), b"tree").at(name, "open its tree")?;
                return Ok(Some(Copy {
                    _directory: directory,
                    tree,
                }));
            }
        }
    }

    /// Makes the copy, unless another run has made it meanwhile. The archive is hashed only when it
    /// has to be.
    fn fill(&self, archive: &Archive<'_>, run: &Run) -> Result<(Copy, Origin), Error> {
        let _lock = self.lock()?;
        if let Some(copy) = self.find(archive.file)? {
            return Ok((copy, Origin::Found));
        }
        let digest = self.identify(archive.file)?;
        if let Some(copy) = self.use_copy(&digest)? {
            return Ok((copy, Origin::Found));
        }
        self.unpack(archive, run, &digest)?;
        match self.use_copy(&digest)? {
            Some(copy) => Ok((copy, Origin::Unpacked)),
            None => Err(FileError::new(digest, "open", Errno::NOENT).into()),
        }
    }

    /// Waits until nobody else changes the index or the copies.
    fn lock(&self) -> Result<OwnedFd, FileError> {
        let lock = open(self.directory.as_fd(), b".").at("", "open the directory")?;
        flock(&lock, FlockOperation::LockExclusive).at("", "lock the directory")?;
        Ok(lock)
    }

    /// The SHA-256 of the file, and a line in the index for it.
    fn identify(&self, file: &File) -> Result<String, Error> {
        let before = identity(file)?;
        let index = self.index()?;
        if let Some(digest) = index::find(&index, &before) {
            return Ok(digest);
        }
        let now = SystemTime::now()
            .duration_since(UNIX_EPOCH)
            .map_or(0, |now| now.as_secs());
        let digest = unpack::sha256(file).map_err(Error::Archive)?;
        if identity(file)? != before {
            return Err(Error::Changed);
        }
        if before.is_settled(i64::try_from(now).unwrap_or(i64::MAX)) {
            // The copy of this digest is going to be there.
            let copies = names(&self.copies, "copies")?;
            let has_copy = |digest: &str| copies.iter().any(|name| name == digest.as_bytes());
            self.write_index(&index::with(&index, &before, &digest, has_copy))?;
        }
        Ok(hex(&digest))
    }

    fn unpack(&self, archive: &Archive<'_>, run: &Run, digest: &str) -> Result<(), Error> {
        let before = identity(archive.file)?;
        let copy = run.make("copy")?;
        mkdirat(&copy, "tree", Mode::RWXU).at("tree", "make the directory")?;
        let size = archive.unpack(open(copy.as_fd(), b"tree").at("tree", "open")?.as_fd())?;
        if identity(archive.file)? != before {
            return Err(Error::Changed);
        }
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::CLOEXEC;
        let file = openat(&copy, "size", flags, Mode::RUSR).at("size", "create")?;
        File::from(file)
            .write_all(size.to_string().as_bytes())
            .at("size", "write")?;
        // After a crash of the machine the name must not lead to a tree that never reached the
        // disk.
        syncfs(&copy).at("", "sync")?;
        Ok(renameat(run.directory(), "copy", &self.copies, digest)
            .at(digest, "rename the finished copy")?)
    }

    fn index(&self) -> Result<Vec<u8>, FileError> {
        let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let file = match openat(&self.directory, "index", flags, Mode::empty()) {
            Err(Errno::NOENT) => return Ok(Vec::new()),
            opened => opened.at("index", "open")?,
        };
        let mut text = Vec::new();
        File::from(file)
            .read_to_end(&mut text)
            .at("index", "read")?;
        Ok(text)
    }

    /// Under the lock. One that a killed run has begun is written anew.
    fn write_index(&self, text: &str) -> Result<(), FileError> {
        let flags =
            OFlags::WRONLY | OFlags::CREATE | OFlags::TRUNC | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let file = openat(&self.directory, "index.new", flags, Mode::RUSR | Mode::WUSR)
            .at("index.new", "create")?;
        File::from(file)
            .write_all(text.as_bytes())
            .at("index.new", "write")?;
        renameat(&self.directory, "index.new", &self.directory, "index").at("index", "replace")
    }

    /// Removes copies that no run uses, those first whose last use is the longest ago, until what
    /// is left is no more than `limit` bytes. `tree` has room for what is being removed. Gives how
    /// many went. While another run changes the copies, nothing is done.
    pub fn prune(&self, limit: u64, tree: &Tree, threads: usize) -> Result<usize, Error> {
        let lock = open(self.directory.as_fd(), b".").at("", "open the directory")?;
        if !try_lock(&lock, false).at("", "lock the directory")? {
            return Ok(0);
        }
        let mut copies = Vec::new();
        for name in names(&self.copies, "copies")? {
            if !std::str::from_utf8(&name).is_ok_and(is_digest) {
                continue;
            }
            let directory = open(self.copies.as_fd(), &name).at(&name, "open")?;
            let stat = fstat(&directory).at(&name, "look at it")?;
            copies.push((
                (stat.st_mtime, stat.st_mtime_nsec),
                size(&directory, &name)?,
                name,
                directory,
            ));
        }
        copies.sort_by_key(|(last_use, ..)| *last_use);
        let mut left = copies
            .iter()
            .fold(0, |sum: u64, (_, size, ..)| sum.saturating_add(*size));
        let mut removed = 0;
        for (_, size, name, directory) in copies {
            if left > limit && try_lock(&directory, false).at(&name, "lock")? {
                // From here on it is a part of this run, and a leftover if the run is killed.
                renameat(&self.copies, &name, tree.run.directory(), &name)
                    .at(&name, "move away")?;
                remove::contents(directory.as_fd(), &removal(threads))?;
                unlinkat(tree.run.directory(), &name, AtFlags::REMOVEDIR).at(&name, "remove")?;
                left = left.saturating_sub(size);
                removed += 1;
            }
        }
        Ok(removed)
    }
}

type Provided = (OwnedFd, Option<(Overlay, Copy)>, Origin);

fn identity(file: &File) -> Result<Identity, Error> {
    let stat = fstat(file).map_err(|error| Error::Archive(error.into()))?;
    match FileType::from_raw_mode(stat.st_mode) {
        FileType::RegularFile => Ok(Identity::of(&stat)),
        _ => Err(Error::NotAFile),
    }
}

/// The bytes of data in a copy; 0 when that is not known.
fn size(copy: &OwnedFd, name: &[u8]) -> Result<u64, FileError> {
    let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let mut text = String::new();
    let file = openat(copy, "size", flags, Mode::empty()).at(name, "open its size")?;
    File::from(file)
        .read_to_string(&mut text)
        .at(name, "read its size")?;
    Ok(text.parse().unwrap_or(0))
}
