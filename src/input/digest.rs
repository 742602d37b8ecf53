//! The SHA-256 of an archive, and the check that later reads give the bytes that were hashed.
//!
//! A pipe is hashed on its way to the reader. A file is hashed before anything is done with it, in
//! whole and block by block; each block that is read later must have the same digest.

use std::fs::File;
use std::io::{self, ErrorKind, Read, Seek, Write};
use std::os::fd::AsFd;
use std::sync::Arc;
use std::thread::{self, JoinHandle};

use rustix::pipe::{PipeFlags, fcntl_setpipe_size, pipe_with};
use sha2::{Digest, Sha256};

use crate::error::Changed;
use crate::sys::pread_to;

/// Bytes per read of a pipe.
const BUFFER: usize = 256 << 10;

/// Bytes per block of [`Digests`].
const BLOCK: usize = 256 << 10;

/// The digests of a regular file.
pub struct Digests {
    sha256: [u8; 32],
    start: u64,
    end: u64,
    blocks: Vec<blake3::Hash>,
}

impl Digests {
    /// Reads `file` from its position to its end. The position does not change.
    pub fn of(mut file: &File) -> io::Result<Digests> {
        let start = file.stream_position()?;
        let (mut sha256, mut blocks) = (Sha256::new(), Vec::new());
        let mut end = start;
        let mut block = Vec::with_capacity(BLOCK);
        loop {
            pread_to(file.as_fd(), end, BLOCK, &mut block)?;
            sha256.update(&block);
            if !block.is_empty() {
                blocks.push(blake3::hash(&block));
            }
            end += block.len() as u64;
            if block.len() < BLOCK {
                break;
            }
        }
        Ok(Digests {
            sha256: sha256.finalize().into(),
            start,
            end,
            blocks,
        })
    }

    /// The SHA-256 of the whole.
    pub fn sha256(&self) -> [u8; 32] {
        self.sha256
    }

    /// The part of the file that was hashed: the offsets of its first byte and of its end.
    pub(super) fn range(&self) -> (u64, u64) {
        (self.start, self.end)
    }
}

/// A file whose every block is compared with the digest that it had.
pub(super) struct Verified {
    file: Arc<File>,
    digests: Arc<Digests>,
    block: Vec<u8>,
    /// The number of the block in `block`.
    index: Option<usize>,
}

impl Verified {
    pub(super) fn new(file: Arc<File>, digests: Arc<Digests>) -> Verified {
        Verified {
            file,
            digests,
            block: Vec::new(),
            index: None,
        }
    }

    /// Returns the bytes from `offset` to the end of the block that has it. At least one, except at
    /// the end of what was hashed.
    pub(super) fn at(&mut self, offset: u64) -> io::Result<&[u8]> {
        let Digests {
            start, end, blocks, ..
        } = &*self.digests;
        let inside = offset.saturating_sub(*start);
        let index = usize::try_from(inside / BLOCK as u64).unwrap_or(usize::MAX);
        let Some(digest) = blocks.get(index).filter(|_| offset < *end) else {
            return Ok(&[]);
        };
        if self.index != Some(index) {
            self.index = None;
            let first = start + (index * BLOCK) as u64;
            let length = (BLOCK as u64).min(end - first) as usize;
            pread_to(self.file.as_fd(), first, length, &mut self.block)?;
            if blake3::hash(&self.block) != *digest {
                return Err(io::Error::other(Changed));
            }
            self.index = Some(index);
        }
        Ok(&self.block[inside as usize % BLOCK..])
    }
}

/// A pipe that another thread hashes while it is read.
pub struct Hashed {
    thread: JoinHandle<io::Result<[u8; 32]>>,
}

impl Hashed {
    /// Starts a thread that copies `from` to the returned pipe and hashes it.
    pub fn begin(mut from: File) -> io::Result<(Hashed, File)> {
        let (reader, writer) = pipe_with(PipeFlags::CLOEXEC)?;
        // A larger pipe saves context switches. The kernel may refuse it.
        let _ = fcntl_setpipe_size(&writer, BUFFER);
        let mut writer = File::from(writer);
        let thread = thread::Builder::new().spawn(move || pass(&mut from, &mut writer))?;
        Ok((Hashed { thread }, File::from(reader)))
    }

    /// Returns the digest. Call it after the pipe was read to its end, or closed.
    pub fn finish(self) -> io::Result<[u8; 32]> {
        self.thread
            .join()
            .map_err(|_| io::Error::from(ErrorKind::Other))?
    }
}

fn pass(from: &mut impl Read, to: &mut impl Write) -> io::Result<[u8; 32]> {
    let mut hash = Sha256::new();
    let mut buffer = vec![0; BUFFER];
    loop {
        match from.read(&mut buffer) {
            Ok(0) => return Ok(hash.finalize().into()),
            Ok(count) => {
                let bytes = buffer.get(..count).unwrap_or_default();
                hash.update(bytes);
                to.write_all(bytes)?;
            }
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use std::os::unix::fs::FileExt;

    use super::*;
    use crate::pack::hex;

    const ABC: &str = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad";

    #[test]
    fn a_file_and_a_pipe_of_the_same_bytes_have_the_same_digest() {
        let mut file = tempfile::tempfile().unwrap();
        file.write_all(b"abc").unwrap();
        file.rewind().unwrap();
        assert_eq!(hex(&Digests::of(&file).unwrap().sha256()), ABC);
        let (hashed, mut pipe) = Hashed::begin(file).unwrap();
        let mut through = Vec::new();
        pipe.read_to_end(&mut through).unwrap();
        assert_eq!(
            (through.as_slice(), hex(&hashed.finish().unwrap()).as_str()),
            (&b"abc"[..], ABC)
        );
    }

    /// Blocks are counted from the position of the file; a byte that changes is found wherever it
    /// is, and so is a file that has become shorter.
    #[test]
    fn only_the_bytes_that_were_hashed_are_read() {
        let content: Vec<u8> = (0..2 * BLOCK + 100).map(|n| (n % 251) as u8).collect();
        let mut file = tempfile::tempfile().unwrap();
        file.write_all(&content).unwrap();
        file.seek(io::SeekFrom::Start(7)).unwrap();
        let digests = Arc::new(Digests::of(&file).unwrap());
        assert_eq!(digests.range(), (7, content.len() as u64));
        let file = Arc::new(file);
        let verified = || Verified::new(Arc::clone(&file), Arc::clone(&digests));
        let read = |offset: usize| verified().at(offset as u64).map(<[u8]>::to_vec);
        for offset in [7, 8, BLOCK, BLOCK + 7, 2 * BLOCK + 99] {
            let bytes = read(offset).unwrap();
            assert!(!bytes.is_empty(), "{offset}");
            assert_eq!(bytes, content[offset..][..bytes.len()], "{offset}");
        }
        assert_eq!(read(content.len()).unwrap(), []);
        file.write_all_at(b"!", 2 * BLOCK as u64 + 50).unwrap();
        let error = read(2 * BLOCK + 20).unwrap_err();
        assert!(error.get_ref().is_some_and(|cause| cause.is::<Changed>()));
        read(BLOCK).unwrap();
        file.set_len(BLOCK as u64 + 7).unwrap();
        read(7).unwrap();
        read(BLOCK + 7).unwrap_err();
    }
}
