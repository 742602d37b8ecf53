//! The SHA-256 of an archive, computed while it is read for another purpose.

use std::fs::{File, Metadata};
use std::io::{self, PipeWriter, Read, Seek, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::MetadataExt;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

use sha2::{Digest, Sha256};

use super::Error;
use crate::parallel;
use crate::sys::pread_append;

/// Bytes per read.
const PIECE: usize = 256 << 10;

/// Result of hashing.
pub struct Hashed {
    /// Number of bytes.
    pub bytes: u64,
    /// Their digest.
    pub sha256: [u8; 32],
}

/// Hashes `file` from its position to its end while `work` reads it. `work` must not change the
/// position of a regular file, which must not be written to meanwhile. For a pipe, `work` gets a copy of the bytes.
pub fn beside<T: Send>(
    file: File,
    work: impl FnOnce(File) -> Result<T, Error>,
) -> Result<(T, Hashed), Error> {
    let stop = AtomicBool::new(false);
    let before = file.metadata().map_err(Error::Hash)?;
    let is_file = before.is_file();
    let watched = file.try_clone().map_err(Error::Hash)?;
    thread::scope(|scope| {
        let (file, hashing) = if is_file {
            let same = file.try_clone().map_err(Error::Hash)?;
            let start = (&file).stream_position().map_err(Error::Hash)?;
            let stop = &stop;
            let hashing = parallel::spawn(scope, move || hash_file(same, start, stop))?;
            (file, hashing)
        } else {
            let (reader, writer) = io::pipe().map_err(Error::Hash)?;
            let hashing = parallel::spawn(scope, || hash_pipe(file, writer))?;
            (File::from(OwnedFd::from(reader)), hashing)
        };
        let done = work(file);
        stop.store(done.is_err(), Ordering::Relaxed);
        let hashed = parallel::join(hashing);
        // Report the error of `work` first: it may have caused the other.
        let done = done?;
        let hashed = hashed.map_err(Error::Hash)?;
        // A file is read twice: the digest and the rest must be of the same content.
        let after = watched.metadata().map_err(Error::Hash)?;
        match is_file && state(&before) != state(&after) {
            true => Err(Error::Changed),
            false => Ok((done, hashed)),
        }
    })
}

/// What changes when a file is written to. A rename and the loss of a name change the ctime too.
fn state(file: &Metadata) -> (u64, i64, i64) {
    (file.len(), file.mtime(), file.mtime_nsec())
}

fn hash_file(file: File, start: u64, stop: &AtomicBool) -> io::Result<Hashed> {
    let (mut hash, mut bytes, mut buffer) = (Sha256::new(), 0, Vec::new());
    while !stop.load(Ordering::Relaxed) {
        buffer.clear();
        match pread_append(file.as_fd(), start + bytes, PIECE, &mut buffer) {
            Ok(0) => break,
            Ok(count) => bytes += count as u64,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            Err(error) => return Err(error),
        }
        hash.update(&buffer);
    }
    Ok(Hashed {
        bytes,
        sha256: hash.finalize().into(),
    })
}

/// Fails early if the reader of the copy has gone.
fn hash_pipe(mut file: File, mut copy: PipeWriter) -> io::Result<Hashed> {
    let (mut hash, mut bytes, mut buffer) = (Sha256::new(), 0, vec![0; PIECE]);
    loop {
        let piece = match file.read(&mut buffer) {
            Ok(0) => {
                return Ok(Hashed {
                    bytes,
                    sha256: hash.finalize().into(),
                });
            }
            Ok(count) => buffer.get(..count).unwrap_or_default(),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            Err(error) => return Err(error),
        };
        bytes += piece.len() as u64;
        hash.update(piece);
        copy.write_all(piece)?;
    }
}
