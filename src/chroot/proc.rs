//! `/proc` of a pid namespace.

use std::io;
use std::os::fd::BorrowedFd;

use super::mounts::{NOTHING_SPECIAL, attach, file_system};

/// Result of mounting `/proc`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Proc {
    /// It shows the processes of this pid namespace.
    Mounted,
    /// The kernel refused: parts of the existing `/proc` are covered, as in containers, and a new
    /// one would uncover them.
    Masked,
}

/// Mounts a new `/proc` of this process's pid namespace over the directory `at` (open in any mode).
pub fn mount(at: BorrowedFd<'_>) -> io::Result<Proc> {
    match file_system(c"proc", &[], NOTHING_SPECIAL) {
        Ok(proc) => {
            attach(&proc, at)?;
            Ok(Proc::Mounted)
        }
        Err(error) if error.raw_os_error() == Some(libc::EPERM) => Ok(Proc::Masked),
        Err(error) => Err(error),
    }
}
