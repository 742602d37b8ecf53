//! A pattern of any bytes, for files that a user names: their names need not be UTF-8.

use std::borrow::Cow;

use super::exclude::{Error, Patterns};

/// A pattern, see [`Patterns`].
#[derive(Clone, Debug)]
pub struct Pattern {
    patterns: Patterns,
    /// Bytes exchanged in pattern and path, so that the pattern is ASCII and means the same.
    swaps: Vec<(u8, u8)>,
}

impl Pattern {
    /// Compiles `text`.
    pub fn new(text: &[u8]) -> Result<Pattern, Error> {
        if let Ok(text) = str::from_utf8(text) {
            return Ok(Pattern {
                patterns: Patterns::new([text])?,
                swaps: Vec::new(),
            });
        }
        let mut others: Vec<u8> = text
            .iter()
            .copied()
            .filter(|byte| !byte.is_ascii())
            .collect();
        others.sort_unstable();
        others.dedup();
        // Control characters have no meaning in patterns.
        let free = (1..b' ').filter(|byte| !text.contains(byte));
        let swaps: Vec<(u8, u8)> = others.iter().copied().zip(free).collect();
        let malformed = |cause: &str| Error::Malformed {
            pattern: text.escape_ascii().to_string(),
            cause: cause.to_owned(),
        };
        let ascii = swapped(text, &swaps);
        let Ok(ascii) = str::from_utf8(&ascii) else {
            return Err(malformed("too many different bytes that are not ASCII"));
        };
        match Patterns::new([ascii]) {
            Ok(patterns) => Ok(Pattern { patterns, swaps }),
            Err(Error::Malformed { cause, .. }) => Err(malformed(&cause)),
            Err(error) => Err(error),
        }
    }

    /// True if it matches `path`.
    pub fn matches(&self, path: &[u8]) -> bool {
        self.patterns.matches(&swapped(path, &self.swaps))
    }

    /// True if it matches `path` or a directory above it.
    pub fn covers(&self, path: &[u8]) -> bool {
        self.patterns.covers(&swapped(path, &self.swaps))
    }
}

fn swapped<'a>(text: &'a [u8], swaps: &[(u8, u8)]) -> Cow<'a, [u8]> {
    if swaps.is_empty() {
        return Cow::Borrowed(text);
    }
    let swap = |byte: &u8| match swaps
        .iter()
        .find(|(one, other)| [*one, *other].contains(byte))
    {
        Some((one, other)) => one ^ other ^ byte,
        None => *byte,
    };
    Cow::Owned(text.iter().map(swap).collect())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn patterns_match_bytes() {
        for (pattern, path, expected) in [
            (&b"*/\xff"[..], &b"a/\xff"[..], true),
            (b"*/\xff", b"a/\xfe", false),
            (b"*/\xff", b"a/\x01", false),
            (b"\x01\xff", b"\x01\xff", true),
            (b"\x01\xff", b"\xff\x01", false),
            (b"?\xff", b"\xfe\xff", true),
            (b"?\xff", b"/\xff", false),
            (b"**/\xc3\xbc\xff[a-c]", b"d/e/\xc3\xbc\xffb", true),
            (b"\xc3\xbc*", "\u{fc}b".as_bytes(), true),
        ] {
            let found = Pattern::new(pattern).unwrap().matches(path);
            assert_eq!(found, expected, "{}", pattern.escape_ascii());
        }
        let every: Vec<u8> = (0x80..=0xff).collect();
        for pattern in [&b"\xff["[..], &every] {
            let error = Pattern::new(pattern).unwrap_err().to_string();
            assert!(error.contains("\\\\xff"), "{error}");
        }
    }
}
