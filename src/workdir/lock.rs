//! Advisory locks on directories and files (flock(2)).
//!
//! A lock belongs to an open file description: every process that inherited or received the
//! descriptor shares it, and the kernel releases it with the last of them. So a process that was
//! killed leaves no stale lock. Locks work across user and mount namespaces.

use std::fmt;
use std::os::fd::AsFd;
use std::path::Path;

use rustix::fs::{FlockOperation, flock, fstat, major, minor};
use rustix::io::Errno;

use crate::error::{Error, ErrorKind, PathContext, bytes};

/// Who else may hold the lock.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// Other holders of a shared lock.
    Shared,
    /// No other process.
    Exclusive,
}

/// Locks `file`, or changes the lock that this description holds. False if another process holds a
/// lock that forbids it.
pub fn try_lock(file: impl AsFd, mode: Mode) -> Result<bool, Errno> {
    let operation = match mode {
        Mode::Shared => FlockOperation::NonBlockingLockShared,
        Mode::Exclusive => FlockOperation::NonBlockingLockExclusive,
    };
    match rustix::io::retry_on_intr(|| flock(&file, operation)) {
        Ok(()) => Ok(true),
        Err(Errno::AGAIN) => Ok(false),
        Err(error) => Err(error),
    }
}

/// Locks `file`, and waits until other processes allow it.
pub fn lock(file: impl AsFd, mode: Mode) -> Result<(), Errno> {
    let operation = match mode {
        Mode::Shared => FlockOperation::LockShared,
        Mode::Exclusive => FlockOperation::LockExclusive,
    };
    rustix::io::retry_on_intr(|| flock(&file, operation))
}

/// A process that holds a lock, for messages; empty where `/proc` does not tell.
pub struct Holder(Option<u32>);

impl Holder {
    /// Of the lock on `file`.
    pub fn of(file: impl AsFd) -> Holder {
        Holder(holders(file).first().copied())
    }
}

/// The processes that hold a lock on `file`; none where `/proc` does not tell.
pub fn holders(file: impl AsFd) -> Vec<u32> {
    let locks = std::fs::read("/proc/locks").unwrap_or_default();
    let Ok(stat) = fstat(file) else {
        return Vec::new();
    };
    let device = (major(stat.st_dev), minor(stat.st_dev));
    find(&locks, device, stat.st_ino)
}

impl fmt::Display for Holder {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            Some(pid) => write!(out, " by process {pid}"),
            None => Ok(()),
        }
    }
}

/// Locks the directory at `path`, which is open as `directory`.
///
/// # Errors
///
/// `InUse`, with the holder, if another process holds a lock that forbids it.
pub fn claim(directory: impl AsFd, mode: Mode, path: &Path) -> Result<(), Error> {
    match try_lock(&directory, mode).at(bytes(path), "lock")? {
        true => Ok(()),
        false => Err(in_use(path, &Holder::of(&directory).to_string())),
    }
}

/// The error of a directory that another operation holds.
pub fn in_use(path: &Path, detail: &str) -> Error {
    let text = format!("{path:?} is in use{detail}: wait for the other operation to end");
    Error::new(ErrorKind::InUse, text)
}

/// The holders of flock(2) locks in the text of `/proc/locks` (see proc_locks(5)):
/// `1: FLOCK  ADVISORY  WRITE 4711 fd:00:1234 0 EOF`, with device numbers in hexadecimal. A waiting
/// process has `->` in front. A holder in another pid namespace has no positive number.
fn find(locks: &[u8], device: (u32, u32), inode: u64) -> Vec<u32> {
    let text = std::str::from_utf8(locks).unwrap_or_default();
    let holder = |line: &str| {
        let mut fields = line.split_ascii_whitespace().skip(1);
        if fields.next()? != "FLOCK" {
            return None;
        }
        let pid: u32 = fields.nth(2)?.parse().ok()?;
        let mut file = fields.next()?.splitn(3, ':');
        let number = |text: Option<&str>| u32::from_str_radix(text?, 16).ok();
        let found = (number(file.next())?, number(file.next())?);
        let is_same = found == device && file.next()?.parse() == Ok(inode);
        (is_same && pid > 0).then_some(pid)
    };
    text.lines().filter_map(holder).collect()
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn holders_are_found_by_device_and_inode() {
        let text = b"1: POSIX  ADVISORY  WRITE 1 fd:00:77 0 EOF\n\
            2: FLOCK  ADVISORY  WRITE 4711 fe:10:77 0 EOF\n\
            2: -> FLOCK  ADVISORY  READ 4712 fe:10:77 0 EOF\n\
            3: FLOCK  ADVISORY  READ -1 fe:10:78 0 EOF\n\
            4: FLOCK  ADVISORY  READ 99 fe:10:78 0 EOF\nbroken\n\
            5: FLOCK  ADVISORY  READ 98 fe:10:78 0 EOF\n";
        assert_eq!(find(text, (0xfe, 0x10), 77), [4711]);
        assert_eq!(find(text, (0xfe, 0x10), 78), [99, 98]);
        assert!(find(text, (0xfd, 0), 77).is_empty());
        assert!(find(b"\xff", (0xfd, 0), 77).is_empty());
    }

    #[test]
    fn exclusive_locks_exclude_and_shared_ones_do_not() {
        let scratch = tempfile::tempdir().unwrap();
        let open = || std::fs::File::open(scratch.path()).unwrap();
        let (one, other) = (open(), open());
        assert!(try_lock(&one, Mode::Shared).unwrap());
        assert!(try_lock(&other, Mode::Shared).unwrap());
        assert!(!try_lock(&other, Mode::Exclusive).unwrap());
        drop(one);
        // Another test may be forking; until its child ends, that one holds the lock too.
        let is_free = (0..500).any(|_| {
            try_lock(&other, Mode::Exclusive).unwrap() || {
                std::thread::sleep(std::time::Duration::from_millis(20));
                false
            }
        });
        assert!(is_free);
        assert!(!try_lock(open(), Mode::Shared).unwrap());
    }
}
