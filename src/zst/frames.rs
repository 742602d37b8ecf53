//! Finding the frames of a zstd archive without decoding them (RFC 8878, "Zstandard Frames" and
//! "Skippable Frames").

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;

/// Maximum length of a frame header, in bytes: magic number, descriptor, window, dictionary id,
/// content size.
pub const LONGEST_HEADER: usize = 18;

/// The magic number of a frame.
const MAGIC: [u8; 4] = 0xFD2F_B528_u32.to_le_bytes();

/// The last three bytes of the magic number of a skippable frame. The first is 0x50..=0x5F.
const SKIPPABLE: [u8; 3] = [0x2A, 0x4D, 0x18];

/// Maximum size of a block, compressed or not, in bytes.
const LARGEST_BLOCK: u64 = 128 << 10;

/// Maximum number of frames in an archive, so that their list does not exhaust memory. At this size
/// it takes 48 MiB.
const MOST_FRAMES: usize = 1 << 20;

/// Bytes per read: enough for many small blocks, and cheap where blocks are large.
const READ: usize = 4096;

/// A frame of an archive.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Frame {
    /// Offset in the archive, in bytes.
    pub offset: u64,
    /// Compressed length, in bytes.
    pub compressed: u64,
    /// Length of its content in bytes, if the frame header has it. 0 for a skippable frame.
    pub content: Option<u64>,
    /// Window size, in bytes. 0 for a skippable frame.
    pub window: u64,
    /// It ends with a checksum of the content.
    pub has_checksum: bool,
    /// It is skippable: it has no content, and decoders ignore it.
    pub is_skippable: bool,
}

/// A frame that cannot be read.
#[derive(Debug, thiserror::Error)]
#[error("zstd frame at byte {offset}: {fault}")]
pub struct Error {
    /// Offset of the frame in the archive, in bytes.
    pub offset: u64,
    /// The fault.
    pub fault: Fault,
}

/// A reason why a frame cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum Fault {
    /// The archive could not be read.
    #[error("read: {}", crate::error::describe(.0))]
    Read(io::Error),
    /// The archive ends within the frame.
    #[error("the archive is truncated within it; copy or create it again")]
    Truncated,
    /// There is no frame at this offset.
    #[error("no frame begins here: the archive is damaged, or something was appended to it")]
    NotAFrame,
    /// A legacy format, older than zstd 0.8.
    #[error("written by a zstd before 0.8; compress it again")]
    Legacy,
    /// The frame was compressed with a dictionary.
    #[error(
        "needs the dictionary {0}, and dictionaries are not supported; compress it without one"
    )]
    Dictionary(u32),
    /// Decoding would take more memory than allowed.
    #[error(
        "needs a window of {window} bytes, more than the {limit} allowed; compress it with a smaller one (zstd --long=27 or less)"
    )]
    Window {
        /// Window size of the frame, in bytes.
        window: u64,
        /// The limit, in bytes.
        limit: u64,
    },
    /// The frame violates the format or contradicts itself.
    #[error("damaged: {0}")]
    Corrupt(&'static str),
    /// The content does not match its checksum.
    #[error("damaged: its content does not match its checksum")]
    Checksum,
    /// There are too many frames.
    #[error(
        "the archive has more than {MOST_FRAMES} frames before it; compress it again in larger ones"
    )]
    TooMany,
    /// The decoder could not allocate memory.
    #[error("not enough memory to decode it")]
    Memory,
}

/// The decoded start of a frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Start {
    /// A skippable frame, with its length in bytes including the magic number.
    Skippable(u64),
    /// A frame with content.
    Frame(Header),
}

/// The header of a frame with content.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Header {
    /// Its length in bytes, magic number included.
    pub length: u64,
    /// Length of the content in bytes, if present.
    pub content: Option<u64>,
    /// Window size in bytes: the length of the content for a single-segment frame.
    pub window: u64,
    /// A checksum follows the last block.
    pub has_checksum: bool,
}

/// Decodes the header at the start of `bytes`. [`Fault::Truncated`] if `bytes` end within it, which
/// cannot happen with [`LONGEST_HEADER`] bytes.
pub fn start(bytes: &[u8]) -> Result<Start, Fault> {
    let mut rest = bytes;
    let Some(magic) = take::<4>(&mut rest) else {
        let is_begun = bytes.split_first().is_none_or(|(first, rest)| match first {
            0x28 | 0x1E | 0x22..=0x27 => MAGIC[1..].starts_with(rest),
            0x50..=0x5F => SKIPPABLE.starts_with(rest),
            _ => false,
        });
        return Err(if is_begun {
            Fault::Truncated
        } else {
            Fault::NotAFrame
        });
    };
    match magic {
        MAGIC => {}
        [0x50..=0x5F, tail @ ..] if tail == SKIPPABLE => {
            let length = u32::from_le_bytes(take(&mut rest).ok_or(Fault::Truncated)?);
            return Ok(Start::Skippable(8 + u64::from(length)));
        }
        [0x1E, 0xB5, 0x2F, 0xFD] | [0x22..=0x27, 0xB5, 0x2F, 0xFD] => return Err(Fault::Legacy),
        _ => return Err(Fault::NotAFrame),
    }
    let [descriptor] = take(&mut rest).ok_or(Fault::Truncated)?;
    if descriptor & 0b1000 != 0 {
        return Err(Fault::Corrupt("its header uses a reserved bit"));
    }
    let is_single_segment = descriptor & 0b10_0000 != 0;
    let window = if is_single_segment {
        None
    } else {
        Some(number(&mut rest, 1)?)
    };
    let dictionary = number(&mut rest, [0, 1, 2, 4][usize::from(descriptor & 3)])?;
    if dictionary != 0 {
        return Err(Fault::Dictionary(
            u32::try_from(dictionary).unwrap_or(u32::MAX),
        ));
    }
    let content = match (descriptor >> 6, is_single_segment) {
        (0, false) => None,
        (0, true) => Some(number(&mut rest, 1)?),
        (1, _) => Some(number(&mut rest, 2)? + 256),
        (2, _) => Some(number(&mut rest, 4)?),
        _ => Some(number(&mut rest, 8)?),
    };
    let window = match window {
        Some(window) => {
            let base = 1 << (10 + (window >> 3));
            base + base / 8 * (window & 7)
        }
        None => content.unwrap_or(0),
    };
    let length = (bytes.len() - rest.len()) as u64;
    Ok(Start::Frame(Header {
        length,
        content,
        window,
        has_checksum: descriptor & 0b100 != 0,
    }))
}

fn take<const N: usize>(bytes: &mut &[u8]) -> Option<[u8; N]> {
    let (first, rest) = bytes.split_first_chunk()?;
    *bytes = rest;
    Some(*first)
}

/// Takes a little-endian number of `width` bytes, at most 8, from the front of `bytes`.
fn number(bytes: &mut &[u8], width: usize) -> Result<u64, Fault> {
    let (field, rest) = bytes.split_at_checked(width).ok_or(Fault::Truncated)?;
    *bytes = rest;
    Ok(field
        .iter()
        .rev()
        .fold(0, |number, byte| number << 8 | u64::from(*byte)))
}

/// Returns the frames of the archive of `length` bytes that begins at offset `start` of `file`.
/// Reads headers only, and neither uses nor changes the file's position.
pub fn scan(file: &File, start: u64, length: u64) -> Result<Vec<Frame>, Error> {
    scan_with(length, |offset, buffer| {
        file.read_at(buffer, start.saturating_add(offset))
    })
}

/// [`scan`] with a function `read` that reads bytes at an offset into a buffer and returns their
/// number, 0 at the end.
pub fn scan_with(
    length: u64,
    read: impl FnMut(u64, &mut [u8]) -> io::Result<usize>,
) -> Result<Vec<Frame>, Error> {
    let mut bytes = Bytes {
        length,
        read,
        buffer: [0; READ],
        offset: 0,
        filled: 0,
    };
    let mut frames = Vec::new();
    let mut offset = 0;
    while offset < length {
        let frame = if frames.len() < MOST_FRAMES {
            bytes.frame(offset)
        } else {
            Err(Fault::TooMany)
        };
        let frame = frame.map_err(|fault| Error { offset, fault })?;
        frames.push(frame);
        offset += frame.compressed;
    }
    Ok(frames)
}

/// The archive, with a buffer of the bytes read last.
struct Bytes<R> {
    length: u64,
    read: R,
    buffer: [u8; READ],
    /// Offset of the buffer in the archive.
    offset: u64,
    filled: usize,
}

impl<R: FnMut(u64, &mut [u8]) -> io::Result<usize>> Bytes<R> {
    /// Returns `count` bytes at `offset`; fewer only at the end of the archive.
    fn at(&mut self, offset: u64, count: usize) -> Result<&[u8], Fault> {
        let left = self.length.saturating_sub(offset);
        let count = count.min(usize::try_from(left).unwrap_or(usize::MAX));
        let end = self.offset + self.filled as u64;
        if offset < self.offset || offset + count as u64 > end {
            // A long jump means large blocks: copy only the requested bytes.
            let is_near = offset >= self.offset && offset < end.saturating_add(READ as u64);
            let wanted = if is_near {
                READ
            } else {
                count.max(LONGEST_HEADER)
            };
            (self.offset, self.filled) = (offset, 0);
            while self.filled < count {
                let room = self.buffer.get_mut(self.filled..wanted).unwrap_or_default();
                match (self.read)(offset + self.filled as u64, room) {
                    Ok(0) => return Err(Fault::Truncated),
                    Ok(read) => self.filled += read,
                    Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                    Err(error) => return Err(Fault::Read(error)),
                }
            }
        }
        let first = (offset - self.offset) as usize;
        self.buffer
            .get(first..first + count)
            .ok_or(Fault::Truncated)
    }

    fn frame(&mut self, offset: u64) -> Result<Frame, Fault> {
        let left = self.length - offset;
        let frame = match start(self.at(offset, LONGEST_HEADER)?)? {
            Start::Skippable(compressed) => Frame {
                offset,
                compressed,
                content: Some(0),
                window: 0,
                has_checksum: false,
                is_skippable: true,
            },
            Start::Frame(header) => {
                let compressed = self.blocks(offset, &header)?;
                let Header {
                    content,
                    window,
                    has_checksum,
                    ..
                } = header;
                Frame {
                    offset,
                    compressed,
                    content,
                    window,
                    has_checksum,
                    is_skippable: false,
                }
            }
        };
        if frame.compressed > left {
            Err(Fault::Truncated)
        } else {
            Ok(frame)
        }
    }

    /// Computes the length of the frame at `offset` from its block headers. It may exceed the
    /// archive.
    fn blocks(&mut self, offset: u64, header: &Header) -> Result<u64, Fault> {
        let mut length = header.length;
        let mut most_content = 0_u64;
        loop {
            let mut bytes = self.at(offset + length, 3)?;
            let block = number(&mut bytes, 3)?;
            let size = block >> 3;
            if size > LARGEST_BLOCK {
                return Err(Fault::Corrupt("a block is larger than blocks can be"));
            }
            let (stored, content) = match block >> 1 & 3 {
                0 => (size, size),
                1 => (1, size),
                2 => (size, LARGEST_BLOCK.min(header.window)),
                _ => return Err(Fault::Corrupt("a block of a reserved type")),
            };
            length += 3 + stored;
            most_content += content;
            if block & 1 != 0 {
                break;
            }
            if offset + length >= self.length {
                return Err(Fault::Truncated);
            }
        }
        // So that no caller allocates a buffer for content that these few bytes cannot hold.
        if header.content.is_some_and(|content| content > most_content) {
            return Err(Fault::Corrupt(
                "it says that its content is longer than its blocks can hold",
            ));
        }
        Ok(length + if header.has_checksum { 4 } else { 0 })
    }
}
