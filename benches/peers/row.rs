//! One row of the table: a command of isar-tarball and the peer that it is compared with.

use std::path::PathBuf;

/// One side of a row. The number of the run replaces `{n}` in scripts and arguments.
#[derive(Default)]
pub struct Side {
    /// What is run and timed.
    pub command: Vec<String>,
    /// A script as root of the namespace, before each run.
    pub before: String,
    /// A script after all runs: trees are removed only then, because ext4 is slow for minutes where
    /// one was removed.
    pub clean: String,
    /// What it reads, to be in the page cache.
    pub reads: Vec<PathBuf>,
    /// The file that it writes.
    pub writes: Option<String>,
    /// Two trees or archives that are to be equal after a run.
    pub equal: Option<[String; 2]>,
}

#[derive(Default)]
pub struct Row {
    pub name: String,
    pub peer: &'static str,
    /// Commands of the user before all runs: they make what the row needs.
    pub setup: Vec<Vec<String>>,
    /// Not more pairs than this, where a run takes minutes.
    pub most_pairs: Option<usize>,
    /// How many times faster than the peer it is to be.
    pub faster: f64,
    /// At most this share of the peer's size.
    pub size: Option<f64>,
    /// Part of `--quick`.
    pub is_quick: bool,
    /// Recreate the file system at `Machine::fresh` before each run.
    pub is_fresh: bool,
    pub ours: Side,
    pub theirs: Side,
}
