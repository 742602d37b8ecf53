//! Decoding the fields of the 512-byte header block, in every dialect.
//!
//! | bytes | field | | bytes | field |
//! |---|---|---|---|---|
//! | 0..100 | name | | 257..265 | magic and version: `ustar` NUL `00` (POSIX), `ustar  ` NUL (GNU), else v7 |
//! | 100..108 | mode | | 265..297 | user name (not v7) |
//! | 108..116 | uid | | 297..329 | group name (not v7) |
//! | 116..124 | gid | | 329..337 | device major (not v7) |
//! | 124..136 | size | | 337..345 | device minor (not v7) |
//! | 136..148 | mtime | | 345..500 | POSIX: prefix of the name |
//! | 148..156 | checksum | | 386..482 | GNU: four extents of a sparse file |
//! | 156 | type | | 482 | GNU: more extents follow in a block of their own |
//! | 157..257 | link target | | 483..495 | GNU: true size of a sparse file |

use super::BLOCK;
use crate::archive::number;

/// The format of a header block.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Dialect {
    /// Before POSIX: no user names, no prefix, no device numbers.
    V7,
    /// POSIX, with or without PAX records.
    Ustar,
    /// GNU tar: other fields in place of the prefix.
    Gnu,
}

/// A header block and access to its fields.
#[derive(Clone, Copy)]
pub struct Header<'a>(pub &'a [u8; BLOCK]);

impl<'a> Header<'a> {
    /// The format. As in GNU tar, an unknown magic counts as none, and the version after the POSIX
    /// magic does not matter.
    pub fn dialect(self) -> Dialect {
        match &self.0[257..265] {
            b"ustar  \0" => Dialect::Gnu,
            magic if magic.starts_with(b"ustar\0") => Dialect::Ustar,
            _ => Dialect::V7,
        }
    }

    /// True if the checksum is right. Sums of signed bytes, as written by some old programs, are
    /// accepted too, as in GNU tar. It must be octal: GNU tar and bsdtar skip a member whose
    /// checksum is in base-256.
    pub fn has_valid_checksum(self) -> bool {
        let stored = &self.0[148..156];
        let Ok(expected) = number::octal(stored) else {
            return false;
        };
        let sum = |bytes: &[u8]| bytes.iter().map(|byte| u32::from(*byte)).sum::<u32>();
        // The checksum field itself counts as eight blanks.
        let unsigned = i64::from(sum(self.0)) - i64::from(sum(stored)) + 8 * 32;
        let high = |bytes: &[u8]| bytes.iter().filter(|byte| **byte >= 0x80).count() as i64;
        unsigned == expected || unsigned - 256 * (high(self.0) - high(stored)) == expected
    }

    /// The type of the member.
    pub fn typeflag(self) -> u8 {
        self.0[156]
    }

    /// True if POSIX or GNU tar defines the type.
    pub fn has_known_type(self) -> bool {
        matches!(self.typeflag(), b'\0' | b'0'..=b'7' | b'D' | b'S')
    }

    /// The name, preceded by the prefix in a POSIX header.
    pub fn name(self) -> Vec<u8> {
        let name = text(&self.0[..100]);
        match self.dialect() {
            Dialect::Ustar => match text(&self.0[345..500]) {
                b"" => name.to_vec(),
                prefix => [prefix, name].join(&b'/'),
            },
            _ => name.to_vec(),
        }
    }

    /// The target of a link.
    pub fn linkname(self) -> &'a [u8] {
        text(&self.0[157..257])
    }

    /// Permission bits: 0..=0o7777. Some programs store the file type in the bits above.
    pub fn mode(self) -> Result<u32, number::Error> {
        Ok((number::unsigned_field(&self.0[100..108])? & 0o7777) as u32)
    }

    /// User id.
    pub fn uid(self) -> Result<u32, number::Error> {
        number::id(number::unsigned_field(&self.0[108..116])?)
    }

    /// Group id.
    pub fn gid(self) -> Result<u32, number::Error> {
        number::id(number::unsigned_field(&self.0[116..124])?)
    }

    /// Size in bytes, 0..=`i64::MAX`.
    pub fn size(self) -> Result<u64, number::Error> {
        number::unsigned_field(&self.0[124..136])
    }

    /// Seconds since 1970.
    pub fn mtime(self) -> Result<i64, number::Error> {
        number::field(&self.0[136..148])
    }

    /// Names of user and group; empty in v7.
    pub fn owner_names(self) -> (&'a [u8], &'a [u8]) {
        match self.dialect() {
            Dialect::V7 => (b"", b""),
            _ => (text(&self.0[265..297]), text(&self.0[297..329])),
        }
    }

    /// Major and minor number of a device. Not for v7.
    pub fn device(self) -> Result<(u32, u32), number::Error> {
        let number = |field| {
            u32::try_from(number::unsigned_field(field)?).map_err(|_| number::Error::TooLarge)
        };
        Ok((number(&self.0[329..337])?, number(&self.0[337..345])?))
    }

    /// GNU: the extents of a sparse file for [`crate::archive::sparse::decode::OldGnu`], and the
    /// byte after them.
    pub fn sparse_extents(self) -> (&'a [u8], u8) {
        (&self.0[386..482], self.0[482])
    }

    /// GNU: the true size of a sparse file.
    pub fn real_size(self) -> Result<u64, number::Error> {
        number::unsigned_field(&self.0[483..495])
    }
}

/// A text field ends at its first NUL, or fills all its bytes.
fn text(field: &[u8]) -> &[u8] {
    field.split(|byte| *byte == 0).next().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::super::{Fields, block};
    use super::*;

    fn with_sum(mut block: [u8; BLOCK], sum: i64) -> [u8; BLOCK] {
        block[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
        block
    }

    #[test]
    fn sums_of_unsigned_and_of_signed_bytes_are_taken_and_no_others() {
        let block = block(&Fields {
            name: b"\xff\xfe\x80",
            ..Fields::default()
        });
        let sum: i64 = block
            .iter()
            .enumerate()
            .map(|(i, b)| {
                if (148..156).contains(&i) {
                    32
                } else {
                    i64::from(*b)
                }
            })
            .sum();
        for (stored, is_valid) in [
            (sum, true),
            (sum - 3 * 256, true),
            (sum - 256, false),
            (sum + 1, false),
            (0, false),
        ] {
            assert_eq!(
                Header(&with_sum(block, stored)).has_valid_checksum(),
                is_valid,
                "{stored}"
            );
        }
    }

    #[test]
    fn a_checksum_in_base_256_is_none() {
        let mut block = block(&Fields {
            name: b"a",
            ..Fields::default()
        });
        assert!(Header(&block).has_valid_checksum());
        let sum = number::octal(&block[148..156]).unwrap();
        block[148] = 0x80;
        block[149..156].copy_from_slice(&sum.to_be_bytes()[1..]);
        assert!(!Header(&block).has_valid_checksum());
    }

    #[test]
    fn only_posix_has_a_prefix() {
        let mut block = block(&Fields {
            name: b"name",
            prefix: b"prefix",
            ..Fields::default()
        });
        assert_eq!(Header(&block).name(), b"prefix/name");
        for (magic, dialect) in [
            (b"ustar  \0", Dialect::Gnu),
            (b"\0\0\0\0\0\0\0\0", Dialect::V7),
            (b"ustar 00", Dialect::V7),
        ] {
            block[257..265].copy_from_slice(magic);
            assert_eq!(Header(&block).dialect(), dialect);
            assert_eq!(Header(&block).name(), b"name");
        }
    }

    #[test]
    fn full_fields_need_no_nul() {
        let block = block(&Fields {
            name: &[b'n'; 100],
            prefix: &[b'p'; 155],
            linkname: &[b'l'; 100],
            ..Fields::default()
        });
        assert_eq!(Header(&block).name().len(), 256);
        assert_eq!(Header(&block).linkname().len(), 100);
    }
}
