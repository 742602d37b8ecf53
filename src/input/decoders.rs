//! The threads that decode ahead: one for a stream, several for the frames of a file.

use std::fs::File;
#[cfg(feature = "gzip")]
use std::io::BufRead;
#[cfg(any(feature = "gzip", feature = "xz"))]
use std::io::{self, Read};
use std::sync::Arc;

#[cfg(feature = "gzip")]
use flate2::bufread::GzDecoder;

use super::ahead::{Ahead, Early, Kept, Part};
use super::byte_source::ByteSource;
use super::digest::Digests;
use super::{Compression, Error};
use crate::zst::decode::{Decoder, Stream};
use crate::zst::frames::{Error as FrameError, Frame};

/// Maximum size of a piece, in bytes: it stays in the processor's cache until it is read.
const PIECE: usize = 1 << 20;

/// Maximum content, in bytes, that is decoded into one buffer. Covers every frame that `pack`
/// writes.
const WHOLE: u64 = 192 << 20;

/// Minimum content, in bytes, of frames that may be decoded early. Smaller ones take no longer than
/// their neighbours.
const LARGE: u64 = 48 << 20;

/// The frames with content of a regular file, decoded by any number of threads.
pub(super) struct Frames {
    pub(super) file: Arc<File>,
    /// See [`super::Input::open_with`].
    pub(super) digests: Option<Arc<Digests>>,
    /// Offset of the archive in the file.
    pub(super) start: u64,
    pub(super) frames: Vec<Frame>,
    pub(super) window_log: u32,
    /// Number of decoding threads.
    pub(super) threads: usize,
    /// See [`super::Options::eager`].
    pub(super) eager: bool,
}

impl Frames {
    /// Decodes frames until none is left.
    pub(super) fn work(&self, ahead: &Arc<Ahead>) {
        let mut decoder = Kept::new(ahead);
        while let Some(mut part) = ahead.take(&mut decoder, |index| {
            self.frames.get(index).map_or(0, |frame| self.needs(frame))
        }) {
            let outcome = self.frames.get(part.index).map_or(Ok(()), |frame| {
                self.decode(frame, &mut part, &mut decoder.value)
            });
            decoder.settle();
            part.done(outcome.map_err(Error::Zstd));
        }
    }

    fn decode(
        &self,
        frame: &Frame,
        part: &mut Part,
        kept: &mut Option<Decoder>,
    ) -> Result<(), FrameError> {
        let decoder = match kept {
            Some(decoder) => decoder,
            None => kept.insert(Decoder::new(self.window_log).map_err(|fault| FrameError {
                offset: frame.offset,
                fault,
            })?),
        };
        let is_whole = part.is_early() || self.is_whole(frame);
        let size = self.buffer_size(frame, is_whole);
        decoder.in_one_place(is_whole).map_err(|fault| FrameError {
            offset: frame.offset,
            fault,
        })?;
        let start = self.start + frame.offset;
        let source = ByteSource::range(
            Arc::clone(&self.file),
            start,
            start + frame.compressed,
            self.digests.as_ref(),
        );
        let mut stream = Stream::new(decoder, source, frame.offset);
        loop {
            let Some(mut buffer) = part.buffer(size) else {
                return Ok(());
            };
            let goes_on = stream.fill(&mut buffer.bytes)?;
            part.put(buffer, stream.consumed());
            if !goes_on {
                return Ok(());
            }
        }
    }

    /// Buffer size for the next piece of the frame, in bytes.
    fn buffer_size(&self, frame: &Frame, is_whole: bool) -> usize {
        let content = frame
            .content
            .and_then(|content| usize::try_from(content).ok());
        // With one spare byte the decoder sees the end of the frame before the buffer is full.
        content.map_or(PIECE, |content| {
            if is_whole {
                content + 1
            } else {
                content.min(PIECE)
            }
        })
    }

    /// True if the frame is decoded into one buffer for all of its content when its turn comes.
    /// That takes no more memory than the window and saves a copy. But the reader waits for the
    /// whole frame, so this is only useful among other frames.
    fn is_whole(&self, frame: &Frame) -> bool {
        self.are_many()
            && frame
                .content
                .is_some_and(|content| content <= frame.window && content <= WHOLE)
    }

    /// True if the frame may be decoded early, into one buffer.
    fn may_be_early(&self, frame: &Frame) -> bool {
        let is_large = |content: &u64| (LARGE..=WHOLE).contains(content);
        self.are_many()
            && frame
                .content
                .filter(is_large)
                .is_some_and(|content| self.eager || content <= frame.window)
    }

    /// True if there are enough frames for every thread to have one while others wait to be read.
    fn are_many(&self) -> bool {
        self.frames.len() > 2 * self.threads
    }

    /// The large frames, and when each is due: as soon as the other threads need no longer for the
    /// frames before it than one thread needs for it. Later, the reader would wait for it; earlier,
    /// it would only take memory.
    pub(super) fn early(&self) -> Vec<Early> {
        let content = |frame: &Frame| frame.content.unwrap_or(frame.compressed);
        let mut early = Vec::new();
        for (part, frame) in self.frames.iter().enumerate() {
            if !self.may_be_early(frame) {
                continue;
            }
            let mut left = content(frame).saturating_mul(self.threads as u64 - 1);
            let fits = |before: &&Frame| {
                let rest = left.checked_sub(content(before));
                left = rest.unwrap_or(left);
                rest.is_some()
            };
            let before = self.frames.iter().take(part).rev().take_while(fits).count();
            if before > 0 {
                early.push(Early {
                    part,
                    due: part - before,
                    size: self.buffer_size(frame, true),
                });
            }
        }
        early.sort_by_key(|early| (early.due, early.part));
        early
    }

    /// Memory for decoding a frame in addition to its content, in bytes: the window, but no more
    /// than the content.
    fn needs(&self, frame: &Frame) -> u64 {
        if self.is_whole(frame) {
            0
        } else {
            frame
                .content
                .map_or(frame.window, |content| content.min(frame.window))
        }
    }
}

/// Decodes a stream to its end, as a single part.
pub(super) fn stream(
    ahead: &Arc<Ahead>,
    source: ByteSource,
    compression: Compression,
    window_log: u32,
) {
    let Some(mut part) = ahead.take(&mut Kept::<()>::new(ahead), |_| 0) else {
        return;
    };
    let outcome = match compression {
        Compression::None => plain(&mut part, source),
        Compression::Zstd => zstd(&mut part, source, window_log),
        Compression::Gzip => gzip(&mut part, source),
        Compression::Xz => xz(&mut part, source, window_log),
    };
    part.done(outcome);
}

fn plain(part: &mut Part, mut source: ByteSource) -> Result<(), Error> {
    pieces(part, |out| {
        let goes_on = source.fill(out).map_err(Error::Read)?;
        Ok((goes_on, source.consumed()))
    })
}

fn zstd(part: &mut Part, source: ByteSource, window_log: u32) -> Result<(), Error> {
    let mut decoder = Decoder::new(window_log).map_err(|fault| FrameError { offset: 0, fault })?;
    let mut stream = Stream::new(&mut decoder, source, 0);
    pieces(part, |out| {
        let goes_on = stream.fill(out)?;
        Ok((goes_on, stream.consumed()))
    })
}

#[cfg(feature = "gzip")]
fn gzip(part: &mut Part, source: ByteSource) -> Result<(), Error> {
    let mut decoder = Gzip::Member(Box::new(GzDecoder::new(source)));
    pieces(part, |out| {
        let goes_on = read_into(&mut decoder, out).map_err(|cause| Error::Damaged {
            format: "gzip",
            offset: decoder.consumed(),
            cause,
        })?;
        Ok((goes_on, decoder.consumed()))
    })
}

/// The content of one or more gzip members. As gzip does, it ignores zeros after the last one,
/// which fill blocks of tapes and disks.
#[cfg(feature = "gzip")]
enum Gzip {
    /// Within a member.
    Member(Box<GzDecoder<ByteSource>>),
    /// After the last one; so many bytes were read.
    End(u64),
}

#[cfg(feature = "gzip")]
impl Gzip {
    /// Bytes read of the archive.
    fn consumed(&self) -> u64 {
        match self {
            Gzip::Member(decoder) => decoder.get_ref().consumed(),
            Gzip::End(consumed) => *consumed,
        }
    }

    /// Goes on after a member.
    fn after_member(mut source: ByteSource) -> io::Result<Gzip> {
        let is_member = source.fill_buf()?.first().is_some_and(|byte| *byte != 0);
        if is_member {
            return Ok(Gzip::Member(Box::new(GzDecoder::new(source))));
        }
        loop {
            let padding = source.fill_buf()?;
            if padding.iter().any(|byte| *byte != 0) {
                let text = "data follows the zeros that end it";
                return Err(io::Error::new(io::ErrorKind::InvalidData, text));
            }
            let length = padding.len();
            if length == 0 {
                return Ok(Gzip::End(source.consumed()));
            }
            source.consume(length);
        }
    }
}

#[cfg(feature = "gzip")]
impl Read for Gzip {
    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        while let Gzip::Member(decoder) = self {
            let count = decoder.read(out)?;
            if count > 0 || out.is_empty() {
                return Ok(count);
            }
            let consumed = self.consumed();
            if let Gzip::Member(decoder) = std::mem::replace(self, Gzip::End(consumed)) {
                *self = Gzip::after_member(decoder.into_inner())?;
            }
        }
        Ok(0)
    }
}

#[cfg(feature = "xz")]
fn xz(part: &mut Part, source: ByteSource, window_log: u32) -> Result<(), Error> {
    use liblzma::stream::{CONCATENATED, Error as XzError, Stream};

    // A dictionary as large as the widest zstd window, and the other memory that xz needs.
    let limit = (1 << window_log.clamp(10, 31)) + (16 << 20);
    let damaged = |offset, cause: io::Error| match cause
        .get_ref()
        .and_then(|inner| inner.downcast_ref::<XzError>())
    {
        Some(XzError::MemLimit) => Error::XzMemory { limit },
        _ => Error::Damaged {
            format: "xz",
            offset,
            cause,
        },
    };
    let stream = Stream::new_stream_decoder(limit, CONCATENATED)
        .map_err(|error| damaged(0, error.into()))?;
    let mut decoder = liblzma::bufread::XzDecoder::new_stream(source, stream);
    pieces(part, |out| {
        let goes_on = read_into(&mut decoder, out)
            .map_err(|cause| damaged(decoder.get_ref().consumed(), cause))?;
        Ok((goes_on, decoder.get_ref().consumed()))
    })
}

#[cfg(not(feature = "gzip"))]
fn gzip(_: &mut Part, _: ByteSource) -> Result<(), Error> {
    Err(Error::FeatureOff { format: "gzip" })
}

#[cfg(not(feature = "xz"))]
fn xz(_: &mut Part, _: ByteSource, _: u32) -> Result<(), Error> {
    Err(Error::FeatureOff { format: "xz" })
}

/// Queues pieces until the end. `fill` fills a buffer and returns whether more follows, and the
/// position in the archive.
fn pieces(
    part: &mut Part,
    mut fill: impl FnMut(&mut Vec<u8>) -> Result<(bool, u64), Error>,
) -> Result<(), Error> {
    loop {
        let Some(mut buffer) = part.buffer(PIECE) else {
            return Ok(());
        };
        let (goes_on, consumed) = fill(&mut buffer.bytes)?;
        part.put(buffer, consumed);
        if !goes_on {
            return Ok(());
        }
    }
}

/// Appends to `out` until its capacity is used. False at the end.
#[cfg(any(feature = "gzip", feature = "xz"))]
fn read_into(decoder: &mut impl Read, out: &mut Vec<u8>) -> io::Result<bool> {
    let room = out.capacity() - out.len();
    Ok(decoder.take(room as u64).read_to_end(out)? == room)
}
