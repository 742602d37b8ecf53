//! Errors of unpacking.

use std::ffi::OsString;
use std::io;
use std::os::unix::ffi::OsStrExt;

use super::names;
use crate::acl;
use crate::allowance::Exceeded;
use crate::archive::reader;
use crate::error::{Classify, ErrorKind, Escaped, FileError, describe};
use crate::input;
use crate::parallel::NoThread;
use crate::tree::xattr;
use crate::workdir::removal;

/// An archive that was not unpacked.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A system call on a file of the tree failed.
    #[error(transparent)]
    File(#[from] FileError),
    /// The archive cannot be read.
    #[error(transparent)]
    Input(#[from] input::Error),
    /// The tar stream is refused.
    #[error(transparent)]
    Archive(#[from] reader::Error),
    /// A member is refused.
    #[error("{}: {cause}", Escaped(member))]
    Member {
        /// Name of the member as stored.
        member: Vec<u8>,
        /// Why.
        cause: Refusal,
    },
    /// The target directory is not empty.
    #[error("the directory is not empty")]
    NotEmpty,
    /// The archive exceeds a limit of the caller.
    #[error("the archive has more than {0} bytes, the limit")]
    Size(u64),
    /// The archive exceeds a limit of the caller.
    #[error("the archive has more than {0} members, the limit")]
    Members(u64),
    /// The file system has too little free space.
    #[error(
        "the archive unpacks to {needed} bytes, and the file system has only {free} left; make room, or unpack it elsewhere"
    )]
    Space {
        /// Announced size of the contents, in bytes.
        needed: u64,
        /// Free space, in bytes.
        free: u64,
    },
    /// Selected members that the archive does not have.
    #[error("not found in the archive: {}", .0.iter().map(|name| Escaped(name.as_bytes()).to_string()).collect::<Vec<_>>().join(", "))]
    NotFound(Vec<OsString>),
    /// A new file could not be noted in the undo journal.
    #[error("write the undo journal: {}", describe(.0))]
    Note(io::Error),
    /// No worker could be started.
    #[error(transparent)]
    Thread(#[from] NoThread),
    /// New files could not be removed after an error.
    #[error(transparent)]
    Remove(#[from] removal::Failed),
    /// A worker failed; its error is reported instead.
    #[error("a worker failed")]
    GivenUp,
    /// The archive has too many members.
    #[error(transparent)]
    Memory(#[from] Exceeded),
}

/// A reason to refuse a member.
#[derive(Debug, thiserror::Error)]
pub enum Refusal {
    /// Its name.
    #[error("the name {0}")]
    Name(names::Error),
    /// The name of a hard link's target.
    #[error("its target {}: the name {cause}", Escaped(target))]
    TargetName {
        /// The target.
        target: Vec<u8>,
        /// The cause.
        cause: names::Error,
    },
    /// It would replace the target directory and is not a directory.
    #[error("it would replace the directory that is unpacked into")]
    Root,
    /// Its path, or a directory above it, is a symbolic link.
    #[error("{} is a symbolic link, which is not followed", Escaped(path))]
    Symlink {
        /// The link.
        path: Vec<u8>,
    },
    /// Its path leads through a symbolic link that does not lead to a directory of the tree.
    #[error(
        "{} is a symbolic link that does not lead to a directory of the tree; only relative links within it are followed",
        Escaped(path)
    )]
    LeadsElsewhere {
        /// The link.
        path: Vec<u8>,
    },
    /// A directory above it is another file.
    #[error("{} is not a directory", Escaped(path))]
    NotADirectory {
        /// The file.
        path: Vec<u8>,
    },
    /// Its path is a directory that is not empty.
    #[error("a directory that is not empty is in its place")]
    DirectoryInPlace,
    /// Another process changed the tree.
    #[error(
        "{} was replaced by another process; stop the program that writes there, then try again",
        Escaped(path)
    )]
    Replaced {
        /// The file.
        path: Vec<u8>,
    },
    /// The target of a hard link has not been unpacked.
    #[error(
        "its target {} has not been unpacked; if only some members are unpacked, include it",
        Escaped(target)
    )]
    Target {
        /// The target.
        target: Vec<u8>,
    },
    /// An id that is not mapped in this namespace.
    #[error(
        "its {kind} {id} is not mapped in this user namespace: the range of subordinate ids is too small"
    )]
    Unmapped {
        /// `owner`, `group`, or the qualifier of an ACL entry.
        kind: &'static str,
        /// The id as stored.
        id: u32,
    },
    /// The target of a symbolic link that is longer than any path.
    #[error("its target has more than {} bytes", names::MAX_PATH)]
    LongTarget,
    /// An extended attribute with a name that no file can have.
    #[error(
        "its extended attribute {} has a name that is empty or has more than 255 bytes",
        Escaped(name)
    )]
    AttributeName {
        /// The name.
        name: Vec<u8>,
    },
    /// A malformed ACL.
    #[error("its {which}: {cause}")]
    Acl {
        /// Which ACL.
        which: &'static str,
        /// The cause.
        cause: acl::Error,
    },
    /// A file capability that cannot be set.
    #[error("{0}")]
    Capability(#[from] CapabilityError),
}

/// A reason to refuse a file capability.
#[derive(Debug, thiserror::Error)]
pub enum CapabilityError {
    /// It belongs to the root of another namespace.
    #[error("its capability belongs to the root id {0} of another user namespace")]
    Foreign(u32),
    /// Its version is unknown.
    #[error("its capability has a form that is not known ({0} bytes)")]
    Unknown(usize),
}

impl From<xattr::Error> for CapabilityError {
    fn from(error: xattr::Error) -> CapabilityError {
        match error {
            xattr::Error::ForeignCapability {
                root: Some(root), ..
            } => CapabilityError::Foreign(root),
            xattr::Error::UnknownCapability { length, .. } => CapabilityError::Unknown(length),
            _ => CapabilityError::Unknown(0),
        }
    }
}

impl Classify for Error {
    fn kind(&self) -> ErrorKind {
        match self {
            Error::File(error) => error.kind(),
            Error::Input(error) => error.kind(),
            Error::Archive(_) => ErrorKind::BadArchive,
            Error::Member { cause, .. } => cause.kind(),
            Error::NotEmpty => ErrorKind::NotEmpty,
            Error::Size(_) => ErrorKind::SizeLimit,
            Error::Members(_) => ErrorKind::MemberLimit,
            Error::Space { .. } => ErrorKind::NoSpace,
            Error::NotFound(_) => ErrorKind::MemberNotFound,
            Error::Remove(error) => error.kind(),
            Error::Memory(error) => error.kind(),
            Error::Note(_) | Error::Thread(_) | Error::GivenUp => ErrorKind::Io,
        }
    }
}

impl Refusal {
    fn kind(&self) -> ErrorKind {
        match self {
            Refusal::Name(names::Error::Absolute) => ErrorKind::AbsoluteName,
            Refusal::TargetName {
                cause: names::Error::Absolute,
                ..
            } => ErrorKind::AbsoluteName,
            Refusal::Unmapped { .. } => ErrorKind::UnmappedOwner,
            Refusal::Capability(_) => ErrorKind::BadCapability,
            Refusal::Replaced { .. } => ErrorKind::Changed,
            Refusal::Symlink { .. } => ErrorKind::ThroughLink,
            _ => ErrorKind::BadArchive,
        }
    }
}

impl Error {
    /// Refuses `member` because of `cause`.
    pub fn refused(member: &[u8], cause: impl Into<Refusal>) -> Error {
        Error::Member {
            member: member.to_vec(),
            cause: cause.into(),
        }
    }
}
