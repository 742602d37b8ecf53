//! The program against the real things: GNU tar, bsdtar, Python, mmdebstrap, sbuild, namespaces of an ordinary user.
//!
//! One file a command. `world` has the machine that they run on: the test user, scratch directories, the chroots.
#![allow(clippy::unwrap_used, clippy::panic)]

mod diff;
mod formats;
mod grant_acl;
mod handover;
mod info;
mod list;
mod remove;
mod world;
