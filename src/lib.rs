//! Packs root file systems of rootless isar builds into archives that sbuild loads, and unpacks,
//! checks, compares, uses and removes them, as an ordinary user in a user namespace.
//!
//! There is one type per job: [`Pack`], [`Unpack`], [`Chroot`], [`Imager`], [`Unshare`],
//! [`Remove`], [`Export`], [`GrantAcl`], [`Check`], [`Info`], [`List`], [`Diff`], [`Idmap`],
//! [`Doctor`]. Each has public options and a method `run`; [`ImagerCache`] has `list` and `prune`.
//!
//! ```no_run
//! use isar_tarball::{ErrorKind, Pack};
//!
//! match Pack::new("rootfs", "schroot.tar.zst").run(&mut ()) {
//!     Ok(packed) => println!("{} bytes", packed.archive_bytes),
//!     Err(error) if error.kind() == ErrorKind::InUse => println!("try again later"),
//!     Err(error) => println!("{error}"),
//! }
//! ```
//!
//! # Caller and child
//!
//! The files of a rootless tree belong to the subordinate ids of a user (see subuid(5)), and the
//! user cannot read all of them. So `run` opens what the options name as the caller, then forks.
//! The child enters a user namespace in which it is root over these ids, does the work, and sends a
//! typed result back. The caller stays what it was: it sets the id maps through `newuidmap` and
//! `newgidmap`, gives files and directories their names, and cleans up, also when the child is
//! killed. A caller that is root works without a namespace, in a child all the same.
//!
//! What happens on the way reaches an [`Observer`], which the caller supplies; `()` ignores it.
//! Nothing here prints.
//!
//! # Id layouts
//!
//! A tree's id 0 is the first subordinate id on disk in [`Layout::Subid`], as in sbuild and
//! mmdebstrap, and the caller itself in [`Layout::Caller`], as in isar. A [`Session`] says which,
//! and whose ids are used.
//!
//! # Threads
//!
//! A process with several threads cannot be forked safely: the child would have one of them, and
//! find the locks of the others held forever. So an operation that forks counts the threads of the
//! process and fails with [`ErrorKind::MultiThreaded`] if there are others. Call it before threads
//! start, or from a small helper process. [`Check`], [`Info`], [`List`] and [`Diff`] of two
//! archives do not fork. While an operation runs, SIGINT, SIGTERM, SIGHUP and SIGQUIT stop it or go
//! to the command that it runs; afterwards the signal mask is what it was.
//!
//! # Modules
//!
//! Dependencies point down:
//!
//! ```text
//! main.rs ─ cli/                             arguments → options; results → text and JSON
//!             │
//!         operations/                        one type per job
//!             │
//!         imager/  diff/  info/              made of the verbs below
//!             │
//!         pack/  unpack/  chroot/  doctor/   the work, on descriptors, in the namespace
//!         grant  export  member_stream
//!             │
//!         sbuild/                            how sbuild loads an archive
//!             │
//!         workdir/                           directories and output files: trusted, locked, handed
//!             │                              over, filled, published, removed
//!         tree/  archive/  zst/  input/      the parts
//!         ids/  userns/
//!             │
//!         entry  members  acl  error  observer  parallel  progress  sys
//! ```
//!
//! *Packing*: walk → plan (order, frames) → workers fill whole frames, compress and verify them →
//! one writer puts them in order, while sbuild's rules see the members → sync → rename.
//!
//! *Reading*: scan for frames → workers decode ahead → the tar reader, which does no I/O, turns
//! bytes into members in the order of the archive.
//!
//! *Unpacking*: one thread creates all names, in that order; workers fill the files through
//! descriptors; modes and times of directories come last.

mod acl;
mod allowance;
mod archive;
mod chroot;
mod diff;
mod doctor;
mod entry;
mod error;
mod export;
mod grant;
mod ids;
mod imager;
mod info;
mod input;
mod member_stream;
mod members;
mod observer;
mod operations;
mod pack;
mod parallel;
mod progress;
mod sbuild;
mod sys;
mod tree;
mod unpack;
mod userns;
mod workdir;
mod zst;

/// Modules for the crate's own tests, benchmarks and fuzz targets, which need more than the
/// interface.
#[cfg(feature = "internals")]
#[doc(hidden)]
pub mod internals {
    macro_rules! open {
        ($($module:ident)*) => {
            $(pub mod $module {
                pub use crate::$module::*;
            })*
        };
    }
    open!(acl archive entry error ids input pack progress sbuild sys tree unpack workdir zst);
}

pub use archive::reader::Member;
pub use chroot::Bind;
pub use diff::{Difference, LeftOut, Mtime, What};
pub use doctor::{Finding, State};
pub use entry::{Entry, Extent, Kind, Timestamp, Xattr};
pub use error::{Error, ErrorKind, Escaped};
pub use ids::{Account, Extent as IdExtent, IdKind, IdMap, IdMaps, Layout, Range};
pub use imager::cache::{CacheLimit, CachedCopy};
pub use info::{Frames, Info as Description, System};
pub use input::Compression;
pub use members::Members;
pub use observer::{Notice, Observer, Severity};
pub use operations::{
    ArchivePath, Check, CheckReport, Chroot, CommandStatus, DEFAULT_EXCLUDES, Diff, DiffReport,
    Doctor, Export, Exported, GrantAcl, GrantRole, Granted, GrantedDirectory, Grantee, Grantees,
    IdMapping, Idmap, Imager, ImagerCache, ImagerDirectory, Info, InfoReport, List, Pack, Prune,
    Reading, Remove, RemovedTree, Session, Unpack, UnpackMode, Unshare, UserNamespace,
};
pub use pack::{Format, Memory, Summary as PackSummary, Unmapped, hex};
pub use sbuild::build_user::BuildUsers;
pub use sbuild::findings::Finding as CheckFinding;
pub use sbuild::rules::{Loader, Rule};
#[cfg(feature = "cli")]
#[doc(hidden)]
pub use sys::{LocalTime, die_of, fail_beyond_file_size_limit, local_time, stdout_was_closed};
pub use tree::walk::Skipped;
pub use unpack::Summary as UnpackSummary;
#[cfg(feature = "cli")]
#[doc(hidden)]
pub use userns::report_stop;
pub use zst::compress::Level;
