//! The archives that the fuzz targets begin with.

#[path = "../fuzz/src/archives.rs"]
pub mod archives;
#[path = "../fuzz/src/members.rs"]
pub mod members;
