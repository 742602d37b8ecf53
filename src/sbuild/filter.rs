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
