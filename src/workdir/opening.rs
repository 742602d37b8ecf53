//! Opening, locking and listing directories.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;

use rustix::fs::{CWD, Mode, OFlags, RawDir, SeekFrom, fstat, openat, seek};
use rustix::io::Errno;

use super::Namespaces;
use super::lock::{self, Mode as LockMode};
use crate::error::{Error, FileError, PathContext, bytes};
use crate::userns::{self, Isolation, SignalPolicy, Supervision};

/// The directory `found`, open for reading and with the exclusive lock; `None` if it was removed
/// meanwhile.
pub fn lock_directory(
    found: BorrowedFd<'_>,
    path: &Path,
    namespaces: &Namespaces,
) -> Result<Option<OwnedFd>, Error> {
    let directory = open_readable(found, path, &namespaces.whole)?;
    lock::claim(&directory, LockMode::Exclusive, path)?;
    let stat = fstat(&directory).at(bytes(path), "stat")?;
    Ok((stat.st_nlink > 0).then_some(directory))
}

/// The same directory open for reading: by the caller, or where only root of the namespace may, by
/// that one.
pub fn open_readable(
    found: BorrowedFd<'_>,
    path: &Path,
    isolation: &Isolation,
) -> Result<OwnedFd, Error> {
    let open = || open_directory(found, b".");
    match open() {
        Err(Errno::ACCESS) if *isolation != Isolation::None => open_inside(path, isolation, open),
        opened => Ok(opened.at(bytes(path), "open the directory")?),
    }
}

/// What `open` opens as root of the namespace: a directory that the caller does not reach.
pub fn open_inside(
    path: &Path,
    isolation: &Isolation,
    open: impl Fn() -> Result<OwnedFd, Errno>,
) -> Result<OwnedFd, Error> {
    let mut received = None;
    let supervision = Supervision {
        isolation,
        signals: SignalPolicy::Hold,
        observer: &mut (),
        progress: None,
    };
    userns::supervise(
        supervision,
        |(), descriptor| {
            received = descriptor;
            Ok(().into())
        },
        || Ok(()),
        |caller, ()| {
            let directory = open().at(bytes(path), "open the directory")?;
            caller.exchange((), Some(directory.as_fd()))?;
            Ok(())
        },
    )?;
    Ok(received
        .ok_or(Errno::BADF)
        .at(bytes(path), "receive the directory")?)
}

/// Opens a directory by its path, following symbolic links.
pub fn open_path(path: &Path) -> Result<OwnedFd, Errno> {
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    openat(CWD, path, flags, Mode::empty())
}

/// A directory in `above`, open for reading, which a lock needs.
pub fn open_directory(above: BorrowedFd<'_>, name: &[u8]) -> Result<OwnedFd, Errno> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    openat(above, name, flags, Mode::empty())
}

/// The names in a directory that is open for reading, without `.` and `..`.
pub fn names(directory: impl AsFd, path: impl AsRef<Path>) -> Result<Vec<Vec<u8>>, FileError> {
    let act = "list the directory";
    let path = bytes(path.as_ref());
    // The descriptor is read itself: this process may not be able to open the directory again.
    seek(&directory, SeekFrom::Start(0)).at(path, act)?;
    let mut buffer = Vec::with_capacity(8 << 10);
    let mut entries = RawDir::new(&directory, buffer.spare_capacity_mut());
    let mut names = Vec::new();
    while let Some(entry) = entries.next() {
        let entry = entry.at(path, act)?;
        let name = entry.file_name().to_bytes();
        if name != b"." && name != b".." {
            names.push(name.to_vec());
        }
    }
    Ok(names)
}
