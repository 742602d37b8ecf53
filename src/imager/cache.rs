//! The cache: unpacked copies of archives, each used by many runs.
//!
//! ```text
//! index                 see `index`
//! copies/SHA256/        locked (shared) by every run that uses it; its mtime is the last use
//!               tree/   the tree, never written to again
//!               size    bytes of data, in decimal; written last and removed first, so a copy
//!                       without it is not complete
//! runs/…                see `run`; a copy is unpacked there, and renamed when it is finished
//! ```
//!
//! A run holds a shared lock on the cache, which prevents its removal, and on its copy. A process
//! that changes the index or the copies holds an exclusive lock on `copies`.

mod copies;

use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use rustix::fs::{
    AtFlags, FileType, Mode, OFlags, Timespec, Timestamps, UTIME_NOW, fstat, futimens, mkdirat,
    openat, renameat, statat, unlinkat,
};
use rustix::io::Errno;
use sha2::{Digest, Sha256};

use super::Archive;
use super::index::{self, Identity};
use super::overlay::{self, Overlay};
use crate::error::{Error, ErrorKind, FileError, PathContext};
use crate::ids::IdMaps;
use crate::input::Digests;
use crate::pack::hex;
use crate::sys::sync_file_system;
use crate::workdir::lock::{self, Mode as LockMode};
use crate::workdir::opening::{names, open_directory as open};
use crate::workdir::removal;
use crate::workdir::runs::{Run, Runs, is_still};

pub use copies::{CacheLimit, CachedCopy};

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

/// Source of the tree of a run.
#[derive(Debug)]
pub enum Origin {
    /// An existing copy.
    Found,
    /// A new copy, for this run and later ones.
    Unpacked,
    /// The archive was unpacked for this run only, because an overlay is not possible, with the
    /// reason.
    NoOverlay(io::Error),
}

/// The tree of a run, with its overlay and copy.
pub struct Tree {
    run: Run,
    layered: Option<(Overlay, Copy)>,
    root: OwnedFd,
    /// Its source.
    pub origin: Origin,
}

impl Tree {
    /// The directory of the run.
    pub fn run(&self) -> &Run {
        &self.run
    }

    /// Its root, in this mount namespace.
    pub fn root(&self) -> BorrowedFd<'_> {
        self.root.as_fd()
    }
}

/// The name of the directory for trees of these id maps, with extended attributes or without: the
/// owners of files depend on the maps.
pub fn name(maps: &IdMaps, xattrs: bool) -> String {
    let mut text = format!("{}/{}", maps.uids.kernel_text(), maps.gids.kernel_text());
    if !xattrs {
        text.push_str("/without xattrs");
    }
    let mut name = hex(&Sha256::digest(text).into());
    name.truncate(16);
    format!("ids-{name}")
}

impl Cache {
    /// Opens the cache in `directory` (open in any mode), which belongs to namespace root. Creates
    /// missing parts.
    pub fn open(directory: BorrowedFd<'_>) -> Result<Cache, Error> {
        let directory = open(directory, b".").at("", "open the directory")?;
        if !lock::try_lock(&directory, LockMode::Shared).at("", "lock the directory")? {
            return Err(Error::new(ErrorKind::InUse, "the cache is being removed"));
        }
        let part = |name: &str| {
            match mkdirat(&directory, name, Mode::RWXU) {
                Ok(()) | Err(Errno::EXIST) => {}
                Err(error) => return Err(FileError::new(name, "create the directory", error)),
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

    /// Removes the leftovers of killed runs.
    pub fn clear_leftovers(&self, threads: usize) -> Result<(), Error> {
        self.runs.clear_leftovers(threads)
    }

    /// Provides the tree of the archive for one run.
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
                // Report the first error.
                let _ = self.runs.end(run, archive.options.threads);
                Err(error)
            }
        }
    }

    fn provide(&self, archive: &Archive<'_>, run: &Run) -> Result<Provided, Error> {
        let tree = run.make("tree")?;
        let alone = |cause| {
            archive.unpack(tree.as_fd(), None)?;
            Ok((
                tree.try_clone().at("", "open once more")?,
                None,
                Origin::NoOverlay(cause),
            ))
        };
        let (copy, origin) = match self.find(archive.file)? {
            Some(copy) => (copy, Origin::Found),
            None => {
                // Without overlays a copy would be of no use.
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

    /// Removes the tree of a run. Its mount namespace must not be in use any more.
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

    /// Finds the copy of a file through the index, without reading the file.
    fn find(&self, file: &File) -> Result<Option<Copy>, Error> {
        match index::find(&self.index()?, &identity(file)?) {
            Some(digest) => self.use_copy(&digest),
            None => Ok(None),
        }
    }

    /// Opens a copy and locks it against removal.
    fn use_copy(&self, digest: &str) -> Result<Option<Copy>, Error> {
        let name = digest.as_bytes();
        loop {
            let directory = match open(self.copies.as_fd(), name) {
                Err(Errno::NOENT) => return Ok(None),
                opened => opened.at(name, "open")?,
            };
            // A process with the exclusive lock is about to move it away.
            lock::lock(&directory, LockMode::Shared).at(name, "lock")?;
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
                if !is_complete(&directory) {
                    return Ok(None);
                }
                let tree = open(directory.as_fd(), b"tree").at(name, "open its tree")?;
                return Ok(Some(Copy {
                    _directory: directory,
                    tree,
                }));
            }
        }
    }

    /// Creates the copy, unless another run has created it meanwhile. Hashes the archive only if
    /// necessary.
    fn fill(&self, archive: &Archive<'_>, run: &Run) -> Result<(Copy, Origin), Error> {
        let _lock = self.lock()?;
        if let Some(copy) = self.find(archive.file)? {
            return Ok((copy, Origin::Found));
        }
        // The index may know the digest without a copy of it. It is computed all the same: the copy
        // has to be that of the bytes that were hashed.
        let digests = self.identify(archive.file)?;
        let digest = hex(&digests.sha256());
        if let Some(copy) = self.use_copy(&digest)? {
            return Ok((copy, Origin::Found));
        }
        self.remove_incomplete(&digest, run, archive.options.threads)?;
        self.unpack(archive, run, digests, &digest)?;
        match self.use_copy(&digest)? {
            Some(copy) => Ok((copy, Origin::Unpacked)),
            None => Err(FileError::new(digest, "open", Errno::NOENT).into()),
        }
    }

    /// Waits until no other run changes the index or the copies.
    fn lock(&self) -> Result<OwnedFd, FileError> {
        let copies = open(self.copies.as_fd(), b".").at("copies", "open")?;
        lock::lock(&copies, LockMode::Exclusive).at("copies", "lock")?;
        Ok(copies)
    }

    /// Hashes the file and adds its SHA-256 to the index.
    fn identify(&self, file: &File) -> Result<Digests, Error> {
        let before = identity(file)?;
        let index = self.index()?;
        let now = SystemTime::now()
            .duration_since(UNIX_EPOCH)
            .map_or(0, |now| now.as_secs());
        let digests = Digests::of(file).at("the archive", "read")?;
        if identity(file)? != before {
            return Err(changed());
        }
        if before.is_settled(i64::try_from(now).unwrap_or(i64::MAX)) {
            // The copy with this digest is about to be created.
            let copies = names(&self.copies, "copies")?;
            let has_copy = |digest: &str| copies.iter().any(|name| name == digest.as_bytes());
            self.write_index(&index::with(&index, &before, &digests.sha256(), has_copy))?;
        }
        Ok(digests)
    }

    /// Removes the rest of a copy whose removal was interrupted. Call it with the lock.
    fn remove_incomplete(&self, digest: &str, run: &Run, threads: usize) -> Result<(), Error> {
        let directory = match open(self.copies.as_fd(), digest.as_bytes()) {
            Err(Errno::NOENT) => return Ok(()),
            opened => opened.at(digest, "open")?,
        };
        renameat(&self.copies, digest, run.directory(), "incomplete").at(digest, "move away")?;
        removal::contents(directory.as_fd(), &removal::Options::all(threads))?;
        Ok(unlinkat(run.directory(), "incomplete", AtFlags::REMOVEDIR).at(digest, "remove")?)
    }

    fn unpack(
        &self,
        archive: &Archive<'_>,
        run: &Run,
        digests: Digests,
        digest: &str,
    ) -> Result<(), Error> {
        let copy = run.make("copy")?;
        mkdirat(&copy, "tree", Mode::RWXU).at("tree", "create the directory")?;
        let tree = open(copy.as_fd(), b"tree").at("tree", "open")?;
        let size = archive.unpack(tree.as_fd(), Some(Arc::new(digests)))?;
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::CLOEXEC;
        let file = openat(&copy, "size", flags, Mode::RUSR).at("size", "create")?;
        File::from(file)
            .write_all(size.to_string().as_bytes())
            .at("size", "write")?;
        // After a system crash, the name must not refer to a tree that never reached the disk.
        sync_file_system(&copy).at("", "sync")?;
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

    /// Writes the index. Call it with the lock. Overwrites the temporary file of a killed run.
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
}

type Provided = (OwnedFd, Option<(Overlay, Copy)>, Origin);

fn changed() -> Error {
    Error::new(
        ErrorKind::Changed,
        "the archive was changed while it was being read; run this again when it is finished",
    )
}

fn identity(file: &File) -> Result<Identity, Error> {
    let stat = fstat(file).at("the archive", "stat")?;
    match FileType::from_raw_mode(stat.st_mode) {
        FileType::RegularFile => Ok(Identity::of(&stat)),
        _ => Err(Error::new(
            ErrorKind::InvalidInput,
            "the archive must be a regular file to be kept in a cache",
        )),
    }
}

/// True if a copy is complete.
fn is_complete(copy: &OwnedFd) -> bool {
    statat(copy, "size", AtFlags::SYMLINK_NOFOLLOW).is_ok()
}

/// The bytes of data in a copy; 0 if unknown.
fn size(copy: &OwnedFd, name: &[u8]) -> Result<u64, FileError> {
    let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let mut text = String::new();
    let file = match openat(copy, "size", flags, Mode::empty()) {
        Err(Errno::NOENT) => return Ok(0),
        opened => opened.at(name, "open its size")?,
    };
    File::from(file)
        .read_to_string(&mut text)
        .at(name, "read its size")?;
    Ok(text.parse().unwrap_or(0))
}
