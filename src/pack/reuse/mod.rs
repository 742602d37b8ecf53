//! Taking over compressed frames of an older archive, so that the new one is byte for byte what it
//! would be without.
//!
//! The pack that wrote the older archive has left a state: for each frame the digests of its
//! content, of what decided its compression, and of the compressed bytes. A frame is taken over
//! when the same content would be compressed in the same way by the same program, and when the
//! bytes that stand in the older archive now are those that were written. Everything else, and
//! every doubt, is compressed as always.
//!
//! The bytes are read, hashed and written from memory rather than with `copy_file_range`: another
//! process may write to the older archive between hashing and copying. Frames begin anywhere in a
//! block, so no file system could share them between the two files either.

mod metadata;
mod state;

use std::fs::File;
use std::io;
use std::os::fd::AsFd;

pub use state::{Digest, LARGEST, Record, State, Unusable};

pub use metadata::{Seen, seen};

use super::Format;
use crate::entry::Timestamp;
use crate::sys::pread_append;

/// A change of a file may not show when it comes within this many seconds after another one: file
/// systems' clocks tick, FAT's every two seconds.
const CLOCK_TICK: i64 = 2;

/// How frames of an older archive are taken over.
#[derive(Debug)]
pub struct Reuse {
    /// Who packs, see [`context`].
    pub context: Digest,
    /// The older archive; without one everything is compressed, and the new archive's state is made
    /// for the next time.
    pub old: Option<Old>,
    /// Take over frames unread whose members have the metadata that they had when the older archive
    /// was made.
    pub trust_metadata: bool,
    /// The time before the tree is walked, by the clock that the tree's file system has.
    pub started: Timestamp,
}

/// An older archive with its state.
#[derive(Debug)]
pub struct Old {
    file: File,
    /// Its frames, each behind its place in the archive.
    frames: Vec<(u64, Record)>,
}

/// A frame that was looked for in an older archive.
#[derive(Debug)]
pub enum Found {
    /// It is there, and this is its record.
    Intact(Record),
    /// It was there once; something else stands in its place, or nothing can be read.
    Damaged,
    /// It is not there.
    Missing,
}

/// The digest of all that decides which bytes come out, beside the tree and the options: the
/// program (its own bytes) and zstd's version; and of how ids look (the maps of the namespace),
/// without which metadata say nothing about ACLs.
///
/// # Errors
///
/// The program cannot be read.
pub fn context(program: impl io::Read, id_maps: &[u8]) -> io::Result<Digest> {
    let program = blake3::Hasher::new().update_reader(program)?.finalize();
    let zstd = zstd::zstd_safe::version_number().to_le_bytes();
    let parts = [program, blake3::hash(&zstd), blake3::hash(id_maps)];
    Ok(blake3::hash(parts.map(|part| *part.as_bytes()).as_flattened()).into())
}

/// The digest of how a frame of so many bytes of content is compressed.
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
    /// The frame of the older archive that was made of members with the same metadata, if such are
    /// to be trusted. It comes into `bytes`.
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

    /// The frame of the older archive that has this content and was compressed in this way. It
    /// comes into `bytes`.
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

    /// The digest to record of what was seen: none when a member has changed so shortly before that
    /// a further change, after it was read, might not show.
    pub fn lasting(&self, seen: &Seen) -> Option<Digest> {
        let limit = Timestamp {
            seconds: self.started.seconds.saturating_sub(CLOCK_TICK),
            ..self.started
        };
        (seen.changed < limit).then_some(seen.digest)
    }
}

impl Old {
    /// The archive in `file` with the state that its pack left in `state`. Only frames that were
    /// written in `context` can be taken over.
    ///
    /// # Errors
    ///
    /// Why nothing can be taken over.
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

    /// Reads a frame into `bytes`, whose former content goes; false when it is not what was
    /// written.
    fn read(&self, offset: u64, record: &Record, bytes: &mut Vec<u8>) -> io::Result<bool> {
        // The archive was as long as all frames together when it was opened, so this is no more
        // than it took on the disk.
        let length =
            usize::try_from(record.compressed_bytes).map_err(|_| io::ErrorKind::OutOfMemory)?;
        bytes.clear();
        while bytes.len() < length {
            match pread_append(
                self.file.as_fd(),
                offset + bytes.len() as u64,
                length - bytes.len(),
                bytes,
            ) {
                Ok(0) => return Ok(false),
                Ok(_) => {}
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        Ok(blake3::hash(bytes) == blake3::Hash::from(record.compressed))
    }
}
