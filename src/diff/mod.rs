//! Differences between two trees, each a directory or an archive.
//!
//! Each side is read once into its [`Files`], with a digest of each content: 200 to 300 bytes per
//! name, however long its path is. Then the two are compared.
//!
//! Not counted as differences:
//! - where the holes of a file are: a hole and zeros are the same content;
//! - the group's permissions in the mode of a file with an access ACL: the kernel shows the ACL's
//!   mask there, bsdtar stores the owning group's permissions instead;
//! - the mode of a symbolic link, and the size of anything but a file;
//! - which of the names of a file the archive stores as the file and which as hard links.

mod archive;
mod compare;
mod content;
mod directory;
mod names;

use serde::{Deserialize, Serialize};
use std::mem::size_of;

pub use archive::archive;
pub use compare::{Difference, Mtime, Rules, What, compare};
pub use directory::directory;

use crate::allowance::{Allowance, Exceeded};
use crate::entry::{Kind, Timestamp, Xattr};
use crate::error::{Classify, ErrorKind, Escaped, FileError, shown};
use crate::member_stream;
use crate::tree::exclude::Patterns;
use crate::tree::{walk, xattr};
use names::Names;

/// A side that cannot be read to its end.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The archive.
    #[error(transparent)]
    Contents(#[from] member_stream::Error),
    /// The directory.
    #[error(transparent)]
    Walk(#[from] walk::Error),
    /// A file of the directory.
    #[error(transparent)]
    File(#[from] FileError),
    /// Attributes of a file of the directory.
    #[error(transparent)]
    Xattr(#[from] xattr::Error),
    /// A file of the directory changed while it was read.
    #[error(
        "{}: changed while it was being read; stop the program that writes there, then try again",
        Escaped(shown(path))
    )]
    Changed {
        /// The path.
        path: Vec<u8>,
    },
    /// A hard link of the archive without target.
    #[error(
        "{}: a hard link to {}, which does not stand before it in the archive",
        Escaped(path),
        Escaped(target)
    )]
    DanglingLink {
        /// The link.
        path: Vec<u8>,
        /// The target.
        target: Vec<u8>,
    },
    /// It has too many names.
    #[error(transparent)]
    Memory(#[from] Exceeded),
}

/// Options for reading a side.
#[derive(Clone, Debug, Default)]
pub struct Options {
    /// Files to leave out, with everything below them.
    pub exclude: Patterns,
    /// Cross mount points of a directory. By default they count as empty directories.
    pub cross_mounts: bool,
    /// Number of threads that read the files of a directory, at least 1.
    pub threads: usize,
    /// Memory for the names and properties of files, on both sides together.
    pub allowance: Allowance,
}

/// Index of a file in [`Files`]: names with the same index are hard links of each other.
pub type FileId = usize;

/// One side.
#[derive(Debug, Default)]
pub struct Files {
    /// Paths below the root, which is the empty path.
    names: Names,
    files: Vec<Facts>,
    /// Files that were left out.
    pub left_out: LeftOut,
    /// True for a directory, false for an archive.
    is_directory: bool,
}

/// Files that were left out of a side.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct LeftOut {
    /// Names that match a pattern; in a directory only the topmost ones.
    pub excluded: u64,
    /// Sockets, which archives cannot store.
    pub sockets: u64,
    /// Mount points whose contents were left out.
    pub mounts: u64,
    /// ACL entries of a directory for users and groups that the namespace does not map.
    pub acl_entries: u64,
}

/// The compared properties of a file.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Facts {
    /// Never a hard link; a file's extents are not kept.
    kind: Kind,
    mode: u32,
    uid: u32,
    gid: u32,
    mtime: Timestamp,
    /// `user.*` and `security.capability`, sorted by name.
    xattrs: Vec<Xattr>,
    /// ACLs as text with numeric ids.
    access_acl: Option<Vec<u8>>,
    default_acl: Option<Vec<u8>>,
    /// Digest of a regular file.
    digest: content::Digest,
}

impl Facts {
    /// Memory that it takes, in bytes.
    fn bytes(&self) -> usize {
        let target = match &self.kind {
            Kind::Symlink { target } => target.len(),
            _ => 0,
        };
        let xattrs = self.xattrs.iter();
        let xattrs = xattrs.map(|(name, value)| size_of::<Xattr>() + name.len() + value.len());
        let acls = [&self.access_acl, &self.default_acl].into_iter().flatten();
        size_of::<Facts>() + target + xattrs.sum::<usize>() + acls.map(Vec::len).sum::<usize>()
    }
}

impl Classify for Error {
    fn kind(&self) -> ErrorKind {
        match self {
            Error::Contents(error) => error.kind(),
            Error::Walk(error) => error.kind(),
            Error::File(error) => error.kind(),
            Error::Xattr(error) => error.kind(),
            Error::Changed { .. } => ErrorKind::Changed,
            Error::DanglingLink { .. } => ErrorKind::BadArchive,
            Error::Memory(error) => error.kind(),
        }
    }
}
