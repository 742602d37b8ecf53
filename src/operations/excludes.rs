//! What is reported about exclude patterns and what they left out.

use std::path::Path;

use super::pack::DEFAULT_EXCLUDES;
use crate::error::Escaped;
use crate::observer::Notice;
use crate::tree::exclude::{self, Patterns};

/// A notice for each of the user's patterns that matched nothing in `tree`. `excluded` are the
/// paths that others matched: a pattern for something below one of them had nothing left to match.
pub(super) fn unmatched(patterns: &Patterns, excluded: &[&[u8]], tree: &Path) -> Vec<Notice> {
    // What is excluded by default need not be there.
    let given = patterns.unmatched();
    let given = given.filter(|pattern| !DEFAULT_EXCLUDES.contains(pattern));
    let notice = |pattern: &str| Notice::UnmatchedExclude {
        pattern: pattern.to_owned(),
        suggestion: exclude::suggestion(pattern, tree),
    };
    exclude::without_covered(given, excluded)
        .into_iter()
        .map(notice)
        .collect()
}

/// The notice of a path that was left out.
pub(super) fn left_out(path: &[u8], reason: &str) -> Notice {
    Notice::LeftOut {
        path: Escaped(path).to_string(),
        reason: reason.to_owned(),
    }
}
