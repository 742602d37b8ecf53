//! Encoding the 512-byte header block for sbuild's loaders (POSIX.1-2017, `pax`, "ustar Interchange
//! Format").
//!
//! Stricter than the standard: every number is zero-padded octal with a trailing NUL, and the
//! checksum is six octal digits, NUL, space. The names of user and group are empty, because a
//! loader would look them up on its own host. The filter of sbuild 0.89 refuses or drops members in
//! other forms.

pub mod decode;

use tar::Header;

/// Length of a header block, and the unit of padding.
pub const BLOCK: usize = 512;

/// The largest size that eleven octal digits hold, in bytes: 8 GiB - 1.
pub const MAX_SIZE: u64 = 0o77_777_777_777;

/// The largest modification time that eleven octal digits hold, in seconds: the year 2242.
pub const MAX_MTIME: i64 = 0o77_777_777_777;

/// The largest user or group id that seven octal digits hold.
pub const MAX_ID: u32 = 0o7_777_777;

/// The values of a header block. Each must fit its field. [`block`] truncates, so callers check
/// first ([`MAX_SIZE`], [`split`] …).
#[derive(Debug, Default)]
pub struct Fields<'a> {
    /// Name, at most 100 bytes.
    pub name: &'a [u8],
    /// Prefix of the name, without the `/` between them; at most 155 bytes.
    pub prefix: &'a [u8],
    /// Permission bits, 0..=0o7777.
    pub mode: u32,
    /// User id.
    pub uid: u32,
    /// Group id.
    pub gid: u32,
    /// Bytes of data after the header.
    pub size: u64,
    /// Seconds since 1970, 0..=[`MAX_MTIME`].
    pub mtime: u64,
    /// The type of the member: `0` file, `1` hard link, `2` symbolic link, `3` and `4` devices, `5`
    /// directory, `6` FIFO, `x` PAX records.
    pub typeflag: u8,
    /// Target of a link, at most 100 bytes.
    pub linkname: &'a [u8],
    /// Major and minor number of a device.
    pub device: (u32, u32),
}

/// Encodes the header block of `fields`.
pub fn block(fields: &Fields<'_>) -> [u8; BLOCK] {
    let mut header = Header::new_ustar();
    if let Some(ustar) = header.as_ustar_mut() {
        text(&mut ustar.name, fields.name);
        text(&mut ustar.prefix, fields.prefix);
        text(&mut ustar.linkname, fields.linkname);
        octal(&mut ustar.mode, fields.mode.into());
        octal(&mut ustar.uid, fields.uid.into());
        octal(&mut ustar.gid, fields.gid.into());
        octal(&mut ustar.size, fields.size);
        octal(&mut ustar.mtime, fields.mtime);
        octal(&mut ustar.dev_major, fields.device.0.into());
        octal(&mut ustar.dev_minor, fields.device.1.into());
        ustar.typeflag = [fields.typeflag];
        // For the sum, the checksum field counts as blanks.
        ustar.cksum = *b"        ";
    }
    let sum = header.as_bytes().iter().map(|byte| u64::from(*byte)).sum();
    // Six digits and NUL; the eighth byte stays the blank written above.
    octal(&mut header.as_old_mut().cksum[..7], sum);
    *header.as_bytes()
}

fn text(field: &mut [u8], value: &[u8]) {
    for (place, byte) in field.iter_mut().zip(value) {
        *place = *byte;
    }
}

/// Fills `field` with octal digits, the last byte with NUL.
fn octal(field: &mut [u8], mut value: u64) {
    if let Some((end, digits)) = field.split_last_mut() {
        *end = 0;
        for digit in digits.iter_mut().rev() {
            *digit = b'0' + (value & 7) as u8;
            value >>= 3;
        }
    }
}

/// Splits a stored name into the prefix and name fields. `None` if it needs a PAX record.
pub fn split(name: &[u8]) -> Option<(&[u8], &[u8])> {
    if name.len() <= 100 {
        return Some((b"", name));
    }
    // The slash at `cut` is not stored; the name field must not be empty (a directory's name ends
    // in a slash).
    let first = name.len().checked_sub(101)?;
    let cut = first
        + name
            .get(first..name.len() - 1)?
            .iter()
            .position(|byte| *byte == b'/')?;
    (cut <= 155 && cut > 0).then(|| (&name[..cut], &name[cut + 1..]))
}

/// The number of zero bytes that fill the last block of `size` bytes of data.
pub fn padding(size: u64) -> usize {
    (size.wrapping_neg() % BLOCK as u64) as usize
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn fields_stand_as_the_filter_of_sbuild_wants_them() {
        let block = block(&Fields {
            name: b"./a",
            mode: 0o4755,
            uid: 999,
            size: 513,
            mtime: 1,
            typeflag: b'0',
            ..Fields::default()
        });
        assert_eq!(&block[..4], b"./a\0");
        assert_eq!(&block[100..108], b"0004755\0");
        assert_eq!(&block[108..116], b"0001747\0");
        assert_eq!(&block[124..136], b"00000001001\0");
        assert_eq!(&block[257..265], b"ustar\x0000");
        assert_eq!(&block[265..329], [0; 64]);
        let sum: u32 = block
            .iter()
            .enumerate()
            .map(|(i, b)| {
                if (148..156).contains(&i) {
                    32
                } else {
                    u32::from(*b)
                }
            })
            .sum();
        assert_eq!(&block[148..156], format!("{sum:06o}\0 ").as_bytes());
    }

    #[test]
    fn long_names_are_split_at_a_slash_or_not_at_all() {
        let cases: &[(usize, usize, Option<usize>)] = &[
            (50, 49, Some(0)),
            (50, 50, Some(50)),
            (155, 100, Some(155)),
            (156, 100, None),
            (50, 101, None),
        ];
        for (prefix, name, expected) in cases {
            let mut stored = vec![b'p'; *prefix];
            stored.push(b'/');
            stored.extend(vec![b'n'; *name]);
            assert_eq!(
                split(&stored).map(|(prefix, _)| prefix.len()),
                *expected,
                "{prefix} and {name}"
            );
        }
        assert_eq!(
            split(&[b"./".as_slice(), &[b'd'; 120], b"/"].concat()),
            None,
            "a name field must not be empty"
        );
    }

    #[test]
    fn data_is_padded_to_whole_blocks() {
        for (size, zeros) in [(0, 0), (1, 511), (511, 1), (512, 0), (513, 511)] {
            assert_eq!(padding(size), zeros);
        }
    }
}
