//! Packs the root file systems of rootless isar builds for sbuild, and what that needs around it.
//!
//! The rooms, and who may look into whom (arrows go down, never up):
//!
//! ```text
//! main.rs ─ cli/                       what the user typed, what the user sees
//!                  │
//!  pack/   unpack/   sbuild/   grant    the work, one room a verb
//!                  │
//!  tree/   archive/   zst/   ids/   userns/    the parts
//!                  │
//!     entry   acl   error   sys
//! ```
//!
//! Library code never asks who it is: it gets open descriptors and values, and returns typed errors.

pub mod acl;
pub mod archive;
pub mod chroot;
pub mod contents;
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
pub mod pack;
pub mod progress;
pub mod remove;
pub mod sbuild;
pub mod sys;
pub mod tree;
pub mod unpack;
pub mod userns;
pub mod zst;
