//! Which extended attributes are stored, and how.
//!
//! | attribute | stored |
//! |---|---|
//! | `user.*` | as it is, except for `user.isar-tarball.*`, which this program sets itself |
//! | `security.capability` | as version 2, which names no root: it belongs to the root of whatever namespace extracts it |
//! | `system.posix_acl_access`, `system.posix_acl_default` | as text with numeric ids, see [`crate::acl`] |
//! | everything else | skipped and counted: a user namespace can neither read nor restore it |

use std::ffi::OsStr;
use std::io;
use std::ops::AddAssign;
use std::os::fd::{AsRawFd, BorrowedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use rustix::io::Errno;
use serde::{Deserialize, Serialize};
use xattr::{FileExt, XAttrs};

use crate::acl;
use crate::entry::Xattr;
use crate::error::{Classify, ErrorKind, Escaped, FileError, PathContext, shown};

/// An attribute that cannot be stored.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// An attribute could not be read.
    #[error(transparent)]
    File(#[from] FileError),
    /// A file capability of the root of another namespace.
    #[error(
        "{}: its capability belongs to the root of another user namespace{}; set it anew with setcap inside the tree's own namespace, or leave extended attributes out",
        Escaped(path), root.map(|id| format!(" (root id {id})")).unwrap_or_default()
    )]
    ForeignCapability {
        /// The file.
        path: Vec<u8>,
        /// The user id of that root in this namespace, if mapped.
        root: Option<u32>,
    },
    /// A file capability of an unknown version.
    #[error(
        "{}: security.capability has a form that is not known ({length} bytes); set it anew with setcap, or leave extended attributes out",
        Escaped(path)
    )]
    UnknownCapability {
        /// The file.
        path: Vec<u8>,
        /// Length of the value in bytes.
        length: usize,
    },
    /// An ACL that cannot be written as text.
    #[error("{}: {name}: {cause}", Escaped(path))]
    Acl {
        /// The file.
        path: Vec<u8>,
        /// Which ACL.
        name: &'static str,
        /// The cause.
        cause: acl::Error,
    },
}

/// The attributes of a file that are stored.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Kept {
    /// Sorted by name.
    pub xattrs: Vec<Xattr>,
    /// The access ACL as text.
    pub access_acl: Option<Vec<u8>>,
    /// The default ACL as text.
    pub default_acl: Option<Vec<u8>>,
    /// What was skipped.
    pub skipped: Skipped,
}

/// Counts of what was skipped.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Skipped {
    /// Attributes that are not stored.
    pub attributes: u64,
    /// Entries of ACLs for users and groups that the namespace does not map.
    pub acl_entries: u64,
}

impl AddAssign for Skipped {
    fn add_assign(&mut self, more: Skipped) {
        self.attributes += more.attributes;
        self.acl_entries += more.acl_entries;
    }
}

/// Handling of ACL entries for users and groups that the namespace does not map.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum UnmappedEntries {
    /// Fail.
    Refuse,
    /// Leave them out, and count them.
    LeaveOut,
}

/// A file whose attributes are read.
#[derive(Clone, Copy)]
pub enum Handle<'a> {
    /// Open for reading.
    Open(BorrowedFd<'a>),
    /// A name in an open directory, not followed if it is a symbolic link. For named pipes and
    /// devices, which must not be opened.
    Named(BorrowedFd<'a>, &'a OsStr),
}

impl Handle<'_> {
    fn list(&self) -> io::Result<XAttrs> {
        match self {
            Handle::Open(file) => Open(*file).list_xattr(),
            Handle::Named(..) => xattr::list(self.path()),
        }
    }

    fn get(&self, name: &OsStr) -> io::Result<Option<Vec<u8>>> {
        match self {
            Handle::Open(file) => Open(*file).get_xattr(name),
            Handle::Named(..) => xattr::get(self.path(), name),
        }
    }

    /// Before Linux 6.13 there is no getxattrat(2), so a path through `/proc` is used.
    fn path(&self) -> PathBuf {
        let (fd, name) = match self {
            Handle::Open(file) => (file, OsStr::new("")),
            Handle::Named(directory, name) => (directory, *name),
        };
        Path::new("/proc/self/fd")
            .join(fd.as_raw_fd().to_string())
            .join(name)
    }
}

/// The crate `xattr` implements its trait for some types only; this adds a borrowed descriptor.
struct Open<'a>(BorrowedFd<'a>);

impl AsRawFd for Open<'_> {
    fn as_raw_fd(&self) -> i32 {
        self.0.as_raw_fd()
    }
}

impl FileExt for Open<'_> {}

/// Reads the attributes of a file, called `path` in messages.
///
/// Skips symbolic links: none of the stored attributes can be set on one (`xattr(7)`).
pub fn read(file: Handle<'_>, path: &[u8], unmapped: UnmappedEntries) -> Result<Kept, Error> {
    let path = shown(path);
    let names = match file.list() {
        Ok(names) => names,
        Err(error) if is_unsupported(&error) => return Ok(Kept::default()),
        Err(error) => return Err(FileError::new(path, "list extended attributes", error).into()),
    };
    let mut kept = Kept::default();
    for name in names {
        // `None`: removed between listing and reading. The later comparison of the ctime reports
        // that.
        let value = || file.get(&name).at(path, "read an extended attribute");
        match name.as_bytes() {
            user if user.starts_with(b"user.") && !is_own_mark(user) => {
                if let Some(value) = value()? {
                    kept.xattrs.push((user.to_vec(), value));
                }
            }
            b"security.capability" => match file.get(&name) {
                Ok(Some(value)) => kept
                    .xattrs
                    .push((name.as_bytes().to_vec(), capability_v2(&value, path)?)),
                Ok(None) => {}
                Err(error) if error.raw_os_error() == Some(Errno::OVERFLOW.raw_os_error()) => {
                    return Err(Error::ForeignCapability {
                        path: path.to_vec(),
                        root: None,
                    });
                }
                Err(error) => {
                    return Err(FileError::new(path, "read security.capability", error).into());
                }
            },
            b"system.posix_acl_access" => {
                let raw = mapped(value()?, unmapped, &mut kept.skipped);
                kept.access_acl = acl_text(raw, path, "access ACL")?;
            }
            b"system.posix_acl_default" => {
                let raw = mapped(value()?, unmapped, &mut kept.skipped);
                kept.default_acl = acl_text(raw, path, "default ACL")?;
            }
            _ => kept.skipped.attributes += 1,
        }
    }
    kept.xattrs.sort();
    Ok(kept)
}

fn is_unsupported(error: &io::Error) -> bool {
    // A file system without attributes has none to store.
    error.raw_os_error() == Some(Errno::OPNOTSUPP.raw_os_error())
}

/// The ACL that is stored.
fn mapped(
    raw: Option<Vec<u8>>,
    unmapped: UnmappedEntries,
    skipped: &mut Skipped,
) -> Option<Vec<u8>> {
    match unmapped {
        UnmappedEntries::Refuse => raw,
        UnmappedEntries::LeaveOut => {
            let (kept, left_out) = acl::without_unmapped(&raw?);
            skipped.acl_entries += left_out;
            Some(kept)
        }
    }
}

fn acl_text(
    raw: Option<Vec<u8>>,
    path: &[u8],
    name: &'static str,
) -> Result<Option<Vec<u8>>, Error> {
    raw.map(|raw| acl::to_text(&raw))
        .transpose()
        .map_err(|cause| Error::Acl {
            path: path.to_vec(),
            name,
            cause,
        })
}

// Layout of the value (linux/capability.h, struct vfs_ns_cap_data): magic with the revision in its
// top byte and the effective flag in its lowest bit, then permitted and inheritable, 32 bits each,
// once (revision 1) or twice (2 and 3), then the root's user id (3); little-endian.
const REVISION_1: u32 = 0x0100_0000;
const REVISION_2: u32 = 0x0200_0000;
const REVISION_3: u32 = 0x0300_0000;
const REVISION_MASK: u32 = 0xff00_0000;

/// Converts the value of `security.capability` to revision 2 of the format.
pub fn capability_v2(value: &[u8], path: &[u8]) -> Result<Vec<u8>, Error> {
    let unknown = || Error::UnknownCapability {
        path: path.to_vec(),
        length: value.len(),
    };
    let (magic, sets) = value.split_first_chunk::<4>().ok_or_else(unknown)?;
    let magic = u32::from_le_bytes(*magic);
    let sets = match (magic & REVISION_MASK, sets.len()) {
        (REVISION_1, 8) => [sets, &[0; 8]].concat(),
        (REVISION_2, 16) => sets.to_vec(),
        (REVISION_3, 20) => {
            let (sets, root) = sets.split_last_chunk::<4>().ok_or_else(unknown)?;
            let root = u32::from_le_bytes(*root);
            if root != 0 {
                return Err(Error::ForeignCapability {
                    path: path.to_vec(),
                    root: Some(root),
                });
            }
            sets.to_vec()
        }
        _ => return Err(unknown()),
    };
    Ok([
        &(magic & !REVISION_MASK | REVISION_2).to_le_bytes(),
        sets.as_slice(),
    ]
    .concat())
}

impl Classify for Error {
    fn kind(&self) -> ErrorKind {
        match self {
            Error::File(error) => error.kind(),
            Error::Acl {
                cause: acl::Error::UnmappedId(_),
                ..
            } => ErrorKind::UnmappedOwner,
            Error::ForeignCapability { .. } | Error::UnknownCapability { .. } => {
                ErrorKind::BadCapability
            }
            Error::Acl { .. } => ErrorKind::BadTree,
        }
    }
}

/// True for the marks that this program sets on working directories: they are not part of the tree.
pub fn is_own_mark(name: &[u8]) -> bool {
    name.starts_with(b"user.isar-tarball.")
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    const V2: [u8; 20] = [1, 0, 0, 2, 0, 32, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];

    fn v3(root: u32) -> Vec<u8> {
        let mut value = V2.to_vec();
        value[3] = 3;
        value.extend(root.to_le_bytes());
        value
    }

    #[test]
    fn capabilities_are_stored_as_revision_2() {
        assert_eq!(capability_v2(&V2, b"ping").unwrap(), V2);
        assert_eq!(capability_v2(&v3(0), b"ping").unwrap(), V2);
        assert_eq!(
            capability_v2(&[1, 0, 0, 1, 0, 32, 0, 0, 0, 0, 0, 0], b"ping").unwrap(),
            V2
        );
    }

    #[test]
    fn a_capability_of_a_foreign_root_is_an_error_that_says_so() {
        let error = capability_v2(&v3(100_000), b"usr/bin/ping")
            .unwrap_err()
            .to_string();
        assert!(
            error.starts_with("usr/bin/ping: ") && error.contains("root id 100000"),
            "{error}"
        );
    }

    #[test]
    fn capabilities_of_unknown_form_are_refused() {
        for value in [&b""[..], &V2[..19], &[0; 20], &v3(0)[..23]] {
            assert!(matches!(
                capability_v2(value, b"x"),
                Err(Error::UnknownCapability { .. })
            ));
        }
    }
}
