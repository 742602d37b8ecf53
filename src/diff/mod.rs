//! What differs between two trees, each a directory or an archive.
//!
//! Each side is read once, from beginning to end, into its [`Files`]: a hundred bytes or two for
//! each name and a digest for each content. Then the two are compared.
//!
//! What is no difference:
//! - where the holes of a file are: a hole and zeros are the same content;
//! - the group's permissions in the mode of a file with an access ACL: the kernel shows the ACL's mask there, bsdtar stores the owning group's permissions instead;
//! - the mode of a symbolic link, and the size of anything but a file;
//! - which of its names the archive calls the file and which the hard links.

mod archive;
mod compare;
mod content;
mod directory;

use std::collections::BTreeMap;

pub use archive::archive;
pub use compare::{Difference, Mtime, Outcome, Rules, What, compare};
pub use directory::directory;

use crate::entry::{Kind, Timestamp, Xattr};
use crate::error::{Escaped, FileError};
use crate::member_stream;
use crate::tree::exclude::Patterns;
use crate::tree::{walk, xattr};

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
    /// A file of the directory is not any more what it was.
    #[error(
        "{}: changed while it was being read; let nothing write there meanwhile",
        Escaped(path)
    )]
    Changed {
        /// The path.
        path: Vec<u8>,
    },
    /// A hard link of the archive to nothing.
    #[error(
        "{}: a hard link to {}, which does not stand before it in the archive",
        Escaped(path),
        Escaped(target)
    )]
    DanglingLink {
        /// The link.
        path: Vec<u8>,
        /// What it names.
        target: Vec<u8>,
    },
}

/// How a side is read.
#[derive(Clone, Debug, Default)]
pub struct Options {
    /// What is left out, with all below it.
    pub exclude: Patterns,
    /// Enter other mounts of a directory; else their mount points count as empty directories.
    pub cross_mounts: bool,
    /// Threads that read the files of a directory, at least 1.
    pub threads: usize,
}

/// The place of a file in [`Files`]: names with the same one are hard links of each other.
pub type FileId = usize;

/// One side.
#[derive(Clone, Debug, Default)]
pub struct Files {
    /// Paths below the root (which is the empty path), in byte order.
    names: BTreeMap<Vec<u8>, FileId>,
    files: Vec<Facts>,
    /// What was left out.
    pub left_out: LeftOut,
    /// A directory's files, not an archive's.
    is_directory: bool,
}

/// What was left out of a side.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct LeftOut {
    /// Names that a pattern covers; of a directory the topmost only.
    pub excluded: u64,
    /// Sockets, which no archive holds.
    pub sockets: u64,
    /// Mount points whose contents were left out.
    pub mounts: u64,
}

/// What is compared of a file.
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
    /// Of a regular file.
    digest: content::Digest,
}
