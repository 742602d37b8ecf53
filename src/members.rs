//! Members of an archive, counted by kind.

use crate::entry::Kind;
use serde::{Deserialize, Serialize};

/// How many members there are of each kind.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Members {
    /// All of them.
    pub total: u64,
    /// Directories.
    pub directories: u64,
    /// Regular files, each counted once.
    pub files: u64,
    /// Those of the files that have holes.
    pub sparse: u64,
    /// Further names of files.
    pub hard_links: u64,
    /// Symbolic links.
    pub symlinks: u64,
    /// Named pipes.
    pub fifos: u64,
    /// Character and block devices.
    pub devices: u64,
}

impl Members {
    /// Counts one more, in its kind; the total is counted by whoever calls this.
    pub fn add(&mut self, kind: &Kind) {
        match kind {
            Kind::Directory => self.directories += 1,
            Kind::File { extents, .. } => {
                self.files += 1;
                self.sparse += u64::from(extents.is_some());
            }
            Kind::HardLink { .. } => self.hard_links += 1,
            Kind::Symlink { .. } => self.symlinks += 1,
            Kind::Fifo => self.fifos += 1,
            Kind::CharDevice { .. } | Kind::BlockDevice { .. } => self.devices += 1,
        }
    }
}
