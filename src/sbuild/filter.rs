//! The filter through which sbuild 0.89 leads the tar stream (`begin_session` of
//! `Sbuild::ChrootUnshare`).
//!
//! It walks the stream in blocks of 512 bytes with its own idea of a header: magic `ustar`, the
//! first 11 bytes of the size octal digits. It drops a device node's own header when the checksum
//! is written as it expects, lets pass all other headers and as much data as the size says, and
//! zero blocks. What it does not understand stops it: that block is lost, and all that follows
//! passes as it is.

use crate::archive::header::BLOCK;

/// What the filter takes a header block for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Seen {
    /// A device node without data, which it drops.
    Device,
    /// A device node whose checksum it does not understand: it stops.
    DeviceWithOddChecksum,
    /// A header that passes, and this many blocks of data after it.
    Header {
        /// Blocks of 512 bytes.
        data: u64,
    },
    /// A size that it does not understand: it stops.
    BadSize,
    /// Without the magic: it stops.
    NoMagic,
}

/// What the filter takes `block` for, which is no block of zeros.
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

/// Does sbuild 0.89 take a file that begins with `block` for a plain tar?
pub fn begins_tar(block: &[u8; BLOCK]) -> bool {
    has_magic(block) && has_plain_checksum(block)
}

fn has_magic(block: &[u8; BLOCK]) -> bool {
    &block[257..262] == b"ustar"
}

/// The first 11 bytes of the field alone, the twelfth does not matter.
fn size(block: &[u8; BLOCK]) -> Option<u64> {
    block[124..135]
        .iter()
        .try_fold(0, |size, digit| match digit {
            b'0'..=b'7' => Some(size << 3 | u64::from(digit - b'0')),
            _ => None,
        })
}

/// The checksum as `sprintf("%06o\0")` writes it, of a sum that wraps at 16 bits. The last byte of
/// the field counts for a part of the text.
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
