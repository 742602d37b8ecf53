//! Number formats of archives: octal and base-256 in header fields, decimal in PAX records and
//! sparse maps.
//!
//! Stricter than most readers: refuses numbers that two programs could read differently.

use crate::entry::Timestamp;

/// A reason to refuse a number.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// It does not have the required form.
    #[error("is not a number")]
    Malformed,
    /// It is negative where it must not be.
    #[error("is negative")]
    Negative,
    /// It is out of range.
    #[error("is too large")]
    TooLarge,
}

/// Decodes a field of a header block, at most 12 bytes: octal digits with leading blanks and a
/// trailing NUL or blanks (POSIX.1-2017), or GNU's base-256.
///
/// Base-256 is a big-endian two's complement number whose first byte is 0x80 or, below zero, 0xff
/// (GNU tar manual, "Extensions"). A field of NULs alone is 0, and so is one of blanks before a NUL:
/// Java programs write ids like that, and GNU tar and bsdtar read 0.
pub fn field(field: &[u8]) -> Result<i64, Error> {
    match field.split_first() {
        Some((0x80, digits)) => base_256(digits, 0),
        Some((0xff, digits)) => base_256(digits, -1),
        _ => octal(field),
    }
}

/// Decodes a [`field`] that must not be negative: 0..=`i64::MAX`.
pub fn unsigned_field(bytes: &[u8]) -> Result<u64, Error> {
    u64::try_from(field(bytes)?).map_err(|_| Error::Negative)
}

fn base_256(digits: &[u8], start: i128) -> Result<i64, Error> {
    let mut value = start;
    for digit in digits {
        value = value.checked_mul(256).ok_or(Error::TooLarge)? + i128::from(*digit);
    }
    i64::try_from(value).map_err(|_| Error::TooLarge)
}

/// Decodes a field that must be octal, as the checksum (POSIX.1-2017, `pax`).
pub fn octal(field: &[u8]) -> Result<i64, Error> {
    let end = field
        .iter()
        .position(|byte| *byte == 0)
        .unwrap_or(field.len());
    let (text, rest) = field.split_at(end);
    if text.is_empty() {
        // Some readers skip a leading NUL.
        return if rest.iter().all(|byte| *byte == 0) {
            Ok(0)
        } else {
            Err(Error::Malformed)
        };
    }
    let digits = text.trim_ascii();
    if digits.is_empty() {
        // GNU tar refuses blanks up to the end of the field.
        return if rest.is_empty() {
            Err(Error::Malformed)
        } else {
            Ok(0)
        };
    }
    let mut value: i64 = 0;
    for digit in digits {
        match digit {
            b'0'..=b'7' => {
                value = value.checked_mul(8).ok_or(Error::TooLarge)? + i64::from(digit - b'0')
            }
            b'-' if value == 0 => return Err(Error::Negative),
            _ => return Err(Error::Malformed),
        }
    }
    Ok(value)
}

/// Decodes a decimal number without sign: 0..=`i64::MAX`, the range of file offsets.
pub fn decimal(text: &[u8]) -> Result<u64, Error> {
    if text.first() == Some(&b'-') {
        return Err(Error::Negative);
    }
    if text.is_empty() {
        return Err(Error::Malformed);
    }
    let mut value: i64 = 0;
    for digit in text {
        if !digit.is_ascii_digit() {
            return Err(Error::Malformed);
        }
        value = value
            .checked_mul(10)
            .and_then(|tens| tens.checked_add(i64::from(digit - b'0')))
            .ok_or(Error::TooLarge)?;
    }
    Ok(value.unsigned_abs())
}

/// Decodes a user or group id. The largest 32-bit number is not an id: for `chown(2)` it means "no
/// change".
pub fn id(number: u64) -> Result<u32, Error> {
    u32::try_from(number)
        .ok()
        .filter(|id| *id != u32::MAX)
        .ok_or(Error::TooLarge)
}

/// Decodes a time of a PAX record: decimal seconds, with or without sign and fraction. Rounds down
/// to nanoseconds.
pub fn timestamp(text: &[u8]) -> Result<Timestamp, Error> {
    let (is_negative, text) = match text.strip_prefix(b"-") {
        Some(rest) => (true, rest),
        None => (false, text),
    };
    let (whole, fraction) = match text.iter().position(|byte| *byte == b'.') {
        Some(point) => (&text[..point], &text[point + 1..]),
        None => (text, &b"0"[..]),
    };
    if !fraction.iter().all(u8::is_ascii_digit) {
        return Err(Error::Malformed);
    }
    let seconds = i64::try_from(decimal(whole)?).map_err(|_| Error::TooLarge)?;
    let mut nanoseconds = 0;
    for place in 0..9 {
        nanoseconds =
            nanoseconds * 10 + u32::from(fraction.get(place).map_or(0, |digit| digit - b'0'));
    }
    if !is_negative {
        return Ok(Timestamp {
            seconds,
            nanoseconds,
        });
    }
    // Rounding down is away from zero here.
    if fraction.iter().skip(9).any(|digit| *digit != b'0') {
        nanoseconds += 1;
    }
    let (borrow, nanoseconds) = if nanoseconds == 0 {
        (0, 0)
    } else {
        (1, 1_000_000_000 - nanoseconds)
    };
    // The sum cannot be below `i64::MIN`: seconds is at most `i64::MAX`.
    Ok(Timestamp {
        seconds: -seconds - borrow,
        nanoseconds,
    })
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use proptest::prelude::*;

    use super::*;
    use crate::archive::pax;

    #[test]
    fn header_fields_are_octal_or_base_256() {
        let cases: &[(&[u8], Result<i64, Error>)] = &[
            (b"0000644\0", Ok(0o644)),
            (b"   644 \0", Ok(0o644)),
            (b"644\0junk", Ok(0o644)),
            (b"777777777777", Ok(0o777_777_777_777)),
            (b"\0\0\0\0\0\0\0\0", Ok(0)),
            (b"\x80\0\0\0\0\0\0\0\0\0\x01\0", Ok(256)),
            (b"\x80\0\0\0\x7f\xff\xff\xff\xff\xff\xff\xff", Ok(i64::MAX)),
            (b"\xff\xff\xff\xff\xff\xff\xff\xfe", Ok(-2)),
            (b"\x80\0\0\0\x80\0\0\0\0\0\0\0", Err(Error::TooLarge)),
            (b"\x80\x01\0\0\0\0\0\0\0\0\0\0", Err(Error::TooLarge)),
            (b"\x81\0\0\0\0\0\0\0\0\0\0\0", Err(Error::Malformed)),
            (b"\xff\0\0\0\0\0\0\0\0\0\0\0", Err(Error::TooLarge)),
            (b"        ", Err(Error::Malformed)),
            (b"       \0", Ok(0)),
            (b" \0     \0", Ok(0)),
            (b"\x00000644\0", Err(Error::Malformed)),
            (b"0000648\0", Err(Error::Malformed)),
            (b"64 4   \0", Err(Error::Malformed)),
            (b"-000001\0", Err(Error::Negative)),
            (b"+1\0", Err(Error::Malformed)),
        ];
        for (bytes, expected) in cases {
            assert_eq!(field(bytes), *expected, "{}", bytes.escape_ascii());
        }
        assert_eq!(octal(b"\x80\0\0\0\0\0\x01\0"), Err(Error::Malformed));
        assert_eq!(
            unsigned_field(b"\xff\xff\xff\xff\xff\xff\xff\xfe"),
            Err(Error::Negative)
        );
    }

    #[test]
    fn decimal_numbers_have_no_sign_and_fit_a_file_size() {
        let cases: &[(&[u8], Result<u64, Error>)] = &[
            (b"0", Ok(0)),
            (b"9223372036854775807", Ok(i64::MAX as u64)),
            (b"9223372036854775808", Err(Error::TooLarge)),
            (b"99999999999999999999999999", Err(Error::TooLarge)),
            (b"", Err(Error::Malformed)),
            (b"-1", Err(Error::Negative)),
            (b"+1", Err(Error::Malformed)),
            (b" 1", Err(Error::Malformed)),
            (b"0x1", Err(Error::Malformed)),
        ];
        for (text, expected) in cases {
            assert_eq!(decimal(text), *expected, "{}", text.escape_ascii());
        }
    }

    #[test]
    fn the_id_that_means_no_change_is_refused() {
        assert_eq!(id(4_294_967_294), Ok(4_294_967_294));
        assert_eq!(id(4_294_967_295), Err(Error::TooLarge));
        assert_eq!(id(1 << 32), Err(Error::TooLarge));
    }

    #[test]
    fn times_are_rounded_down_to_nanoseconds() {
        type Case<'a> = (&'a [u8], Option<(i64, u32)>);
        let cases: &[Case] = &[
            (b"0", Some((0, 0))),
            (b"1.5", Some((1, 500_000_000))),
            (b"1.", Some((1, 0))),
            (b"1.0000000019", Some((1, 1))),
            (b"-1", Some((-1, 0))),
            (b"-0.25", Some((-1, 750_000_000))),
            (b"-0.0000000001", Some((-1, 999_999_999))),
            (b"-0.9999999999", Some((-1, 0))),
            (b"-9223372036854775807.5", Some((i64::MIN, 500_000_000))),
            (b"9223372036854775808", None),
            (b"", None),
            (b"-", None),
            (b".5", None),
            (b"1.5.5", None),
            (b"1e3", None),
            (b"--1", None),
        ];
        for (text, expected) in cases {
            let time = timestamp(text)
                .ok()
                .map(|time| (time.seconds, time.nanoseconds));
            assert_eq!(time, *expected, "{}", text.escape_ascii());
        }
    }

    proptest! {
        #[test]
        fn a_time_that_was_written_is_read_the_same(seconds in -(1i64 << 60)..1 << 60, nanoseconds in 0u32..1_000_000_000) {
            let time = Timestamp { seconds, nanoseconds };
            prop_assert_eq!(timestamp(pax::time(time).as_bytes()).unwrap(), time);
        }

        #[test]
        fn no_bytes_make_a_number_panic(bytes in prop::collection::vec(any::<u8>(), 0..32)) {
            let _ = (field(&bytes), decimal(&bytes), timestamp(&bytes));
        }
    }
}
