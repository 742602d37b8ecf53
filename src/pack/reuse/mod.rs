//! Reuse of compressed frames of an older archive. The new archive has the same bytes as without
//! reuse.
//!
//! The `pack` that wrote the older archive has left a state: for each frame the digests of its
//! content, of its compression parameters, and of the compressed bytes. A frame is reused if the
//! same program would compress the same content in the same way, and if its bytes in the older
//! archive are still those that were written. All other frames are compressed.
//!
//! The bytes are read, hashed and written from memory, not with `copy_file_range`: another process
//! may write to the older archive between hashing and copying. Frames are not aligned to blocks, so
//! a file system could not share them anyway.

mod metadata;
mod state;

use std::fs::File;
use std::io;
use std::os::fd::AsFd;

pub use state::{Digest, LARGEST, Record, State, Unusable};

pub use metadata::{Seen, seen};

use super::Format;
use crate::entry::Timestamp;
use crate::sys::pread_to;

/// A change of a file within this many seconds of another one may not show in its times: file
/// systems have coarse timestamps, FAT of two seconds.
const CLOCK_TICK: i64 = 2;

/// Options and source of reuse.
#[derive(Debug)]
pub struct Reuse {
    /// Digest of the program and namespace, see [`context`].
    pub context: Digest,
    /// The older archive. Without one, all frames are compressed, and the state of the new archive
    /// is recorded for the next time.
    pub old: Option<Old>,
    /// Reuse a frame without reading its files if the metadata of its members is unchanged since
    /// the older archive was written.
    pub trust_metadata: bool,
    /// The time before the walk, by the clock of the tree's file system.
    pub started: Timestamp,
}

/// An older archive with its state.
#[derive(Debug)]
pub struct Old {
    file: File,
    /// Its frames, each with its offset in the archive.
    frames: Vec<(u64, Record)>,
}

/// Result of the search for a frame in an older archive.
#[derive(Debug)]
pub enum Found {
    /// The frame is intact; this is its record.
    Intact(Record),
    /// The state has the frame, but its bytes have changed or cannot be read.
    Damaged,
    /// The state does not have the frame.
    Missing,
}

/// The digest of everything except the tree and the options that determines the output: the program
/// (its own bytes), the zstd version, and the id maps of the namespace, without which metadata
/// cannot be compared with ACLs.
///
/// # Errors
///
/// If the program cannot be read.
pub fn context(program: impl io::Read, id_maps: &[u8]) -> io::Result<Digest> {
    let program = blake3::Hasher::new().update_reader(program)?.finalize();
    let zstd = zstd::zstd_safe::version_number().to_le_bytes();
    let parts = [program, blake3::hash(&zstd), blake3::hash(id_maps)];
    Ok(blake3::hash(parts.map(|part| *part.as_bytes()).as_flattened()).into())
}

/// The digest of the compression parameters for a frame of this content size.
pub fn recipe(format: Format, content_bytes: u64, is_large: bool) -> Digest {
    let text = match format {
        Format::Zstd(level) => level.recipe(
            usize::try_from(content_bytes).unwrap_or(usize::MAX),
            is_large,
        ),
        Format::Tar => String::from("tar"),
    };
    blake3::hash(text.as_bytes()).into()
}

impl Reuse {
    /// Finds the frame of the older archive whose members have the same metadata, if metadata is
    /// trusted, and reads it into `bytes`.
    pub fn by_metadata(
        &self,
        seen: &Seen,
        format: Format,
        is_large: bool,
        bytes: &mut Vec<u8>,
    ) -> Found {
        let is_it = |record: &Record| {
            self.trust_metadata
                && record.metadata == Some(seen.digest)
                && record.recipe == recipe(format, record.content_bytes, is_large)
        };
        self.find(is_it, bytes)
    }

    /// Finds the frame of the older archive with this content and these compression parameters, and
    /// reads it into `bytes`.
    pub fn by_content(&self, content: &Digest, recipe: &Digest, bytes: &mut Vec<u8>) -> Found {
        self.find(
            |record| record.content == *content && record.recipe == *recipe,
            bytes,
        )
    }

    fn find(&self, is_it: impl Fn(&Record) -> bool, bytes: &mut Vec<u8>) -> Found {
        let Some(old) = &self.old else {
            return Found::Missing;
        };
        match old.frames.iter().find(|(_, record)| is_it(record)) {
            Some((offset, record)) => match old.read(*offset, record, bytes) {
                Ok(true) => Found::Intact(record.clone()),
                Ok(false) | Err(_) => Found::Damaged,
            },
            None => Found::Missing,
        }
    }

    /// The metadata digest to record: none if a member has changed so recently that a further
    /// change, after it was read, might not show.
    pub fn lasting(&self, seen: &Seen) -> Option<Digest> {
        let limit = Timestamp {
            seconds: self.started.seconds.saturating_sub(CLOCK_TICK),
            ..self.started
        };
        (seen.changed < limit).then_some(seen.digest)
    }
}

impl Old {
    /// Opens the archive in `file` with its `state`. Only frames that were written in `context` can
    /// be reused.
    ///
    /// # Errors
    ///
    /// The reason why no frame can be reused.
    pub fn new(file: File, state: &[u8], context: &Digest) -> Result<Old, Unusable> {
        let state = State::decode(state)?;
        if state.context != *context {
            return Err(Unusable::Context);
        }
        let length = file.metadata().map_err(|_| Unusable::Archive)?.len();
        if state.archive_bytes() != Some(length) {
            return Err(Unusable::Archive);
        }
        let mut offset = 0;
        let mut frames = Vec::with_capacity(state.frames.len());
        for record in state.frames {
            let end = offset + record.compressed_bytes;
            frames.push((offset, record));
            offset = end;
        }
        Ok(Old { file, frames })
    }

    /// Reads a frame into `bytes`, replacing what it had. False if the frame has changed.
    fn read(&self, offset: u64, record: &Record, bytes: &mut Vec<u8>) -> io::Result<bool> {
        // When opened, the archive had the total length of the frames, so this allocates no more
        // than its size on disk.
        let length =
            usize::try_from(record.compressed_bytes).map_err(|_| io::ErrorKind::OutOfMemory)?;
        pread_to(self.file.as_fd(), offset, length, bytes)?;
        Ok(blake3::hash(bytes) == blake3::Hash::from(record.compressed))
    }
}
