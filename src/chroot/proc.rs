//! `/proc` of a pid namespace.

use std::io;
use std::os::fd::BorrowedFd;

use super::mounts::{NOTHING_SPECIAL, attach, file_system};

/// What became of a `/proc`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Proc {
    /// It shows the processes of this pid namespace.
    Mounted,
    /// The kernel refuses: parts of the `/proc` that was there are covered, as containers do, and a
    /// new one would show them.
    Masked,
}

/// What is to be said of [`Proc::Masked`], with the remedy.
pub const MASKED: &str = "/proc stays as it was, because parts of it are covered here: commands that look for their own processes in it may fail; \
    a container needs `--security-opt systempaths=unconfined` (docker) or `--security-opt unmask=/proc/*` (podman) for it";

/// Mounts the processes of this process's pid namespace over the directory `at` (open in any mode).
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
