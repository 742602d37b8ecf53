//! The tree of one command: unpacked from an archive, and removed afterwards.
//!
//! ```text
//! cache    one copy per archive content, an overlay on it per run
//!   index    which archive files are known, so that none is hashed twice
//!   overlay  the mount
//! apt      the packages that the command needs
//! ```
//!
//! A run creates all of its files in a directory that it has locked. The kernel releases the lock
//! when the run ends in any way, so a directory without a lock is a leftover, and the next run
//! removes it.
//!
//! Call it as the root of the namespace that the trees belong to. The caller need not undo
//! anything.

pub mod apt;
pub mod cache;
pub mod index;
pub mod overlay;

use std::fs::File;
use std::os::fd::BorrowedFd;
use std::sync::Arc;

use rustix::process::{Resource, getrlimit, setrlimit};

use crate::error::{Error, PathContext};
use crate::input::{self, Digests, Input};
use crate::progress::Progress;
use crate::{member_stream, unpack};

/// An archive and the options for unpacking it.
pub struct Archive<'a> {
    /// The file, at its beginning.
    pub file: &'a File,
    /// Options of reading.
    pub input: input::Options,
    /// Options of unpacking.
    pub options: unpack::Options,
    /// Progress.
    pub progress: &'a Progress,
}

impl Archive<'_> {
    /// Unpacks it into the empty directory `root`, and returns the bytes of data. With `digests`,
    /// unpacks only the bytes that were hashed. After an error the caller removes the files in
    /// `root`.
    pub fn unpack(
        &self,
        root: BorrowedFd<'_>,
        digests: Option<Arc<Digests>>,
    ) -> Result<u64, Error> {
        let open = || -> Result<Input, Error> {
            let file = self.file.try_clone().at("the archive", "open once more")?;
            Ok(Input::open_with(file, digests.clone(), &self.input)?)
        };
        let content = || -> Result<u64, Error> { Ok(member_stream::data_bytes(&mut open()?)?) };
        let mut input = open()?;
        let unpacking = unpack::Unpacking::prepare(root, input.content(), content, &self.options)?;
        // Restore the limit on open files, which unpacking raises: some programs close every
        // possible descriptor.
        let limit = getrlimit(Resource::Nofile);
        let unpacked = unpacking.run(&mut input, None, self.progress);
        setrlimit(Resource::Nofile, limit).at("", "set the limit of open files")?;
        Ok(unpacked?.data_bytes)
    }
}
