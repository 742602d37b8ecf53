//! Why an archive was not unpacked.

use std::io;

use super::names;
use crate::archive::reader;
use crate::error::{Escaped, FileError, describe};
use crate::input;
use crate::tree::xattr;
use crate::{acl, remove};

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
        /// Its name as stored.
        member: Vec<u8>,
        /// Why.
        cause: Refusal,
    },
    /// DIR has something in it.
    #[error("the directory is not empty; --replace removes it first, --merge unpacks over it")]
    NotEmpty,
    /// More than the user allows.
    #[error("the archive has more than {0} bytes, the limit that was given (--limit-size)")]
    Size(u64),
    /// More than the user allows.
    #[error("the archive has more than {0} members, the limit that was given (--limit-members)")]
    Members(u64),
    /// Too little room on the file system.
    #[error(
        "the archive unpacks to {needed} bytes, and the file system has only {free} left; make room, or unpack it elsewhere"
    )]
    Space {
        /// What the archive says that it holds, in bytes.
        needed: u64,
        /// What is free, in bytes.
        free: u64,
    },
    /// Members that were asked for and are not there.
    #[error("not found in the archive: {}", .0.iter().map(|name| Escaped(name).to_string()).collect::<Vec<_>>().join(", "))]
    NotFound(Vec<String>),
    /// What is to be undone later could not be noted.
    #[error("note what is made: {}", describe(.0))]
    Note(io::Error),
    /// No worker could be started.
    #[error("start a thread: {}", describe(.0))]
    Thread(io::Error),
    /// What was made could not be removed.
    #[error(transparent)]
    Remove(#[from] remove::Failed),
    /// A worker failed; its own error counts.
    #[error("the work was given up")]
    GivenUp,
}

/// Why a member is refused.
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
        /// What is wrong with it.
        cause: names::Error,
    },
    /// It stands for DIR itself and is no directory.
    #[error("it would replace the directory that is unpacked into")]
    Root,
    /// A symbolic link stands where it, or a directory above it, must be.
    #[error("{} is a symbolic link, which is not followed", Escaped(path))]
    Symlink {
        /// The link.
        path: Vec<u8>,
    },
    /// A file stands where a directory above it must be.
    #[error("{} is no directory", Escaped(path))]
    NotADirectory {
        /// The file.
        path: Vec<u8>,
    },
    /// A directory with files stands in its place.
    #[error("a directory that is not empty stands in its place")]
    DirectoryInPlace,
    /// Somebody else changed the tree meanwhile.
    #[error(
        "{} was replaced by another process; let nothing else write there meanwhile",
        Escaped(path)
    )]
    Replaced {
        /// The file.
        path: Vec<u8>,
    },
    /// The target of a hard link is not there.
    #[error(
        "its target {} is none of the files that were unpacked before it; where members are named, name it too",
        Escaped(target)
    )]
    Target {
        /// The target.
        target: Vec<u8>,
    },
    /// An owner that has no id here.
    #[error(
        "its {kind} {id} is not mapped in this user namespace: the range of subordinate ids is too small (see isar-tarball idmap)"
    )]
    Unmapped {
        /// `owner`, `group`, or what an ACL names.
        kind: &'static str,
        /// The id as stored.
        id: u32,
    },
    /// An ACL that cannot be understood.
    #[error("its {which}: {cause}")]
    Acl {
        /// Which ACL.
        which: &'static str,
        /// What is wrong with it.
        cause: acl::Error,
    },
    /// A file capability that cannot be set.
    #[error("{0}")]
    Capability(#[from] CapabilityError),
}

/// Why a file capability is refused.
#[derive(Debug, thiserror::Error)]
pub enum CapabilityError {
    /// Only the root of another namespace has it.
    #[error(
        "its capability belongs to the root id {0} of another user namespace; --no-xattrs unpacks without capabilities"
    )]
    Foreign(u32),
    /// In no known form.
    #[error(
        "its capability has a form that is not known ({0} bytes); --no-xattrs unpacks without capabilities"
    )]
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

impl Error {
    /// `member` is refused because of `cause`.
    pub fn refused(member: &[u8], cause: impl Into<Refusal>) -> Error {
        Error::Member {
            member: member.to_vec(),
            cause: cause.into(),
        }
    }
}
