//! What `--version` prints.

/// `0.1.0 (commit 0123456789ab; gzip, xz)`. A build that is not of a git repository, or for
/// debugging, names no commit.
pub const VERSION: &str = env!("ISAR_TARBALL_VERSION");
