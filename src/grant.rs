//! Granting other users access to directories, and revoking it, through named entries in ACLs (see
//! acl(5)).
//!
//! Calls the crate `posix-acl` with the path `/proc/self/fd/N` of a descriptor, which the kernel
//! resolves to the open file, so no other process can replace it. The crate recalculates the mask
//! on each write, as `setfacl -m` does. It cannot write an ACL without a mask, so an ACL that is
//! equivalent to the mode bits is written with [`acl::minimal`].

use std::ffi::{CStr, CString};
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};

use posix_acl::{
    ACL_EXECUTE, ACL_READ, ACL_RWX, ACL_WRITE, ACLEntry, ACLError, PosixACL, Qualifier,
};
use rustix::fs::{Dir, FileType, OFlags, Statx, XattrFlags, removexattr, setxattr};
use rustix::io::Errno;

use crate::acl;
use crate::error::{Classify, ErrorKind, Escaped, FileError, PathContext};
use crate::tree::walk::{self, Mount};

/// Grant or revoke.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Action {
    /// Adds the entries or corrects their permissions.
    Grant,
    /// Removes the entries.
    Revoke,
}

/// A change of the ACLs of a directory.
#[derive(Clone, Debug)]
pub struct Change {
    /// Grant or revoke.
    pub action: Action,
    /// The grantees: uids in this process's user namespace. Each gets `rwX`: read, write, and
    /// execute if the file is a directory or already executable for some user. An access ACL gets
    /// no entry for the owner of the file, because the kernel would ignore it.
    pub uids: Vec<u32>,
    /// Also change default ACLs and everything below the directory.
    pub share: bool,
    /// Leave some files of this owner to another process that runs as the owner: files that would
    /// lose their setgid bit here because this process is not in their group, and files whose ACL
    /// has ids that are not mapped here.
    pub leave_to: Option<u32>,
}

/// A file whose ACL this process is not permitted to change.
#[derive(Debug)]
pub struct Refused {
    /// The file and the cause.
    pub error: FileError,
    /// Its owner, a uid in this process's user namespace.
    pub owner: u32,
}

/// Result of a change.
#[derive(Debug, Default)]
pub struct Report {
    /// Number of files and directories examined.
    pub examined: u64,
    /// Those whose ACLs were changed; the others were already right.
    pub changed: u64,
    /// Those that lost their setgid bit, because this process is not in their group.
    pub setgid_lost: u64,
    /// Those that this process is not permitted to change.
    pub refused: u64,
    /// Directories that this process is not permitted to read.
    pub unreachable: u64,
    /// The first few of the files that could not be changed or read.
    pub examples: Vec<Refused>,
}

/// Maximum number of examples.
const EXAMPLES: usize = 3;

/// A directory that was not changed, or only in part.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A system call failed.
    #[error(transparent)]
    File(#[from] FileError),
    /// The file system stores no ACLs.
    #[error(
        "{}: its file system stores no ACLs: mount it with the option acl where it has one (mount -o remount,acl), or take a directory on ext4, xfs, btrfs or tmpfs",
        Escaped(path)
    )]
    Unsupported {
        /// The file.
        path: Vec<u8>,
    },
    /// The ACL has entries that this process cannot write back.
    #[error(
        "{}: its ACL names a user or group that has no id in the user namespace; let root remove the entry (`setfacl -x`), or remove the ACL as root of the namespace (`setfacl -b -k`)",
        Escaped(path)
    )]
    UnmappedEntry {
        /// The file.
        path: Vec<u8>,
    },
}

/// Changes the ACLs of `directory` (opened in any mode, `O_PATH` suffices), called `shown` in
/// messages. Never follows a symbolic link below it and never crosses a mount point.
///
/// Does not write an ACL that is already right, so that the ctime of the file does not change.
pub fn apply(directory: BorrowedFd<'_>, shown: &[u8], change: &Change) -> Result<Report, Error> {
    let stat = walk::stat(directory, c"", shown)?;
    let mut worker = Worker {
        change,
        mount: Mount::of(&stat),
        report: Report::default(),
    };
    if change.share {
        worker.tree(directory, shown, &stat)?;
    } else {
        worker.file(directory, shown, &stat)?;
    }
    Ok(worker.report)
}

struct Worker<'a> {
    change: &'a Change,
    mount: Mount,
    report: Report,
}

/// A directory on the path to the current one.
struct Level {
    /// Closed while the current directory is far below it: the limit on open files must not limit
    /// the depth of a tree.
    directory: Option<OwnedFd>,
    /// The path for messages.
    path: Vec<u8>,
    stat: Statx,
    left: Vec<CString>,
}

/// How many directories are open at a time.
const MAX_OPEN: usize = 16;

impl Worker<'_> {
    /// Changes a directory and everything below it. Grants from the top and revokes from the
    /// bottom, so that the path to each file stays accessible.
    fn tree(&mut self, root: BorrowedFd<'_>, shown: &[u8], stat: &Statx) -> Result<(), Error> {
        let mut levels: Vec<Level> = self
            .enter(root, shown.to_vec(), *stat)?
            .into_iter()
            .collect();
        while let Some(mut level) = levels.pop() {
            let directory = match level.directory.take() {
                Some(directory) => directory,
                None => reopen(root, shown, &level)?,
            };
            let Some(name) = level.left.pop() else {
                if self.change.action == Action::Revoke {
                    self.file(directory.as_fd(), &level.path, &level.stat)?;
                }
                continue;
            };
            let path = [level.path.as_slice(), b"/", name.to_bytes()].concat();
            let found = self.open(directory.as_fd(), &name, &path, &level.stat)?;
            level.directory = Some(directory);
            levels.push(level);
            let Some((file, stat)) = found else {
                continue;
            };
            match FileType::from_raw_mode(stat.stx_mode.into()) {
                FileType::Directory if Mount::of(&stat) == self.mount => {
                    levels.extend(self.enter(file.as_fd(), path, stat)?);
                    if let Some(far) = levels.len().checked_sub(MAX_OPEN + 1)
                        && let Some(far) = levels.get_mut(far)
                    {
                        far.directory = None;
                    }
                }
                FileType::RegularFile if Mount::of(&stat) == self.mount => {
                    self.file(file.as_fd(), &path, &stat)?
                }
                _ => {}
            }
        }
        Ok(())
    }

    /// Opens the entry `name` of a directory; `None` if it was removed meanwhile or cannot be
    /// reached.
    fn open(
        &mut self,
        directory: BorrowedFd<'_>,
        name: &CStr,
        path: &[u8],
        above: &Statx,
    ) -> Result<Option<(OwnedFd, Statx)>, Error> {
        let file = match walk::open(directory, name.to_bytes(), OFlags::PATH) {
            Ok(file) => file,
            Err(error) if is(&error, Errno::NOENT) => return Ok(None),
            Err(mut error) if is(&error, Errno::ACCESS) => {
                error.path = path.to_vec();
                self.unreachable(error, above);
                return Ok(None);
            }
            Err(error) => {
                return Err(FileError {
                    path: path.to_vec(),
                    ..error
                }
                .into());
            }
        };
        let stat = walk::stat(file.as_fd(), c"", path)?;
        Ok(Some((file, stat)))
    }

    /// Opens a directory to list it; `None` if this process is not permitted to, which is counted.
    fn enter(
        &mut self,
        directory: BorrowedFd<'_>,
        path: Vec<u8>,
        stat: Statx,
    ) -> Result<Option<Level>, Error> {
        if self.change.action == Action::Grant {
            self.file(directory, &path, &stat)?;
        }
        let opened = match walk::open(directory, b"", OFlags::RDONLY | OFlags::DIRECTORY) {
            Ok(opened) => opened,
            Err(error) if is(&error, Errno::ACCESS) => {
                self.unreachable(
                    FileError {
                        path: path.clone(),
                        act: "list the directory",
                        ..error
                    },
                    &stat,
                );
                if self.change.action == Action::Revoke {
                    self.file(directory, &path, &stat)?;
                }
                return Ok(None);
            }
            Err(error) => return Err(FileError { path, ..error }.into()),
        };
        let mut left = Vec::new();
        for entry in Dir::read_from(&opened).at(&path, "list the directory")? {
            let entry = entry.at(&path, "list the directory")?;
            if !matches!(entry.file_name().to_bytes(), b"." | b"..") {
                left.push(entry.file_name().to_owned());
            }
        }
        Ok(Some(Level {
            directory: Some(opened),
            path,
            stat,
            left,
        }))
    }

    /// Changes the ACLs of one file or directory, unless they are already right.
    fn file(&mut self, file: BorrowedFd<'_>, path: &[u8], stat: &Statx) -> Result<(), Error> {
        self.report.examined += 1;
        let is_setgid = stat.stx_mode & 0o2000 != 0;
        let is_left = self.change.leave_to == Some(stat.stx_uid);
        if is_setgid && is_left {
            return Ok(());
        }
        match self.acls(file, path, stat) {
            Ok(false) => {}
            Err(Error::UnmappedEntry { .. }) if is_left => {}
            Ok(true) => {
                self.report.changed += 1;
                if is_setgid && walk::stat(file, c"", path)?.stx_mode & 0o2000 == 0 {
                    self.report.setgid_lost += 1;
                }
            }
            Err(Error::File(error)) if is(&error, Errno::PERM) => {
                self.report.refused += 1;
                self.example(error, stat);
            }
            Err(error) => return Err(error),
        }
        Ok(())
    }

    /// True if an ACL was written.
    fn acls(&self, file: BorrowedFd<'_>, path: &[u8], stat: &Statx) -> Result<bool, Error> {
        let file = Acls {
            proc_path: format!("/proc/self/fd/{}", file.as_raw_fd()),
            path,
        };
        let is_directory = FileType::from_raw_mode(stat.stx_mode.into()) == FileType::Directory;
        let mut access = file.read(PosixACL::read_acl(&file.proc_path))?;
        // The permission bits that a new default ACL starts from.
        let base = [Qualifier::UserObj, Qualifier::GroupObj, Qualifier::Other]
            .map(|who| (who, access.get(who)));
        let others: Vec<u32> = self
            .change
            .uids
            .iter()
            .copied()
            .filter(|uid| *uid != stat.stx_uid)
            .collect();
        let mut changed = match self.change.action {
            Action::Grant => {
                grant(&mut access, &others, is_directory) && file.write_access(&mut access)?
            }
            Action::Revoke => {
                revoke(&mut access, &self.change.uids) && file.write_access(&mut access)?
            }
        };
        if self.change.share && is_directory {
            let mut default = file.read(PosixACL::read_default_acl(&file.proc_path))?;
            changed |= match self.change.action {
                Action::Grant => {
                    if default.entries().is_empty() {
                        base.iter()
                            .for_each(|(who, bits)| default.set(*who, bits.unwrap_or_default()));
                    }
                    grant(&mut default, &self.change.uids, true)
                        && file.write_default(&mut default)?
                }
                Action::Revoke if revoke(&mut default, &self.change.uids) => {
                    let is_as_made = base.iter().all(|(who, bits)| default.get(*who) == *bits);
                    if is_as_made && !has_names(&default) {
                        removexattr(&file.proc_path, c"system.posix_acl_default")
                            .at(path, "remove the default ACL")?;
                        true
                    } else {
                        file.write_default(&mut default)?
                    }
                }
                Action::Revoke => false,
            };
        }
        Ok(changed)
    }

    fn unreachable(&mut self, error: FileError, stat: &Statx) {
        self.report.unreachable += 1;
        self.example(error, stat);
    }

    fn example(&mut self, error: FileError, stat: &Statx) {
        if self.report.examples.len() < EXAMPLES {
            self.report.examples.push(Refused {
                error,
                owner: stat.stx_uid,
            });
        }
    }
}

/// Opens a directory again by its path below the root. Fails if another one has this path now.
fn reopen(root: BorrowedFd<'_>, shown: &[u8], level: &Level) -> Result<OwnedFd, FileError> {
    let act = "open the directory again";
    let path = level.path.get(shown.len() + 1..).unwrap_or_default();
    let opened = walk::open(root, path, OFlags::RDONLY | OFlags::DIRECTORY);
    let opened = opened.map_err(|error| FileError {
        path: level.path.clone(),
        act,
        ..error
    })?;
    let stat = walk::stat(opened.as_fd(), c"", &level.path)?;
    let id = |stat: &Statx| (stat.stx_dev_major, stat.stx_dev_minor, stat.stx_ino);
    match id(&stat) == id(&level.stat) {
        true => Ok(opened),
        false => Err(FileError::new(&level.path, act, Errno::STALE)),
    }
}

/// The ACLs of one file.
struct Acls<'a> {
    /// The path of the open file in `/proc/self/fd`.
    proc_path: String,
    /// Its path for messages.
    path: &'a [u8],
}

impl Acls<'_> {
    fn read(&self, acl: Result<PosixACL, ACLError>) -> Result<PosixACL, Error> {
        acl.map_err(|error| self.error(&error, "read the ACL"))
    }

    /// Always returns true, because it writes.
    fn write_access(&self, access: &mut PosixACL) -> Result<bool, Error> {
        if has_names(access) {
            self.refuse_unmapped(access)?;
            access
                .write_acl(&self.proc_path)
                .map_err(|error| self.error(&error, "change the ACL"))?;
        } else {
            let bits = |who, shift: u32| access.get(who).unwrap_or_default() << shift;
            let mode = bits(Qualifier::UserObj, 6)
                | bits(Qualifier::GroupObj, 3)
                | bits(Qualifier::Other, 0);
            let value = acl::minimal(mode);
            setxattr(
                &self.proc_path,
                c"system.posix_acl_access",
                &value,
                XattrFlags::empty(),
            )
            .at(self.path, "remove the ACL")?;
        }
        Ok(true)
    }

    /// Always returns true, because it writes.
    fn write_default(&self, default: &mut PosixACL) -> Result<bool, Error> {
        self.refuse_unmapped(default)?;
        default
            .write_default_acl(&self.proc_path)
            .map_err(|error| self.error(&error, "change the default ACL"))?;
        Ok(true)
    }

    /// The kernel shows unmapped ids as -1 and refuses to write such entries.
    fn refuse_unmapped(&self, acl: &PosixACL) -> Result<(), Error> {
        let is_unmapped = |entry: &ACLEntry| {
            matches!(
                entry.qual,
                Qualifier::User(u32::MAX) | Qualifier::Group(u32::MAX)
            )
        };
        let unmapped = acl.entries().iter().any(is_unmapped);
        if unmapped {
            Err(Error::UnmappedEntry {
                path: self.path.to_vec(),
            })
        } else {
            Ok(())
        }
    }

    fn error(&self, error: &ACLError, act: &'static str) -> Error {
        let number = error
            .as_io_error()
            .and_then(io::Error::raw_os_error)
            .unwrap_or(libc::EINVAL);
        if number == Errno::OPNOTSUPP.raw_os_error() {
            return Error::Unsupported {
                path: self.path.to_vec(),
            };
        }
        FileError::new(self.path, act, io::Error::from_raw_os_error(number)).into()
    }
}

/// Sets the entries of `uids` and the mask as `setfacl -m u:UID:rwX` does. True if that changes the
/// ACL.
fn grant(acl: &mut PosixACL, uids: &[u32], is_directory: bool) -> bool {
    if uids.is_empty() {
        return false;
    }
    let before = acl.entries();
    let executes = is_directory || before.iter().any(|entry| entry.perm & ACL_EXECUTE != 0);
    let permissions = if executes {
        ACL_RWX
    } else {
        ACL_READ | ACL_WRITE
    };
    uids.iter()
        .for_each(|uid| acl.set(Qualifier::User(*uid), permissions));
    acl.fix_mask();
    let after = acl.entries();
    before.len() != after.len()
        || !before
            .iter()
            .all(|entry| acl.get(entry.qual) == Some(entry.perm))
}

/// Removes the entries of `uids`. True if there were any. Writing the ACL recalculates the mask.
fn revoke(acl: &mut PosixACL, uids: &[u32]) -> bool {
    uids.iter()
        .filter(|uid| acl.remove(Qualifier::User(**uid)).is_some())
        .count()
        > 0
}

fn has_names(acl: &PosixACL) -> bool {
    acl.entries()
        .iter()
        .any(|entry| matches!(entry.qual, Qualifier::User(_) | Qualifier::Group(_)))
}

fn is(error: &FileError, errno: Errno) -> bool {
    error.cause.raw_os_error() == Some(errno.raw_os_error())
}

impl Classify for Error {
    fn kind(&self) -> ErrorKind {
        match self {
            Error::File(error) => error.kind(),
            Error::Unsupported { .. } => ErrorKind::Unsupported,
            Error::UnmappedEntry { .. } => ErrorKind::UnmappedOwner,
        }
    }
}
