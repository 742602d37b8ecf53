//! Packs root file systems of rootless isar builds into archives that sbuild loads, and unpacks,
//! checks, compares, uses and removes them, as an ordinary user in a user namespace.
//!
//! There is one type per job: [`Pack`], [`Unpack`], [`Chroot`], [`Imager`], [`Unshare`],
//! [`Remove`], [`Export`], [`GrantAcl`], [`Check`], [`Info`], [`List`], [`Diff`], [`Idmap`],
//! [`Doctor`]. Each has public options and a method `run`:
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

// The modules are private. The feature `internals` opens them to the crate's own tests, benchmarks
// and fuzz targets. rustfmt finds modules only where they are written out like this.
#[cfg(not(feature = "internals"))]
mod acl;
#[cfg(not(feature = "internals"))]
mod archive;
#[cfg(not(feature = "internals"))]
mod chroot;
#[cfg(not(feature = "internals"))]
mod diff;
#[cfg(not(feature = "internals"))]
mod doctor;
#[cfg(not(feature = "internals"))]
mod entry;
#[cfg(not(feature = "internals"))]
mod error;
#[cfg(not(feature = "internals"))]
mod export;
#[cfg(not(feature = "internals"))]
mod grant;
#[cfg(not(feature = "internals"))]
mod ids;
#[cfg(not(feature = "internals"))]
mod imager;
#[cfg(not(feature = "internals"))]
mod info;
#[cfg(not(feature = "internals"))]
mod input;
#[cfg(not(feature = "internals"))]
mod member_stream;
#[cfg(not(feature = "internals"))]
mod members;
#[cfg(not(feature = "internals"))]
mod observer;
#[cfg(not(feature = "internals"))]
mod operations;
#[cfg(not(feature = "internals"))]
mod pack;
#[cfg(not(feature = "internals"))]
mod parallel;
#[cfg(not(feature = "internals"))]
mod progress;
#[cfg(not(feature = "internals"))]
mod sbuild;
#[cfg(not(feature = "internals"))]
mod sys;
#[cfg(not(feature = "internals"))]
mod tree;
#[cfg(not(feature = "internals"))]
mod unpack;
#[cfg(not(feature = "internals"))]
mod userns;
#[cfg(not(feature = "internals"))]
mod workdir;
#[cfg(not(feature = "internals"))]
mod zst;

#[cfg(feature = "internals")]
#[doc(hidden)]
pub mod acl;
#[cfg(feature = "internals")]
#[doc(hidden)]
pub mod archive;
#[cfg(feature = "internals")]
#[doc(hidden)]
pub mod chroot;
#[cfg(feature = "internals")]
#[doc(hidden)]
pub mod diff;
#[cfg(feature = "internals")]
#[doc(hidden)]
pub mod doctor;
#[cfg(feature = "internals")]
#[doc(hidden)]
pub mod entry;
#[cfg(feature = "internals")]
#[doc(hidden)]
pub mod error;
#[cfg(feature = "internals")]
#[doc(hidden)]
pub mod export;
#[cfg(feature = "internals")]
#[doc(hidden)]
pub mod grant;
#[cfg(feature = "internals")]
#[doc(hidden)]
pub mod ids;
#[cfg(feature = "internals")]
#[doc(hidden)]
pub mod imager;
#[cfg(feature = "internals")]
#[doc(hidden)]
pub mod info;
#[cfg(feature = "internals")]
#[doc(hidden)]
pub mod input;
#[cfg(feature = "internals")]
#[doc(hidden)]
pub mod member_stream;
#[cfg(feature = "internals")]
#[doc(hidden)]
pub mod members;
#[cfg(feature = "internals")]
#[doc(hidden)]
pub mod observer;
#[cfg(feature = "internals")]
#[doc(hidden)]
pub mod operations;
#[cfg(feature = "internals")]
#[doc(hidden)]
pub mod pack;
#[cfg(feature = "internals")]
#[doc(hidden)]
pub mod parallel;
#[cfg(feature = "internals")]
#[doc(hidden)]
pub mod progress;
#[cfg(feature = "internals")]
#[doc(hidden)]
pub mod sbuild;
#[cfg(feature = "internals")]
#[doc(hidden)]
pub mod sys;
#[cfg(feature = "internals")]
#[doc(hidden)]
pub mod tree;
#[cfg(feature = "internals")]
#[doc(hidden)]
pub mod unpack;
#[cfg(feature = "internals")]
#[doc(hidden)]
pub mod userns;
#[cfg(feature = "internals")]
#[doc(hidden)]
pub mod workdir;
#[cfg(feature = "internals")]
#[doc(hidden)]
pub mod zst;

pub use archive::reader::Member;
pub use chroot::Bind;
pub use diff::{Difference, LeftOut, Mtime, What};
pub use doctor::{Finding, State};
pub use entry::{Entry, Extent, Kind, Timestamp, Xattr};
pub use error::{Error, ErrorKind, Escaped};
pub use ids::{Account, Extent as IdExtent, IdKind, IdMap, IdMaps, Layout, Range};
pub use info::{Frames, Info as Description, System};
pub use input::Compression;
pub use members::Members;
pub use observer::{Notice, Observer, Severity};
pub use operations::{
    ArchivePath, Check, CheckReport, Chroot, CommandStatus, DEFAULT_EXCLUDES, Diff, DiffReport,
    Doctor, Export, Exported, GrantAcl, GrantRole, Granted, GrantedDirectory, Grantee, Grantees,
    IdMapping, Idmap, Imager, ImagerDirectory, Info, InfoReport, List, Pack, Reading, Remove,
    RemovedTree, Session, Unpack, UnpackMode, Unshare, UserNamespace,
};
pub use pack::{Format, Memory, Summary as PackSummary, Unmapped, hex};
pub use sbuild::build_user::BuildUsers;
pub use sbuild::findings::Finding as CheckFinding;
pub use sbuild::rules::{Loader, Rule};
#[cfg(feature = "cli")]
#[doc(hidden)]
pub use sys::{LocalTime, local_time, stdout_was_closed};
pub use tree::walk::Skipped;
pub use unpack::Summary as UnpackSummary;
pub use zst::compress::Level;
