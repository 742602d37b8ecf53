//! The program against the real things: GNU tar, bsdtar, Python, mmdebstrap, sbuild, namespaces of an ordinary user.
//!
//! One file a command. `world` has the machine that they run on: the test user, scratch directories, the chroots.
#![allow(clippy::unwrap_used, clippy::panic)]

mod chroot;
mod doctor;
mod export;
mod formats;
mod grant_acl;
mod handover;
mod idmap;
mod pack;
mod pack_faults;
mod pack_interop;
mod pack_refusals;
mod pack_reproducible;
mod remove;
mod reuse;
mod reuse_property;
mod rootfs;
mod sbuild;
mod unshare;
mod world;
