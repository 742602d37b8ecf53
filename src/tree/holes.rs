//! Holes of files: where the data is, and copies that have the same holes.

use std::fs::File;
use std::io::{self, Read, Seek, Write};
use std::os::fd::{AsFd, BorrowedFd};

use rustix::fs::{SeekFrom, seek};
use rustix::io::Errno;

use crate::entry::Extent;
use crate::sys::piece;

/// The data extents of a file of `size` bytes, `None` if it has no holes. Moves the offset of the
/// open file.
pub fn extents(file: BorrowedFd<'_>, size: u64) -> Result<Option<Vec<Extent>>, Errno> {
    let mut extents = Vec::new();
    let mut at = 0;
    while at < size {
        let offset = match seek(file, SeekFrom::Data(at)) {
            // No data after `at`.
            Err(Errno::NXIO) => break,
            // The file system does not support it: all is data.
            Err(Errno::INVAL | Errno::OPNOTSUPP) => return Ok(None),
            offset => offset?,
        };
        let end = seek(file, SeekFrom::Hole(offset))?.min(size);
        if end <= offset {
            break;
        }
        extents.push(Extent {
            offset,
            length: end - offset,
        });
        at = end;
    }
    let whole = extents
        .first()
        .is_some_and(|first| first.offset == 0 && first.length == size);
    Ok((!whole).then_some(extents))
}

/// Bytes per read of a copy.
const PIECE: usize = 256 << 10;

/// Copies the content of `from` to `to`, an empty regular file, with its holes. Returns the length
/// in bytes.
pub fn copy(mut from: &File, mut to: &File) -> io::Result<u64> {
    let size = from.metadata()?.len();
    let whole = Extent {
        offset: 0,
        length: size,
    };
    let extents = extents(from.as_fd(), size)?.unwrap_or_else(|| vec![whole]);
    let mut buffer = vec![0; PIECE];
    for Extent { offset, length } in extents {
        from.seek(io::SeekFrom::Start(offset))?;
        to.seek(io::SeekFrom::Start(offset))?;
        let mut data = from.take(length);
        loop {
            let count = match data.read(&mut buffer) {
                Ok(0) => break,
                Ok(count) => count,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(error) => return Err(error),
            };
            let mut rest = buffer.get(..count).unwrap_or_default();
            while !rest.is_empty() {
                let front = piece(rest);
                to.write_all(front)?;
                rest = rest.get(front.len()..).unwrap_or_default();
            }
        }
    }
    to.set_len(size)?;
    Ok(size)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use std::os::unix::fs::{FileExt, MetadataExt};

    use super::*;

    #[test]
    fn a_copy_has_the_content_and_the_holes() {
        const MIB: u64 = 1 << 20;
        let (from, to) = (tempfile::tempfile().unwrap(), tempfile::tempfile().unwrap());
        from.set_len(64 * MIB).unwrap();
        from.write_all_at(b"front", 0).unwrap();
        from.write_all_at(&vec![b'x'; 700_000], 20 * MIB).unwrap();
        from.write_all_at(b"end", 40 * MIB).unwrap();
        assert_eq!(copy(&from, &to).unwrap(), 64 * MIB);
        let content = |mut file: &File| {
            let mut bytes = Vec::new();
            file.rewind().unwrap();
            file.read_to_end(&mut bytes).unwrap();
            bytes
        };
        assert!(content(&from) == content(&to));
        assert!(to.metadata().unwrap().blocks() * 512 < 2 * MIB);
        let empty = tempfile::tempfile().unwrap();
        assert_eq!(copy(&empty, &tempfile::tempfile().unwrap()).unwrap(), 0);
    }
}
