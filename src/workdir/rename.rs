//! Names of directories: given, exchanged and removed by the caller, or where the caller may not,
//! by root of the namespace with all ids.

use std::ffi::CStr;
use std::os::fd::BorrowedFd;
use std::path::Path;

use rustix::fs::{AtFlags, CWD, RenameFlags, renameat, renameat_with, unlinkat};
use rustix::io::Errno;
use rustix::path::Arg;

use super::Namespaces;
use super::location::Location;
use super::opening::names;
use super::removal;
use crate::error::{Error, ErrorKind, PathContext, bytes};
use crate::userns::{self, Isolation};

/// Threads that remove what a failed or killed operation left.
const REMOVERS: usize = 2;

/// Removes everything in the directory, in the namespace with all ids.
pub fn remove_contents(directory: BorrowedFd<'_>, namespaces: &Namespaces) -> Result<(), Error> {
    // An empty directory needs no other process.
    if names(directory, "").is_ok_and(|names| names.is_empty()) {
        return Ok(());
    }
    userns::clean_up(&namespaces.whole, || {
        removal::contents(directory, &removal::Options::all(REMOVERS))?;
        Ok(())
    })
}

/// Removes everything in `directory`, and then itself under `name`.
pub fn discard(
    location: &Location,
    name: &CStr,
    directory: BorrowedFd<'_>,
    namespaces: &Namespaces,
) -> Result<(), Error> {
    remove_contents(directory, namespaces)?;
    if location.open_name(name)?.is_none() {
        return Ok(());
    }
    if !location.is_name_of(name, directory) {
        return Err(replaced(location.path()));
    }
    let remove = || match unlinkat(location.parent(), name, AtFlags::REMOVEDIR) {
        Ok(()) | Err(Errno::NOENT) => Ok(()),
        Err(error) => Err(error),
    };
    Ok(by_either(namespaces, remove).at(bytes(location.path()), "remove the directory itself")?)
}

/// The error of a name that another process has given to something else.
pub fn replaced(path: &Path) -> Error {
    Error::new(
        ErrorKind::Changed,
        format!("{path:?}: another process has replaced the directory"),
    )
}

/// Renames the finished directory to a name that must be free.
pub fn rename_new(location: &Location, new: &CStr, namespaces: &Namespaces) -> Result<(), Errno> {
    rename(location, new, location.name(), namespaces)
}

/// Exchanges the finished directory `new` with `old`, which has the name. Afterwards `old` is
/// called `new`.
///
/// # Errors
///
/// `EBUSY` if the name belongs to another directory than `old`, which keeps it.
pub fn exchange(
    location: &Location,
    new: &CStr,
    old: BorrowedFd<'_>,
    namespaces: &Namespaces,
) -> Result<(), Errno> {
    let parent = location.parent();
    let exchange = || {
        by_either(namespaces, || {
            renameat_with(parent, new, parent, location.name(), RenameFlags::EXCHANGE)
        })
        .map_err(|error| match error {
            Errno::PERM if is_exchange_blocked() => Errno::NOSYS,
            error => error,
        })
    };
    exchange()?;
    if location.is_name_of(new, old) {
        return Ok(());
    }
    exchange()?;
    Err(Errno::BUSY)
}

/// True if a seccomp filter answers for renameat2(2): the kernel has another error for empty names.
fn is_exchange_blocked() -> bool {
    renameat_with(CWD, c"", CWD, c"", RenameFlags::EXCHANGE) == Err(Errno::PERM)
}

/// Renames a directory to a hidden name beside it, or back.
pub fn rename(
    location: &Location,
    from: &CStr,
    to: &CStr,
    namespaces: &Namespaces,
) -> Result<(), Errno> {
    let parent = location.parent();
    by_either(namespaces, || rename_directory(parent, from, to))
}

/// Renames a directory within `parent` to a name that must be free.
pub fn rename_directory(
    parent: BorrowedFd<'_>,
    from: impl Arg + Copy,
    to: impl Arg + Copy,
) -> Result<(), Errno> {
    match renameat_with(parent, from, parent, to, RenameFlags::NOREPLACE) {
        // The file system does not know the flag, or the call is missing or blocked. An empty
        // directory would be replaced, which does no harm.
        Err(Errno::INVAL | Errno::NOSYS | Errno::PERM) => renameat(parent, from, parent, to),
        renamed => renamed,
    }
}

/// Does something in the directory above as the caller, or where the caller may not, as root of the
/// namespace with all ids: in a sticky directory, such as `/tmp`, only the owner of an entry
/// renames and removes it.
pub fn by_either(
    namespaces: &Namespaces,
    act: impl Fn() -> Result<(), Errno>,
) -> Result<(), Errno> {
    match act() {
        Err(error @ (Errno::PERM | Errno::ACCESS)) if namespaces.whole != Isolation::None => {
            let done = userns::clean_up(&namespaces.whole, || {
                Ok(act().err().map(Errno::raw_os_error))
            });
            match done {
                Ok(None) => Ok(()),
                Ok(Some(errno)) => Err(Errno::from_raw_os_error(errno)),
                Err(_) => Err(error),
            }
        }
        done => done,
    }
}
