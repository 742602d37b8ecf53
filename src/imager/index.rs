//! The index: digests of archive files that were read before. Pure.
//!
//! One line per file, with decimal numbers: `DEVICE INODE SIZE MTIME-SECONDS MTIME-NANOSECONDS
//! CTIME-SECONDS CTIME-NANOSECONDS SHA256`. Every write to a file changes its ctime, which no
//! process can set back.

use std::fmt::Write as _;

use rustix::fs::Stat;

use crate::pack::hex;

/// Identifies a file and its content without reading it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Identity {
    numbers: [i128; 7],
}

/// A further change of a file within this many seconds may not show in its times: some file systems
/// have a resolution of two seconds.
const SETTLED: i128 = 2;

impl Identity {
    /// The identity of a file.
    pub fn of(stat: &Stat) -> Identity {
        let numbers = [
            i128::from(stat.st_dev),
            i128::from(stat.st_ino),
            i128::from(stat.st_size),
            i128::from(stat.st_mtime),
            i128::from(stat.st_mtime_nsec),
            i128::from(stat.st_ctime),
            i128::from(stat.st_ctime_nsec),
        ];
        Identity { numbers }
    }

    /// True if a change of the file at `now` (seconds since 1970) would show.
    pub fn is_settled(&self, now: i64) -> bool {
        let [.., changed, _] = self.numbers;
        changed + SETTLED <= i128::from(now)
    }

    fn is_same_file(&self, other: &Identity) -> bool {
        self.numbers.get(..2) == other.numbers.get(..2)
    }
}

/// The SHA-256 of a file in the index, in hexadecimal. Ignores malformed lines.
pub fn find(index: &[u8], file: &Identity) -> Option<String> {
    entries(index).find_map(|(known, digest)| (known == *file).then(|| digest.to_owned()))
}

/// The index with the digest of a file added or replaced. Other lines are kept if `keep` returns
/// true for their digests.
pub fn with(
    index: &[u8],
    file: &Identity,
    digest: &[u8; 32],
    keep: impl Fn(&str) -> bool,
) -> String {
    let mut text = String::new();
    let mut line = |identity: &Identity, digest: &str| {
        for number in identity.numbers {
            // Writing to a string cannot fail.
            let _ = write!(text, "{number} ");
        }
        text.push_str(digest);
        text.push('\n');
    };
    for (known, digest) in entries(index) {
        if !known.is_same_file(file) && keep(digest) {
            line(&known, digest);
        }
    }
    line(file, &hex(digest));
    text
}

fn entries(index: &[u8]) -> impl Iterator<Item = (Identity, &str)> {
    std::str::from_utf8(index)
        .unwrap_or_default()
        .lines()
        .filter_map(|line| {
            let mut fields = line.split(' ');
            let mut numbers = [0; 7];
            for number in &mut numbers {
                *number = fields.next()?.parse().ok()?;
            }
            let digest = fields.next().filter(|digest| is_digest(digest))?;
            fields
                .next()
                .is_none()
                .then_some((Identity { numbers }, digest))
        })
}

/// True if this is the name of a copy.
pub fn is_digest(text: &str) -> bool {
    text.len() == 64
        && text
            .bytes()
            .all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file(numbers: [i128; 7]) -> Identity {
        Identity { numbers }
    }

    #[test]
    fn a_file_is_known_until_any_of_its_numbers_changes() {
        let known = file([1, 2, 3, -4, 5, 6, 7]);
        let index = with(b"", &known, &[0xab; 32], |_| true);
        assert_eq!(index, format!("1 2 3 -4 5 6 7 {}\n", "ab".repeat(32)));
        assert_eq!(find(index.as_bytes(), &known), Some("ab".repeat(32)));
        for position in 0..7 {
            let mut numbers = known.numbers;
            numbers[position] += 1;
            assert_eq!(find(index.as_bytes(), &file(numbers)), None, "{position}");
        }
    }

    #[test]
    fn a_changed_file_replaces_its_line_and_lines_without_a_copy_go() {
        let [one, other, gone] = [[1; 7], [2; 7], [3; 7]].map(file);
        let index = with(b"", &one, &[1; 32], |_| true);
        let index = with(index.as_bytes(), &other, &[2; 32], |_| true);
        let index = with(index.as_bytes(), &gone, &[3; 32], |_| true);
        let changed = file([1, 1, 9, 9, 9, 9, 9]);
        let index = with(index.as_bytes(), &changed, &[4; 32], |digest| {
            digest != "03".repeat(32)
        });
        let known = [one, other, gone, changed].map(|file| find(index.as_bytes(), &file));
        assert_eq!(
            known,
            [None, Some("02".repeat(32)), None, Some("04".repeat(32))]
        );
        assert_eq!(index.lines().count(), 2);
    }

    #[test]
    fn lines_that_are_not_understood_count_for_nothing() {
        let digest = "0a".repeat(32);
        let good = format!("1 1 1 1 1 1 1 {digest}\n");
        for bad in [
            String::from("\0\0\0"),
            format!("1 1 1 1 1 1 {digest}"),
            format!("1 1 1 1 1 1 x {digest}"),
            format!("1 1 1 1 1 1 1 {digest} 1"),
            format!("1 1 1 1 1 1 1 ../{digest}"),
            format!("1 1 1 1 1 1 1 {}", "0A".repeat(32)),
            "9".repeat(100),
        ] {
            assert_eq!(find(bad.as_bytes(), &file([1; 7])), None, "{bad}");
            assert_eq!(
                find(format!("{bad}\n{good}").as_bytes(), &file([1; 7])),
                Some(digest.clone()),
                "{bad}"
            );
        }
        assert_eq!(find(b"\xff\n", &file([1; 7])), None);
    }

    #[test]
    fn a_file_that_was_just_written_is_not_settled() {
        let written = file([1, 1, 1, 1, 1, 1000, 0]);
        assert!(!written.is_settled(1001) && written.is_settled(1002) && !written.is_settled(900));
    }
}
