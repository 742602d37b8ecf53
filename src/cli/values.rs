//! Values that several commands take or print.

use isar_tarball::local_time;

/// A number of bytes: `512M`, `2GiB`, `65536`. The units are powers of 1024.
pub fn size(text: &str) -> Result<u64, String> {
    let digits = text.bytes().take_while(u8::is_ascii_digit).count();
    let (number, unit) = text.split_at(digits);
    let shift = match unit.to_ascii_uppercase().as_str() {
        "" | "B" => 0,
        "K" | "KB" | "KIB" => 10,
        "M" | "MB" | "MIB" => 20,
        "G" | "GB" | "GIB" => 30,
        "T" | "TB" | "TIB" => 40,
        _ => return Err(format!("{unit:?} is no unit of size; take K, M, G or T")),
    };
    let number: u64 = number
        .parse()
        .map_err(|_| String::from("give a number and a unit, like 512M"))?;
    number
        .checked_mul(1 << shift)
        .ok_or_else(|| String::from("size too large"))
}

/// The value of `--devices` where device nodes are left out by default.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Devices {
    Skip,
    Keep,
}

/// The precision of modification times.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Precision {
    Ns,
    S,
}

/// Local time; seconds since 1970 where no calendar has the year.
pub fn local_time_text(seconds: i64) -> String {
    match local_time(seconds) {
        Some(at) => format!(
            "{:04}-{:02}-{:02} {:02}:{:02}:{:02}",
            at.year, at.month, at.day, at.hour, at.minute, at.second
        ),
        None => format!("{seconds:>16}"),
    }
}

/// The value of an option that sets a limit: `None` for the word `none`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limit(pub Option<u64>);

/// A limit in bytes.
pub fn bytes_limit(text: &str) -> Result<Limit, String> {
    limit(text, size)
}

/// A limit of a number.
pub fn count_limit(text: &str) -> Result<Limit, String> {
    limit(text, |text| {
        text.parse().map_err(|_| "expected a number or none".into())
    })
}

fn limit(text: &str, read: impl Fn(&str) -> Result<u64, String>) -> Result<Limit, String> {
    match text {
        "none" => Ok(Limit(None)),
        _ => read(text).map(|limit| Limit(Some(limit))),
    }
}

/// A number of bytes for people: `110.8 MB`, in powers of 1000.
pub fn human(bytes: u64) -> String {
    const UNITS: [&str; 5] = ["kB", "MB", "GB", "TB", "PB"];
    if bytes < 1000 {
        return format!("{bytes} B");
    }
    let mut value = bytes as f64;
    let mut unit = "B";
    for next in UNITS {
        if value < 999.95 {
            break;
        }
        value /= 1000.0;
        unit = next;
    }
    format!("{value:.1} {unit}")
}

/// Those of `counts` that are not zero, each with what it counts, in the plural, and a remark: `3
/// files (1 sparse), 1 hard link`.
pub fn list(counts: &[(u64, &str, String)]) -> String {
    let shown = counts.iter().filter(|(count, ..)| *count > 0);
    shown
        .map(|(count, what, more)| format!("{}{more}", counted(*count, &singular(what), what)))
        .collect::<Vec<_>>()
        .join(", ")
}

/// `file` for `files`, `directory` for `directories`. What is no plural stays.
fn singular(plural: &str) -> String {
    match plural.strip_suffix("ies") {
        Some(stem) => format!("{stem}y"),
        None => plural.strip_suffix('s').unwrap_or(plural).to_owned(),
    }
}

/// A number of things: `1 file`, `2 files`.
pub fn counted(count: u64, one: &str, many: &str) -> String {
    format!("{count} {}", if count == 1 { one } else { many })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_read_with_their_units() {
        let cases: &[(&str, Option<u64>)] = &[
            ("0", Some(0)),
            ("512", Some(512)),
            ("1k", Some(1024)),
            ("2MiB", Some(2 << 20)),
            ("3G", Some(3 << 30)),
            ("", None),
            ("G", None),
            ("1X", None),
            ("-1", None),
            ("99999999999999999999", None),
            ("99999999999T", None),
        ];
        for (text, expected) in cases {
            assert_eq!(size(text).ok(), *expected, "{text:?}");
        }
    }

    #[test]
    fn sizes_for_people_have_one_decimal() {
        for (bytes, text) in [
            (0, "0 B"),
            (999, "999 B"),
            (1000, "1.0 kB"),
            (999_949, "999.9 kB"),
            (999_960, "1.0 MB"),
            (110_800_000, "110.8 MB"),
        ] {
            assert_eq!(human(bytes), text);
        }
    }
}
