//! The raw bytes of an archive, from a file or a pipe.

use std::fs::File;
use std::io::{self, BufRead, Read};
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;

use rustix::buffer::spare_capacity;
use rustix::event::{EventfdFlags, PollFd, PollFlags, eventfd, poll};
use rustix::io::Errno;

use super::digest::{Digests, Verified};
use crate::sys::pread_append;

/// Bytes per read.
const READ: usize = 256 << 10;

/// A buffered sequence of bytes.
pub(super) struct ByteSource {
    file: Arc<File>,
    reach: Reach,
    buffer: Vec<u8>,
    /// Bytes of the buffer consumed so far.
    position: usize,
    /// Total of bytes consumed.
    consumed: u64,
}

enum Reach {
    /// A range of a regular file, independent of its position.
    Range {
        next: u64,
        end: u64,
        verified: Option<Verified>,
    },
    /// A pipe or another stream.
    Pipe(Arc<Interrupt>),
}

impl ByteSource {
    /// The bytes of a regular file from `start` to `end`; if `digests` are given, no others than
    /// those that were hashed.
    pub(super) fn range(
        file: Arc<File>,
        start: u64,
        end: u64,
        digests: Option<&Arc<Digests>>,
    ) -> ByteSource {
        let verified = digests.map(|digests| Verified::new(Arc::clone(&file), Arc::clone(digests)));
        let reach = Reach::Range {
            next: start,
            end,
            verified,
        };
        ByteSource::new(file, reach)
    }

    /// The bytes of a pipe, until it is interrupted.
    pub(super) fn pipe(file: Arc<File>, interrupt: Arc<Interrupt>) -> ByteSource {
        ByteSource::new(file, Reach::Pipe(interrupt))
    }

    fn new(file: Arc<File>, reach: Reach) -> ByteSource {
        ByteSource {
            file,
            reach,
            buffer: Vec::new(),
            position: 0,
            consumed: 0,
        }
    }

    /// Bytes consumed so far.
    pub(super) fn consumed(&self) -> u64 {
        self.consumed
    }

    /// Returns the next bytes without consuming them, at least `count` unless the end comes first.
    pub(super) fn peek(&mut self, count: usize) -> io::Result<&[u8]> {
        while self.buffer.len() - self.position < count {
            self.buffer.drain(..self.position);
            self.position = 0;
            self.buffer.reserve(READ);
            if read(&self.file, &mut self.reach, &mut self.buffer)? == 0 {
                break;
            }
        }
        Ok(self.buffer.get(self.position..).unwrap_or_default())
    }

    /// Appends bytes to `out` until its capacity is used, bypassing the buffer. False at the end.
    pub(super) fn fill(&mut self, out: &mut Vec<u8>) -> io::Result<bool> {
        while out.len() < out.capacity() {
            let room = out.capacity() - out.len();
            let buffered = self.buffer.get(self.position..).unwrap_or_default();
            let count = buffered.len().min(room);
            let read = if count > 0 {
                out.extend_from_slice(&buffered[..count]);
                self.position += count;
                count
            } else {
                read(&self.file, &mut self.reach, out)?
            };
            if read == 0 {
                return Ok(false);
            }
            self.consumed += read as u64;
        }
        Ok(true)
    }
}

/// Appends the bytes of one read to `out`, at most its spare capacity. 0 at the end.
fn read(file: &File, reach: &mut Reach, out: &mut Vec<u8>) -> io::Result<usize> {
    loop {
        let room = out.capacity() - out.len();
        let read = match reach {
            Reach::Range {
                next,
                end,
                verified,
            } => {
                let limit = usize::try_from(*end - *next).map_or(room, |left| left.min(room));
                if limit == 0 {
                    return Ok(0);
                }
                match verified {
                    Some(verified) => verified.at(*next).map(|bytes| {
                        let bytes = &bytes[..bytes.len().min(limit)];
                        out.extend_from_slice(bytes);
                        bytes.len()
                    }),
                    None => pread_append(file.as_fd(), *next, limit, out),
                }
                .inspect(|count| *next += *count as u64)
            }
            Reach::Pipe(interrupt) => {
                interrupt.wait_for(file)?;
                rustix::io::read(file, spare_capacity(out)).map_err(io::Error::from)
            }
        };
        match read {
            Err(error)
                if matches!(
                    error.kind(),
                    io::ErrorKind::Interrupted | io::ErrorKind::WouldBlock
                ) => {}
            read => return read,
        }
    }
}

impl BufRead for ByteSource {
    fn fill_buf(&mut self) -> io::Result<&[u8]> {
        if self.position == self.buffer.len() {
            self.buffer.clear();
            self.position = 0;
            self.buffer.reserve(READ);
            read(&self.file, &mut self.reach, &mut self.buffer)?;
        }
        Ok(self.buffer.get(self.position..).unwrap_or_default())
    }

    fn consume(&mut self, count: usize) {
        let count = count.min(self.buffer.len() - self.position);
        self.position += count;
        self.consumed += count as u64;
    }
}

impl Read for ByteSource {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        let count = self.fill_buf()?.read(into)?;
        self.consume(count);
        Ok(count)
    }
}

/// Interrupts a wait for bytes that may never come.
pub(super) struct Interrupt(OwnedFd);

impl Interrupt {
    pub(super) fn new() -> io::Result<Interrupt> {
        Ok(Interrupt(eventfd(
            0,
            EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK,
        )?))
    }

    /// From now on, every wait fails.
    pub(super) fn raise(&self) {
        // This fails only if the counter is full, which has the same effect.
        let _ = rustix::io::write(&self.0, &1_u64.to_ne_bytes());
    }

    /// Waits until `file` is readable.
    fn wait_for(&self, file: &File) -> io::Result<()> {
        let mut waited = [
            PollFd::new(file, PollFlags::IN),
            PollFd::new(&self.0, PollFlags::IN),
        ];
        loop {
            match poll(&mut waited, None) {
                Ok(_) if !waited[1].revents().is_empty() => {
                    return Err(io::Error::other("interrupted"));
                }
                Ok(_) => return Ok(()),
                Err(Errno::INTR) => {}
                Err(error) => return Err(error.into()),
            }
        }
    }
}
