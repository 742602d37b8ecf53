//! Exclude patterns, anchored at the root of the tree.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

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
///
/// It remembers which of them have matched, and what was left out. Clones share that.
#[derive(Clone, Debug, Default)]
pub struct Patterns {
    set: GlobSet,
    patterns: Arc<[Pattern]>,
    left_out: Arc<Mutex<LeftOut>>,
}

#[derive(Debug, Default)]
struct LeftOut {
    paths: Vec<Vec<u8>>,
    /// Memory for them since the last [`Patterns::newly_kept`], in bytes.
    new_bytes: usize,
}

#[derive(Debug)]
struct Pattern {
    /// As typed.
    text: String,
    has_matched: AtomicBool,
}

impl Patterns {
    /// Compiles `patterns`, each with or without a leading `/` or `./`.
    pub fn new<'a>(patterns: impl IntoIterator<Item = &'a str>) -> Result<Patterns, Error> {
        let mut set = GlobSetBuilder::new();
        let mut typed = Vec::new();
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
            typed.push(Pattern {
                text: pattern.to_owned(),
                has_matched: AtomicBool::new(false),
            });
        }
        let set = set.build().map_err(|error| Error::Malformed {
            pattern: String::from("(all of them)"),
            cause: error.to_string(),
        })?;
        Ok(Patterns {
            set,
            patterns: typed.into(),
            left_out: Arc::default(),
        })
    }

    /// True if there is no pattern.
    pub fn is_empty(&self) -> bool {
        self.set.is_empty()
    }

    /// True if a pattern matches `path`, which has no leading `./`. Does not match paths below a
    /// match, because a walk does not descend there.
    pub fn matches(&self, path: &[u8]) -> bool {
        let path = OsStr::from_bytes(path);
        if self.set.is_empty() || !self.set.is_match(path) {
            return false;
        }
        for index in self.set.matches(path) {
            if let Some(pattern) = self.patterns.get(index) {
                pattern.has_matched.store(true, Ordering::Relaxed);
            }
        }
        true
    }

    /// The patterns that have matched nothing so far, as typed.
    pub fn unmatched(&self) -> impl Iterator<Item = &str> {
        self.patterns
            .iter()
            .filter(|pattern| !pattern.has_matched.load(Ordering::Relaxed))
            .map(|pattern| pattern.text.as_str())
    }

    /// True if a pattern matches `path` or a directory above it.
    pub fn covers(&self, path: &[u8]) -> bool {
        self.covering(path).is_some()
    }

    /// `path`, or the topmost directory above it, that a pattern matches.
    pub fn covering<'p>(&self, path: &'p [u8]) -> Option<&'p [u8]> {
        if self.set.is_empty() {
            return None;
        }
        let slashes = path
            .iter()
            .enumerate()
            .filter(|(_, byte)| **byte == b'/')
            .map(|(index, _)| index);
        slashes
            .chain([path.len()])
            .filter_map(|end| path.get(..end))
            .find(|path| self.matches(path))
    }
}

impl Patterns {
    /// [`Patterns::covers`], for a path that is left out then, which is remembered.
    pub fn leaves_out(&self, path: &[u8]) -> bool {
        let Some(topmost) = self.covering(path) else {
            return false;
        };
        let mut left_out = self.left_out.lock().unwrap_or_else(PoisonError::into_inner);
        // What lies below a directory comes right after it.
        if left_out.paths.last().is_none_or(|last| last != topmost) {
            left_out.paths.push(topmost.to_vec());
            left_out.new_bytes += size_of::<Vec<u8>>() + topmost.len();
        }
        true
    }

    /// Memory that [`Patterns::leaves_out`] has used since the last call, in bytes.
    pub fn newly_kept(&self) -> usize {
        let mut left_out = self.left_out.lock().unwrap_or_else(PoisonError::into_inner);
        std::mem::take(&mut left_out.new_bytes)
    }

    /// The paths that [`Patterns::leaves_out`] has found, each without what lies below it.
    pub fn left_out(&self) -> Vec<Vec<u8>> {
        let left_out = self.left_out.lock().unwrap_or_else(PoisonError::into_inner);
        let mut left_out = left_out.paths.clone();
        left_out.sort();
        left_out.dedup();
        left_out
    }
}

/// What `pattern`, which matched nothing in `tree`, may have been meant to be; `None` where nothing
/// is likely.
pub fn suggestion(pattern: &str, tree: &Path) -> Option<String> {
    let below = Path::new(anchored(pattern));
    let tree = Path::new(anchored(tree.to_str().unwrap_or_default()));
    let tree_name = tree.file_name().map(Path::new);
    // Written from outside of the tree: with the path of the tree in front, or its name.
    let inner = [Some(tree), tree_name]
        .into_iter()
        .flatten()
        .filter(|front| !front.as_os_str().is_empty())
        .find_map(|front| below.strip_prefix(front).ok())
        .and_then(Path::to_str)
        .filter(|inner| !inner.is_empty());
    match inner {
        Some(inner) => Some(format!("/{inner}")),
        None if below.starts_with("**") => None,
        None => Some(format!("**/{}", anchored(pattern))),
    }
}

/// The patterns among `unmatched` that lie below none of the paths that were left out: for those
/// below one, what they match is left out already.
pub fn without_covered<'a>(
    unmatched: impl Iterator<Item = &'a str>,
    left_out: &[&[u8]],
) -> Vec<&'a str> {
    let is_covered = |pattern: &&str| {
        left_out.iter().any(|path| {
            anchored(pattern)
                .as_bytes()
                .strip_prefix(*path)
                .is_some_and(|rest| rest.starts_with(b"/"))
        })
    };
    unmatched.filter(|pattern| !is_covered(pattern)).collect()
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
    fn patterns_that_matched_nothing_are_known_with_what_may_be_meant() {
        let patterns = Patterns::new(["*.deb", "usr/*", "usr/doc/x", "/opt"]).unwrap();
        let clone = patterns.clone();
        assert!(clone.matches(b"usr/doc") && clone.covers(b"opt/a/b"));
        let unmatched: Vec<&str> = patterns.unmatched().collect();
        assert_eq!(unmatched, ["*.deb", "usr/doc/x"]);
        assert_eq!(
            without_covered(patterns.unmatched(), &[b"usr/doc", b"opt"]),
            ["*.deb"]
        );
        for path in [&b"opt"[..], b"opt/a", b"opt/b", b"etc", b"usr/doc/y"] {
            patterns.leaves_out(path);
        }
        assert_eq!(clone.left_out(), [b"opt".to_vec(), b"usr/doc".to_vec()]);
        for (pattern, tree, expected) in [
            ("*.deb", "rootfs", Some("**/*.deb")),
            ("/usr/x/", "rootfs", Some("**/usr/x")),
            ("rootfs/usr/share/doc", "rootfs", Some("/usr/share/doc")),
            ("./rootfs/usr", "./rootfs/", Some("/usr")),
            ("/b/rootfs/usr", "/b/rootfs", Some("/usr")),
            ("rootfs/usr", "/b/rootfs", Some("/usr")),
            ("rootfs2/usr", "rootfs", Some("**/rootfs2/usr")),
            ("rootfs", "rootfs", Some("**/rootfs")),
            ("**/*.pyc", "rootfs", None),
            ("a", ".", Some("**/a")),
        ] {
            let found = suggestion(pattern, Path::new(tree));
            assert_eq!(found.as_deref(), expected, "{pattern} in {tree}");
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
