//! How far a piece of work is, for whoever shows it.

use std::sync::atomic::AtomicU64;

/// Two numbers that the work counts up.
#[derive(Debug, Default)]
pub struct Progress {
    /// Bytes to get through; 0 while that is not known.
    pub total: AtomicU64,
    /// Bytes done.
    pub done: AtomicU64,
}
