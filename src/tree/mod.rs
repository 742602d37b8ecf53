//! Trees on disk: walks, stored attributes, exclude patterns.

pub mod exclude;
pub mod mounts;
pub mod pattern;
pub mod resolve;
pub mod selection;
pub mod walk;
pub mod xattr;
