//! The filter of sbuild 0.89 for tar streams (`begin_session` of `Sbuild::ChrootUnshare`).
//!
//! It reads the stream in blocks of 512 bytes and takes a block as a header if the magic is `ustar`
//! and the first 11 bytes of the size are octal digits. It drops the header of a device node if the
//! checksum has the expected form, and passes all other headers, the data that their size
//! announces, and zero blocks. At the first other block it stops: that block is lost, and
//! everything after it passes unfiltered.

use crate::archive::header::BLOCK;

/// How the filter classifies a header block.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Seen {
    /// A device node without data: dropped.
    Device,
    /// A device node whose checksum has an unexpected form: the filter stops.
    DeviceWithOddChecksum,
    /// A header that passes, with this number of data blocks.
    Header {
        /// Blocks of 512 bytes.
        data: u64,
    },
    /// A size that is not 11 octal digits: the filter stops.
    BadSize,
    /// No ustar magic: the filter stops.
    NoMagic,
}

/// Classifies `block`, which is not a zero block.
pub fn see(block: &[u8; BLOCK]) -> Seen {
    if !has_magic(block) {
        return Seen::NoMagic;
    }
    let Some(size) = size(block) else {
        return Seen::BadSize;
    };
    match block[156] {
        b'3' | b'4' if size == 0 && has_plain_checksum(block) => Seen::Device,
        b'3' | b'4' if size == 0 => Seen::DeviceWithOddChecksum,
        _ => Seen::Header {
            data: size.div_ceil(BLOCK as u64),
        },
    }
}

/// A block that the filter takes for a header.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Step {
    /// Offset of the block in the stream, in bytes.
    pub offset: u64,
    /// How the filter classifies it.
    pub seen: Seen,
}

/// The way of the filter through a stream.
#[derive(Debug, Default)]
pub struct Walk {
    /// Bytes of the stream so far.
    length: u64,
    /// Offset of the next block that the filter takes for a header.
    next: u64,
    /// The bytes of this block so far.
    block: Vec<u8>,
    is_stopped: bool,
    steps: Vec<Step>,
}

impl Walk {
    /// Adds the next bytes of the stream.
    pub fn add(&mut self, bytes: &[u8]) {
        let begin = self.length;
        self.length += bytes.len() as u64;
        while !self.is_stopped {
            // Everything in front of `begin` is in the block or was passed.
            let at = self.next + self.block.len() as u64 - begin;
            let rest = usize::try_from(at).ok().and_then(|at| bytes.get(at..));
            let Some(rest) = rest.filter(|rest| !rest.is_empty()) else {
                return;
            };
            let missing = BLOCK - self.block.len();
            self.block
                .extend_from_slice(rest.get(..missing).unwrap_or(rest));
            let Ok(block) = <&[u8; BLOCK]>::try_from(self.block.as_slice()).copied() else {
                return;
            };
            self.block.clear();
            self.step(&block);
        }
    }

    fn step(&mut self, block: &[u8; BLOCK]) {
        let offset = self.next;
        self.next += BLOCK as u64;
        if block.iter().all(|byte| *byte == 0) {
            return;
        }
        let seen = see(block);
        match seen {
            Seen::Device => {}
            Seen::Header { data } => self.next += data * BLOCK as u64,
            Seen::DeviceWithOddChecksum | Seen::BadSize | Seen::NoMagic => self.is_stopped = true,
        }
        self.steps.push(Step { offset, seen });
    }

    /// The steps since the last call.
    pub fn take_steps(&mut self) -> Vec<Step> {
        std::mem::take(&mut self.steps)
    }
}

/// True if sbuild 0.89 detects a file that begins with `block` as a plain tar.
pub fn begins_tar(block: &[u8; BLOCK]) -> bool {
    has_magic(block) && has_plain_checksum(block)
}

fn has_magic(block: &[u8; BLOCK]) -> bool {
    &block[257..262] == b"ustar"
}

/// Only the first 11 bytes of the field count.
fn size(block: &[u8; BLOCK]) -> Option<u64> {
    block[124..135]
        .iter()
        .try_fold(0, |size, digit| match digit {
            b'0'..=b'7' => Some(size << 3 | u64::from(digit - b'0')),
            _ => None,
        })
}

/// Compares with the checksum as `sprintf("%06o\0")` writes it, of a sum that wraps at 16 bits. The
/// last byte of the field is summed like a byte outside of it.
fn has_plain_checksum(block: &[u8; BLOCK]) -> bool {
    let (before, field, behind) = (&block[..148], &block[148..155], &block[155..]);
    let sum: u32 = before
        .iter()
        .chain(behind)
        .map(|byte| u32::from(*byte))
        .sum();
    let sum = (sum + 7 * u32::from(b' ')) & 0xffff;
    field == format!("{sum:06o}\0").as_bytes()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::archive::header::{Fields, block};

    fn with(mut block: [u8; BLOCK], at: usize, bytes: &[u8]) -> [u8; BLOCK] {
        block[at..at + bytes.len()].copy_from_slice(bytes);
        let blank = block[..148]
            .iter()
            .chain(&block[156..])
            .map(|byte| u32::from(*byte))
            .sum::<u32>()
            + 8 * 32;
        block[148..156].copy_from_slice(format!("{blank:06o}\0 ").as_bytes());
        block
    }

    #[test]
    fn a_stream_has_the_same_steps_in_whatever_pieces_it_comes() {
        let header = |typeflag, size| {
            block(&Fields {
                name: b"./a",
                size,
                typeflag,
                ..Fields::default()
            })
        };
        let stream = [
            &header(b'0', 513)[..],
            &[b'x'; 1024],
            &header(b'3', 0),
            &[0; 512],
            &header(b'5', 0),
            &[b'x'; 512],
            &header(b'5', 0),
        ]
        .concat();
        for piece in [1, 100, 512, 513, 4096] {
            let mut walk = Walk::default();
            let mut steps = Vec::new();
            for bytes in stream.chunks(piece) {
                walk.add(bytes);
                steps.extend(walk.take_steps());
            }
            let found: Vec<_> = steps.iter().map(|step| (step.offset, step.seen)).collect();
            assert_eq!(
                found,
                [
                    (0, Seen::Header { data: 2 }),
                    (1536, Seen::Device),
                    (2560, Seen::Header { data: 0 }),
                    (3072, Seen::NoMagic),
                ],
                "{piece}"
            );
        }
    }

    #[test]
    fn sizes_are_eleven_octal_digits() {
        let header = block(&Fields {
            name: b"./a",
            size: 513,
            typeflag: b'0',
            ..Fields::default()
        });
        assert_eq!(see(&header), Seen::Header { data: 2 });
        for (size, seen) in [
            (b"00000000012 ", Seen::Header { data: 1 }),
            (b"000000002012", Seen::Header { data: 1 }),
            (b"         12\0", Seen::BadSize),
            (b"12\0\0\0\0\0\0\0\0\0\0", Seen::BadSize),
            (b"\x80\0\0\0\0\0\0\0\0\0\0\x0a", Seen::BadSize),
            (b"00000000008\0", Seen::BadSize),
        ] {
            assert_eq!(
                see(&with(header, 124, size)),
                seen,
                "{}",
                size.escape_ascii()
            );
        }
        assert_eq!(see(&with(header, 257, &[0; 8])), Seen::NoMagic);
        assert_eq!(
            see(&with(header, 257, b"ustar  \0")),
            Seen::Header { data: 2 }
        );
    }

    #[test]
    fn device_nodes_are_dropped_when_their_checksum_has_the_usual_form() {
        let device = block(&Fields {
            name: b"./dev/null",
            typeflag: b'3',
            device: (1, 3),
            ..Fields::default()
        });
        assert_eq!(see(&device), Seen::Device);
        let mut odd = device;
        odd.copy_within(149..154, 148);
        odd[153..156].copy_from_slice(b" \0 ");
        assert_eq!(see(&odd), Seen::DeviceWithOddChecksum);
        assert!(begins_tar(&device) && !begins_tar(&odd));
        assert_eq!(
            see(&with(device, 124, b"00000000001\0")),
            Seen::Header { data: 1 }
        );
    }

    #[test]
    fn checksums_that_do_not_fit_sixteen_bits_are_odd() {
        let high = [0xff; 155];
        let fields = Fields {
            name: &high[..100],
            prefix: &high,
            linkname: &high[..100],
            typeflag: b'4',
            ..Fields::default()
        };
        assert_eq!(see(&block(&fields)), Seen::DeviceWithOddChecksum);
    }
}
