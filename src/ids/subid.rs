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
    /// The line is not `name:base:count`. newuidmap of shadow 4.13 reads three of more fields, and
    /// later versions refuse them.
    #[error("not of the form NAME:BASE:COUNT")]
    Fields,
    /// A blank stands around the name, or behind the line; `\r` of a file from Windows is one.
    #[error("{0} has a blank or a carriage return, so newuidmap ignores the line")]
    Blank(&'static str),
    /// Base or count is not a number below 2^32.
    #[error("{0} is not a number below 2^32")]
    Number(&'static str),
    /// The count is 0.
    #[error("the count is 0")]
    Empty,
    /// The range goes beyond 2^32.
    #[error("the range ends beyond the last id")]
    Overflow,
    /// newuidmap ignores lines from 1024 bytes on.
    #[error("longer than 1023 bytes")]
    TooLong,
    /// newuidmap reads a line up to a NUL byte and appends the next line to it.
    #[error("a NUL byte is in it or in the line before it")]
    Nul,
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
///
/// Accepts what every version of newuidmap from shadow 4.13 on accepts, and reports the other lines.
pub fn parse(text: &[u8], account: &Account) -> Parsed {
    let uid = account.uid.to_string();
    parse_lines_of(text, |name| {
        name == uid.as_bytes()
            || account
                .name
                .as_ref()
                .is_some_and(|own| name == own.as_bytes())
    })
}

/// [`parse`] for the lines whose name is an owner.
pub fn parse_lines_of(text: &[u8], mut is_owner: impl FnMut(&[u8]) -> bool) -> Parsed {
    let mut parsed = Parsed::default();
    for (number, line) in lines(text) {
        match line {
            Ok((name, range)) if is_owner(name) => parsed.ranges.push(range),
            Ok((name, _)) if name.trim_ascii() != name && is_owner(name.trim_ascii()) => {
                parsed.broken.push(BrokenLine {
                    number,
                    fault: Fault::Blank("the name"),
                });
            }
            Ok(_) => {}
            Err(fault) => parsed.broken.push(BrokenLine { number, fault }),
        }
    }
    parsed
}

/// The id after the last one that any line assigns; 0 without such a line.
pub fn end(text: &[u8]) -> u64 {
    lines(text)
        .filter_map(|(_, line)| line.ok())
        .map(|(_, range)| range.end())
        .max()
        .unwrap_or(0)
}

/// A line without comment: the name and the range.
type Line<'t> = Result<(&'t [u8], Range), Fault>;

/// The lines that are neither blank nor comments, with their numbers, from 1.
fn lines(text: &[u8]) -> impl Iterator<Item = (usize, Line<'_>)> {
    let mut is_nul_before = false;
    let lines = text.split(|byte| *byte == b'\n').enumerate();
    lines.filter_map(move |(index, line)| {
        let has_nul = line.contains(&0);
        let is_appended = std::mem::replace(&mut is_nul_before, has_nul);
        let is_blank = line.trim_ascii().is_empty() || line.starts_with(b"#");
        match (has_nul || is_appended, is_blank) {
            (_, true) => None,
            (true, false) => Some((index + 1, Err(Fault::Nul))),
            (false, false) => Some((index + 1, parse_line(line))),
        }
    })
}

fn parse_line(line: &[u8]) -> Line<'_> {
    const MAX_LENGTH: usize = 1023;
    if line.len() > MAX_LENGTH {
        return Err(Fault::TooLong);
    }
    let mut fields = line.split(|byte| *byte == b':');
    match (fields.next(), fields.next(), fields.next(), fields.next()) {
        (Some(name), Some(base), Some(count), None) if !name.is_empty() => {
            let base = field(base, "the base")?;
            Ok((name, range(base, field(count, "the count")?)?))
        }
        _ => Err(Fault::Fields),
    }
}

/// The service of the line `subid:` in `/etc/nsswitch.conf` that newuidmap asks instead of reading
/// the files; `None` if it reads them. Only the first service counts.
pub fn service(nsswitch: &[u8]) -> Option<String> {
    const LONGEST: usize = 50;
    let key = b"subid:";
    let words = nsswitch.split(|byte| *byte == b'\n').find_map(|line| {
        let (start, rest) = line.split_at_checked(key.len())?;
        let mut words = rest.split(|byte| matches!(byte, b' ' | b'\t'));
        let first = words.find(|word| !word.is_empty())?;
        start.eq_ignore_ascii_case(key).then_some(first)
    })?;
    let is_service = words != b"files" && words.len() <= LONGEST;
    is_service.then(|| String::from_utf8_lossy(words).into_owned())
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
    range(decimal(base)?, decimal(count)?).ok()
}

fn range(base: u32, count: u32) -> Result<Range, Fault> {
    match (Range { base, count }) {
        Range { count: 0, .. } => Err(Fault::Empty),
        range if range.end() > 1 << 32 => Err(Fault::Overflow),
        range => Ok(range),
    }
}

/// A number as newuidmap reads it with strtoul(3) and base 0: blanks and `+` before it, decimal,
/// octal after `0`, hexadecimal after `0x`.
fn field(text: &[u8], what: &'static str) -> Result<u32, Fault> {
    let number = || {
        let digits = text.trim_ascii_start();
        let digits = digits.strip_prefix(b"+").unwrap_or(digits);
        let (digits, radix) = match digits {
            [b'0', b'x' | b'X', digits @ ..] => (digits, 16),
            [b'0', digits @ ..] if !digits.is_empty() => (digits, 8),
            digits => (digits, 10),
        };
        let is_number = digits.first().is_some_and(u8::is_ascii_hexdigit);
        let digits = std::str::from_utf8(digits).ok().filter(|_| is_number)?;
        u32::from_str_radix(digits, radix).ok()
    };
    match number() {
        Some(number) => Ok(number),
        None if text.trim_ascii_end() != text => Err(Fault::Blank(what)),
        None => Err(Fault::Number(what)),
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
            // Numbers as strtoul reads them.
            ("anna:0310000:0x10\n", &[(0o310000, 16)]),
            ("anna: +200000:\t10\n", &[(200000, 10)]),
            ("anna:0X10:07\n#anna:1:1\n \n", &[(16, 7)]),
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
            ("anna:-5:65536", Fault::Number("the base")),
            ("anna:++5:65536", Fault::Number("the base")),
            ("anna:0x:65536", Fault::Number("the base")),
            ("anna:0x+5:65536", Fault::Number("the base")),
            ("anna:08:65536", Fault::Number("the base")),
            ("anna:100000:65536 ", Fault::Blank("the count")),
            ("anna:100000:65536\r", Fault::Blank("the count")),
            ("anna:100000 :65536", Fault::Blank("the base")),
            (" anna:100000:65536", Fault::Blank("the name")),
            ("anna :100000:65536", Fault::Blank("the name")),
            ("1000\t:100000:65536", Fault::Blank("the name")),
            ("anna:100000\0:65536", Fault::Nul),
            ("anna:100000:4294967296", Fault::Number("the count")),
            ("anna:100000:", Fault::Number("the count")),
            ("anna:100000:0", Fault::Empty),
            ("anna:4294967295:2", Fault::Overflow),
            ("anna:2:4294967295", Fault::Overflow),
            ("anna:\u{fffd}:1", Fault::Number("the base")),
        ];
        for (line, fault) in cases {
            let text = format!("# comment\n\n{line}\n\nanna:7:8\n");
            let parsed = parse(text.as_bytes(), &Account::anna());
            assert_eq!(parsed.broken, [BrokenLine { number: 3, fault }], "{line:?}");
            assert_eq!(parsed.ranges, [Range { base: 7, count: 8 }], "{line:?}");
        }
        // The line after a NUL byte is appended to what stands before that byte.
        let parsed = parse(b"anna:1:2\0\nanna:3:4\nanna:5:6\n", &Account::anna());
        assert_eq!(parsed.ranges, [Range { base: 5, count: 6 }]);
        let long = format!("anna:7:{}8", "0".repeat(1020));
        let parsed = parse(long.as_bytes(), &Account::anna());
        assert_eq!(
            parsed.broken.first().map(|line| line.fault),
            Some(Fault::TooLong)
        );
    }

    #[test]
    fn only_the_first_service_of_nsswitch_counts_and_files_are_none() {
        let cases = [
            ("", None),
            ("passwd: files sss\n", None),
            ("subid: files\n", None),
            ("subid: files sss\n", None),
            ("subid: sss files\n", Some("sss")),
            ("passwd: files\nSubID:\tsss\n", Some("sss")),
            ("subid:sss", Some("sss")),
            ("#subid: sss\n", None),
            (" subid: sss\n", None),
            ("subid:  \nsubid: sss\n", Some("sss")),
            ("subid: files\nsubid: sss\n", None),
        ];
        for (text, expected) in cases {
            assert_eq!(service(text.as_bytes()).as_deref(), expected, "{text:?}");
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
