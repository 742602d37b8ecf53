//! What an operation tells its caller while it works.

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::error::Escaped;

/// Hears from a running operation. All methods are called in the caller's own process and thread.
///
/// `()` ignores everything.
pub trait Observer {
    /// Something that does not stop the operation.
    fn notice(&mut self, notice: &Notice);

    /// So many bytes of `total` are processed; called about ten times per second, and with a
    /// `total` of 0 when the measured part of the work is over.
    fn progress(&mut self, done: u64, total: u64);
}

impl Observer for () {
    fn notice(&mut self, _: &Notice) {}

    fn progress(&mut self, _: u64, _: u64) {}
}

/// How much a [`Notice`] matters.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Severity {
    /// Shown to users who ask for details.
    Detail,
    /// Shown unless the user asks for silence.
    Warning,
}

/// Something that an operation tells and that does not stop it. The text is complete in itself.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub enum Notice {
    /// A line of `/etc/subuid` or `/etc/subgid` that is ignored.
    SubidLine(String),
    /// `pack`: no frame of the older archive can be reused.
    NothingReused {
        /// The older archive.
        archive: String,
        /// The reason.
        reason: String,
    },
    /// `pack`: frames of the older archive are damaged and were compressed again.
    DamagedFrames {
        /// The older archive.
        archive: String,
        /// How many.
        count: u64,
    },
    /// `pack`, `unpack`, `diff`: an exclude pattern that matched nothing.
    UnmatchedExclude {
        /// The pattern.
        pattern: String,
        /// What may be meant.
        suggestion: Option<String>,
    },
    /// `pack`, `unpack`: a path that was left out.
    LeftOut {
        /// The path, escaped.
        path: String,
        /// Why.
        reason: String,
    },
    /// `unpack`: other users can run files of the tree with the rights of root of the namespace.
    SetuidReachable {
        /// The directory.
        directory: String,
        /// How many files are setuid root or setgid root.
        count: u64,
        /// Root of the namespace, as a uid outside: the first subordinate id, or the caller in id
        /// layout `caller`.
        uid: u32,
    },
    /// `unpack`: so many members of an unknown type became regular files.
    UnknownTypes(u64),
    /// `chroot`, `imager`, `unshare`: the command sees the `/proc` of the surrounding container.
    ProcMasked,
    /// `imager`: the cached copy of the archive is used.
    CopyFound,
    /// `imager`: the archive was unpacked into the cache.
    CopyCreated,
    /// `imager`: so many copies were removed from the cache.
    CopiesRemoved(usize),
    /// `imager`: no overlay can be mounted, so the archive was unpacked for this run alone.
    NoOverlay {
        /// The cache.
        cache: String,
        /// The reason.
        reason: String,
    },
    /// `imager`: what an earlier run left cannot be removed.
    LeftoversKept(String),
    /// `imager`: another process holds the lock on the package repository.
    WaitingForLock,
    /// `imager`: a step of the package installation begins.
    Step(String),
}

impl Notice {
    /// How much it matters.
    pub fn severity(&self) -> Severity {
        match self {
            Notice::CopyFound
            | Notice::CopyCreated
            | Notice::CopiesRemoved(_)
            | Notice::LeftOut { .. }
            | Notice::WaitingForLock
            | Notice::Step(_) => Severity::Detail,
            _ => Severity::Warning,
        }
    }
}

/// The text of [`Notice::ProcMasked`], with the remedy.
const PROC_MASKED: &str = "/proc stays as it was, because parts of it are covered here: commands that look for their own processes in it may fail; \
    a container needs `--security-opt systempaths=unconfined` (docker) or `--security-opt unmask=/proc/*` (podman) for it";

impl fmt::Display for Notice {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Notice::SubidLine(text) | Notice::Step(text) => out.write_str(text),
            Notice::NothingReused { archive, reason } => {
                write!(out, "{archive:?}: no frame is reused: {reason}")
            }
            Notice::DamagedFrames { archive, count } => {
                write!(
                    out,
                    "{archive:?}: {count} frame(s) are corrupt and were recompressed"
                )
            }
            Notice::UnmatchedExclude {
                pattern,
                suggestion,
            } => {
                write!(
                    out,
                    "the exclude pattern {pattern:?} matches nothing: patterns are anchored at the \
                     root of the tree"
                )?;
                match suggestion {
                    Some(suggestion) => write!(out, "; did you mean {suggestion:?}?"),
                    None => Ok(()),
                }
            }
            Notice::LeftOut { path, reason } => write!(out, "left out: {path} ({reason})"),
            Notice::SetuidReachable {
                directory,
                count,
                uid,
            } => write!(
                out,
                "{directory:?}: {count} setuid files run as uid {uid} for every user of this \
                 machine who starts them: close a directory above it to others (chmod o-x)"
            ),
            Notice::UnknownTypes(count) => write!(
                out,
                "members of an unknown type, unpacked as regular files: {count}"
            ),
            Notice::ProcMasked => out.write_str(PROC_MASKED),
            Notice::CopyFound => out.write_str("the copy in the cache is used"),
            Notice::CopyCreated => out.write_str("unpacked into the cache"),
            Notice::CopiesRemoved(count) => write!(out, "copies removed from the cache: {count}"),
            Notice::NoOverlay { cache, reason } => write!(
                out,
                "no overlay can be mounted in {cache:?} ({reason}), so the archive was unpacked \
                 for this run alone: put the cache on a file system like ext4, xfs or btrfs"
            ),
            Notice::LeftoversKept(reason) => {
                write!(
                    out,
                    "leftovers of an earlier run cannot be removed: {}",
                    Escaped(reason)
                )
            }
            Notice::WaitingForLock => out.write_str("waiting for the lock on the repository"),
        }
    }
}
