//! Packing a tree into an archive.
//!
//! walk → plan (order, frames) → workers fill whole frames and compress them → one writer writes
//! them in order. No step depends on a later one, and the bytes of the archive depend only on the
//! tree and the options.

pub mod audit;
mod members;
mod pipeline;
pub mod plan;
pub mod reuse;

use serde::{Deserialize, Serialize};
use std::io::Write;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::atomic::Ordering;

use rustix::io::Errno;
use sha2::{Digest, Sha256};

use crate::archive::writer;
use crate::entry::Timestamp;
use crate::error::{Escaped, FileError, shown};
use crate::members::Members;
use crate::parallel::NoThread;
pub use crate::progress::Progress;
use crate::sbuild::check::StreamingCheck;
use crate::tree::walk::{self, LeftOut, NodeKind, Skipped, Tree};
use crate::tree::xattr::{self, UnmappedEntries};
use crate::zst::compress::{self, Level};
use plan::{FrameSizing, Plan};
use reuse::{Reuse, State};

/// The remedy for a tree that changes.
const REMEDY: &str = "stop the program that writes to the tree, then pack it again";

/// A tree that could not be packed.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A system call on a file of the tree failed.
    #[error(transparent)]
    File(#[from] FileError),
    /// The tree could not be walked.
    #[error(transparent)]
    Walk(#[from] walk::Error),
    /// An extended attribute cannot be stored.
    #[error(transparent)]
    Xattr(#[from] xattr::Error),
    /// A member cannot be stored.
    #[error(transparent)]
    Member(#[from] writer::Error),
    /// Owners that sbuild's map cannot hold.
    #[error(transparent)]
    Unmapped(#[from] audit::UnmappedIds),
    /// Compression failed.
    #[error(transparent)]
    Compress(#[from] compress::Error),
    /// A frame does not decompress to its content.
    #[error(
        "a frame does not decompress to what was compressed: a RAM error or a bug in this program; try again, and test the memory"
    )]
    Unverified,
    /// The memory limit is too small.
    #[error("{memory} bytes of memory are too few for this tree and level; at least {}M is needed", least.div_ceil(1 << 20))]
    Memory {
        /// The limit, in bytes.
        memory: u64,
        /// The minimum, in bytes.
        least: u64,
    },
    /// No thread could be started.
    #[error(transparent)]
    Thread(#[from] NoThread),
    /// The archive could not be written.
    #[error("write the archive: {}", crate::error::describe(.0))]
    Write(std::io::Error),
    /// A file was removed since the walk.
    #[error("{}: vanished while packing; {REMEDY}", Escaped(shown(path)))]
    Vanished {
        /// The file.
        path: Vec<u8>,
    },
    /// A file was replaced by another since the walk.
    #[error(
        "{}: replaced by another file while packing; {REMEDY}",
        Escaped(shown(path))
    )]
    Replaced {
        /// The file.
        path: Vec<u8>,
    },
    /// A file became shorter.
    #[error(
        "{}: shrank from {from} to {to} bytes while packing; {REMEDY}",
        Escaped(shown(path))
    )]
    Shrank {
        /// The file.
        path: Vec<u8>,
        /// Its size before, in bytes.
        from: u64,
        /// Its size now, in bytes.
        to: u64,
    },
    /// A file became longer.
    #[error(
        "{}: grew from {from} to {to} bytes while packing; {REMEDY}",
        Escaped(shown(path))
    )]
    Grew {
        /// The file.
        path: Vec<u8>,
        /// Its size before, in bytes.
        from: u64,
        /// Its size now, in bytes.
        to: u64,
    },
    /// Something about a file changed.
    #[error("{}: changed while packing; {REMEDY}", Escaped(shown(path)))]
    Changed {
        /// The file.
        path: Vec<u8>,
    },
}

impl Error {
    /// `error` from opening a file that the walk has seen.
    fn gone(error: FileError, path: &[u8]) -> Error {
        match error.cause.raw_os_error().map(Errno::from_raw_os_error) {
            Some(Errno::NOENT) => Error::Vanished {
                path: path.to_vec(),
            },
            // Errors of O_NOFOLLOW, O_DIRECTORY and sockets if a file of another type is there now.
            Some(Errno::LOOP | Errno::NOTDIR | Errno::NXIO) => Error::Replaced {
                path: path.to_vec(),
            },
            _ => FileError {
                path: path.to_vec(),
                ..error
            }
            .into(),
        }
    }
}

/// The form of the archive.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    /// Plain zstd frames.
    Zstd(Level),
    /// A plain tar.
    Tar,
}

/// Handling of owners that sbuild's map cannot hold.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Unmapped {
    /// Refuse the tree.
    #[default]
    Error,
    /// Store them as 65534 (`nobody` and `nogroup`), and leave out ACL entries for users and groups
    /// that the namespace does not map.
    Squash,
}

impl From<Unmapped> for UnmappedEntries {
    fn from(unmapped: Unmapped) -> UnmappedEntries {
        match unmapped {
            Unmapped::Error => UnmappedEntries::Refuse,
            Unmapped::Squash => UnmappedEntries::LeaveOut,
        }
    }
}

/// How much memory is allowed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Memory {
    /// For up to two workers, in bytes. Limits the size of frames, so the bytes of the archive
    /// depend on it.
    pub base: u64,
    /// For each further worker, in bytes.
    pub per_thread: u64,
}

impl Memory {
    /// Enough for two of the largest frames with their compressed bytes.
    pub const DEFAULT: Memory = Memory {
        base: 512 << 20,
        per_thread: 192 << 20,
    };

    /// The same limit in bytes for any number of workers.
    pub fn limit(bytes: u64) -> Memory {
        Memory {
            base: bytes,
            per_thread: 0,
        }
    }

    /// The limit for this number of workers, in bytes.
    pub fn of(self, threads: usize) -> u64 {
        self.base.saturating_add(
            self.per_thread
                .saturating_mul(threads.saturating_sub(2) as u64),
        )
    }
}

/// Options of packing.
#[derive(Clone, Debug)]
pub struct Options {
    /// Options of the walk.
    pub walk: walk::Options,
    /// The form of the archive.
    pub format: Format,
    /// Worker threads, at least 1. The archive is the same for any number.
    pub threads: usize,
    /// The memory limit.
    pub memory: Memory,
    /// Store extended attributes and ACLs.
    pub xattrs: bool,
    /// Handling of owners that sbuild's map cannot hold.
    pub unmapped: Unmapped,
    /// `SOURCE_DATE_EPOCH`: later times are stored as this, in seconds since 1970.
    pub clamp_mtime: Option<i64>,
    /// Store whole seconds only.
    pub whole_seconds: bool,
    /// Compute the SHA-256 of the archive.
    pub sha256: bool,
    /// The sizes of frames; a lower memory limit may make them smaller.
    pub cuts: FrameSizing,
}

impl Options {
    fn mtime(&self, mtime: Timestamp) -> Timestamp {
        let clamp = self.clamp_mtime.map(|seconds| Timestamp {
            seconds,
            nanoseconds: 0,
        });
        let mtime = clamp.map_or(mtime, |clamp| mtime.min(clamp));
        Timestamp {
            nanoseconds: if self.whole_seconds {
                0
            } else {
                mtime.nanoseconds
            },
            ..mtime
        }
    }
}

/// Summary of a packed archive.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Summary {
    /// The members.
    pub members: Members,
    /// Bytes of the tar stream.
    pub tar_bytes: u64,
    /// Bytes of the archive.
    pub archive_bytes: u64,
    /// Frames of the archive, 0 in a plain tar.
    pub frames: u64,
    /// Counts of skipped files.
    pub skipped: Skipped,
    /// Number of skipped extended attributes.
    pub skipped_xattrs: u64,
    /// Number of ACL entries for users and groups that the namespace does not map, left out with
    /// [`Unmapped::Squash`].
    pub skipped_acl_entries: u64,
    /// Files whose owner was stored as nobody.
    pub squashed: u64,
    /// SHA-256 of the archive, if requested.
    pub sha256: Option<[u8; 32]>,
    /// Frames reused from an older archive.
    pub reused_frames: u64,
    /// Compressed bytes of the reused frames.
    pub reused_bytes: u64,
    /// Frames that are damaged in the older archive and were compressed again.
    pub damaged_frames: u64,
}

/// Text that makes a tiny archive long enough for sbuild to detect its format.
///
/// sbuild 0.89 reads the first 512 bytes of the file and refuses a shorter one. This text does not
/// compress below that.
fn filler() -> Vec<u8> {
    (0..24u8)
        .flat_map(|number| hex(&Sha256::digest([number]).into()).into_bytes())
        .collect()
}

/// A digest as `sha256sum` prints it.
pub fn hex(digest: &[u8; 32]) -> String {
    digest.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Result of packing.
#[derive(Debug)]
pub struct Packed {
    /// Summary of a packed archive.
    pub summary: Summary,
    /// sbuild's rules, applied to all members. The rules about the complete file are still to be
    /// applied.
    pub rules: StreamingCheck,
    /// The state with which a later archive can reuse frames of this one. `None` unless requested.
    pub state: Option<State>,
    /// What was left out of the tree.
    pub left_out: Vec<LeftOut>,
}

/// Packs the tree at `root` (a directory opened in any mode) into `out`. With `reuse`, reuses
/// frames of an older archive; the bytes of the new archive are the same.
///
/// Decodes each frame again before writing it, and fails if the content differs.
pub fn pack(
    root: OwnedFd,
    options: &Options,
    progress: &Progress,
    reuse: Option<&Reuse>,
    out: &mut (impl Write + Send),
) -> Result<Packed, Error> {
    let root = if options.walk.cross_mounts {
        root
    } else {
        walk::without_mounts(root)
    };
    let tree = walk::walk(root.as_fd(), &options.walk, options.threads)?;
    let squashed = match (audit::unmapped(&tree), options.unmapped) {
        (Some(found), Unmapped::Error) => return Err(found.into()),
        (found, Unmapped::Squash) => found.map_or(0, |found| found.count as u64),
        (None, Unmapped::Error) => 0,
    };
    let shape = pipeline::Shape::new(options, &tree)?;
    let plan = plan::plan(
        &tree,
        &FrameSizing {
            most: shape.max_frame,
            ..options.cuts
        },
    );
    progress.total().store(plan.data(&tree), Ordering::Relaxed);
    let mut source = members::PackContext {
        root: root.as_fd(),
        tree: &tree,
        plan: &plan,
        options,
        comment: None,
        reuse,
        done: progress.done(),
    };
    let written = match pipeline::run(&source, &shape, out)? {
        Some(written) => written,
        None => {
            progress.done().store(0, Ordering::Relaxed);
            let filler = filler();
            source.comment = Some(&filler);
            pipeline::run(&source, &shape, out)?.unwrap_or_default()
        }
    };
    let summary = Summary {
        members: count(&tree, &plan),
        skipped: tree.skipped,
        squashed,
        skipped_xattrs: written.skipped_xattrs.attributes,
        skipped_acl_entries: written.skipped_xattrs.acl_entries,
        tar_bytes: written.tar_bytes,
        archive_bytes: written.archive_bytes,
        frames: match options.format {
            Format::Zstd(_) => written.frames,
            Format::Tar => 0,
        },
        sha256: written.sha256,
        reused_frames: written.reused_frames,
        reused_bytes: written.reused_bytes,
        damaged_frames: written.damaged_frames,
    };
    let state = reuse.map(|reuse| State {
        context: reuse.context,
        frames: written.records,
    });
    Ok(Packed {
        summary,
        rules: written.rules,
        state,
        left_out: tree.left_out,
    })
}

fn count(tree: &Tree, plan: &Plan) -> Members {
    let mut members = Members {
        total: tree.nodes.len() as u64,
        ..Members::default()
    };
    for id in &plan.order {
        match tree.node(*id).kind {
            _ if plan.hard_links.contains_key(id) => members.hard_links += 1,
            NodeKind::Directory => members.directories += 1,
            NodeKind::File => {
                members.files += 1;
                members.sparse += u64::from(tree.extents(*id).is_some());
            }
            NodeKind::Symlink => members.symlinks += 1,
            NodeKind::Fifo => members.fifos += 1,
            NodeKind::CharDevice(..) | NodeKind::BlockDevice(..) => members.devices += 1,
        }
    }
    members
}
