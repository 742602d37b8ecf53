//! Decoding PAX extended header records.

/// A malformed record.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Malformed;

/// The records of an extended header, in order: key and value. Ends after the first malformed one.
pub struct Records<'a>(&'a [u8]);

/// Decodes the records in `data`, the whole data of an `x` or `g` header.
pub fn records(data: &[u8]) -> Records<'_> {
    Records(data)
}

impl<'a> Iterator for Records<'a> {
    type Item = Result<(&'a [u8], &'a [u8]), Malformed>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.0.is_empty() {
            return None;
        }
        let Some((key, value, rest)) = record(self.0) else {
            self.0 = &[];
            return Some(Err(Malformed));
        };
        self.0 = rest;
        Some(Ok((key, value)))
    }
}

/// Decodes the first record of `data`. Returns its key, its value and the rest.
fn record(data: &[u8]) -> Option<(&[u8], &[u8], &[u8])> {
    let mut length: usize = 0;
    let mut digits = 0;
    loop {
        match *data.get(digits)? {
            digit @ b'0'..=b'9' => {
                length = length
                    .checked_mul(10)?
                    .checked_add(usize::from(digit - b'0'))?
            }
            b' ' => break,
            _ => return None,
        }
        digits += 1;
    }
    let (record, rest) = data.split_at_checked(length)?;
    // This also refuses a length that ends before the blank.
    let text = record.get(digits + 1..)?.strip_suffix(b"\n")?;
    let equals = text.iter().position(|byte| *byte == b'=')?;
    let (key, value) = (&text[..equals], &text[equals + 1..]);
    (!key.is_empty() && !key.contains(&0)).then_some((key, value, rest))
}

/// Decodes the name of an extended attribute in a `SCHILY.xattr.` key: GNU tar writes `=` as `%3D`
/// and `%` as `%25`, nothing else.
pub fn schily_xattr_name(key: &[u8]) -> Vec<u8> {
    unescaped(key, |digits| match digits {
        b"3D" => Some(b'='),
        b"25" => Some(b'%'),
        _ => None,
    })
}

/// Decodes the name of an extended attribute in a `LIBARCHIVE.xattr.` key, where any byte may be
/// `%` and two hexadecimal digits.
pub fn libarchive_xattr_name(key: &[u8]) -> Vec<u8> {
    unescaped(key, |digits| {
        u8::from_str_radix(
            str::from_utf8(digits)
                .ok()
                .filter(|text| !text.starts_with('+'))?,
            16,
        )
        .ok()
    })
}

/// Replaces each `%` in `key` and the two bytes after it by the result of `byte` for these two, if
/// it returns one.
fn unescaped(key: &[u8], byte: impl Fn(&[u8]) -> Option<u8>) -> Vec<u8> {
    let mut name = Vec::with_capacity(key.len());
    let mut rest = key;
    while let Some((first, others)) = rest.split_first() {
        let escaped = others.split_at_checked(2).filter(|_| *first == b'%');
        let (next, behind) = escaped
            .and_then(|(digits, behind)| Some((byte(digits)?, behind)))
            .unwrap_or((*first, others));
        name.push(next);
        rest = behind;
    }
    name
}

/// Decodes base64 (RFC 4648, section 4), with or without `=` at its end; libarchive omits them.
pub fn base64(text: &[u8]) -> Option<Vec<u8>> {
    let digits = text
        .strip_suffix(b"==")
        .or_else(|| text.strip_suffix(b"="))
        .unwrap_or(text);
    if digits.len() % 4 == 1 {
        return None;
    }
    let mut bytes = Vec::with_capacity(digits.len() / 4 * 3 + 2);
    for group in digits.chunks(4) {
        let mut bits: u32 = 0;
        for place in 0..4 {
            bits = bits << 6
                | group
                    .get(place)
                    .map_or(Some(0), |digit| base64_digit(*digit))?;
        }
        let [_, three @ ..] = bits.to_be_bytes();
        bytes.extend_from_slice(three.get(..group.len() - 1)?);
    }
    Some(bytes)
}

fn base64_digit(digit: u8) -> Option<u32> {
    Some(u32::from(match digit {
        b'A'..=b'Z' => digit - b'A',
        b'a'..=b'z' => digit - b'a' + 26,
        b'0'..=b'9' => digit - b'0' + 52,
        b'+' => 62,
        b'/' => 63,
        _ => return None,
    }))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use proptest::prelude::*;

    use super::*;
    use crate::archive::pax::record;

    #[test]
    fn values_may_hold_newlines_nuls_and_equals_signs() {
        let mut data = Vec::new();
        let written: [(&[u8], &[u8]); 4] = [
            (b"path", b"a\nb"),
            (b"SCHILY.xattr.user.x", b"\0\n=\xff"),
            (b"comment", b""),
            (b"mtime", b"1.5"),
        ];
        for (key, value) in written {
            record(&mut data, key, value);
        }
        let read: Result<Vec<_>, _> = records(&data).collect();
        assert_eq!(read.unwrap(), written);
    }

    #[test]
    fn what_is_no_record_is_refused() {
        let cases: &[&[u8]] = &[
            b"7 a=b\n",
            b"5 a=b\n",
            b"6 a=bc",
            b"a=b\n",
            b" 5 a=b\n",
            b"-6 a=b\n",
            b"+6 a=b\n",
            b"6\ta=b\n",
            b"4 ab\n",
            b"4 =b\n",
            b"5 =b\n",
            b"1 a=b\n",
            b"2 a=b\n",
            b"0 ",
            b"6",
            b"7 a\0=b\n",
            b"6 a=b\n\0",
            b"99999999999999999999999 a=b\n",
        ];
        for data in cases {
            assert_eq!(
                records(data).last(),
                Some(Err(Malformed)),
                "{}",
                data.escape_ascii()
            );
        }
        assert_eq!(records(b"").last(), None);
    }

    #[test]
    fn names_of_attributes_are_unescaped_as_their_writers_escape() {
        for (key, schily, libarchive) in [
            ("user.a", "user.a", "user.a"),
            ("user.a%3Db%25", "user.a=b%", "user.a=b%"),
            ("user.%253D", "user.%3D", "user.%3D"),
            ("user.%41%3d%", "user.%41%3d%", "user.A=%"),
            ("user.%+4%4", "user.%+4%4", "user.%+4%4"),
        ] {
            assert_eq!(
                schily_xattr_name(key.as_bytes()),
                schily.as_bytes(),
                "{key}"
            );
            assert_eq!(
                libarchive_xattr_name(key.as_bytes()),
                libarchive.as_bytes(),
                "{key}"
            );
        }
    }

    #[test]
    fn base64_is_read_with_and_without_padding() {
        let cases: &[(&[u8], Option<&[u8]>)] = &[
            (b"", Some(b"")),
            (b"YQ", Some(b"a")),
            (b"YQ==", Some(b"a")),
            (b"YWI", Some(b"ab")),
            (b"YWI=", Some(b"ab")),
            (b"YWJj", Some(b"abc")),
            (b"YWJj/+8", Some(b"abc\xff\xef")),
            (b"Y", None),
            (b"YQ=a", None),
            (b"Y Q=", None),
            (b"YWJjY===", None),
        ];
        for (text, bytes) in cases {
            assert_eq!(base64(text).as_deref(), *bytes, "{}", text.escape_ascii());
        }
    }

    proptest! {
        #[test]
        fn what_was_written_is_read(pairs in prop::collection::vec(("[a-zA-Z.%]{1,200}", prop::collection::vec(any::<u8>(), 0..1200)), 0..6)) {
            let mut data = Vec::new();
            for (key, value) in &pairs {
                record(&mut data, key.as_bytes(), value);
            }
            let read: Vec<_> = records(&data).map(|record| record.unwrap()).collect();
            let written: Vec<_> = pairs.iter().map(|(key, value)| (key.as_bytes(), value.as_slice())).collect();
            prop_assert_eq!(read, written);
        }

        #[test]
        fn no_bytes_make_the_decoder_panic(bytes in prop::collection::vec(any::<u8>(), 0..200), text in "[0-9]{1,3} [a-z=\n%]{0,30}") {
            for data in [&bytes[..], text.as_bytes()] {
                let _ = records(data).count();
                let _ = (schily_xattr_name(data), libarchive_xattr_name(data), base64(data));
            }
        }
    }
}
