//! Parsers for `/etc/subuid` and `/etc/subgid` (see subuid(5)), and for the output of getsubids(1).

use super::Account;

/// Consecutive subordinate ids. The parsers below return only ranges with `count` ≥ 1 and `base +
/// count` ≤ 2^32.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Range {
    /// The first id.
    pub base: u32,
    /// Number of ids.
    pub count: u32,
}

impl Range {
    /// The id after the last one, at most 2^32.
    pub fn end(self) -> u64 {
        u64::from(self.base) + u64::from(self.count)
    }

    /// True if the range contains `id`.
    pub fn contains(self, id: u32) -> bool {
        id >= self.base && u64::from(id) < self.end()
    }

    /// True if the ranges overlap.
    pub fn overlaps(self, other: Range) -> bool {
        u64::from(self.base) < other.end() && u64::from(other.base) < self.end()
    }
}

/// A reason to skip a line.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Fault {
    /// The line is not `name:base:count`.
    #[error("not of the form NAME:BASE:COUNT")]
    Fields,
    /// Base or count is not a decimal number below 2^32. A leading zero is refused too, because
    /// newuidmap reads such a number as octal.
    #[error("{0} is not a decimal number below 2^32")]
    Number(&'static str),
    /// The count is 0.
    #[error("the count is 0")]
    Empty,
    /// The range goes beyond 2^32.
    #[error("the range ends beyond the last id")]
    Overflow,
}

/// A skipped line.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BrokenLine {
    /// Line number, from 1.
    pub number: usize,
    /// The reason.
    pub fault: Fault,
}

/// The ranges of one user in a file.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Parsed {
    /// The user's ranges in the file's order.
    pub ranges: Vec<Range>,
    /// Malformed lines, of this user or others.
    pub broken: Vec<BrokenLine>,
}

/// Parses `/etc/subuid` or `/etc/subgid`: the lines of the account by login name or by uid (in both
/// files: lines of subgid(5) do not begin with a gid). Ignores blank lines and lines that begin
/// with `#`.
pub fn parse(text: &[u8], account: &Account) -> Parsed {
    let uid = account.uid.to_string();
    let is_account = |name: &[u8]| {
        name == uid.as_bytes()
            || account
                .name
                .as_ref()
                .is_some_and(|own| name == own.as_bytes())
    };
    let mut parsed = Parsed::default();
    for (index, line) in text.split(|byte| *byte == b'\n').enumerate() {
        let line = line.trim_ascii();
        if line.is_empty() || line.starts_with(b"#") {
            continue;
        }
        match parse_line(line) {
            Ok((name, range)) if is_account(name) => parsed.ranges.push(range),
            Ok(_) => {}
            Err(fault) => parsed.broken.push(BrokenLine {
                number: index + 1,
                fault,
            }),
        }
    }
    parsed
}

/// The id after the last one that any line assigns; 0 without such a line.
pub fn end(text: &[u8]) -> u64 {
    let lines = text.split(|byte| *byte == b'\n').map(<[u8]>::trim_ascii);
    lines
        .filter_map(|line| parse_line(line).ok())
        .map(|(_, range)| range.end())
        .max()
        .unwrap_or(0)
}

fn parse_line(line: &[u8]) -> Result<(&[u8], Range), Fault> {
    let mut fields = line.split(|byte| *byte == b':');
    match (fields.next(), fields.next(), fields.next(), fields.next()) {
        (Some(name), Some(base), Some(count), None) if !name.is_empty() => {
            Ok((name, range(base, count)?))
        }
        _ => Err(Fault::Fields),
    }
}

/// Parses the output of `getsubids NAME`, one line per range: `0: name 100000 65536`. Skips other
/// lines.
pub fn parse_getsubids(text: &[u8]) -> Vec<Range> {
    text.split(|byte| *byte == b'\n')
        .filter_map(getsubids_line)
        .collect()
}

fn getsubids_line(line: &[u8]) -> Option<Range> {
    let mut fields = line
        .split(|byte| byte.is_ascii_whitespace())
        .filter(|field| !field.is_empty())
        .rev();
    let (count, base) = (fields.next()?, fields.next()?);
    // The number of the range and the name come first.
    fields.nth(1)?;
    range(base, count).ok()
}

fn range(base: &[u8], count: &[u8]) -> Result<Range, Fault> {
    let range = Range {
        base: decimal(base).ok_or(Fault::Number("the base"))?,
        count: decimal(count).ok_or(Fault::Number("the count"))?,
    };
    match range {
        Range { count: 0, .. } => Err(Fault::Empty),
        range if range.end() > 1 << 32 => Err(Fault::Overflow),
        range => Ok(range),
    }
}

/// A plain decimal number: no sign, no spaces, no leading zero.
pub(super) fn decimal(text: &[u8]) -> Option<u32> {
    let leading_zero = text.len() > 1 && text.starts_with(b"0");
    if leading_zero || !text.iter().all(u8::is_ascii_digit) {
        return None;
    }
    std::str::from_utf8(text).ok()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ranges(text: &str) -> Vec<(u32, u32)> {
        parse(text.as_bytes(), &Account::anna())
            .ranges
            .iter()
            .map(|range| (range.base, range.count))
            .collect()
    }

    #[test]
    fn all_lines_of_a_user_count_by_name_and_by_uid_in_file_order() {
        let cases: &[(&str, &[(u32, u32)])] = &[
            ("anna:100000:65536\n", &[(100000, 65536)]),
            ("anna:100000:65536", &[(100000, 65536)]),
            ("1000:100000:65536\n", &[(100000, 65536)]),
            (
                "anna:300000:10\nbert:1:1\n1000:100000:20\nanna:200000:30\n",
                &[(300000, 10), (100000, 20), (200000, 30)],
            ),
            ("annabel:1:2\nann:3:4\n10000:5:6\n", &[]),
            ("anna:4294967295:1\n", &[(4294967295, 1)]),
            ("anna:1:4294967295\n", &[(1, 4294967295)]),
            ("anna:0:10\n", &[(0, 10)]),
            ("", &[]),
        ];
        for (text, expected) in cases {
            assert_eq!(ranges(text), *expected, "{text:?}");
        }
    }

    #[test]
    fn a_user_without_a_name_has_the_lines_by_number() {
        let nameless = Account {
            name: None,
            uid: 1000,
            gid: 1000,
        };
        assert_eq!(
            parse(b"anna:1:2\n1000:3:4\n", &nameless).ranges,
            [Range { base: 3, count: 4 }]
        );
    }

    #[test]
    fn broken_lines_are_passed_over_and_listed_with_their_fault() {
        let cases = [
            ("anna:100000", Fault::Fields),
            ("anna:100000:65536:1", Fault::Fields),
            ("anna 100000 65536", Fault::Fields),
            (":100000:65536", Fault::Fields),
            ("anna:x:65536", Fault::Number("the base")),
            ("anna::65536", Fault::Number("the base")),
            ("anna:+5:65536", Fault::Number("the base")),
            ("anna:-5:65536", Fault::Number("the base")),
            ("anna:0x10:65536", Fault::Number("the base")),
            ("anna:0100000:65536", Fault::Number("the base")),
            ("anna:100000: 65536", Fault::Number("the count")),
            ("anna:100000:4294967296", Fault::Number("the count")),
            ("anna:100000:", Fault::Number("the count")),
            ("anna:100000:0", Fault::Empty),
            ("anna:4294967295:2", Fault::Overflow),
            ("anna:2:4294967295", Fault::Overflow),
            ("anna:\u{fffd}:1", Fault::Number("the base")),
        ];
        for (line, fault) in cases {
            let text = format!("# comment\n\n{line}\nanna:7:8\n");
            let parsed = parse(text.as_bytes(), &Account::anna());
            assert_eq!(parsed.broken, [BrokenLine { number: 3, fault }], "{line:?}");
            assert_eq!(parsed.ranges, [Range { base: 7, count: 8 }], "{line:?}");
        }
    }

    #[test]
    fn getsubids_output_is_read_and_noise_is_not() {
        let text = b"0: anna 100000 65536\n1: anna 300000 10\nError fetching ranges\nanna 1 2\n\n2: anna 5 0\n";
        assert_eq!(
            parse_getsubids(text),
            [
                Range {
                    base: 100000,
                    count: 65536
                },
                Range {
                    base: 300000,
                    count: 10
                }
            ]
        );
    }
}
