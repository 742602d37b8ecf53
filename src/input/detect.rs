//! Detection of the format of an archive by its first bytes.

use super::Compression;

/// Bytes needed for detection: a header block of tar.
pub(super) const DETECTED: usize = 512;

/// Position of the checksum in a header block (POSIX.1-2017, `pax`, "ustar Interchange Format").
const CHECKSUM: std::ops::Range<usize> = 148..156;

/// Magic numbers of other formats, and their names with an article.
const OTHERS: &[(&[u8], &str)] = &[
    (b"BZh", "a bzip2 archive"),
    (b"\x04\x22\x4D\x18", "an lz4 archive"),
    (b"\x02\x21\x4C\x18", "an lz4 archive"),
    (b"\x5D\x00\x00", "an lzma archive"),
    (b"LZIP", "an lzip archive"),
    (b"\x89LZO\x00\r\n\x1A\n", "an lzop archive"),
    (b"\x1F\x9D", "a compress (.Z) archive"),
    (b"\x1F\xA0", "a compress (.Z) archive"),
    (b"PK\x03\x04", "a zip archive"),
    (b"PK\x05\x06", "a zip archive"),
    (b"7z\xBC\xAF\x27\x1C", "a 7z archive"),
    (b"Rar!\x1A\x07", "a rar archive"),
    (b"!<arch>\ndebian", "a Debian package"),
    (b"!<arch>\n", "an ar archive"),
    (b"070701", "a cpio archive"),
    (b"070702", "a cpio archive"),
    (b"070707", "a cpio archive"),
    (b"\xC7\x71", "a cpio archive"),
    (b"\x71\xC7", "a cpio archive"),
    (b"hsqs", "a squashfs image"),
    (b"sqsh", "a squashfs image"),
    (b"\xED\xAB\xEE\xDB", "an rpm package"),
    (b"QFI\xFB", "a qcow2 image"),
    (b"\x7FELF", "a program"),
    (b"\x37\xA4\x30\xEC", "a zstd dictionary"),
];

/// The detected format.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Detected {
    /// A tar archive with this compression.
    Tar(Compression),
    /// Another format, with its name and an article.
    Other(&'static str),
    /// Unknown.
    Unknown,
}

/// Detects the format of a file that begins with `bytes`: [`DETECTED`] bytes, or the whole file.
pub(super) fn detect(bytes: &[u8]) -> Detected {
    // Tar first: a header block begins with a file name, which may look like any magic number.
    if bytes
        .first_chunk::<DETECTED>()
        .is_some_and(|block| is_empty(block) || has_checksum(block))
    {
        return Detected::Tar(Compression::None);
    }
    match bytes {
        [0x28, 0xB5, 0x2F, 0xFD, ..] | [0x50..=0x5F, 0x2A, 0x4D, 0x18, ..] => {
            Detected::Tar(Compression::Zstd)
        }
        // Versions before 0.8, which the scan for frames reports.
        [0x1E | 0x22..=0x27, 0xB5, 0x2F, 0xFD, ..] => Detected::Tar(Compression::Zstd),
        [0x1F, 0x8B, ..] => Detected::Tar(Compression::Gzip),
        [0xFD, b'7', b'z', b'X', b'Z', 0, ..] => Detected::Tar(Compression::Xz),
        _ => match OTHERS.iter().find(|(magic, _)| bytes.starts_with(magic)) {
            Some((_, name)) => Detected::Other(name),
            // A header with a wrong checksum, which the tar reader reports better.
            None if bytes.get(257..262) == Some(b"ustar") => Detected::Tar(Compression::None),
            None => Detected::Unknown,
        },
    }
}

fn is_empty(block: &[u8; DETECTED]) -> bool {
    block.iter().all(|byte| *byte == 0)
}

/// True if the checksum of a header block is right. Some old programs summed signed bytes.
fn has_checksum(block: &[u8; DETECTED]) -> bool {
    let Some(said) = block.get(CHECKSUM).and_then(octal) else {
        return false;
    };
    let summed = |value: fn(u8) -> i64| {
        let bytes = block.iter().enumerate();
        bytes
            .map(|(place, byte)| {
                value(if CHECKSUM.contains(&place) {
                    b' '
                } else {
                    *byte
                })
            })
            .sum::<i64>()
    };
    said == summed(i64::from) || said == summed(|byte| i64::from(byte.cast_signed()))
}

/// The number in a field of octal digits, with leading blanks and a trailing blank or NUL.
fn octal(field: &[u8]) -> Option<i64> {
    let digits = field
        .trim_ascii_start()
        .split(|byte| matches!(byte, 0 | b' '))
        .next()?;
    i64::from_str_radix(str::from_utf8(digits).ok()?, 8).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn header() -> tar::Header {
        let mut header = tar::Header::new_old();
        header.as_old_mut().name[..7].copy_from_slice(b"BZh.txt");
        header.set_cksum();
        header
    }

    #[test]
    fn a_tar_is_known_by_its_checksum_whatever_its_first_member_is_called() {
        assert_eq!(
            detect(header().as_bytes()),
            Detected::Tar(Compression::None)
        );
    }

    #[test]
    fn an_empty_tar_is_a_tar() {
        assert_eq!(detect(&[0; 512]), Detected::Tar(Compression::None));
        assert_eq!(detect(&[0; 511]), Detected::Unknown);
    }

    #[test]
    fn a_damaged_ustar_header_is_left_to_the_reader_to_complain_about() {
        let mut header = tar::Header::new_ustar();
        header.as_old_mut().name[0] = b'a';
        assert_eq!(detect(header.as_bytes()), Detected::Tar(Compression::None));
    }

    #[test]
    fn compressions_and_other_formats_are_known_by_their_magic() {
        for (bytes, expected) in [
            (
                b"\x28\xB5\x2F\xFD".as_slice(),
                Detected::Tar(Compression::Zstd),
            ),
            (b"\x5A\x2A\x4D\x18", Detected::Tar(Compression::Zstd)),
            (b"\x1F\x8B\x08", Detected::Tar(Compression::Gzip)),
            (b"\xFD7zXZ\x00", Detected::Tar(Compression::Xz)),
            (b"BZh91AY", Detected::Other("a bzip2 archive")),
            (
                b"!<arch>\ndebian-binary",
                Detected::Other("a Debian package"),
            ),
            (b"hsqs", Detected::Other("a squashfs image")),
            (b"PK\x03\x04", Detected::Other("a zip archive")),
            (b"hello", Detected::Unknown),
        ] {
            assert_eq!(detect(bytes), expected, "{bytes:?}");
        }
    }
}
