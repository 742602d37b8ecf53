//! Removing trees, by descriptors: no symbolic link is followed, no mount entered.
//!
//! Each directory below the root is locked before anything in it is removed. One that another
//! operation holds is left as it is. The files of a directory go before its subdirectories, so that
//! a mark which makes a directory valid goes first (see `imager::cache`).
//!
//! ```text
//! stack of directories ──> worker: open, unlink the files, put the directories below on the stack
//!        ^                    │
//!        └────────────────────┘        the last one that leaves a directory removes it from the one above
//! ```

mod count;

use std::ffi::{CStr, CString};
use std::fmt;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};

use rustix::fs::{
    AtFlags, FileType, Mode, OFlags, RawDir, ResolveFlags, StatxAttributes, StatxFlags, chmod,
    chownat, openat, openat2, renameat, unlinkat,
};
use rustix::io::Errno;
use rustix::process::getegid;
use serde::{Deserialize, Serialize};

pub use count::count;

use super::lock::{self, Holder};
use crate::error::{Classify, ErrorKind, Escaped, FileError};
use crate::parallel;
use crate::sys;
use crate::tree::walk::{self, Mount};

/// A file or directory that could not be removed.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A system call failed.
    #[error(transparent)]
    File(#[from] FileError),
    /// Something is mounted below the tree.
    #[error("{}: something is mounted there; unmount it first", Escaped(path))]
    Mounted {
        /// The mount point.
        path: Vec<u8>,
    },
    /// The file, or the directory that holds it, has the attribute that forbids changes.
    #[error(
        "{}: it is {what}: as root, run `chattr -{letter}` on it",
        Escaped(path)
    )]
    Protected {
        /// The file that has the attribute.
        path: Vec<u8>,
        /// `immutable` or `append-only`.
        what: &'static str,
        /// The letter of the attribute.
        letter: char,
    },
    /// Another operation works in the directory, which is left alone.
    #[error("{}: in use{holder}", Escaped(path))]
    InUse {
        /// The directory.
        path: Vec<u8>,
        /// The process that holds the lock: ` by process 4711`, or empty.
        holder: String,
    },
    /// Another process puts files into a directory as fast as they are removed.
    #[error(
        "{}: is filled while it is being removed; end what writes there, and remove it again",
        Escaped(path)
    )]
    Filled {
        /// The directory.
        path: Vec<u8>,
    },
}

/// What of a tree could not be removed. The rest is gone.
#[derive(Debug, Default)]
pub struct Failed {
    /// The first of them, in no particular order; at least one.
    pub errors: Vec<Error>,
    /// How many there were.
    pub count: u64,
}

impl Failed {
    fn add(&mut self, error: Error) {
        self.count += 1;
        if self.errors.len() < KEPT_ERRORS {
            self.errors.push(error);
        }
    }

    /// True if another operation works in a part of the tree.
    pub fn is_in_use(&self) -> bool {
        self.errors
            .iter()
            .any(|error| matches!(error, Error::InUse { .. }))
    }

    /// True if rights did not suffice for something.
    pub fn lacks_rights(&self) -> bool {
        let denied = [libc::EACCES, libc::EPERM].map(Some);
        self.errors
            .iter()
            .any(|error| matches!(error, Error::File(file) if denied.contains(&file.cause.raw_os_error())))
    }
}

impl Classify for Error {
    fn kind(&self) -> ErrorKind {
        match self {
            Error::File(error) => error.kind(),
            Error::InUse { .. } => ErrorKind::InUse,
            _ => ErrorKind::NotRemoved,
        }
    }
}

impl Classify for Failed {
    fn kind(&self) -> ErrorKind {
        match self.errors.first() {
            _ if self.is_in_use() => ErrorKind::InUse,
            Some(Error::File(error)) if error.kind() == ErrorKind::PermissionDenied => {
                ErrorKind::PermissionDenied
            }
            _ => ErrorKind::NotRemoved,
        }
    }
}

impl fmt::Display for Failed {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let shown: Vec<String> = self.errors.iter().take(3).map(Error::to_string).collect();
        out.write_str(&shown.join("; "))?;
        match self.count.saturating_sub(shown.len() as u64) {
            0 => Ok(()),
            more => write!(out, "; and {more} more"),
        }
    }
}

impl std::error::Error for Failed {}

/// How many errors are kept.
const KEPT_ERRORS: usize = 16;

/// Beyond this many levels, or fewer where the limit on open files is low, a directory is first
/// moved to the top of the tree, so that the depth of a tree does not decide about open
/// descriptors.
const MAX_DEPTH: usize = 64;

/// Levels below which moving directories is not worth a further worker.
const MIN_DEPTH: usize = 8;

/// More workers than this only wait for the file system's journal.
const MAX_WORKERS: usize = 8;

/// How often a directory is looked through again because it was not empty.
const MAX_SCANS: u32 = 100;

/// How a tree is removed.
#[derive(Clone, Copy, Debug)]
pub struct Options {
    /// Worker threads; 0 and 1 work in the calling thread.
    pub threads: usize,
    /// Give the caller's directories the caller's group, so that root of a namespace that lacks the
    /// group they have may work in them.
    pub take_group: bool,
}

impl Options {
    /// Removes everything, with so many threads.
    pub fn all(threads: usize) -> Options {
        Options {
            threads,
            take_group: false,
        }
    }
}

/// What has been removed, or would be.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Removed {
    /// Directories, without the root.
    pub directories: u64,
    /// Everything else.
    pub files: u64,
}

/// Removes everything below the directory `root` (open in any mode), but not the directory itself.
/// Goes on after an error.
pub fn contents(root: BorrowedFd<'_>, options: &Options) -> Result<Removed, Failed> {
    // Each worker may have all directories above the current one open, and this one.
    let descriptors = parallel::descriptors();
    let threads = options
        .threads
        .min(descriptors / (MIN_DEPTH + 2))
        .clamp(1, MAX_WORKERS);
    let work = Work {
        options,
        max_depth: (descriptors / threads)
            .saturating_sub(2)
            .clamp(1, MAX_DEPTH),
        stack: Mutex::new(Stack::default()),
        changed: Condvar::new(),
        failed: Mutex::new(Failed::default()),
        directories: AtomicU64::new(0),
        files: AtomicU64::new(0),
        moved: AtomicU64::new(0),
    };
    match work.open(root, c".") {
        Ok(directory) => {
            work.clear(
                Arc::new(Directory {
                    descriptor: directory,
                    above: None,
                    is_kept: AtomicBool::new(false),
                }),
                0,
            );
            std::thread::scope(|scope| {
                // A machine that has no more threads to give is served by the ones that it gave.
                let start = |_| std::thread::Builder::new().spawn_scoped(scope, || work.serve());
                let _others: Vec<_> = (1..threads)
                    .map_while(|number| start(number).ok())
                    .collect();
                work.serve();
            });
        }
        Err(error) => work.note(error.at(Vec::new(), "open")),
    }
    let failed = work
        .failed
        .into_inner()
        .unwrap_or_else(PoisonError::into_inner);
    match failed.count {
        0 => Ok(Removed {
            directories: work.directories.into_inner(),
            files: work.files.into_inner(),
        }),
        _ => Err(failed),
    }
}

/// An open directory. The work below it holds references; the last one to be dropped removes it.
struct Directory {
    descriptor: OwnedFd,
    above: Option<Above>,
    /// Something below could not be removed.
    is_kept: AtomicBool,
}

/// A directory's place in another one.
struct Above {
    directory: Arc<Directory>,
    name: CString,
    depth: usize,
    scans: u32,
}

#[derive(Default)]
struct Stack {
    waiting: Vec<Above>,
    /// Workers that may still put something on the stack.
    busy: usize,
}

struct Work<'a> {
    options: &'a Options,
    max_depth: usize,
    stack: Mutex<Stack>,
    changed: Condvar,
    failed: Mutex<Failed>,
    directories: AtomicU64,
    files: AtomicU64,
    /// Directories that were moved to the top.
    moved: AtomicU64,
}

/// Why a directory was not opened.
enum NotOpened {
    Mounted,
    Errno(Errno),
}

impl NotOpened {
    fn at(self, path: Vec<u8>, act: &'static str) -> Error {
        match self {
            NotOpened::Mounted => Error::Mounted { path },
            NotOpened::Errno(errno) => FileError::new(path, act, errno).into(),
        }
    }
}

impl Work<'_> {
    /// Until the stack is empty and nobody can fill it any more. Last in, first out: that keeps the
    /// number of open directories small.
    fn serve(&self) {
        let mut stack = lock(&self.stack);
        loop {
            if let Some(next) = stack.waiting.pop() {
                stack.busy += 1;
                drop(stack);
                self.enter(next);
                stack = lock(&self.stack);
                stack.busy -= 1;
                if stack.busy == 0 || !stack.waiting.is_empty() {
                    self.changed.notify_all();
                }
            } else if stack.busy == 0 {
                return;
            } else {
                stack = self
                    .changed
                    .wait(stack)
                    .unwrap_or_else(PoisonError::into_inner);
            }
        }
    }

    fn enter(&self, place: Above) {
        match self.open(place.directory.descriptor.as_fd(), &place.name) {
            Ok(descriptor) if is_in_use(&descriptor) => {
                let error = Error::InUse {
                    path: path(&place.directory, Some(&place.name)),
                    holder: Holder::of(&descriptor).to_string(),
                };
                self.keep(&place.directory, error);
                self.leave(place.directory);
            }
            Ok(descriptor) => {
                let depth = place.depth;
                self.clear(
                    Arc::new(Directory {
                        descriptor,
                        above: Some(place),
                        is_kept: AtomicBool::new(false),
                    }),
                    depth,
                );
            }
            // Another process was faster.
            Err(NotOpened::Errno(Errno::NOENT)) => self.leave(place.directory),
            Err(error) => {
                self.keep(
                    &place.directory,
                    error.at(path(&place.directory, Some(&place.name)), "open"),
                );
                self.leave(place.directory);
            }
        }
    }

    /// Removes the files of a directory, and puts the directories below on the stack.
    fn clear(&self, directory: Arc<Directory>, depth: usize) {
        if self.options.take_group {
            // It is the caller's or it is not.
            let _ = chownat(
                &directory.descriptor,
                c"",
                None,
                Some(getegid()),
                AtFlags::EMPTY_PATH,
            );
        }
        let mut buffer = Vec::with_capacity(64 << 10);
        let mut below = Vec::new();
        let mut entries = RawDir::new(&directory.descriptor, buffer.spare_capacity_mut());
        while let Some(entry) = entries.next() {
            let (name, kind) = match &entry {
                Ok(entry) => (entry.file_name(), entry.file_type()),
                Err(error) => {
                    let error =
                        FileError::new(path(&directory, None), "list the directory", *error);
                    self.keep(&directory, error.into());
                    break;
                }
            };
            if matches!(name.to_bytes(), b"." | b"..") {
                continue;
            }
            if kind == FileType::Directory || !self.remove_file(&directory, name) {
                below.push(name.to_owned());
            }
        }
        let places = below
            .into_iter()
            .map(|name| self.place(&directory, name, depth))
            .collect::<Vec<_>>();
        if !places.is_empty() {
            lock(&self.stack).waiting.extend(places);
            self.changed.notify_all();
        }
        self.leave(directory);
    }

    /// False when it is a directory after all: some file systems do not tell.
    fn remove_file(&self, directory: &Arc<Directory>, name: &CStr) -> bool {
        match self.unlink(directory, name, AtFlags::empty()) {
            Ok(()) => _ = self.files.fetch_add(1, Ordering::Relaxed),
            Err(Errno::NOENT) => {}
            Err(Errno::ISDIR) => return false,
            Err(error) => self.keep(directory, why_not(directory, name, error)),
        }
        true
    }

    /// Where the directory below is removed from: here, or the top of the tree, where it is moved
    /// when it is too deep.
    fn place(&self, directory: &Arc<Directory>, name: CString, depth: usize) -> Above {
        if depth >= self.max_depth {
            let top = top(directory);
            let number = self.moved.fetch_add(1, Ordering::Relaxed);
            let new = CString::new(format!(".removing-{}-{number}", std::process::id()))
                .unwrap_or_default();
            // A name that an interrupted run has left may be in the way: only an empty directory is
            // replaced by this.
            let moved = renameat(&directory.descriptor, &name, &top.descriptor, &new);
            // Where it cannot be moved (the lower layer of an overlay, a name that an interrupted
            // run has left), the descent goes on.
            if moved.is_ok() {
                return Above {
                    directory: top,
                    name: new,
                    depth: 1,
                    scans: 0,
                };
            }
        }
        Above {
            directory: Arc::clone(directory),
            name,
            depth: depth + 1,
            scans: 0,
        }
    }

    /// Releases a directory. The last worker that releases it removes it, and so on upwards.
    fn leave(&self, directory: Arc<Directory>) {
        let mut next = Some(directory);
        while let Some(Directory {
            descriptor,
            above: Some(above),
            is_kept,
        }) = next.and_then(Arc::into_inner)
        {
            // ext4 does twice the work for a directory that is removed while it is open.
            drop(descriptor);
            if is_kept.into_inner() {
                above.directory.is_kept.store(true, Ordering::Relaxed);
            } else if let Some(again) = self.remove_directory(&above) {
                lock(&self.stack).waiting.push(again);
                self.changed.notify_all();
            }
            next = Some(above.directory);
        }
    }

    /// Gives the place again when the directory turns out to have something in it.
    fn remove_directory(&self, above: &Above) -> Option<Above> {
        match self.unlink(&above.directory, &above.name, AtFlags::REMOVEDIR) {
            Ok(()) => _ = self.directories.fetch_add(1, Ordering::Relaxed),
            Err(Errno::NOENT) => {}
            Err(Errno::NOTEMPTY | Errno::EXIST) if above.scans < MAX_SCANS => {
                let (directory, name) = (Arc::clone(&above.directory), above.name.clone());
                return Some(Above {
                    directory,
                    name,
                    depth: above.depth,
                    scans: above.scans + 1,
                });
            }
            Err(Errno::NOTEMPTY | Errno::EXIST) => {
                self.keep(
                    &above.directory,
                    Error::Filled {
                        path: path(&above.directory, Some(&above.name)),
                    },
                );
            }
            Err(error) => self.keep(
                &above.directory,
                why_not(&above.directory, &above.name, error),
            ),
        }
        None
    }

    fn unlink(&self, directory: &Directory, name: &CStr, flags: AtFlags) -> Result<(), Errno> {
        match unlinkat(&directory.descriptor, name, flags) {
            Err(Errno::ACCESS) if make_accessible(directory.descriptor.as_fd()) => {
                unlinkat(&directory.descriptor, name, flags)
            }
            done => done,
        }
    }

    /// Opens a directory for listing, unless something is mounted there.
    fn open(&self, parent: BorrowedFd<'_>, name: &CStr) -> Result<OwnedFd, NotOpened> {
        match open_below(parent, name, OFlags::RDONLY) {
            // Nobody may read it, but its owner may change that.
            Err(NotOpened::Errno(Errno::ACCESS)) => {
                let found = open_below(parent, name, OFlags::PATH)?;
                make_accessible(found.as_fd());
                open_below(parent, name, OFlags::RDONLY)
            }
            opened => opened,
        }
    }

    fn keep(&self, directory: &Directory, error: Error) {
        directory.is_kept.store(true, Ordering::Relaxed);
        self.note(error);
    }

    fn note(&self, error: Error) {
        lock(&self.failed).add(error);
    }
}

/// Locks a directory. True if another operation holds a lock.
fn is_in_use(directory: &OwnedFd) -> bool {
    // A file system without locks has no holders.
    lock::try_lock(directory, lock::Mode::Exclusive).is_ok_and(|locked| !locked)
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // Nothing is left half done under a lock.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

fn open_below(parent: BorrowedFd<'_>, name: &CStr, access: OFlags) -> Result<OwnedFd, NotOpened> {
    let flags = access | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_XDEV;
    match openat2(parent, name, flags, Mode::empty(), resolve) {
        Err(Errno::XDEV) => Err(NotOpened::Mounted),
        // The call is missing before Linux 5.6, or a seccomp filter blocks it.
        Err(Errno::NOSYS | Errno::PERM) => {
            let opened = openat(parent, name, flags, Mode::empty()).map_err(NotOpened::Errno)?;
            let mount = |fd| {
                walk::stat(fd, c"", b"")
                    .map(|stat| Mount::of(&stat))
                    .map_err(|_| NotOpened::Errno(Errno::IO))
            };
            if mount(parent)? == mount(opened.as_fd())? {
                Ok(opened)
            } else {
                Err(NotOpened::Mounted)
            }
        }
        opened => opened.map_err(NotOpened::Errno),
    }
}

/// Lets the owner, which this process may be, list and change the directory.
fn make_accessible(directory: BorrowedFd<'_>) -> bool {
    // A descriptor opened with O_PATH can be changed by this name only.
    chmod(
        format!("/proc/self/fd/{}", directory.as_raw_fd()),
        Mode::RWXU,
    )
    .is_ok()
}

fn top(directory: &Arc<Directory>) -> Arc<Directory> {
    let mut top = directory;
    while let Some(above) = &top.above {
        top = &above.directory;
    }
    Arc::clone(top)
}

/// The path of a directory below the root, or of `name` in it, for messages.
fn path(directory: &Directory, name: Option<&CStr>) -> Vec<u8> {
    let mut components: Vec<&[u8]> = name.iter().map(|name| name.to_bytes()).collect();
    let mut at = directory;
    while let Some(above) = &at.above {
        components.push(above.name.to_bytes());
        at = &above.directory;
    }
    components.reverse();
    components.join(&b'/')
}

/// The error of removing `name`, with the attribute that forbids it when there is one.
fn why_not(directory: &Directory, name: &CStr, error: Errno) -> Error {
    let file = path(directory, Some(name));
    if error == Errno::BUSY {
        return Error::Mounted { path: file };
    }
    if error == Errno::PERM {
        for (name, path) in [(name, file.clone()), (c"", path(directory, None))] {
            if let Some(error) = protected(directory, name, path) {
                return error;
            }
        }
    }
    FileError::new(file, "remove", error).into()
}

fn protected(directory: &Directory, name: &CStr, path: Vec<u8>) -> Option<Error> {
    let flags = AtFlags::SYMLINK_NOFOLLOW | AtFlags::EMPTY_PATH;
    let attributes = sys::statx(&directory.descriptor, name, flags, StatxFlags::TYPE)
        .ok()?
        .stx_attributes;
    let path = if path.is_empty() { b".".to_vec() } else { path };
    if attributes.contains(StatxAttributes::IMMUTABLE) {
        Some(Error::Protected {
            path,
            what: "immutable",
            letter: 'i',
        })
    } else if attributes.contains(StatxAttributes::APPEND) {
        Some(Error::Protected {
            path,
            what: "append-only",
            letter: 'a',
        })
    } else {
        None
    }
}

#[cfg(test)]
mod tests;
