//! Exclude patterns, anchored at the root of the tree.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;

use crate::error::{Classify, ErrorKind};
use globset::{GlobBuilder, GlobSet, GlobSetBuilder};

/// A pattern that cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Not a well-formed glob.
    #[error("pattern {pattern:?}: {cause}")]
    Malformed {
        /// The pattern as typed.
        pattern: String,
        /// The cause.
        cause: String,
    },
    /// It is empty once the root is removed.
    #[error("pattern {pattern:?} names the root of the tree, which is always kept")]
    NamesRoot {
        /// The pattern as typed.
        pattern: String,
    },
}

/// A set of patterns: `*`, `?` and `[…]` stay within a path component, `**` crosses components.
#[derive(Clone, Debug, Default)]
pub struct Patterns(GlobSet);

impl Patterns {
    /// Compiles `patterns`, each with or without a leading `/` or `./`.
    pub fn new<'a>(patterns: impl IntoIterator<Item = &'a str>) -> Result<Patterns, Error> {
        let mut set = GlobSetBuilder::new();
        for pattern in patterns {
            let malformed = |error: globset::Error| Error::Malformed {
                pattern: pattern.to_owned(),
                cause: error.kind().to_string(),
            };
            let anchored = anchored(pattern);
            if anchored.is_empty() {
                return Err(Error::NamesRoot {
                    pattern: pattern.to_owned(),
                });
            }
            set.add(
                GlobBuilder::new(anchored)
                    .literal_separator(true)
                    .build()
                    .map_err(malformed)?,
            );
        }
        let set = set.build().map_err(|error| Error::Malformed {
            pattern: String::from("(all of them)"),
            cause: error.to_string(),
        })?;
        Ok(Patterns(set))
    }

    /// True if there is no pattern.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// True if a pattern matches `path`, which has no leading `./`. Does not match paths below a
    /// match, because a walk does not descend there.
    pub fn matches(&self, path: &[u8]) -> bool {
        !self.0.is_empty() && self.0.is_match(OsStr::from_bytes(path))
    }

    /// True if a pattern matches `path` or a directory above it.
    pub fn covers(&self, path: &[u8]) -> bool {
        let slashes = path
            .iter()
            .enumerate()
            .filter(|(_, byte)| **byte == b'/')
            .map(|(index, _)| index);
        !self.0.is_empty()
            && slashes
                .chain([path.len()])
                .any(|end| self.matches(&path[..end]))
    }
}

fn anchored(pattern: &str) -> &str {
    let mut rest = pattern;
    loop {
        match rest.strip_prefix('/').or_else(|| rest.strip_prefix("./")) {
            Some(shorter) => rest = shorter,
            None => return rest.trim_end_matches('/'),
        }
    }
}

impl Classify for Error {
    fn kind(&self) -> ErrorKind {
        ErrorKind::InvalidInput
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn excludes_are_anchored_at_the_tree_root() {
        let cases: &[(&str, &str, bool)] = &[
            ("/isar-apt", "isar-apt", true),
            ("./isar-apt", "isar-apt", true),
            ("isar-apt", "isar-apt", true),
            ("isar-apt/", "isar-apt", true),
            ("isar-apt", "etc/apt/preferences.d/isar-apt", false),
            ("isar-apt", "isar-apt2", false),
            ("isar-apt", "isar-apt/below", false),
            ("var/*/apt", "var/cache/apt", true),
            ("var/*/apt", "var/a/b/apt", false),
            ("var/**/apt", "var/a/b/apt", true),
            ("**/*.pyc", "usr/lib/x.pyc", true),
            ("**/*.pyc", "x.pyc", true),
            ("usr/lib/*.{a,la}", "usr/lib/libm.la", true),
            ("usr/[ab]?", "usr/bx", true),
            ("usr/[ab]?", "usr/cx", false),
        ];
        for (pattern, path, expected) in cases {
            assert_eq!(
                Patterns::new([*pattern]).unwrap().matches(path.as_bytes()),
                *expected,
                "{pattern} on {path}"
            );
        }
    }

    #[test]
    fn names_that_are_not_utf_8_can_be_matched() {
        assert!(Patterns::new(["usr/*"]).unwrap().matches(b"usr/\xff\xfe"));
        assert!(!Patterns::new(["usr/*"]).unwrap().matches(b"usr/\xff/\xfe"));
    }

    #[test]
    fn malformed_patterns_and_the_root_are_refused_by_name() {
        for pattern in ["a[", "a{b", "", "/", "./", ".//"] {
            let error = Patterns::new([pattern]).unwrap_err().to_string();
            assert!(error.contains(&format!("{pattern:?}")), "{error}");
        }
    }
}
