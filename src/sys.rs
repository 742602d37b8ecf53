//! System calls that need `unsafe`: the only file that has any. Everything else goes through rustix.
#![allow(unsafe_code)]

use std::io;

use rustix::process::Pid;

/// Who a process is after [`fork`].
pub enum Forked {
    /// The new process.
    Child,
    /// The old one, with the new one's id.
    Parent(Pid),
}

/// Splits the process in two. To be called while it has one thread: in a second thread's place the child would find locks held by nobody.
pub fn fork() -> io::Result<Forked> {
    // SAFETY: the callers are the first lines of the program, before any thread exists, so the child may go on with everything that the parent could do.
    match unsafe { libc::fork() } {
        -1 => Err(io::Error::last_os_error()),
        0 => Ok(Forked::Child),
        id => Ok(Forked::Parent(Pid::from_raw(id).ok_or(io::ErrorKind::InvalidData)?)),
    }
}
