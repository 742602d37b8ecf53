//! The SHA-256 of an archive, from a file or while it passes through a pipe.

use std::fs::File;
use std::io::{self, ErrorKind, Read, Seek, SeekFrom, Write};
use std::thread::{self, JoinHandle};

use rustix::pipe::{PipeFlags, fcntl_setpipe_size, pipe_with};
use sha2::{Digest, Sha256};

/// Bytes per read.
const BUFFER: usize = 256 << 10;

/// Computes the SHA-256 of a file from its position to its end, and restores the position.
pub fn sha256(mut file: &File) -> io::Result<[u8; 32]> {
    let start = file.stream_position()?;
    let digest = pass(&mut file, &mut io::sink())?;
    file.seek(SeekFrom::Start(start))?;
    Ok(digest)
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
    use super::*;
    use crate::pack::hex;

    const ABC: &str = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad";

    #[test]
    fn a_file_and_a_pipe_of_the_same_bytes_have_the_same_digest() {
        let mut file = tempfile::tempfile().unwrap();
        file.write_all(b"abc").unwrap();
        file.rewind().unwrap();
        assert_eq!(hex(&sha256(&file).unwrap()), ABC);
        let (hashed, mut pipe) = Hashed::begin(file).unwrap();
        let mut through = Vec::new();
        pipe.read_to_end(&mut through).unwrap();
        assert_eq!(
            (through.as_slice(), hex(&hashed.finish().unwrap()).as_str()),
            (&b"abc"[..], ABC)
        );
    }
}
