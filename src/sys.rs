//! System calls that need `unsafe`: the only file that has any. Everything else goes through rustix.
#![allow(unsafe_code)]

use std::io;
use std::os::fd::BorrowedFd;

use rustix::io::pread;
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

/// Appends to `out` up to `limit` bytes of `file` from `offset` on, without filling the room for them with zeros first. Gives how many; 0 at the end of the file.
pub fn pread_append(file: BorrowedFd<'_>, offset: u64, limit: usize, out: &mut Vec<u8>) -> io::Result<usize> {
    out.reserve(limit);
    let spare = out.spare_capacity_mut();
    let room = spare.len().min(limit);
    let (read, _) = pread(file, &mut spare[..room], offset)?;
    let count = read.len();
    // SAFETY: `pread` has initialised the first `count` bytes of the spare capacity, as its return value says.
    unsafe { out.set_len(out.len() + count) };
    Ok(count)
}
