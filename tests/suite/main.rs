//! The program against the real things: GNU tar, bsdtar, Python, mmdebstrap, sbuild, namespaces of
//! an ordinary user.
//!
//! One file a command. `world` has the machine that they run on: the test user, scratch
//! directories, the chroots.
#![allow(clippy::disallowed_methods, clippy::panic, clippy::unwrap_used)]

mod blocked_calls;
mod check;
mod chroot;
mod completions;
mod crafted;
mod diff;
mod differential;
mod doctor;
mod endings;
mod export;
mod foreign;
mod formats;
mod fuzz;
mod grant_acl;
mod handover;
mod idmap;
mod imager;
mod imager_cache;
mod info;
mod isar_checker;
mod isar_class;
mod isolation;
mod kill;
mod library;
mod limits;
mod list;
mod loss;
mod memory;
mod messages;
mod mount_points;
mod pack;
mod pack_faults;
mod pack_interop;
mod pack_refusals;
mod pack_reproducible;
mod package;
mod random;
mod remove;
mod reuse;
mod reuse_property;
mod rootfs;
mod round_trip;
mod sbuild;
mod sequences;
mod subids;
mod unpack;
mod unpack_faults;
mod unpack_interop;
mod unpack_links;
mod unpack_security;
mod unshare;
mod verdict;
mod workdir;
mod world;
