//! Encoding PAX extended header records (POSIX.1-2017, `pax`, "pax Extended Header").

pub mod decode;

use crate::entry::Timestamp;

/// Appends the record `LENGTH key=value\n`. LENGTH is the length of the whole record, including its
/// own digits.
pub fn record(out: &mut Vec<u8>, key: &[u8], value: &[u8]) {
    // A blank, the equals sign, the newline.
    let rest = key.len() + value.len() + 3;
    let mut length = rest + digits(rest);
    if digits(length) > digits(rest) {
        length += 1;
    }
    out.extend_from_slice(length.to_string().as_bytes());
    out.push(b' ');
    out.extend_from_slice(key);
    out.push(b'=');
    out.extend_from_slice(value);
    out.push(b'\n');
}

fn digits(number: usize) -> usize {
    number.checked_ilog10().map_or(1, |log| log as usize + 1)
}

/// Encodes a time for PAX: decimal seconds, with as many decimal places as necessary.
pub fn time(time: Timestamp) -> String {
    // Nanoseconds count upwards from the second below. In a negative decimal number the fraction
    // counts away from zero.
    let (sign, seconds, nanoseconds) = match (time.seconds < 0, time.nanoseconds) {
        (false, fraction) => ("", time.seconds.unsigned_abs(), fraction),
        (true, 0) => ("-", time.seconds.unsigned_abs(), 0),
        (true, fraction) => (
            "-",
            time.seconds.unsigned_abs() - 1,
            1_000_000_000 - fraction,
        ),
    };
    let text = format!("{sign}{seconds}.{nanoseconds:09}");
    text.trim_end_matches('0').trim_end_matches('.').to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_length_of_a_record_counts_its_own_digits() {
        for value in [0, 1, 3, 4, 5, 90, 91, 92, 93, 988, 989, 990, 991, 9985] {
            let mut out = Vec::new();
            record(&mut out, b"path", &vec![b'x'; value]);
            let said: usize = out
                .split(|byte| *byte == b' ')
                .next()
                .and_then(|text| str::from_utf8(text).ok()?.parse().ok())
                .unwrap_or(0);
            assert_eq!(said, out.len(), "value of {value} bytes");
        }
    }

    #[test]
    fn times_before_1970_count_away_from_zero() {
        for (seconds, nanoseconds, text) in [
            (0, 0, "0"),
            (10, 0, "10"),
            (1, 500_000_000, "1.5"),
            (1, 1, "1.000000001"),
            (-1, 0, "-1"),
            (-2, 500_000_000, "-1.5"),
            (-1, 750_000_000, "-0.25"),
            (100, 10, "100.00000001"),
        ] {
            assert_eq!(
                time(Timestamp {
                    seconds,
                    nanoseconds
                }),
                text
            );
        }
    }
}
