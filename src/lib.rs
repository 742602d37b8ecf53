//! Packs the root file systems of rootless isar builds for sbuild, and what that needs around it.
//!
//! The rooms, and who may look into whom (arrows go down, never up):
//!
//! ```text
//! main.rs ─ cli/                                         what the user typed, what the user sees
//!                       │
//! imager/  diff/  info/                                  made of the verbs below them
//!                       │
//! pack/  unpack/  chroot/  remove/  doctor/
//! grant  export  contents                                the work, one room a verb
//!                       │
//! sbuild/                                                what sbuild makes of an archive
//!                       │
//! tree/  archive/  zst/  input/  ids/  userns/           the parts
//!                       │
//! entry  members  acl  error  parallel  progress  sys
//! ```
//!
//! *Packing*: walk → plan (order, frames) → workers fill whole frames, compress them and decode
//! them again → one writer puts them down in order, while sbuild's rules see the members → synced →
//! renamed.
//!
//! *Reading*: frames found by scanning → decoded ahead by workers → the tar reader, which does no
//! I/O, turns bytes into members in the archive's order.
//!
//! *Unpacking*: one thread makes all names, in that order; workers fill the files through
//! descriptors; modes and times of directories come last.
//!
//! *Entering*: the caller opens what the command line names, forks into the namespace of its
//! subordinate ids, and stays outside to do what only the caller can.
//!
//! Library code never asks who it is: it gets open descriptors and values, and returns typed
//! errors.

pub mod acl;
pub mod archive;
pub mod chroot;
pub mod diff;
pub mod doctor;
pub mod entry;
pub mod error;
pub mod export;
pub mod grant;
pub mod ids;
pub mod imager;
pub mod info;
pub mod input;
pub mod member_stream;
pub mod members;
pub mod pack;
mod parallel;
pub mod progress;
pub mod remove;
pub mod sbuild;
pub mod sys;
pub mod tree;
pub mod unpack;
pub mod userns;
pub mod zst;
