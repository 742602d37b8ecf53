//! A directory tree into a chroot tarball.
//!
//! walk → plan (order, frames) → workers fill whole frames and compress them → one writer puts them
//! down in order, hashing. No step looks at what a later one does, and which bytes come out depends
//! on the tree and the options alone.

pub mod audit;
mod members;
pub mod output;
mod pipeline;
pub mod plan;
pub mod reuse;

use std::io::Write;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::atomic::Ordering;

use rustix::io::Errno;
use sha2::{Digest, Sha256};

use crate::archive::writer;
use crate::entry::Timestamp;
use crate::error::{Escaped, FileError};
use crate::members::Members;
pub use crate::progress::Progress;
use crate::sbuild::check::StreamingCheck;
use crate::tree::walk::{self, NodeKind, Skipped, Tree};
use crate::tree::xattr;
use crate::zst::compress::{self, Level};
use plan::{FrameSizing, Plan};
use reuse::{Reuse, State};

/// What to do about a tree that changes.
const CALM: &str = "let nothing write to the tree meanwhile, and pack it again";

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
    /// What a frame was compressed to is not what it was made of.
    #[error(
        "a frame does not decompress to what was compressed: a fault of the memory or of this program; try again, and test the memory"
    )]
    Unverified,
    /// `--memory` is too small for any work.
    #[error("{memory} bytes of memory are too few for this tree and level; give at least --memory {}M", least.div_ceil(1 << 20))]
    Memory {
        /// What was allowed, in bytes.
        memory: u64,
        /// What is needed, in bytes.
        least: u64,
    },
    /// The archive could not be written.
    #[error("write the archive: {}", crate::error::describe(.0))]
    Write(std::io::Error),
    /// A file has gone since the tree was walked.
    #[error("{}: vanished while packing; {CALM}", Escaped(path))]
    Vanished {
        /// The file.
        path: Vec<u8>,
    },
    /// Another file stands where one was walked.
    #[error("{}: replaced by another file while packing; {CALM}", Escaped(path))]
    Replaced {
        /// The file.
        path: Vec<u8>,
    },
    /// A file became shorter.
    #[error(
        "{}: shrank from {from} to {to} bytes while packing; {CALM}",
        Escaped(path)
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
        "{}: grew from {from} to {to} bytes while packing; {CALM}",
        Escaped(path)
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
    #[error("{}: changed while packing; {CALM}", Escaped(path))]
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
            // What O_NOFOLLOW, O_DIRECTORY and a socket give where something of another kind stands
            // now.
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

/// What to do with owners that sbuild's map cannot hold.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Unmapped {
    /// Refuse the tree.
    #[default]
    Error,
    /// Store them as [`audit::NOBODY`].
    Squash,
}

/// How much memory is allowed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Memory {
    /// For up to two workers, in bytes. It alone decides how large frames may be, and so which
    /// bytes come out.
    pub base: u64,
    /// For each further worker, in bytes.
    pub per_thread: u64,
}

impl Memory {
    /// Room for two of the largest frames with what they compress to.
    pub const DEFAULT: Memory = Memory {
        base: 512 << 20,
        per_thread: 192 << 20,
    };

    /// No more than so many bytes with any number of workers.
    pub fn limit(bytes: u64) -> Memory {
        Memory {
            base: bytes,
            per_thread: 0,
        }
    }

    /// For so many workers, in bytes.
    pub fn of(self, threads: usize) -> u64 {
        self.base.saturating_add(
            self.per_thread
                .saturating_mul(threads.saturating_sub(2) as u64),
        )
    }
}

/// What is packed, and how.
#[derive(Clone, Debug)]
pub struct Options {
    /// What the walk takes in.
    pub walk: walk::Options,
    /// The form of the archive.
    pub format: Format,
    /// Worker threads, at least 1. The archive is the same for any number.
    pub threads: usize,
    /// The memory to stay below.
    pub memory: Memory,
    /// Store extended attributes and ACLs.
    pub xattrs: bool,
    /// What to do with owners that sbuild's map cannot hold.
    pub unmapped: Unmapped,
    /// `SOURCE_DATE_EPOCH`: later times are stored as this, in seconds since 1970.
    pub clamp_mtime: Option<i64>,
    /// Store whole seconds only.
    pub whole_seconds: bool,
    /// Compute the SHA-256 of the archive.
    pub sha256: bool,
    /// Where frames are cut; less memory may cut them smaller.
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

/// What was packed.
#[derive(Clone, Debug, Default)]
pub struct Summary {
    /// The members.
    pub members: Members,
    /// Bytes of the tar stream.
    pub tar_bytes: u64,
    /// Bytes of the archive.
    pub archive_bytes: u64,
    /// Frames of the archive, 0 in a plain tar.
    pub frames: u64,
    /// Files left out.
    pub skipped: Skipped,
    /// Extended attributes left out.
    pub skipped_xattrs: u64,
    /// Files whose owner was stored as nobody.
    pub squashed: u64,
    /// SHA-256 of the archive, if [`Options::sha256`] asked for it.
    pub sha256: Option<[u8; 32]>,
    /// Frames taken over from an older archive.
    pub reused_frames: u64,
    /// Bytes of the archive in them.
    pub reused_bytes: u64,
    /// Frames that the older archive should have had, but which were not there as they were
    /// written; they were made anew.
    pub damaged_frames: u64,
}

/// Fills up an archive of which sbuild would not read enough to know what it is.
///
/// sbuild 0.89 looks at the first 512 bytes of the file and refuses a shorter one; this text does
/// not compress below that.
fn filler() -> Vec<u8> {
    (0..24u8)
        .flat_map(|number| hex(&Sha256::digest([number]).into()).into_bytes())
        .collect()
}

/// A digest as `sha256sum` prints it.
pub fn hex(digest: &[u8; 32]) -> String {
    digest.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// A tree that was packed.
#[derive(Debug)]
pub struct Packed {
    /// What was packed.
    pub summary: Summary,
    /// sbuild's rules, run over all members. What they say of the file is still to be asked.
    pub rules: StreamingCheck,
    /// With which frames of this archive can be taken over into a later one. `None` where no reuse
    /// was asked for.
    pub state: Option<State>,
}

/// Packs the tree at `root` (a directory opened in any mode) into `out`. With `reuse`, frames are
/// taken over from an older archive where it has them; the bytes are the same.
///
/// Each frame is decoded again before it is written, and must give what it was made of.
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
    progress.total.store(plan.data(&tree), Ordering::Relaxed);
    let mut source = members::PackContext {
        root: root.as_fd(),
        tree: &tree,
        plan: &plan,
        options,
        comment: None,
        reuse,
        done: &progress.done,
    };
    let written = match pipeline::run(&source, &shape, out)? {
        Some(written) => written,
        None => {
            progress.done.store(0, Ordering::Relaxed);
            let filler = filler();
            source.comment = Some(&filler);
            pipeline::run(&source, &shape, out)?.unwrap_or_default()
        }
    };
    let summary = Summary {
        members: count(&tree, &plan),
        skipped: tree.skipped,
        squashed,
        skipped_xattrs: written.skipped_xattrs,
        tar_bytes: written.tar_bytes,
        archive_bytes: written.archive_bytes,
        frames: written.frames,
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
