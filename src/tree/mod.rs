//! Trees on disk: walks, stored attributes, holes, exclude patterns, the record of mount points.

pub mod exclude;
pub mod holes;
pub mod mount_record;
pub mod mounts;
pub mod pattern;
pub mod resolve;
pub mod selection;
pub mod walk;
pub mod xattr;
